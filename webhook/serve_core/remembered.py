"""What a Deployment was completed with, so that a changed catalogue or loader rolls out nobody's model by surprise.

It is kept in one annotation: until the user changes what the choice of the runtime rests on, or asks to be completed
anew by :data:`RENEW`.
"""

import json
import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from serve_core import filling, runtimes
from serve_core.annotations import COMPLETED_WITH, MODEL, MODEL_SIZE, ServingSpec, path_of
from serve_core.facts import LoaderFacts, PlatformFacts
from serve_core.json import JsonObject, canonical
from serve_core.reasons import Choice, Problem, choice, problem
from serve_core.runtimes import Runtime

RENEW = "renew"
"""The annotation's value that asks for the present catalogue and loader at the next admission."""


def asked(spec: ServingSpec, resources: Collection[str]) -> str:
    """A digest of what the choice of a runtime, and of the loader's image, rests on.

    ``resources``: the extended ones that are asked for.
    """
    wanted, _ = runtimes.format_of(spec)
    verified = [] if spec.signature_key is None else ["signed"]
    return filling.digest([spec.runtime, wanted and str(wanted), spec.protocol, sorted(resources), *verified])


def recall(
    deployment: JsonObject, asks: str, facts: PlatformFacts
) -> tuple[PlatformFacts, tuple[Choice, ...], tuple[Problem, ...]]:
    """``facts`` with the runtime and the loader that ``deployment`` was completed with, if they are still to be used:
    if what :func:`asked` says now, ``asks``, is what it said then."""
    text = (deployment["metadata"].get("annotations") or {}).get(COMPLETED_WITH)
    if text is None or text == RENEW:
        return facts, (), ()
    try:
        before, loader, runtime = _read(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        why = "it is not what kubectl-serve wrote"
        return facts, (), (problem("InvalidRecord", path_of(COMPLETED_WITH), why=why),)
    if before != asks:
        return facts, (), ()
    known = {present.name: present for present in facts.runtimes}
    as_it_is = loader == facts.loader and (runtime is None or known.get(runtime.name) == runtime)
    kept = replace(facts, loader=loader, runtimes=facts.runtimes if runtime is None else (runtime,))
    return kept, () if as_it_is else (choice("CompletedEarlier"),), ()


def size(deployment: JsonObject, spec: ServingSpec, previous: JsonObject | None) -> int | None:
    """The bytes by which the model is sized: what the user says, else what the model before it had.

    The latter is taken when another model is asked for, or to be completed anew: a size that becomes known rolls
    nothing out. ``previous`` is the Deployment before this change, if there is one.
    """
    if spec.size is not None:
        return spec.size
    notes = deployment["metadata"].get("annotations") or {}
    before = None if previous is None else (previous["metadata"].get("annotations") or {}).get(MODEL)
    text = notes.get(COMPLETED_WITH)
    if text == RENEW or before not in (None, notes[MODEL]):
        found: Any = notes.get(MODEL_SIZE, "")
        return int(found) if re.fullmatch(r"[0-9]{1,16}", found, re.ASCII) else None
    try:
        found = json.loads(text or "{}").get("size")
    except (ValueError, AttributeError, RecursionError):
        return None  # told by recall
    return found if isinstance(found, int) else None


def runtime_of(deployment: JsonObject) -> Runtime | None:
    """The runtime that ``deployment`` was completed with, if the record tells."""
    text = (deployment["metadata"].get("annotations") or {}).get(COMPLETED_WITH)
    try:
        return _read(json.loads(text or ""))[2]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def note(
    deployment: JsonObject,
    spec: ServingSpec,
    asks: str,
    loader: LoaderFacts,
    runtime: Runtime | None,
) -> None:
    """Write into ``deployment`` what it was completed with."""
    record: JsonObject = {
        "asked": asks,
        "loader": {"image": loader.image, "allowNetworks": list(loader.allow_networks)},
    }
    if spec.size is not None:
        record["size"] = spec.size
    if runtime is not None:
        record["runtime"] = {"name": runtime.name, "spec": runtimes.spec_document(runtime)}
    deployment["metadata"].setdefault("annotations", {})[COMPLETED_WITH] = canonical(record)


def _read(record: JsonObject) -> tuple[str, LoaderFacts, Runtime | None]:
    loader, written = record["loader"], record.get("runtime")
    networks = loader["allowNetworks"]
    texts = [record["asked"], loader["image"], *networks, *([] if written is None else [written["name"]])]
    if not isinstance(networks, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError
    runtime = None if written is None else runtimes.parse_spec(written["name"], written["spec"])
    return record["asked"], LoaderFacts(loader["image"], tuple(networks)), runtime
