"""A Deployment's conditions, computed from the observed state. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from serve_core.admission.handover import is_back
from serve_core.api.loader_protocol import NOTHING, LoaderOutput
from serve_core.api.state import State
from serve_core.base.constants import (
    CONDITION_MODEL_LOADED,
    CONDITION_READY,
    CONDITION_STATE,
    LOADER_CONTAINER,
    REGISTERED,
)
from serve_core.base.escaping import inline, visible
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic, Explanation
from serve_core.workload import cache_volume, model_image
from serve_core.workload.model_server import server_container
from serve_kube.conditions import find_condition
from serve_webhook.cache.trimming import POD_READY
from serve_webhook.reconcile import pods
from serve_webhook.reconcile.pods import PodFinding

_TIME = "%Y-%m-%dT%H:%M:%SZ"
MAX_MESSAGE = 1500
MAX_REASON = 200
"""Characters."""


@dataclass(frozen=True)
class Condition:
    """A Deployment's condition; ``status`` is True, False or Unknown.

    Parts of the text come from pods, nodes and stores, so every condition is escaped and cut here.
    """

    type: str
    status: str
    reason: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", inline(self.reason)[:MAX_REASON])
        object.__setattr__(self, "message", visible(self.message)[:MAX_MESSAGE])


def stored(deployment: JsonObject, kind: str) -> Condition | None:
    """The condition that the Deployment has."""
    found = find_condition(deployment, kind)
    if not found:
        return None
    return Condition(kind, found["status"], found.get("reason") or "", found.get("message") or "")


def written(deployment: JsonObject) -> float:
    """When our conditions were written last, in seconds since the epoch; 0 if never."""
    text = find_condition(deployment, CONDITION_STATE).get("lastUpdateTime") or ""
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def of_state(state: State) -> Condition:
    """The condition that records a state."""
    return Condition(CONDITION_STATE, "True", state.reason, state.message)


def entries(conditions: Sequence[Condition], deployment: JsonObject, now: datetime) -> list[JsonObject]:
    """The conditions as API objects. The transition time stays where the status does."""
    before = {entry["type"]: entry for entry in (deployment.get("status") or {}).get("conditions") or []}
    moment = now.astimezone(UTC).strftime(_TIME)
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
class ServiceProgress:
    """The progress of a Knative Service. Its conditions count only if they are of its present generation."""

    service: JsonObject
    name: str
    pods: Sequence[JsonObject]
    """Those of the newest revision."""
    outputs: Mapping[str, LoaderOutput]
    """Last output of each running loader, by pod."""
    warnings: Mapping[str, str]
    """The node's warning about each pod that does not start, by pod."""
    reported: Condition | None
    """ModelLoaded of the Deployment."""
    reported_revision: str
    """The ready revision in the Deployment's state."""
    starts_at_zero: bool = False
    """Whether Knative reports a new revision as ready without a pod."""
    started: str = ""
    """The revision of which a pod has been ready before."""

    @property
    def settled(self) -> bool:
        """Whether Knative has observed the present generation, and the newest revision is of that generation.

        While the Configuration is out of date, the revision is the one before.
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
        """A condition that Knative set; empty if missing."""
        return find_condition(self.service, kind)

    @property
    def is_started(self) -> bool:
        """Whether a pod of the ready revision has been ready: it answered its readiness probe."""
        return not self.starts_at_zero or self.started == self.ready or self.has_ready_pod

    @property
    def has_ready_pod(self) -> bool:
        """Whether a pod of the newest revision is ready."""
        return any(find_condition(pod, POD_READY).get("status") == "True" for pod in self.pods)

    @property
    def lacks_its_name(self) -> bool:
        """Whether a Service of another owner has its name."""
        return self.settled and self.knative("RoutesReady").get("reason") == "NotOwned"

    def lacks(self, revision: str) -> bool:
        """Whether Knative should route to this revision, and it does not exist: a user deleted it."""
        routes = self.knative("RoutesReady")
        # The name is only in Knative's message (serving, pkg/apis/serving/v1/route_lifecycle.go).
        return (
            self.settled and routes.get("reason") == "RevisionMissing" and f'"{revision}"' in routes.get("message", "")
        )


def is_served(ready: Condition) -> bool:
    """Whether requests to the newest revision are answered, also if the first one has to start it."""
    return ready.status == "True" or ready.reason == REGISTERED


def model_loaded(progress: ServiceProgress) -> Condition:
    """Whether the newest revision's pods have the model. Without pods, the last result of this revision."""
    return Condition(CONDITION_MODEL_LOADED, *_parts(_model_loaded(progress)))


