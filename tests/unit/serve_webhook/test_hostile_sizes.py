"""For any size and shape of an object, a review takes bounded time and memory. Both are measured."""

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from serve_webhook.admission import review, scheduling, validation
from serve_webhook.admission.review import Reviewer
from support.hostile_sizes import LARGEST, SHAPES, bodies
from support.reviews import context_with

SECONDS = 0.25
"""Of CPU time, that a review may take; on a quiet machine the slowest takes a tenth."""
SECONDS_AT_ONCE = 0.08
"""That one may take which is judged without a pause: others are to be answered within 100 ms."""
MEMORY = 64 * 2**20
"""Bytes beside the review's own."""
WITHIN = 240_000
"""Bytes of an object that most shapes are judged to the end with: few of them have more values than may be."""

FEW = ("unknown annotations", "names", "objects", "labels", "undefined variables", "containers", "60 levels")
"""Of which each takes most memory in another place."""

RULES = """
rules:
  - {name: places, sources: {allow: ['s3://models'], deny: ['s3://bad']}}
  - {name: images, images: {allow: [dev.local/kubectl-serve, example.com], digest: true}}
  - {name: resources, resources: {perReplica: {memory: 2Gi, cpu: 4}, total: {'nvidia.com/*': 4}}}
  - {name: scale, scale: {most: 5}}
  - {name: pinned, pinned: {}}
  - {name: signed, signed: {}}
  - {name: formats, formats: {allow: [sklearn]}}
  - {name: secrets, secrets: {deny: ['prod-*', admin]}}
  - {name: mesh, mesh: {allow: [istio]}}
  - {name: containers, containers: {variables: ['LD_*', 'HF_*'], arguments: [--trust-remote-code]}}
  - {name: labels, expression: {cel: "has(object.metadata.labels)", message: no labels}}
  - {name: names, expression: {cel: "object.metadata.name.size() < 30", message: a long name}}
"""
FACTS = context_with(*[RULES] * 5)
NOW = datetime(2026, 11, 18, tzinfo=UTC)
REVIEWERS: dict[str, Reviewer] = {
    "completed": lambda asked: review.mutate(asked, FACTS),
    "judged": lambda asked: validation.validate(asked, FACTS, (), NOW, lambda *_: None),
}


def seconds(act: Callable[[], object], enough: float) -> float:
    """CPU time, of three times the shortest; of less where one was short enough."""
    found = []
    for _ in range(3):
        started = time.process_time()
        act()
        found.append(time.process_time() - started)
        if found[-1] < enough:
            break
    return min(found)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """As in the server's own process: what was there before is not gone through again and again."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def hostile(name: str, size: int, *wanted: str) -> Iterator[tuple[str, bytes, Reviewer]]:
    for kind, body in bodies(name, size, *wanted):
        for what, reviewer in REVIEWERS.items():
            if what == "judged" or "Deployment" in kind:
                yield f"{kind} of {size:,} bytes, {what}", body, reviewer


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    "kinds", [("Deployment changed",), pytest.param((), marks=pytest.mark.slow)], ids=["one kind", "all"]
)
@pytest.mark.attack(10, 22)
@pytest.mark.timed
def test_a_review_of_anything_takes_a_quarter_of_a_second_at_most(name: str, kinds: tuple[str, ...]) -> None:
    for size in (WITHIN, LARGEST):
        for what, body, reviewer in hostile(name, size, *kinds):
            taken = seconds(lambda: review.review(body, reviewer), SECONDS)  # noqa: B023
            assert taken < SECONDS, what


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.attack(18, 22)
@pytest.mark.timed
def test_what_is_judged_without_a_pause_takes_less_than_others_notice(name: str) -> None:
    for what, body, reviewer in hostile(name, scheduling.INLINE_BYTES - 1024, "Deployment made"):
        if len(body) <= scheduling.INLINE_BYTES:
            taken = seconds(lambda: review.review(body, reviewer), SECONDS_AT_ONCE)  # noqa: B023
            assert taken < SECONDS_AT_ONCE, what


@pytest.mark.parametrize("name", FEW)
@pytest.mark.attack(10, 22)
def test_a_review_of_700_kilobytes_takes_little_memory(name: str) -> None:
    for what, body, reviewer in hostile(name, 700_000, "Deployment made"):
        tracemalloc.start()
        try:
            review.review(body, reviewer)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < MEMORY, what
