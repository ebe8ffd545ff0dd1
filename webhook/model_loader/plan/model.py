"""The files of a model as a source lists them, before the download."""

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import urlsplit

import model_uri
from model_loader.http.authorizers import ANONYMOUS, Authorizer
from model_loader.http.transport import Transport, redact
from model_loader.outcomes import Code, LoadError
from model_uri import ModelURI, Store, URIError

MAX_FILES = 100_000
"""Maximum number of files of a model: the loader keeps the list in memory."""
_SIZE_DIGITS = 19


def check_count(files: int) -> None:
    """Raise LoadError(Refused) for more files than the maximum."""
    if files > MAX_FILES:
        raise LoadError(
            Code.REFUSED,
            f"the model has more than {MAX_FILES:,} files",
            hint="Name the folder of one model, or pack its files into fewer.",
        )


def size_of(text: object) -> int:
    """Return a file's size in bytes from a store's list. Raises LoadError(ServerError)."""
    digits = str(text)
    if not digits.isascii() or not digits.isdecimal() or len(digits) > _SIZE_DIGITS:
        raise LoadError(Code.SERVER_ERROR, f"the store lists a file with a size of {digits[:40]!a} bytes")
    return int(digits)


class Unpack(Enum):
    """Whether to unpack a file, and which part of it."""

    NO = "no"
    WHOLE = "whole"
    IMAGE = "image"
    """A layer of a container image: only what is below /models."""


class File(NamedTuple):
    """A file of the model.

    `path`: relative to the model's folder. `size`: in bytes, or -1 if the server does not send it. `ranged`: whether
    the server supports Range requests. `etag`: sent as If-Match. `version`: anything else that identifies this version
    of the file in the store. `checksum`: the store's, as `algorithm:hex`; `checksum_on_request`: the store sends it
    with the file or in response to HEAD. `unpack`: whether the file is an archive that its files replace.
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
        """The scheme and authority of the URL."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def _spelt(url: str) -> str:
    try:
        return str(model_uri.parse(url))
    except URIError:
        return url


class Listing(NamedTuple):
    """The files of one source.

    `single`: the source names one file, so the model's digest is that file's. `commit`: of a hub's repository, and
    `inside`: the folder of the repository that has the files (empty: its top). `copies`: the paths of weights that
    other files have too. `choices`: the paths of models of which a server reads one, if there are several.
    """

    files: tuple[File, ...]
    single: bool = False
    commit: str = ""
    inside: str = ""
    copies: frozenset[str] = frozenset()
    choices: tuple[str, ...] = ()


DEFAULT_REVISION = "main"
"""Of a hub's repository."""


class Snapshot(NamedTuple):
    """A repository of a hub at one commit.

    `repository`: `organisation/model`. `revision`: the requested one. `folder`: the folder of the model that has its
    files, and `inside`: the folder of the repository. `paths`: of these files, below both folders.
    """

    repository: str
    revision: str
    commit: str
    folder: str
    inside: str
    paths: tuple[str, ...]


_SDKS = ("AWS_", "AZURE_", "HF_")


class Secret(NamedTuple):
    """The mounted Secret, one file for each key, and the environment for the names that SDKs read there."""

    folder: Path | None
    environment: Mapping[str, str]

    def get(self, *keys: str) -> str:
        """Return the first of `keys` in the Secret, else in the environment, else an empty text; without the white
        space around it: files of Secrets often end in a line break."""
        for key in keys:
            if self.folder is not None:
                try:
                    return (self.folder / key).read_text().strip()
                except FileNotFoundError:
                    continue
                except (OSError, UnicodeDecodeError):
                    raise LoadError(Code.INVALID_SOURCE, f"key {key} of the Secret cannot be read as text") from None
        found = (self.environment[key] for key in keys if key.startswith(_SDKS) and key in self.environment)
        return next(found, "").strip()


class Context(NamedTuple):
    """What a source may use. `store`: where the source leads, if the loader's arguments fix that."""

    transport: Transport
    secret: Secret
    store: Store | None = None

    def endpoint(self, public: str, *keys: str) -> str:
        """Return the URL of the store. `public`: the default of the scheme. `keys`: keys of the Secret for another one.

        Raises LoadError(Refused) if the arguments fix the store, and the Secret or the environment names another.
        """
        return self._fixed(self.store.endpoint if self.store else "", public, *keys)

    def service(self, public: str, *keys: str) -> str:
        """Return the URL of another service, such as one that issues tokens; see `endpoint`."""
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
        """Raise LoadError(Refused) for a key of the Secret, or a variable, that contradicts the fixed store."""
        raise LoadError(
            Code.REFUSED,
            f"{key} sets {said}, but the store of {store.place} and its authorities are fixed",
            hint="Remove it from the Secret, or ask a cluster administrator to name it in the policy or the settings.",
        )


Source = Callable[[ModelURI, Context], Listing]
"""Returns the files of a URI. Raises LoadError."""
