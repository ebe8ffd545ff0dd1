"""The writes that one Deployment needs, from its observed state. Pure: the executor carries them out.

First the objects that the Deployment owns (:func:`required_apply`, :func:`deletions`), then its conditions
(:func:`status_writes`).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from serve_core.admission import handover
from serve_core.api import sizing
from serve_core.api import state as model_state
from serve_core.api.annotations import EARLIER_STATE, HANDOVER, SERVICE
from serve_core.api.loader_protocol import NOTHING
from serve_core.api.state import State
from serve_core.base import overlay
from serve_core.base.constants import (
    CONDITION_MODEL_LOADED,
    CONDITION_PREFETCHED,
    CONDITION_READY,
    CONDITION_STATE,
    DEPLOYMENT_LABEL,
    REGISTERED,
    SERVED_LABEL,
)
from serve_core.base.json import JsonObject, value_at
from serve_core.base.ownership import claims, identity, owns
from serve_core.base.workload import Workload
from serve_core.knative import initial_scale, traffic
from serve_core.workload.prefetch import is_prefetch
from serve_kube.resources import SERVICES, owned_resource
from serve_webhook.reconcile import conditions, pods, prefetch
from serve_webhook.reconcile.actions import Action, Apply, Delete, Merge, SetConditions, SetScaling
from serve_webhook.reconcile.conditions import Condition, ServiceProgress
from serve_webhook.reconcile.observed import Observed, is_knative_service

MESSAGE_SECONDS = 10.0
"""From one write of a Deployment's conditions to the next that changes only messages."""


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


def preparation(observed: Observed, apply: Apply, now: datetime) -> SetConditions | None:
    """The write to the Deployment that must come before its Knative Service is created or updated, if any.

    A new Knative Service does not have the revisions of a deleted one: its Route would wait for them for ever. A change
    moves traffic to and from the revisions that are recorded. And Ready still describes the old state, which ``kubectl
    wait`` reads at once.
    """
    deployment = observed.deployment
    if not is_knative_service(apply.manifest):
        return None
    before, ready = model_state.read(deployment), conditions.stored(deployment, CONDITION_READY)
    state = _before_apply(observed, before, apply)
    is_outdated = ready is not None and ready.status == "True" and not model_state.is_current(deployment)
    if state == before and not is_outdated:
        return None
    # As it is until Knative has seen the change, so that it is written only once.
    state = replace(state, observed_generation=_generation(deployment))
    progressing = conditions.from_code(CONDITION_READY, "Unknown", "Progressing")
    others = (conditions.stored(deployment, kind) for kind in (CONDITION_MODEL_LOADED, CONDITION_PREFETCHED))
    following = [*filter(None, others), progressing, conditions.of_state(state)]
    return SetConditions(conditions.entries(following, deployment, now))


def _before_apply(observed: Observed, state: State, apply: Apply) -> State:
    """The state for a Knative Service that is about to be applied."""
    if apply.uid is None:
        return state.without_revisions()
    template = template_digest(apply.manifest)
    if observed.spec is None or observed.service is None or not state.template:
        return state
    is_new = state.template != template
    return replace(traffic.leaving(observed.spec, state, observed.service, is_new=is_new), template=template)


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
        ours = [live for live in ours if is_prefetch(live)]  # no request goes to it
    if verdict.service and not (observed.service and conditions.is_ready(observed.service)):
        ours = [live for live in ours if not is_knative_service(live)]
        if not (observed.service and conditions.has_ready_revision(observed.service)):
            ours = [live for live in ours if owned_resource(live) is not SERVICES]
    return tuple(Delete(live) for live in ours if "deletionTimestamp" not in live["metadata"])


class StatusWrites(NamedTuple):
    """The writes that a served Deployment needs besides its objects, in their order."""

    actions: tuple[Action, ...] = ()
    wait: float | None = None
    """Seconds until the conditions are due, if they change but not yet."""


