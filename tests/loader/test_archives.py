"""Archives are unpacked when they are files and folders, and refused when they are anything else."""

import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import pytest

from loader.harness import Loader, WebServer

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
    "parent.zip": lambda: packed(("../a", b"x")),
    "absolute.zip": lambda: packed(("/a", b"x")),
    "backslash.zip": lambda: packed(("a\\b", b"x")),
    "link.zip": lambda: packed((linked("a"), b"/etc/passwd")),
    "bomb.zip": lambda: packed(("a", bytes(20 << 20))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_archive_must_not_hold_is_refused_and_leaves_no_model(load: Loader, web: WebServer, name: str) -> None:
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
