"""One load from start to end: plan, read, verify, publish."""

import contextlib
import functools
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from model_loader import digest as digests
from model_loader import executable, journal, paths, sources
from model_loader.engine import Engine
from model_loader.model import Context, File, Secret, Unpack
from model_loader.options import Load, Options
from model_loader.outcomes import Code, LoadError
from model_loader.report import Report
from model_loader.retries import Patience
from model_loader.transport import Transport, redact
from model_loader.volume import Folder, Volume, storage_failure

# A little more than the model, for the file system's own books.
_SPACE = 1.02
# What a URI that names one file is unpacked by; the file of a folder stays as it is.
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model on the volume.

    Bytes and files, how many of those that were read have a checksum that the store keeps, the model's digest where it
    was computed, how many of its files may run code when they are loaded, and the first of those.
    """

    size: int
    files: int
    checked: int
    digest: str
    runs_code: int
    runs_code_first: str


@dataclass(frozen=True, slots=True)
class _Plan:
    """The files of all sources; `single`: they are one file, whose digest is the model's."""

    files: list[File]
    single: bool


def load(options: Options, report: Report) -> Loaded:
    """Bring the model onto the volume. Raises LoadError; what the server could see is then not there."""
    order = json.dumps([options.digest, [(redact(load.uri), load.folder) for load in options.loads], journal.boot()])
    try:
        with Volume(options.volume) as volume:
            found = _complete(volume, order, options)
            if found is not None:
                return found
            if volume.root.has_folder(Volume.MODEL):
                volume.clear()
            return _load(options, report, volume, order)
    except OSError as error:
        raise storage_failure(error) from None


def _complete(volume: Volume, order: str, options: Options) -> Loaded | None:
    """Return the model that an earlier start of this container left, published if it had not come to that."""
    try:
        record = json.loads(volume.state.read(Volume.COMPLETE))
        if record["order"] != order or (options.hashing and not record["loaded"]["digest"]):
            return None
        if not volume.root.has_folder(Volume.MODEL):
            volume.publish()
        return Loaded(**record["loaded"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _load(options: Options, report: Report, volume: Volume, order: str) -> Loaded:
    secret = Secret(options.credentials, options.environment)
    planned_again = False
    while True:
        transport = Transport(options.network, certificates=_certificates(secret), environment=options.environment)
        try:
            plan = _plan(options, Context(transport, secret), report)
            return _read(options, report, volume, order, transport, plan)
        except LoadError as failure:
            if failure.code is not Code.CHANGED or planned_again:
                raise
            planned_again = True
            report.retry(failure, 1, 0.0)
        finally:
            transport.close()


def _certificates(secret: Secret) -> str:
    text = secret.get("AWS_CA_BUNDLE", "ca.crt")
    if text and "-----BEGIN" not in text and secret.environment.get("AWS_CA_BUNDLE") == text:
        try:
            return Path(text).read_text()  # in the environment it is a path, as the SDKs have it
        except OSError:
            raise LoadError(Code.INVALID_SOURCE, "AWS_CA_BUNDLE names a file that cannot be read") from None
    return text


def _plan(options: Options, context: Context, report: Report) -> _Plan:
    patience = Patience(options.patience, report, threading.Event().wait)
    files: list[File] = []
    single = False
    for item in options.loads:
        listing = patience.run(functools.partial(sources.list_files, item.uri, context))
        single = listing.single and len(options.loads) == 1
        for file in listing.files:
            packed = Unpack.WHOLE if listing.single and file.path.lower().endswith(_ARCHIVES) else file.unpack
            files.append(replace(file, path=_below(item, file.path), unpack=packed))
    paths.check_clashes(file.path for file in files)
    return _Plan(files, single)


def _below(item: Load, path: str) -> str:
    return f"{item.folder}/{path}" if item.folder else path


def _read(
    options: Options,
    report: Report,
    volume: Volume,
    order: str,
    transport: Transport,
    plan: _Plan,
) -> Loaded:
    files = plan.files
    if not volume.state.has_folder(Volume.FILES):
        volume.state.remove(Volume.JOURNAL)
    with contextlib.ExitStack() as opened:
        header = f"{journal.identity(files)} {journal.boot()}"
        book = opened.enter_context(journal.Journal(volume.state, Volume.JOURNAL, header))
        if not book.parts:
            volume.state.remove(Volume.FILES)
        folder = opened.enter_context(volume.state.folder(Volume.FILES, make=True))
        size = sum(max(file.size, 0) for file in files)
        _check_capacity(volume, size)
        engine = Engine(
            files,
            folder,
            transport=transport,
            journal=book,
            report=report,
            patience=options.patience,
            hashing=options.hashing,
        )
        report.plan(len(files), size)
        _check_space(volume, engine.missing)
        engine.run()
        # From here on the files are no longer what the journal says; a start that is killed now begins anew.
        volume.state.remove(Volume.JOURNAL)
        digest = _digest(engine.hashes(), plan) if options.hashing else ""
        _check_digest(options, volume, digest)
        count = sum(_unpack(volume, folder, file) if file.unpack is not Unpack.NO else 1 for file in files)
    if not count:
        raise LoadError(Code.NOT_FOUND, "the image has no file below /models")
    if options.hashing and not digest:
        digest = digests.of_path(volume.files)
        _check_digest(options, volume, digest)
    programs = executable.names(volume.files)
    loaded = Loaded(engine.size, count, engine.checked, digest, len(programs), programs[0] if programs else "")
    volume.state.write(Volume.COMPLETE, json.dumps({"order": order, "loaded": asdict(loaded)}).encode())
    volume.publish()
    return loaded


def _digest(hashes: Mapping[str, str], plan: _Plan) -> str:
    """Return the digest by what was hashed while reading, or an empty text where only the unpacked files will tell."""
    if plan.single:
        return f"sha256:{next(iter(hashes.values()))}"
    if any(file.unpack is not Unpack.NO for file in plan.files):
        return ""
    return digests.of_manifest(hashes)


def _check_digest(options: Options, volume: Volume, digest: str) -> None:
    if options.digest and digest and digest != options.digest:
        volume.clear()
        raise LoadError(Code.DIGEST_MISMATCH, f"the model has the digest {digest}, not the one asked for")


def _unpack(volume: Volume, folder: Folder, file: File) -> int:
    """Put an archive's files in its place, and return how many they are."""
    from model_loader import archives  # noqa: PLC0415  # tarfile and zipfile: start-up that most models need not pay

    place, _, name = file.path.rpartition("/")
    folder.rename(file.path, volume.state, name)
    with open(volume.state.open(name, os.O_RDONLY), "rb") as archive, folder.folder(place or ".") as into:
        below = "models/" if file.unpack is Unpack.IMAGE else ""
        count = archives.unpack(archives.Archive(name, archive), into, below=below)
    volume.state.remove(name)
    return count


def _check_capacity(volume: Volume, size: int) -> None:
    """Before the files are cut into parts: a server may claim sizes whose parts alone would not fit into memory."""
    room = volume.room()
    whole = room.f_blocks * room.f_frsize
    if size > whole:
        raise LoadError(Code.NO_SPACE, f"the model has {size >> 20} MiB and the whole volume {whole >> 20} MiB")


def _check_space(volume: Volume, needed: int) -> None:
    room = volume.room()
    free = room.f_bavail * room.f_frsize
    if needed * _SPACE > free:
        raise LoadError(
            Code.NO_SPACE,
            f"the model needs {needed >> 20} MiB more and the volume has {free >> 20} MiB free",
        )
