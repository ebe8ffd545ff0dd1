"""The work grows no faster than the object: nobody holds the server up by an object that is made for it."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from serve_core.admission.decide import judge
from serve_core.api.annotations import FILLED
from serve_core.base import overlay
from serve_core.base.json import JsonObject, canonical
from serve_core.context.cluster import ClusterContext, LoaderConfig

FACTS = ClusterContext(LoaderConfig("loader:1"))


def deployment(container: JsonObject, **annotations: str) -> JsonObject:
    notes = {"kubectl-serve.dev/model": "s3://models/a.joblib", **annotations}
    pod = {"containers": [{"name": "server", "image": "example.com/server:1", **container}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "iris", "annotations": notes},
        "spec": {"template": {"spec": pod}},
    }


def variables(number: int) -> JsonObject:
    return deployment({"env": [{"name": f"A{index}"} for index in range(number)]})


def a_forged_record(number: int) -> JsonObject:
    place = "/spec/template/spec/containers/name=server/env/name="
    record = {f"{place}A{index}": "0" * 12 for index in range(number)}
    return deployment({"env": [{"name": f"A{index}"} for index in range(number)]}, **{FILLED: canonical(record)})


def a_forged_note(number: int) -> JsonObject:
    """One with as many different marks of paths as are read, so that many values have to be digested."""
    marks = "".join(f"{mark}AAAAAA" for mark in sorted({overlay.encode({f"/{i}": ""})[:2] for i in range(5000)})[:250])
    return deployment({"env": [{"name": f"A{index}"} for index in range(number)]}, **{FILLED: marks})


def steps(judged: JsonObject) -> int:
    """Functions that are called and generators that are asked while it is judged."""
    count = 0

    def counting(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(counting)
    try:
        judge(judged, FACTS)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("made", [variables, a_forged_record, a_forged_note])
@pytest.mark.attack(18)
def test_twice_the_elements_are_about_twice_the_work(made: Callable[[int], JsonObject]) -> None:
    steps(made(1))  # what is imported or compiled once does not count
    assert steps(made(400)) < 2.5 * steps(made(200))
