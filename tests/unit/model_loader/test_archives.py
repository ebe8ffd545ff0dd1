"""The loader unpacks archives of files and folders, and refuses archives with anything else."""

import gzip
import io
import lzma
import os
import stat
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from model_loader import loader
from model_loader.archives import unpacking, zips
from model_loader.archives.archive import Archive
from model_loader.outcomes import LoadError
from model_loader.storage.volume import SafeDir
from support.loader_harness import Loader, WebServer
from support.paths import ROOT
from unit.model_loader.test_faults import run_on_small_volume

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, body: bytes = b"", **attributes: object) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(body)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, body


def tar(*members: Member, mode: str = "w:gz", pax_headers: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, pax_headers=pax_headers) as archive:  # type: ignore[call-overload]
        for info, body in members:
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


def zst(body: bytes, window: int = 0) -> bytes:
    """Return one frame with a checksum. `window`: the exponent of its window."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1})
    frame = bytearray(compressor.compress(body, zstd.ZstdCompressor.FLUSH_BLOCK) + compressor.flush())
    if window:
        frame[5] = (window - 10) << 3
    return bytes(frame)


SKIPPED = b"\x50\x2a\x4d\x18\x02\0\0\0hi"
"""A frame of zstd without content."""


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
def test_a_tar_is_replaced_by_its_files(load: Loader, web: WebServer, kind: str) -> None:
    mode = {"tar": "w:", "tgz": "w:gz"}.get(kind, f"w:{kind[4:]}")
    web.files[f"/model.{kind}"] = tar(*FILES, mode=mode)

    run = load(f"{web.url}/model.{kind}")

    assert run.files() == {"saved/model.bin": b"weights", "a": b""}
    assert (run.code, run.message["files"]) == ("Loaded", 2)
    assert oct((run.volume / "model/saved/model.bin").stat().st_mode) == oct(stat.S_IFREG | 0o644)


@pytest.mark.parametrize(
    "body",
    [
        zst(tar(*FILES, mode="w:")),
        zst(tar(*FILES, mode="w:"), window=27),
        zstd.compress(tar(*FILES, mode="w:")),
        SKIPPED + zst(tar(*FILES, mode="w:")[:1000]) + SKIPPED * 2 + zst(tar(*FILES, mode="w:")[1000:]) + SKIPPED,
        zst(tar(*FILES, mode="w:")) + bytes(1000),
    ],
)
def test_a_tar_by_zstd_is_replaced_by_its_files(load: Loader, web: WebServer, body: bytes) -> None:
    web.files["/model.tar.zst"] = body

    assert load(f"{web.url}/model.tar.zst").files() == {"saved/model.bin": b"weights", "a": b""}


def test_a_tar_by_zstd_needs_a_library(load: Loader, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    web.files["/model.tar.zst"] = zst(tar(*FILES, mode="w:"))

    run = load(f"{web.url}/model.tar.zst")

    assert run.code == "Refused"
    assert "backports.zstd" in str(run.message["message"])


def test_a_zip_is_replaced_by_its_files(load: Loader, web: WebServer) -> None:
    web.files["/model.zip"] = packed(("saved/model.bin", b"weights"), ("empty/", b""))

    run = load(f"{web.url}/model.zip")

    assert run.files() == {"saved/model.bin": b"weights"}


def test_an_archive_among_the_files_of_a_folder_stays_packed(load: Loader, web: WebServer) -> None:
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
    """Return a zip with one member that both of its headers mark as encrypted."""
    body = bytearray(packed(("a", b"1")))
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        body[body.index(mark) + offset] |= 1
    return bytes(body)


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a", "GNU.sparse.realsize": "9"}


def sparse() -> bytes:
    return tar(member("a", b"1", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "1"}))


def through_links() -> bytes:
    """Return a tar that tarfile accepted before Python 3.11.13 (CVE-2025-4517): a link through a path of links."""
    deep = "/".join(["d" * 247] * 16)
    return tar(
        member("a", type=tarfile.SYMTYPE, linkname=deep),
        member(f"a/{'l' * 254}", type=tarfile.SYMTYPE, linkname="../" * 16),
        member("escape", type=tarfile.SYMTYPE, linkname=f"a/{'l' * 254}/../../../etc"),
        member("escape/passwd", b"x"),
    )


def raw(name: str, kind: bytes = tarfile.REGTYPE, body: bytes = b"", size: int | None = None) -> bytes:
    """Return a raw member, without tarfile's checks. `size`: the size in its header."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(body) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % tarfile.BLOCKSIZE)


