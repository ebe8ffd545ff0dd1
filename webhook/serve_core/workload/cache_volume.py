"""The volume by which a pod mounts a model from the node's cache: rendered from a loader's request, and read.

The driver gets the loader's own arguments, and the kubelet passes it the pod's Secret. What the driver decides, such as
private networks, is not in the volume.
"""

import json
from dataclasses import replace

from model_uri import ModelURI
from model_uri.schemes import scheme_of
from serve_core.base.constants import LOADER_CONTAINER, MODEL_VOLUME, NODE_CACHE
from serve_core.base.json import JsonObject, objects_in, value_at
from serve_core.workload import loader_container
from serve_core.workload.loader_container import LoaderRequest

_ARGUMENTS = "arguments"
_MAX_LENGTH = 256 << 10
"""Characters of the arguments; the driver reads no more."""


_NAMES = ("dnsPolicy", "dnsConfig", "hostAliases", "hostNetwork")
"""Fields of a pod by which names resolve to other addresses."""


def why_not(request: LoaderRequest, pod: JsonObject) -> str:
    """Why the driver cannot load what a request asks for; empty if it can. ``pod``: as its user wrote it.

    The driver has neither the pod's identity nor its name resolution, and no ConfigMap of the pod.
    """
    if request.signature_key is not None:
        return "the loader verifies the signature"
    if request.token is not None:
        return "the token for the hub is a variable, and not in the Secret that kubectl-serve.dev/credentials names"
    if pod.get("serviceAccountName") not in (None, "", "default"):
        return "the pod has a service account, whose identity only the loader has"
    if field := next((each for each in _NAMES if pod.get(each) not in (None, "", "ClusterFirst", False)), ""):
        return f"the pod resolves names in its own way ({field})"
    if host := next((model.uri.host for model in request.models if _is_short(model.uri)), ""):
        return f"the name {host} depends on the namespace: write it in full"
    written = (*objects_in(pod.get("initContainers")), *objects_in(pod.get("volumes")))
    if name := next((each["name"] for each in written if each.get("name") in (LOADER_CONTAINER, MODEL_VOLUME)), ""):
        return f"the pod has settings for {name}"
    return ""


def _is_short(uri: ModelURI) -> bool:
    """Whether the host of a URI is a name without a domain."""
    return scheme_of(uri.scheme).rule is None and uri.scheme != "hf" and "." not in uri.host and ":" not in uri.host


def render(request: LoaderRequest) -> JsonObject:
    """The volume for a request that the driver can load: it has the loader's folders."""
    secret = {} if request.credentials is None else {"nodePublishSecretRef": {"name": request.credentials}}
    attributes = {_ARGUMENTS: json.dumps(_arguments(request))}
    return {
        "name": MODEL_VOLUME,
        "csi": {"driver": NODE_CACHE, "readOnly": True, "volumeAttributes": attributes, **secret},
    }


def _arguments(request: LoaderRequest) -> list[str]:
    stores = [word for store in request.stores for word in ("--store", store.argument)]
    digest = [] if request.digest is None else ["--digest", request.digest]
    files = [] if request.files is None else ["--files", str(request.files)]
    hub = ["--hub-cache"] if request.hub_cache else []
    return [*stores, *digest, *files, *hub, "--", *request.sources]


def is_ours(volume: JsonObject) -> bool:
    """Whether a volume is one of the driver's."""
    return bool(value_at(volume, "csi", "driver") == NODE_CACHE)


def read(volume: JsonObject) -> LoaderRequest | str:
    """The request of a volume of the driver, or the field that differs from what :func:`render` gives."""
    text = value_at(volume, "csi", "volumeAttributes", _ARGUMENTS)
    if not isinstance(text, str) or len(text) > _MAX_LENGTH:
        return "csi.volumeAttributes"
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return "csi.volumeAttributes"
    request = loader_container.requested({"args": arguments, "image": ""}, {})
    if isinstance(request, str):
        return "csi.volumeAttributes"
    secret = value_at(volume, "csi", "nodePublishSecretRef", "name")
    request = replace(request, credentials=secret if isinstance(secret, str) else None)
    wanted = render(request)["csi"]
    found = {key: value for key, value in volume["csi"].items() if value not in (None, {}, "")}
    different = (key for key in sorted(found.keys() | wanted.keys()) if found.get(key) != wanted.get(key))
    return next((f"csi.{key}" for key in different), "") or request
