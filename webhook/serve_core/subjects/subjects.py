"""What policies see: one normal form of every object that serves a model, whoever wrote it.

What an object *does* counts, not what it says: the loader's arguments beside the annotation, the Knative Service that
a Deployment becomes, the claims and images behind the model's mount.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any
from urllib.parse import unquote

from serve_core.admission.decide import render_stored
from serve_core.api import annotations, models, runtimes, serving_spec
from serve_core.api.annotations import DEPLOYMENT, KNATIVE, path_of
from serve_core.api.models import SUFFIX_FORMATS
from serve_core.base import bounds
from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject, value_at
from serve_core.context import istio
from serve_core.context.cluster import ClusterContext
from serve_core.istio import sidecar
from serve_core.knative.limits import VISIBILITY_LABEL
from serve_core.policy.subject import (
    ContainerUse,
    ImageUse,
    Origin,
    PodUse,
    ReplicaBounds,
    RuntimeUse,
    Subject,
    Use,
)
from serve_core.subjects.origins import (
    canonical,
    is_called_loader,
    loaded,
    loader_names,
    loaders,
    not_as_filled_in,
    origins,
)
from serve_core.subjects.origins import containers as _containers
from serve_core.subjects.origins import elements as _elements
from serve_core.workload import model_server, stores
from serve_core.workload.loader_container import LoaderRequest

_AUTOSCALING = "autoscaling.knative.dev/"
_CLASSES = ("kpa.autoscaling.knative.dev", "hpa.autoscaling.knative.dev")
"""Knative's autoscalers, its default first."""
_STARTED = ("min-scale", "minScale", "initial-scale", "initialScale", "activation-scale", "activationScale")
"""How many replicas Knative starts whatever the load is, in each spelling."""
_ENDLESS = 2**31 - 1
"""Replicas; no Deployment has more."""
_KSERVE_VISIBILITY = "networking.kserve.io/visibility"
_OUTER = (DEPLOYMENT_LABEL, *(f"serving.knative.dev/{kind}" for kind in ("service", "configuration", "revision")))
_EXPANDED = re.compile(r"\$\(([^()]+)\)|\$\{?(\w+)")
"""A variable as Kubernetes or a shell expands it."""
_REFERENCE = re.compile(r"\$\$|\$\(([^()]+)\)")
"""A variable as Kubernetes alone expands it, or a sign that stands for itself."""
_MOST_EXPANDED = 8 << 10
"""Characters that the variables of a container may become in its texts: each may be made of two others."""
_WORDS = re.compile(r"[^\s;|&'\"`()<>=,\[\]{}]+")

# KServe, pkg/apis/serving/v1beta1: what can stand in a predictor beside the pod's own fields, and in an explainer.
_FRAMEWORKS = (
    "model", "sklearn", "xgboost", "lightgbm", "tensorflow", "pytorch", "triton", "onnx", "huggingface", "pmml",
    "paddle",
)  # fmt: skip
_EXPLAINER = "art"
_AS_THE_RUNTIME_HAS_IT = frozenset({
    "imagePullPolicy", "livenessProbe", "modelFormat", "name", "protocolVersion", "readinessProbe", "resources",
    "runtime", "securityContext", "startupProbe", "storage", "storageUri", "terminationMessagePolicy",
})  # fmt: skip
"""What may stand beside a runtime's name, and its container is the runtime's all the same."""
_SIZES = (("size", 0), ("pipelineParallelSize", 1))
"""Fields that say how many workers there are, and how many of those are the head."""


def subject_of(
    document: JsonObject,
    context: ClusterContext,
    *,
    namespace: str = "",
    namespace_labels: Mapping[str, str] | None = None,
    former: JsonObject | None = None,
) -> Subject | None:
    """The subject that an object is, or ``None`` if policies have nothing to say about it.

    ``namespace`` is the request's, for an object that does not say it; ``former`` is the object before the request.
    """
    if not isinstance(document.get("metadata"), dict):
        return None
    group = str(document.get("apiVersion")).partition("/")[0]
    kind = document.get("kind")
    maker, is_ours = _MAKERS.get((group, str(kind))), _OURS.get(str(kind))
    if maker is None or (is_ours is not None and not is_ours(document, context)):
        return None
    metadata = document["metadata"]
    namespace = str(metadata.get("namespace") or namespace)
    name = str(metadata.get("name") or metadata.get("generateName") or "")
    bare = Subject(
        kind=kind,  # type: ignore[arg-type]  # the table of makers knows no other
        namespace=namespace,
        name=name,
        # Of a name that the API server has yet to make up only the beginning is known, and no exception is for that.
        workload=str(metadata.get("name") or ""),
        document=_plain(document),
        labels=_object(metadata, "labels"),
        former_labels=_object(former, "metadata", "labels"),
        namespace_labels=dict(namespace_labels or {}),
        stores=stores.known(context, namespace, namespace_labels or {}),
    )
    if fault := bounds.fault(document):
        return replace(bare, document={}, fault=fault)
    made = maker(document, context)
    for what in ("origins", "images", "containers", "secrets"):
        if len(made.get(what, ())) > bounds.MOST_USES:
            return replace(bare, document={}, fault=bounds.too_many(what))
    if "mesh" in made:
        templates, at = made["mesh"]
        made["mesh"] = _in_mesh([template for template, _ in templates], at, namespace, context)
        made["past_sidecar"] = _past_sidecar(templates, context, injected=kind == "Pod")
        if kind != "Pod" and (opened := next(_opened(templates), "")):
            made["visibility"] = Use("public", opened)
    return replace(bare, labels=_strings(bare.labels), **made)


