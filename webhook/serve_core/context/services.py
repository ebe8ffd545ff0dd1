"""The Kubernetes Services around a model: names, selectors and named ports."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject, value_at
from serve_core.base.ownership import controller

NOT_A_REVISION = "!serving.knative.dev/revision"
"""Label selector of all Services except those that Knative creates for each revision."""

_VERSIONS = ("v1", "serving.knative.dev/v1")
_MAX_LABELS = 50
"""Labels of a selector; a Service with more counts as one without a selector."""
_MAX_PORTS = 50
"""Named ports of one Service that are read."""


@dataclass(frozen=True, slots=True)
class ServiceSummary:
    """The parts of a Kubernetes Service that matter to models."""

    owner: str = ""
    """The Deployment whose model it belongs to, by its owner or its label; empty for all others."""
    selector: Mapping[str, str] = field(default_factory=dict)
    named_ports: tuple[str, ...] = ()
    """Its target ports that are names."""
    has_number: bool = True
    """Whether it finds pods without the name of a port: it has a target port that is a number, or no port at all."""


Services = Mapping[str, Mapping[str, ServiceSummary]]
"""By namespace and name."""


def read_all(services: Iterable[JsonObject]) -> dict[str, dict[str, ServiceSummary]]:
    """The Services among objects of any kind, by namespace and name."""
    found: dict[str, dict[str, ServiceSummary]] = {}
    for each in services:
        name = value_at(each, "metadata", "name")
        if each.get("kind") == "Service" and each.get("apiVersion") in _VERSIONS and isinstance(name, str):
            found.setdefault(str(value_at(each, "metadata", "namespace") or ""), {})[name] = read(each)
    return found


def read(service: JsonObject) -> ServiceSummary:
    """The summary of a Service (v1), or of a Knative Service, which occupies a name in the same way."""
    owner = _controller(service) or value_at(service, "metadata", "labels", DEPLOYMENT_LABEL) or ""
    return ServiceSummary(owner, selector(service), named_ports(service), has_number(service))


def selector(service: JsonObject) -> dict[str, str]:
    """The labels by which a Service selects pods; empty if there are too many or one is not a string."""
    found = value_at(service, "spec", "selector")
    if not isinstance(found, dict) or len(found) > _MAX_LABELS:
        return {}
    return found if all(isinstance(value, str) for value in found.values()) else {}


def named_ports(service: JsonObject) -> tuple[str, ...]:
    """The first target ports of a Service that are names."""
    ports = value_at(service, "spec", "ports")
    targets = (value_at(port, "targetPort") for port in ports) if isinstance(ports, list) else ()
    named = (target for target in targets if isinstance(target, str) and not target.isdigit())
    return tuple(itertools.islice(dict.fromkeys(named), _MAX_PORTS))


def has_number(service: JsonObject) -> bool:
    """Whether a Service finds pods without the name of a port."""
    ports = value_at(service, "spec", "ports")
    if not isinstance(ports, list) or not ports:
        return True
    return not all(isinstance(target := value_at(port, "targetPort"), str) and not target.isdigit() for port in ports)


def _controller(service: JsonObject) -> str:
    """The Deployment that owns it, whatever its label is."""
    owner = controller(service)
    return str(value_at(owner, "name") or "") if value_at(owner, "kind") == "Deployment" else ""
