"""Where the pods of an object can be reached: in the mesh or past it, from the cluster or from outside."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from serve_core.base import bounds
from serve_core.base.json import JsonObject, object_at, value_at
from serve_core.context.cluster import ClusterContext
from serve_core.istio import sidecar
from serve_core.knative.limits import VISIBILITY_LABEL
from serve_core.policy.subject import Use
from serve_core.subjects.shapes import containers, elements, strings


def in_mesh(templates: Iterable[JsonObject], path: str, namespace: str, context: ClusterContext) -> Use:
    """Whether Istio injects its sidecar into these pods, judged by their metadata and their namespace.

    An object with several kinds of pods is in the mesh if all of them are. Without Istio, none is.
    """
    inside = context.istio is not None and all(
        context.istio.injects(
            namespace,
            {
                "metadata": {key: strings(value_at(template, "metadata", key)) for key in ("labels", "annotations")},
                "spec": {"hostNetwork": value_at(template, "spec", "hostNetwork")},
            },
        )
        for template in templates
    )
    return Use("istio" if inside else "none", path)


def past_sidecar(
    templates: Iterable[tuple[JsonObject, str]], context: ClusterContext, *, injected: bool = False
) -> tuple[Use, ...]:
    """What bypasses the sidecar in these. ``injected``: they are pods, after Istio's injector."""
    redirects = (context.istio.redirects if context.istio else {}) if injected else None
    found = (
        Use(bypass.what, bypass.path)
        for template, path in templates
        for bypass in sidecar.bypasses(template, path, context.known_loaders, injected=redirects)
    )
    return tuple(islice(found, bounds.MAX_USES))


def node_ports(templates: Iterable[tuple[JsonObject, str]]) -> Iterator[str]:
    """The fields that open pods at their node's addresses, where a private model is public."""
    for template, path in templates:
        pod, at = object_at(template, "spec"), f"{path}.spec".removeprefix(".")
        if pod.get("hostNetwork"):
            yield f"{at}.hostNetwork"
        for container, where, _ in containers(pod, at):
            ports = elements(container.get("ports"), f"{where}.ports")
            yield from (f"{place}.hostPort" for port, place in ports if port.get("hostPort"))


def visibility_of(metadata: Any, label: str = VISIBILITY_LABEL) -> Use:
    """Where an object is reachable, according to its visibility label."""
    private = value_at(metadata, "labels", label) == "cluster-local"
    return Use("cluster-local" if private else "public", f"metadata.labels[{label}]")
