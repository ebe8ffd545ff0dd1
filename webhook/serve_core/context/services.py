"""The Kubernetes Services around a model, as far as they matter to it: their names, selectors and named ports."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject, value_at
from serve_core.base.ownership import controller

NOT_A_REVISION = "!serving.knative.dev/revision"
"""Label selector of all Services but those that Knative makes for each revision, which nobody else names so."""

_MOST_LABELS = 50
"""Of a selector."""
_MOST_PORTS = 50
"""Of one Service, by name."""


@dataclass(frozen=True, slots=True)
class ServiceSummary:
    """A Kubernetes Service, as far as it matters to models."""

    owner: str = ""
    """The Deployment whose model it belongs to, by its owner or its label; empty for everybody else's."""
    selector: Mapping[str, str] = field(default_factory=dict)
    named_ports: tuple[str, ...] = ()
    """The ports that it leads to by name."""


Services = Mapping[str, Mapping[str, ServiceSummary]]
"""By namespace and name."""


def read(service: JsonObject) -> ServiceSummary:
    """What matters of a Service (v1), or of a Knative Service, whose name is taken just as well."""
    owner = _controller(service) or value_at(service, "metadata", "labels", DEPLOYMENT_LABEL) or ""
    return ServiceSummary(owner, selector(service), named_ports(service))


def selector(service: JsonObject) -> dict[str, str]:
    """The labels of the pods that a Service leads to; none where there are more than anybody writes."""
    found = value_at(service, "spec", "selector")
    if not isinstance(found, dict) or len(found) > _MOST_LABELS:
        return {}
    return found if all(isinstance(value, str) for value in found.values()) else {}


def named_ports(service: JsonObject) -> tuple[str, ...]:
    """The first ports that a Service leads to by name."""
    ports = value_at(service, "spec", "ports")
    targets = (value_at(port, "targetPort") for port in ports) if isinstance(ports, list) else ()
    named = (target for target in targets if isinstance(target, str) and not target.isdigit())
    return tuple(itertools.islice(dict.fromkeys(named), _MOST_PORTS))


def _controller(service: JsonObject) -> str:
    """The Deployment that owns it, whatever somebody has made of its label."""
    owner = controller(service)
    return str(value_at(owner, "name") or "") if value_at(owner, "kind") == "Deployment" else ""
