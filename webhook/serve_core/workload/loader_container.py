"""The init container that downloads models: rendered from a request, and recognised field by field.

Anyone can write a container's name, image and arguments. So a container is the loader only if rendering the request in
its arguments gives the same container. The platform can add only what this module lists, such as :data:`_ENVIRONMENT`.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from model_uri import Store
from model_uri.file_patterns import FilePatterns, parse_patterns
from serve_core.api import models, sizing
from serve_core.api.models import Placed
from serve_core.base.constants import (
    CREDENTIALS_MOUNT,
    CREDENTIALS_VOLUME,
    LOADER_CONTAINER,
    MODEL_VOLUME,
    MODEL_VOLUME_MOUNT,
    NO_TOKEN_VOLUME,
    SIGNATURE_KEY,
    SIGNATURE_KEY_MOUNT,
    SIGNATURE_KEY_VOLUME,
)
from serve_core.base.json import JsonObject, objects_in, value_at
from serve_core.context.cluster import LoaderConfig
from serve_core.workload import hub_access
from serve_core.workload.hub_access import SecretKey

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Passes the Pod Security Standard ``restricted``, with every image."""

TERMINATION = {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "FallbackToLogsOnError"}

_ACCOUNT_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""k8s.io/kubernetes, plugin/pkg/admission/serviceaccount: DefaultAPITokenMountPath."""

_KEY_FILE = f"{SIGNATURE_KEY_MOUNT}/{SIGNATURE_KEY}"


@dataclass(frozen=True)
class SharedClaim:
    """The claim on which pods share a model, and the user's folder there; empty for the whole claim."""

    claim: str
    folder: str


@dataclass(frozen=True)
class LoaderRequest:
    """Everything in which one loader container differs from another."""

    image: str
    models: tuple[Placed, ...]
    allow_networks: tuple[str, ...] = ()
    digest: str | None = None
    signature_key: str | None = None
    """The ConfigMap with the public key."""
    files: FilePatterns | None = None
    """The files to load; ``None`` is the loader's default."""
    credentials: str | None = None
    """The Secret."""
    masked: bool = False
    """Whether to hide the pod's token for the API server from the loader.

    A workload identity's token is another one: the platform's webhook mounts it in another place.
    """
    stores: tuple[Store, ...] = ()
    """The stores that the loader is bound to, whatever the Secret names. Empty: the credentials decide."""
    shared: SharedClaim | None = None
    """Where pods share the model; ``None`` for a volume of the pod's own."""
    hub_cache: bool = False
    """Whether to lay the models out as a cache of ``huggingface_hub`` too."""
    token: SecretKey | None = None
    """The token for the hub, which the kubelet sets as a variable."""
    uid: int | None = None
    size: int | None = field(default=None, compare=False)
    """Bytes of the models. Not compared: resource requests do not change what the container does."""

    @property
    def uris(self) -> tuple[str, ...]:
        return tuple(model.uri.text for model in self.models)

    @property
    def sources(self) -> list[str]:
        """The models as the loader's arguments name them."""
        several = len(self.models) > 1
        return [model.argument if several else model.uri.text for model in self.models]

    @property
    def folder(self) -> str:
        """The folder of the volume that has the loader's folders; empty for the volume itself.

        On a claim, each request has its own, so that models of different requests never replace each other. The loader
        lists the files with its own credentials before it uses what is there, so these do not count.
        """
        if self.shared is None:
            return ""
        models = [model.argument for model in self.models]
        stores = [store.argument for store in self.stores]
        files = None if self.files is None else str(self.files)
        text = json.dumps([models, self.digest, self.signature_key, files, stores, self.hub_cache])
        return "/".join(filter(None, [self.shared.folder, hashlib.sha256(text.encode()).hexdigest()[:32]]))

    def subpath(self, name: str) -> str:
        """The path of one of the loader's folders in the volume."""
        return "/".join(filter(None, [self.folder, name]))


