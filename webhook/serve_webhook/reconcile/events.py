"""Events on Deployments; a repeated Event becomes a series with a count (events.k8s.io/v1)."""

import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from serve_core.base.constants import GROUP
from serve_core.base.escaping import visible
from serve_core.base.json import JsonObject
from serve_kube.client import Client
from serve_kube.errors import ApiError, NotFoundError
from serve_kube.resources import EVENTS

SERIES = timedelta(minutes=6)
"""How long a repeated Event belongs to the same series, as in client-go."""
PAUSE = timedelta(seconds=20)
"""Between two writes of a series' count."""
MAX_SERIES = 1024
MAX_NOTE = 1024
"""Bytes (pkg/apis/core/validation/events.go; its error message says characters)."""

_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"

logger = logging.getLogger(__name__)


@dataclass
class _Series:
    namespace: str
    name: str
    count: int
    last: datetime
    written: datetime


class Recorder:
    """Writes Events. One that cannot be written is only logged."""

    def __init__(self, api: Client, instance: str, now: Callable[[], datetime]) -> None:
        self._api = api
        self._instance = instance
        self._now = now
        self._series: OrderedDict[tuple[str, ...], _Series] = OrderedDict()

    async def record(self, regarding: JsonObject, *, warning: bool, reason: str, note: str) -> None:
        """``regarding``: the Deployment; ``reason``: a code; ``note``: a sentence."""
        metadata = regarding["metadata"]
        identity = (metadata["uid"], reason, note)
        series, now = self._series.get(identity), self._now()
        try:
            if series and now - series.last < SERIES and await self._count(series, now):
                return
            event = self._event(regarding, now, "Warning" if warning else "Normal", reason, note)
            await self._api.create(EVENTS, event)
            self._store(identity, _Series(metadata["namespace"], event["metadata"]["name"], 1, now, now))
        except ApiError as error:
            logger.warning("Event %s of %s/%s: %s", reason, metadata["namespace"], metadata["name"], error)

    async def _count(self, series: _Series, now: datetime) -> bool:
        """Count an Event again. Returns whether it still exists."""
        series.count += 1
        series.last = now
        if now - series.written >= PAUSE:
            series.written = now
            try:
                await self._api.merge(EVENTS, series.namespace, series.name, {"series": _series(series)})
            except NotFoundError:
                return False
        return True

    def _store(self, identity: tuple[str, ...], series: _Series) -> None:
        self._series[identity] = series
        self._series.move_to_end(identity)
        while len(self._series) > MAX_SERIES:
            self._series.popitem(last=False)

    def _event(self, regarding: JsonObject, now: datetime, kind: str, reason: str, note: str) -> JsonObject:
        metadata = regarding["metadata"]
        event = EVENTS.identity(metadata["namespace"], f"{metadata['name'][:200].rstrip('.-')}.{secrets.token_hex(8)}")
        return event | {
            "eventTime": _stamp(now),
            "type": kind,
            "reason": reason,
            "action": "Serve",
            "note": visible(note).encode()[:MAX_NOTE].decode(errors="ignore"),
            "regarding": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "reportingController": f"{GROUP}/server",
            "reportingInstance": self._instance[:128],
        }


def _series(series: _Series) -> JsonObject:
    return {"count": series.count, "lastObservedTime": _stamp(series.last)}


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(_TIME)
