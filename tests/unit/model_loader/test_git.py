"""Models in git repositories: git's own server over HTTPS, and an LFS server by the public specification."""

import base64
import contextlib
import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from model_loader.sources.git_packs import Pack, PackError
from support.git_server import GitServer
from support.loader_harness import Loader, Reply, WebServer

FILES = {
    "config.json": b"{}",
    ".gitattributes": b"*.bin filter=lfs\n",
    "models/a/weights 1.txt": b"line\n" * 2000,
    "models/a/weights 2.txt": b"line\n" * 2000 + b"changed\n",
    "models/b/empty": b"",
    "models/b/random": os.urandom(300_000),
}
LARGE = {"models/a/model.bin": os.urandom(20 << 20), "model.bin": b"small, but in LFS"}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secured(web: WebServer, load: Loader, authority: trustme.CA) -> WebServer:
    web.secure(authority.issue_cert("127.0.0.1"))
    load.credentials(**{"ca.crt": authority.cert_pem.bytes().decode()})
    return web


@pytest.fixture
def storage(authority: trustme.CA) -> Iterator[WebServer]:
    """Another server, for LFS objects."""
    server = WebServer()
    server.secure(authority.issue_cert("127.0.0.1"))
    yield server
    server.close()


@pytest.fixture(params=[True, False], ids=["filters", "plain"])
def server(request: pytest.FixtureRequest, tmp_path: Path, secured: WebServer) -> GitServer:
    (tmp_path / "git").mkdir()
    return GitServer(tmp_path / "git", secured, filters=request.param)


def test_branches_tags_commits_and_paths(load: Loader, server: GitServer) -> None:
    first = server.commit(FILES, LARGE)
    server.git("tag", "--annotate", "--message=one", "v1")
    server.git("push", "--quiet", "origin", "v1", "HEAD:refs/heads/feature/x")
    second = server.commit({"config.json": b"second"})
    everything = {**FILES, **LARGE}

    run = load(server.uri)
    assert run.files() == {**everything, "config.json": b"second"}, run.output
    assert str(run.message["resolved"]).endswith(f"HEAD at {second}")
    assert run.message["checked"] == len(everything)

    for revision in (first, "v1", "feature/x", "refs/tags/v1"):
        run = load(f"{server.uri}@{revision}")
        assert run.files() == everything, run.output
    assert "resolved" not in load(f"{server.uri}@{first}").message

    folder = load(f"{server.uri}@v1#subdirectory=models/a")
    assert folder.files() == {
        path.removeprefix("models/a/"): body for path, body in everything.items() if path.startswith("models/a/")
    }, folder.output
    one = load(f"{server.uri}@v1#subdirectory=models/a/weights%201.txt")
    assert one.files() == {"weights 1.txt": FILES["models/a/weights 1.txt"]}, one.output
    assert one.message["digest"] == f"sha256:{hashlib.sha256(FILES['models/a/weights 1.txt']).hexdigest()}"
    assert not (load.volume / "state/scratch").exists()


def test_a_shared_claim_keeps_the_files_and_no_objects(load: Loader, server: GitServer) -> None:
    server.commit(FILES, LARGE)
    options = ("--shared", "llm/0123")
    runs = [load(server.uri, options=options) for _ in range(2)]
    folder = load.volume / "llm/0123"
    assert [run.code for run in runs] == ["Loaded", "Loaded"]
    assert (folder / "model" / "config.json").read_bytes() == FILES["config.json"]
    assert len(list((folder / "versions").iterdir())) == 1
    assert not list(folder.glob("scratch-*"))


def test_only_the_blobs_of_the_folder_are_requested(load: Loader, tmp_path: Path, secured: WebServer) -> None:
    (tmp_path / "git").mkdir()
    server = GitServer(tmp_path / "git", secured)
    server.commit({"large": os.urandom(5 << 20), "small/file": b"1"})
    sent = 0
    answer = secured.fault

    def count(request: object, number: int) -> Reply | None:
        nonlocal sent
        reply = answer(request, number)  # type: ignore[arg-type]
        sent += len(reply.body) if reply else 0
        return reply

    secured.fault = count
    assert load(f"{server.uri}#subdirectory=small").files() == {"file": b"1"}
    assert sent < 100_000


def test_patterns_select_files_in_lfs_before_their_download(load: Loader, server: GitServer) -> None:
    server.commit(FILES, LARGE)
    run = load(server.uri, options=("--files", "*.json"))
    assert run.files() == {"config.json": b"{}"}
    assert not [each for each in server.web.requests if each.path.startswith("/objects/")]


@pytest.mark.parametrize(
    "absent", ["@nothing", "@refs/pull/1/head", "@" + "0" * 40, "#subdirectory=nothing", "#subdirectory=config.json/a"]
)
def test_what_the_repository_does_not_have(load: Loader, server: GitServer, absent: str) -> None:
    server.commit(FILES)
    server.git("push", "--quiet", "origin", "HEAD:refs/pull/1/head")
    run = load(f"{server.uri}{absent}")
    assert run.code == "NotFound", run.output
    assert absent[-7:] in str(run.message["message"]), run.output


