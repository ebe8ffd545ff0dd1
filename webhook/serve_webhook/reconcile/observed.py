"""What the reconciler knows of one Deployment before it acts. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from serve_core.admission.decide import Verdict
from serve_core.api import serving_spec
from serve_core.api.loader_protocol import LoaderOutput
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.json import JsonObject
from serve_core.base.ownership import Identity, claims, identity, is_leaving, owns
from serve_core.knative import traffic
from serve_core.workload.prefetch import is_prefetch
from serve_kube.conditions import find_condition
from serve_kube.resources import DOMAIN_MAPPINGS, KNATIVE_SERVICES, owned_resource
from serve_webhook.cache.trimming import POD_READY
from serve_webhook.reconcile import pods
from serve_webhook.reconcile.conditions import Condition
from serve_webhook.reconcile.pods import PodFinding


@dataclass(frozen=True)
class LastApplied:
    """The result of an object's last apply."""

    fingerprint: str
    """Of the applied manifest."""
    uid: str
    spec: str
    """Fingerprint of the stored spec: Services and autoscalers have no generation."""


@dataclass(frozen=True)
class Observed:
    """One Deployment, the objects of its label, and its pods."""

    deployment: JsonObject
    verdict: Verdict
    live: Mapping[Identity, JsonObject] = field(default_factory=dict)
    """The objects with its label, and those with the name of a wanted object, whatever their owner."""
    pods: Sequence[JsonObject] = ()
    outputs: Mapping[str, LoaderOutput] = field(default_factory=dict)
    """Last output of each running loader, by pod."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """The node's warning about each pod that does not start, by pod."""
    applied: Mapping[Identity, LastApplied] = field(default_factory=dict)
    scaling: Mapping[tuple[str, str], Mapping[str, str | None]] = field(default_factory=dict)
    """The annotations of the autoscaler that were set last, by the Knative Service's UID and the revision."""
    autoscaler: Mapping[str, str] = field(default_factory=dict)
    """Knative's settings of its autoscaler, the data of ConfigMap ``config-autoscaler``."""
    fault: Condition | None = None
    """Ready, where an apply failed."""
    prefetch_cause: PodFinding | None = None
    """Why nodes do not load the model in advance, if a reason is known."""
    prefetch_seconds: float = 0.0
    """Since the nodes were asked to."""

    @cached_property
    def spec(self) -> ServingSpec | None:
        """The annotations of the Deployment, read once for all that is planned."""
        return serving_spec.read_stored(self.deployment)

    @property
    def wanted(self) -> tuple[JsonObject, ...]:
        """The objects to apply, in this order."""
        return self.verdict.objects

    @property
    def wanted_prefetch(self) -> JsonObject | None:
        """What loads the model on nodes in advance, if it should exist. The model does not depend on it."""
        return next(filter(is_prefetch, self.wanted), None)

    @property
    def prefetch(self) -> JsonObject | None:
        """The live object, if it is ours."""
        wanted = self.wanted_prefetch
        found = None if wanted is None else self.live.get(identity(wanted))
        return found if found is not None and owns(self.deployment, found) else None

    @property
    def served(self) -> bool:
        return bool(self.wanted) or self.verdict.refused

    @property
    def is_deployment_mode(self) -> bool:
        """Whether the Deployment itself runs the pods."""
        return self.verdict.service is None and not self.verdict.refused

    @property
    def own_pods(self) -> list[JsonObject]:
        """The pods of the present template, or of the newest revision."""
        if self.is_deployment_mode:
            return pods.of_template(self.pods)
        status = (self.service or {}).get("status") or {}
        return pods.of_revision(self.pods, status.get("latestCreatedRevisionName") or "")

    @property
    def is_deleting(self) -> bool:
        return "deletionTimestamp" in self.deployment["metadata"]

    @property
    def service(self) -> JsonObject | None:
        """The live Knative Service, if it is ours."""
        if self.verdict.service is None:
            # It may still exist: the Deployment was refused since, or its mode has changed.
            ours = (live for live in self.live.values() if is_knative_service(live) and owns(self.deployment, live))
            return next(ours, None)
        found = self.live.get(identity(self.verdict.service))
        return found if found is not None and owns(self.deployment, found) else None

    @property
    def waits_for_a_revision(self) -> bool:
        """Whether a revision that is to get traffic, such as after a rollback, has no pod that is ready."""
        if self.service is None or self.verdict.service is None:
            return False
        return any(
            not any(find_condition(pod, POD_READY).get("status") == "True" for pod in pods.of_revision(self.pods, name))
            for name in traffic.starting(self.service, self.verdict.service)
        )

    @property
    def mapping(self) -> JsonObject | None:
        """The live DomainMapping, if the model has its own host name."""
        wanted = (identity(manifest) for manifest in self.wanted if manifest["kind"] == DOMAIN_MAPPINGS.kind)
        return next((self.live[at] for at in wanted if at in self.live), None)

    @property
    def name_conflict(self) -> JsonObject | None:
        """An object of another owner that has the name of a wanted object."""
        return next((live for live in self._foreign if not is_leaving(self.deployment, live)), None)

    @property
    def waits_for_name(self) -> bool:
        """Whether a wanted name still belongs to the Service that Knative made for our Knative Service, which is
        ending."""
        return any(is_leaving(self.deployment, live) for live in self._foreign)

    @property
    def _foreign(self) -> list[JsonObject]:
        found = (self.live.get(identity(manifest)) for manifest in self.wanted if not is_prefetch(manifest))
        return [live for live in found if live is not None and not claims(self.deployment, live)]


def is_knative_service(manifest: JsonObject) -> bool:
    return owned_resource(manifest) is KNATIVE_SERVICES
