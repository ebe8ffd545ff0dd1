"""What is to be done about one Deployment, from what was observed. Pure: the executor does it, and nothing else.

The objects that the Deployment becomes come first (:func:`change`, :func:`surplus`), then what is said about them
(:func:`report`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from serve_core.admission import handover
from serve_core.admission.decide import Verdict
from serve_core.api import serving_spec, sizing
from serve_core.api.annotations import (
    HANDOVER,
    MODEL_SIZE,
    NOTED,
    OBSERVED_GENERATION,
    OF_REVISIONS,
    PREVIOUS,
    READY_REVISION,
    SERVICE,
    URL,
    is_current,
)
from serve_core.api.loader_protocol import NOTHING, LoaderOutput
from serve_core.base.constants import CONDITION_MODEL_LOADED, CONDITION_READY, DEPLOYMENT_LABEL, SERVED_LABEL
from serve_core.base.json import JsonObject
from serve_core.base.ownership import Identity, claims, identity, is_leaving, owns
from serve_core.knative import traffic
from serve_webhook.api import DOMAIN_MAPPINGS, KNATIVE_SERVICES, SERVICES, owned_resource
from serve_webhook.reconcile import conditions, pods
from serve_webhook.reconcile.conditions import Condition, LoadProgress


@dataclass(frozen=True)
class Applied:
    """What the last apply of an object left behind."""

    fingerprint: str
    """Of what was applied."""
    uid: str
    spec: str
    """The fingerprint of its spec as it is stored: Services and autoscalers have no generation."""


@dataclass(frozen=True)
class Observed:
    """Everything that is known of one Deployment."""

    deployment: JsonObject
    verdict: Verdict
    live: Mapping[Identity, JsonObject] = field(default_factory=dict)
    """The objects that carry its label, and those that have a name it wants, whoever owns them."""
    pods: Sequence[JsonObject] = ()
    lines: Mapping[str, LoaderOutput] = field(default_factory=dict)
    """The last line of each running loader's log, by pod."""
    warnings: Mapping[str, str] = field(default_factory=dict)
    """What the node says of each pod that it cannot start, by pod."""
    applied: Mapping[Identity, Applied] = field(default_factory=dict)
    fault: Condition | None = None
    """Why an apply failed: what Ready says then."""

    @property
    def wanted(self) -> tuple[JsonObject, ...]:
        """The objects that the Deployment becomes, in the order of their application."""
        return self.verdict.objects

    @property
    def served(self) -> bool:
        return bool(self.wanted) or self.verdict.refused

    @property
    def plain(self) -> bool:
        """Whether the Deployment runs the pods itself."""
        return self.verdict.service is None and not self.verdict.refused

    @property
    def own_pods(self) -> list[JsonObject]:
        """Those that load its model as it is now: of the present template, or of the newest revision."""
        if self.plain:
            return pods.of_template(self.pods)
        status = (self.service or {}).get("status") or {}
        return pods.of_revision(self.pods, status.get("latestCreatedRevisionName") or "")

    @property
    def going(self) -> bool:
        return "deletionTimestamp" in self.deployment["metadata"]

    @property
    def service(self) -> JsonObject | None:
        """The live Knative Service, if it is ours."""
        if self.verdict.service is None:
            # It may still be there: refused since, or on its way out.
            ours = (live for live in self.live.values() if _is_knative_service(live) and owns(self.deployment, live))
            return next(ours, None)
        found = self.live.get(identity(self.verdict.service))
        return found if found is not None and owns(self.deployment, found) else None

    @property
    def mapping(self) -> JsonObject | None:
        """The live DomainMapping of a model with a host name of its own."""
        wanted = (identity(manifest) for manifest in self.wanted if manifest["kind"] == DOMAIN_MAPPINGS.kind)
        return next((self.live[at] for at in wanted if at in self.live), None)

    @property
    def taken(self) -> JsonObject | None:
        """An object of somebody else's that has a name which is wanted."""
        return next((live for live in self._others if not is_leaving(self.deployment, live)), None)

    @property
    def awaits(self) -> bool:
        """Whether a name is wanted that Knative's Service of our own, which is on its way out, still has."""
        return any(is_leaving(self.deployment, live) for live in self._others)

    @property
    def _others(self) -> list[JsonObject]:
        found = (self.live.get(identity(manifest)) for manifest in self.wanted)
        return [live for live in found if live is not None and not claims(self.deployment, live)]


@dataclass(frozen=True)
class Apply:
    """Apply ``manifest``. With ``uid`` it changes that object, by force; without, nothing may be there yet."""

    manifest: JsonObject
    fingerprint: str
    uid: str | None = None