def _in_mesh(templates: Iterable[JsonObject], path: str, namespace: str, context: ClusterContext) -> Use:
    """What Istio makes of pods by what they and their namespace say; without it no pod is in its mesh.

    An object with several kinds of pods is in the mesh where all of them are.
    """
    inside = context.istio is not None and all(
        context.istio.injects(
            namespace,
            {
                "metadata": {key: _strings(value_at(template, "metadata", key)) for key in ("labels", "annotations")},
                "spec": {"hostNetwork": value_at(template, "spec", "hostNetwork")},
            },
        )
        for template in templates
    )
    return Use("istio" if inside else "none", path)


def _past_sidecar(
    templates: Iterable[tuple[JsonObject, str]], context: ClusterContext, *, injected: bool = False
) -> tuple[Use, ...]:
    """What leads past the sidecar in these. ``injected``: they are pods that Istio's injector has been at."""
    redirects = (context.istio.redirects if context.istio else {}) if injected else None
    found = (
        Use(stray.what, stray.path)
        for template, path in templates
        for stray in sidecar.strays(template, path, context.known_loaders, injected=redirects)
    )
    return tuple(islice(found, bounds.MOST_USES))


def _opened(templates: Iterable[tuple[JsonObject, str]]) -> Iterator[str]:
    """The fields by which pods are reached at their node's addresses, past whatever leads to a private model."""
    for template, path in templates:
        pod, at = _object(template, "spec"), f"{path}.spec".removeprefix(".")
        if pod.get("hostNetwork"):
            yield f"{at}.hostNetwork"
        for container, where, _ in _containers(pod, at):
            ports = _elements(container.get("ports"), f"{where}.ports")
            yield from (f"{place}.hostPort" for port, place in ports if port.get("hostPort"))


def _plain(document: JsonObject) -> JsonObject:
    """The object without what the API server keeps about it."""
    metadata = {key: value for key, value in document["metadata"].items() if key != "managedFields"}
    return {key: value for key, value in document.items() if key != "status"} | {"metadata": metadata}


def carries_loader(pod: JsonObject, context: ClusterContext) -> bool:
    """Whether a pod's spec has a container in it that is called as the loader is."""
    names = loader_names(context)
    return any(is_called_loader(container, names) for container, _, _ in _containers(pod, ""))


_OURS: Mapping[str, Callable[[JsonObject, ClusterContext], bool]] = {
    "Deployment": lambda document, _: annotations.MODEL in _object(document, "metadata", "annotations"),
    "Pod": lambda document, context: (
        DEPLOYMENT_LABEL in _object(document, "metadata", "labels")
        or carries_loader(_object(document, "spec"), context)
    ),
}
"""Kinds of which policies are about some objects alone, and which these are."""


