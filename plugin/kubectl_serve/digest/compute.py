"""The digest of a model, computed by the loader's own code, so that both are always the same.

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
from model_loader.outcomes import Code, LoadError
from model_loader.plan import paths
from model_loader.plan.model import Secret
from model_loader.plan.options import Load, LoaderOptions
from model_loader.planner import select
from model_loader.report import Report
from model_loader.sources import local
from model_loader.verify import digest
from model_uri.file_patterns import FilePatterns
from serve_core.api import models
from serve_core.base.json import JsonObject
from serve_core.context.cluster import PRIVATE_NETWORKS

_NETWORKS = (*PRIVATE_NETWORKS, "127.0.0.0/8", "::1/128")
"""Networks where plain http and private addresses are allowed: those of a cluster, and this machine."""
_STALL_SECONDS = 15.0
"""Maximum seconds without progress. The loader in a pod waits longer, for sidecars to start."""
PROGRESS_SECONDS = 0.5

_HINTS = {
    Code.INVALID_SOURCE: "Use a file, a directory, or a URI as in docs/loader.md.",
    Code.NOT_FOUND: "Check the name: it is case-sensitive.",
    Code.UNREACHABLE: "Check the host name, and that this machine can reach it.",
    Code.UNAUTHORIZED: "Set the store's variables, such as AWS_ACCESS_KEY_ID. Or use a Secret of the cluster with "
    "--credentials NAME -n NAMESPACE, or a directory with its keys as files with --credentials-dir.",
    Code.NO_SPACE: "The model is read into a temporary directory: set TMPDIR to a directory with more space.",
}
"""Hints that differ from those in a cluster."""
_STORE_PREFIXES = ("AWS_", "AZURE_", "HF_", "MLFLOW_TRACKING_", "GIT_TOKEN", "GIT_USERNAME", "GIT_PASSWORD")
"""Variables with a store's endpoint and credentials. With a Secret, only the Secret's values count, as in a pod:
otherwise its author could send this user's own keys to any server."""
_ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "hf": "HF_ENDPOINT", "mlflow": "MLFLOW_TRACKING_URI"}
_WRONG_STORE = (Code.NOT_FOUND, Code.UNAUTHORIZED, Code.UNREACHABLE)
"""Error codes for a model that is in another store than the requested one."""


@dataclass(frozen=True)
class ModelDigest:
    """A model's digest, and how much was read."""

    model: str
    digest: str
    bytes: int
    files: int
    skipped: int = 0
    """Files that do not count, because others have the same weights."""


def has_store_settings(environment: Mapping[str, str]) -> bool:
    """Whether this machine's environment has an endpoint or credentials of a store."""
    return any(key.startswith(_STORE_PREFIXES) for key in environment)


def digest_of(
    source: str, files: FilePatterns | None, secret: str | None, args: Namespace, streams: Streams, connect: Connect
) -> ModelDigest:
    """The digest of the ``files`` of ``source``; ``None`` is the loader's default. Credentials come from the folder of
    the flags, else from Secret ``secret``, else from the environment. Raises ServeError."""
    if secret is None or args.credentials_dir is not None:
        return _digest(source, files, Secret(args.credentials_dir, streams.environment), streams)
    with credentials.mounted(secret, args, streams, connect) as folder:
        left = {key: value for key, value in streams.environment.items() if not key.startswith(_STORE_PREFIXES)}
        return _digest(source, files, Secret(folder, left), streams)


def _digest(source: str, files: FilePatterns | None, secret: Secret, streams: Streams) -> ModelDigest:
    """The digest of a path or URI, with progress on standard error. Temporary files are removed. Raises ServeError."""
    shown = _redacted(source) if "://" in source else source
    with LoaderLines(
        streams.stderr, streams.width, live=streams.live, seconds=PLAIN_SECONDS, clock=streams.now
    ) as lines:
        try:
            return _digest_of_source(source, files, secret, _ScreenReport(lines.show_event))
        except LoadError as failure:
            lines.clear()
            replaced = not failure.own_hint and not (secret.folder and failure.code is Code.UNAUTHORIZED)
            hint = _HINTS.get(failure.code, failure.hint) if replaced else failure.hint
            hint += "" if secret.folder else _endpoint_hint(source, failure.code, secret.environment)
            raise ServeError(f"{shown} has no digest: {failure.code}: {failure.message}.", hint) from failure
        except OSError as error:
            lines.clear()
            raise ServeError(f"{error.filename or source} cannot be read: {error.strerror or error}.") from error
        finally:
            lines.clear()