def headers(count: int) -> bytes:
    """Return headers of headers, each of which is one more recursive call in tarfile."""
    return raw("h", tarfile.XHDTYPE) * count + raw("a", body=b"1") + END


def comment(length: int) -> bytes:
    return b"%d comment=%s\n" % (length, b"x" * (length - len(b"%d comment=\n" % length)))


def global_fields(count: int) -> bytes:
    heads = (tar(pax_headers={f"k{number}": "v"}, mode="w:") for number in range(count))
    return b"".join(head[:1024] for head in heads) + raw("a", body=b"1") + END


def overlapping() -> bytes:
    """Return a member whose body is another member: with a thousand of them a decompression bomb, or hidden content."""
    inner = packed(("b", b"weights"))
    outer = packed((zipfile.ZipInfo("a"), inner[: inner.index(CENTRAL)]))  # stored
    entry = bytearray(inner[inner.index(CENTRAL) : inner.index(TAIL)])
    entry[42:46] = (30 + len("a")).to_bytes(4, "little")  # the offset of its local header
    start, end = outer.rindex(CENTRAL), outer.rindex(TAIL)
    tail = bytearray(outer[end:])
    tail[8:12] = b"\2\0\2\0"
    tail[12:16] = (end - start + len(entry)).to_bytes(4, "little")
    return outer[:end] + bytes(entry) + bytes(tail)