def _deployment(document: JsonObject, context: ClusterContext) -> dict[str, Any]:
    notes = _strings(document["metadata"].get("annotations"))
    pod = _object(document, "spec", "template", "spec")
    uris = tuple(uri for uri, _ in models.split(notes[annotations.MODEL]))
    made = _pod_parts(pod, "spec.template.spec", context, uris[0])
    # The annotation is what the user wrote, the loader what runs: only by that it is known what is checked.
    at = path_of(annotations.MODEL)
    requests = [found for found in loaders(pod, "", context).values() if isinstance(found, LoaderRequest)]
    checked = {origin.text: origin for request in requests for origin in loaded(request, at, pod, context)}
    annotated = tuple(checked.get(uri) or Origin(uri, at, by_loader=False) for uri in uris)
    made["origins"] = (*annotated, *made["origins"])
    made["formats"] = tuple(_formats(notes, made["origins"]))
    made["runtime"] = runtime = _annotated_runtime(document, pod, context)
    spoken = next((known.protocols[0] for known in context.known_runtimes if known.name == runtime.name), "unknown")
    made["protocol"] = Use(notes.get(annotations.PROTOCOL, spoken), path_of(annotations.PROTOCOL))
    made["mode"] = Use(notes.get(annotations.MODE, KNATIVE), path_of(annotations.MODE))
    if annotations.CREDENTIALS in notes:
        named = Use(notes[annotations.CREDENTIALS], path_of(annotations.CREDENTIALS))
        made["secrets"] = (named, *(use for use in made["secrets"] if use.name != named.name))
    service = render_stored(document, context).service
    if service is not None:
        traffic = value_at(service, "spec", "traffic")
        made |= _knative_parts(service["metadata"], _object(service, "spec", "template"), traffic=traffic)
        # Its own pods serve until Knative's do.
        running = _count(value_at(document, "spec", "replicas"), 0)
        found = made["scale"]
        most = None if found.most is None else max(found.most, running)
        made["scale"] = ReplicaBounds(found.least, most, found.beside)
        made["visibility"] = Use(made["visibility"].name, path_of(annotations.VISIBILITY))
        if annotations.DOMAIN in notes:
            made["visibility"] = Use("public", path_of(annotations.DOMAIN))
    else:
        made |= _running_scale(document, notes)
        made["visibility"] = Use("cluster-local", path_of(annotations.MODE))
        made["mesh"] = ([(_object(document, "spec", "template"), "spec.template")], "")
    # What the pods say is what Istio does; the annotation only asked for it.
    made["mesh"] = (made["mesh"][0], path_of(annotations.MESH))
    made["auth"] = Use(notes.get(annotations.AUTH, "none"), path_of(annotations.AUTH))
    of_tokens = (annotations.AUTH_ISSUER, annotations.AUTH_JWKS)
    made["issuers"] = tuple(Use(notes[key], path_of(key)) for key in of_tokens if key in notes)
    return made


def _running_scale(document: JsonObject, notes: Mapping[str, str]) -> dict[str, Any]:
    """The replicas of a Deployment that is not handed to Knative: whatever scales it, what is written is what runs."""
    spec, _ = serving_spec.read(notes)
    if spec is None or (spec.scale is None and spec.mode != DEPLOYMENT):
        return {"scale": ReplicaBounds(0, None)}
    number = _count(_object(document, "spec").get("replicas", 1), 1)
    least, most = (number, number) if spec.scale is None else (spec.scale.minimum, spec.scale.maximum)
    if most is None:
        return {"scale": ReplicaBounds(least, None)}
    most = max(most, number)
    return {"scale": ReplicaBounds(least, most, _surge(_object(document, "spec", "strategy"), most))}


