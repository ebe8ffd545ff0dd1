"""The state of a model: what the reconciler records on a served Deployment beside its conditions.

It is a condition of the Deployment's status. A write of the status makes no new generation of the Deployment, and
Kubernetes' default roles for users do not have it: what is recorded cannot be forged.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from serve_core.api.annotations import EARLIER_STATE
from serve_core.base.constants import CONDITION_STATE
from serve_core.base.json import JsonObject, canonical, object_of, objects_in, value_at
from serve_core.base.workload import Workload

_REASON = "ObservedGeneration"
_MAX_BYTES = 2**50


@dataclass(frozen=True, slots=True)
class State:
    """An empty text or ``None`` where something is not known yet."""

    observed_generation: int | None = None
    """Generation of the Deployment that its conditions describe."""
    url: str = ""
    revision: str = ""
    """The latest ready revision."""
    model_bytes: int | None = None
    """Size of the latest model as its loader reported it, if at least 1 GiB. Default size of the next model."""
    promoted: str = ""
    """The last revision that got all the traffic; empty while another one is about to get it."""
    previous: str = ""
    """The revision promoted before that, reachable under the tag ``previous``."""
    started: str = ""
    """The latest revision of which a pod has been ready."""
    template: str = ""
    """Digest of the Knative Service's template: another one makes a new revision."""
    prefetched: str = ""
    """Digest of what was loaded in advance, and on how many nodes."""

    @property
    def stable(self) -> str:
        """The revision that has the rest of the traffic beside a canary."""
        return self.promoted or self.previous

    def without_revisions(self) -> "State":
        """The state for a new Knative Service, which does not have the revisions of a deleted one."""
        return replace(self, revision="", promoted="", previous="", started="", template="")

    @property
    def reason(self) -> str:
        """The condition's reason. It has the generation: Argo CD's health checks compare it, and cannot read JSON."""
        return f"{_REASON}{self.observed_generation or 0}"

    @property
    def message(self) -> str:
        """The condition's message: everything else, as JSON."""
        fields = {
            "url": self.url,
            "revision": self.revision,
            "modelBytes": self.model_bytes,
            "promoted": self.promoted,
            "previous": self.previous,
            "started": self.started,
            "template": self.template,
            "prefetched": self.prefetched,
        }
        return canonical({key: value for key, value in fields.items() if value})


def read(deployment: JsonObject | None) -> State:
    """The state of a stored Deployment; an empty one if it has none. Anything malformed in it counts as missing.

    A submitted Deployment can contain any status, which the API server replaces after admission: read the stored one.
    """
    for condition in objects_in(value_at(deployment, "status", "conditions")):
        if condition.get("type") == CONDITION_STATE:
            reason = condition.get("reason")
            found = object_of(condition.get("message"))
            return _read(reason.removeprefix(_REASON) if isinstance(reason, str) else "", found)
    return State() if deployment is None else _of_annotations(Workload(deployment).annotations)


def is_current(deployment: JsonObject) -> bool:
    """Whether the reconciler's conditions are about the Deployment's present generation."""
    observed = read(deployment).observed_generation
    return observed is not None and observed == Workload(deployment).metadata.get("generation")


def _of_annotations(notes: Mapping[str, str]) -> State:
    """Earlier builds recorded the state in annotations."""
    fields = {field: notes[key] for key, field in EARLIER_STATE.items() if key in notes}
    return _read(fields.pop("observedGeneration", ""), fields)


def _read(generation: str, fields: JsonObject) -> State:
    def text(key: str) -> str:
        value = fields.get(key)
        return value if isinstance(value, str) else ""

    size = _number(str(fields.get("modelBytes")))
    return State(
        observed_generation=_number(generation) or None,
        url=text("url"),
        revision=text("revision"),
        model_bytes=size if size is not None and 1 <= size <= _MAX_BYTES else None,
        promoted=text("promoted"),
        previous=text("previous"),
        started=text("started"),
        template=text("template"),
        prefetched=text("prefetched"),
    )


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) else None
