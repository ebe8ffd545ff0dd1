"""How namespaces share slots: none of them waits for another's slow stores."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from model_cache.turns import Shares, Turns

from .conftest import eventually


class Users:
    """Uses of slots: each ends when its end is set, or at the end of the test."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.running: list[str] = []
        self.done = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, *namespaces: str, obey: bool = True) -> None:
        for namespace in namespaces:
            self._threads.append(threading.Thread(target=self._use, args=(namespace, obey)))
            self._threads[-1].start()

    def _use(self, namespace: str, obey: bool) -> None:
        while not self.done.is_set():
            over = threading.Event()
            with self.turns.turn(namespace) as turn:
                if obey:
                    turn.on_end(over.set)
                self.running.append(namespace)
                while not over.is_set() and not self.done.is_set():
                    over.wait(0.01)
                self.running.remove(namespace)

    def end(self) -> None:
        self.done.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def users(slots: int, seconds: float) -> Iterator[Users]:
    found = Users(Turns(slots, seconds))
    try:
        yield found
    finally:
        found.end()


@pytest.mark.attack(47)
def test_a_namespace_gets_a_slot_of_one_that_has_them_all() -> None:
    with users(4, 1000) as found:
        found.start(*["hostile"] * 30)
        eventually(lambda: len(found.running) == 4, 10)
        with found.turns.turn("normal") as turn:
            assert not turn.ended
            eventually(lambda: found.running == ["hostile"] * 3, 10)


@pytest.mark.attack(47)
def test_namespaces_have_as_many_slots_each() -> None:
    with users(4, 1000) as found:
        found.start(*["hostile"] * 30)
        eventually(lambda: len(found.running) == 4, 10)
        found.start(*["normal"] * 30)
        eventually(lambda: sorted(found.running) == ["hostile"] * 2 + ["normal"] * 2, 10)


@pytest.mark.attack(47)
def test_of_more_namespaces_than_slots_each_has_its_turn() -> None:
    with users(2, 0.1) as found:
        found.start("a", "b", "c", "d")
        seen = set[str]()

        def has_seen_all() -> bool:
            seen.update(found.running)
            return len(seen) == 4

        eventually(has_seen_all, 10)
        assert len(found.running) <= 2


def test_a_turn_that_no_one_waits_for_does_not_end() -> None:
    turns = Turns(2, 0.0)
    with turns.turn("a") as first, turns.turn("a") as second:
        assert (first.ended, second.ended) == (False, False)
        with turns.at_once("b") as third:
            assert third is None


def test_only_as_many_turns_end_as_namespaces_wait() -> None:
    turns = Turns(4, 1000)
    with ExitStack() as held:
        running = [held.enter_context(turns.turn("hostile")) for _ in range(4)]
        waiting = threading.Thread(target=lambda: held_briefly(turns, "normal"))
        waiting.start()
        eventually(lambda: [turn.ended for turn in running] == [False, False, False, True], 10)
        held.close()
        waiting.join()


def held_briefly(turns: Turns, namespace: str) -> None:
    with turns.turn(namespace):
        pass


@pytest.mark.attack(47)
def test_shares_leave_something_for_other_namespaces() -> None:
    shares = Shares(96)
    with ExitStack() as held:
        counts = {name: sum(held.enter_context(shares.unit(name)) for _ in range(100)) for name in "abcdef"}
    assert counts["a"] == 32
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert min(counts.values()) > 0
    with ExitStack() as held:
        assert sum(held.enter_context(shares.unit("g")) for _ in range(100)) == 32