def _surge(strategy: JsonObject, replicas: int) -> int:
    """How many pods more than ``replicas`` a rolling update may run (k8s.io/kubernetes, ``deployment/util``)."""
    if strategy.get("type", "RollingUpdate") != "RollingUpdate":
        return 0
    written = value_at(strategy, "rollingUpdate", "maxSurge")
    if written is None:
        written = "25%"
    if percent := re.fullmatch(r"([0-9]{1,9})%", str(written), re.ASCII):
        return -(-replicas * int(percent[1]) // 100)
    return _count(written, _ENDLESS)


def _service(document: JsonObject, context: ClusterContext) -> dict[str, Any]:
    template = _object(document, "spec", "template")
    made = _by_hand(template.get("spec"), "spec.template.spec", context)
    return made | _knative_parts(document["metadata"], template, traffic=value_at(document, "spec", "traffic"))


def _revision(document: JsonObject, context: ClusterContext) -> dict[str, Any]:
    made = _by_hand(document.get("spec"), "spec", context)
    made |= _knative_parts(document["metadata"], document, "")
    return made | {"workload": _workload(document["metadata"])}


def _by_hand(pod: Any, path: str, context: ClusterContext) -> dict[str, Any]:
    """A Knative object that nobody annotated: what serves in it is its user's own."""
    spec = pod if isinstance(pod, dict) else {}
    made = _pod_parts(spec, path, context)
    runtime = _runtime(spec, path, context)
    if made["origins"] or runtime.based_on:
        made["formats"] = tuple(_formats({}, made["origins"]))
        made["runtime"] = runtime
    made["mode"] = Use(KNATIVE, "kind")
    made["auth"] = Use("none", "kind")
    return made


def _knative_parts(
    metadata: Any, template: JsonObject, path: str = "spec.template", traffic: Any = None
) -> dict[str, Any]:
    at = f"{path}.metadata".removeprefix(".")
    own = _object(template, "metadata")
    notes = _strings(own.get("annotations"))
    most = _most(notes, _number(notes, "max-scale", "maxScale"))
    return {
        "scale": ReplicaBounds(
            _number(notes, "min-scale", "minScale") or 0,
            most,
            (_revisions(traffic) - 1) * (most or 0),
            path=f"{at}.annotations[{_AUTOSCALING}max-scale]",
            least_path=f"{at}.annotations[{_AUTOSCALING}min-scale]",
        ),
        "visibility": _visibility(metadata),
        "mesh": ([(template, path)], at),
    }


def _most(notes: Mapping[str, str], bound: int | None) -> int | None:
    """The most replicas that Knative starts of a revision whose upper bound is ``bound``.

    Knative 1.23, ``pkg/reconciler/autoscaling/kpa``: the scale that a revision has at first is not held to the upper
    bound. An autoscaler of another class has bounds of its own.
    """
    if bound is None or notes.get(f"{_AUTOSCALING}class", _CLASSES[0]) not in _CLASSES:
        return None
    found = [bound]
    for key in (f"{_AUTOSCALING}{name}" for name in _STARTED):
        if key in notes:
            if not re.fullmatch(r"[0-9]{1,9}", notes[key], re.ASCII):
                return None
            found.append(int(notes[key]))
    return max(found)


def _revisions(traffic: Any) -> int:
    """How many revisions the traffic of a Knative Service keeps running or wakes: a tag is a URL of its own."""
    reached = [each for each in _list(traffic) if value_at(each, "percent") or value_at(each, "tag")]
    return max(len({str(value_at(each, "revisionName") or "") for each in reached}), 1)


def _visibility(metadata: Any, label: str = VISIBILITY_LABEL) -> Use:
    private = value_at(metadata, "labels", label) == "cluster-local"
    return Use("cluster-local" if private else "public", f"metadata.labels[{label}]")


def _route(document: JsonObject, _context: ClusterContext) -> dict[str, Any]:
    """By hand it can lead from anywhere to any Configuration or Revision, whatever these say themselves."""
    return {"visibility": _visibility(document["metadata"])}


def _domain_mapping(document: JsonObject, _context: ClusterContext) -> dict[str, Any]:
    """Knative 1.23, ``pkg/reconciler/domainmapping/resources/ingress.go``: it is for the world outside, whatever labels
    it bears and whatever the visibility of what it leads to."""
    made: dict[str, Any] = {"visibility": Use("public", "kind")}
    leads_to = value_at(document, "spec", "ref", "name")
    return made | ({"workload": str(leads_to)} if leads_to else {})


def _number(notes: Mapping[str, str], *names: str) -> int | None:
    """The largest that any spelling of the annotation says; what is no number counts as none."""
    found = [notes[_AUTOSCALING + name] for name in names if _AUTOSCALING + name in notes]
    numbers = [int(text) for text in found if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII)]
    return None if not numbers or len(numbers) != len(found) or 0 in numbers else max(numbers)


def _inference_service(document: JsonObject, context: ClusterContext) -> dict[str, Any]:
    made: dict[str, Any] = dict.fromkeys(("origins", "images", "containers", "pods", "secrets", "service_accounts"), ())
    formats: list[Use] = []
    protocol: Use | None = None
    scales: list[ReplicaBounds] = []
    templates: list[tuple[JsonObject, str]] = []
    notes = _strings(document["metadata"].get("annotations"))
    raw = notes.get("serving.kserve.io/deploymentMode", "").lower() in ("rawdeployment", "standard")
    for part in ("predictor", "transformer", "explainer"):
        spec = _object(document, "spec", part)
        if not spec:
            continue
        path = f"spec.{part}"
        template = _kserve_template(document["metadata"], spec, spec)
        templates.append((template, path))
        parts = _pod_parts(spec, path, context)
        stored = _elements(spec.get("storageUris"), f"{path}.storageUris")
        made["origins"] += tuple(Origin(str(each.get("uri")), f"{at}.uri") for each, at in stored)
        scales.append(_kserve_scale(spec, template["metadata"]["annotations"], raw=raw))
        for framework in (*_FRAMEWORKS, _EXPLAINER):
            server = spec.get(framework)
            if not isinstance(server, dict):
                continue
            at = f"{path}.{framework}"
            named = value_at(server, "modelFormat", "name") if framework == "model" else framework
            if named and framework != _EXPLAINER:
                formats.append(Use(str(named), f"{at}.modelFormat"))
            if server.get("protocolVersion"):
                protocol = Use(str(server["protocolVersion"]), f"{at}.protocolVersion")
            made["origins"] += tuple(_kserve_origins(server, at))
            used = _container_parts([(server, at, True)], context)
            for key, value in used.items():
                parts[key] = (*parts[key], *value)
            parts["pods"] = (_with_server(parts["pods"][0], server, at, used["containers"]), *parts["pods"][1:])
        workers = spec.get("workerSpec")
        if isinstance(workers, dict):
            at = f"{path}.workerSpec"
            templates.append((_kserve_template(document["metadata"], spec, workers), at))
            _join(parts, _workers_parts(workers, at, context))
            parts["pods"] = tuple(_with_parallel_size(pod, workers) for pod in parts["pods"])
        _join(made, parts)
    made["formats"] = tuple(dict.fromkeys([*formats, *_formats({}, made["origins"])]))
    made["protocol"] = protocol
    made["runtime"] = _kserve_runtime(_object(document, "spec"))
    made["mode"] = Use(DEPLOYMENT if raw else KNATIVE, "metadata.annotations[serving.kserve.io/deploymentMode]")
    made["auth"] = Use("none", "kind")
    # Without Knative, KServe goes by a label of its own (0.15, .../inferenceservice/reconcilers/ingress).
    made["visibility"] = _visibility(document["metadata"], _KSERVE_VISIBILITY if raw else VISIBILITY_LABEL)
    made["mesh"] = (templates, "metadata")
    if scales:
        made["scale"] = _largest(scales)
    return made


