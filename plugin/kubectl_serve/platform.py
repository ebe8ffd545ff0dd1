"""The platform facts of a live cluster, read from where the server reads them."""

from kubectl_serve import documents
from kubectl_serve.api import CONFIG_MAPS, MODEL_RUNTIMES, Api
from kubectl_serve.errors import NotFoundError, ServeError
from kubectl_serve.manifests import RUNTIMES_CONFIG_MAP, SETTINGS_CONFIG_MAP
from serve_core import runtimes
from serve_core.facts import PRIVATE_NETWORKS, LoaderFacts, PlatformFacts
from serve_core.json import JsonObject
from serve_core.names import NAMESPACE
from serve_core.runtimes import Runtime

_KNATIVE = "knative-serving"
_FEATURES = "config-features"


async def facts(cluster: Api) -> tuple[PlatformFacts, frozenset[str]]:
    """What the server knows of runtimes, loader and feature flags, and which runtimes are the cluster's own.

    How Istio injects is left out: it is decided at admission. Raises ServeError where kubectl-serve is not installed.
    """
    settings = _document((await _config_map(cluster, NAMESPACE, SETTINGS_CONFIG_MAP)).get("settings.yaml", ""))
    catalogue = await _config_map(cluster, NAMESPACE, RUNTIMES_CONFIG_MAP)
    features = await _config_map(cluster, _KNATIVE, _FEATURES)
    own = await _own(cluster)
    loader = settings.get("loader") or {}
    return (
        PlatformFacts(
            loader=LoaderFacts(
                str(loader.get("image")), tuple(map(str, loader.get("allowNetworks") or PRIVATE_NETWORKS))
            ),
            runtimes=runtimes.extended(
                [_runtime(_document(text)) for name, text in sorted(catalogue.items()) if name.endswith(".yaml")], own
            ),
            features=features,
        ),
        frozenset(runtime.name for runtime in own),
    )


async def _config_map(cluster: Api, namespace: str, name: str) -> dict[str, str]:
    try:
        found = await cluster.get(CONFIG_MAPS, namespace, name)
    except NotFoundError as error:
        raise ServeError(
            f"there is no ConfigMap {name} in namespace {namespace}.", "Is it installed? `kubectl serve doctor` tells."
        ) from error
    return found.get("data") or {}


async def _own(cluster: Api) -> list[Runtime]:
    try:
        found, _ = await cluster.list(MODEL_RUNTIMES, None)
    except NotFoundError:  # an installation from before there were any
        return []
    return [_runtime(each) for each in found]


def _runtime(document: JsonObject) -> Runtime:
    try:
        return runtimes.parse(document)
    except ValueError as error:
        name = (document.get("metadata") or {}).get("name")
        raise ServeError(f"ModelRuntime {name} cannot be read: {error}.", "Correct it.") from error


def _document(text: str) -> JsonObject:
    return next((document.object for document in documents.parse(text, "the cluster's configuration")), {})
