"""What a Deployment was completed with, so that a changed catalogue or loader rolls out nobody's model by surprise.

One annotation names it, by digests: until the user changes what the choice of the runtime rests on, or asks to be
completed again by :data:`RENEW`. What the digests stand for is among the cluster context
(:mod:`serve_core.admission.snapshots`).
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from serve_core.admission import snapshots
from serve_core.api import runtimes
from serve_core.api.annotations import COMPLETED_WITH, MODEL, MODEL_SIZE, path_of
from serve_core.api.runtimes import Runtime
from serve_core.api.serving_spec import ServingSpec
from serve_core.base import overlay
from serve_core.base.json import JsonObject, canonical
from serve_core.base.reasons import Diagnostic, Explanation, diagnostic, explanation
from serve_core.context.cluster import ClusterContext, LoaderConfig

RENEW = "renew"
"""The annotation's value that asks for the present catalogue and loader at the next admission."""

_LONGEST = 64 * 1024
"""Characters of a record that is read."""


@dataclass(frozen=True)
class CompletionRecord:
    """What the annotation says. Users can write it: only what :func:`believed` returns counts."""

    asked: str | None = None
    """What :func:`asked` said; ``None`` where nothing is remembered but the size."""
    loader: str | None = None
    """Its digest."""
    runtime: str | None = None
    """Its digest; ``None`` where the container is the user's own."""
    runtime_name: str | None = None
    protocol: str | None = None
    """What the runtime speaks unless another protocol is asked for."""
    size: int | None = None


def asked(spec: ServingSpec, resources: Collection[str]) -> str:
    """A digest of what the choice of a runtime, and of the loader's image, rests on.

    ``resources``: the extended ones that are asked for.
    """
    wanted, _ = runtimes.format_of(spec)
    verified = [] if spec.signature_key is None else ["signed"]
    return overlay.digest([spec.runtime, wanted and str(wanted), spec.protocol, sorted(resources), *verified])


def believed(text: str | None, stored: str | None, context: ClusterContext) -> str | None:
    """What counts of a submitted record: a request for the present loader and runtime, else what was ``stored`` before.

    A record that names the present ones is such a request. The API server submits one when it calls the webhook again,
    after another webhook has changed the object: it is the record of the first call.
    """
    if text in (RENEW, stored):
        return text
    submitted = read(text)
    if submitted is None or not _names_what_is_present(submitted, context):
        return stored
    return canonical({} if submitted.size is None else {"size": submitted.size})


def _names_what_is_present(record: CompletionRecord, context: ClusterContext) -> bool:
    return _present_loader(record, context) is not None and (
        record.runtime is None or _present_runtime(record, context) is not None
    )


def _present_loader(record: CompletionRecord, context: ClusterContext) -> LoaderConfig | None:
    return next((each for each in snapshots.loaders(context.loader) if snapshots.digest(each) == record.loader), None)


def _present_runtime(record: CompletionRecord, context: ClusterContext) -> Runtime | None:
    named = next((each for each in context.runtimes if each.name == record.runtime_name), None)
    return named if named is not None and snapshots.digest(named) == record.runtime else None


def recall(
    deployment: JsonObject, asks: str, context: ClusterContext
) -> tuple[ClusterContext, tuple[Explanation, ...], tuple[Diagnostic, ...]]:
    """``context`` with the runtime and the loader that ``deployment`` was completed with, if they are still to be used:
    if what :func:`asked` says now, ``asks``, is what it said then. And warnings: where they are not known any more."""
    record = read((deployment["metadata"].get("annotations") or {}).get(COMPLETED_WITH))
    if record is None or record.asked != asks:
        return context, (), ()
    loader, runtime = _present_loader(record, context), _present_runtime(record, context)
    as_it_is = loader is not None and (record.runtime is None or runtime is not None)
    if loader is None and isinstance(earlier := context.snapshots.get(record.loader or ""), LoaderConfig):
        loader = earlier
    if runtime is None and isinstance(before := context.snapshots.get(record.runtime or ""), Runtime):
        runtime = before
    if loader is None or (record.runtime is not None and runtime is None):
        return context, (), (diagnostic("CompletedAgain", path_of(COMPLETED_WITH)),)
    kept = replace(context, loader=loader, runtimes=context.runtimes if runtime is None else (runtime,))
    return kept, () if as_it_is else (explanation("CompletedEarlier"),), ()


def size(deployment: JsonObject, spec: ServingSpec, previous: JsonObject | None) -> int | None:
    """The bytes by which the model is sized: what the user says, else what the model before it had.

    The latter is taken when another model is asked for, or to be completed again: a size that becomes known rolls
    nothing out. ``previous`` is the Deployment before this change, if there is one.
    """
    if spec.size is not None:
        return spec.size
    notes = deployment["metadata"].get("annotations") or {}
    before = None if previous is None else (previous["metadata"].get("annotations") or {}).get(MODEL)
    text = notes.get(COMPLETED_WITH)
    if text == RENEW or before not in (None, notes[MODEL]):
        found = notes.get(MODEL_SIZE, "")
        return int(found) if re.fullmatch(r"[0-9]{1,16}", found, re.ASCII) else None
    record = read(text)
    return None if record is None else record.size


def note(
    deployment: JsonObject,
    spec: ServingSpec,
    asks: str,
    loader: LoaderConfig,
    runtime: Runtime | None,
) -> None:
    """Write into ``deployment`` what it was completed with."""
    record: JsonObject = {"asked": asks, "loader": snapshots.digest(loader)}
    if spec.size is not None:
        record["size"] = spec.size
    if runtime is not None:
        record["runtime"] = {
            "digest": snapshots.digest(runtime),
            "name": runtime.name,
            "protocol": runtime.protocols[0],
        }
    deployment["metadata"].setdefault("annotations", {})[COMPLETED_WITH] = canonical(record)


def read(text: str | None) -> CompletionRecord | None:
    """Read the annotation's value; ``None`` where it is not a record. What it says of sizes is a whole number."""
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
    """What was completed with is in the record itself there: it counts if it is known under its digest."""
    loader, runtime, name = record["loader"], record.get("runtime"), None
    digest = protocol = None
    if runtime is not None:
        name, parsed = runtime["name"], runtimes.parse_spec(runtime["name"], runtime["spec"])
        digest, protocol = snapshots.digest(parsed), parsed.protocols[0]
    made = LoaderConfig(loader["image"], tuple(loader["allowNetworks"]))
    return CompletionRecord(record["asked"], snapshots.digest(made), digest, name, protocol, _size(record.get("size")))


def _size(found: Any) -> int | None:
    return found if isinstance(found, int) and not isinstance(found, bool) and 1 <= found <= 2**50 else None
