"""The record of what a Deployment was completed with, so that a changed runtime or loader does not roll out models.

An annotation names the loader and the runtime by their digests. They stay until the user changes what the choice of the
runtime rests on, or asks for the present ones by :data:`RENEW`. The cluster context has what the digests stand for
(:mod:`serve_core.admission.completion.snapshots`).
"""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from model_uri.uri import is_short
from serve_core.admission.completion import snapshots
from serve_core.api import runtimes
from serve_core.api.annotations import COMPLETED_WITH, MODEL
from serve_core.api.models import Placed
from serve_core.api.runtimes import Runtime
from serve_core.api.serving_spec import ServingSpec
from serve_core.api.state import State
from serve_core.base import overlay
from serve_core.base.json import JsonObject, canonical
from serve_core.base.workload import Workload
from serve_core.context.cluster import ClusterContext, LoaderConfig

RENEW = "renew"
"""The annotation's value that asks for the present catalogue and loader."""

_LONGEST = 64 * 1024
"""Characters; a longer record is not read."""

_FIRST_SCHEMES = frozenset({"http", "https", "s3", "gs", "az", "hf", "oci", "pvc"})
"""Schemes that every loader reads."""


@dataclass(frozen=True)
class CompletionRecord:
    """The annotation's content. Users can write the annotation: only what :func:`believed` returns counts."""

    asked: str | None = None
    """What :func:`asked` returned; ``None`` in a record of the size alone."""
    loader: str | None = None
    """Its digest."""
    runtime: str | None = None
    """Its digest; ``None`` if the container is the user's."""
    runtime_name: str | None = None
    protocol: str | None = None
    """The runtime's default protocol."""
    size: int | None = None


def asked(spec: ServingSpec, resources: Collection[str]) -> str:
    """A digest of everything that the choice of the runtime and of the loader's image rests on.

    ``resources``: the extended resources that the model server's container asks for.
    """
    wanted, _ = runtimes.format_of(spec)
    # An earlier loader may not know them.
    needed = [
        *(["signed"] if spec.signature_key is not None else []),
        *(["files"] if runtimes.files_of(spec) or any(map(_is_new_form, spec.models)) else []),
        *(["shared"] if spec.cache.claim is not None else []),
    ]
    return overlay.digest([spec.runtime, wanted and str(wanted), spec.protocol, sorted(resources), *needed])


def _is_new_form(model: Placed) -> bool:
    """Whether the first loaders did not read such a URI: by its scheme, or by its form, which is another than
    ``hf://organisation/model@revision`` or ``oci://registry/repository``."""
    uri = model.uri
    if uri.scheme not in _FIRST_SCHEMES or (uri.scheme == "oci" and is_short(uri.text.split("/", 3)[2])):
        return True
    first = f"hf://{uri.repository}{'@' if uri.revision else ''}{uri.revision}"
    return uri.scheme == "hf" and (not uri.segments or uri.text != first)


def believed(text: str | None, stored: str | None, context: ClusterContext) -> str | None:
    """What counts of a submitted record: a request for the present loader and runtime, otherwise the ``stored`` one.

    A record that names the present ones is such a request. The API server submits one when it calls the webhook again,
    after another webhook has changed the object: it is the record of the first call.
    """
    if text in (RENEW, stored):
        return text
    submitted = read(text)
    if submitted is None or not _names_the_present_ones(submitted, context):
        return stored
    return canonical({} if submitted.size is None else {"size": submitted.size})


def _names_the_present_ones(record: CompletionRecord, context: ClusterContext) -> bool:
    return _present_loader(record, context) is not None and (
        record.runtime is None or _present_runtime(record, context) is not None
    )


def _present_loader(record: CompletionRecord, context: ClusterContext) -> LoaderConfig | None:
    return next((each for each in snapshots.loaders(context.loader) if snapshots.digest(each) == record.loader), None)


def _present_runtime(record: CompletionRecord, context: ClusterContext) -> Runtime | None:
    named = next((each for each in context.runtimes if each.name == record.runtime_name), None)
    return named if named is not None and snapshots.digest(named) == record.runtime else None


