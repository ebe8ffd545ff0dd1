"""The writes that a plan consists of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_core.base.json import JsonObject
from serve_webhook.reconcile.conditions import Condition


@dataclass(frozen=True)
class Apply:
    """Apply ``manifest``: with ``uid`` to that object, by force; without, as a new object."""

    manifest: JsonObject
    fingerprint: str
    uid: str | None = None


@dataclass(frozen=True)
class Delete:
    manifest: JsonObject


@dataclass(frozen=True)
class Merge:
    """Merge ``patch`` into the Deployment. ``why``: the label for the metrics."""

    patch: JsonObject
    why: str


@dataclass(frozen=True)
class SetConditions:
    """Apply our conditions to the Deployment's status; each of ``events`` becomes an Event as well."""

    entries: Sequence[JsonObject]
    events: Sequence[Condition] = ()


@dataclass(frozen=True)
class SetScaling:
    """Set annotations of the autoscaler of a revision of the Deployment's Knative Service; ``None`` removes one."""

    service: str
    """The UID of the Knative Service: a new one can have revisions of the same names."""
    revision: str
    annotations: Mapping[str, str | None]


Action = Delete | Merge | SetConditions | SetScaling
