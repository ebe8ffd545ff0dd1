"""The conditions that a Deployment is given, from what was observed. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from serve_core.admission.handover import is_back
from serve_core.api.loader_protocol import NOTHING, LoaderOutput
from serve_core.base.constants import CONDITION_MODEL_LOADED, CONDITION_READY, LOADER_CONTAINER
from serve_core.base.escaping import inline, visible
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic
from serve_webhook.reconcile import pods
from serve_webhook.reconcile.pods import PodFinding

LONGEST = 1500
LONGEST_REASON = 200


@dataclass(frozen=True)
class Condition:
    """A Deployment's condition; ``status`` is True, False or Unknown.

    Pods, nodes and stores have a say in what it says: it is made visible and cut here, whoever makes it.
    """

    type: str
    status: str
    reason: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", inline(self.reason)[:LONGEST_REASON])
        object.__setattr__(self, "message", visible(self.message)[:LONGEST])


def stored(deployment: JsonObject, kind: str) -> Condition | None:
    """The condition as it stands on the Deployment."""
    for entry in (deployment.get("status") or {}).get("conditions") or []:
        if entry["type"] == kind:
            return Condition(kind, entry["status"], entry.get("reason") or "", entry.get("message") or "")
    return None


def entries(conditions: Sequence[Condition], deployment: JsonObject, now: datetime) -> list[JsonObject]:
    """The conditions as the API has them. A time of transition stays where the status does."""
    before = {entry["type"]: entry for entry in (deployment.get("status") or {}).get("conditions") or []}
    moment = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "lastUpdateTime": moment,
            "lastTransitionTime": old["lastTransitionTime"]
            if (old := before.get(condition.type)) and old["status"] == condition.status
            else moment,
        }
        for condition in conditions
    ]


@dataclass(frozen=True)
class LoadProgress:
    """How far a Knative Service is. Its conditions count only when they speak of its present generation."""

    service: JsonObject
    name: str
    pods: Sequence[JsonObject]
    """Those of the newest revision."""
    lines: Mapping[str, LoaderOutput]
    """The last line of each running loader's log, by pod."""
    warnings: Mapping[str, str]
    """What the node says of each pod that it cannot start, by pod."""
    reported: Condition | None
    """ModelLoaded as it stands on the Deployment."""
    reported_revision: str
    """The ready revision as it stands on the Deployment."""

    @property
    def settled(self) -> bool:
        """Whether Knative has seen the present generation, and its newest revision is that generation's.

        Where its Configuration has yet to follow, the revision is the one before.
        """
        return _settled(self.service) and self.knative("ConfigurationsReady").get("reason") != "OutOfDate"

    @property
    def _status(self) -> JsonObject:
        return self.service.get("status") or {}

    @property
    def created(self) -> str:
        return str(self._status.get("latestCreatedRevisionName") or "")

    @property
    def ready(self) -> str:
        return str(self._status.get("latestReadyRevisionName") or "")

    @property
    def url(self) -> str:
        return str(self._status.get("url") or "")

    def knative(self, kind: str) -> JsonObject:
        """One of Knative's conditions; empty if it is not there."""
        return _condition(self.service, kind)

    @property
    def lacks_its_name(self) -> bool:
        """Whether a Service that is not Knative's has its name."""
        return self.settled and self.knative("RoutesReady").get("reason") == "NotOwned"

    def lacks(self, revision: str) -> bool:
        """Whether Knative says that it should lead to this revision, and that it is not there: somebody deleted it."""
        said = self.knative("RoutesReady")
        return self.settled and said.get("reason") == "RevisionMissing" and f'"{revision}"' in said.get("message", "")


def model_loaded(progress: LoadProgress) -> Condition:
    """Whether the newest revision's model is on its pods. With no pods, what was last said of this revision."""
    return Condition(CONDITION_MODEL_LOADED, *_parts(_model_loaded(progress)))


def _model_loaded(progress: LoadProgress) -> PodFinding:
    reported = progress.reported
    if not _has_loader(progress.service):
        return PodFinding("True", "NotNeeded", pods.sentence("NotNeeded"))
    loading = PodFinding("Unknown", "Loading", pods.sentence("Loading"))
    if not progress.settled:
        return _again(reported) if reported else loading
    findings = _loadings(progress.pods, progress.name, progress.lines, progress.warnings)
    is_ready = bool(progress.ready) and progress.created == progress.ready
    if findings:
        found = min(findings, key=_order)
        # A pod that joins or wakes up says nothing against a model that has been loaded before.
        if found.code == "Loading" and is_ready and reported and reported.status == "True":
            return _again(reported)
        return found
    if is_ready and reported and reported.status != "Unknown" and progress.reported_revision == progress.ready:
        return _again(reported)
    if is_ready:
        return PodFinding("True", "Loaded", pods.sentence("Loaded"))
    if progress.knative("ConfigurationsReady").get("status") == "False" and reported and reported.status == "False":
        return _again(reported)
    return loading


