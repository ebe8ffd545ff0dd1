"""What a source says of a model before it is read: its files, and how to read each."""

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from model_loader.outcomes import Code, LoadError
from model_loader.transport import ANONYMOUS, Authorizer, Transport
from model_uri import ModelURI

MOST_FILES = 100_000
"""Of a model: the loader keeps in memory what it knows of each."""
_SIZE_DIGITS = 19


def check_count(files: int) -> None:
    """Raise LoadError(Refused) for more files than a model may have."""
    if files > MOST_FILES:
        raise LoadError(
            Code.REFUSED,
            f"the model has more than {MOST_FILES:,} files",
            hint="Name the folder of one model, or pack its files into fewer.",
        )


def size_of(text: object) -> int:
    """Return the bytes that a store says that a file has. Raises LoadError(ServerError)."""
    digits = str(text)
    if not digits.isascii() or not digits.isdecimal() or len(digits) > _SIZE_DIGITS:
        raise LoadError(Code.SERVER_ERROR, f"the store says that a file has {digits[:40]!a} bytes")
    return int(digits)


class Unpack(Enum):
    """Whether a file is unpacked, and which part of it."""

    NO = "no"
    WHOLE = "whole"
    IMAGE = "image"
    """A layer of a container image: only what is below /models."""


class File(NamedTuple):
    """A file of the model.

    `path` is relative to the model's folder; `size` is in bytes, or -1 where the server does not tell; `ranged` says
    whether the server serves parts. `etag` is sent as If-Match; `version` is what else the store calls this state of
    the file. `checksum` is what the store says that it hashes to, as `algorithm:hex`; `ask` says that it tells so with
    the file, or to a HEAD request. `unpack` says whether the file is an archive whose files take its place.
    """

    path: str
    url: str
    size: int
    by: Authorizer = ANONYMOUS
    etag: str = ""
    version: str = ""
    ranged: bool = True
    checksum: str = ""
    ask: bool = False
    unpack: Unpack = Unpack.NO

    @property
    def server(self) -> str:
        """Who is asked for the file: the scheme and authority of its URL."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


class Listing(NamedTuple):
    """The files of one source. `single`: the source names one file, so the model's digest is that file's own."""

    files: tuple[File, ...]
    single: bool = False


_SDKS = ("AWS_", "AZURE_", "HF_")


class Secret(NamedTuple):
    """The mounted Secret, one file a key, and behind it the environment for the names that SDKs read there."""

    folder: Path | None
    environment: Mapping[str, str]

    def get(self, *keys: str) -> str:
        """Return the first of `keys` that the Secret has, else that the environment has, else an empty text."""
        for key in keys:
            if self.folder is not None:
                try:
                    return (self.folder / key).read_text().strip()
                except FileNotFoundError:
                    continue
                except (OSError, UnicodeDecodeError):
                    raise LoadError(Code.INVALID_SOURCE, f"key {key} of the Secret cannot be read as text") from None
        return next((self.environment[key] for key in keys if key.startswith(_SDKS) and key in self.environment), "")


class Context(NamedTuple):
    """What a source may use."""

    transport: Transport
    secret: Secret


Source = Callable[[ModelURI, Context], Listing]
"""Returns the files below a URI. Raises LoadError."""