@dataclass(frozen=True)
class Delete:
    manifest: JsonObject


@dataclass(frozen=True)
class Merge:
    """Merge ``patch`` into the Deployment. ``why``: a word for the metrics."""

    patch: JsonObject
    why: str


@dataclass(frozen=True)
class Annotate:
    """Apply our annotations to the Deployment, if it is still as it was observed."""

    annotations: Mapping[str, str]


@dataclass(frozen=True)
class SetConditions:
    """Apply our conditions to the Deployment's status; ``told`` are those that users are to hear of by an Event."""

    entries: Sequence[JsonObject]
    told: Sequence[Condition] = ()


Action = Delete | Merge | Annotate | SetConditions


def _is_knative_service(manifest: JsonObject) -> bool:
    return owned_resource(manifest) is KNATIVE_SERVICES


def change(observed: Observed, wanted: JsonObject) -> Apply | None:
    """The write that a wanted object needs, if any. What belongs to somebody else needs none."""
    live = observed.live.get(identity(wanted))
    if observed.going or (live is not None and not claims(observed.deployment, live)):
        return None
    manifest = _with_owner(wanted, observed.deployment)
    fingerprint = fingerprint_of(manifest)
    if live is None:
        return Apply(manifest, fingerprint)
    metadata, applied = live["metadata"], observed.applied.get(identity(wanted))
    if "deletionTimestamp" in metadata:
        return None
    unchanged = (
        applied is not None
        and owns(observed.deployment, live)
        and (applied.fingerprint, applied.uid) == (fingerprint, metadata["uid"])
        and fingerprint_of(live.get("spec")) == applied.spec
        and all(_contains(metadata.get(key), manifest["metadata"].get(key)) for key in ("labels", "annotations"))
    )
    return None if unchanged else Apply(manifest, fingerprint, metadata["uid"])


_FILLED_ONCE = frozenset({"enableServiceLinks"})
"""What Knative fills into a Service when that is made, and not when it is changed (Knative Serving 1.23,
``pkg/apis/serving/v1/revision_defaults.go``): taken out, it would make another revision of every model."""


def overwriting(manifest: JsonObject, live: JsonObject) -> JsonObject:
    """The merge patch that leaves of an object's spec what ``manifest`` says, whoever is said to manage the rest.

    A server-side apply takes off only what our field manager has set before, and anybody can write with its name or
    take all managers off. What the API server fills in goes as well, and is filled in again at once.
    """
    label = {DEPLOYMENT_LABEL: manifest["metadata"]["labels"][DEPLOYMENT_LABEL]}
    versions = {key: live["metadata"][key] for key in ("uid", "resourceVersion")}
    owners = manifest["metadata"]["ownerReferences"]
    metadata = {"labels": label, "ownerReferences": owners, **versions}
    return {"metadata": metadata, "spec": _replacing(live.get("spec"), manifest.get("spec"))}


def _replacing(live: object, wanted: object) -> object:
    """The merge patch (RFC 7396) that makes ``wanted`` of ``live``."""
    if not isinstance(live, dict) or not isinstance(wanted, dict):
        return wanted
    return dict.fromkeys(live.keys() - wanted.keys() - _FILLED_ONCE) | {
        key: _replacing(live.get(key), value) for key, value in wanted.items()
    }


def preparation(observed: Observed, apply: Apply, now: datetime) -> Merge | SetConditions | None:
    """The write to the Deployment that has to come before a Knative Service is made or changed, if any.

    The revisions of one that is gone, or has another name, are none of the new one's, whose Route would wait for them
    for ever. And Ready was the one before: ``kubectl wait`` looks at once.
    """
    deployment = observed.deployment
    if not _is_knative_service(apply.manifest):
        return None
    notes = deployment["metadata"].get("annotations") or {}
    stale = [key for key in OF_REVISIONS if key in notes]
    if stale and apply.uid is None:
        return Merge({"metadata": {"annotations": dict.fromkeys(stale)}}, "revisions")
    ready = conditions.stored(deployment, CONDITION_READY)
    if is_current(deployment) or ready is None or ready.status != "True":
        return None
    loaded = conditions.stored(deployment, CONDITION_MODEL_LOADED)
    told = [*([loaded] if loaded else []), conditions.said(CONDITION_READY, "Unknown", "Progressing")]
    return SetConditions(conditions.entries(told, deployment, now))