def _order(finding: PodFinding) -> int:
    """One pod that has the model is enough; a failure says more than "loading"."""
    return {"True": 0, "False": 1}.get(finding.status, 3 if finding.code == "Loading" else 2)


def _again(condition: Condition) -> PodFinding:
    return PodFinding(condition.status, condition.reason, condition.message)


def ready(progress: LoadProgress, loaded: Condition, warnings: Sequence[Diagnostic] = ()) -> Condition:
    """Whether the newest revision answers, and what its users should know of the Services that lead past Knative."""
    found = _ready(progress, loaded)
    past = [warning.message for warning in warnings if warning.code == "PastKnative"]
    return Condition(CONDITION_READY, *_parts(replace(found, message=" ".join([found.message, *past]))))


def _ready(progress: LoadProgress, loaded: Condition) -> PodFinding:
    if "deletionTimestamp" in progress.service["metadata"]:
        return PodFinding("Unknown", "Progressing", f"{pods.sentence('Progressing')} {_leaving(progress.service)}")
    if not progress.settled:
        return PodFinding("Unknown", "Progressing", pods.sentence("Progressing"))
    if loaded.status == "False":
        return PodFinding("False", "ModelNotLoaded", loaded.message + _still_serving(progress))
    overall, revision = progress.knative("Ready"), progress.knative("ConfigurationsReady")
    if overall.get("status") == "True":
        return PodFinding("True", "Ready", pods.sentence("Ready") + (f" URL: {progress.url}" if progress.url else ""))
    namespace = progress.service["metadata"]["namespace"]
    trouble = _trouble(progress.pods, progress.name, progress.warnings)
    if (trouble and trouble.status == "False") or revision.get("status") == "False":
        details = trouble.message if trouble else _knative_says(revision)
        message = f"{pods.sentence('RevisionFailed', name=progress.name, namespace=namespace)} {details}"
        return PodFinding("False", "RevisionFailed", message + _still_serving(progress))
    if overall.get("status") == "False":
        name = progress.service["metadata"]["name"]
        message = f"{pods.sentence('ServiceNotReady', name=name, namespace=namespace)} {_knative_says(overall)}"
        return PodFinding("False", "ServiceNotReady", message + _still_serving(progress))
    details = loaded.message if loaded.status != "True" else trouble.message if trouble else _knative_says(overall)
    return PodFinding("Unknown", "Progressing", f"{pods.sentence('Progressing')} {details}".strip())


def _leaving(service: JsonObject) -> str:
    finalizers = ", ".join(service["metadata"].get("finalizers") or [])
    return "It is being deleted, and made anew when it is gone." + (
        f" It is kept by {finalizers}." if finalizers else ""
    )


def with_domain(answers: Condition, mapping: JsonObject | None) -> Condition:
    """Whether a model that ``answers`` also does so under its own host name; ``mapping``: its DomainMapping, if any."""
    if mapping is None or answers.status != "True":
        return answers
    return Condition(answers.type, *_parts(_mapped(mapping)))


def _mapped(mapping: JsonObject) -> PodFinding:
    domain, namespace = mapping["metadata"]["name"], mapping["metadata"]["namespace"]
    overall, claimed = _condition(mapping, "Ready"), _condition(mapping, "DomainClaimed")
    if url := mapped_url(mapping):
        return PodFinding("True", "Ready", f"{pods.sentence('Ready')} URL: {url}")
    if not _settled(mapping) or overall.get("status") != "False":
        return PodFinding("Unknown", "Progressing", f"Waiting for the DomainMapping. {_knative_says(overall)}".strip())
    if claimed.get("status") == "False":
        # Knative's own words take every claim that is missing for somebody else's.
        words = pods.sentence("DomainNotClaimed", domain=domain, namespace=namespace)
        return PodFinding("False", "DomainNotClaimed", words)
    words = f"{pods.sentence('DomainNotReady', domain=domain, namespace=namespace)} {_knative_says(overall)}"
    return PodFinding("False", "DomainNotReady", words)


def mapped_url(mapping: JsonObject) -> str:
    """The URL of a host name of the model's own; empty until it answers."""
    if not _settled(mapping) or _condition(mapping, "Ready").get("status") != "True":
        return ""
    return str(mapping["status"].get("url") or "")


