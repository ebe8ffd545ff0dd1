"""What the reconciler reads of the autoscalers and disruption budgets of a namespace, which any user can create."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from serve_core.base.json import JsonObject
from serve_kube.paging import Page, Unread
from serve_webhook.reconcile import surroundings
from serve_webhook.reconcile.surroundings import MAX_BYTES, MAX_OBJECTS

TARGET = {"kind": "Deployment", "name": "iris"}


class Pages:
    """An API whose lists have these pages. Counts the pages that were read."""

    def __init__(self, *pages: Page) -> None:
        self._pages = pages
        self.read = 0

    async def pages(self, *_: object) -> AsyncIterator[Page]:
        for page in self._pages:
            self.read += 1
            yield page


def autoscalers(count: int, **more: Any) -> Sequence[JsonObject]:
    spec = {"scaleTargetRef": TARGET, "maxReplicas": 3}
    return [{"metadata": {"name": f"a{index}", "namespace": "ml"} | more, "spec": spec} for index in range(count)]


def strings(value: object) -> Iterator[str]:
    """Every string in dataclasses, lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for each in pair for text in strings(each))
    elif isinstance(value, list | tuple):
        yield from (text for each in value for text in strings(each))
    elif slots := getattr(value, "__slots__", ()):
        yield from (text for slot in slots for text in strings(getattr(value, slot)))


async def test_every_page_counts() -> None:
    api = Pages(Page(autoscalers(2)), Page(autoscalers(1)))
    found = await surroundings.read(api, "ml")  # type: ignore[arg-type]
    assert len(found["ml"].autoscalers) == 3


@pytest.mark.attack(25)
async def test_no_more_objects_and_bytes_are_read_than_a_namespace_needs() -> None:
    full = Page(autoscalers(MAX_OBJECTS // 2))
    large = Page(autoscalers(1), size=MAX_BYTES // 4)
    unread = Page((), unread=[Unread({}, "too large")] * (MAX_OBJECTS // 2))
    for page, most in ((full, 2), (large, 4), (unread, 2)):
        api = Pages(*[page] * 20)
        await surroundings.read(api, "ml")  # type: ignore[arg-type]
        assert api.read == 2 * most, "of each of two kinds"


@pytest.mark.attack(25)
async def test_only_what_is_needed_of_an_object_is_kept() -> None:
    long = "x" * 100_000
    api = Pages(Page(autoscalers(1, annotations={"a": long}, managedFields=[{"manager": long}], labels={"a": long})))
    found = await surroundings.read(api, "ml")  # type: ignore[arg-type]
    kept = list(strings(found["ml"].autoscalers))
    assert "iris" in kept
    assert long not in kept
