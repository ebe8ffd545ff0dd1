"""The steps of admission, in the order in which :mod:`serve_core.admission.decide` runs them.

Each step reads the working set, writes its result there, and appends what it finds. A step that has nothing to do
leaves the working set as it is.
"""

from dataclasses import replace

from serve_core.admission import deployment_mode, handover, neighbours, policy_defaults, service
from serve_core.admission.completion import complete, completion_record, reserved
from serve_core.admission.working_set import Admission
from serve_core.api import annotations, serving_spec
from serve_core.api.annotations import (
    COMPLETED_WITH,
    EARLIER_STATE,
    FILLED,
    HANDOVER,
    MODEL,
    PORT,
    SCALE,
    SERVICE,
    path_of,
)
from serve_core.base import bounds, overlay
from serve_core.base.constants import LOADER_CONTAINER, SERVED_LABEL
from serve_core.base.overlay import FieldRecord
from serve_core.base.reasons import diagnostic, explanation, quote
from serve_core.base.workload import POD, Workload, index_of
from serve_core.context.neighbours import Neighbours
from serve_core.istio import authorization, telemetry
from serve_core.knative import domain_mapping, name_conflict
from serve_core.knative.traffic import MAX_NAME, PREVIOUS_TAG
from serve_core.workload import on_node, prefetch, serving_port
from serve_core.workload.model_server import front_container, server_container

_FILLED = frozenset(
    (
        overlay.path("metadata", "labels", SERVED_LABEL),
        *(overlay.path("metadata", "annotations", annotation.key) for annotation in annotations.USER),
    )
)
_FILLED_BELOW = (overlay.path("spec", "selector", ""), overlay.path("spec", "template", ""))
"""The only fields that admission ever sets."""


# --- Read


def restore_server_annotations(admission: Admission) -> None:
    """Give the annotations that only the server writes their stored values, whatever the user submitted.

    So they also survive a write that replaces the whole object, such as ``kubectl replace``.
    """
    written, previous = admission.workload.annotations, admission.previous
    stored = {} if previous is None else Workload(previous).annotations
    if MODEL not in stored:
        stored = {}
    record = completion_record.believed(written.get(COMPLETED_WITH), stored.get(COMPLETED_WITH), admission.context)
    counts = {**stored, COMPLETED_WITH: record}
    if handover.is_paused_by_us(admission.deployment) and stored.get(HANDOVER) != handover.TO_KNATIVE:
        del admission.deployment["spec"]["paused"]
    protected = (COMPLETED_WITH, HANDOVER, SERVICE, *EARLIER_STATE)
    kept = {key: value for key, value in written.items() if key not in protected}
    kept |= {key: value for key in protected if (value := counts.get(key)) is not None}
    if kept or written:
        admission.deployment["metadata"]["annotations"] = kept


def read_field_record(admission: Admission) -> None:
    """Find the fields that an earlier admission set and that have not changed since.

    The submitted record counts: it can only remove fields that the user could leave out. It must count for a new
    Deployment too, which can be a copy of a completed one, and when the API server calls the webhook a second time. If
    it cannot be read, the stored record counts.
    """
    for each in (admission.deployment, admission.previous):
        text = None if each is None else Workload(each).annotations.get(FILLED)
        record: FieldRecord | None = {} if text is None else overlay.decode(text, admission.deployment)
        if record is not None:
            admission.recorded = {
                path: value for path, value in record.items() if path in _FILLED or path.startswith(_FILLED_BELOW)
            }
            return


def apply_policy_defaults(admission: Admission) -> None:
    """Set the annotations that policies give: the model of an adopted Deployment, and defaults."""
    policy_defaults.fill(admission)


def read_annotations(admission: Admission) -> None:
    """Read what the annotations ask for."""
    spec, problems = serving_spec.read(admission.workload.annotations)
    if admission.not_adopted:
        # The policy may be gone that gave the model to which the user added these annotations.
        problems = tuple(problem for problem in problems if problem.code != "OrphanAnnotation")
    admission.findings.problems += problems
    if spec is not None:
        admission.spec = spec


def require_completion(admission: Admission) -> None:
    """Refuse to render a stored Deployment that admission has not completed."""
    if not admission.workload.containers:
        why = "kubectl-serve never completed it"
        admission.findings.problems.append(diagnostic("InvalidObject", f"{POD}.containers", why=why))


# --- Give back, without a model


def give_back(admission: Admission) -> None:
    """Restore a Deployment that was served as its user wrote it."""
    deployment, workload = admission.deployment, admission.workload
    written = (*(annotation.key for annotation in annotations.STATE), *EARLIER_STATE)
    state = [key for key in written if key in workload.annotations]
    if not state and SERVED_LABEL not in workload.labels:
        return
    # The selector cannot be changed, and the template's labels must satisfy it.
    selected = (overlay.path("spec", "template", "metadata", "labels", key) for key in workload.match_labels)
    kept = (overlay.path("spec", "selector", ""), *selected)
    ours = {path: value for path, value in admission.recorded.items() if not path.startswith(kept)}
    overlay.take_back(deployment, ours)
    if not workload.containers or any(not container.get("image") for container in workload.containers):
        admission.findings.problems.append(diagnostic("NothingToGiveBack", path_of(MODEL)))
        return
    handover.unpark(deployment)
    for key in state:
        workload.annotations.pop(key, None)
    # The label stays with the note until the reconciler sees the pods back and the Knative Service gone.
    admission.annotate(HANDOVER, handover.FROM_KNATIVE)
    admission.label(SERVED_LABEL, "true")


