"""The Kubernetes Services around a model: whose name is taken, and which go on finding its pods past Knative.

Knative makes a Kubernetes Service of a Knative Service's name, and one more for each tag. Where one of these names is
somebody else's the model would never be ready (its Route says ``NotOwned``), so that another name is chosen: it is
noted on the Deployment, and stays. Labels of the pods' template reach Knative's pods: a plain Service that selects them
has endpoints only while there are pods, and Knative counts none of its requests.

Sources: Knative Serving 1.23, ``pkg/reconciler/route/resources/service.go`` (names, labels),
``pkg/reconciler/revision/resources/deploy.go`` (the pod's port is renamed).
"""

import itertools
from collections.abc import Iterator, Mapping

from serve_core.api.annotation_values import Scale
from serve_core.api.annotations import DEPLOYMENT, MODEL, SCALE, SERVICE, path_of
from serve_core.api.serving_spec import ServingSpec
from serve_core.base import overlay
from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject, value_at
from serve_core.base.overlay import FieldRecord
from serve_core.base.reasons import Diagnostic, Explanation, capped, diagnostic, explanation
from serve_core.context.services import Services, ServiceSummary
from serve_core.knative.limits import AUTOSCALING
from serve_core.knative.traffic import LATEST_TAG, PREVIOUS_TAG
from serve_core.syntax.object_name import is_service_name

_LONGEST = 63
_SUFFIX = "-model"


def service_name(deployment: JsonObject) -> str:
    """The name of the Service that the Deployment becomes: its own, or the one that was chosen."""
    metadata = deployment["metadata"]
    noted = (metadata.get("annotations") or {}).get(SERVICE, "")
    return str(noted if is_service_name(noted) else metadata["name"])


def settle_name(
    deployment: JsonObject, spec: ServingSpec, services: Services
) -> tuple[JsonObject, tuple[Explanation, ...], tuple[Diagnostic, ...]]:
    """``deployment`` with the name noted under which it is served, where its own is taken; said as it is chosen."""
    metadata = deployment["metadata"]
    own, noted = metadata["name"], service_name(deployment)
    here = services.get(metadata.get("namespace", ""), {})
    in_the_way = None
    for name in _candidates(own, noted):
        taken = _taken(name, own, spec, here)
        if taken is None:
            break
        in_the_way = in_the_way or taken
    if name == own:
        return deployment, (), ()
    chosen = (explanation("ServiceNamed", service=name, name=own),)
    if name == noted:
        return deployment, chosen, ()
    notes = {**(metadata.get("annotations") or {}), SERVICE: name}
    warning = diagnostic("NameInTheWay", "metadata.name", taken=in_the_way, service=name)
    return {**deployment, "metadata": {**metadata, "annotations": notes}}, chosen, (warning,)


def _candidates(own: str, noted: str) -> Iterator[str]:
    yield noted
    if not is_service_name(own):
        return
    if own != noted:
        yield own
    for number in itertools.count(1):
        suffix = _SUFFIX if number == 1 else f"{_SUFFIX}-{number}"
        yield own[: _LONGEST - len(suffix)].rstrip("-") + suffix


def _taken(name: str, deployment: str, spec: ServingSpec, here: Mapping[str, ServiceSummary]) -> str | None:
    """The Service that is in the way of a Knative Service of this name."""
    tags = () if spec.mode == DEPLOYMENT else (LATEST_TAG, PREVIOUS_TAG)
    names = (name, *(f"{tag}-{name}" for tag in tags))
    return next((each for each in names if each in here and here[each].owner != deployment), None)


def keep_replicas(
    deployment: JsonObject, spec: ServingSpec, replicas: int, services: Services
) -> tuple[FieldRecord, Scale | None, tuple[Explanation, ...]]:
    """Fill in a ``scale`` that keeps the replicas that there were, where a plain Service leads to the pods.

    Its clients cannot wake the model from zero, and Knative's autoscaler does not see them.
    """
    written = value_at(deployment, "spec", "template", "metadata", "annotations") or {}
    bounds = (AUTOSCALING + "min-scale", AUTOSCALING + "max-scale")
    if spec.mode == DEPLOYMENT or spec.scale is not None or any(key in written for key in bounds):
        return {}, spec.scale, ()
    selecting = _selecting(deployment, services)
    if not selecting:
        return {}, None, ()
    scale = Scale(max(replicas, 1))
    value = f"{scale.minimum}.."
    record = overlay.fill(deployment, {"metadata": {"annotations": {SCALE: value}}})
    return record, scale, (explanation("ScaleForService", value=value, service=next(iter(selecting))),)


def past_knative(deployment: JsonObject, spec: ServingSpec, services: Services) -> tuple[Diagnostic, ...]:
    """A warning for each plain Service that goes on finding the pods."""
    if spec.mode == DEPLOYMENT:
        return ()
    at = "spec.template.metadata.labels"
    return tuple(capped(diagnostic("PastKnative", at, service=name) for name in _selecting(deployment, services)))


def lost_by_name(deployment: JsonObject, services: Services) -> tuple[Diagnostic, ...]:
    """Why a running Deployment cannot be handed over: Services that would lose its pods, as their ports are renamed."""
    containers = value_at(deployment, "spec", "template", "spec", "containers") or []
    names = {port.get("name") for container in containers for port in container.get("ports") or []}
    return tuple(
        capped(
            diagnostic("PortByName", path_of(MODEL), service=name, port=port)
            for name, context in _selecting(deployment, services).items()
            for port in context.named_ports
            if port in names
        )
    )


def _selecting(deployment: JsonObject, services: Services) -> dict[str, ServiceSummary]:
    """The Services of others that select the Deployment's pods, by name."""
    metadata = deployment["metadata"]
    labels = {
        **(value_at(deployment, "spec", "selector", "matchLabels") or {}),
        **(value_at(deployment, "spec", "template", "metadata", "labels") or {}),
        DEPLOYMENT_LABEL: metadata["name"],
    }
    selecting = {
        name: context
        for name, context in tuple(services.get(metadata.get("namespace", ""), {}).items())  # a watch may change them
        if context.owner != metadata["name"] and context.selector and context.selector.items() <= labels.items()
    }
    return {name: selecting[name] for name in sorted(selecting)}
