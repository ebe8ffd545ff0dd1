"""Completing a Deployment: what a model needs and the user left out, as one overlay."""

from dataclasses import dataclass, replace
from typing import Any

from serve_core.admission import completion_record
from serve_core.api import loader_protocol, runtimes, sizing
from serve_core.api.annotations import CUSTOM, DEPLOYMENT, RUNTIME, path_of
from serve_core.api.runtimes import Runtime, Variant
from serve_core.api.serving_spec import ServingSpec
from serve_core.base import overlay
from serve_core.base.constants import (
    DEPLOYMENT_LABEL,
    MODEL_MOUNT,
    MODEL_SUBPATH,
    MODEL_VOLUME,
    SERVED_LABEL,
    SERVER_CONTAINER,
)
from serve_core.base.json import JsonObject, value_at
from serve_core.base.reasons import Diagnostic, Explanation, capped, diagnostic, explanation
from serve_core.context.cluster import ClusterContext
from serve_core.istio.injection import MeshDecision
from serve_core.knative import limits
from serve_core.workload import loader_container, model_server, stores
from serve_core.workload.loader_container import LoaderRequest
from serve_core.workload.model_server import extended_resources, server_container

PROGRESS_DEADLINE_DEFAULT = 600
"""Seconds; what the API server fills into a Deployment, and Knative's default too."""

_PODS = "spec.template.spec"


@dataclass(frozen=True)
class Server:
    """The container that serves the model, and the runtime that completes it, if one does."""

    name: str
    runtime: Runtime | None
    variants: tuple[Variant, ...] = ()
    """Those of the runtime that apply."""


@dataclass(frozen=True)
class Completion:
    """What was filled in and why, or why it cannot be."""

    record: overlay.FieldRecord
    choices: tuple[Explanation, ...]
    problems: tuple[Diagnostic, ...]
    warnings: tuple[Diagnostic, ...] = ()


def complete(deployment: JsonObject, spec: ServingSpec, context: ClusterContext, mesh: MeshDecision) -> Completion:
    """Fill ``deployment`` in place with what it lacks."""
    pod = ((deployment.get("spec") or {}).get("template") or {}).get("spec") or {}
    containers = pod.get("containers") or []
    asks = completion_record.asked(spec, extended_resources(server_container(containers)))
    context = replace(context, loader=context.loader.chosen(verifying=spec.signature_key is not None))
    context, earlier, warnings = completion_record.recall(deployment, asks, context)
    server, choices, problems = _server(containers, spec, context)
    choices += earlier
    if server is None:
        return Completion({}, choices, problems)
    completion_record.note(deployment, spec, asks, context.loader, server.runtime)
    wanted, more = _overlay(deployment, server, spec, context, mesh)
    record = overlay.fill(deployment, wanted)
    if server.runtime is None and spec.runtime is None:
        warnings += _known_image(deployment["spec"]["template"]["spec"], spec, context)
    return Completion(record, (*choices, *more), problems, warnings)


def _server(
    containers: list[JsonObject], spec: ServingSpec, context: ClusterContext
) -> tuple[Server | None, tuple[Explanation, ...], tuple[Diagnostic, ...]]:
    found = server_container(containers)
    at = f"{_PODS}.containers"
    if containers and found is None:
        names = ", ".join(str(container.get("name")) for container in containers)
        return None, (), (diagnostic("ContainerAmbiguous", at, names=names),)
    missing = tuple(
        capped(
            diagnostic("ImageMissing", f"{at}[{index}].image", name=container.get("name"))
            for index, container in enumerate(containers)
            if not container.get("image") and (container is not found or spec.runtime == CUSTOM)
        )
    )
    if spec.runtime == CUSTOM:
        if found is None:
            return None, (), (diagnostic("ContainerMissing", path_of(RUNTIME)),)
        why = "the runtime is custom"
        return Server(found["name"], None), (explanation("RuntimeCustom", name=found["name"], why=why),), missing
    if found is not None and found.get("image") and spec.runtime is None:
        why = "you wrote its image"
        return Server(found["name"], None), (explanation("RuntimeCustom", name=found["name"], why=why),), missing
    resources = extended_resources(found)
    runtime, choices, problems = runtimes.choose(spec, context.runtimes, resources)
    if runtime is None:
        return None, choices, (*missing, *problems)
    variants = runtime.applying(spec.protocol, resources)
    choices += tuple(
        explanation("RuntimeVariant", runtime=runtime.name, wanted=variant.resource or f"protocol {variant.protocol}")
        for variant in variants
    )
    if resources and not runtime.has_variant_for(resources):
        choices += (explanation("RuntimeWithoutVariant", runtime=runtime.name, wanted=", ".join(sorted(resources))),)
    return Server(found["name"] if found else SERVER_CONTAINER, runtime, variants), choices, missing


