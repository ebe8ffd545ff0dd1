"""Completion: one overlay with what the model needs, which sets the fields that the user left out."""

from dataclasses import dataclass, replace

from model_uri.schemes import scheme_of
from serve_core.admission.completion import completion_record, own_server, runtime_server, startup, transformer
from serve_core.admission.completion.own_server import OwnServer
from serve_core.admission.working_set import Admission
from serve_core.api import hub_on_claim, loader_protocol, runtimes, sizing
from serve_core.api.annotation_values import Format
from serve_core.api.annotations import COMPLETED_WITH, CUSTOM, DEPLOYMENT, MODEL, PORT, RUNTIME, path_of
from serve_core.api.models import SUFFIX_FORMATS
from serve_core.api.runtimes import Runtime, Variant
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.constants import (
    DEPLOYMENT_LABEL,
    HUB_SUBPATH,
    MODEL_SUBPATH,
    MODEL_VOLUME,
    SERVED_LABEL,
    SERVER_CONTAINER,
)
from serve_core.base.findings import Findings
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic, Explanation, capped, diagnostic, explanation
from serve_core.base.workload import POD, Workload, index_of
from serve_core.context.cluster import ClusterContext
from serve_core.istio.injection import MeshDecision
from serve_core.knative import limits
from serve_core.workload import (
    cache_volume,
    hub_access,
    loader_container,
    loader_stores,
    model_image,
    model_server,
    on_node,
)
from serve_core.workload.loader_container import LoaderRequest, SharedClaim
from serve_core.workload.model_server import extended_resources, server_container

PROGRESS_DEADLINE_DEFAULT = 600
"""Seconds: the API server's default for a Deployment, and Knative's."""


@dataclass(frozen=True)
class Server:
    """The container that serves the model."""

    name: str
    runtime: Runtime | None
    """``None`` if the container is the user's."""
    variants: tuple[Variant, ...] = ()
    """The runtime's variants that apply."""


def complete(admission: Admission) -> None:
    """Set the fields that the Deployment lacks. Problems are appended to the findings."""
    workload, spec, findings = admission.workload, admission.spec, admission.findings
    asked = completion_record.asked(spec, extended_resources(server_container(workload.containers)))
    chosen = admission.context.loader.chosen(verifying=spec.signature_key is not None)
    recall = completion_record.recall(workload, asked, replace(admission.context, loader=chosen))
    if recall.forgotten:
        findings.warnings.append(diagnostic("CompletedAgain", path_of(COMPLETED_WITH)))
    server = _server(workload, spec, recall.context, findings)
    if recall.earlier:
        findings.explanations.append(explanation("CompletedEarlier"))
    if server is None:
        return
    record = completion_record.annotation_value(spec, asked, recall.context.loader, server.runtime)
    admission.annotate(COMPLETED_WITH, record)
    own = _read_own_server(admission, server.name) if server.runtime is None else OwnServer()
    admission.fill(_overlay(workload, server, own, spec, recall.context, admission.mesh, findings))
    if server.runtime is None:
        _complete_own_server(admission, server.name, own)
    elif spec.port is not None and not transformer.takes_port(admission):
        one, other = PORT, f"runtime {server.runtime.name}"
        why = "the runtime has its own port"
        findings.problems.append(diagnostic("ConflictingAnnotations", path_of(PORT), one=one, other=other, why=why))
    startup.complete(admission)
    if server.runtime is None and spec.runtime is None:
        _warn_of_known_image(workload, spec, recall.context, findings)


def _read_own_server(admission: Admission, name: str) -> OwnServer:
    """Read a container of the user's own, before anything is filled into it."""
    containers = admission.workload.containers
    index = next(index for index, each in enumerate(containers) if each.get("name") == name)
    at = f"{POD}.containers[{index}]"
    return own_server.read(containers[index], at, admission.spec, admission.context.servers)


def _complete_own_server(admission: Admission, name: str, own: OwnServer) -> None:
    """Give a container of the user's own its port and its readiness probe, and warn if it does not serve the loaded
    model."""
    admission.is_own_server = True
    admission.findings.warnings += own.warnings
    admission.findings.explanations += own.explanations
    fields: JsonObject = {"ports": [dict(port) for port in own.ports]} if own.ports else {}
    if own.readiness is not None:
        fields["readinessProbe"] = own.readiness
    if fields:
        admission.fill({"spec": {"template": {"spec": {"containers": [{"name": name, **fields}]}}}})