def status_writes(observed: Observed, now: datetime) -> StatusWrites:
    """Parking and the name; otherwise the conditions, then the scaling of the revisions.

    A change of a message alone waits: a download reports its progress every few seconds, and Knative its own.
    """
    deployment = observed.deployment
    if observed.is_deleting:
        return StatusWrites()
    progress = _progress(observed)
    wanted = _conditions(observed, progress)
    if change := _parking(observed, conditions.is_served(wanted[-1])) or _name(observed):
        # It makes a new generation: the next turn writes the rest.
        return StatusWrites((change,))
    state = _state(observed, progress, wanted[0])
    moves_traffic = _traffic(observed, state) != _traffic(observed, model_state.read(deployment))
    if moves_traffic and conditions.is_served(wanted[-1]):
        # Ready follows once Knative has moved the traffic; until then it would be False.
        wanted[-1] = conditions.from_code(CONDITION_READY, "Unknown", "Progressing")
    wanted.append(conditions.of_state(state))
    if (prefetched := prefetch.condition(observed)) is not None:
        wanted.append(prefetched)
    is_withdrawn = prefetched is None and conditions.stored(deployment, CONDITION_PREFETCHED) is not None
    before = [conditions.stored(deployment, condition.type) for condition in wanted]
    changes = [(new, old) for new, old in zip(wanted, before, strict=True) if new != old]
    is_urgent = moves_traffic or is_withdrawn or any(not _is_same(new, old) for new, old in changes)
    wait = 0.0 if is_urgent else _seconds_left(deployment, now)
    writes: list[Action] = []
    if (changes or is_withdrawn) and not wait:
        events = [new for new, old in changes if _is_event(new, old)]
        writes.append(SetConditions(conditions.entries(wanted, deployment, now), events))
    writes += _scaling(observed, progress, state)
    if earlier := _annotations(deployment, EARLIER_STATE):
        writes.append(Merge({"metadata": {"annotations": earlier}}, "upgrade"))
    return StatusWrites(tuple(writes), wait if changes and wait else None)


def release(deployment: JsonObject) -> tuple[Action, ...]:
    """Removes our conditions, annotations and label from a Deployment that is no longer served and owns no object."""
    actions: list[Action] = []
    ours = (CONDITION_MODEL_LOADED, CONDITION_READY, CONDITION_STATE, CONDITION_PREFETCHED)
    if any(conditions.stored(deployment, kind) for kind in ours):
        actions.append(SetConditions(()))
    annotations = _annotations(deployment, (HANDOVER, SERVICE, *EARLIER_STATE))
    labels = dict.fromkeys({SERVED_LABEL} & Workload(deployment).labels.keys())
    if annotations or labels:
        actions.append(Merge({"metadata": {"labels": labels, "annotations": annotations}}, "release"))
    return tuple(actions)


def _annotations(deployment: JsonObject, keys: Iterable[str]) -> dict[str, None]:
    """The part of a merge patch that removes those annotations that the Deployment has."""
    return {key: None for key in keys if key in Workload(deployment).annotations}


def _traffic(observed: Observed, state: State) -> list[JsonObject]:
    """The traffic of the Knative Service with this state."""
    if observed.verdict.service is None or observed.spec is None:
        return []
    return traffic.targets(observed.spec, state, Workload(observed.deployment).template_annotations)