def _endpoint_hint(source: str, code: Code, environment: Mapping[str, str]) -> str:
    """A hint for a source whose endpoint or password is neither in the environment nor in a folder of credentials."""
    if code is Code.UNAUTHORIZED and source.startswith("oci://"):
        return (
            " Then name it with --credentials NAME -n NAMESPACE. Or use a directory with Docker's config.json: "
            "--credentials-dir DIR."
        )
    variable = _ENDPOINTS.get(source.partition("://")[0])
    if variable is None or environment.get(variable) or code not in _WRONG_STORE:
        return ""
    return (
        f" For your own store, set {variable} as in the Secret. Or use the Secret with --credentials NAME "
        "-n NAMESPACE, or a directory with its keys as files with --credentials-dir."
    )


class _UnresolvedError(LoadError):
    """A host name that does not resolve. On a user's machine, a retry does not help."""

    transient = False


class _LocalNetwork(Network):
    """The network of a user's machine, where no sidecar has to start first."""

    def resolve(self, host: str, port: int, *, plain: bool, absolute: bool = False) -> list[tuple[int, str]]:
        """As in a cluster, but without retries for a name that does not resolve."""
        try:
            return super().resolve(host, port, plain=plain, absolute=absolute)
        except LoadError as failure:
            if failure.code is Code.UNREACHABLE:
                raise _UnresolvedError(failure.code, failure.message, hint=failure.own_hint) from None
            raise


def _digest_of_source(source: str, files: FilePatterns | None, secret: Secret, report: Report) -> ModelDigest:
    scheme, separator, _ = source.partition("://")
    if scheme == "pvc" and separator:
        raise ServeError(
            "a pvc:// model has no digest: it is mounted, not downloaded.", "Use a copy of the model on this machine."
        )
    if scheme == "file" or not separator:
        path = local.path_of(sources.parse(source)) if separator else Path(source)
        return _digest_of_path(source, path, files, report)
    if unclear := models.unclear(source):
        raise ServeError(f"{_redacted(source)} is not a list of model URIs: {unclear}.")
    with tempfile.TemporaryDirectory(prefix="kubectl-serve-", ignore_cleanup_errors=True) as folder:
        options = LoaderOptions(
            volume=Path(folder),
            loads=tuple(Load(uri, folder) for uri, folder in models.split(source)),
            digest="",
            signature_key=None,
            credentials=secret.folder,
            network=_LocalNetwork.of(_NETWORKS),
            hashing=True,
            patience=_STALL_SECONDS,
            environment=secret.environment,
            files=files,
        )
        loaded = load(options, report)
    shown = _redacted(models.canonical(source))
    return ModelDigest(shown, loaded.digest, loaded.size, loaded.files, loaded.skipped.files)


def _redacted(source: str) -> str:
    """The URIs without secrets."""
    return " ".join(redact(uri) for uri in source.split())


def _digest_of_path(source: str, path: Path, files: FilePatterns | None, report: Report) -> ModelDigest:
    """Hash local files in place, if the loader would accept each of them."""
    listing = local.files_of(path.absolute())
    paths.check_clashes(file.path for file in listing.files)
    chosen, _ = select(source, listing, "", files)
    total = sum(file.size for file in chosen)
    started = reported_at = time.monotonic()
    done = reported = 0

    def count(size: int) -> None:
        nonlocal done, reported, reported_at
        done += size
        now = time.monotonic()
        if now - reported_at >= PROGRESS_SECONDS:
            report.progress(done, total, 0, now - started, (done - reported) / (now - reported_at))
            reported_at, reported = now, done

    found = {file.path: digest.sha256(path if listing.single else path / file.path, count) for file in chosen}
    whole = f"sha256:{found[chosen[0].path]}" if listing.single else digest.of_manifest(found)
    return ModelDigest(source, whole, done, len(chosen))


class _ScreenReport(Report):
    """Shows the loader's events on the screen instead of in a log."""

    def __init__(self, show: Callable[[JsonObject], None]) -> None:
        super().__init__(io.StringIO())
        self._show = show

    def event(self, event: str, fields: Mapping[str, object]) -> None:
        with self._lock:
            self._show({"event": event, **fields})
