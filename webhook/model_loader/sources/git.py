"""`git+https://host/repository[@revision][#subdirectory=path]`: the files of a git repository at one commit.

The loader fetches the commit without history, by version 2 of git's protocol, and verifies every object by its hash.
Files in large file storage (LFS) are downloads like those of every other source.

Sources: git's documentation, gitprotocol-v2, gitprotocol-pack and gitformat-pack; github.com/git-lfs/git-lfs,
docs/api/batch.md and docs/spec.md
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlsplit

from model_loader.http.authorizers import ANONYMOUS, Authorizer, basic
from model_loader.http.http1 import ProtocolError, Response
from model_loader.http.transport import HttpResponse, redact
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, File, Listing, check_count
from model_loader.plan.paths import safe_path
from model_loader.sources import documents
from model_loader.sources.git_packs import Pack, PackError
from model_loader.storage.volume import storage_failure
from model_uri import ModelURI

_FLUSH, _DELIMITER = b"0000", b"0001"
_DATA, _PROGRESS = 1, 2
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_SERVICE = "git-upload-pack"
_PROTOCOL = {"Git-Protocol": "version=2"}
_LFS = "application/vnd.git-lfs+json"
_LFS_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*oid sha256:([0-9a-f]{64})\nsize ([0-9]{1,18})\n",
)
_LFS_POINTER_BYTES = 1024
"""A file from this size on is no pointer. Source: git-lfs, docs/spec.md"""
_LFS_BATCH = 100
_FOLDER, _SUBMODULE, _LINK = 0o40000, 0o160000, 0o120000
_MAX_FOLDERS = 100_000
_HEADER = re.compile(r"[A-Za-z0-9-]{1,100}", re.ASCII)
_OWN_HEADERS = frozenset({"host", "range", "if-match", "connection", "content-length", "transfer-encoding"})
"""Headers that the loader sends itself."""
_LOGIN_HINT = "For a private repository, add GIT_TOKEN, or GIT_USERNAME and GIT_PASSWORD, to the Secret."


class _Repository(NamedTuple):
    """A repository. `base`: its URL. `features`: the capabilities of its server."""

    base: str
    authorizer: Authorizer
    features: Mapping[str, str]
    context: Context

    def call(self, command: str, *lines: str) -> "_Packets":
        """Send a command. Raises LoadError."""
        words = [f"command={command}\n", "object-format=sha1\n"]
        body = b"".join(map(_packet, words)) + _DELIMITER + b"".join(_packet(f"{line}\n") for line in lines) + _FLUSH
        headers = {
            **_PROTOCOL,
            "Content-Type": f"application/x-{_SERVICE}-request",
            "Accept": f"application/x-{_SERVICE}-result",
        }
        transport = self.context.transport
        response = transport.send("POST", f"{self.base}/{_SERVICE}", headers, authorizer=self.authorizer, body=body)
        return _Packets(response, self.context)


class _Packets:
    """The packets of a response (pkt-line)."""

    def __init__(self, response: HttpResponse, context: Context) -> None:
        self._url = response.url
        self._body: Response = response.body
        self._context = context

    def __iter__(self) -> Iterator[bytes]:
        """Yield each packet; an empty one for a flush or a delimiter. Raises LoadError."""
        while head := self._read(4, optional=True):
            try:
                length = int(head, 16)
            except ValueError:
                raise self.unreadable() from None
            if length in (3, 4):
                raise self.unreadable()
            yield self._read(length - 4) if length > 4 else b""

    def lines(self) -> Iterator[str]:
        """Yield the packets before the first empty one as lines of text. Raises LoadError."""
        for packet in self:
            if not packet:
                return
            yield packet.decode("utf-8", "replace").rstrip("\n")

    def pack(self) -> Iterator[bytes]:
        """Yield the bytes of the pack. Raises LoadError."""
        is_pack = False
        for packet in self:
            if not is_pack:
                is_pack = packet.rstrip(b"\n") == b"packfile"
                if packet.startswith(b"ERR "):
                    raise self.refused(packet[4:])
            elif packet and packet[0] == _DATA:
                yield packet[1:]
            elif packet and packet[0] != _PROGRESS:
                raise self.refused(packet[1:])
        if not is_pack:
            raise self.unreadable()

    def refused(self, said: bytes) -> LoadError:
        """Return the failure for an error of the server."""
        text = ascii(said[:200].decode("utf-8", "replace").strip())[1:-1]
        return LoadError(Code.NOT_FOUND, f"{redact(self._url)} answered: {text}")

    def unreadable(self) -> LoadError:
        """Return the failure for a response that is not git's."""
        return LoadError(Code.SERVER_ERROR, f"{redact(self._url)} did not answer in git's protocol, version 2")

    def _read(self, count: int, *, optional: bool = False) -> bytes:
        try:
            found = self._body.read(count)
        except (OSError, ProtocolError) as error:
            raise self._context.transport.connection_failure(self._url, error) from None
        if len(found) != count and (found or not optional):
            raise self.unreadable()
        return found


