"""The digest of a model as the loader computes it: by the loader's own code, so that both cannot differ.

The only module of the plugin that imports the loader.
"""

import io
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Connect
from kubectl_serve.digest import credentials
from kubectl_serve.errors import ServeError
from kubectl_serve.status.progress import PLAIN_SECONDS, LoaderLines
from model_loader import sources
from model_loader.http.network import Network
from model_loader.http.transport import redact
from model_loader.loader import load
from model_loader.outcomes import OUTCOMES, Code, LoadError
from model_loader.plan import paths
from model_loader.plan.model import Secret
from model_loader.plan.options import Load, LoaderOptions
from model_loader.report import Report
from model_loader.sources import local
from model_loader.verify import digest
from serve_core.api import models
from serve_core.base.json import JsonObject
from serve_core.context.cluster import PRIVATE_NETWORKS

_NETWORKS = (*PRIVATE_NETWORKS, "127.0.0.0/8", "::1/128")
"""Where plain http and addresses that are not public are allowed: as in a cluster, and this machine."""
_PATIENCE = 15.0
"""Seconds without progress; the loader in a pod waits longer, for sidecars to start."""
TELL_SECONDS = 0.5

_HINTS = {
    Code.INVALID_SOURCE: "Use a file, a directory, or a URI as in docs/loader.md.",
    Code.NOT_FOUND: "Check the name: it is case-sensitive.",
    Code.UNREACHABLE: "Check the host name, and that this machine can reach it.",
    Code.UNAUTHORIZED: "Set the store's variables, such as AWS_ACCESS_KEY_ID. Or use a Secret of the cluster with "
    "--credentials NAME -n NAMESPACE, or a directory with its keys as files with --credentials-dir.",
    Code.NO_SPACE: "The model is read into a temporary directory: set TMPDIR to a directory with more space.",
}
"""What to do at a desk, where that is something else than in a cluster."""
_OF_THE_STORE = ("AWS_", "AZURE_", "HF_")
"""Variables that say where a store is and who asks it: a Secret that was named says it alone, as in a pod. Else the
Secret's author could send this user's own keys to any server."""
_ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "hf": "HF_ENDPOINT"}
_ELSEWHERE = (Code.NOT_FOUND, Code.UNAUTHORIZED, Code.UNREACHABLE)
"""What is said of a model that is in another store than the one that was asked."""


@dataclass(frozen=True)
class Digested:
    """A model's digest, and what was read for it."""

    model: str
    digest: str
    bytes: int
    files: int


def names_a_store(environment: Mapping[str, str]) -> bool:
    """Whether this machine's environment says which store to ask, and as whom."""
    return any(key.startswith(_OF_THE_STORE) for key in environment)


def as_asked(source: str, secret: str | None, args: Namespace, streams: Streams, connect: Connect) -> Digested:
    """The digest of ``source``, read with the credentials that the flags name: those of the folder, if there is one,
    else those of the Secret with the name ``secret``, else the environment's. Raises ServeError."""
    if secret is None or args.credentials_dir is not None:
        return _shown(source, Secret(args.credentials_dir, streams.environment), streams)
    with credentials.mounted(secret, args, streams, connect) as folder:
        left = {key: value for key, value in streams.environment.items() if not key.startswith(_OF_THE_STORE)}
        return _shown(source, Secret(folder, left), streams)