def render(request: LoaderRequest) -> JsonObject:
    """The init container."""
    args = ["--volume", MODEL_VOLUME_MOUNT]
    mounts: list[JsonObject] = [{"name": MODEL_VOLUME, "mountPath": MODEL_VOLUME_MOUNT}]
    if request.masked:
        # The API server mounts the token only if nothing else is mounted there.
        name, part = (MODEL_VOLUME, {"subPath": "no-token"}) if request.shared is None else (NO_TOKEN_VOLUME, {})
        mounts.append({"name": name, "mountPath": _ACCOUNT_MOUNT, **part, "readOnly": True})
    if request.shared is not None:
        args += [_SHARED, request.folder]
    for network in request.allow_networks:
        args += ["--allow-network", network]
    for store in request.stores:
        args += ["--store", store.argument]
    if request.digest is not None:
        args += ["--digest", request.digest]
    if request.signature_key is not None:
        args += ["--signature-key", _KEY_FILE]
        mounts.append({"name": SIGNATURE_KEY_VOLUME, "mountPath": SIGNATURE_KEY_MOUNT, "readOnly": True})
    if request.credentials is not None:
        args += ["--credentials", CREDENTIALS_MOUNT]
        mounts.append({"name": CREDENTIALS_VOLUME, "mountPath": CREDENTIALS_MOUNT, "readOnly": True})
    if request.files is not None:
        args += ["--files", str(request.files)]
    if request.hub_cache:
        args.append(_HUB_CACHE)
    token = [] if request.token is None else [_token_variable(request.token)]
    requests = {"cpu": "100m", "memory": "128Mi"}
    if request.shared is None and (storage := sizing.storage(request.size)):
        requests["ephemeral-storage"] = storage
    return {
        "name": LOADER_CONTAINER,
        "image": request.image,
        "imagePullPolicy": "IfNotPresent",
        "args": [*args, "--", *request.sources],
        **({"env": token} if token else {}),
        # Memory does not grow with the model. The limit includes the page cache; the loader itself uses less than a
        # quarter of it.
        "resources": {"requests": requests, "limits": {"memory": "1Gi"}},
        "securityContext": RESTRICTED | ({} if request.uid is None else {"runAsUser": request.uid}),
        **TERMINATION,
        "volumeMounts": mounts,
    }


def volumes(request: LoaderRequest) -> list[JsonObject]:
    """The volumes that the container mounts."""
    found: list[JsonObject] = [{"name": MODEL_VOLUME, "emptyDir": {}}]
    if request.shared is not None:
        found = [{"name": MODEL_VOLUME, "persistentVolumeClaim": {"claimName": request.shared.claim}}]
        if request.masked:
            found.append({"name": NO_TOKEN_VOLUME, "emptyDir": {}})
    if request.credentials is not None:
        secret = {"secretName": request.credentials, "defaultMode": 0o644}
        found.append({"name": CREDENTIALS_VOLUME, "secret": secret})
    if request.signature_key is not None:
        key = {"name": request.signature_key, "defaultMode": 0o644}
        found.append({"name": SIGNATURE_KEY_VOLUME, "configMap": key})
    return found


def read(container: JsonObject, pod: JsonObject, loaders: Iterable[LoaderConfig]) -> LoaderRequest | str:
    """The request of a container of ``pod`` if it is one of the ``loaders``; otherwise the first field that differs
    from what :func:`render` and :func:`volumes` give."""
    request = requested(container, pod)
    if isinstance(request, str):
        return request
    known = [each for each in loaders if request.image in each.images]
    if not known:
        return "image"
    known = [each for each in known if request.allow_networks == each.allow_networks]
    verifying = request.signature_key is not None
    if request.image not in {each.chosen(verifying=verifying).image for each in known}:
        return "args"
    return _difference(container, pod, request) or request


_OPTIONS = (
    "--volume",
    "--allow-network",
    "--store",
    "--digest",
    "--signature-key",
    "--credentials",
    "--files",
    "--shared",
)

_REPEATED = ("--allow-network", "--store")

_SHARED = "--shared"

_HUB_CACHE = "--hub-cache"
"""The option without a value."""

