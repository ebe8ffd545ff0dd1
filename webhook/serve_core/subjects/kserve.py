"""KServe's objects."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from model_uri import encode_path
from serve_core.api import annotations
from serve_core.api.annotations import DEPLOYMENT, KNATIVE
from serve_core.base.json import JsonObject, object_at, value_at
from serve_core.context import istio
from serve_core.context.cluster import ClusterContext
from serve_core.knative.limits import VISIBILITY_LABEL
from serve_core.policy.subject import ContainerUse, Origin, PodUse, ReplicaBounds, RuntimeUse, Use
from serve_core.subjects.exposure import node_ports, past_sidecar, visibility_of
from serve_core.subjects.pod_spec import container_parts, pod_spec_parts
from serve_core.subjects.replicas import UNLIMITED, knative_maximum, surge
from serve_core.subjects.servers import formats_of
from serve_core.subjects.shapes import Parts, count_of, elements, strings
from serve_core.workload import model_server

_KSERVE_VISIBILITY = "networking.kserve.io/visibility"
# KServe, pkg/apis/serving/v1beta1: fields of a predictor besides those of a pod, and of an explainer.
_FRAMEWORKS = (
    "model", "sklearn", "xgboost", "lightgbm", "tensorflow", "pytorch", "triton", "onnx", "huggingface", "pmml",
    "paddle",
)  # fmt: skip
_EXPLAINER = "art"
_WITHOUT_EFFECT_ON_THE_SERVER = frozenset({
    "imagePullPolicy", "livenessProbe", "modelFormat", "name", "protocolVersion", "readinessProbe", "resources",
    "runtime", "securityContext", "startupProbe", "storage", "storageUri", "terminationMessagePolicy",
})  # fmt: skip
"""Fields beside a runtime's name with which the container still serves as the runtime does."""
_RAW = ("rawdeployment", "standard")
"""Deployment modes without Knative."""
_COLLECTED = (
    "origins", "images", "containers", "pods", "secrets", "service_accounts", "formats", "protocols",
)  # fmt: skip
"""What the components of an InferenceService have together."""
_SIZES = (("size", 0), ("pipelineParallelSize", 1))
"""Fields with the number of workers, and how many of these are the head."""


def inference_service_parts(document: JsonObject, context: ClusterContext) -> Parts:
    """An InferenceService: its predictor, transformer and explainer together."""
    metadata = document["metadata"]
    raw = strings(metadata.get("annotations")).get("serving.kserve.io/deploymentMode", "").lower() in _RAW
    made: Parts = dict.fromkeys(_COLLECTED, ())
    scales: list[ReplicaBounds] = []
    templates: list[tuple[JsonObject, str]] = []
    for name in ("predictor", "transformer", "explainer"):
        component, path = object_at(document, "spec", name), f"spec.{name}"
        if not component:
            continue
        template = _template(metadata, component, component)
        templates.append((template, path))
        if isinstance(workers := component.get("workerSpec"), dict):
            templates.append((_template(metadata, component, workers), f"{path}.workerSpec"))
        scales.append(_scale(component, template["metadata"]["annotations"], raw=raw))
        _join(made, _component_parts(component, path, context))
    made["formats"] = tuple(dict.fromkeys([*made["formats"], *formats_of({}, made["origins"])]))
    made["protocol"] = next(reversed(made.pop("protocols")), None)
    made["runtime"] = _runtime_of(object_at(document, "spec"))
    made["mode"] = Use(DEPLOYMENT if raw else KNATIVE, "metadata.annotations[serving.kserve.io/deploymentMode]")
    made["auth"] = Use("none", "kind")
    # Without Knative, KServe reads its own label (0.15, .../inferenceservice/reconcilers/ingress).
    made["visibility"] = visibility_of(metadata, _KSERVE_VISIBILITY if raw else VISIBILITY_LABEL)
    made["mesh"] = (templates, "metadata")
    if scales:
        made["scale"] = _largest(scales)
    return made