def _shown(source: str, secret: Secret, streams: Streams) -> Digested:
    """The digest of a path, or of a URI that can be reached from here; progress goes to standard error.

    Raises ServeError. Nothing is left behind.
    """
    shown = _plain(source) if "://" in source else source
    with LoaderLines(
        streams.stderr, streams.width, live=streams.live, seconds=PLAIN_SECONDS, clock=streams.now
    ) as lines:
        try:
            return _of_source(source, secret, _Shown(lines.tell))
        except LoadError as failure:
            lines.done()
            generic = failure.hint == OUTCOMES[failure.code].hint
            own = generic and not (secret.folder and failure.code is Code.UNAUTHORIZED)
            hint = _HINTS.get(failure.code, failure.hint) if own else failure.hint
            hint += "" if secret.folder else _endpoint(source, failure.code, secret.environment)
            raise ServeError(f"{shown} has no digest: {failure.code}: {failure.message}.", hint) from failure
        except OSError as error:
            lines.done()
            raise ServeError(f"{error.filename or source} cannot be read: {error.strerror or error}.") from error
        finally:
            lines.done()


def _endpoint(source: str, code: Code, environment: Mapping[str, str]) -> str:
    """Where a Secret of a cluster may say which store it is, and nothing here does: what to set."""
    variable = _ENDPOINTS.get(source.partition("://")[0])
    if variable is None or environment.get(variable) or code not in _ELSEWHERE:
        return ""
    return (
        f" For your own store, set {variable} as in the Secret. Or use the Secret with --credentials NAME "
        "-n NAMESPACE, or a directory with its keys as files with --credentials-dir."
    )


class _UnresolvedError(LoadError):
    """A name that does not resolve: at a desk it will not in ten seconds either."""

    transient = False


class _Desk(Network):
    """The network of a desk, where no sidecar has to start first."""

    def resolve(self, host: str, port: int, *, plain: bool, absolute: bool = False) -> list[tuple[int, str]]:
        """As in a cluster, but a name that does not resolve is not tried again."""
        try:
            return super().resolve(host, port, plain=plain, absolute=absolute)
        except LoadError as failure:
            if failure.code is Code.UNREACHABLE:
                raise _UnresolvedError(failure.code, failure.message, hint=failure.hint) from None
            raise


def _of_source(source: str, secret: Secret, report: Report) -> Digested:
    scheme, separator, _ = source.partition("://")
    if scheme == "pvc" and separator:
        raise ServeError(
            "a pvc:// model has no digest: it is mounted, not downloaded.", "Use a copy of the model on this machine."
        )
    if scheme == "file" or not separator:
        return _of_path(source, local.path_of(sources.parse(source)) if separator else Path(source), report)
    with tempfile.TemporaryDirectory(prefix="kubectl-serve-", ignore_cleanup_errors=True) as folder:
        options = LoaderOptions(
            volume=Path(folder),
            loads=tuple(Load(uri, folder) for uri, folder in models.split(source)),
            digest="",
            signature_key=None,
            credentials=secret.folder,
            network=_Desk.of(_NETWORKS),
            hashing=True,
            patience=_PATIENCE,
            environment=secret.environment,
        )
        loaded = load(options, report)
    return Digested(_plain(source), loaded.digest, loaded.size, loaded.files)


def _plain(source: str) -> str:
    """Each URI as it may be shown."""
    return " ".join(redact(uri) for uri in source.split())


def _of_path(source: str, path: Path, report: Report) -> Digested:
    """What lies here already is hashed where it is, if the loader would take each of its files."""
    listing = local.files_of(path.absolute())
    paths.check_clashes(file.path for file in listing.files)
    total = sum(file.size for file in listing.files)
    started = told_at = time.monotonic()
    done = told = 0

    def tell(size: int) -> None:
        nonlocal done, told, told_at
        done += size
        now = time.monotonic()
        if now - told_at >= TELL_SECONDS:
            report.progress(done, total, 0, now - started, (done - told) / (now - told_at))
            told_at, told = now, done

    return Digested(source, digest.of_path(path, tell), done, len(listing.files))


class _Shown(Report):
    """The loader's events, on the screen instead of in a log."""

    def __init__(self, tell: Callable[[JsonObject], None]) -> None:
        super().__init__(io.StringIO())
        self._tell = tell

    def event(self, event: str, fields: Mapping[str, object]) -> None:
        with self._lock:
            self._tell({"event": event, **fields})