def _settled(manifest: JsonObject) -> bool:
    """Whether Knative has seen the present generation of an object of its own."""
    status = manifest.get("status") or {}
    return bool(status.get("observedGeneration") == manifest["metadata"].get("generation"))


def has_a_ready_revision(service: JsonObject) -> bool:
    """Whether the newest revision of a Knative Service is ready: what may be lacking is the way to it."""
    return _settled(service) and _condition(service, "ConfigurationsReady").get("status") == "True"


def answers(service: JsonObject) -> bool:
    """Whether a Knative Service is ready as it is now."""
    return _settled(service) and _condition(service, "Ready").get("status") == "True"


def _condition(manifest: JsonObject, kind: str) -> JsonObject:
    """One of Knative's conditions; empty if it is not there."""
    conditions = (manifest.get("status") or {}).get("conditions") or []
    found: JsonObject = next((condition for condition in conditions if condition["type"] == kind), {})
    return found


def said(kind: str, status: str, code: str, /, **words: str) -> Condition:
    """A condition that has nothing to add to its reason. ``words``: what the reason's sentence speaks of."""
    return Condition(kind, *_parts(PodFinding(status, code, pods.sentence(code, **words))))


def defect(kind: str, error: Exception) -> Condition:
    """A condition of a Deployment on which the server fails. What it fails at is in the log alone."""
    return said(kind, "Unknown", "Defect", error=type(error).__name__)


def plain_loaded(
    deployment: JsonObject,
    its_pods: Sequence[JsonObject],
    lines: Mapping[str, LoaderOutput],
    warnings: Mapping[str, str],
) -> Condition:
    """Whether the model is on the pods, those of the present template, of a Deployment that runs them itself."""
    name = deployment["metadata"]["name"]
    if not _has_loader(deployment):
        return said(CONDITION_MODEL_LOADED, "True", "NotNeeded")
    findings = _loadings(its_pods, name, lines, warnings)
    if not findings:
        return said(CONDITION_MODEL_LOADED, "Unknown", "Loading")
    return Condition(CONDITION_MODEL_LOADED, *_parts(min(findings, key=_order)))


def plain_ready(
    deployment: JsonObject, its_pods: Sequence[JsonObject], loaded: Condition, warnings: Mapping[str, str]
) -> Condition:
    """Whether a Deployment that runs its pods itself has all of them, from its present template."""
    name, namespace = deployment["metadata"]["name"], deployment["metadata"]["namespace"]
    if is_back(deployment):
        return said(CONDITION_READY, "True", "Ready")
    if loaded.status == "False":
        return Condition(CONDITION_READY, "False", "ModelNotLoaded", loaded.message)
    trouble = _trouble(its_pods, name, warnings)
    stuck = stored(deployment, "Progressing")
    if (trouble and trouble.status == "False") or (stuck and stuck.status == "False"):
        details = trouble.message if trouble else stuck.message if stuck else ""
        message = f"{pods.sentence('RevisionFailed', name=name, namespace=namespace)} {details}"
        return Condition(CONDITION_READY, *_parts(PodFinding("False", "RevisionFailed", message)))
    return Condition(CONDITION_READY, "Unknown", "Progressing", "Waiting for the Deployment's pods.")


def _loadings(
    some: Sequence[JsonObject], name: str, lines: Mapping[str, LoaderOutput], warnings: Mapping[str, str]
) -> list[PodFinding]:
    return [pods.loading(pod, lines.get(_name(pod), NOTHING), name, warnings.get(_name(pod), "")) for pod in some]


def _trouble(some: Sequence[JsonObject], name: str, warnings: Mapping[str, str]) -> PodFinding | None:
    """The first thing that keeps a model server from serving."""
    return next(filter(None, (pods.serving(pod, name, warnings.get(_name(pod), "")) for pod in some)), None)


def _has_loader(owner: JsonObject) -> bool:
    spec = owner["spec"]["template"]["spec"]
    return any(container["name"] == LOADER_CONTAINER for container in spec.get("initContainers") or [])


def _still_serving(progress: LoadProgress) -> str:
    if not progress.ready or progress.ready == progress.created:
        return ""
    return f" Revision {progress.ready} goes on serving."


def _knative_says(condition: JsonObject) -> str:
    """What Knative says, on one line."""
    words = ": ".join(str(condition[key]) for key in ("reason", "message") if condition.get(key))
    return " ".join(words.split())


def _parts(finding: PodFinding) -> tuple[str, str, str]:
    return finding.status, finding.code, finding.message


def _name(pod: JsonObject) -> str:
    return str(pod["metadata"]["name"])
