"""Random archives: the loader unpacks what Python's tarfile and zipfile unpack, or refuses the archive.

A failure prints its seed, which repeats the case; `KUBECTL_SERVE_SEED` selects other cases.
"""

import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from backports import zstd

from model_loader.archives.archive import Archive
from model_loader.archives.unpacking import unpack
from model_loader.outcomes import LoadError
from model_loader.plan.paths import check_clashes
from model_loader.storage.volume import SafeDir
from support.loader_harness import contents

SEED = os.environ.get("KUBECTL_SERVE_SEED", "1")
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda body: body,
    "tar.gz": lambda body: gzip.compress(body, 1),
    "tar.bz2": lambda body: bz2.compress(body, 1),
    "tar.xz": lambda body: lzma.compress(body, preset=0),
    "tar.zst": lambda body: zstd.compress(body, 1),
}
SEGMENTS = ("model", "config.json", "a b", "é", "模型", "x" * 90, "y" * 200, ".hidden", "-", "1", "'")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
Tree = dict[str, bytes]


def tree(chance: random.Random) -> Tree:
    """Draw files, none of which is in another's place."""
    drawn: Tree = {}
    for _ in range(chance.randint(1, 8)):
        path = "/".join(chance.choices(SEGMENTS, k=chance.randint(1, 4)))
        try:
            check_clashes([*drawn, path])
        except LoadError:
            continue
        size = chance.choice([0, 1, 511, 512, 513, chance.randint(0, 40_000)])
        drawn[path] = chance.choice([chance.randbytes(size), bytes(size)])
    return drawn


def tar(files: Tree, chance: random.Random) -> bytes:
    """Pack files in one of the formats, some of them in folders with members of their own."""
    out = io.BytesIO()
    form = chance.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    start = chance.choice(["", "./"])
    heads = {"comment": "0" * 40} if form == tarfile.PAX_FORMAT and chance.random() < 0.3 else {}
    with tarfile.open(fileobj=out, mode="w", format=form, pax_headers=heads) as packed:
        for path, body in files.items():
            if "/" in path and chance.random() < 0.5:
                folder = tarfile.TarInfo(start + path.rpartition("/")[0])
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                packed.addfile(folder)
            member = tarfile.TarInfo(start + path)
            member.size, member.mode, member.mtime = len(body), chance.choice([0o644, 0o4755]), chance.random() * 2e9
            packed.addfile(member, io.BytesIO(body))
    return out.getvalue()


def zipped(files: Tree, chance: random.Random) -> bytes:
    """Pack files with all compression methods, some with the headers of large files."""
    out = io.BytesIO(b"#!/bin/sh\n" if chance.random() < 0.1 else b"")
    out.seek(0, io.SEEK_END)
    with zipfile.ZipFile(out, "a") as packed:
        for path, body in files.items():
            if "/" in path and chance.random() < 0.3 and path.rpartition("/")[0] + "/" not in packed.namelist():
                packed.writestr(path.rpartition("/")[0] + "/", b"")
            info = zipfile.ZipInfo(path)
            info.compress_type = chance.choice(METHODS)
            with packed.open(info, "w", force_zip64=chance.random() < 0.3) as member:
                member.write(body)
        packed.comment = chance.randbytes(chance.choice([0, 0, 100]))
    return out.getvalue()


