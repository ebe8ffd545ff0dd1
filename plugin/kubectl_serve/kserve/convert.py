"""KServe's resources as those of kubectl-serve. Pure: an object in, an object and notes out."""

from collections.abc import Callable, Mapping

from kubectl_serve.kserve import inference_service
from kubectl_serve.kserve.accounting import Note
from kubectl_serve.kserve.converted import Converted
from kubectl_serve.kserve.names import KIND, VERSION
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext

_CONVERSIONS: Mapping[tuple[str, str], Callable[[JsonObject, ClusterContext], Converted]] = {
    (VERSION, KIND): inference_service.convert,
}
"""By version and kind."""


def convert(document: JsonObject, context: ClusterContext) -> Converted:
    """The object for one of KServe's. The input is not changed."""
    version, kind = str(document.get("apiVersion")), str(document.get("kind"))
    conversion = _CONVERSIONS.get((version, kind))
    if conversion is None:
        return Converted(None, (Note("kind", f"{kind} of {version} has no equivalent."),))
    return conversion(document, context)
