"""The loader's arguments and environment."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from model_loader.http.network import Network
from model_loader.outcomes import Code, LoadError
from model_loader.plan.paths import safe_path
from model_uri import Store, URIError
from model_uri.file_patterns import FilePatterns, parse_patterns

TERMINATION_LOG = Path("/dev/termination-log")
PATIENCE = 60.0
"""Seconds that the loader retries without progress, by default."""


class Load(NamedTuple):
    """One source, and the folder of the model for its files (empty: the model's own folder)."""

    uri: str
    folder: str = ""


class LoaderOptions(NamedTuple):
    """The options of one run."""

    volume: Path
    loads: tuple[Load, ...]
    digest: str
    signature_key: Path | None
    credentials: Path | None
    network: Network
    hashing: bool
    patience: float
    environment: Mapping[str, str]
    stores: tuple[Store, ...] = ()
    """The stores of the sources. If there are any, the loader reads from no other place."""
    shared: str = ""
    """The folder of the volume that pods share; empty for a volume of the pod's own."""
    hub_cache: bool = False
    """Whether to lay out repositories of a hub as a cache of `huggingface_hub` too."""
    files: FilePatterns | None = None
    """The files to load; `None`: all, except the copies of weights that a source knows."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise LoadError(Code.INVALID_SOURCE, message)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line. It raises LoadError(InvalidSource)."""
    parser = _Parser(prog="model-loader", description="Download a complete, verified model onto a volume.")
    parser.add_argument("--volume", type=Path, required=True, metavar="DIR", help="the volume; the model is DIR/model")
    parser.add_argument(
        "--shared",
        default="",
        metavar="PATH",
        help="share the model with other pods, in the folder DIR/PATH",
    )
    parser.add_argument("--digest", default="", help="required digest of the model, as sha256:HEX")
    parser.add_argument(
        "--signature-key", type=Path, metavar="FILE", help="public key (PEM) for the required signature of the model"
    )
    parser.add_argument("--credentials", type=Path, metavar="DIR", help="a mounted Secret, one file for each key")
    parser.add_argument(
        "--allow-network", action="append", default=[], metavar="CIDR", help="an allowed private network"
    )
    parser.add_argument(
        "--store",
        action="append",
        default=[],
        metavar="STORE",
        help="PLACE ENDPOINT [CA]: the store for URIs of a place",
    )
    parser.add_argument(
        "--hub-cache", action="store_true", help="link hf:// models in DIR/hub too, a cache of huggingface_hub"
    )
    parser.add_argument(
        "--files",
        metavar="PATTERNS",
        help="load only files that match, in one argument: *.safetensors *.json !original/*",
    )
    parser.add_argument(
        "--no-digest", action="store_true", help="compute no digest unless it is needed for verification"
    )
    parser.add_argument(
        "--patience", type=float, default=PATIENCE, metavar="SECONDS", help="how long to retry without progress"
    )
    parser.add_argument("--termination-log", type=Path, default=TERMINATION_LOG, metavar="FILE")
    parser.add_argument("loads", nargs="+", metavar="URI[=SUBPATH]", help="one URI, or several, each with a folder")
    return parser


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> LoaderOptions:
    """Return the options. Raises LoadError(InvalidSource)."""
    found = parser().parse_args(arguments)
    digest: str = found.digest
    if digest and not (
        len(digest) == 71 and digest.startswith("sha256:") and set(digest[7:]) <= set("0123456789abcdef")
    ):
        raise LoadError(Code.INVALID_SOURCE, "--digest is not sha256: and 64 lower-case hex digits")
    return LoaderOptions(
        volume=found.volume,
        loads=_loads(found.loads),
        digest=digest,
        signature_key=found.signature_key,
        credentials=found.credentials,
        network=Network.of(found.allow_network),
        hashing=bool(digest) or found.signature_key is not None or not found.no_digest,
        patience=found.patience,
        environment=environment,
        stores=tuple(_store(text) for text in found.store),
        shared=safe_path(found.shared) if found.shared else "",
        hub_cache=found.hub_cache,
        files=None if found.files is None else _patterns(found.files),
    )


def _store(text: str) -> Store:
    try:
        return Store.of_argument(text)
    except URIError as error:
        raise LoadError(Code.INVALID_SOURCE, f"--store {text[:200]!r} cannot be used: {error}") from None


def _patterns(text: str) -> FilePatterns:
    try:
        return parse_patterns(text)
    except ValueError as error:
        raise LoadError(Code.INVALID_SOURCE, f"--files {text[:200]!r} cannot be used: {error}") from None


def _loads(texts: Sequence[str]) -> tuple[Load, ...]:
    """A single argument is a URI without a folder, because a signed URL's query can contain =."""
    if len(texts) == 1:
        return (Load(texts[0]),)
    loads: list[Load] = []
    for text in texts:
        uri, separator, folder = text.rpartition("=")
        if not separator:
            uri, folder = text, "."
        loads.append(Load(uri, "" if folder == "." else safe_path(folder.removeprefix("./"))))
    return tuple(loads)