def _server(workload: Workload, spec: ServingSpec, context: ClusterContext, findings: Findings) -> Server | None:
    containers = workload.containers
    found = server_container(containers)
    at = f"{POD}.containers"
    if containers and found is None:
        names = ", ".join(str(container.get("name")) for container in containers)
        findings.problems.append(diagnostic("ContainerAmbiguous", at, names=names))
        return None
    if spec.runtime == CUSTOM and found is None:
        findings.problems.append(diagnostic("ContainerMissing", path_of(RUNTIME)))
        return None
    findings.problems += capped(
        diagnostic("ImageMissing", f"{at}[{index}].image", name=container.get("name"))
        for index, container in enumerate(containers)
        if not container.get("image") and (container is not found or spec.runtime == CUSTOM)
    )
    if found is not None and (spec.runtime == CUSTOM or (found.get("image") and spec.runtime is None)):
        why = "kubectl-serve.dev/runtime is custom" if spec.runtime == CUSTOM else "it has an image"
        findings.explanations.append(explanation("RuntimeCustom", name=found["name"], why=why))
        return Server(found["name"], None)
    resources = extended_resources(found)
    runtime = runtimes.choose(spec, context.runtimes, resources, findings)
    if runtime is None:
        return None
    if hub_on_claim.repository(spec.model) is not None:
        findings.problems.append(_snapshot_unnamed(spec, runtime))
        return None
    if runtime.single_file and spec.file_name is None:
        findings.problems.append(_file_unnamed(spec, runtime))
        return None
    if spec.format is None and spec.model.scheme == "hf" and spec.model.path.lower().endswith("-gguf"):
        example = spec.model.below("FILE.gguf")
        words = {"runtime": runtime.name, "example": example}
        findings.warnings.append(diagnostic("RepositoryOfGGUF", path_of(MODEL), **words))
    variants = runtime.applying(spec.protocol, resources)
    findings.explanations += (
        explanation(
            "RuntimeVariant",
            runtime=runtime.name,
            wanted=", ".join(variant.matching(resources)) or f"protocol {variant.protocol}",
        )
        for variant in variants
    )
    if found is not None:
        path = f"{at}[{index_of(found, containers)}]"
        wanted, _ = runtimes.format_of(spec)
        others = [each for each in context.runtimes if wanted is not None and each.serves(wanted, spec.protocol)]
        runtime_server.warn_of_idle_devices(runtime, others, found, path, findings)
    return Server(found["name"] if found else SERVER_CONTAINER, runtime, variants)


def _snapshot_unnamed(spec: ServingSpec, runtime: Runtime) -> Diagnostic:
    words = {"runtime": runtime.name, "uri": spec.model, "reference": f"{'/'.join(spec.model.segments)}/refs/main"}
    return diagnostic("SnapshotUnnamed", path_of(MODEL), **words)


def _file_unnamed(spec: ServingSpec, runtime: Runtime) -> Diagnostic:
    suffix = next((suffix for suffix, name in SUFFIX_FORMATS.items() if runtime.serves(Format(name), None)), "")
    uri = spec.model
    example = ""
    if scheme_of(uri.scheme).folders and uri.segments:
        example = f", such as {uri.below(f'FILE{suffix}')}"
    elif uri.scheme == "oci":
        example = f", or a container with your own image that reads the artifact's file from {spec.mount}"
    words = {"runtime": runtime.name, "suffix": suffix, "example": example}
    return diagnostic("ModelFileUnnamed", path_of(MODEL), **words)


def _warn_of_known_image(workload: Workload, spec: ServingSpec, context: ClusterContext, findings: Findings) -> None:
    """Warn if a completed pod has the image of a runtime and is not as that runtime has it."""
    known = model_server.read(workload.pod, context.runtimes)
    if known.name != CUSTOM or not known.based_on:
        return
    based_on = [each for each in context.runtimes if each.name in known.based_on]
    best = runtimes.choose(spec, based_on)
    index = index_of(server_container(workload.containers), workload.containers)
    names = " or ".join(sorted(known.based_on)) if best is None else best.name
    findings.warnings.append(diagnostic("KnownImage", f"{POD}.containers[{index}].image", runtime=names))


