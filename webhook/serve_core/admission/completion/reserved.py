"""What a user's pod template must leave to kubectl-serve: names of the loader and its volumes, and the model's path.

Lists of a pod are merged by name: a user's claim called ``model`` would become the loader's volume, and the loader
empties its volume. So such names are refused before anything is filled in. Exceptions are the documented settings of
users: the kind and size of the model's volume, and the loader's environment and resources.
"""

from collections.abc import Iterator

from serve_core.api.serving_spec import ServingSpec
from serve_core.base.constants import CREDENTIALS_VOLUME, LOADER_CONTAINER, MODEL_VOLUME, SIGNATURE_KEY_VOLUME
from serve_core.base.json import JsonObject, list_of, value_at
from serve_core.base.reasons import Diagnostic, capped, diagnostic
from serve_core.base.workload import POD, index_of
from serve_core.syntax import mount_path
from serve_core.workload.model_server import PRIVATE_KINDS, server_container

_OF_THE_LOADER = {"name", "env", "envFrom", "resources", "imagePullPolicy"}
"""Fields of the init container that a user may write."""
_DEFAULTS = {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
"""What the API server adds to every container before it calls the webhook."""


def check(pod: JsonObject, spec: ServingSpec, mount: str) -> tuple[Diagnostic, ...]:
    """Refuse reserved names and paths in ``pod``, the user's pod spec before admission fills it in.

    ``mount``: the model's path.
    """
    return tuple(capped([*_volumes(pod, spec), *_loaders(pod), *_mounts(pod, mount)]))


def _volumes(pod: JsonObject, spec: ServingSpec) -> Iterator[Diagnostic]:
    for index, volume in enumerate(list_of(pod.get("volumes"))):
        name = value_at(volume, "name")
        private = isinstance(volume, dict) and set(volume) in PRIVATE_KINDS and spec.model.scheme != "pvc"
        if name in (CREDENTIALS_VOLUME, SIGNATURE_KEY_VOLUME) or (name == MODEL_VOLUME and not private):
            yield diagnostic("NameReserved", f"{POD}.volumes[{index}].name", what="volume", name=name)


def _loaders(pod: JsonObject) -> Iterator[Diagnostic]:
    for kind, what in (("initContainers", "init container"), ("containers", "container")):
        for index, container in enumerate(list_of(pod.get(kind))):
            if value_at(container, "name") != LOADER_CONTAINER or not isinstance(container, dict):
                continue
            written = {key for key, value in container.items() if _DEFAULTS.get(key) != value}
            if kind == "containers" or not written <= _OF_THE_LOADER:
                yield diagnostic("NameReserved", f"{POD}.{kind}[{index}].name", what=what, name=LOADER_CONTAINER)


def _mounts(pod: JsonObject, mount: str) -> Iterator[Diagnostic]:
    containers = list_of(pod.get("containers"))
    server = server_container([each for each in containers if isinstance(each, dict)])
    if server is None:
        return
    at = f"{POD}.containers[{index_of(server, containers)}]"
    for index, each in enumerate(list_of(server.get("volumeMounts"))):
        path, volume = value_at(each, "mountPath"), value_at(each, "name")
        if isinstance(path, str) and volume != MODEL_VOLUME and _covers(mount_path.normalized(path), mount):
            yield diagnostic("ModelPathTaken", f"{at}.volumeMounts[{index}].mountPath", volume=volume, mount=mount)


def _covers(path: str, mount: str) -> bool:
    """Whether what is mounted at ``path`` hides a part of the model, or all of it."""
    return path == mount or path.startswith(mount + "/")