def test_an_absent_repository(load: Loader, server: GitServer) -> None:
    run = load(f"git+{server.web.url}/team/absent.git")
    assert run.code == "NotFound", run.output
    assert "GIT_TOKEN" in str(run.message["hint"])


@pytest.mark.parametrize(
    ("keys", "login"),
    [
        ({"GIT_TOKEN": "the-token\n"}, "x-access-token:the-token"),
        ({"GIT_USERNAME": "ada", "GIT_PASSWORD": "word"}, "ada:word"),
        ({"username": "ada", "password": "word"}, "ada:word"),
    ],
)
@pytest.mark.attack(35)
def test_credentials_reach_no_other_server(
    load: Loader, server: GitServer, storage: WebServer, keys: dict[str, str], login: str
) -> None:
    server.storage = storage
    server.headers = {}
    server.login = f"Basic {base64.b64encode(login.encode()).decode()}"
    server.commit(FILES, LARGE)
    run = load(server.uri)
    assert run.code == "Unauthorized"
    assert "GIT_TOKEN" in str(run.message["hint"])

    load.credentials(**keys)
    run = load(server.uri)
    assert run.files() == {**FILES, **LARGE}, run.output
    assert storage.requests
    assert all("Authorization" not in each.headers for each in storage.requests)
    assert "token" not in run.output.replace("GIT_TOKEN", "")


@pytest.mark.attack(35)
def test_a_repository_that_moved_to_another_server(load: Loader, server: GitServer, storage: WebServer) -> None:
    load.credentials(GIT_TOKEN="the-token")
    server.web.fault = lambda request, number: Reply(302, {"Location": f"{storage.url}{request.path}"})
    storage.fault = lambda request, number: Reply(body=b"000eversion 2\n0000")
    run = load(server.uri)
    assert run.code == "Refused", run.output
    assert all("Authorization" not in each.headers for each in storage.requests)


def test_lfs_objects_that_are_absent_or_changed(load: Loader, server: GitServer) -> None:
    server.commit(FILES, LARGE)
    oid = hashlib.sha256(LARGE["model.bin"]).hexdigest()
    body = server.storage.files.pop(f"/objects/{oid}")
    run = load(server.uri)
    assert run.code == "NotFound", run.output
    assert oid in str(run.message["message"])

    server.storage.files[f"/objects/{oid}"] = body[::-1]
    run = load(server.uri)
    assert run.code == "Corrupted", run.output
    assert run.message["file"] == "model.bin"


@pytest.mark.parametrize(
    ("download", "code"),
    [
        ({"href": "http://127.0.0.1/a"}, "Refused"),
        ({"href": "file:///etc/passwd"}, "Refused"),
        ({"href": "https://127.0.0.1/a", "header": {"A\r\nB": "1"}}, "ServerError"),
        ({"href": "https://127.0.0.1/a", "header": {"A": "1\r\nHost: other"}}, "ServerError"),
        ({"href": "https://169.254.169.254/a"}, "Refused"),
        ({}, "ServerError"),
    ],
)
@pytest.mark.attack(35)
def test_a_hostile_lfs_server(load: Loader, server: GitServer, download: dict[str, object], code: str) -> None:
    server.commit({}, {"model.bin": b"1"})
    server.actions[hashlib.sha256(b"1").hexdigest()] = {"actions": {"download": download}}
    run = load(server.uri)
    assert run.code == code, run.output


def tree(server: GitServer, *entries: str) -> str:
    """Push a commit with these entries of a tree, which git itself would refuse to add."""
    blob = server.git("hash-object", "-w", "--stdin", stdin=b"1")
    head = server.git("rev-parse", "HEAD")
    raw = b"".join(
        f"{mode} {name}\0".encode() + bytes.fromhex(head if mode == "160000" else blob)
        for mode, name in (entry.split(" ", 1) for entry in entries)
    )
    oid = server.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=raw)
    commit = server.git("commit-tree", oid, "-m", "crafted")
    server.git("push", "--quiet", "--force", "origin", f"{commit}:refs/heads/main")
    return commit


@pytest.mark.parametrize(
    "entries",
    [
        ["100644 .."],
        ["100644 .git"],
        ["100644 .GIT"],
        ["100644 a\\b"],
        ["100644 a", "100644 A"],
        ["100644 a\n"],
        ["120000 link"],
        ["160000 module"],
    ],
)
@pytest.mark.attack(16)
def test_names_links_and_submodules_that_are_refused(load: Loader, server: GitServer, entries: list[str]) -> None:
    server.commit(FILES)
    tree(server, *entries)
    run = load(server.uri)
    assert run.code == "Refused", run.output
    assert not run.files()


