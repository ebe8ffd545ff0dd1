"""The manifests of this command: ``install`` applies them, and ``render`` uses them without a cluster."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from kubectl_serve import __version__
from kubectl_serve.errors import ServeError
from kubectl_serve.io import documents
from serve_core.api import runtimes, servers
from serve_core.api.runtimes import Runtime
from serve_core.api.servers import KnownServer
from serve_core.base.constants import NAMESPACE
from serve_core.base.json import JsonObject, value_at
from serve_core.context.cluster import ClusterContext, LoaderConfig

PREFIX = "dev.local/kubectl-serve"
"""Registry of the images in the manifests; ``install --registry`` replaces it."""
RUNTIMES_CONFIG_MAP = "kubectl-serve-runtimes"
SERVERS_CONFIG_MAP = "kubectl-serve-servers"
"""The known servers."""
SETTINGS_CONFIG_MAP = "kubectl-serve"

_T = TypeVar("_T")
_OURS = re.compile(rf"{re.escape(PREFIX)}/(server|model-loader|model-cache):[A-Za-z0-9_.]+")
"""The version in a tag: a suffix after a dash distinguishes images of one version."""


@cache
def folder() -> Path:
    """The manifests: beside this module in a wheel, at the top of the checkout in an editable install."""
    here = Path(__file__).resolve().parents[1]
    for candidate in (here / "manifests", here.parent.parent / "manifests"):
        if (candidate / "runtimes").is_dir():
            return candidate
    raise ServeError("the manifests are missing from this installation.", "Install kubectl-serve again.")


def known_runtimes() -> tuple[Runtime, ...]:
    """The runtimes of this command's manifests."""
    return tuple(
        runtimes.checked(document.object["metadata"]["name"], document.object["spec"])
        for file in runtime_files()
        for document in documents.parse(file.read_text(encoding="utf-8"), str(file))
    )


def known_servers() -> tuple[KnownServer, ...]:
    """The model servers that this command recognizes."""
    return tuple(
        servers.parse(document.object)
        for file in server_files()
        for document in documents.parse(file.read_text(encoding="utf-8"), str(file))
    )


def runtime_files() -> list[Path]:
    return _yaml_files("runtimes")


def server_files() -> list[Path]:
    return _yaml_files("servers")


def default_context() -> ClusterContext:
    """The context of a cluster in which ``install`` of this version ran, without further changes."""
    image = f"{PREFIX}/model-loader:{__version__}"
    loader = LoaderConfig(image, signing_image=f"{image}-signing")
    return ClusterContext(loader=loader, runtimes=known_runtimes(), servers=known_servers())


def with_runtimes(context: ClusterContext, objects: Iterable[JsonObject]) -> ClusterContext:
    """``context`` with the ModelRuntimes among ``objects``, as if they were applied. Raises ServeError."""
    own = [runtime_of(each) for each in objects if is_runtime(each)]
    return replace(context, runtimes=runtimes.extended(context.runtimes, own)) if own else context


def with_knative(context: ClusterContext, objects: Iterable[JsonObject]) -> ClusterContext:
    """``context`` with the configuration of Knative among ``objects``: its ConfigMaps ``config-features``,
    ``config-defaults`` and ``config-autoscaler``."""
    given: dict[str, Mapping[str, str]] = {}
    for each in objects:
        data = each.get("data")
        if is_of_knative(each) and isinstance(data, dict):
            name = str(value_at(each, "metadata", "name"))
            given.setdefault(name, {str(key): str(value) for key, value in data.items()})
    return replace(
        context,
        features=given.get("config-features", context.features),
        knative_defaults=given.get("config-defaults", context.knative_defaults),
        knative_autoscaler=given.get("config-autoscaler", context.knative_autoscaler),
    )


def is_of_knative(document: JsonObject) -> bool:
    """Whether a document is a ConfigMap of Knative that rendering depends on."""
    named = value_at(document, "metadata", "name") in ("config-features", "config-defaults", "config-autoscaler")
    return named and document.get("kind") == "ConfigMap"


def is_runtime(document: JsonObject) -> bool:
    return (document.get("apiVersion"), document.get("kind")) == (runtimes.API_VERSION, runtimes.KIND)


def runtime_of(document: JsonObject) -> Runtime:
    """The runtime of a ModelRuntime. Raises ServeError."""
    return _parsed(runtimes.parse, "ModelRuntime", document)