def _kserve_runtime(spec: JsonObject) -> RuntimeUse:
    """The runtime that an InferenceService names, or ``custom`` where something is laid over it or answers first."""
    predictor = _object(spec, "predictor")
    named = [key for key in _FRAMEWORKS if value_at(predictor, key, "runtime")]
    if not named:
        return RuntimeUse(annotations.CUSTOM, "spec.predictor")
    framework, server = named[0], predictor[named[0]]
    name = str(server["runtime"])
    laid_over = (
        *(f"{framework}.{key}" for key in sorted(server.keys() - _AS_THE_RUNTIME_HAS_IT) if server[key]),
        *(f"{framework}.{probe}.exec" for probe in model_server.PROBES if value_at(server, probe, "exec")),
        *(key for key in (*model_server.SHARED, "containers", "initContainers", "workerSpec") if predictor.get(key)),
    )
    if laid_over:
        at = f"spec.predictor.{laid_over[0]}"
        return RuntimeUse(annotations.CUSTOM, at, (name,), f"{at} is not runtime {name}'s")
    first = next((part for part in ("transformer", "explainer") if _object(spec, part)), None)
    if first is not None:
        return RuntimeUse(annotations.CUSTOM, f"spec.{first}", (name,))
    return RuntimeUse(name, f"spec.predictor.{framework}.runtime")


def _serving_runtime(document: JsonObject, context: ClusterContext) -> dict[str, Any]:
    """What InferenceServices of its namespace run, whether they name it or KServe chooses it for them.

    It comes before the cluster's runtime of the same name, so a name that is allowed says nothing of it: it is its
    user's own.
    """
    spec = _object(document, "spec")
    made = _pod_parts(spec, "spec", context)
    texts = {key: _strings(spec.get(key)) for key in ("labels", "annotations")}
    made["past_sidecar"] = _past_sidecar([({"metadata": texts, "spec": spec}, "")], context)
    if istio.declines(texts["labels"], texts["annotations"]):
        made["past_sidecar"] += (Use("no sidecar", "spec.annotations"),)
    if opened := next(_opened([({"spec": spec}, "")]), ""):
        made["visibility"] = Use("public", opened)
    if isinstance(workers := spec.get("workerSpec"), dict):
        made["past_sidecar"] += _past_sidecar([({"spec": workers}, "spec.workerSpec")], context)
        _join(made, _workers_parts(workers, "spec.workerSpec", context))
    if not (spec.get("serviceAccountName") or spec.get("serviceAccount")):
        made["service_accounts"] = ()
    return made | {"runtime": RuntimeUse(annotations.CUSTOM, "metadata.name")}


def _trained_model(document: JsonObject, _context: ClusterContext) -> dict[str, Any]:
    """A model that is added to an InferenceService which runs."""
    model = _object(document, "spec", "model")
    named = model.get("framework")
    made = {"origins": tuple(_kserve_origins(model, "spec.model"))}
    formats = (Use(str(named), "spec.model.framework"),) if named else ()
    leads_to = value_at(document, "spec", "inferenceService")
    return made | {"formats": formats} | ({"workload": str(leads_to)} if leads_to else {})


def _largest(scales: list[ReplicaBounds]) -> ReplicaBounds:
    """The scale of the parts of an InferenceService together."""
    unbounded = any(scale.most is None for scale in scales)
    return ReplicaBounds(
        min(scale.least for scale in scales),
        None if unbounded else max(scale.most or 0 for scale in scales),
        max(scale.beside for scale in scales),
        path="spec.predictor.maxReplicas",
        least_path="spec.predictor.minReplicas",
    )


