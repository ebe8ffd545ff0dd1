"""The writes that one Deployment needs, from its observed state. Pure: the executor carries them out.

First the objects that the Deployment owns (:func:`required_apply`, :func:`deletions`), then its conditions and
annotations (:func:`status_writes`).
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime

from serve_core.admission import handover
from serve_core.api import sizing
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
from serve_core.api.loader_protocol import NOTHING
from serve_core.base.constants import CONDITION_MODEL_LOADED, CONDITION_READY, DEPLOYMENT_LABEL, SERVED_LABEL
from serve_core.base.json import JsonObject
from serve_core.base.ownership import claims, identity, owns
from serve_core.base.workload import Workload
from serve_core.knative import traffic
from serve_kube.resources import SERVICES, owned_resource
from serve_webhook.reconcile import conditions, pods
from serve_webhook.reconcile.actions import Action, Annotate, Apply, Delete, Merge, SetConditions, SetMinimum
from serve_webhook.reconcile.conditions import Condition, ServiceProgress
from serve_webhook.reconcile.observed import Observed, is_knative_service


def held_back(observed: Observed, wanted: JsonObject) -> JsonObject:
    """A wanted object as it is applied: a Knative Service keeps its traffic until a revision that gets some is up.

    A revision without traffic has no pods. With all the traffic at once, its requests would wait for its download.
    """
    if not is_knative_service(wanted) or not (live := observed.service) or not observed.waits_for_a_revision:
        return wanted
    spec = {key: value for key, value in wanted["spec"].items() if key != "traffic"}
    traffic_now = live["spec"].get("traffic")
    return wanted | {"spec": spec | ({"traffic": traffic_now} if traffic_now else {})}


def required_apply(observed: Observed, wanted: JsonObject) -> Apply | None:
    """The apply that a wanted object needs, if any. An object of another owner needs none."""
    live = observed.live.get(identity(wanted))
    if observed.is_deleting or (live is not None and not claims(observed.deployment, live)):
        return None
    manifest = _with_owner(wanted, observed.deployment)
    wanted_fingerprint = fingerprint(manifest)
    if live is None:
        return Apply(manifest, wanted_fingerprint)
    metadata, applied = live["metadata"], observed.applied.get(identity(wanted))
    if "deletionTimestamp" in metadata:
        return None
    unchanged = (
        applied is not None
        and owns(observed.deployment, live)
        and (applied.fingerprint, applied.uid) == (wanted_fingerprint, metadata["uid"])
        and fingerprint(live.get("spec")) == applied.spec
        and all(_contains(metadata.get(key), manifest["metadata"].get(key)) for key in ("labels", "annotations"))
    )
    return None if unchanged else Apply(manifest, wanted_fingerprint, metadata["uid"])


_SET_ON_CREATE = frozenset({"enableServiceLinks"})
"""Fields that Knative sets when a Service is created, and not when it is updated (Knative Serving 1.23,
``pkg/apis/serving/v1/revision_defaults.go``): removing one would make a new revision of every model."""


def replacement_patch(manifest: JsonObject, live: JsonObject) -> JsonObject:
    """The merge patch after which an object's spec has only what ``manifest`` sets, whatever its field managers.

    Server-side apply removes only fields that our field manager has set before, and any user can write with its name or
    remove all managers. Defaults of the API server are removed as well; the same request sets them again.
    """
    label = {DEPLOYMENT_LABEL: manifest["metadata"]["labels"][DEPLOYMENT_LABEL]}
    versions = {key: live["metadata"][key] for key in ("uid", "resourceVersion")}
    owners = manifest["metadata"]["ownerReferences"]
    metadata = {"labels": label, "ownerReferences": owners, **versions}
    return {"metadata": metadata, "spec": _replacing(live.get("spec"), manifest.get("spec"))}


def _replacing(live: object, wanted: object) -> object:
    """The merge patch (RFC 7396) from ``live`` to ``wanted``."""
    if not isinstance(live, dict) or not isinstance(wanted, dict):
        return wanted
    return dict.fromkeys(live.keys() - wanted.keys() - _SET_ON_CREATE) | {
        key: _replacing(live.get(key), value) for key, value in wanted.items()
    }


def preparation(observed: Observed, apply: Apply, now: datetime) -> Merge | SetConditions | None:
    """The write to the Deployment that must come before its Knative Service is created or updated, if any.

    A new Knative Service does not have the revisions of a deleted one: its Route would wait for them for ever. And
    Ready still describes the old state, which ``kubectl wait`` reads at once.
    """
    deployment = observed.deployment
    if not is_knative_service(apply.manifest):
        return None
    notes = Workload(deployment).annotations
    stale = [key for key in OF_REVISIONS if key in notes]
    if stale and apply.uid is None:
        return Merge({"metadata": {"annotations": dict.fromkeys(stale)}}, "revisions")
    ready = conditions.stored(deployment, CONDITION_READY)
    if is_current(deployment) or ready is None or ready.status != "True":
        return None
    loaded = conditions.stored(deployment, CONDITION_MODEL_LOADED)
    following = [*([loaded] if loaded else []), conditions.from_code(CONDITION_READY, "Unknown", "Progressing")]
    return SetConditions(conditions.entries(following, deployment, now))


def deletions(observed: Observed) -> tuple[Delete, ...]:
    """Deletions of objects that the Deployment owns and no longer wants.

    A Knative Service is deleted once the Deployment's own pods serve, or its replacement under another name; so is an
    orphaned one, as the Service that Knative made for it has the wanted name. A Service in front of the Deployment's
    own pods is deleted once the Knative Service needs nothing but its name.
    """
    deployment, verdict = observed.deployment, observed.verdict
    if observed.is_deleting or verdict.refused:
        return ()
    wanted = {identity(manifest) for manifest in observed.wanted}
    ours = [
        live
        for at, live in observed.live.items()
        if at not in wanted
        and (owns(deployment, live) or (wanted and is_knative_service(live) and claims(deployment, live)))
    ]
    if not verdict.service and not handover.is_back(deployment):
        return ()
    if verdict.service and not (observed.service and conditions.is_ready(observed.service)):
        ours = [live for live in ours if not is_knative_service(live)]
        if not (observed.service and conditions.has_ready_revision(observed.service)):
            ours = [live for live in ours if owned_resource(live) is not SERVICES]
    return tuple(Delete(live) for live in ours if "deletionTimestamp" not in live["metadata"])


def status_writes(observed: Observed, now: datetime) -> tuple[Action, ...]:
    """The writes that a served Deployment needs besides its objects, in this order: parking, the minimums of its
    revisions, conditions and annotations."""
    deployment = observed.deployment
    if observed.is_deleting:
        return ()
    progress = _progress(observed)
    wanted = _conditions(observed, progress)
    is_ready = wanted[-1].status == "True"
    if parking := _parking(observed, is_ready):
        # It makes a new generation: the next turn writes the rest.
        return (parking,)
    before = [conditions.stored(deployment, condition.type) for condition in wanted]
    annotations = _annotations(observed, progress, wanted[0])
    # Before a tag that makes Knative keep the minimum of a revision.
    minimums = _minimums(observed, progress, annotations)
    writes: list[Action] = []
    if wanted != before:
        events = [new for new, old in zip(wanted, before, strict=True) if _is_event(new, old)]
        writes.append(SetConditions(conditions.entries(wanted, deployment, now), events))
    if annotations:
        writes.append(Annotate(annotations))
    # Clients that wait for Ready read the annotations next: write them before Ready becomes True.
    if is_ready:
        writes.reverse()
        if _moves_traffic(observed, annotations):
            # Ready follows once Knative has moved the traffic; until then it would be False.
            return (*minimums, Annotate(annotations))
    return (*minimums, *writes)


def release(deployment: JsonObject) -> tuple[Action, ...]:
    """Removes our conditions, annotations and label from a Deployment that is no longer served and owns no object."""
    workload = Workload(deployment)
    actions: list[Action] = []
    if any(conditions.stored(deployment, kind) for kind in (CONDITION_MODEL_LOADED, CONDITION_READY)):
        actions.append(SetConditions(()))
    if any(key in workload.annotations for key in NOTED):
        actions.append(Annotate({}))
    if HANDOVER in workload.annotations or SERVED_LABEL in workload.labels:
        last = {"metadata": {"labels": {SERVED_LABEL: None}, "annotations": {HANDOVER: None}}}
        actions.append(Merge(last, "release"))
    return tuple(actions)


def _moves_traffic(observed: Observed, notes: Mapping[str, str]) -> bool:
    """Whether these annotations change the traffic of the Knative Service: the revision promoted before gets a tag."""
    present = Workload(observed.deployment).annotations
    return bool(notes) and _traffic(observed, present) != _traffic(observed, notes)


def _traffic(observed: Observed, notes: Mapping[str, str]) -> list[JsonObject]:
    """The traffic of the Knative Service with these annotations."""
    if observed.verdict.service is None or observed.spec is None:
        return []
    return traffic.targets(observed.spec, notes, Workload(observed.deployment).template_annotations)


def _minimums(observed: Observed, progress: ServiceProgress | None, notes: Mapping[str, str]) -> list[SetMinimum]:
    """The minimums to set for the revisions of the Knative Service. ``notes``: our annotations, where they change."""
    if progress is None:
        return []
    service, uid = progress.service, progress.service["metadata"]["uid"]
    following = _traffic(observed, notes or Workload(observed.deployment).annotations)
    wanted = traffic.minimums(service, following, is_ready=conditions.is_ready(service))
    return [
        SetMinimum(uid, revision, minimum)
        for revision, minimum in wanted.items()
        if observed.minimums.get((uid, revision), "") != minimum
    ]


def _parking(observed: Observed, is_ready: bool) -> Merge | None:
    deployment = observed.deployment
    if observed.verdict.service is None:
        return None
    if _is_handover(deployment):
        return Merge(handover.finish(), "handover") if is_ready else None
    if deployment["spec"].get("replicas") == 0:
        return None
    return Merge({"spec": {"replicas": 0}}, "park")


def _is_handover(deployment: JsonObject) -> bool:
    return Workload(deployment).annotations.get(HANDOVER) == handover.TO_KNATIVE


def _progress(observed: Observed) -> ServiceProgress | None:
    service = observed.service
    if service is None:
        return None
    workload = Workload(observed.deployment)
    return ServiceProgress(
        service=service,
        name=workload.name,
        pods=observed.own_pods,
        outputs=observed.outputs,
        warnings=observed.warnings,
        reported=conditions.stored(observed.deployment, CONDITION_MODEL_LOADED),
        reported_revision=workload.annotations.get(READY_REVISION, ""),
    )


def _conditions(observed: Observed, progress: ServiceProgress | None) -> list[Condition]:
    """ModelLoaded and Ready, in this order."""
    if observed.is_deployment_mode:
        loaded = conditions.deployment_loaded(
            observed.deployment, observed.own_pods, observed.outputs, observed.warnings
        )
    elif progress:
        loaded = conditions.model_loaded(progress)
    else:
        loaded = conditions.from_code(CONDITION_MODEL_LOADED, "Unknown", "Loading")
    if observed.verdict.refused:
        problems = observed.verdict.problems
        text = "\n".join(map(str, problems))
        return [loaded, Condition(CONDITION_READY, "False", problems[0].code, text)]
    if observed.fault:
        return [loaded, observed.fault]
    if observed.name_conflict:
        return [
            loaded,
            conditions.from_code(CONDITION_READY, "False", "NameTaken", **title_words(observed.name_conflict)),
        ]
    if observed.is_deployment_mode:
        ready = conditions.deployment_ready(observed.deployment, observed.own_pods, loaded, observed.warnings)
        if ready.status == "True" and observed.waits_for_name:
            ready = conditions.from_code(CONDITION_READY, "Unknown", "Progressing")
        return [loaded, ready]
    # At the end of a handover, the Service in front of the Deployment's pods was just deleted: Knative is about to see
    # it.
    if progress is None or (progress.lacks_its_name and _is_handover(observed.deployment)):
        return [loaded, conditions.from_code(CONDITION_READY, "Unknown", "Progressing")]
    ready = conditions.ready(progress, loaded, observed.verdict.warnings)
    if ready.status == "True" and observed.waits_for_a_revision:
        ready = conditions.from_code(CONDITION_READY, "Unknown", "Progressing")
    return [loaded, conditions.with_domain(ready, observed.mapping)]


def _annotations(observed: Observed, progress: ServiceProgress | None, loaded: Condition) -> dict[str, str]:
    """Our wanted annotations; empty if the Deployment has them already."""
    workload = Workload(observed.deployment)
    present = {key: value for key, value in workload.annotations.items() if key in NOTED}
    wanted = dict(present)
    name = observed.verdict.name
    if observed.is_deployment_mode:
        wanted = {URL: f"http://{name}.{workload.namespace}.svc"}
    if name == workload.name:
        wanted.pop(SERVICE, None)
    elif name:
        wanted[SERVICE] = name
    if progress and progress.url:
        wanted[URL] = (observed.mapping and conditions.mapped_url(observed.mapping)) or progress.url
    if progress and progress.settled and progress.ready:
        wanted[READY_REVISION] = progress.ready
    if progress:
        wanted = _with_size(wanted, observed)
        if (previous := wanted.get(PREVIOUS)) and progress.lacks(previous):
            del wanted[PREVIOUS]
    # The traffic does not wait for a host name.
    if progress and observed.spec and conditions.ready(progress, loaded).status == "True":
        wanted |= traffic.settled(observed.spec, wanted, progress.service["status"])
    generation = int(workload.metadata["generation"])
    wanted[OBSERVED_GENERATION] = str(generation)
    if wanted == present:
        return {}
    # A change of any annotation adds one to a Deployment's generation (pkg/registry/apps/deployment/strategy.go), and
    # so does this write: the annotation has the generation after it.
    return wanted | {OBSERVED_GENERATION: str(generation + 1)}


def _with_size(annotations: dict[str, str], observed: Observed) -> dict[str, str]:
    """``annotations`` with the model's size, if the loaders report it and it is large enough to matter."""
    reported = [
        pods.model_size(pod, observed.outputs.get(pod["metadata"]["name"], NOTHING)) for pod in observed.own_pods
    ]
    size = next((size for size in reported if size is not None), None)
    if size is None:
        return annotations
    others = {key: value for key, value in annotations.items() if key != MODEL_SIZE}
    return others | ({MODEL_SIZE: str(size)} if size >= sizing.MIN_SIZE else {})


def _is_event(new: Condition, old: Condition | None) -> bool:
    """Whether a condition becomes an Event: success and failure do, progress does not."""
    is_same = old is not None and (old.status, old.reason) == (new.status, new.reason)
    return not is_same and new.reason not in ("Loading", "Progressing", "NotNeeded")


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


def title_words(manifest: JsonObject) -> dict[str, str]:
    """An object's kind and name, as the sentences of the catalogue use them."""
    kind = "Knative Service" if is_knative_service(manifest) else manifest["kind"]
    return {"kind": kind, "name": manifest["metadata"]["name"]}


def fingerprint(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _contains(live: Mapping[str, str] | None, wanted: Mapping[str, str] | None) -> bool:
    return (wanted or {}).items() <= (live or {}).items()