def patched(mark: bytes, offset: int, value: bytes, *files: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    """Return a zip with a modified first header of one kind."""
    body = bytearray(packed(*files or (("a", b"weights"),)))
    place = body.index(mark) + offset
    body[place : place + len(value)] = value
    return bytes(body)


def twice_in_zip() -> bytes:
    with warnings.catch_warnings(action="ignore"):
        return packed(("a", b"1"), ("a", b"2"))


def by_lzma() -> bytes:
    info = zipfile.ZipInfo("a")
    info.compress_type = zipfile.ZIP_LZMA
    return packed((info, b"weights"))


def xz_of_a_large_dictionary() -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    # Made with a small dictionary. Only the header's value and its checksum matter.
    body = bytearray(lzma.compress(tar(member("a", b"1"), mode="w:"), filters=[filters[0] | {"dict_size": 1 << 20}]))
    body[16] = 37  # 1.5 GiB
    size = (body[12] + 1) * 4
    body[12 + size - 4 : 12 + size] = zlib.crc32(body[12 : 12 + size - 4]).to_bytes(4, "little")
    return bytes(body)


def many_entries() -> bytes:
    """Return a central directory of more entries than the maximum number of files, all for one position."""
    body = packed(("a/", b""))
    start, end = body.index(CENTRAL), body.index(TAIL)
    directory = body[start:end] * 200_000
    tail = bytearray(body[end:])
    tail[8:12] = b"\xff\xff\xff\xff"
    tail[12:16] = len(directory).to_bytes(4, "little")
    return body[:start] + directory + bytes(tail)


END = bytes(2 * tarfile.BLOCKSIZE)
LOCAL, CENTRAL, TAIL = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
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
    "global-fields.tar.gz": lambda: gzip.compress(global_fields(100)),
    "long-headers.tar.gz": lambda: gzip.compress(raw("h", tarfile.XGLTYPE, comment(600_000)) * 2 + raw("a") + END),
    "no-name.tar.gz": lambda: gzip.compress(raw("a", body=b"1") + raw("", body=b"2") + END),
    "path.tar.gz": lambda: tar(member("a", b"1", pax_headers={"path": "../a"})),
    "gnu-sparse.tar.gz": lambda: gzip.compress(raw("a", tarfile.GNUTYPE_SPARSE) + END),
    "bidi.tar.gz": lambda: tar(member("a\u202egnp.bin", b"1")),
    "latin-1.tar.gz": lambda: gzip.compress(raw("a\udce9", body=b"1") + END),
    "newline.tar.gz": lambda: tar(member("a\nb", b"1")),
    "backslash.tar.gz": lambda: tar(member("a\\..\\b", b"1")),
    "dictionary.tar.xz": xz_of_a_large_dictionary,
    "window.tar.zst": lambda: zst(tar(member("a", os.urandom(1 << 20)), mode="w:"), window=28),
    "empty-frames.tar.zst": lambda: SKIPPED * 50_000 + zst(tar(member("a", b"1"), mode="w:")),
    "bomb.tar.zst": lambda: zst(tar(member("a", bytes(20 << 20)), mode="w:")),
    "behind.tar.zst": lambda: zst(tar(member("a", b"1"), mode="w:")) + zst(bytes(20 << 20)),
    "symlink.tar.zst": lambda: zst(tar(member("a", type=tarfile.SYMTYPE, linkname="/etc/passwd"), mode="w:")),
    "parent.tar.zst": lambda: zst(tar(member("a/../../passwd", b"x"), mode="w:")),
    "empty-streams.tar.xz": lambda: lzma.compress(b"") * 5000 + tar(member("a", b"1"), mode="w:xz"),
    "twice-the-same.zip": twice_in_zip,
    "overlapping.zip": overlapping,
    "nul.zip": lambda: patched(CENTRAL, 46, b"a\0b", (("a-b", b"1"))),
    "bidi.zip": lambda: packed(("a\u202egnp.bin", b"1")),
    "entries.zip": many_entries,
    "directory.zip": lambda: bytes(33 << 20) + TAIL + bytes(8) + (33 << 20).to_bytes(4, "little") + bytes(6),
    "lzma.zip": by_lzma,
    "bomb.zip": lambda: packed(("a", bytes(20 << 20))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_forbidden_content_is_refused_and_leaves_no_model(
    load: Loader, web: WebServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zips, "MAX_FILES", 10)
    monkeypatch.setattr(loader, "MAX_FILES", 10)
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
        ("cut.tar.bz2", tar(member("a", os.urandom(99_999)), mode="w:bz2")[:50_000]),
        ("cut.tar.xz", tar(member("a", os.urandom(99_999)), mode="w:xz")[:50_000]),
        ("cut.tar.zst", zst(tar(member("a", os.urandom(99_999)), mode="w:"))[:50_000]),
        ("no-checksum.tar.zst", zst(tar(member("a", b"1"), mode="w:"))[:-4]),
        ("wrong-checksum.tar.zst", zst(tar(member("a", b"1"), mode="w:"))[:-4] + b"1234"),
        ("rubbish-behind.tar.zst", zst(tar(member("a", b"1"), mode="w:")) + b"rubbish"),
        ("not.tar.zst", b"<html>"),
        ("empty.tar.zst", b""),
        ("wrong.tar.bz2", tar(member("a", b"1"), mode="w:bz2")[:20] + bytes(99)),
        ("behind-a-member.tar", raw("a", body=b"1") + raw("b", body=b"2")),
        ("behind-a-member.tar.gz", gzip.compress(raw("a", body=b"1") + raw("b", body=b"2"))),
        ("in-a-header.tar", raw("a", body=b"1") + raw("b", body=b"2")[:100]),
        ("wrong-header.tar", raw("a", body=b"1") + b"!" + raw("b", body=b"2")[1:] + END),
        ("headers.tar", headers(3000)),
        ("size.tar", raw("a", size=1 << 60) + END),
        ("size.tar.gz", gzip.compress(raw("a", size=1 << 60) + END)),
        ("sparse-map.tar.gz", tar(member("a", b"9999\n" * 9, pax_headers=SPARSE))),
        ("size-of-words.tar.gz", tar(member("a", b"1", pax_headers={"size": "-1"}))),
        ("rubbish-behind.tar.gz", tar(member("a", b"1")) + b"rubbish"),
        ("crc.zip", patched(CENTRAL, 16, b"\0\0\0\0")),
        ("other-name.zip", patched(LOCAL, 30, b"b")),
        ("longer.zip", patched(CENTRAL, 24, b"\xff\0\0\0")),
        ("shorter.zip", patched(CENTRAL, 24, b"\1\0\0\0")),
        ("no-utf-8.zip", patched(CENTRAL, 46, b"\xff\xff", ("é", b"1"))),
        ("strong-encryption.zip", patched(CENTRAL, 8, b"\x40\0")),
        ("nowhere.zip", patched(CENTRAL, 42, b"\xff\xff\xff\x7f")),
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


@pytest.mark.parametrize(
    "name",
    [
        "header-bomb.tar.gz",
        "global-fields.tar.gz",
        "dictionary.tar.xz",
        "window.tar.zst",
        "empty-frames.tar.zst",
        "bomb.tar.zst",
        "bomb.tar.gz",
        "bomb.zip",
        "entries.zip",
    ],
)
def test_refusals_need_little_memory(load: Loader, tmp_path: Path, name: str) -> None:
    """In a separate process, which measures its own peak."""
    (tmp_path / name).write_bytes(REFUSED[name]())
    script = (
        "from model_loader.__main__ import main; import io, sys; main(sys.argv[1:], {}, io.StringIO(), sys.stderr)\n"
    )
    script += "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    command = [sys.executable, "-c", script, *load.arguments((tmp_path / name).as_uri())]

    peak = subprocess.check_output(command, env=os.environ | {"PYTHONPATH": str(ROOT / "webhook")})

    assert load.message()["code"] == "Refused"
    assert int(peak) < 100 << 10, "KiB"


def test_a_volume_that_is_full_at_the_last_bytes_is_reported(load: Loader, web: WebServer) -> None:
    """The kernel writes what fits, and reports that only by the returned count."""
    web.files["/model.tar"] = tar(member("a", os.urandom(1500 << 10)), mode="w:")

    assert run_on_small_volume(load, f"{web.url}/model.tar", 2800 << 10) == 15
    assert load.message()["code"] == "NoSpace"


def unpack(archive: Path, folder: Path, *, below: str = "") -> None:
    folder.mkdir()
    with archive.open("rb") as stream, SafeDir(os.open(folder, os.O_RDONLY)) as opened:
        unpacking.unpack(Archive(archive.name, stream), opened, below=below)


def test_a_decompression_bomb_is_stopped_while_unpacking(tmp_path: Path) -> None:
    """The unpacked bytes before the refusal are bounded, for any sizes in the headers."""
    archive = tmp_path / "bomb.zip"
    archive.write_bytes(packed(*((f"{number}", bytes(4 << 20)) for number in range(10))))

    with pytest.raises(LoadError, match="100 times"):
        unpack(archive, tmp_path / "out")

    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 16 << 20


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, b"Z"])
def test_a_tar_that_points_back_to_its_start_ends(tmp_path: Path, kind: bytes) -> None:
    """tarfile before 3.11.14 accepts negative sizes (CVE-2025-8194), also in the skipped part of a layer."""
    info = tarfile.TarInfo("usr/x")
    info.type = kind
    header = bytearray(info.tobuf())
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    archive = tmp_path / "layer.tar"
    # After another member: at the start, tarfile takes a member with a negative size for the end.
    archive.write_bytes(tarfile.TarInfo("usr/a").tobuf() + bytes(header) + bytes(1024))

    with pytest.raises(LoadError) as caught:
        unpack(archive, tmp_path / "out", below="models/")

    assert caught.value.code == "Corrupted"