def _workers_parts(workers: JsonObject, path: str, context: ClusterContext) -> dict[str, Any]:
    parts = _pod_parts(workers, path, context)
    return parts | {"pods": tuple(replace(pod, times=_workers(workers)) for pod in parts["pods"])}


def _join(made: dict[str, Any], parts: Mapping[str, Any]) -> None:
    for key, value in parts.items():
        made[key] = (*made[key], *value)


def _with_server(pod: PodUse, server: JsonObject, path: str, used: tuple[ContainerUse, ...]) -> PodUse:
    """A pod with the container that stands under a framework's name."""
    claims = (f"{path}.resources.claims",) if value_at(server, "resources", "claims") else ()
    return replace(pod, containers=(*pod.containers, *used), claims=(*pod.claims, *claims))


def _kserve_scale(spec: JsonObject, notes: Mapping[str, str], *, raw: bool) -> ReplicaBounds:
    """The replicas of a part of an InferenceService, by Knative or without it."""
    least = _count(spec.get("minReplicas"), 1)
    most = _count(spec.get("maxReplicas"), 0) or None
    if raw:
        if notes.get("serving.kserve.io/autoscalerClass", "hpa") not in ("hpa", "keda"):
            return ReplicaBounds(least, None)  # anybody scales it
        most = None if most is None else max(most, least)
        return ReplicaBounds(least, most, 0 if most is None else _surge(_object(spec, "deploymentStrategy"), most))
    most = _most(notes, None if most is None else max(most, least))
    return ReplicaBounds(least, most, (most or 0) if spec.get("canaryTrafficPercent") is not None else 0)


def _workers(workers: JsonObject) -> int | None:
    """How many worker pods stand beside one head; ``None`` where the runtime says it."""
    said = [_count(workers[key], _ENDLESS) - less for key, less in _SIZES if workers.get(key) is not None]
    return max(0, *said) if said else None


def _with_parallel_size(pod: PodUse, workers: JsonObject) -> PodUse:
    """A pod with the GPUs that KServe asks for where tensors are spread, whatever its containers say."""
    size = workers.get("tensorParallelSize")
    return pod if size is None else replace(pod, amounts={**pod.amounts, "nvidia.com/gpu": size})


def _kserve_template(metadata: JsonObject, component: JsonObject, pod: JsonObject) -> JsonObject:
    """The pod of a part of an InferenceService: what the whole says reaches it, and what the part says comes first."""
    texts = {key: _strings(metadata.get(key)) | _strings(component.get(key)) for key in ("labels", "annotations")}
    return {"metadata": texts, "spec": pod}


def _kserve_origins(server: JsonObject, path: str) -> Iterator[Origin]:
    if server.get("storageUri"):
        yield Origin(str(server["storageUri"]), f"{path}.storageUri")
    storage = server.get("storage")
    if isinstance(storage, dict):
        # Its bucket stands in a Secret, which nobody here reads.
        yield Origin(f"storage:{storage.get('key')}/{storage.get('path')}", f"{path}.storage")


