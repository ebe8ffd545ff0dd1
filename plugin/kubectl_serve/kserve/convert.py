"""KServe's resources as those of kubectl-serve, all objects of some files together. Pure.

ServingRuntimes and LLMInferenceServiceConfigs say something about the other objects, so they are read first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from kubectl_serve.kserve.base.accounting import Note
from kubectl_serve.kserve.base.converted import Converted
from kubectl_serve.kserve.base.converted_runtime import ConvertedRuntime
from kubectl_serve.kserve.base.names import FORMER_GROUP, GROUP, KIND, VERSION, VERSIONS
from kubectl_serve.kserve.llm import inference_service as llm_inference_service
from kubectl_serve.kserve.runtimes import serving_runtime
from kubectl_serve.kserve.runtimes.serving_runtime import RUNTIME_KINDS, RUNTIME_VERSION
from kubectl_serve.kserve.services import inference_service
from serve_core.admission.decide import judge
from serve_core.api import runtimes
from serve_core.api.annotations import MODEL, RUNTIME
from serve_core.base.json import JsonObject, object_at, objects_in, value_at
from serve_core.context.cluster import ClusterContext
from serve_core.workload.model_server import extended_resources

_TEMPLATE = ("template.openshift.io/v1", "v1"), "Template"
_UNUSED = "becomes no object: no LLMInferenceService in these files refers to it."
_TOO_OLD = (
    f"v1alpha2 is not read; write the object as {VERSION}. Its spec.predictor has what spec.default.predictor has, "
    "and canaryTrafficPercent."
)
_UNPROCESSED = "the Template has parameters or labels for its objects; process it: `oc process -f FILE -o yaml`."


def objects_of(documents: Sequence[JsonObject]) -> Iterator[JsonObject]:
    """KServe's objects among ``documents``, and those in OpenShift's Templates. A Template that changes its objects,
    with parameters or labels, is given as it is."""
    for document in documents:
        if str(document.get("apiVersion")).startswith((f"{GROUP}/", f"{FORMER_GROUP}/")):
            yield document
        elif _is_template(document):
            inner = list(objects_of(objects_in(document.get("objects"))))
            is_processed = not (document.get("parameters") or document.get("labels"))
            yield from inner if is_processed or not inner else [document]


def convert_all(
    documents: Sequence[JsonObject], context: ClusterContext, others: Sequence[JsonObject] = ()
) -> list[Converted]:
    """What each object becomes. ``others``: objects of Kubernetes itself among the same files, whose Secrets and
    ServiceAccounts the documents name. The input is not changed."""
    given = iter(
        serving_runtime.convert_all([each for each in documents if _is_runtime(each)], context, _devices(documents))
    )
    own = [next(given) if _is_runtime(each) else None for each in documents]
    found = [each for each in own if each is not None]
    extended = runtimes.extended(context.runtimes, [each.runtime for each in found if each.runtime is not None])
    context = replace(context, runtimes=extended)
    configs = {_name(each): each for each in documents if _kind(each) == llm_inference_service.CONFIG_KIND}
    referred = {str(one.get("name")) for each in documents for one in objects_in(value_at(each, "spec", "baseRefs"))}
    made: set[str] = set()
    results = []
    for each, runtime in zip(documents, own, strict=True):
        if runtime is not None:
            results.append(_runtime(runtime, made, context))
        elif configs.get(_name(each)) is each:
            notes = () if _name(each) in referred else (Note("kind", _UNUSED),)
            results.append(Converted(None, notes, is_for_others=True))
        else:
            results.append(_convert(each, found, configs, context, others))
    return results


def _devices(documents: Sequence[JsonObject]) -> dict[str, set[str]]:
    """The extended resources that InferenceServices request, by the name of their runtime."""
    found: dict[str, set[str]] = {}
    for each in documents:
        model = object_at(each, "spec", "predictor", "model")
        if isinstance(model.get("runtime"), str):
            found.setdefault(model["runtime"], set()).update(extended_resources(model))
    return found


def _convert(
    document: JsonObject,
    found: Sequence[ConvertedRuntime],
    configs: Mapping[str, JsonObject],
    context: ClusterContext,
    others: Sequence[JsonObject],
) -> Converted:
    version, kind = str(document.get("apiVersion")), _kind(document)
    if version in VERSIONS and kind == KIND:
        return inference_service.convert(document, context, found, others)
    if version in llm_inference_service.VERSIONS and kind == llm_inference_service.KIND:
        return llm_inference_service.convert(document, configs, context, others)
    if _is_template(document):
        return Converted(None, (Note("objects", _UNPROCESSED),))
    if kind == KIND and version.endswith("/v1alpha2"):
        return Converted(None, (Note("apiVersion", _TOO_OLD),))
    return Converted(None, (Note("kind", f"{kind} of {version} has no equivalent."),))


def _runtime(converted: ConvertedRuntime, made: set[str], context: ClusterContext) -> Converted:
    """The ModelRuntime, once, and why the webhook would refuse a Deployment with it."""
    if converted.runtime is None or converted.document is None:
        return Converted(None, converted.notes)
    name = converted.runtime.name
    if name in made:
        return Converted(None, converted.notes, is_for_others=True)
    made.add(name)
    asked = {MODEL: "s3://bucket/model", RUNTIME: name}
    tried = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "model", "annotations": asked}}
    problems = tuple(replace(each, path="spec.containers") for each in judge(tried, context).problems)
    return Converted(None, converted.notes, problems, (converted.document,))


def _name(document: JsonObject) -> str:
    return str(value_at(document, "metadata", "name"))


def _kind(document: JsonObject) -> str:
    return str(document.get("kind"))


def _is_runtime(document: JsonObject) -> bool:
    return document.get("apiVersion") == RUNTIME_VERSION and _kind(document) in RUNTIME_KINDS


def _is_template(document: JsonObject) -> bool:
    versions, kind = _TEMPLATE
    return document.get("apiVersion") in versions and _kind(document) == kind