_HUB_VARIABLE = "HF_TOKEN"
"""The variable with the token for the hub."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
"""A digest that the loader compares. It takes an empty text for no digest."""


def requested(container: JsonObject, pod: JsonObject) -> LoaderRequest | str:
    """The request in the arguments, or the field that has none; :func:`_difference` finds other arguments."""
    args = container.get("args")
    if not isinstance(args, list) or not all(isinstance(word, str) for word in args) or args.count("--") != 1:
        return "args"
    at = args.index("--")
    options, uris = [word for word in args[:at] if word != _HUB_CACHE], args[at + 1 :]
    values: dict[str, list[str]] = {option: [] for option in _OPTIONS}
    for option, value in zip(options[::2], options[1::2], strict=False):
        if option not in values:
            return "args"
        values[option].append(value)
    placed, problems = models.parse_all(" ".join(uris), "", rendered=True)
    if problems or not placed or any(len(values[option]) > 1 for option in _OPTIONS if option not in _REPEATED):
        return "args"
    if len(values["--store"]) > models.MAX_MODELS or not all(map(_DIGEST.fullmatch, values["--digest"])):
        return "args"
    try:
        stores = tuple(map(Store.of_argument, values["--store"]))
        files = next(map(parse_patterns, values["--files"]), None)
    except ValueError:
        return "args"
    uid = value_at(container, "securityContext", "runAsUser")
    mounts = objects_in(container.get("volumeMounts"))
    return LoaderRequest(
        image=str(container.get("image")),
        models=placed,
        allow_networks=tuple(values["--allow-network"]),
        stores=stores,
        digest=next(iter(values["--digest"]), None),
        signature_key=_volume_of(pod, SIGNATURE_KEY_VOLUME, "configMap", "name") if values["--signature-key"] else None,
        credentials=_volume_of(pod, CREDENTIALS_VOLUME, "secret", "secretName") if values["--credentials"] else None,
        masked=any(
            mount.get("name") in (MODEL_VOLUME, NO_TOKEN_VOLUME) and mount.get("mountPath") == _ACCOUNT_MOUNT
            for mount in mounts
        ),
        files=files,
        shared=_shared_in(values[_SHARED], pod),
        hub_cache=_HUB_CACHE in args[:at],
        token=_token_in(container),
        uid=uid if isinstance(uid, int) and not isinstance(uid, bool) and uid > 0 else None,
    )


def _shared_in(values: list[str], pod: JsonObject) -> SharedClaim | None:
    """The claim that pods share. The last segment of the path follows from the request."""
    if not values:
        return None
    return SharedClaim(
        _volume_of(pod, MODEL_VOLUME, "persistentVolumeClaim", "claimName"), values[0].rpartition("/")[0]
    )


def _token_variable(token: SecretKey) -> JsonObject:
    return {"name": _HUB_VARIABLE, "valueFrom": {"secretKeyRef": token.render()}}


def _token_in(container: JsonObject) -> SecretKey | None:
    variables = objects_in(container.get("env"))
    return next((hub_access.secret_key(each) for each in variables if each.get("name") == _HUB_VARIABLE), None)


def _volume_of(pod: JsonObject, volume: str, kind: str, name: str) -> str:
    """The name of the object in a volume; empty if there is none, which :func:`volumes` never gives."""
    found = [each for each in objects_in(pod.get("volumes")) if each.get("name") == volume]
    return str(value_at(found[0], kind, name) or "") if found else ""


_FREE = frozenset({"resources", "imagePullPolicy"})
"""Fields that users, LimitRanges and the admission plugin AlwaysPullImages can set: they do not change what it does."""

_REGION = r"(af|ap|ca|eu|il|me|mx|sa|us)-[a-z]+-[0-9]{1,2}"
"""AWS's public regions. A bucket's name is the same bucket in all of them, but not in China's and the governments'."""
_GUID = r"[0-9a-fA-F-]{36}"
_ENVIRONMENT = {
    # EKS's webhooks for IAM roles and for Pod Identity: the identity, and nothing about the store.
    "AWS_ROLE_ARN": re.compile(r"arn:aws[a-z-]{0,16}:iam::[0-9]{12}:role/[!-~]{1,512}", re.ASCII),
    "AWS_WEB_IDENTITY_TOKEN_FILE": re.compile(r"/var/run/secrets/eks\.amazonaws\.com/serviceaccount/token", re.ASCII),
    "AWS_DEFAULT_REGION": re.compile(_REGION, re.ASCII),
    "AWS_REGION": re.compile(_REGION, re.ASCII),
    "AWS_STS_REGIONAL_ENDPOINTS": re.compile("regional|legacy", re.ASCII),
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": re.compile(
        r"http://(169\.254\.170\.23|\[fd00:ec2::23\])/v1/credentials", re.ASCII
    ),
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": re.compile(
        r"/var/run/secrets/pods\.eks\.amazonaws\.com/serviceaccount/eks-pod-identity-token", re.ASCII
    ),
    # Azure's webhook for workload identity. The authority gets the token, so only Microsoft's own are accepted.
    "AZURE_CLIENT_ID": re.compile(_GUID, re.ASCII),
    "AZURE_TENANT_ID": re.compile(_GUID, re.ASCII),
    "AZURE_FEDERATED_TOKEN_FILE": re.compile(r"/var/run/secrets/azure/tokens/azure-identity-token", re.ASCII),
    "AZURE_AUTHORITY_HOST": re.compile(
        r"https://login\.(microsoftonline\.com|microsoftonline\.us|chinacloudapi\.cn)/?", re.ASCII
    ),
}
"""Variables that the platform's webhooks add to every container of a pod, each with the values that change neither the
store of a model, nor whom the loader trusts, nor what it checks."""

_TOKENS = (
    _ACCOUNT_MOUNT,
    "/var/run/secrets/eks.amazonaws.com/serviceaccount",
    "/var/run/secrets/pods.eks.amazonaws.com/serviceaccount",
    "/var/run/secrets/azure/tokens",
)
"""Where the API server and those webhooks mount the pod's tokens, from projected volumes."""