def _count(value: object, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise


def _pod(document: JsonObject, context: ClusterContext) -> dict[str, Any]:
    spec = _object(document, "spec")
    made = _pod_parts(_without_sidecars(spec, context), "spec", context, whole=spec)
    made["formats"] = tuple(_formats({}, made["origins"]))
    made["mesh"] = ([(document, "")], "metadata")
    return made | {"workload": _workload(document["metadata"])}


def _workload(metadata: JsonObject) -> str:
    """The outermost object that a pod or a Revision says it was made of, or its own name."""
    labels = _strings(metadata.get("labels"))
    return next((labels[key] for key in _OUTER if labels.get(key)), str(metadata.get("name") or ""))


_MAKERS = {
    ("apps", "Deployment"): _deployment,
    ("serving.knative.dev", "Service"): _service,
    ("serving.knative.dev", "Configuration"): _service,
    ("serving.knative.dev", "Revision"): _revision,
    ("serving.knative.dev", "Route"): _route,
    ("serving.knative.dev", "DomainMapping"): _domain_mapping,
    ("serving.kserve.io", "InferenceService"): _inference_service,
    ("serving.kserve.io", "ServingRuntime"): _serving_runtime,
    ("serving.kserve.io", "TrainedModel"): _trained_model,
    ("v1", "Pod"): _pod,
}


def _without_sidecars(pod: JsonObject, context: ClusterContext) -> JsonObject:
    """The pod without what the platform adds to it, which is told by the image: a name is anybody's."""

    def own(key: str) -> list[Any]:
        return [
            each if str(value_at(each, "image")) not in context.sidecar_images else None for each in _list(pod.get(key))
        ]

    return {**pod, "containers": own("containers"), "initContainers": own("initContainers")}


def _formats(notes: Mapping[str, str], origins: Iterable[Origin]) -> Iterator[Use]:
    """What the annotation says and what the files' suffixes tell; a name that is told twice comes once."""
    found = {}
    if written := notes.get(annotations.FORMAT):
        found[written.partition(":")[0]] = Use(written.partition(":")[0], path_of(annotations.FORMAT))
    for origin in origins:
        path = unquote(canonical(origin.text)).lower()
        for suffix, name in SUFFIX_FORMATS.items():
            if path.endswith(suffix):
                found.setdefault(name, Use(name, origin.path))
    yield from found.values()


def _runtime(
    pod: JsonObject, path: str, context: ClusterContext, likely: str = "", name: str = "", file: str = ""
) -> RuntimeUse:
    """The runtime that a pod's server is, rendered for the model ``name`` at ``file`` where these are known."""
    known = model_server.read(pod, context.known_runtimes, likely=likely, name=name, path=file)
    if not known.path:
        served = (each.name for one in context.known_runtimes if one.name == known.name for each in one.formats)
        return RuntimeUse(known.name, path, known.based_on, formats=tuple(dict.fromkeys(served)))
    why = f"{known.path} is not as runtime {known.based_on[0]} has it"
    return RuntimeUse(known.name, f"{path}.{known.path}", known.based_on, why)


def _annotated_runtime(document: JsonObject, pod: JsonObject, context: ClusterContext) -> RuntimeUse:
    """The runtime of a Deployment: it may be the user's own by their own word, and no other by it."""
    notes = _strings(document["metadata"].get("annotations"))
    spec, _ = serving_spec.read(notes)
    named, likely, file = notes.get(annotations.RUNTIME, ""), "", ""
    if spec is not None:
        file = model_server.model_path(spec.file_name)
        chosen, _, _ = runtimes.choose(spec, context.known_runtimes, model_server.extended_resources_of(pod))
        likely = chosen.name if chosen else ""
    at = path_of(annotations.RUNTIME)
    use = _runtime(pod, "spec.template.spec", context, likely, str(document["metadata"].get("name") or ""), file)
    if named == annotations.CUSTOM:
        return RuntimeUse(annotations.CUSTOM, at, use.based_on)
    if named and not use.based_on:
        return RuntimeUse(annotations.CUSTOM, at, (named,), f"its image is none of runtime {named}")
    return use if use.why else replace(use, path=at)


def _pod_parts(
    pod: JsonObject, path: str, context: ClusterContext, annotated: str = "", whole: JsonObject | None = None
) -> dict[str, Any]:
    """What a pod has. ``whole``: with what policies pass over, which can put a model there all the same."""
    volumes = list(_elements(pod.get("volumes"), f"{path}.volumes"))
    parts = _container_parts(list(_containers(pod, path)), context, loaders(pod, path, context))
    found = islice(origins(whole or pod, path, context, annotated), bounds.MOST_USES + 1)
    parts["origins"] = (*found, *parts["origins"])
    parts["images"] += tuple(
        ImageUse(str(value_at(volume, "image", "reference")), f"{at}.image.reference")
        for volume, at in volumes
        if value_at(volume, "image", "reference")
    )
    secrets = [*parts["secrets"], *(use for volume, at in volumes for use in _volume_secrets(volume, at))]
    parts["secrets"] = tuple(dict.fromkeys(secrets))
    parts["pods"] = (
        PodUse(
            path,
            parts["containers"],
            _amounts(pod),
            _object(pod, "overhead"),
            tuple(_claims(pod, path)),
        ),
    )
    account = pod.get("serviceAccountName") or pod.get("serviceAccount") or "default"
    parts["service_accounts"] = (Use(str(account), f"{path}.serviceAccountName"),)
    return parts


def _claims(pod: JsonObject, path: str) -> Iterator[str]:
    if pod.get("resourceClaims"):
        yield f"{path}.resourceClaims"
    for container, at, _ in _containers(pod, path):
        if value_at(container, "resources", "claims"):
            yield f"{at}.resources.claims"


def _container_parts(
    containers: list[tuple[JsonObject, str, bool]],
    context: ClusterContext,
    read: Mapping[str, LoaderRequest | str] | None = None,
) -> dict[str, Any]:
    """What containers use. ``read``: those that may be the loader, as :func:`loaders` has them."""
    origins: list[Origin] = []
    used_images: list[ImageUse] = []
    uses: list[ContainerUse] = []
    secrets: list[Use] = []
    ours = {image for loader in context.known_loaders for image in loader.images}
    for container, at, side in containers:
        found = (read or {}).get(at)
        if container.get("image") and not isinstance(found, LoaderRequest):
            why = not_as_filled_in(container, found) if str(container["image"]) in ours else ""
            note = f"The loader's image is any other where the loader is not: {why}." if why else ""
            used_images.append(ImageUse(str(container["image"]), f"{at}.image", note))
        environment = list(_elements(container.get("env"), f"{at}.env"))
        origins += [
            Origin(str(variable.get("value")), f"{where}.value")
            for variable, where in environment
            if variable.get("name") == "STORAGE_URI"
        ]
        secrets += _container_secrets(container, environment, at)
        uses.append(_container_use(container, environment, at, side))
    return {
        "origins": tuple(origins),
        "images": tuple(used_images),
        "containers": tuple(uses),
        "secrets": tuple(secrets),
    }


def _container_use(
    container: JsonObject, environment: list[tuple[JsonObject, str]], path: str, side: bool
) -> ContainerUse:
    told = [str(word) for key in ("command", "args") for word in _list(container.get(key))]
    values = [(str(v.get("name")), str(v["value"])) for v, _ in environment if v.get("value") is not None]
    texts = [*told, *(value for _, value in values)]
    taken_in = tuple(
        Use(str(source.get("prefix") or ""), at)
        for source, at in _elements(container.get("envFrom"), f"{path}.envFrom")
    )
    elsewhere = {str(variable.get("name")): at for variable, at in environment if variable.get("valueFrom")}
    written = {str(variable.get("name")) for variable, _ in environment}
    unseen = {}
    for name in (one or other for text in texts for one, other in _EXPANDED.findall(text)):
        if name in elsewhere:
            unseen[name] = elsewhere[name]
        elif name not in written and taken_in:
            unseen[name] = taken_in[0].path
    expanded = _expanded(told, values)
    if expanded is None:
        expanded, unseen["env"] = texts, f"{path}.env"
    return ContainerUse(
        name=str(container.get("name") or path.rpartition(".")[2]),
        path=path,
        amounts=_amounts(container),
        variables=tuple(str(variable.get("name")) for variable, _ in environment),
        texts=(*expanded, *_handlers(container)),
        taken_in=taken_in,
        unseen=tuple(Use(name, at) for name, at in unseen.items()),
        side=side,
    )


def _expanded(told: list[str], values: list[tuple[str, str]]) -> list[str] | None:
    """Arguments, and the values of variables, as the kubelet expands them: a variable knows those before it. ``None``
    where they become longer than anybody needs."""
    known: dict[str, str] = {}
    left = _MOST_EXPANDED

    def one(text: str) -> str:
        nonlocal left
        left -= sum(len(known.get(name, "")) for name in _REFERENCE.findall(text)) if "$" in text else 0
        if left < 0:
            return text
        return _REFERENCE.sub(lambda found: known.get(found[1], found[0]) if found[1] else "$", text)

    texts = []
    for name, value in values:
        known[name] = one(value)
        texts.append(known[name])
    texts += map(one, told)
    return texts if left >= 0 else None


def _handlers(container: JsonObject) -> Iterator[str]:
    """The words of commands that run in a container beside its own."""
    for at in (("lifecycle", "postStart"), ("lifecycle", "preStop"), *((probe,) for probe in model_server.PROBES)):
        yield from map(str, _list(value_at(container, *at, "exec", "command")))


def _amounts(owner: JsonObject) -> JsonObject:
    return _object(owner, "resources", "requests") | _object(owner, "resources", "limits")


def _container_secrets(container: JsonObject, environment: list[tuple[JsonObject, str]], path: str) -> Iterator[Use]:
    for variable, at in environment:
        if name := value_at(variable, "valueFrom", "secretKeyRef", "name"):
            yield Use(str(name), f"{at}.valueFrom.secretKeyRef")
    for source, at in _elements(container.get("envFrom"), f"{path}.envFrom"):
        if name := value_at(source, "secretRef", "name"):
            yield Use(str(name), f"{at}.secretRef")


def _volume_secrets(volume: JsonObject, path: str) -> Iterator[Use]:
    for source, at in _elements(value_at(volume, "projected", "sources"), f"{path}.projected.sources"):
        if name := value_at(source, "secret", "name"):
            yield Use(str(name), f"{at}.secret")
    for kind, source in volume.items():
        # secret, azureFile, csi, and the secretRef of cephfs, flexVolume, iscsi, rbd, scaleIO and storageos.
        for steps in (("secretName",), ("nodePublishSecretRef", "name"), ("secretRef", "name")):
            if name := value_at(source, *steps):
                yield Use(str(name), f"{path}.{kind}")


def _object(node: Any, *steps: str) -> JsonObject:
    found = value_at(node, *steps)
    return found if isinstance(found, dict) else {}


def _list(node: Any) -> list[Any]:
    return node if isinstance(node, list) else []


def _strings(node: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in node.items()} if isinstance(node, dict) else {}