def _packet(line: str) -> bytes:
    data = line.encode()
    return b"%04x" % (len(data) + 4) + data


def list_files(uri: ModelURI, context: Context) -> Listing:
    """Return the files of the commit, or below the path in it. Fetches those that are not in LFS. Raises LoadError."""
    if context.scratch is None:
        raise LoadError(Code.INTERNAL, "the loader has no folder for the objects of a git repository")
    repository = _open(uri, context)
    commit = _commit(repository, uri.revision)
    named = commit if uri.revision == commit else f"{uri.revision or 'HEAD'} at {commit}"
    try:
        with Pack(context.scratch) as objects:
            partial = bool(uri.subdirectory) and "filter" in repository.features.get("fetch", "").split()
            objects.add(_fetch(repository, [commit], shallow=True, partial=partial))
            entries, single = _entries(objects, objects.tree_of(commit), uri)
            if partial:
                missing = sorted({oid for oid in entries.values() if not objects.has_blob(oid)})
                if missing:
                    objects.add(_fetch(repository, missing, shallow=False, partial=False))
            files = _files(repository, objects, entries, context.scratch)
    except PackError as error:
        raise LoadError(error.code, f"{redact(repository.base)} sent {error}") from None
    except OSError as error:
        raise storage_failure(error) from None
    if not files:
        raise LoadError(Code.NOT_FOUND, f"{uri} holds no file")
    return Listing(tuple(files), single=single, resolved="" if named == commit else f"{repository.base} {named}")


def _open(uri: ModelURI, context: Context) -> _Repository:
    """Return the repository with the capabilities of its server. Raises LoadError."""
    secret = context.secret
    password = secret.get("GIT_TOKEN", "GIT_PASSWORD", "token", "password")
    authorizer: Authorizer = ANONYMOUS
    if password:
        # Servers take a token as the password of any user.
        login = f"{secret.get('GIT_USERNAME', 'username') or 'x-access-token'}:{password}"
        authorizer = basic(login)
    base = f"https://{uri.authority}/{'/'.join(quote(segment) for segment in uri.segments)}"
    try:
        response = context.transport.get(f"{base}/info/refs?service={_SERVICE}", _PROTOCOL, authorizer)
    except LoadError as failure:
        if failure.code in (Code.UNAUTHORIZED, Code.NOT_FOUND) and failure.status:
            message = f"there is no git repository {base}, or the credentials have no access to it"
            raise LoadError(failure.code, message, hint=_LOGIN_HINT, status=failure.status) from None
        raise
    moved = response.url.partition("/info/refs")[0]
    if urlsplit(moved)[:2] != urlsplit(base)[:2]:
        context.transport.close()
        message = f"the git repository {base} is at another server now: {redact(moved)}"
        raise LoadError(Code.REFUSED, message, hint=f"Write git+{redact(moved)} if you trust that server.")
    try:
        lines = [packet.decode("utf-8", "replace").rstrip("\n") for packet in _Packets(response, context)]
    except LoadError as failure:
        if failure.code is not Code.SERVER_ERROR:
            raise
        lines = []
    if "version 2" not in lines:
        context.transport.close()
        message = f"{base} is not a git repository, or its server does not know version 2 of git's protocol"
        raise LoadError(Code.INVALID_SOURCE, message, hint="Write the URL that `git clone` takes, behind git+.")
    features = dict(line.partition("=")[::2] for line in lines[lines.index("version 2") + 1 :])
    if features.get("object-format", "sha1") != "sha1":
        raise LoadError(Code.INVALID_SOURCE, f"the git repository {base} has objects by SHA-256, not by SHA-1")
    return _Repository(moved, authorizer, features, context)