def test_execute_permissions_are_dropped(load: Loader, server: GitServer) -> None:
    server.commit(FILES)
    tree(server, "100755 run.sh")
    assert load(server.uri).files() == {"run.sh": b"1"}
    assert not os.access(load.volume / "model/run.sh", os.X_OK)


@pytest.mark.attack(35)
def test_a_commit_is_verified(load: Loader, server: GitServer) -> None:
    """A server that sends another commit than the requested one."""
    first = server.commit(FILES)
    second = server.commit({"config.json": b"evil"})
    answer = server.web.fault

    def lie(request: object, number: int) -> Reply | None:
        request.body = request.body.replace(first.encode(), second.encode())  # type: ignore[attr-defined]
        return answer(request, number)  # type: ignore[arg-type]

    server.web.fault = lie
    run = load(f"{server.uri}@{first}")
    assert run.code == "Corrupted", run.output


def test_a_file_that_is_no_git_repository(load: Loader, server: GitServer) -> None:
    server.web.fault = lambda request, number: Reply(body=b"<html>")
    run = load(server.uri)
    assert run.code == "InvalidSource"
    assert "git clone" in str(run.message["hint"])
    assert len(server.web.requests) == 1, "another attempt would not help"


def entry(kind: int, body: bytes, size: int | None = None, prefix: bytes = b"") -> bytes:
    """Return an object of a pack. `size`: as it says."""
    left = len(body) if size is None else size
    head = [kind << 4 | left & 15]
    left >>= 4
    while left:
        head[-1] |= 0x80
        head.append(left & 0x7F)
        left >>= 7
    return bytes(head) + prefix + zlib.compress(body)


def pack(*entries: bytes, count: int | None = None) -> bytes:
    body = b"PACK" + (2).to_bytes(4, "big") + (len(entries) if count is None else count).to_bytes(4, "big")
    body += b"".join(entries)
    return body + hashlib.sha1(body).digest()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PACK",
        pack(count=1),
        pack(count=2**32 - 1),
        pack(entry(3, b"abc", size=2)),
        pack(entry(3, b"abc", size=4)),
        pack(entry(3, b"abc", size=1 << 50)),
        pack(entry(2, b"0" * 100, size=1 << 40)),
        pack(entry(3, b"abc"))[:-1] + b"x",
        pack(entry(3, b"abc")) + b"x",
        pack(entry(0, b"abc")),
        pack(entry(6, b"\x03\x03\x90\x03", prefix=b"\x05")),
        pack(entry(7, b"\x03\x03\x90\x03", prefix=b"0" * 20)),
        pack(entry(3, b"abc"), entry(7, b"\x03\x7f\x90\x7f", prefix=hashlib.sha1(b"blob 3\0abc").digest())),
        pack(entry(3, b"abc"), entry(7, b"\x03\x03\x90", prefix=hashlib.sha1(b"blob 3\0abc").digest())),
        pack(entry(3, b"abc"), entry(7, b"\x03\x03\x00", prefix=hashlib.sha1(b"blob 3\0abc").digest())),
        pack(entry(3, b"abc"), entry(7, b"\x03" + b"\xff" * 20, prefix=hashlib.sha1(b"blob 3\0abc").digest())),
        pack(*(entry(2, b"0" * (9 << 20)) for _ in range(8))),
    ],
)
@pytest.mark.attack(35)
def test_packs_that_are_refused(tmp_path: Path, data: bytes) -> None:
    with Pack(tmp_path / "scratch") as objects, pytest.raises(PackError):
        objects.add(iter([data[:7], data[7:]] if data else []))


@given(st.integers(0, 10_000), st.integers(0, 255))
@pytest.mark.attack(35)
def test_a_changed_pack_ends_in_one_way(at: int, byte: int) -> None:
    base = hashlib.sha1(b"blob 3\0abc").digest()
    body = bytearray(pack(entry(7, b"\x03\x05\x90\x03\x02de", prefix=base), entry(3, b"abc"), entry(2, b"t"))[:-20])
    body[at % len(body)] = byte
    data = bytes(body) + hashlib.sha1(body).digest()
    with tempfile.TemporaryDirectory() as folder, Pack(Path(folder)) as objects, contextlib.suppress(PackError):
        objects.add(iter([data]))


def test_deltas(tmp_path: Path) -> None:
    base = hashlib.sha1(b"blob 3\0abc").digest()
    changed = pack(entry(7, b"\x03\x05\x90\x03\x02de", prefix=base), entry(3, b"abc"))
    with Pack(tmp_path / "scratch") as objects:
        objects.add(bytes([byte]) for byte in changed)
        oid = hashlib.sha1(b"blob 5\0abcde").hexdigest()
        assert objects.has_blob(oid)
        assert objects.blob(oid) == b"abcde"
