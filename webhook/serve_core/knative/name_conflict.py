"""The Kubernetes Services around a model: conflicts over a name, and plain Services that lead to its pods past Knative.

Knative creates a Kubernetes Service with the name of each Knative Service, and one more for each tag. If one of these
names belongs to another owner, the model never becomes ready (its Route says ``NotOwned``). So kubectl-serve chooses a
free name, notes it on the Deployment, and keeps it. Labels of the pod template reach Knative's pods: a plain Service
that selects them has endpoints only while there are pods, and Knative counts none of its requests.

Sources: Knative Serving 1.23, ``pkg/reconciler/route/resources/service.go`` (names, labels),
``pkg/reconciler/revision/resources/deploy.go`` (the pod's port is renamed).
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from serve_core.api.annotation_values import Scale
from serve_core.api.annotations import DEPLOYMENT, MODEL, SERVICE, path_of
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic, capped, diagnostic
from serve_core.base.workload import Workload
from serve_core.context.services import Services, ServiceSummary
from serve_core.knative.limits import AUTOSCALING
from serve_core.knative.traffic import LATEST_TAG, MAX_NAME, PREVIOUS_TAG
from serve_core.syntax.object_name import is_service_name

BOUNDS = (AUTOSCALING + "min-scale", AUTOSCALING + "max-scale")
"""The annotations of the pod template by which Knative bounds the replicas."""
_KNATIVE_PORT = "user-port"
"""Knative's name for the pod's port."""
_SUFFIX = "-model"
_MADE = re.compile(rf"(.+?)({_SUFFIX}(?:-[0-9]+)?)")
"""A name that :func:`_candidates` makes from a Deployment's."""


def service_name(deployment: JsonObject) -> str:
    """The name of the Service that the Deployment becomes: the noted one, otherwise the Deployment's own."""
    workload = Workload(deployment)
    noted = workload.annotations.get(SERVICE, "")
    return noted if is_service_name(noted) else workload.name


def free_name(workload: Workload, spec: ServingSpec, services: Services) -> tuple[str, str]:
    """The first free name for the Service, and the Service that conflicts with the first candidate, if one does.

    Candidates are the noted name, then the Deployment's own, then names made from it.
    """
    around = services.get(workload.namespace, {})
    first_conflict = ""
    for name in _candidates(workload.name, service_name(workload.manifest)):
        conflict = _conflict(name, workload.name, spec, around)
        if conflict is None:
            return name, first_conflict
        first_conflict = first_conflict or conflict
    return name, first_conflict  # a name that no Service can have is refused when it is rendered


def may_affect(name: str, states: Iterable[ServiceSummary], deployment: str) -> bool:
    """Whether a change of the Service ``name`` can change what a Deployment of its namespace becomes.

    ``states``: before and after the change. A Service of the Deployment's own neither conflicts with its names nor
    bypasses Knative. One without a selector, such as those that Knative creates, only occupies its name.
    """
    others = [each for each in states if each.owner != deployment]
    return any(each.selector for each in others) or (bool(others) and _may_be_named(name, deployment))


def _may_be_named(service: str, deployment: str) -> bool:
    """Whether a Service, or its revision with a tag, has one of the names that :func:`free_name` tries."""
    names = (service, *(service.removeprefix(f"{tag}-") for tag in (LATEST_TAG, PREVIOUS_TAG)))
    made = (_MADE.fullmatch(name) for name in names)
    return deployment in names or any(found and found[1] == _cut(deployment, found[2]) for found in made)


def _cut(own: str, suffix: str) -> str:
    """A Deployment's name as far as it fits before a suffix."""
    return own[: MAX_NAME - len(suffix)].rstrip("-")


def _candidates(own: str, noted: str) -> Iterator[str]:
    yield noted
    if not is_service_name(own):
        return
    if own != noted:
        yield own
    for number in itertools.count(1):
        suffix = _SUFFIX if number == 1 else f"{_SUFFIX}-{number}"
        yield _cut(own, suffix) + suffix


def _conflict(name: str, deployment: str, spec: ServingSpec, around: Mapping[str, ServiceSummary]) -> str | None:
    """The Service of another owner that prevents a Service of this name."""
    tags = () if spec.mode == DEPLOYMENT else (LATEST_TAG, PREVIOUS_TAG)
    names = (name, *(f"{tag}-{name}" for tag in tags))
    return next((each for each in names if each in around and around[each].owner != deployment), None)


class KeptScale(NamedTuple):
    """A scale that keeps the replicas for the clients of a plain Service."""

    scale: Scale
    service: str
    """The Service's name."""


def kept_scale(workload: Workload, spec: ServingSpec, replicas: int, services: Services) -> KeptScale | None:
    """The scale that keeps ``replicas``, if the user wrote none and a plain Service leads to the pods.

    Its clients cannot wake the model from zero, and Knative's autoscaler does not see them.
    """
    written = workload.template_annotations
    if spec.mode == DEPLOYMENT or spec.scale is not None or any(key in written for key in BOUNDS):
        return None
    service = next(_bypassing(workload, services), None)
    return None if service is None else KeptScale(Scale(max(replicas, 1)), service)


def bypassing_services(workload: Workload, spec: ServingSpec, services: Services) -> list[Diagnostic]:
    """A warning for each plain Service that leads to the pods past Knative."""
    if spec.mode == DEPLOYMENT:
        return []
    at = "spec.template.metadata.labels"
    return capped(diagnostic("PastKnative", at, service=name) for name in _bypassing(workload, services))


def lost_named_ports(workload: Workload, services: Services) -> list[Diagnostic]:
    """Services that do not find the pods under Knative, because it renames ports. They prevent a handover."""
    ports = (port for container in workload.containers for port in container.get("ports") or [])
    names = {name for port in ports if isinstance(name := port.get("name"), str)}
    return capped(
        diagnostic("PortByName", path_of(MODEL), service=name, port=port)
        for name, service in _selecting(workload, services).items()
        for port in service.named_ports
        if port in names and port != _KNATIVE_PORT
    )


def _bypassing(workload: Workload, services: Services) -> Iterator[str]:
    """The names of the Services that still find the pods under Knative."""
    found = _selecting(workload, services).items()
    return (name for name, service in found if service.has_number or _KNATIVE_PORT in service.named_ports)


def _selecting(workload: Workload, services: Services) -> dict[str, ServiceSummary]:
    """The Services of other owners that select the Deployment's pods, by name."""
    around = services.get(workload.namespace)
    if not around:
        return {}
    labels, own = workload.pod_labels, workload.name
    selecting = {
        name: service
        for name, service in tuple(around.items())  # a watch may change them
        if service.owner != own and service.selector and service.selector.items() <= labels.items()
    }
    return {name: selecting[name] for name in sorted(selecting)}