def _commit(repository: _Repository, revision: str) -> str:
    """Return the commit of a tag or a branch, or of the default branch. Raises LoadError(NotFound)."""
    if _COMMIT.fullmatch(revision):
        return revision
    # No other references: a pull request can be anyone's.
    names = [f"refs/tags/{revision}", f"refs/heads/{revision}"] if revision else ["HEAD"]
    if revision.startswith(("refs/heads/", "refs/tags/")):
        names = [revision]
    found: dict[str, str] = {}
    for line in repository.call("ls-refs", "peel", *(f"ref-prefix {name}" for name in names)).lines():
        oid, name, *more = line.split(" ")
        peeled = next((each.removeprefix("peeled:") for each in more if each.startswith("peeled:")), oid)
        if name in names and _COMMIT.fullmatch(peeled):
            found[name] = peeled
    commit = next((found[name] for name in names if name in found), "")
    if not commit:
        what = f"has no branch or tag {revision}" if revision else "has no default branch"
        message = f"the git repository {redact(repository.base)} {what}"
        raise LoadError(Code.NOT_FOUND, message, hint="Name a branch, a tag or a commit of 40 hex digits.")
    return commit


def _fetch(repository: _Repository, wanted: list[str], *, shallow: bool, partial: bool) -> Iterator[bytes]:
    lines = [*(f"want {oid}" for oid in wanted), "ofs-delta", "no-progress"]
    lines += ["deepen 1"] if shallow else []
    lines += ["filter blob:none"] if partial else []
    return repository.call("fetch", *lines, "done").pack()


def _entries(objects: Pack, root: str, uri: ModelURI) -> tuple[dict[str, str], bool]:
    """Return the blobs by path, and whether the URI names one file. Raises LoadError."""
    *folders, name = ("", *uri.subdirectory)
    tree = root
    for folder in folders[1:]:
        tree = next((oid for mode, each, oid in objects.tree(tree) if each == folder and mode == _FOLDER), "")
        if not tree:
            raise _absent(uri)
    if uri.subdirectory:
        mode, oid = next(((mode, oid) for mode, each, oid in objects.tree(tree) if each == name), (0, ""))
        if mode != _FOLDER:
            if not oid or uri.folder:
                raise _absent(uri)
            _check_mode(mode, name)
            return {safe_path(name): oid}, True
        tree = oid
    found: dict[str, str] = {}
    waiting, visited = [("", tree)], 0
    while waiting:
        place, tree = waiting.pop()
        visited += 1
        if visited > _MAX_FOLDERS:
            raise LoadError(Code.REFUSED, f"the repository has more than {_MAX_FOLDERS:,} folders")
        for mode, each, oid in objects.tree(tree):
            path = safe_path(f"{place}/{each}" if place else each)
            if each.lower() == ".git":
                raise LoadError(Code.REFUSED, f"the repository has a file named {path!a}", file=path)
            if mode == _FOLDER:
                waiting.append((path, oid))
            else:
                _check_mode(mode, path)
                found[path] = oid
        check_count(len(found) + len(waiting))
    return found, False


def _absent(uri: ModelURI) -> LoadError:
    path = "/".join(uri.subdirectory)
    return LoadError(Code.NOT_FOUND, f"the repository has no file or folder {path} at {uri.revision or 'HEAD'}")


def _check_mode(mode: int, path: str) -> None:
    """Raise LoadError(Refused) for what is not a plain file. Execute permissions are ignored."""
    if mode in (_LINK, _SUBMODULE) or mode >> 12 != 0o10:
        what = {_LINK: "a symbolic link", _SUBMODULE: "a submodule"}.get(mode, "neither a file nor a folder")
        hint = "Name a folder without it: #subdirectory=PATH."
        raise LoadError(Code.REFUSED, f"{ascii(path)[1:-1]} in the repository is {what}", hint=hint, file=path)