class Workshop:
    """Unpacks bytes with the loader and with Python, each time into an empty folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def place(self, name: str, body: bytes) -> Iterator[tuple[Path, Path]]:
        """Yield the archive and an empty folder next to it, alone in their parent. Removes both afterwards."""
        room = self.root / "room"
        (room / "out").mkdir(parents=True)
        (room / name).write_bytes(body)
        yield room / name, room / "out"
        assert {path.name for path in room.iterdir()} == {name, "out"}
        assert (room / name).read_bytes() == body
        assert {path.name for path in self.root.iterdir()} == {"room"}
        shutil.rmtree(room)

    def ours(self, name: str, body: bytes) -> Tree | str:
        """Return the loader's tree, or the code of its refusal."""
        with self.place(name, body) as (archive, out):
            try:
                with archive.open("rb") as stream, SafeDir(os.open(out, os.O_RDONLY)) as folder:
                    names = unpack(Archive(name, stream), folder)
                    check_clashes(names)
            except LoadError as failure:
                return str(failure.code)
            found = contents(out)
            assert sorted(found) == sorted(names)
            assert not any(path.is_symlink() for path in out.rglob("*"))
            return found

    def pythons(self, name: str, body: bytes) -> Tree | None:
        """Return the files that Python unpacks, or None if it fails."""
        with self.place(name, body) as (archive, out), warnings.catch_warnings(action="ignore"):
            try:
                if name.endswith("zip"):
                    with zipfile.ZipFile(archive) as opened:
                        opened.extractall(out, [info for info in opened.infolist() if not info.is_dir()])
                else:
                    plain = zstd.open(archive) if name.endswith("zst") else archive.open("rb")
                    with plain, tarfile.open(fileobj=plain) as opened:
                        opened.extractall(out, [info for info in opened if not info.isdir()], filter="data")
            except Exception:  # noqa: BLE001  # any error means that there is no tree
                return None
            return contents(out)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def drawn(number: int) -> tuple[str, random.Random, Tree]:
    chance = random.Random(f"{SEED} {number}")
    return chance.choice([*COMPRESSIONS, "zip", "zip"]), chance, tree(chance)


def pack(kind: str, files: Tree, chance: random.Random) -> bytes:
    return zipped(files, chance) if kind == "zip" else COMPRESSIONS[kind](tar(files, chance))


def test_a_valid_archive_gives_pythons_tree(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    packed = Counter[str]()
    for number in range(100):
        kind, chance, files = drawn(number)
        name = f"model.{kind}"
        body = pack(kind, files, chance)
        assert workshop.ours(name, body) == workshop.pythons(name, body) == files, f"{SEED} {number}"
        packed[kind] += 1
    with capsys.disabled():
        print(f"\nthe same tree of {packed.total()} archives: {dict(packed)}")


def spoil(body: bytes, chance: random.Random) -> bytes:
    """Return an archive with some bytes changed, removed or repeated. The checksums of a tar's headers are correct
    again.
    """
    damaged = bytearray(body)
    for _ in range(chance.choice([1, 1, 2, 4])):
        at = chance.randrange(len(damaged) or 1)
        way = chance.randrange(6)
        if way == 0:
            del damaged[at:]
        elif way == 1:
            del damaged[at : at + chance.choice([1, 30, 512])]
        elif way == 2:
            damaged[at:at] = damaged[max(0, at - 512) : at]
        elif way == 3:
            damaged[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"/../", b"PK\1\2"])
        else:
            damaged[at : at + 1] = chance.randbytes(1)
    return bytes(damaged)


def right_sums(body: bytes) -> bytes:
    """Return a tar with correct checksums in its headers."""
    blocks = [bytearray(body[start : start + 512]) for start in range(0, len(body), 512)]
    for block in blocks:
        if block[257:262] == b"ustar" and len(block) == 512:
            block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
    return b"".join(blocks)


def test_a_damaged_archive_gives_pythons_tree_or_none(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """The loader may refuse what Python accepts, but must not accept what Python refuses, or give another tree."""
    ended = Counter[str]()
    for number in range(400):
        kind, chance, files = drawn(number)
        if kind == "zip":
            body = spoil(zipped(files, chance), chance)
        elif chance.random() < 0.7:
            body = spoil(tar(files, chance), chance)
            body = COMPRESSIONS[kind](right_sums(body) if chance.random() < 0.7 else body)
        else:
            body = spoil(pack(kind, files, chance), chance)
        name = f"model.{kind}"
        found = workshop.ours(name, body)
        if isinstance(found, dict):
            assert found == workshop.pythons(name, body), f"{SEED} {number}"
            ended["the same tree"] += 1
        else:
            assert found in ("Refused", "Corrupted", "NotFound"), f"{SEED} {number}"
            ended[found] += 1
    with capsys.disabled():
        print(f"\n{ended.total()} damaged archives: {dict(ended)}")
    assert len(ended) > 2
