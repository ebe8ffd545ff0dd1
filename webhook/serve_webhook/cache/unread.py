"""Objects that a watch brings and that cannot be read: bounded in memory and in the log."""

import logging
from collections import Counter
from collections.abc import Iterator, Set

from serve_core.base.json import JsonObject
from serve_kube.paging import Unread
from serve_kube.resources import Resource

MAX_OBJECTS = 1000
"""Unread objects that are recorded for each namespace."""
MAX_LOG_LINES = 20
"""About one namespace, during one watch."""

logger = logging.getLogger(__name__)


class UnreadObjects:
    """The unread objects of one resource, by namespace and name."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        self._objects: dict[tuple[str, str], Unread] = {}
        self._count: Counter[str] = Counter()
        """By namespace."""
        self._logged: Counter[str] = Counter()
        """Log lines of the present watch, by namespace."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(list(self._objects))

    def names(self) -> Set[tuple[str, str]]:
        return self._objects.keys()

    def get(self, name: tuple[str, str]) -> Unread | None:
        return self._objects.get(name)

    def add(self, name: tuple[str, str], metadata: JsonObject, why: str) -> bool:
        """Record and log an object. Returns whether this version is new."""
        before = self._objects.get(name)
        if before and before.metadata.get("resourceVersion", "") == metadata.get("resourceVersion", ""):
            return False
        if before is not None or self._count[name[0]] < MAX_OBJECTS:
            self._count[name[0]] += before is None
            # Without labels, which take a hundred times as much.
            self._objects[name] = Unread({k: value for k, value in metadata.items() if k != "labels"}, why)
        self._log(name, why)
        return True

    def discard(self, name: tuple[str, str]) -> None:
        """The object can be read now, or is deleted."""
        if self._objects.pop(name, None) is not None:
            self._count[name[0]] -= 1
            if not self._count[name[0]]:
                del self._count[name[0]]

    def reset_log_limit(self) -> None:
        self._logged.clear()

    def _log(self, name: tuple[str, str], why: str) -> None:
        """A user who changes such an object again and again does not fill the log."""
        self._logged[name[0]] += 1
        if self._logged[name[0]] <= MAX_LOG_LINES:
            logger.warning("%s %s is skipped: %s.", self._resource.kind, "/".join(filter(None, name)), why)
        elif self._logged[name[0]] == MAX_LOG_LINES + 1:
            logger.warning("More %s of namespace %s are skipped.", self._resource.plural, name[0])