def known_server_of(document: JsonObject) -> KnownServer:
    """The model server of a KnownServer. Raises ServeError."""
    return _parsed(servers.parse, servers.KIND, document)


def _parsed(parse: Callable[[JsonObject], _T], kind: str, document: JsonObject) -> _T:
    try:
        return parse(document)
    except ValueError as error:
        name = value_at(document, "metadata", "name")
        raise ServeError(f"{kind} {name} cannot be read: {error}.", "Correct it.") from error


def base_files() -> list[Path]:
    return _yaml_files("base")


def _yaml_files(name: str) -> list[Path]:
    """Their names give the order of application."""
    return sorted(file for file in (folder() / name).glob("*.yaml") if file.name != "kustomization.yaml")


def all_objects(registry: str | None = None, tag: str | None = None) -> list[JsonObject]:
    """All objects of an installation in the order of application, with images of ``registry`` and ``tag``."""
    objects = [
        document.object
        for file in base_files()
        for document in documents.parse(file.read_text(encoding="utf-8"), str(file))
    ]
    for name, files in ((RUNTIMES_CONFIG_MAP, runtime_files()), (SERVERS_CONFIG_MAP, server_files())):
        if not any(_is_config_map(each, name) for each in objects):
            objects.insert(_first_workload(objects), _config_map(name, files))
    return [relocate(each, registry or PREFIX, tag) for each in objects]


@dataclass(frozen=True)
class CacheSettings:
    """The settings of the node cache."""

    size: str = "100Gi"
    """The limit of its content on each node."""
    path: str = "/var/lib/kubectl-serve-cache"
    """Its folder on each node."""
    keep_free: str = "20%"
    """What stays free of each node's disk: bytes, or a share."""
    kubelet: str = "/var/lib/kubelet"
    """The kubelet's root folder."""


def cache_objects(settings: CacheSettings, registry: str | None = None, tag: str | None = None) -> list[JsonObject]:
    """The objects of the node cache, in the order of application."""
    defaults = CacheSettings()
    replaced = {
        defaults.path: settings.path,
        defaults.kubelet: settings.kubelet,
        f"--size={defaults.size}": f"--size={settings.size}",
        f"--keep-free={defaults.keep_free}": f"--keep-free={settings.keep_free}",
    }
    objects = [
        document.object
        for file in _yaml_files("cache")
        for document in documents.parse(file.read_text(encoding="utf-8"), str(file))
    ]
    return [relocate(_replaced(each, replaced), registry or PREFIX, tag) for each in objects]


def _replaced(value: Any, texts: Mapping[str, str]) -> Any:
    """``value`` with other paths, and what is below them, and other arguments."""
    if isinstance(value, dict):
        return {key: _replaced(each, texts) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, texts) for each in value]
    if isinstance(value, str):
        for old, new in texts.items():
            option, equals, rest = value.rpartition("=")
            if old in (value, rest) or rest.startswith(f"{old}/"):
                return new if value == old else f"{option}{equals}{new}{rest.removeprefix(old)}"
    return value


def istio_objects() -> list[JsonObject]:
    """The objects of an installation in Istio's namespace, if Istio is installed."""
    return [
        document.object
        for file in _yaml_files("istio")
        for document in documents.parse(file.read_text(encoding="utf-8"), str(file))
    ]


def _is_config_map(manifest: JsonObject, name: str) -> bool:
    return bool(manifest.get("kind") == "ConfigMap" and manifest["metadata"]["name"] == name)


def _first_workload(objects: list[JsonObject]) -> int:
    return next((index for index, each in enumerate(objects) if each["kind"] == "Deployment"), len(objects))


def _config_map(name: str, files: list[Path]) -> JsonObject:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/name": "kubectl-serve"},
        },
        "data": {file.name: file.read_text(encoding="utf-8") for file in files},
    }


def relocate(value: Any, registry: str, tag: str | None) -> Any:
    """``value`` with kubectl-serve's images from ``registry``; the server's and the loader's with ``tag``, if given."""
    if isinstance(value, dict):
        return {key: relocate(each, registry, tag) for key, each in value.items()}
    if isinstance(value, list):
        return [relocate(each, registry, tag) for each in value]
    if isinstance(value, str):
        if tag is not None:
            value = _OURS.sub(lambda found: f"{PREFIX}/{found[1]}:{tag}", value)
        return value.replace(f"{PREFIX}/", f"{registry.rstrip('/')}/")
    return value