def _overlay(
    workload: Workload,
    server: Server,
    own: OwnServer,
    spec: ServingSpec,
    context: ClusterContext,
    mesh: MeshDecision,
    findings: Findings,
) -> JsonObject:
    hub_cache = own.reads_hub_cache
    if spec.file_name is not None and server.runtime is not None:
        findings.explanations.append(explanation("ModelPathIsFile", path=spec.model_path))

    source = _source(workload, server, spec, context, mesh, findings, hub_cache=hub_cache)
    pod, request, volumes = dict(source.fields), source.request, list(source.volumes)
    mount = {"name": MODEL_VOLUME, "mountPath": spec.mount, **_read_only(spec)}
    if source.folder:
        mount["subPath"] = source.folder
    container: JsonObject = {"name": server.name}
    beside: list[JsonObject] = []
    if server.runtime is None:
        extra = (
            hub_access.cache_fields(spec.model, _subpath(request, HUB_SUBPATH)) if hub_cache else {"volumeMounts": []}
        )
        container |= {**extra, "volumeMounts": [*hub_on_claim.mounts(mount), *extra["volumeMounts"]]}
    else:
        rendered = model_server.render(server.runtime, server.variants, workload.name, spec.model_path, mount)
        if workload.namespace in context.user_ranges:
            rendered = model_server.without_user(rendered)
            findings.explanations.append(explanation("UserOfNamespace", namespace=workload.namespace))
        written = server_container(workload.containers) or {"name": server.name}
        path = f"{POD}.containers[{index_of(written, workload.containers)}]"
        container |= runtime_server.complete(server.runtime, rendered, written, path, findings)
        container, beside = transformer.put_in_front(container, workload.containers, spec, server.runtime, findings)
        volumes += runtime_server.volumes(server.runtime, container, workload.pod, findings)
        # A model server does not call the API server; the user's own container may.
        pod["automountServiceAccountToken"] = False
        if spec.mode == DEPLOYMENT:
            # Knative leaves them out. vLLM, for example, cannot start beside a Service vllm, which sets VLLM_PORT.
            pod["enableServiceLinks"] = False
    pod |= {"containers": [container, *beside], "volumes": volumes}
    labels = _labels(workload)
    if spec.mode == DEPLOYMENT:
        labels[DEPLOYMENT_LABEL] = workload.name  # a Knative Service's template gets it when it is rendered
    size = None if spec.model.scheme == "pvc" else spec.size
    if spec.cache.claim is None and "initContainers" in pod and (storage := sizing.storage(size)):
        findings.explanations.append(
            explanation("SizedByModel", size=loader_protocol.size_text(size or 0), storage=storage)
        )
    wanted = own.deadline if server.runtime is None else server.runtime.deadline
    annotations = _deadline(workload, wanted, size) | dict(mesh.annotations)
    template = {
        "metadata": {
            "labels": labels | dict(mesh.labels),
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": pod,
    }
    selector = {} if workload.spec.get("selector") else {"selector": {"matchLabels": {DEPLOYMENT_LABEL: workload.name}}}
    return {"metadata": {"labels": {SERVED_LABEL: "true"}}, "spec": {**selector, "template": template}}


@dataclass(frozen=True)
class _Source:
    """How the model comes into the pod."""

    volumes: list[JsonObject]
    folder: str
    """What of the model's volume the server mounts; empty for all of it."""
    fields: JsonObject
    """Of the pod, besides containers and volumes."""
    request: LoaderRequest | None = None
    """What the loader, or the node cache, loads; ``None`` if neither is needed."""


def _source(
    workload: Workload,
    server: Server,
    spec: ServingSpec,
    context: ClusterContext,
    mesh: MeshDecision,
    findings: Findings,
    *,
    hub_cache: bool,
) -> _Source:
    if spec.model.scheme == "pvc":
        return _from_claim(spec, findings)
    if spec.cache.on_node and not on_node.why_no_image(workload, spec, context):
        return _from_image(spec, findings)
    masked = _has_token(workload, server)
    request = _request(spec, context, workload, mesh, findings, masked=masked, hub_cache=hub_cache)
    folder = request.subpath(MODEL_SUBPATH) + (f"/{spec.file_name}" if spec.mounts_file else "")
    why = (on_node.why_not(spec, context) or cache_volume.why_not(request, workload.pod)) if spec.cache.on_node else ""
    if spec.cache.on_node and not why:
        findings.explanations.append(explanation("ModelOnNode"))
        return _Source([cache_volume.render(request)], folder, {}, request)
    if spec.cache.on_node and on_node.prefers_image(spec, context):
        why = on_node.why_no_image(workload, spec, context)
    findings.explanations.append(_by_loader(spec, why))
    loader = {"initContainers": [loader_container.render(request)]}
    return _Source(loader_container.volumes(request), folder, loader, request)


def _from_claim(spec: ServingSpec, findings: Findings) -> _Source:
    how = "for reading and writing" if spec.writable else "read-only"
    findings.explanations.append(explanation("ModelFromClaim", claim=spec.model.host, how=how))
    claim = {"claimName": spec.model.host, **_read_only(spec)}
    path = spec.model.path.strip("/")
    folder = path if spec.file_name is None or spec.mounts_file else path.rpartition("/")[0]
    return _Source([{"name": MODEL_VOLUME, "persistentVolumeClaim": claim}], folder, {})


def _from_image(spec: ServingSpec, findings: Findings) -> _Source:
    volume = model_image.volume(spec.model)
    secret = "" if spec.credentials is None else f" with Secret {spec.credentials}"
    words = {"image": volume["image"]["reference"], "secret": secret, "folder": model_image.FOLDER}
    findings.explanations.append(explanation("ModelFromImage", **words))
    fields = {} if spec.credentials is None else {"imagePullSecrets": [{"name": spec.credentials}]}
    return _Source([volume], model_image.FOLDER, fields)


def _by_loader(spec: ServingSpec, why: str) -> Explanation:
    if spec.cache.claim is not None:
        return explanation("ModelShared", claim=spec.cache.claim.host)
    return explanation("ModelNotOnNode", why=why) if why else explanation("ModelByLoader")


def _subpath(request: LoaderRequest | None, name: str) -> str:
    """The path of one of the loader's folders in its volume."""
    return name if request is None else request.subpath(name)


def _read_only(spec: ServingSpec) -> JsonObject:
    return {} if spec.writable else {"readOnly": True}


def _has_token(workload: Workload, server: Server) -> bool:
    """Whether the pod's containers get a token for the API server."""
    written = workload.pod.get("automountServiceAccountToken")
    return server.runtime is None if written is None else written is not False


def _request(
    spec: ServingSpec,
    context: ClusterContext,
    workload: Workload,
    mesh: MeshDecision,
    findings: Findings,
    *,
    masked: bool,
    hub_cache: bool,
) -> LoaderRequest:
    container, claim = server_container(workload.containers) or {}, spec.cache.claim
    token = hub_access.token(container) if any(model.uri.scheme == "hf" for model in spec.models) else None
    if token is not None:
        name = container.get("name")
        findings.explanations.append(explanation("TokenForLoader", key=token.key, secret=token.secret, name=name))
    return LoaderRequest(
        image=context.loader.image,
        models=spec.models,
        allow_networks=context.loader.allow_networks,
        stores=loader_stores.of_loader(workload, [model.uri for model in spec.models], context),
        digest=spec.digest,
        signature_key=spec.signature_key,
        files=runtimes.files_of(spec),
        credentials=spec.credentials,
        masked=masked,
        shared=None if claim is None else SharedClaim(claim.host, "/".join(claim.segments)),
        hub_cache=hub_cache,
        token=token,
        uid=mesh.loader_uid,
        size=spec.size,
    )


def _labels(workload: Workload) -> dict[str, str]:
    """The template's labels must satisfy the selector: the user's if there is one."""
    return dict(workload.match_labels) if workload.spec.get("selector") else {DEPLOYMENT_LABEL: workload.name}


def _deadline(workload: Workload, wanted: int | None, size: int | None) -> dict[str, str]:
    """The template annotation with the time to become ready: for the download and the server, unless the user set one.

    ``wanted``: the seconds that the server needs; ``None`` for the default.
    """
    written = workload.spec.get("progressDeadlineSeconds")
    download = sizing.seconds(size)
    if written not in (None, PROGRESS_DEADLINE_DEFAULT) or (wanted is None and not download):
        return {}
    return {limits.PROGRESS_DEADLINE: f"{(wanted or PROGRESS_DEADLINE_DEFAULT) + download}s"}