def _model_loaded(progress: ServiceProgress) -> PodFinding:
    reported, image = progress.reported, _image(progress.service)
    if not image and not _has_loader(progress.service):
        return PodFinding("True", "NotNeeded", pods.sentence("NotNeeded"))
    code = "PullingModel" if image else "Loading"
    loading = PodFinding("Unknown", code, pods.sentence(code))
    if not progress.settled:
        return _repeated(reported) if reported else loading
    findings = _model_findings(progress.service, progress.pods, progress.name, progress.outputs, progress.warnings)
    is_ready = bool(progress.ready) and progress.created == progress.ready
    if findings:
        found = min(findings, key=_order)
        # A new pod does not change that the model was loaded before.
        if found.code in _LOADING and is_ready and reported and reported.status == "True":
            return _repeated(reported)
        return found
    if is_ready and reported and reported.status != "Unknown" and progress.reported_revision == progress.ready:
        return _repeated(reported)
    if is_ready and not progress.is_started:
        return PodFinding("Unknown", REGISTERED, pods.sentence(REGISTERED))
    if is_ready:
        code = "ModelPulled" if image else "Loaded"
        return PodFinding("True", code, pods.sentence(code))
    if progress.knative("ConfigurationsReady").get("status") == "False" and reported and reported.status == "False":
        return _repeated(reported)
    return loading


_LOADING = ("Loading", "PullingModel")


def _order(finding: PodFinding) -> int:
    """One pod that has the model is enough; a failure counts more than "loading"."""
    return {"True": 0, "False": 1}.get(finding.status, 3 if finding.code in _LOADING else 2)


def _repeated(condition: Condition) -> PodFinding:
    return PodFinding(condition.status, condition.reason, condition.message)


def ready(progress: ServiceProgress, loaded: Condition, warnings: Sequence[Diagnostic] = ()) -> Condition:
    """Whether the newest revision answers; with warnings about Services that bypass Knative, or lose the pods."""
    found = _ready(progress, loaded)
    bypassing = [warning.message for warning in warnings if warning.code in ("PastKnative", "PortByName")]
    return Condition(CONDITION_READY, *_parts(replace(found, message=" ".join([found.message, *bypassing]))))


def _ready(progress: ServiceProgress, loaded: Condition) -> PodFinding:
    if "deletionTimestamp" in progress.service["metadata"]:
        return PodFinding(
            "Unknown", "Progressing", f"{pods.sentence('Progressing')} {_deletion_text(progress.service)}"
        )
    if not progress.settled:
        return PodFinding("Unknown", "Progressing", pods.sentence("Progressing"))
    if loaded.status == "False":
        return PodFinding("False", "ModelNotLoaded", loaded.message + _still_serving(progress))
    overall, revision = progress.knative("Ready"), progress.knative("ConfigurationsReady")
    if overall.get("status") == "True" and not progress.is_started and not progress.pods:
        url = f" URL: {progress.url}" if progress.url else ""
        return PodFinding("Unknown", REGISTERED, pods.sentence(REGISTERED) + url)
    if overall.get("status") == "True" and progress.is_started:
        return PodFinding("True", "Ready", pods.sentence("Ready") + (f" URL: {progress.url}" if progress.url else ""))
    namespace = progress.service["metadata"]["namespace"]
    finding = _server_finding(progress.pods, progress.name, progress.warnings)
    if (finding and finding.status == "False") or revision.get("status") == "False":
        details = finding.message if finding else _knative_message(revision)
        message = f"{pods.sentence('RevisionFailed', name=progress.name, namespace=namespace)} {details}"
        return PodFinding("False", "RevisionFailed", message + _still_serving(progress))
    if overall.get("status") == "False":
        name = progress.service["metadata"]["name"]
        message = f"{pods.sentence('ServiceNotReady', name=name, namespace=namespace)} {_knative_message(overall)}"
        return PodFinding("False", "ServiceNotReady", message + _still_serving(progress))
    details = loaded.message if loaded.status != "True" else finding.message if finding else _knative_message(overall)
    return PodFinding("Unknown", "Progressing", f"{pods.sentence('Progressing')} {details}".strip())


