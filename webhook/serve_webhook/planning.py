"""What is to be done about one Deployment, from what was observed. Pure: the executor does it, and nothing else.

The Knative Service comes first (:func:`service_change`), then what is said about it (:func:`report`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from serve_core.annotations import OBSERVED_GENERATION, READY_REVISION, URL
from serve_core.json import JsonObject
from serve_core.names import CONDITION_MODEL_LOADED, CONDITION_READY
from serve_core.reasons import condition_message
from serve_core.verdict import Verdict
from serve_webhook import conditions
from serve_webhook.conditions import Condition, Progress

OWN_ANNOTATIONS = (URL, READY_REVISION, OBSERVED_GENERATION)


@dataclass(frozen=True)
class Applied:
    """What the last apply of a Knative Service left behind."""

    fingerprint: str
    """Of what was applied."""
    uid: str
    generation: int


@dataclass(frozen=True)
class Observed:
    """Everything that is known of one Deployment."""

    deployment: JsonObject
    verdict: Verdict
    service: JsonObject | None = None
    """The live Knative Service of its name, whoever owns it."""
    pods: Sequence[JsonObject] = ()
    lines: Mapping[str, JsonObject] = field(default_factory=dict)
    """The last line of each running loader's log, by pod."""
    applied: Applied | None = None
    fault: Condition | None = None
    """Why the last apply failed: what :attr:`Ready` says then."""

    @property
    def served(self) -> bool:
        return self.verdict.service is not None or self.verdict.refused

    @property
    def going(self) -> bool:
        return "deletionTimestamp" in self.deployment["metadata"]

    @property
    def owned(self) -> bool:
        return self.service is not None and owns(self.deployment, self.service)


@dataclass(frozen=True)
class ApplyService:
    """Apply ``manifest``. With ``uid`` it changes that object, by force; without, nothing may be there yet."""

    manifest: JsonObject
    fingerprint: str
    uid: str | None = None


@dataclass(frozen=True)
class Park:
    """Set the replicas back to zero."""


@dataclass(frozen=True)
class Annotate:
    """Apply our annotations to the Deployment, if it still has this generation."""

    annotations: Mapping[str, str]
    generation: int


@dataclass(frozen=True)
class SetConditions:
    """Apply our conditions to the Deployment's status; ``told`` are those that users are to hear of by an Event."""

    entries: Sequence[JsonObject]
    told: Sequence[Condition] = ()


@dataclass(frozen=True)
class DeleteService:
    uid: str


Action = ApplyService | Park | Annotate | SetConditions | DeleteService


def owns(deployment: JsonObject, service: JsonObject) -> bool:
    """Whether the Deployment is the controller of the Knative Service."""
    return any(
        reference.get("controller") and reference.get("uid") == deployment["metadata"]["uid"]
        for reference in service["metadata"].get("ownerReferences") or []
    )


def service_change(observed: Observed) -> ApplyService | None:
    """The write that the Knative Service needs, if any."""
    wanted = observed.verdict.service
    if wanted is None or observed.going or (observed.service is not None and not observed.owned):
        return None
    manifest = _with_owner(wanted, observed.deployment)
    fingerprint = _fingerprint(manifest)
    live, applied = observed.service, observed.applied
    if live is None:
        return ApplyService(manifest, fingerprint)
    metadata = live["metadata"]
    if "deletionTimestamp" in metadata:
        return None
    unchanged = (
        applied is not None
        and (applied.fingerprint, applied.uid) == (fingerprint, metadata["uid"])
        and metadata["generation"] == applied.generation
        and all(_contains(metadata.get(key), manifest["metadata"].get(key)) for key in ("labels", "annotations"))
    )
    return None if unchanged else ApplyService(manifest, fingerprint, metadata["uid"])


def report(observed: Observed, now: datetime) -> tuple[Action, ...]:
    """The writes that the Deployment needs, in their order."""
    deployment = observed.deployment
    if observed.going or not observed.served:
        return ()
    actions: list[Action] = []
    # What was refused is not parked: the user's own number may be all that runs.
    if observed.verdict.service is not None and (deployment.get("spec") or {}).get("replicas") != 0:
        actions.append(Park())
    progress = _progress(observed)
    told = _conditions(observed, progress)
    before = [conditions.stored(deployment, condition.type) for condition in told]
    notes = _annotations(observed, progress)
    writes: list[Action] = []
    if told != before:
        news = [new for new, old in zip(told, before, strict=True) if _is_news(new, old)]
        writes.append(SetConditions(conditions.entries(told, deployment, now), news))
    if notes:
        writes.append(Annotate(notes, deployment["metadata"]["generation"]))
    # Whoever waits for Ready reads the annotations next: good news comes last, bad news first.
    if told[-1].status == "True":
        writes.reverse()
    return (*actions, *writes)