def _component_parts(component: JsonObject, path: str, context: ClusterContext) -> Parts:
    """The pods of a component, the servers in its frameworks' fields, and its workers."""
    parts = pod_spec_parts(component, path, context) | {"formats": (), "protocols": ()}
    stored = elements(component.get("storageUris"), f"{path}.storageUris")
    declared = [Origin(encode_path(str(each.get("uri"))), f"{at}.uri") for each, at in stored]
    for framework in (*_FRAMEWORKS, _EXPLAINER):
        server, at = component.get(framework), f"{path}.{framework}"
        if not isinstance(server, dict):
            continue
        named = value_at(server, "modelFormat", "name") if framework == "model" else framework
        if named and framework != _EXPLAINER:
            parts["formats"] += (Use(str(named), f"{at}.modelFormat"),)
        if server.get("protocolVersion"):
            parts["protocols"] += (Use(str(server["protocolVersion"]), f"{at}.protocolVersion"),)
        declared += _origins(server, at)
        used = container_parts([(server, at, True)], context)
        _join(parts, used)
        parts["pods"] = (_with_server(parts["pods"][0], server, at, used["containers"]), *parts["pods"][1:])
    parts["origins"] = (*declared, *parts["origins"])
    if isinstance(workers := component.get("workerSpec"), dict):
        _join(parts, _workers_parts(workers, f"{path}.workerSpec", context))
        parts["pods"] = tuple(_with_parallel_size(pod, workers) for pod in parts["pods"])
    return parts


def _runtime_of(spec: JsonObject) -> RuntimeUse:
    """The runtime that an InferenceService names, or ``custom`` if it overrides that or puts a part before it."""
    predictor = object_at(spec, "predictor")
    named = [key for key in _FRAMEWORKS if value_at(predictor, key, "runtime")]
    if not named:
        return RuntimeUse(annotations.CUSTOM, "spec.predictor")
    framework, server = named[0], predictor[named[0]]
    name = str(server["runtime"])
    laid_over = (
        *(f"{framework}.{key}" for key in sorted(server.keys() - _WITHOUT_EFFECT_ON_THE_SERVER) if server[key]),
        *(f"{framework}.{probe}.exec" for probe in model_server.PROBES if value_at(server, probe, "exec")),
        *(key for key in (*model_server.SHARED, "containers", "initContainers", "workerSpec") if predictor.get(key)),
    )
    if laid_over:
        at = f"spec.predictor.{laid_over[0]}"
        return RuntimeUse(annotations.CUSTOM, at, (name,), f"{at} differs from runtime {name}")
    first = next((part for part in ("transformer", "explainer") if object_at(spec, part)), None)
    if first is not None:
        return RuntimeUse(annotations.CUSTOM, f"spec.{first}", (name,))
    return RuntimeUse(name, f"spec.predictor.{framework}.runtime")


def serving_runtime_parts(document: JsonObject, context: ClusterContext) -> Parts:
    """A ServingRuntime: InferenceServices of its namespace run it if they name it, or if KServe selects it.

    It takes precedence over the cluster's runtime of the same name, so its name proves nothing: it is ``custom``.
    """
    spec = object_at(document, "spec")
    made = pod_spec_parts(spec, "spec", context)
    texts = {key: strings(spec.get(key)) for key in ("labels", "annotations")}
    made["past_sidecar"] = past_sidecar([({"metadata": texts, "spec": spec}, "")], context)
    if istio.declines(texts["labels"], texts["annotations"]):
        made["past_sidecar"] += (Use("no sidecar", "spec.annotations"),)
    if opened := next(node_ports([({"spec": spec}, "")]), ""):
        made["visibility"] = Use("public", opened)
    if isinstance(workers := spec.get("workerSpec"), dict):
        made["past_sidecar"] += past_sidecar([({"spec": workers}, "spec.workerSpec")], context)
        _join(made, _workers_parts(workers, "spec.workerSpec", context))
    if not (spec.get("serviceAccountName") or spec.get("serviceAccount")):
        made["service_accounts"] = ()
    return made | {"runtime": RuntimeUse(annotations.CUSTOM, "metadata.name")}