def _difference(container: JsonObject, pod: JsonObject, request: LoaderRequest) -> str:
    """The first field that differs from the rendered one; empty if none does."""
    wanted = render(replace(request, size=None))
    return container_difference(container, pod, wanted) or _volume_difference(pod, volumes(request))


def container_difference(container: JsonObject, pod: JsonObject, wanted: JsonObject) -> str:
    """The first field of a container that differs from a rendered one; empty if none does. What the platform adds, and
    resources, can differ."""
    wanted = dict(wanted)
    found = {key: value for key, value in container.items() if value not in (None, [], {}, "")}
    user = value_at(container, "securityContext", "runAsGroup")
    if isinstance(user, int) and not isinstance(user, bool) and user > 0:
        wanted["securityContext"] = {**wanted["securityContext"], "runAsGroup": user}
    for key in sorted(found.keys() | wanted.keys()):
        if key == "volumeMounts" or key in _FREE:
            continue
        if key == "env":
            if strange := next(_strange_variables(container["env"], wanted.get("env", [])), None):
                return strange
        elif found.get(key) != wanted.get(key):
            return key
    if _claims_devices(container.get("resources")):
        return "resources"
    return _mount_difference(container, pod, wanted["volumeMounts"])


def _strange_variables(env: Any, wanted: list[JsonObject]) -> Iterator[str]:
    if not isinstance(env, list):
        yield "env"
        return
    left = list(wanted)
    for variable in env:
        if variable in left:
            left.remove(variable)
        elif not is_of_the_platform(variable):
            yield f"env[{value_at(variable, 'name')}]"


def is_of_the_platform(variable: Any) -> bool:
    """Whether the platform adds such a variable for a workload identity, with a value that leads to no other store."""
    value = value_at(variable, "value")
    plain = isinstance(variable, dict) and variable.keys() == {"name", "value"} and isinstance(value, str)
    pattern = _ENVIRONMENT.get(str(variable["name"])) if plain else None
    return pattern is not None and pattern.fullmatch(value) is not None


def _claims_devices(resources: Any) -> bool:
    """Whether it claims devices: a claim of dynamic resource allocation can add mounts and variables."""
    return resources is not None and not (isinstance(resources, dict) and resources.keys() <= {"limits", "requests"})


def _mount_difference(container: JsonObject, pod: JsonObject, wanted: list[JsonObject]) -> str:
    projected = {str(each.get("name")) for each in objects_in(pod.get("volumes")) if "projected" in each}
    mounts = container.get("volumeMounts")
    if not isinstance(mounts, list):
        return "volumeMounts"
    left = list(wanted)
    for mount in mounts:
        if mount in left:
            left.remove(mount)
            continue
        path, volume = value_at(mount, "mountPath"), value_at(mount, "name")
        if not (
            path in _TOKENS
            and str(volume) in projected
            and mount == {"name": volume, "mountPath": path, "readOnly": True}
            and path not in {each["mountPath"] for each in wanted}
        ):
            return f"volumeMounts[{path}]"
    return "volumeMounts" if left else ""


def _volume_difference(pod: JsonObject, wanted: list[JsonObject]) -> str:
    """The first volume that differs. An ``emptyDir`` can be in memory and have a limit; a Secret or a ConfigMap must be
    mounted whole."""
    present = objects_in(pod.get("volumes"))
    for volume in wanted:
        (kind,) = volume.keys() - {"name"}
        there = [each for each in present if each.get("name") == volume["name"]]
        held = value_at(there[0], kind) if len(there) == 1 and there[0].keys() == volume.keys() else None
        free = {"medium", "sizeLimit"} if kind == "emptyDir" else {"defaultMode"}
        if not isinstance(held, dict) or _without(held, free) != _without(volume[kind], free):
            return f"volumes[{volume['name']}]"
    return ""


def _without(value: JsonObject, keys: set[str]) -> JsonObject:
    return {key: inner for key, inner in value.items() if key not in keys}
