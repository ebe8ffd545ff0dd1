"""What a user's pod template must leave to kubectl-serve: names of the loader and its volumes, and the model's path.

Lists of a pod are merged by name: a user's claim called ``model`` would become the loader's volume, and the loader
empties its volume. So such names are refused before anything is filled in. Exceptions are the documented settings of
users: the kind and size of the model's volume, and the loader's environment and resources.
"""

from collections.abc import Iterator
from typing import Any

from serve_core.api.serving_spec import ServingSpec
from serve_core.base.constants import (
    CREDENTIALS_VOLUME,
    LOADER_CONTAINER,
    MODEL_VOLUME,
    NO_TOKEN_VOLUME,
    SIGNATURE_KEY_VOLUME,
)
from serve_core.base.json import JsonObject, list_of, value_at
from serve_core.base.reasons import Diagnostic, capped, diagnostic
from serve_core.base.workload import POD, index_of
from serve_core.syntax import mount_path
from serve_core.workload.model_server import PRIVATE_KINDS, server_container

_OF_THE_LOADER = {"name", "env", "envFrom", "resources", "imagePullPolicy"}
"""Fields of the init container that a user may write."""
_WRITTEN_BY_KUBELET = frozenset({"configMap", "secret", "downwardAPI", "projected"})
"""Kinds of volumes in which the kubelet makes a folder for each mount below them, although they are read-only
(k8s.io/kubernetes, pkg/volume/util: MakeNestedMountpoints)."""
_DEFAULTS = {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
"""What the API server adds to every container before it calls the webhook."""


def check(pod: JsonObject, spec: ServingSpec) -> tuple[Diagnostic, ...]:
    """Refuse reserved names and paths in ``pod``, the user's pod spec before admission fills it in."""
    return tuple(capped([*_volumes(pod, spec), *_loaders(pod), *_mounts(pod, spec.mount)]))


def warnings(pod: JsonObject, spec: ServingSpec) -> tuple[Diagnostic, ...]:
    """Warn of a read-only volume of the user around the model's path: nothing can be made there for the mount."""
    volumes = {str(value_at(each, "name")): each for each in list_of(pod.get("volumes"))}
    found = []
    for at, mount, path in _server_mounts(pod):
        volume = volumes.get(str(mount.get("name")))
        around = path != spec.mount and mount_path.is_within(spec.mount, path)
        if around and _lacks_place(mount, volume, spec):
            words = {"volume": mount.get("name"), "path": path, "mount": spec.mount}
            found.append(diagnostic("ModelInReadOnly", at, **words))
    return tuple(capped(found))


def _lacks_place(mount: JsonObject, volume: Any, spec: ServingSpec) -> bool:
    """Whether the container cannot start unless the ``volume`` already has the model's path."""
    kinds = volume.keys() if isinstance(volume, dict) else set()
    if not _WRITTEN_BY_KUBELET.isdisjoint(kinds):
        return spec.mounts_file
    read_only = (mount.get("readOnly"), value_at(volume, "persistentVolumeClaim", "readOnly"))
    return True in read_only or "image" in kinds


def _volumes(pod: JsonObject, spec: ServingSpec) -> Iterator[Diagnostic]:
    for index, volume in enumerate(list_of(pod.get("volumes"))):
        name = value_at(volume, "name")
        private = isinstance(volume, dict) and set(volume) in PRIVATE_KINDS
        private = private and spec.model.scheme != "pvc" and spec.cache.claim is None
        if name in (CREDENTIALS_VOLUME, SIGNATURE_KEY_VOLUME, NO_TOKEN_VOLUME) or (
            name == MODEL_VOLUME and not private
        ):
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
    for at, each, path in _server_mounts(pod):
        if mount_path.is_within(path, mount):
            yield diagnostic("ModelPathTaken", at, volume=each.get("name"), path=path, mount=mount)


def _server_mounts(pod: JsonObject) -> Iterator[tuple[str, JsonObject, str]]:
    """The mounts of the user's other volumes in the model server: where each is written, the mount, and its path."""
    containers = list_of(pod.get("containers"))
    server = server_container([each for each in containers if isinstance(each, dict)])
    if server is None:
        return
    at = f"{POD}.containers[{index_of(server, containers)}]"
    for index, each in enumerate(list_of(server.get("volumeMounts"))):
        path = value_at(each, "mountPath")
        if isinstance(path, str) and each.get("name") != MODEL_VOLUME:
            yield f"{at}.volumeMounts[{index}].mountPath", each, mount_path.normalized(path)