def surplus(observed: Observed) -> tuple[Delete, ...]:
    """What the Deployment owned once and wants no more. A Knative Service goes when the Deployment's own pods serve, or
    the one that has taken its place under another name; an orphan as well, as Knative's Service has the name that is
    wanted. A Service in front of its own pods goes when nothing but its name is lacking to the Knative Service."""
    deployment, verdict = observed.deployment, observed.verdict
    if observed.going or verdict.refused:
        return ()
    wanted = {identity(manifest) for manifest in observed.wanted}
    ours = [
        live
        for at, live in observed.live.items()
        if at not in wanted
        and (owns(deployment, live) or (wanted and _is_knative_service(live) and claims(deployment, live)))
    ]
    if not verdict.service and not handover.is_back(deployment):
        return ()
    if verdict.service and not (observed.service and conditions.answers(observed.service)):
        ours = [live for live in ours if not _is_knative_service(live)]
        if not (observed.service and conditions.has_a_ready_revision(observed.service)):
            ours = [live for live in ours if owned_resource(live) is not SERVICES]
    return tuple(Delete(live) for live in ours if "deletionTimestamp" not in live["metadata"])


def report(observed: Observed, now: datetime) -> tuple[Action, ...]:
    """The writes that a served Deployment needs, in their order."""
    deployment = observed.deployment
    if observed.going:
        return ()
    progress = _progress(observed)
    told = _conditions(observed, progress)
    is_ready = told[-1].status == "True"
    if parking := _parking(observed, is_ready):
        # It changes the generation: the rest follows from what it leaves behind.
        return (parking,)
    before = [conditions.stored(deployment, condition.type) for condition in told]
    notes = _notes(observed, progress, told[0])
    writes: list[Action] = []
    if told != before:
        news = [new for new, old in zip(told, before, strict=True) if _is_news(new, old)]
        writes.append(SetConditions(conditions.entries(told, deployment, now), news))
    if notes:
        writes.append(Annotate(notes))
    # Whoever waits for Ready reads the annotations next: good news comes last, bad news first.
    if is_ready:
        writes.reverse()
        if _moves_traffic(observed, notes):
            return (Annotate(notes),)  # Ready follows once Knative has led it so: it would be taken back for that
    return tuple(writes)


def release(deployment: JsonObject) -> tuple[Action, ...]:
    """What takes the last of us off a Deployment that is served no more and owns nothing of ours any more."""
    metadata = deployment["metadata"]
    actions: list[Action] = []
    if any(conditions.stored(deployment, kind) for kind in (CONDITION_MODEL_LOADED, CONDITION_READY)):
        actions.append(SetConditions(()))
    notes = metadata.get("annotations") or {}
    if any(key in notes for key in NOTED):
        actions.append(Annotate({}))
    if HANDOVER in notes or SERVED_LABEL in (metadata.get("labels") or {}):
        last = {"metadata": {"labels": {SERVED_LABEL: None}, "annotations": {HANDOVER: None}}}
        actions.append(Merge(last, "release"))
    return tuple(actions)


def _moves_traffic(observed: Observed, notes: Mapping[str, str]) -> bool:
    """Whether noting this changes where the Knative Service leads: what was promoted before gets a tag."""
    spec, present = (
        serving_spec.read_stored(observed.deployment),
        observed.deployment["metadata"].get("annotations") or {},
    )
    if observed.verdict.service is None or spec is None or not notes:
        return False
    return traffic.targets(spec, present) != traffic.targets(spec, notes)


def _parking(observed: Observed, is_ready: bool) -> Merge | None:
    deployment = observed.deployment
    if observed.verdict.service is None:
        return None
    if _hands_over(deployment):
        return Merge(handover.finish(), "handover") if is_ready else None
    if deployment["spec"].get("replicas") == 0:
        return None
    return Merge({"spec": {"replicas": 0}}, "park")


def _hands_over(deployment: JsonObject) -> bool:
    return (deployment["metadata"].get("annotations") or {}).get(HANDOVER) == handover.TO_KNATIVE


def _progress(observed: Observed) -> LoadProgress | None:
    service = observed.service
    if service is None:
        return None
    notes = observed.deployment["metadata"].get("annotations") or {}
    return LoadProgress(
        service=service,
        name=observed.deployment["metadata"]["name"],
        pods=observed.own_pods,
        lines=observed.lines,
        warnings=observed.warnings,
        reported=conditions.stored(observed.deployment, CONDITION_MODEL_LOADED),
        reported_revision=notes.get(READY_REVISION, ""),
    )


