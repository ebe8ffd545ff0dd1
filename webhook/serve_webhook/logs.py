"""One JSON object a line on a stream. Messages name objects, never their contents."""

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

from serve_core.base.escaping import in_json


class JsonFormatter(logging.Formatter):
    """``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, and ``error`` with the traceback of a defect."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return in_json(json.dumps(entry, ensure_ascii=False))


def configure(stream: TextIO, level: str = "INFO") -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # Client libraries log bodies and URLs at DEBUG: they stay at their warnings whatever our own level is.
    for library in ("aiohttp", "asyncio", "kubernetes_asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)
