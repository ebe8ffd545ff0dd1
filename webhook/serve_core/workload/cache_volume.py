"""The volume by which a pod mounts a model from the node's cache: rendered from a loader's request, and read.

The driver gets the loader's own arguments, and the kubelet passes it the pod's Secret. What the driver decides, such as
private networks, is not in the volume.
"""

import json
from dataclasses import replace

from serve_core.base.constants import MODEL_VOLUME
from serve_core.base.json import JsonObject, value_at
from serve_core.workload import loader_container
from serve_core.workload.loader_container import LoaderRequest

DRIVER = "cache.kubectl-serve.dev"
_ARGUMENTS = "arguments"
_MAX_LENGTH = 256 << 10
"""Characters of the arguments; the driver reads no more."""


def why_not(request: LoaderRequest) -> str:
    """Why the driver cannot load what a request asks for; empty if it can."""
    if request.signature_key is not None:
        return "the loader verifies the signature"
    if request.token is not None:
        return "the token for the hub is a variable of the container, and not a Secret of the annotation credentials"
    return ""


def render(request: LoaderRequest) -> JsonObject:
    """The volume for a request that the driver can load: it has the loader's folders."""
    secret = {} if request.credentials is None else {"nodePublishSecretRef": {"name": request.credentials}}
    attributes = {_ARGUMENTS: json.dumps(_arguments(request))}
    return {"name": MODEL_VOLUME, "csi": {"driver": DRIVER, "readOnly": True, "volumeAttributes": attributes, **secret}}


def _arguments(request: LoaderRequest) -> list[str]:
    stores = [word for store in request.stores for word in ("--store", store.argument)]
    digest = [] if request.digest is None else ["--digest", request.digest]
    files = [] if request.files is None else ["--files", str(request.files)]
    hub = ["--hub-cache"] if request.hub_cache else []
    return [*stores, *digest, *files, *hub, "--", *request.sources]


def is_ours(volume: JsonObject) -> bool:
    """Whether a volume is one of the driver's."""
    return value_at(volume, "csi", "driver") == DRIVER


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