class Recall(NamedTuple):
    """What to complete a Deployment with, after a look at its record."""

    context: ClusterContext
    """With the recorded loader and runtime, if they still count."""
    earlier: bool = False
    """Whether one of them is not the present one."""
    forgotten: bool = False
    """Whether they count and are not known any more."""


def recall(workload: Workload, asks: str, context: ClusterContext) -> Recall:
    """``context`` with the loader and the runtime that the Deployment was completed with. They count while the choice
    rests on the same: while what :func:`asked` returns now, ``asks``, is what the record has."""
    record = read(workload.annotations.get(COMPLETED_WITH))
    if record is None or record.asked != asks:
        return Recall(context)
    loader, runtime = _present_loader(record, context), _present_runtime(record, context)
    is_present = loader is not None and (record.runtime is None or runtime is not None)
    if loader is None and isinstance(earlier := context.snapshots.get(record.loader or ""), LoaderConfig):
        loader = earlier
    if runtime is None and isinstance(before := context.snapshots.get(record.runtime or ""), Runtime):
        runtime = before
    if loader is None or (record.runtime is not None and runtime is None):
        return Recall(context, forgotten=True)
    kept = replace(context, loader=loader, runtimes=context.runtimes if runtime is None else (runtime,))
    return Recall(kept, earlier=not is_present)


def size(workload: Workload, spec: ServingSpec, previous: JsonObject | None, state: State) -> int | None:
    """The model's size in bytes: the user's value, otherwise the size of the model before it.

    The latter counts when the user asks for another model, or to complete it again: a size that becomes known does not
    roll out anything. ``previous`` is the Deployment before this change, if there is one; ``state``: its state.
    """
    if spec.size is not None:
        return spec.size
    notes = workload.annotations
    before = None if previous is None else Workload(previous).annotations.get(MODEL)
    text = notes.get(COMPLETED_WITH)
    if text == RENEW or before not in (None, notes[MODEL]):
        return state.model_bytes
    record = read(text)
    return None if record is None else record.size


def annotation_value(spec: ServingSpec, asks: str, loader: LoaderConfig, runtime: Runtime | None) -> str:
    """The annotation's value for a Deployment that is completed with this loader and runtime."""
    record: JsonObject = {"asked": asks, "loader": snapshots.digest(loader)}
    if spec.size is not None:
        record["size"] = spec.size
    if runtime is not None:
        record["runtime"] = {
            "digest": snapshots.digest(runtime),
            "name": runtime.name,
            "protocol": runtime.protocols[0],
        }
    return canonical(record)


def read(text: str | None) -> CompletionRecord | None:
    """Read the annotation's value; ``None`` if it is not a record."""
    if text is None or len(text) > _LONGEST:
        return None
    try:
        record = json.loads(text)
        return _of_version_0_1(record) if isinstance(record.get("loader"), dict) else _read(record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _read(record: JsonObject) -> CompletionRecord:
    runtime, size = record.get("runtime", {}), record.get("size")
    texts = (
        record.get("asked"),
        record.get("loader"),
        runtime.get("digest"),
        runtime.get("name"),
        runtime.get("protocol"),
    )
    if not all(each is None or isinstance(each, str) for each in texts):
        raise TypeError
    return CompletionRecord(*texts, _size(size))


def _of_version_0_1(record: JsonObject) -> CompletionRecord:
    """Version 0.1 recorded the loader and the runtime themselves: they count if they are known by their digests."""
    loader, runtime, name = record["loader"], record.get("runtime"), None
    digest = protocol = None
    if runtime is not None:
        name, parsed = runtime["name"], runtimes.parse_spec(runtime["name"], runtime["spec"])
        digest, protocol = snapshots.digest(parsed), parsed.protocols[0]
    made = LoaderConfig(loader["image"], tuple(loader["allowNetworks"]))
    return CompletionRecord(record["asked"], snapshots.digest(made), digest, name, protocol, _size(record.get("size")))


def _size(found: Any) -> int | None:
    return found if isinstance(found, int) and not isinstance(found, bool) and 1 <= found <= 2**50 else None