def _deletion_text(service: JsonObject) -> str:
    finalizers = ", ".join(service["metadata"].get("finalizers") or [])
    return "It is being deleted; the server then creates it again." + (
        f" Finalizers block the deletion: {finalizers}." if finalizers else ""
    )


def with_domain(ready: Condition, mapping: JsonObject | None) -> Condition:
    """Ready, where a model must also answer under its own host name; ``mapping``: its DomainMapping, if any."""
    if mapping is None or ready.status != "True":
        return ready
    return Condition(ready.type, *_parts(_mapped(mapping)))


def _mapped(mapping: JsonObject) -> PodFinding:
    domain, namespace = mapping["metadata"]["name"], mapping["metadata"]["namespace"]
    overall, claimed = find_condition(mapping, "Ready"), find_condition(mapping, "DomainClaimed")
    if url := mapped_url(mapping):
        return PodFinding("True", "Ready", f"{pods.sentence('Ready')} URL: {url}")
    if not _settled(mapping) or overall.get("status") != "False":
        return PodFinding(
            "Unknown", "Progressing", f"Waiting for the DomainMapping. {_knative_message(overall)}".strip()
        )
    if claimed.get("status") == "False":
        # Knative's message reports any missing claim as one of another namespace.
        message = pods.sentence("DomainNotClaimed", domain=domain, namespace=namespace)
        return PodFinding("False", "DomainNotClaimed", message)
    message = f"{pods.sentence('DomainNotReady', domain=domain, namespace=namespace)} {_knative_message(overall)}"
    return PodFinding("False", "DomainNotReady", message)


def mapped_url(mapping: JsonObject) -> str:
    """The URL of the model's own host name; empty until it answers."""
    if not _settled(mapping) or find_condition(mapping, "Ready").get("status") != "True":
        return ""
    return str(mapping["status"].get("url") or "")


def _settled(manifest: JsonObject) -> bool:
    """Whether Knative has observed the present generation of its object."""
    status = manifest.get("status") or {}
    return bool(status.get("observedGeneration") == manifest["metadata"].get("generation"))


def has_ready_revision(service: JsonObject) -> bool:
    """Whether the newest revision of a Knative Service is ready; its route may still be missing."""
    return _settled(service) and find_condition(service, "ConfigurationsReady").get("status") == "True"


def is_ready(service: JsonObject) -> bool:
    """Whether a Knative Service is ready in its present generation."""
    return _settled(service) and find_condition(service, "Ready").get("status") == "True"


def from_code(kind: str, status: str, code: str, /, **values: str) -> Condition:
    """A condition whose message is the catalogue's sentence; ``values`` are the sentence's placeholders."""
    return Condition(kind, *_parts(PodFinding(status, code, pods.sentence(code, **values))))


def defect(kind: str, error: Exception) -> Condition:
    """The condition of a Deployment for which the server raised an exception. Only the log has the details."""
    return from_code(kind, "Unknown", "Defect", error=type(error).__name__)


def deployment_loaded(
    deployment: JsonObject,
    own_pods: Sequence[JsonObject],
    outputs: Mapping[str, LoaderOutput],
    warnings: Mapping[str, str],
) -> Condition:
    """ModelLoaded of a Deployment that itself runs its pods; ``own_pods``: those of its present template."""
    name, image = deployment["metadata"]["name"], _image(deployment)
    if not image and not _has_loader(deployment):
        return from_code(CONDITION_MODEL_LOADED, "True", "NotNeeded")
    findings = _model_findings(deployment, own_pods, name, outputs, warnings)
    if not findings:
        return from_code(CONDITION_MODEL_LOADED, "Unknown", "PullingModel" if image else "Loading")
    return Condition(CONDITION_MODEL_LOADED, *_parts(min(findings, key=_order)))