def _conditions(observed: Observed, progress: LoadProgress | None) -> list[Condition]:
    """ModelLoaded and Ready, in this order."""
    if observed.plain:
        loaded = conditions.plain_loaded(observed.deployment, observed.own_pods, observed.lines, observed.warnings)
    elif progress:
        loaded = conditions.model_loaded(progress)
    else:
        loaded = conditions.said(CONDITION_MODEL_LOADED, "Unknown", "Loading")
    if observed.verdict.refused:
        problems = observed.verdict.problems
        text = "\n".join(map(str, problems))
        return [loaded, Condition(CONDITION_READY, "False", problems[0].code, text)]
    if observed.fault:
        return [loaded, observed.fault]
    if observed.taken:
        return [loaded, conditions.said(CONDITION_READY, "False", "NameTaken", **named(observed.taken))]
    if observed.plain:
        ready = conditions.plain_ready(observed.deployment, observed.own_pods, loaded, observed.warnings)
        if ready.status == "True" and observed.awaits:
            ready = conditions.said(CONDITION_READY, "Unknown", "Progressing")
        return [loaded, ready]
    # At the end of a handover the Service before its own pods has only just gone: Knative is about to see that.
    if progress is None or (progress.lacks_its_name and _hands_over(observed.deployment)):
        return [loaded, conditions.said(CONDITION_READY, "Unknown", "Progressing")]
    ready = conditions.ready(progress, loaded, observed.verdict.warnings)
    return [loaded, conditions.with_domain(ready, observed.mapping)]


def _notes(observed: Observed, progress: LoadProgress | None, loaded: Condition) -> dict[str, str]:
    """Our annotations as they should be; empty when they are."""
    metadata = observed.deployment["metadata"]
    present = {key: value for key, value in (metadata.get("annotations") or {}).items() if key in NOTED}
    wanted = dict(present)
    name = observed.verdict.name
    if observed.plain:
        wanted = {URL: f"http://{name}.{metadata['namespace']}.svc"}
    if name not in ("", metadata["name"]):
        wanted[SERVICE] = name
    if progress and progress.url:
        wanted[URL] = (observed.mapping and conditions.mapped_url(observed.mapping)) or progress.url
    if progress and progress.settled and progress.ready:
        wanted[READY_REVISION] = progress.ready
    if progress:
        wanted = _with_size(wanted, observed)
        if (previous := wanted.get(PREVIOUS)) and progress.lacks(previous):
            del wanted[PREVIOUS]
    spec = serving_spec.read_stored(observed.deployment)
    # What has the traffic does not wait for a host name.
    if progress and spec and conditions.ready(progress, loaded).status == "True":
        wanted |= traffic.settled(spec, wanted, progress.service["status"])
    generation = int(metadata["generation"])
    wanted[OBSERVED_GENERATION] = str(generation)
    if wanted == present:
        return {}
    # A change of any annotation adds one to a Deployment's generation (pkg/registry/apps/deployment/strategy.go),
    # this one's own as well: what is written is the generation that writing it makes.
    return wanted | {OBSERVED_GENERATION: str(generation + 1)}


def _with_size(notes: dict[str, str], observed: Observed) -> dict[str, str]:
    """``notes`` with the size of the model that its pods load, if they tell it and it matters."""
    told = [pods.model_size(pod, observed.lines.get(pod["metadata"]["name"], NOTHING)) for pod in observed.own_pods]
    size = next((size for size in told if size is not None), None)
    if size is None:
        return notes
    others = {key: value for key, value in notes.items() if key != MODEL_SIZE}
    return others | ({MODEL_SIZE: str(size)} if size >= sizing.LEAST else {})


def _is_news(new: Condition, old: Condition | None) -> bool:
    """Whether users are to hear of it: what went well or wrong, not that something goes on."""
    again = old is not None and (old.status, old.reason) == (new.status, new.reason)
    return not again and new.reason not in ("Loading", "Progressing", "NotNeeded")


def _with_owner(manifest: JsonObject, deployment: JsonObject) -> JsonObject:
    metadata = deployment["metadata"]
    owner = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return manifest | {"metadata": manifest["metadata"] | {"ownerReferences": [owner]}}


def named(manifest: JsonObject) -> dict[str, str]:
    """An object's kind and name, as sentences of the catalogue have them."""
    kind = "Knative Service" if _is_knative_service(manifest) else manifest["kind"]
    return {"kind": kind, "name": manifest["metadata"]["name"]}


def fingerprint_of(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _contains(live: Mapping[str, str] | None, wanted: Mapping[str, str] | None) -> bool:
    return (wanted or {}).items() <= (live or {}).items()
