"""Turns at a limited resource, which namespaces share: a tenant whose stores are slow delays no other one.

A free slot goes to the waiting namespace that has the fewest slots, of several to the one that was served the longest
time ago. A namespace that waits takes a slot from one that has two more at once, and from one that has one more after
the length of a turn.
"""

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator


class Turn:
    """The use of one slot, by one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.began = 0.0
        self.granted = False
        self.ended = False
        """Whether another namespace needs the slot. What uses it should end soon, and wait for another turn."""
        self._stop: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def on_end(self, stop: Callable[[], None]) -> None:
        """Call `stop` when the turn ends, from another thread; at once if it has ended."""
        with self._lock:
            self._stop = stop
            ended = self.ended
        if ended:
            stop()

    def end(self) -> None:
        """End the turn before its use has ended."""
        with self._lock:
            self.ended = True
            stop = self._stop
        if stop is not None:
            stop()


class Turns:
    """Slots of one kind. Safe to use from several threads."""

    def __init__(self, slots: int, seconds: float) -> None:
        """`seconds`: the length of a turn, when a namespace with fewer slots waits."""
        self._slots = slots
        self._seconds = seconds
        self._changed = threading.Condition()
        self._running: list[Turn] = []
        self._waiting: dict[str, deque[Turn]] = {}
        self._served: dict[str, int] = {}
        """When each namespace was served: a number that grows. Only of those that have or want a slot."""
        self._grants = 0

    @contextlib.contextmanager
    def turn(self, namespace: str) -> Iterator[Turn]:
        """Wait for a slot, and have it in the context."""
        turn = Turn(namespace)
        with self._changed:
            self._waiting.setdefault(namespace, deque()).append(turn)
            try:
                self._share()
                while not turn.granted:
                    self._changed.wait(self._next_end())
                    self._share()
            except BaseException:
                self._withdraw(turn)
                raise
        with self._held(turn):
            yield turn

    @contextlib.contextmanager
    def at_once(self, namespace: str) -> Iterator[Turn | None]:
        """Have a slot in the context, or None if there is none for this namespace at once."""
        with self._changed:
            self._share()
            turn = Turn(namespace) if len(self._running) < self._slots else None
            if turn is not None:
                self._grant(turn)
        if turn is None:
            yield None
            return
        with self._held(turn):
            yield turn

    @contextlib.contextmanager
    def _held(self, turn: Turn) -> Iterator[None]:
        try:
            yield
        finally:
            with self._changed:
                self._running.remove(turn)
                self._share()
                self._forget()

    def _withdraw(self, turn: Turn) -> None:
        if turn.granted:
            self._running.remove(turn)
        else:
            self._waiting[turn.namespace].remove(turn)
            if not self._waiting[turn.namespace]:
                del self._waiting[turn.namespace]
        self._share()
        self._forget()

    def _share(self) -> None:
        """Grant free slots; end turns of other namespaces for the namespaces that still wait."""
        while self._waiting and len(self._running) < self._slots:
            self._grant(self._take(self._in_order()[0]))
        # Each turn that had to end is for one of the namespaces that wait.
        ending = sum(turn.ended for turn in self._running)
        for namespace in self._in_order()[ending:]:
            self._make_way(namespace)

    def _in_order(self) -> list[str]:
        """Return the namespaces that wait, in the order in which they get slots."""
        held = self._held_by()
        return sorted(self._waiting, key=lambda each: (held[each], self._served.get(each, 0)))

    def _held_by(self) -> Counter[str]:
        return Counter(turn.namespace for turn in self._running if not turn.ended)

    def _take(self, namespace: str) -> Turn:
        waiting = self._waiting[namespace]
        turn = waiting.popleft()
        if not waiting:
            del self._waiting[namespace]
        return turn

    def _grant(self, turn: Turn) -> None:
        self._grants += 1
        self._served[turn.namespace] = self._grants
        turn.began = time.monotonic()
        turn.granted = True
        self._running.append(turn)
        self._changed.notify_all()

    def _make_way(self, namespace: str) -> None:
        """End one turn for a namespace that waits, if another one has more than its share."""
        held = self._held_by()
        mine = held[namespace]
        running = [turn for turn in self._running if not turn.ended and held[turn.namespace] > mine]
        rich = [turn for turn in running if held[turn.namespace] > mine + 1]
        due = [turn for turn in running if time.monotonic() - turn.began >= self._seconds]
        if rich:
            # The youngest of the namespace with the most loses the least.
            max(rich, key=lambda turn: (held[turn.namespace], turn.began)).end()
        elif due:
            min(due, key=lambda turn: turn.began).end()

    def _next_end(self) -> float:
        """Return the seconds until the next turn is as long as it can be."""
        now = time.monotonic()
        ends = (turn.began + self._seconds for turn in self._running if not turn.ended)
        return min((end - now for end in ends if end > now), default=self._seconds)

    def _forget(self) -> None:
        """Forget namespaces that neither have nor want a slot."""
        known = {turn.namespace for turn in self._running} | self._waiting.keys()
        self._served = {name: when for name, when in self._served.items() if name in known}


class Shares:
    """Units of a resource that nothing waits for: each namespace gets at most half of what is left."""

    def __init__(self, units: int) -> None:
        self._units = units
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def unit(self, namespace: str) -> Iterator[bool]:
        """Have a unit in the context. Yields False if there is none for this namespace."""
        with self._lock:
            taken = self._taken[namespace] < (self._units - self._taken.total()) / 2
            self._taken[namespace] += taken
        try:
            yield taken
        finally:
            with self._lock:
                self._taken[namespace] -= taken
                if not self._taken[namespace]:
                    del self._taken[namespace]
