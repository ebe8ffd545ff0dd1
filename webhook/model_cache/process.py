"""An unprivileged process for one mount, with a user and a process group of its own."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from model_cache.request import Request
from model_loader.outcomes import Code, LoadError

_MAX_LINE = 64 << 20
"""Characters of one report: 100,000 files with paths of 500 characters."""


class Settings(NamedTuple):
    """`networks`: private networks that models can come from. `uid`: the first of the users that processes run as.

    `downloads`: the maximum of processes that download, and of those that list, at once; each has a user of its own, if
    there is a `uid`. `secrets`: a folder in memory. `environment`: of each process: proxies and authorities, and no
    identity of the node.
    """

    networks: tuple[str, ...]
    uid: int | None
    downloads: int
    secrets: Path
    environment: Mapping[str, str]


class InterruptedByOthersError(Exception):
    """The process was ended because another namespace needs its turn."""


class Process:
    """A process of `fetch`. `stop` can be called from another thread; the rest belongs to one thread."""

    def __init__(self, settings: Settings, limit: int, uid: int | None, work: Path, request: Request) -> None:
        self._uid = uid
        self._lock = threading.Lock()
        self._ended = False
        self._reason: Exception | None = None
        self._secrets = settings.secrets / work.name
        volume = work / "volume"
        volume.mkdir(mode=0o700)
        work.chmod(0o711)
        self._own(volume)
        try:
            if request.secret:
                self._write_secret(request.secret)
            self._process = subprocess.Popen(  # this very program
                [sys.executable, "-I", "-m", "model_cache.fetch"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd="/",
                env=dict(settings.environment),
                process_group=0,
                user=uid,
                group=uid,
                extra_groups=None if uid is None else [],
            )
        except BaseException:
            self._remove_secret()
            raise
        secret = str(self._secrets) if request.secret else ""
        said = {"arguments": request.arguments, "work": str(volume), "secret": secret, "limit": limit}
        self._say({**said, "networks": settings.networks})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _own(self, path: Path) -> None:
        if self._uid is not None:
            os.chown(path, self._uid, self._uid)

    def _write_secret(self, secret: Mapping[str, str]) -> None:
        """Write the credentials into memory, where only this process can read them."""
        self._secrets.mkdir(mode=0o700)
        for key, value in secret.items():
            if "/" in key or key in ("", ".", ".."):
                raise LoadError(Code.REFUSED, "a key of the Secret is not a file name")
            path = self._secrets / key
            path.write_text(value, encoding="utf-8")
            path.chmod(0o400)
            self._own(path)
        self._own(self._secrets)

    def _remove_secret(self) -> None:
        if self._secrets.exists():
            shutil.rmtree(self._secrets)

    def events(self) -> Iterator[Mapping[str, Any]]:
        """Yield what the process reports. Raises the reason of its end: LoadError, InterruptedByOthersError."""
        stream = self._process.stdout
        while stream is not None:
            try:
                line = stream.readline(_MAX_LINE)
                event = json.loads(line) if line.endswith("\n") else None
            except (ValueError, RecursionError):
                break
            if event is None:
                break
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                yield event
        raise self._reason or LoadError(Code.INTERNAL, "the download's process ended without a result")

    def answer(self, **fields: object) -> None:
        """Answer a list of files."""
        self._say(fields)

    def _say(self, fields: Mapping[str, object]) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # its end is reported as such
                self._process.stdin.write(json.dumps(fields) + "\n")
                self._process.stdin.flush()

    def stop(self, reason: Exception) -> None:
        """End the process from another thread. `events` raises the reason, unless it has the result already."""
        with self._lock:
            if not self._ended:
                self._reason = reason
                self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """End the process and every other one of its user: nothing writes to its files any more."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self._kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process.wait()
        if self._uid is not None:
            _end_all(self._uid)
        self._remove_secret()


def _end_all(uid: int) -> None:
    """End every process of a user, and wait for the end."""
    while True:
        found = False
        for process in Path("/proc").iterdir():
            if process.name.isdecimal():
                with contextlib.suppress(OSError):
                    if process.stat().st_uid == uid and "\nState:\tZ" not in (process / "status").read_text():
                        os.kill(int(process.name), signal.SIGKILL)
                        found = True
        if not found:
            return
        time.sleep(0.01)
