"""Rule ``resources``: how much of each resource the replicas of a model take."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated

from serve_core.api.schema import doc, schema_of
from serve_core.base.reasons import Diagnostic, diagnostic, quote
from serve_core.policy.check import Check, finding, unreadable
from serve_core.policy.field_types import Quantity
from serve_core.policy.subject import PodUse, ReplicaBounds, Subject, rescale
from serve_core.syntax import quantity
from serve_core.syntax.glob import matches

_EXCEEDED = finding(
    "ResourceExceeded", "{by} allows at most {most} of {resource} {per}, and this requests {wanted}.", "Request less."
)
_UNBOUNDED = finding("ResourceUnbounded", "{by} limits {resource} {per}, and {why}.", "{way_out}")

_NODE_RESOURCES = re.compile(r"cpu|memory|ephemeral-storage|pods|hugepages-.*", re.DOTALL)
"""Resources that are not devices."""
_CLASS_RESOURCE = "deviceclass.resource.kubernetes.io/"
"""Prefix of a device class: dynamic resource allocation by a resource name (Kubernetes 1.34)."""
_MAX_AMOUNTS = 1000
"""The maximum of amounts and containers of an object that are counted."""


@schema_of(("has(self.perReplica) || has(self.total)", "bound something"))
@dataclass(frozen=True)
class ResourcesCheck(Check):
    """Maximum resources, by name. * stands for any characters, and bounds the sum of all that match.

    A container's limit counts, or its request if it has no limit.
    """

    reads = ("pods", "scale")
    reasons = (_EXCEEDED, _UNBOUNDED)

    per_replica: Annotated[dict[str, Quantity], doc("Maximum for one replica.", max_length=32)] = field(
        default_factory=dict
    )
    total: Annotated[
        dict[str, Quantity],
        doc(
            "Maximum for all replicas that can run at once: the maximum scale, and the replicas that a rolling update "
            "or other revisions add.",
            max_length=32,
        ),
    ] = field(default_factory=dict)

    def findings(self, subject: Subject, by: str) -> Iterator[Diagnostic]:
        asked = sum(len(pod.amounts) + sum(1 + len(use.amounts) for use in pod.containers) for pod in subject.pods)
        if asked > _MAX_AMOUNTS:
            why = f"it requests more than {_MAX_AMOUNTS} amounts"
            yield _unbounded("spec", "resources", by, "per replica", why, "Request fewer.")
            return
        for bounds, times in ((self.per_replica, None), (self.total, subject.scale)):
            of_one = bounds is self.per_replica
            if of_one or times is not None:
                for resource, most in bounds.items():
                    yield from _amount(resource, most, subject, by, times)
            elif subject.kind == "ServingRuntime":
                yield from _runtime_devices(bounds, subject, by)
            else:
                continue
            yield from _other_names(bounds, subject, by, "per replica" if of_one else "for all replicas")

    def faults(self) -> Iterable[tuple[str, str]]:
        for key, bounds in (("perReplica", self.per_replica), ("total", self.total)):
            yield from unreadable([(f"{key}.{name}", amount) for name, amount in bounds.items()], quantity.parse)


def _runtime_devices(bounds: Mapping[str, str | int], subject: Subject, by: str) -> Iterator[Diagnostic]:
    """Devices of a ServingRuntime: the InferenceServices that use it define how many replicas there are."""
    for resource in bounds:
        for pod in () if _NODE_RESOURCES.fullmatch(resource) else subject.pods:
            amount, faults = _of_pod(pod, resource)
            if amount or faults:
                why, way_out = (
                    "the InferenceService that uses it sets the number of replicas",
                    "Set it in the InferenceService.",
                )
                yield _unbounded(f"{pod.path}.containers", resource, by, "for all replicas", why, way_out)


def _other_names(bounds: Mapping[str, object], subject: Subject, by: str, per: str) -> Iterator[Diagnostic]:
    """Devices of a bounded vendor under other names, such as a part of a GPU."""
    vendors = {key.partition("/")[0]: key for key in bounds if "/" in key}
    for pod in subject.pods:
        for owner, path in (*((use.amounts, use.path) for use in pod.containers), (pod.amounts, pod.path)):
            for name in owner:
                vendor, slash, _ = name.partition("/")
                if slash and vendor in vendors and not any(matches(name, key) for key in bounds):
                    known = vendors[vendor]
                    why = f"{quote(name)} can be the same device, or a part of it"
                    yield _unbounded(f"{path}.resources", known, by, per, why, f"Request {known} instead.")


def _amount(
    resource: str, most: str | int, subject: Subject, by: str, times: ReplicaBounds | None
) -> Iterator[Diagnostic]:
    per = "per replica" if times is None else "for all replicas"
    wanted, unbounded = Fraction(0), list[_Uncountable]()
    for pod in subject.pods:
        amount, faults = _of_pod(pod, resource)
        unbounded += faults
        if pod.times is None and amount:
            why = "the number of these pods is unknown"
            unbounded.append(_Uncountable(f"{pod.path}.pipelineParallelSize", why, "Set it here."))
        wanted += amount * (pod.times or 0)
    for found in unbounded:
        yield _unbounded(found.path, resource, by, per, found.why, found.way_out)
    if unbounded:
        return
    shown = ""
    if times is not None:
        if times.maximum_at_once is None and wanted:
            why = "there is no maximum number of replicas"
            yield _unbounded(times.maximum_path, resource, by, per, why, rescale(times.maximum_path))
            return
        wanted *= times.maximum_at_once or 0
        if times.beside:
            shown = f" ({times.maximum} replicas, and {times.beside} that can run in addition)"
    if wanted > quantity.parse(most):
        at = "spec" if times is None else times.maximum_path
        words = {"most": str(most), "resource": resource, "per": per, "wanted": quantity.text(wanted) + shown}
        yield diagnostic(_EXCEEDED, at, by=by, **words)


@dataclass(frozen=True)
class _Uncountable:
    """Something that cannot be counted."""

    path: str
    why: str
    way_out: str


def _of_pod(pod: PodUse, resource: str) -> tuple[Fraction, list[_Uncountable]]:
    """A pod's amount of the resources with that name, as Kubernetes counts it, and what cannot be counted."""
    faults: list[_Uncountable] = []
    limit, device = f"Set a limit of {resource}.", "Request the device as a resource."

    def asked(amounts: Mapping[str, object], path: str, whose: str) -> Fraction:
        total = Fraction(0)
        for name, written in amounts.items():
            if matches(name, resource):
                try:
                    amount = quantity.parse(written)
                except ValueError:
                    amount = Fraction(-1)
                if amount < 0:
                    faults.append(_Uncountable(path, f"{whose}: {quote(written)} is not a quantity", limit))
                else:
                    total += amount
            elif name.startswith(_CLASS_RESOURCE) and not _NODE_RESOURCES.fullmatch(resource):
                faults.append(_Uncountable(path, f"{whose}: the amount that {quote(name)} adds is unknown", device))
        return total

    # Sidecars keep running. An init container needs its share only while it runs, beside the sidecars before it.
    running, before = Fraction(0), Fraction(0)
    for use in pod.containers:
        path, whose = f"{use.path}.resources", f"container {use.name}"
        if resource in ("cpu", "memory") and resource not in use.amounts:
            faults.append(_Uncountable(path, f"{whose}: it has neither a limit nor a request", limit))
        amount = asked(use.amounts, path, whose)
        running, before = (running + amount, before) if use.side else (running, max(before, running + amount))
    whole = asked(pod.amounts, f"{pod.path}.resources", "the pod")
    overhead = asked(pod.overhead, f"{pod.path}.overhead", "the pod")
    if not _NODE_RESOURCES.fullmatch(resource):
        faults += [_Uncountable(at, "the amount that a device claim adds is unknown", device) for at in pod.claims]
    return max(running, before, whole) + overhead, faults


def _unbounded(path: str, resource: str, by: str, per: str, why: str, way_out: str) -> Diagnostic:
    return diagnostic(_UNBOUNDED, path, by=by, resource=resource, per=per, why=why, way_out=way_out)