def release(deployment: JsonObject, service: JsonObject) -> tuple[Action, ...] | None:
    """What is left to do about a Deployment that is served no more; ``None`` while its own pods are not there yet."""
    if not owns(deployment, service) or "deletionTimestamp" in deployment["metadata"]:
        return ()
    if _starting(deployment):
        return None
    actions: list[Action] = []
    if any(conditions.stored(deployment, kind) for kind in (CONDITION_MODEL_LOADED, CONDITION_READY)):
        actions.append(SetConditions(()))
    if any(key in (deployment["metadata"].get("annotations") or {}) for key in OWN_ANNOTATIONS):
        actions.append(Annotate({}, deployment["metadata"]["generation"]))
    return (*actions, DeleteService(service["metadata"]["uid"]))


def _starting(deployment: JsonObject) -> bool:
    """Whether the plain Deployment is about to have a pod that serves, so that nothing is taken away before."""
    status = deployment.get("status") or {}
    if (deployment.get("spec") or {}).get("replicas", 1) == 0 or status.get("availableReplicas"):
        return False
    stuck = conditions.stored(deployment, "Progressing")
    return stuck is None or stuck.status != "False"


def _progress(observed: Observed) -> Progress | None:
    if observed.service is None or not observed.owned:
        return None
    notes = observed.deployment["metadata"].get("annotations") or {}
    return Progress(
        service=observed.service,
        name=observed.deployment["metadata"]["name"],
        pods=observed.pods,
        lines=observed.lines,
        reported=conditions.stored(observed.deployment, CONDITION_MODEL_LOADED),
        reported_revision=notes.get(READY_REVISION, ""),
    )


def _conditions(observed: Observed, progress: Progress | None) -> list[Condition]:
    """ModelLoaded and Ready, in this order."""
    waiting = Condition(CONDITION_MODEL_LOADED, "Unknown", "Loading", _upper(condition_message("Loading")))
    loaded = conditions.model_loaded(progress) if progress else waiting
    if observed.verdict.refused:
        first = observed.verdict.problems[0]
        text = "\n".join(map(str, observed.verdict.problems))[: conditions.LONGEST]
        return [loaded, Condition(CONDITION_READY, "False", first.code, text)]
    if observed.fault:
        return [loaded, observed.fault]
    if observed.service is not None and not observed.owned:
        return [loaded, Condition(CONDITION_READY, "False", "NameTaken", _upper(condition_message("NameTaken")))]
    if progress is None:
        return [loaded, Condition(CONDITION_READY, "Unknown", "Progressing", _upper(condition_message("Progressing")))]
    return [loaded, conditions.ready(progress, loaded)]


def _annotations(observed: Observed, progress: Progress | None) -> dict[str, str]:
    """Our annotations as they should be; empty when they are."""
    metadata = observed.deployment["metadata"]
    notes = metadata.get("annotations") or {}
    wanted = {key: notes[key] for key in (URL, READY_REVISION) if key in notes}
    if progress and progress.url:
        wanted[URL] = progress.url
    if progress and progress.settled and progress.ready:
        wanted[READY_REVISION] = progress.ready
    generation = int(metadata["generation"])
    unchanged = all(notes.get(key) == value for key, value in wanted.items())
    if unchanged and notes.get(OBSERVED_GENERATION) == str(generation):
        return {}
    # A change of any annotation adds one to a Deployment's generation (pkg/registry/apps/deployment/strategy.go),
    # this one's own as well: what is written is the generation that writing it makes.
    return wanted | {OBSERVED_GENERATION: str(generation + 1)}


def _is_news(new: Condition, old: Condition | None) -> bool:
    """Whether users are to hear of it: what went well or wrong, not that something goes on."""
    said = old is not None and (old.status, old.reason) == (new.status, new.reason)
    return not said and new.reason not in ("Loading", "Progressing", "NotNeeded")


def _with_owner(service: JsonObject, deployment: JsonObject) -> JsonObject:
    metadata = deployment["metadata"]
    owner = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return service | {"metadata": service["metadata"] | {"ownerReferences": [owner]}}


def _fingerprint(manifest: JsonObject) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _contains(live: Mapping[str, str] | None, wanted: Mapping[str, str] | None) -> bool:
    return (wanted or {}).items() <= (live or {}).items()


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