def _known_image(pod: JsonObject, spec: ServingSpec, context: ClusterContext) -> tuple[Diagnostic, ...]:
    """A warning where a completed pod has a runtime's image and is not as that runtime has it."""
    known = model_server.read(pod, context.runtimes)
    if known.name != CUSTOM or not known.based_on:
        return ()
    based_on = [each for each in context.runtimes if each.name in known.based_on]
    best, _, _ = runtimes.choose(spec, based_on)
    server = server_container(pod["containers"])
    index = next(index for index, each in enumerate(pod["containers"]) if each is server)
    names = " or ".join(sorted(known.based_on)) if best is None else best.name
    return (diagnostic("KnownImage", f"{_PODS}.containers[{index}].image", runtime=names),)


def _overlay(
    deployment: JsonObject, server: Server, spec: ServingSpec, context: ClusterContext, mesh: MeshDecision
) -> tuple[JsonObject, tuple[Explanation, ...]]:
    name = deployment["metadata"]["name"]
    directory, file_name = spec.model.path, spec.file_name
    if spec.model.scheme == "pvc" and file_name is not None:
        directory = directory.rpartition("/")[0]
    model_path = model_server.model_path(file_name)
    choices = [] if file_name is None or server.runtime is None else [explanation("ModelPathIsFile", path=model_path)]

    mount = {"name": MODEL_VOLUME, "mountPath": MODEL_MOUNT, "readOnly": True}
    pod: JsonObject = {}
    if spec.model.scheme == "pvc":
        choices.append(explanation("ModelFromClaim", claim=spec.model.host))
        volumes = [
            {"name": MODEL_VOLUME, "persistentVolumeClaim": {"claimName": spec.model.host, "readOnly": True}},
        ]
        if directory.strip("/"):
            mount["subPath"] = directory.strip("/")
    else:
        choices.append(explanation("ModelByLoader"))
        mount["subPath"] = MODEL_SUBPATH
        request = _request(spec, context, deployment, mesh, masked=_has_token(deployment, server))
        volumes = loader_container.volumes(request)
        pod["initContainers"] = [loader_container.render(request)]
    container: JsonObject = {"name": server.name}
    if server.runtime is None:
        container["volumeMounts"] = [mount]
    else:
        container |= model_server.render(server.runtime, server.variants, name, model_path, mount)
        # A model server has no business with the API server; a container of the user's own may have.
        pod["automountServiceAccountToken"] = False
        if spec.mode == DEPLOYMENT:
            # Knative leaves them out: vLLM, for one, cannot start beside a Service vllm, which gives it a VLLM_PORT.
            pod["enableServiceLinks"] = False
    volumes += model_server.volumes(server.runtime, container)
    pod |= {"containers": [container], "volumes": volumes}
    labels = _labels(deployment, name)
    if spec.mode == DEPLOYMENT:
        labels[DEPLOYMENT_LABEL] = name  # a Knative Service's template gets it when it is rendered
    size = None if spec.model.scheme == "pvc" else spec.size
    if storage := sizing.storage(size):
        choices.append(explanation("SizedByModel", size=loader_protocol.size_text(size or 0), storage=storage))
    notes = _deadline(deployment, server.runtime, size) | dict(mesh.annotations)
    template = {
        "metadata": {"labels": labels | dict(mesh.labels), **({"annotations": notes} if notes else {})},
        "spec": pod,
    }
    wanted = {
        "metadata": {"labels": {SERVED_LABEL: "true"}},
        "spec": {**_selector(deployment, name), "template": template},
    }
    return wanted, tuple(choices)


def _has_token(deployment: JsonObject, server: Server) -> bool:
    """Whether the pod's containers are given a token for the API server."""
    said = value_at(deployment, "spec", "template", "spec", "automountServiceAccountToken")
    return server.runtime is None if said is None else said is not False


def _request(
    spec: ServingSpec, context: ClusterContext, deployment: JsonObject, mesh: MeshDecision, *, masked: bool
) -> LoaderRequest:
    return LoaderRequest(
        image=context.loader.image,
        models=spec.models,
        allow_networks=context.loader.allow_networks,
        stores=stores.of_loader(deployment, [model.uri for model in spec.models], context),
        digest=spec.digest,
        signature_key=spec.signature_key,
        credentials=spec.credentials,
        masked=masked,
        uid=mesh.loader_uid,
        size=spec.size,
    )


def _selector(deployment: JsonObject, name: str) -> JsonObject:
    if (deployment.get("spec") or {}).get("selector"):
        return {}
    return {"selector": {"matchLabels": {DEPLOYMENT_LABEL: name}}}


def _labels(deployment: JsonObject, name: str) -> JsonObject:
    """The template's labels have to satisfy the selector; where the user wrote one, it says which they are."""
    selector: Any = (deployment.get("spec") or {}).get("selector")
    if not selector:
        return {DEPLOYMENT_LABEL: name}
    return dict(selector.get("matchLabels") or {})


def _deadline(deployment: JsonObject, runtime: Runtime | None, size: int | None) -> JsonObject:
    """How long the download and the runtime may take to become ready, unless the user has said so."""
    written = (deployment.get("spec") or {}).get("progressDeadlineSeconds")
    wanted, download = runtime.deadline if runtime else None, sizing.seconds(size)
    if written not in (None, PROGRESS_DEADLINE_DEFAULT) or (wanted is None and not download):
        return {}
    return {limits.PROGRESS_DEADLINE: f"{(wanted or PROGRESS_DEADLINE_DEFAULT) + download}s"}
