"""What a source says of a model before it is read: its files, and how to read each."""

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import urlsplit

import model_uri
from model_loader.http.transport import ANONYMOUS, Authorizer, Transport, redact
from model_loader.outcomes import Code, LoadError
from model_uri import ModelURI, Store, URIError

MAX_FILES = 100_000
"""Of a model: the loader keeps in memory what it knows of each."""
_SIZE_DIGITS = 19


def check_count(files: int) -> None:
    """Raise LoadError(Refused) for more files than a model may have."""
    if files > MAX_FILES:
        raise LoadError(
            Code.REFUSED,
            f"the model has more than {MAX_FILES:,} files",
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
    authorizer: Authorizer = ANONYMOUS
    etag: str = ""
    version: str = ""
    ranged: bool = True
    checksum: str = ""
    checksum_on_request: bool = False
    unpack: Unpack = Unpack.NO

    @property
    def server(self) -> str:
        """Who is asked for the file: the scheme and authority of its URL."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def _spelt(url: str) -> str:
    try:
        return str(model_uri.read(url))
    except URIError:
        return url


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
    """What a source may use. `store`: where its place leads, if that is fixed in the loader's arguments."""

    transport: Transport
    secret: Secret
    store: Store | None = None

    def endpoint(self, public: str, *keys: str) -> str:
        """Return the URL of the store: `public` is its scheme's own, `keys` are those of the Secret that say another.

        Raises LoadError(Refused) where the store is fixed and the Secret or the environment says another.
        """
        return self._fixed(self.store.endpoint if self.store else "", public, *keys)

    def service(self, public: str, *keys: str) -> str:
        """Return the URL of a service beside the store, such as one that gives tokens; see `endpoint`."""
        return self._fixed("", public, *keys)

    def _fixed(self, fixed: str, public: str, *keys: str) -> str:
        said = self.secret.get(*keys).rstrip("/")
        if self.store is None:
            return said or public
        wanted = fixed or public
        if said and _spelt(said) != _spelt(wanted):
            self.refuse(" or ".join(keys), redact(said)[:200], self.store)
        return wanted

    @staticmethod
    def refuse(key: str, said: str, store: Store) -> NoReturn:
        """Raise LoadError(Refused) for a key of the Secret, or a variable, that says what is fixed otherwise."""
        raise LoadError(
            Code.REFUSED,
            f"{key} says {said}, and where {store.place} leads and whom it trusts is fixed",
            hint="Take it out of the Secret, or have the operator name that store in the policy or the settings.",
        )


Source = Callable[[ModelURI, Context], Listing]
"""Returns the files below a URI. Raises LoadError."""
