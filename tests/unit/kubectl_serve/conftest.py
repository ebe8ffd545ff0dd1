"""A screen to run commands on, and a cluster made of plain objects behind it."""

import io
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import pytest

from kubectl_serve import dispatch
from kubectl_serve.cli.streams import Output, Streams
from support.fake_cluster import NOW, FakeCluster


@dataclass(frozen=True)
class Screen:
    """What a user sees."""

    code: int
    out: str
    err: str


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


Run = Callable[..., Screen]


@pytest.fixture
def run() -> Run:
    """Run a command line; ``cluster`` is what it finds, ``terminal`` whether it talks to a person."""

    def run(
        *argv: str,
        cluster: FakeCluster | None = None,
        stdin: str = "",
        terminal: bool = False,
        environment: dict[str, str] | None = None,
        width: int = 80,
    ) -> Screen:
        kind = _Terminal if terminal else io.StringIO
        out, err = kind(), kind()
        now = cluster.now if cluster is not None else lambda: NOW
        streams = Streams(kind(stdin), Output(out), Output(err), environment or {}, now, width)

        def connect(_args: object, _streams: Streams) -> AbstractAsyncContextManager[FakeCluster]:
            assert cluster is not None, "this command must not ask the cluster"
            return cluster

        return Screen(dispatch.main(list(argv), streams, connect), out.getvalue(), err.getvalue())

    return run