# --- Complete


def take_back_earlier_fields(admission: Admission) -> None:
    """Remove the fields that an earlier admission set: this one sets them again, as they should be now."""
    earlier = {path: value for path, value in admission.recorded.items() if path not in admission.filled}
    overlay.take_back(admission.deployment, earlier)
    admission.workload.labels.pop(SERVED_LABEL, None)  # only admission sets it


def refuse_reserved_names(admission: Admission) -> None:
    """Refuse names of the loader and its volumes, and mounts over the model, that the user wrote."""
    admission.findings.problems += reserved.check(admission.workload.pod, admission.spec)
    admission.findings.warnings += reserved.warnings(admission.workload.pod, admission.spec)


def refuse_named_ports(admission: Admission) -> None:
    """Refuse to hand over a running Deployment if plain Services refer to its port by name: Knative renames ports."""
    if admission.was_running and admission.by_knative:
        services = admission.context.services
        admission.findings.problems += name_conflict.lost_named_ports(admission.workload, services)


def keep_replicas(admission: Admission) -> None:
    """Set a ``scale`` that keeps the replicas, if a plain Service leads to the pods."""
    workload, services = admission.workload, admission.context.services
    replicas = handover.wanted_replicas(admission.deployment)
    kept = name_conflict.kept_scale(workload, admission.spec, replicas, services)
    if kept is None:
        return
    value = f"{kept.scale.minimum}.."
    admission.fill({"metadata": {"annotations": {SCALE: value}}})
    admission.spec = replace(admission.spec, scale=kept.scale)
    admission.findings.explanations.append(explanation("ScaleForService", value=value, service=kept.service))


def size_model(admission: Admission) -> None:
    """Find the size of the model, for the download's deadline and the storage."""
    size = completion_record.size(admission.workload, admission.spec, admission.previous, admission.state)
    admission.spec = replace(admission.spec, size=size)


def complete_template(admission: Admission) -> None:
    """Set what the pods need: the loader, the model server and the volumes."""
    complete.complete(admission)


def report_mesh(admission: Admission) -> None:
    """Report how the pods are connected to the mesh. Completion has set what that takes."""
    admission.findings.problems += admission.mesh.problems
    admission.findings.explanations += admission.mesh.explanations


def bypass_activator(admission: Admission) -> None:
    """Take Knative's activator out of the path of requests if ``auth-callers`` must see who calls."""
    wanted = authorization.bypass_activator(admission.workload, admission.spec, admission.findings)
    if wanted:
        admission.fill({"spec": {"template": {"metadata": {"annotations": wanted}}}})


# --- Name


def record_fields(admission: Admission) -> None:
    """Note the fields that this admission has set, so that the next one can take them back."""
    admission.annotate(FILLED, overlay.encode(admission.filled))


def choose_name(admission: Admission) -> None:
    """Choose a name for the Service; note it unless it is the Deployment's, which can belong to another owner."""
    name, conflict = name_conflict.free_name(admission.workload, admission.spec, admission.context.services)
    if name == name_conflict.service_name(admission.deployment):
        return
    if name == admission.workload.name:
        del admission.workload.annotations[SERVICE]
    else:
        admission.annotate(SERVICE, name)
        admission.name_conflict = conflict


def limit_annotations(admission: Admission) -> None:
    """Refuse more annotations than the API server stores."""
    fault = bounds.annotations_fault(admission.workload.annotations)
    if fault is not None:
        admission.findings.problems.append(fault)


# --- Render


def explain_loader(admission: Admission) -> None:
    """Explain why the pods of a stored Deployment download a model that should stay on the node."""
    loaders = (each for each in admission.workload.init_containers if each.get("name") == LOADER_CONTAINER)
    if admission.spec.cache.on_node and any(loaders):
        spec, context = admission.spec, admission.context
        why = on_node.why_not(spec, context)
        if on_node.prefers_image(spec, context):
            why = on_node.why_never_image(admission.workload, spec, context)
        why = why or "that was so, or the Deployment has fields of its own for it, when it was completed"
        admission.findings.explanations.append(explanation("ModelNotOnNode", why=why))


def report_name(admission: Admission) -> None:
    """Report the name of the Service if it is not the Deployment's."""
    own, name = admission.workload.name, name_conflict.service_name(admission.deployment)
    if name == own:
        return
    admission.findings.explanations.append(explanation("ServiceNamed", service=name, name=own))
    if conflict := admission.name_conflict:
        warning = diagnostic("NameInTheWay", "metadata.name", taken=conflict, service=name)
        admission.findings.warnings.append(warning)