def _scaling(observed: Observed, progress: ServiceProgress | None, state: State) -> list[SetScaling]:
    """The scaling to set for the revisions of the Knative Service."""
    if progress is None:
        return []
    service, uid = progress.service, progress.service["metadata"]["uid"]
    wanted = traffic.scaling(service, _traffic(observed, state), is_ready=conditions.is_ready(service))
    return [
        SetScaling(uid, revision, annotations)
        for revision, annotations in wanted.items()
        if observed.scaling.get((uid, revision)) != annotations
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


def _name(observed: Observed) -> Merge | None:
    """Note the name of the Service, unless it is the Deployment's own. Admission notes it too, and has no status."""
    name, workload = observed.verdict.name, Workload(observed.deployment)
    noted = workload.annotations.get(SERVICE)
    wanted = None if name == workload.name else name
    return Merge({"metadata": {"annotations": {SERVICE: wanted}}}, "name") if name and noted != wanted else None


def _is_handover(deployment: JsonObject) -> bool:
    return Workload(deployment).annotations.get(HANDOVER) == handover.TO_KNATIVE


def _progress(observed: Observed) -> ServiceProgress | None:
    service = observed.service
    if service is None:
        return None
    state, ready = model_state.read(observed.deployment), conditions.stored(observed.deployment, CONDITION_READY)
    template = value_at(service, "spec", "template", "metadata", "annotations") or {}
    return ServiceProgress(
        service=service,
        name=Workload(observed.deployment).name,
        pods=observed.own_pods,
        outputs=observed.outputs,
        warnings=observed.warnings,
        reported=conditions.stored(observed.deployment, CONDITION_MODEL_LOADED),
        reported_revision=state.revision,
        # A model that was registered stays so, whatever the cluster's setting becomes.
        starts_at_zero=initial_scale.is_zero(template, observed.autoscaler)
        or (ready is not None and ready.reason == REGISTERED),
        started=state.started or (state.revision if ready is not None and ready.status == "True" else ""),
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
    loaded = conditions.explained(loaded, observed.verdict.explanations)
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
    if (live := observed.prefetch) is not None and prefetch.holds(observed):
        text = f"Waiting for nodes to load the new model: {prefetch.share_text(live)}"
        return [loaded, Condition(CONDITION_READY, "Unknown", "Progressing", text)]
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


def _state(observed: Observed, progress: ServiceProgress | None, loaded: Condition) -> State:
    """The state to record."""
    workload = Workload(observed.deployment)
    before = model_state.read(observed.deployment)
    state = replace(before, observed_generation=_generation(observed.deployment), prefetched=prefetch.over(observed))
    if prefetch.holds(observed):
        return state
    if observed.is_deployment_mode:
        return replace(state.without_revisions(), url=f"http://{observed.verdict.name}.{workload.namespace}.svc")
    if progress is None:
        return state
    if observed.verdict.service is not None and observed.fault is None:
        state = replace(state, template=template_digest(observed.verdict.service))
    if progress.url:
        url = (observed.mapping and conditions.mapped_url(observed.mapping)) or progress.url
        state = replace(state, url=url)
    if progress.settled and progress.ready:
        state = replace(state, revision=progress.ready)
    if (size := _size(observed)) is not None:
        state = replace(state, model_bytes=size if size >= sizing.MIN_SIZE else None)
    if state.previous and progress.lacks(state.previous):
        state = replace(state, previous="")
    # The traffic does not wait for a host name.
    ready = conditions.ready(progress, loaded)
    if ready.status == "True":
        state = replace(state, started=progress.ready)
    if observed.spec and conditions.is_served(ready):
        state = traffic.settled(observed.spec, state, progress.service["status"])
    return state


def _generation(deployment: JsonObject) -> int:
    return int(deployment["metadata"]["generation"])


def _size(observed: Observed) -> int | None:
    """The model's size in bytes, if the loaders report it."""
    reported = [
        pods.model_size(pod, observed.outputs.get(pod["metadata"]["name"], NOTHING)) for pod in observed.own_pods
    ]
    return next((size for size in reported if size is not None), None)


def _seconds_left(deployment: JsonObject, now: datetime) -> float:
    """Until a change of messages is written."""
    return min(max(conditions.written(deployment) + MESSAGE_SECONDS - now.timestamp(), 0.0), MESSAGE_SECONDS)


def _is_same(new: Condition, old: Condition | None) -> bool:
    """Whether only the message of a condition changes."""
    return old is not None and (old.status, old.reason) == (new.status, new.reason)


def _is_event(new: Condition, old: Condition | None) -> bool:
    """Whether a condition becomes an Event: that the model is ready, and each cause why it is not. Progress is none."""
    if new.type == CONDITION_STATE or _is_same(new, old):
        return False
    if new.type == CONDITION_PREFETCHED:
        return new.reason != "Prefetching"
    if new.type == CONDITION_MODEL_LOADED:
        return new.reason not in ("Loaded", "Loading", "ModelPulled", "PullingModel", "NotNeeded", REGISTERED)
    return new.reason not in ("Progressing", "ModelNotLoaded", REGISTERED)


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


def template_digest(service: JsonObject) -> str:
    """A digest of the template of a Knative Service, as it is rendered."""
    return overlay.digest(service["spec"]["template"])


def _contains(live: Mapping[str, str] | None, wanted: Mapping[str, str] | None) -> bool:
    return (wanted or {}).items() <= (live or {}).items()
