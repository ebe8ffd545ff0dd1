"""Archives are unpacked when they are files and folders, and refused when they are anything else."""

import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from loader.harness import Loader, WebServer
from model_loader import archives, loader
from model_loader.outcomes import LoadError
from model_loader.volume import Folder

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, body: bytes = b"", **attributes: object) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(body)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, body


def tar(*members: Member, mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for info, body in members:
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


def packed(*files: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files:
            archive.writestr(name, body)
    return out.getvalue()


def linked(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


FILES = (
    member("./saved/", type=tarfile.DIRTYPE),
    member("./saved/model.bin", b"weights", mode=0o4755),
    member("a", b""),
)


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_a_tar_is_unpacked_in_its_place(load: Loader, web: WebServer, kind: str) -> None:
    mode = {"tar": "w:", "tgz": "w:gz"}.get(kind, f"w:{kind[4:]}")
    web.files[f"/model.{kind}"] = tar(*FILES, mode=mode)

    run = load(f"{web.url}/model.{kind}")

    assert run.files() == {"saved/model.bin": b"weights", "a": b""}
    assert (run.code, run.message["files"]) == ("Loaded", 2)
    assert oct((run.volume / "model/saved/model.bin").stat().st_mode) == oct(stat.S_IFREG | 0o644)


def test_a_zip_is_unpacked_in_its_place(load: Loader, web: WebServer) -> None:
    web.files["/model.zip"] = packed(("saved/model.bin", b"weights"), ("empty/", b""))

    run = load(f"{web.url}/model.zip")

    assert run.files() == {"saved/model.bin": b"weights"}


def test_an_archive_among_the_files_of_a_folder_stays_one(load: Loader, web: WebServer) -> None:
    web.files["/code.zip"] = packed(("a", b"1"))
    source = load.volume.parent / "source"
    source.mkdir()
    (source / "code.zip").write_bytes(web.files["/code.zip"])

    assert load(source.as_uri()).files() == {"code.zip": web.files["/code.zip"]}


def long_header() -> bytes:
    return tar(member("a", b"1", pax_headers={"comment": "x" * (3 << 20)}))


def many_files(kind: str) -> bytes:
    names = [f"{number}" for number in range(11)]
    return tar(*(member(name) for name in names)) if kind == "tar" else packed(*((name, b"") for name in names))


def encrypted() -> bytes:
    """A zip whose one member says that it is encrypted, in both of its headers."""
    body = bytearray(packed(("a", b"1")))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(mark) + offset] |= 1
    return bytes(body)


def sparse() -> bytes:
    return tar(member("a", b"1", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "1"}))


def through_links() -> bytes:
    """What got past tarfile's own filters before Python 3.11.13 (CVE-2025-4517): a link through a path of links."""
    deep = "/".join(["d" * 247] * 16)
    return tar(
        member("a", type=tarfile.SYMTYPE, linkname=deep),
        member(f"a/{'l' * 254}", type=tarfile.SYMTYPE, linkname="../" * 16),
        member("escape", type=tarfile.SYMTYPE, linkname=f"a/{'l' * 254}/../../../etc"),
        member("escape/passwd", b"x"),
    )


REFUSED: dict[str, Callable[[], bytes]] = {
    "absolute.tar.gz": lambda: tar(member("/etc/passwd", b"x")),
    "parent.tar.gz": lambda: tar(member("a/../../passwd", b"x")),
    "symlink.tar.gz": lambda: tar(member("a", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "hardlink.tar.gz": lambda: tar(member("b", b"1"), member("a", type=tarfile.LNKTYPE, linkname="b")),
    "device.tar.gz": lambda: tar(member("a", type=tarfile.CHRTYPE)),
    "fifo.tar.gz": lambda: tar(member("a", type=tarfile.FIFOTYPE)),
    "twice.tar.gz": lambda: tar(member("a", b"1"), member("a", b"2")),
    "folder-of-a-file.tar.gz": lambda: tar(member("a", b"1"), member("a/b", b"2")),
    "case.tar.gz": lambda: tar(member("Model", b"1"), member("model", b"2")),
    "bomb.tar.gz": lambda: tar(member("a", bytes(20 << 20))),
    "header-bomb.tar.gz": long_header,
    "nul.tar.gz": lambda: tar(member("a", b"1", pax_headers={"path": "a\0b"})),
    "long.tar.gz": lambda: tar(member("a" * 256, b"1")),
    "unicode.tar.gz": lambda: tar(member("é", b"1"), member("e\u0301", b"2")),
    "sparse.tar.gz": sparse,
    "block-device.tar.gz": lambda: tar(member("a", type=tarfile.BLKTYPE)),
    "through-links.tar.gz": through_links,
    "many.tar.gz": lambda: many_files("tar"),
    "many.zip": lambda: many_files("zip"),
    "encrypted.zip": encrypted,
    "twice.zip": lambda: packed(("a", b"1"), ("./a", b"2")),
    "case.zip": lambda: packed(("Model", b"1"), ("model", b"2")),
    "parent.zip": lambda: packed(("../a", b"x")),
    "absolute.zip": lambda: packed(("/a", b"x")),
    "backslash.zip": lambda: packed(("a\\b", b"x")),
    "link.zip": lambda: packed((linked("a"), b"/etc/passwd")),
    "bomb.zip": lambda: packed(("a", bytes(20 << 20))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_archive_must_not_hold_is_refused_and_leaves_no_model(
    load: Loader, web: WebServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_FILES", 10)
    monkeypatch.setattr(loader, "MOST_FILES", 10)
    web.files[f"/{name}"] = REFUSED[name]()

    run = load(f"{web.url}/{name}")

    assert (run.code, run.exit_code) == ("Refused", 14)
    assert not (run.volume / "model").exists()


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("cut.tar.gz", tar(member("a", zlib.compress(bytes(range(256)) * 999)))[:-40]),
        ("cut.tar", tar(member("a", bytes(99_999)), mode="w:")[:50_000]),
        ("cut.zip", packed(("a", b"1"))[:-10]),
        ("not.zip", b"<html>"),
        ("not.tgz", b"<html>"),
    ],
)
def test_a_broken_archive_is_corrupted_and_leaves_no_model(
    load: Loader, web: WebServer, name: str, body: bytes
) -> None:
    web.files[f"/{name}"] = body

    run = load(f"{web.url}/{name}")

    assert (run.code, run.exit_code) == ("Corrupted", 13)
    assert not (run.volume / "model").exists()


def unpack(archive: Path, folder: Path, *, below: str = "") -> None:
    folder.mkdir()
    with archive.open("rb") as stream, Folder(os.open(folder, os.O_RDONLY)) as opened:
        archives.unpack(archives.Archive(archive.name, stream), opened, below=below)


def test_a_bomb_is_stopped_while_it_is_written(tmp_path: Path) -> None:
    """What has come out when it is refused is bounded, whatever the members say of their sizes."""
    archive = tmp_path / "bomb.zip"
    archive.write_bytes(packed(*((f"{number}", bytes(4 << 20)) for number in range(10))))

    with pytest.raises(LoadError, match="100 times"):
        unpack(archive, tmp_path / "out")

    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 16 << 20


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, b"Z"])
def test_a_tar_that_leads_back_to_its_start_ends(tmp_path: Path, kind: bytes) -> None:
    """Pythons before 3.11.14 take a negative size (CVE-2025-8194); what a layer has beside /models is passed over."""
    info = tarfile.TarInfo("usr/x")
    info.type = kind
    header = bytearray(info.tobuf())
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    archive = tmp_path / "layer.tar"
    # Behind another member: at its beginning, tarfile takes a file for ended.
    archive.write_bytes(tarfile.TarInfo("usr/a").tobuf() + bytes(header) + bytes(1024))

    with pytest.raises(LoadError) as caught:
        unpack(archive, tmp_path / "out", below="models/")

    assert caught.value.code == "Corrupted"