def deployment_ready(
    deployment: JsonObject, own_pods: Sequence[JsonObject], loaded: Condition, warnings: Mapping[str, str]
) -> Condition:
    """Ready of a Deployment that itself runs its pods: whether it has all of them, of its present template."""
    name, namespace = deployment["metadata"]["name"], deployment["metadata"]["namespace"]
    if is_back(deployment):
        return from_code(CONDITION_READY, "True", "Ready")
    if loaded.status == "False":
        return Condition(CONDITION_READY, "False", "ModelNotLoaded", loaded.message)
    finding = _server_finding(own_pods, name, warnings)
    stuck = stored(deployment, "Progressing")
    if (finding and finding.status == "False") or (stuck and stuck.status == "False"):
        details = finding.message if finding else stuck.message if stuck else ""
        message = f"{pods.sentence('RevisionFailed', name=name, namespace=namespace)} {details}"
        return Condition(CONDITION_READY, *_parts(PodFinding("False", "RevisionFailed", message)))
    return Condition(CONDITION_READY, "Unknown", "Progressing", "Waiting for the Deployment's pods.")


def explained(loaded: Condition, explanations: Sequence[Explanation]) -> Condition:
    """ModelLoaded, with the reason why each pod downloads a model that should stay on the node."""
    begin = pods.sentence("ModelNotOnNode", why="").partition(", because")[0]
    plain = loaded.message.partition(begin)[0].rstrip()
    why = next((each.message for each in explanations if each.code == "ModelNotOnNode"), "")
    return replace(loaded, message=f"{plain} {why[:1].upper()}{why[1:]}".strip())


def _model_findings(
    owner: JsonObject,
    own_pods: Sequence[JsonObject],
    name: str,
    outputs: Mapping[str, LoaderOutput],
    warnings: Mapping[str, str],
) -> list[PodFinding]:
    """What each pod of an owner shows of its model."""
    if image := _image(owner):
        server = server_container(owner["spec"]["template"]["spec"].get("containers") or []) or {}
        at = str(server.get("name"))
        return [pods.image_finding(pod, at, image, warnings.get(_name(pod), "")) for pod in own_pods]
    return [
        pods.loader_finding(pod, outputs.get(_name(pod), NOTHING), name, warnings.get(_name(pod), ""))
        for pod in own_pods
    ]


def _server_finding(own_pods: Sequence[JsonObject], name: str, warnings: Mapping[str, str]) -> PodFinding | None:
    """The first reason why a model server does not serve."""
    return next(filter(None, (pods.server_finding(pod, name, warnings.get(_name(pod), "")) for pod in own_pods)), None)


def _image(owner: JsonObject) -> str:
    """The image that is the model's volume, if it is one."""
    return model_image.reference_in(owner["spec"]["template"]["spec"])


def _has_loader(owner: JsonObject) -> bool:
    """Whether the pods download their model: by the loader, or by the node cache."""
    spec = owner["spec"]["template"]["spec"]
    by_loader = any(container["name"] == LOADER_CONTAINER for container in spec.get("initContainers") or [])
    return by_loader or any(map(cache_volume.is_ours, spec.get("volumes") or []))


def _still_serving(progress: ServiceProgress) -> str:
    if not progress.ready or progress.ready == progress.created:
        return ""
    return f" Revision {progress.ready} keeps serving."


def _knative_message(condition: JsonObject) -> str:
    """A condition's reason and message, on one line."""
    text = ": ".join(str(condition[key]) for key in ("reason", "message") if condition.get(key))
    return " ".join(text.split())


def _parts(finding: PodFinding) -> tuple[str, str, str]:
    return finding.status, finding.code, finding.message


def _name(pod: JsonObject) -> str:
    return str(pod["metadata"]["name"])
