"""The files of a model as a source lists them, before the download."""

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import urlsplit

import model_uri
from model_loader.http.authorizers import ANONYMOUS, Authorizer
from model_loader.http.transport import Transport
from model_loader.outcomes import Code, LoadError
from model_uri import WEB, ModelURI, Store, URIError, find_store

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
    other files have too. `choices`: the paths of models of which a server reads one, if there are several. `resolved`:
    what a name that can change stood for, such as the version of an alias.
    """

    files: tuple[File, ...]
    single: bool = False
    commit: str = ""
    inside: str = ""
    copies: frozenset[str] = frozenset()
    choices: tuple[str, ...] = ()
    resolved: str = ""


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


_SDKS = ("AWS_", "AZURE_", "HF_", "MLFLOW_TRACKING_", "GIT_TOKEN", "GIT_USERNAME", "GIT_PASSWORD")
_SWITCH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


class Setting(NamedTuple):
    """A value that a user set, and where: a key of the Secret, or a variable. `text` is empty if it is not set."""

    key: str
    text: str
    of_secret: bool = False

    def __str__(self) -> str:
        return f"{self.key} of the Secret" if self.of_secret else f"the variable {self.key}"

    def url(self) -> str:
        """Return the canonical URL of a store or service. Raises LoadError(InvalidSource)."""
        text = self.text.rstrip("/")
        try:
            uri = model_uri.parse(text)
            if uri.scheme in WEB:
                return str(uri)
        except URIError:
            pass  # the text may have a secret
        raise LoadError(Code.INVALID_SOURCE, f"{self} is not a URL", hint=f"Write {self._meant(text)}.")

    @staticmethod
    def _meant(text: str) -> str:
        try:
            host = str(model_uri.parse(f"https://{text}")).removeprefix("https://")
        except URIError:
            host = ""
        if not host or text.lower().startswith(("http:", "https:")):
            return "a URL such as https://store.example.com:9000"
        return f"https://{host}, or http://{host} for a store without TLS"


def one_line(text: str, what: object) -> str:
    """Return `text` without the white space around it: files of Secrets often end in a line break.

    Raises LoadError(InvalidSource) for a line break inside. The message names `what`, and has nothing of the text.
    """
    line = text.strip()
    if "\n" in line or "\r" in line:
        raise LoadError(Code.INVALID_SOURCE, f"{what} has a line break inside", hint="Write the value as one line.")
    return line


class Secret(NamedTuple):
    """The mounted Secret, one file for each key, and the environment for the names that SDKs read there."""

    folder: Path | None
    environment: Mapping[str, str]

    def get(self, *keys: str) -> str:
        """Return the first of `keys` in the Secret, else in the environment, else an empty text, as one line.

        Raises LoadError(InvalidSource).
        """
        return self.setting(*keys).text

    def setting(self, *keys: str) -> Setting:
        """Return the value as `get`, with its key."""
        found = self._find(*keys)
        return found._replace(text=one_line(found.text, found))

    def document(self, *keys: str) -> str:
        """Return the value as `get`, with any number of lines."""
        return self._find(*keys).text.strip()

    def switch(self, *keys: str, default: bool = False) -> bool:
        """Return whether a setting is on. Raises LoadError(InvalidSource)."""
        found = self.setting(*keys)
        if not found.key:
            return default
        if found.text.lower() not in _SWITCH:
            raise LoadError(Code.INVALID_SOURCE, f"{found} is not a switch", hint="Write true or false.")
        return _SWITCH[found.text.lower()]

    def _find(self, *keys: str) -> Setting:
        for key in keys:
            if self.folder is not None:
                try:
                    # Editors on Windows begin a text with a byte order mark.
                    return Setting(key, (self.folder / key).read_text("utf-8-sig"), of_secret=True)
                except FileNotFoundError:
                    continue
                except (OSError, UnicodeDecodeError):
                    raise LoadError(Code.INVALID_SOURCE, f"key {key} of the Secret cannot be read as text") from None
        for key in keys:
            if key.startswith(_SDKS) and key in self.environment:
                return Setting(key, self.environment[key])
        return Setting("", "")


class Context(NamedTuple):
    """What a source may use. `store`: where the source leads, if the loader's arguments fix that.

    `stores`: all stores that the arguments name. If there are any, no source may lead to another one. `scratch`: a
    folder for temporary files.
    """

    transport: Transport
    secret: Secret
    store: Store | None = None
    stores: tuple[Store, ...] = ()
    scratch: Path | None = None

    def bound_to(self, uri: ModelURI) -> "Context":
        """Return the context for `uri`, with its store. Raises LoadError(Refused) when no fixed store holds it."""
        if not self.stores:
            return self
        found = find_store(uri, self.stores)
        if found is None or not found.is_fixed or uri.query:
            raise LoadError(Code.REFUSED, f"the loader is not allowed to read from {uri}")
        return self._replace(store=found)

    def endpoint(self, public: str, *keys: str) -> str:
        """Return the URL of the store. `public`: the default of the scheme. `keys`: keys of the Secret for another one.

        Raises LoadError: InvalidSource for a text that is no URL, Refused if the arguments fix the store, and the
        Secret or the environment names another.
        """
        return self.endpoint_of(self.secret.setting(*keys), public)

    def service(self, public: str, *keys: str) -> str:
        """Return the URL of another service, such as one that issues tokens; see `endpoint`."""
        return self._fixed("", public, self.secret.setting(*keys))

    def endpoint_of(self, said: Setting, public: str) -> str:
        """Return the URL of the store, as `endpoint`, with the setting that names another one."""
        return self._fixed(self.store.endpoint if self.store else "", public, said)

    def _fixed(self, fixed: str, public: str, said: Setting) -> str:
        url = said.url() if said.text else ""
        if self.store is None:
            return url or public
        wanted = fixed or public
        if url and url != _spelt(wanted):
            self.refuse(said.key, url[:200], self.store)
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