def trained_model_parts(document: JsonObject, _context: ClusterContext) -> Parts:
    """A TrainedModel: a model that is added to a running InferenceService."""
    model = object_at(document, "spec", "model")
    named = model.get("framework")
    made = {"origins": tuple(_origins(model, "spec.model"))}
    formats = (Use(str(named), "spec.model.framework"),) if named else ()
    leads_to = value_at(document, "spec", "inferenceService")
    return made | {"formats": formats} | ({"workload": str(leads_to)} if leads_to else {})


def _largest(scales: list[ReplicaBounds]) -> ReplicaBounds:
    """The scale of all parts of an InferenceService."""
    unbounded = any(scale.maximum is None for scale in scales)
    return ReplicaBounds(
        min(scale.minimum for scale in scales),
        None if unbounded else max(scale.maximum or 0 for scale in scales),
        max(scale.beside for scale in scales),
        maximum_path="spec.predictor.maxReplicas",
        minimum_path="spec.predictor.minReplicas",
    )


def _workers_parts(workers: JsonObject, path: str, context: ClusterContext) -> Parts:
    parts = pod_spec_parts(workers, path, context)
    return parts | {"pods": tuple(replace(pod, times=_workers(workers)) for pod in parts["pods"])}


def _join(made: Parts, parts: Parts) -> None:
    for key, value in parts.items():
        made[key] = (*made[key], *value)


def _with_server(pod: PodUse, server: JsonObject, path: str, used: tuple[ContainerUse, ...]) -> PodUse:
    """A pod with the container in the field of a framework."""
    claims = (f"{path}.resources.claims",) if value_at(server, "resources", "claims") else ()
    return replace(pod, containers=(*pod.containers, *used), claims=(*pod.claims, *claims))


def _scale(spec: JsonObject, notes: Mapping[str, str], *, raw: bool) -> ReplicaBounds:
    """The replicas of a part of an InferenceService, with Knative or without (``raw``)."""
    least = count_of(spec.get("minReplicas"), 1)
    most = count_of(spec.get("maxReplicas"), 0) or None
    if raw:
        if notes.get("serving.kserve.io/autoscalerClass", "hpa") not in ("hpa", "keda"):
            return ReplicaBounds(least, None)  # anything can scale it
        most = None if most is None else max(most, least)
        return ReplicaBounds(least, most, 0 if most is None else surge(object_at(spec, "deploymentStrategy"), most))
    most = knative_maximum(notes, None if most is None else max(most, least))
    return ReplicaBounds(least, most, (most or 0) if spec.get("canaryTrafficPercent") is not None else 0)


def _workers(workers: JsonObject) -> int | None:
    """The number of worker pods for one head; ``None`` where the runtime defines it."""
    said = [count_of(workers[key], UNLIMITED) - less for key, less in _SIZES if workers.get(key) is not None]
    return max(0, *said) if said else None


def _with_parallel_size(pod: PodUse, workers: JsonObject) -> PodUse:
    """A pod with the GPUs that KServe requests for tensor parallelism, whatever its containers request."""
    size = workers.get("tensorParallelSize")
    return pod if size is None else replace(pod, amounts={**pod.amounts, "nvidia.com/gpu": size})


def _template(metadata: JsonObject, component: JsonObject, pod: JsonObject) -> JsonObject:
    """The pod of a part of an InferenceService, with the metadata of the whole; that of the part takes precedence."""
    texts = {key: strings(metadata.get(key)) | strings(component.get(key)) for key in ("labels", "annotations")}
    return {"metadata": texts, "spec": pod}


def _origins(server: JsonObject, path: str) -> Iterator[Origin]:
    if server.get("storageUri"):
        yield Origin(encode_path(str(server["storageUri"])), f"{path}.storageUri")
    storage = server.get("storage")
    if isinstance(storage, dict):
        # The bucket is in a Secret, which the server does not read.
        yield Origin(f"storage:{storage.get('key')}/{storage.get('path')}", f"{path}.storage")