def limit_name(admission: Admission) -> None:
    """Refuse a new name that leaves no room for the tags of revisions; what is served under one stays as it is."""
    name = name_conflict.service_name(admission.deployment)
    host = f"{PREVIOUS_TAG}-{name}"
    if admission.by_knative and not admission.was_served and len(name) > MAX_NAME:
        problem = diagnostic(
            "NameTooLong",
            "metadata.name",
            name=quote(name),
            length=len(name),
            host=host,
            most=MAX_NAME,
        )
        admission.findings.problems.append(problem)


def require_port(admission: Admission) -> None:
    """Refuse a container of the user's own that takes the requests, if nothing says on which port it listens.

    A Deployment that is served without a port keeps Knative's default, so that an upgrade of the server does not
    refuse its next change.
    """
    containers = admission.workload.containers
    front = None if admission.is_own_server else front_container(containers, admission.spec.port)
    if not admission.is_own_server and front is None:
        return
    server = front or server_container(containers) or {}
    if serving_port.of(server, admission.context.servers, admission.spec.port).number is None:
        if not server.get("ports") and _is_served_without_port(admission, server.get("name")):
            return
        code = "PortAmbiguous" if server.get("ports") else "PortUnknown"
        at = f"{POD}.containers[{index_of(server, containers)}].ports"
        admission.findings.problems.append(diagnostic(code, at, name=server.get("name"), annotation=PORT))


def _is_served_without_port(admission: Admission, name: object) -> bool:
    """Whether the stored Deployment is served, and its container of that name declares no port."""
    stored = Workload(admission.previous).containers if admission.was_served and admission.previous is not None else []
    return any(each.get("name") == name and not each.get("ports") for each in stored)


def warn_of_services(admission: Admission) -> None:
    """Warn of plain Services that lead to the pods past Knative, and of those that do not find them any more."""
    services = admission.context.services
    if admission.by_knative:
        admission.findings.warnings += [
            *name_conflict.lost_named_ports(admission.workload, services),
            *name_conflict.bypassing_services(admission.workload, admission.spec, services),
        ]


def warn_of_neighbours(admission: Admission) -> None:
    """Warn of autoscalers and disruption budgets that do not go together with how the model is scaled."""
    around = admission.context.neighbours.get(admission.workload.namespace, Neighbours())
    if admission.by_knative:
        has_bounds = bool(around.autoscalers) and _has_bounds(admission)
        found = neighbours.by_knative(admission.workload, admission.spec, around, has_bounds=has_bounds)
    else:
        found = neighbours.by_deployment(admission.workload, admission.spec, around)
    admission.findings.warnings += found


def _has_bounds(admission: Admission) -> bool:
    """Whether the bounds of the replicas were asked for, not chosen by :func:`keep_replicas`."""
    if any(key in admission.workload.template_annotations for key in name_conflict.BOUNDS):
        return True
    if admission.spec.scale is None:
        return False
    record = overlay.decode(admission.workload.annotations.get(FILLED, "{}"), admission.deployment) or {}
    return overlay.path("metadata", "annotations", SCALE) not in record


def render_knative_service(admission: Admission) -> None:
    """Mode ``knative``: render the Knative Service, and the DomainMapping of a host name."""
    if admission.by_knative:
        admission.service, admission.feature_needs = service.render(
            admission.workload, admission.spec, admission.state, admission.context, admission.findings
        )
        admission.extras += domain_mapping.mapping(admission.service, admission.spec)


def render_plain_service(admission: Admission) -> None:
    """Mode ``deployment``: render the Service in front of the Deployment's pods, and the autoscaler."""
    if not admission.by_knative:
        admission.extras += deployment_mode.render(
            admission.workload, admission.spec, admission.serving_port, admission.findings
        )


def render_access_policies(admission: Admission) -> None:
    """Render Istio's objects for ``auth``."""
    if admission.spec.auth != "none":
        admission.access_policies += authorization.access_policies(
            admission.workload, admission.spec, admission.mesh, admission.context, admission.findings
        )


def render_telemetry(admission: Admission) -> None:
    """Render Istio's Telemetry for ``telemetry``."""
    if admission.spec.telemetry is not None:
        admission.extras += telemetry.render(
            admission.workload, admission.spec, admission.mesh, admission.context.istio, admission.findings
        )


def render_prefetch(admission: Admission) -> None:
    """Render what loads the model on nodes in advance, until they have it."""
    nodes = admission.spec.prefetch
    if nodes is not None and admission.state.prefetched != prefetch.digest(admission.workload, nodes):
        made = prefetch.render(admission.workload, nodes, admission.context.loader)
        admission.extras += [] if made is None else [made]


def warn_of_mesh(admission: Admission) -> None:
    """Warn of stores that the mesh may keep from the loader."""
    admission.findings.warnings += admission.mesh.warnings


# --- Park


def park(admission: Admission) -> None:
    """Mode ``knative``: leave no replicas to the Deployment, or start the handover of its pods."""
    if admission.by_knative:
        handover.park(admission.deployment, running=admission.was_running)


def unpark(admission: Admission) -> None:
    """Mode ``deployment``: give the Deployment its replicas back."""
    if not admission.by_knative:
        handover.unpark(admission.deployment)