def _files(repository: _Repository, objects: Pack, entries: Mapping[str, str], scratch: Path) -> list[File]:
    """Return the files: those in LFS at its server, the others on the volume. Raises LoadError."""
    pointers: dict[str, tuple[str, int]] = {}
    files: dict[str, File] = {}
    for path, oid in entries.items():
        size = objects.blob_size(oid)
        pointer = _LFS_POINTER.fullmatch(objects.blob(oid)) if size < _LFS_POINTER_BYTES else None
        if pointer:
            pointers[path] = pointer[1].decode(), int(pointer[2])
        else:
            url = f"file:{quote(os.fspath(scratch / oid))}"
            files[path] = File(path, url, size, version=oid, checksum=f"git-blob:{oid}")
    downloads = _downloads(repository, dict(pointers.values()))
    for path, (oid, size) in pointers.items():
        url, authorizer = downloads[oid]
        files[path] = File(path, url, size, authorizer, version=oid, checksum=f"sha256:{oid}")
    return [files[path] for path in entries]


class _Headers:
    """Authorizes with the headers that the LFS server gives for one address."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def sign(self, method: str, url: SplitResult, headers: dict[str, str]) -> None:
        headers.update(self._headers)

    def refresh(self) -> bool:
        return False


def _downloads(repository: _Repository, sizes: Mapping[str, int]) -> dict[str, tuple[str, Authorizer]]:
    """Return address and authorizer of each LFS object, by its sha256. Raises LoadError."""
    url = f"{repository.base.removesuffix('.git')}.git/info/lfs/objects/batch"
    headers = {"Accept": _LFS, "Content-Type": _LFS}
    found: dict[str, tuple[str, Authorizer]] = {}
    oids = sorted(sizes)
    for start in range(0, len(oids), _LFS_BATCH):
        objects = [{"oid": oid, "size": sizes[oid]} for oid in oids[start : start + _LFS_BATCH]]
        order = {"operation": "download", "transfers": ["basic"], "objects": objects, "hash_algo": "sha256"}
        transport = repository.context.transport
        response = transport.send(
            "POST", url, headers, authorizer=repository.authorizer, body=json.dumps(order).encode()
        )
        try:
            for each in documents.from_json(transport.read_body(response))["objects"]:
                if error := each.get("error"):
                    code = Code.NOT_FOUND if int(error["code"]) in (404, 410) else Code.SERVER_ERROR
                    oid = str(each["oid"])[:64]
                    raise LoadError(code, f"the LFS server has no object {ascii(oid)[1:-1]} ({int(error['code'])})")
                found[str(each["oid"])] = _download(repository, each["actions"]["download"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise LoadError(Code.SERVER_ERROR, f"{redact(url)} did not answer as an LFS server") from None
    if missing := sizes.keys() - found.keys():
        raise LoadError(Code.NOT_FOUND, f"the LFS server has no object {min(missing)}")
    return found


def _download(repository: _Repository, action: Mapping[str, object]) -> tuple[str, Authorizer]:
    """Return address and authorizer of a download. Raises LoadError; ValueError for a malformed one."""
    url, headers = str(action["href"]), action.get("header") or {}
    if not url.startswith("https://"):
        raise LoadError(Code.REFUSED, f"the LFS server leads to {redact(url)[:200]!a}, without TLS")
    if not isinstance(headers, dict):
        raise TypeError(headers)
    given = {str(name): str(value) for name, value in headers.items()}
    for name, value in given.items():
        if not _HEADER.fullmatch(name) or not (value.isascii() and value.isprintable()):
            raise ValueError(name)
    given = {name: value for name, value in given.items() if name.lower() not in _OWN_HEADERS}
    if given:
        return url, _Headers(given)
    is_same = urlsplit(url)[:2] == urlsplit(repository.base)[:2]
    return url, repository.authorizer if is_same else ANONYMOUS
