"""One load from start to end: plan, read, verify, publish."""

import contextlib
import functools
import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from model_loader import sources
from model_loader.download.range_requests import RangesIgnoredError
from model_loader.download.retries import RetryPolicy
from model_loader.download.scheduler import Scheduler
from model_loader.http.transport import Transport, redact
from model_loader.outcomes import Code, LoadError
from model_loader.plan import paths
from model_loader.plan.model import MOST_FILES, Context, File, Secret, Unpack, check_count
from model_loader.plan.options import LoaderOptions
from model_loader.report import Report
from model_loader.storage import journal
from model_loader.storage.volume import SafeDir, Volume, storage_failure
from model_loader.verify import digest as digests
from model_loader.verify import signatures, unsafe_formats
from model_uri import ModelURI, Store, find

# A little more than the model, for the file system's own books.
_SPACE = 1.02
# What a URI that names one file is unpacked by; the file of a folder stays as it is.
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")


class Loaded(NamedTuple):
    """A model on the volume.

    Bytes and files, how many of those that were read have a checksum that the store keeps, the model's digest where it
    was computed, whether its signature was verified, how many of its files may run code when they are loaded, and the
    first of those.
    """

    size: int
    files: int
    checked: int
    digest: str
    signed: bool
    runs_code: int
    runs_code_first: str


class _Plan(NamedTuple):
    """The files of all sources; `single`: the first of them is the model, whose digest is that file's."""

    files: list[File]
    single: bool

    @property
    def packed(self) -> bool:
        """Whether any of them is an archive, whose files are what counts."""
        return any(file.unpack is not Unpack.NO for file in self.files)


def load(options: LoaderOptions, report: Report) -> Loaded:
    """Bring the model onto the volume. Raises LoadError; what the server could see is then not there."""
    try:
        with Volume(options.volume) as volume:
            key = _key(options, volume)
            signer = "" if key is None else hashlib.sha256(key).hexdigest()
            uris = [(redact(load.uri), load.folder) for load in options.loads]
            stores = [store.argument for store in options.stores]
            order = json.dumps([options.digest, signer, uris, stores, journal.boot()])
            found = _complete(volume, order, options)
            if found is not None:
                return found
            if volume.root.has_folder(Volume.MODEL):
                volume.clear()
            verifier = None if key is None else signatures.Verifier(key)
            return _load(options, report, volume, order, verifier)
    except OSError as error:
        raise storage_failure(error) from None


def _key(options: LoaderOptions, volume: Volume) -> bytes | None:
    """Return the key that the model has to be signed with, if any."""
    if options.signature_key is None:
        return None
    try:
        return signatures.read_key(options.signature_key)
    except LoadError:
        volume.clear()
        raise


def _complete(volume: Volume, order: str, options: LoaderOptions) -> Loaded | None:
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


def _load(
    options: LoaderOptions, report: Report, volume: Volume, order: str, verifier: signatures.Verifier | None
) -> Loaded:
    secret = Secret(options.credentials, options.environment)
    planned_again = False
    whole: set[str] = set()
    while True:
        transport = Transport(
            options.network,
            certificates=_certificates(secret, options.stores),
            environment=options.environment,
            fixed=bool(options.stores),
        )
        try:
            plan = _plan(options, Context(transport, secret), report, whole)
            return _read(options, report, volume, order, transport, plan, verifier)
        except RangesIgnoredError as failure:
            whole.add(failure.server)
            report.retry(failure, 1, 0.0)
        except LoadError as failure:
            if failure.code is not Code.CHANGED or planned_again:
                raise
            planned_again = True
            report.retry(failure, 1, 0.0)
        finally:
            transport.close()


_TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""What OpenSSL takes the system's authorities from instead."""


def _certificates(secret: Secret, stores: Sequence[Store]) -> str:
    """Return the authorities to trust beside the system's. Raises LoadError(Refused) for others than are fixed."""
    text = secret.get("AWS_CA_BUNDLE", "ca.crt")
    if stores:
        fixed = [store.ca.strip() for store in stores if store.ca]
        for key in _TRUST:
            if secret.environment.get(key):
                Context.refuse(f"The variable {key}", "which authorities to trust", stores[0])
        if text and text not in fixed:
            Context.refuse("AWS_CA_BUNDLE or ca.crt", "which authorities to trust", stores[0])
        return "\n".join(dict.fromkeys(fixed))
    if text and "-----BEGIN" not in text and secret.environment.get("AWS_CA_BUNDLE") == text:
        try:
            return Path(text).read_text()  # in the environment it is a path, as the SDKs have it
        except OSError:
            raise LoadError(Code.INVALID_SOURCE, "AWS_CA_BUNDLE names a file that cannot be read") from None
    return text


def _plan(options: LoaderOptions, context: Context, report: Report, whole: Set[str]) -> _Plan:
    """Return what is to be read. `whole`: the servers that serve no parts. Raises LoadError."""
    patience = RetryPolicy(options.patience, report, threading.Event().wait)
    files: list[File] = []
    single = False
    alone: dict[str, tuple[ModelURI, Context]] = {}
    for item in options.loads:
        uri = sources.parse(item.uri)
        own = context._replace(store=_store(uri, options.stores))
        listing = patience.run(functools.partial(sources.list_files, uri, own))
        single = listing.single and len(options.loads) == 1
        for file in listing.files:
            packed = Unpack.WHOLE if listing.single and file.path.lower().endswith(_ARCHIVES) else file.unpack
            files.append(file._replace(path=paths.below(item.folder, file.path), unpack=packed))
        check_count(len(files))
        if options.signature_key and listing.single and files[-1].unpack is Unpack.NO:
            alone[item.folder] = uri, own
    for folder, (uri, own) in alone.items():
        path = paths.below(folder, signatures.NAME)
        if all(file.path != path for file in files):
            files.append(patience.run(functools.partial(_signature, uri, path, own)))
    if whole:
        files = [file._replace(ranged=file.ranged and file.server not in whole) for file in files]
    paths.check_clashes(file.path for file in files)
    return _Plan(files, single)


def _store(uri: ModelURI, stores: Sequence[Store]) -> Store | None:
    """Return the store that `uri` leads to, if that is fixed. Raises LoadError(Refused) where it leads to another."""
    if not stores:
        return None
    found = find(uri, stores)
    if found is None or not found.is_fixed or uri.query:
        raise LoadError(Code.REFUSED, f"{uri} is in no place that the loader may read from")
    return found


def _signature(uri: ModelURI, path: str, context: Context) -> File:
    """Return the signature of a model that is one file: it lies beside it. Raises LoadError."""
    beside = replace(uri, segments=(*uri.segments[:-1], signatures.NAME), query="")
    missing = LoadError(Code.NOT_SIGNED, f"there is no signature {beside}", file=path)
    try:
        listing = sources.list_files(beside, context)
    except LoadError as failure:
        raise missing if failure.code is Code.NOT_FOUND else failure from None
    if not listing.single:
        raise missing
    return listing.files[0]._replace(path=path)


def _read(
    options: LoaderOptions,
    report: Report,
    volume: Volume,
    order: str,
    transport: Transport,
    plan: _Plan,
    verifier: signatures.Verifier | None,
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
        scheduler = Scheduler(
            files,
            folder,
            transport=transport,
            journal=book,
            report=report,
            patience=options.patience,
            hashing=options.hashing,
        )
        report.plan(len(files), size)
        _check_space(volume, scheduler.missing)
        scheduler.run()
        # From here on the files are no longer what the journal says; a start that is killed now begins anew.
        volume.state.remove(Volume.JOURNAL)
        hashes = scheduler.hashes()
        digest = _digest(hashes, plan) if options.hashing else ""
        _check_digest(options, volume, digest)
        count = _unpack(volume, folder, files) if plan.packed else len(files)
        if plan.packed and (verifier or (options.hashing and not digest)):
            hashes = digests.hashes(volume.files)
        if options.hashing and not digest:
            digest = digests.of_manifest(hashes)
            _check_digest(options, volume, digest)
        if verifier is not None:
            _check_signature(verifier, options, volume, folder, hashes)
    programs = unsafe_formats.names(volume.files)
    first = programs[0] if programs else ""
    loaded = Loaded(scheduler.size, count, scheduler.checked, digest, verifier is not None, len(programs), first)
    volume.state.write(Volume.COMPLETE, json.dumps({"order": order, "loaded": loaded._asdict()}).encode())
    volume.publish()
    return loaded


def _digest(hashes: Mapping[str, str], plan: _Plan) -> str:
    """Return the digest by what was hashed while reading, or an empty text where only the unpacked files will tell."""
    if plan.single:
        return f"sha256:{hashes[plan.files[0].path]}"
    if plan.packed:
        return ""
    return digests.of_manifest(hashes)


def _check_digest(options: LoaderOptions, volume: Volume, digest: str) -> None:
    if options.digest and digest and digest != options.digest:
        volume.clear()
        raise LoadError(Code.DIGEST_MISMATCH, f"the model has the digest {digest}, not the one asked for")


def _check_signature(
    verifier: signatures.Verifier, options: LoaderOptions, volume: Volume, folder: SafeDir, hashes: Mapping[str, str]
) -> None:
    try:
        verifier.check(folder, hashes, [load.folder for load in options.loads])
    except LoadError as failure:
        if failure.code is Code.NOT_SIGNED:
            volume.clear()
        raise


def _unpack(volume: Volume, folder: SafeDir, files: Sequence[File]) -> int:
    """Put the files of every archive in its place, and return how many files there are then."""
    from model_loader import archives  # noqa: PLC0415  # tarfile and zipfile: start-up that most models need not pay

    names = [file.path for file in files if file.unpack is Unpack.NO]
    for file in files:
        if file.unpack is not Unpack.NO:
            place, _, name = file.path.rpartition("/")
            folder.rename(file.path, volume.state, name)
            with open(volume.state.open(name, os.O_RDONLY), "rb") as archive, folder.folder(place or ".") as into:
                below = "models/" if file.unpack is Unpack.IMAGE else ""
                found = archives.unpack(
                    archives.Archive(name, archive), into, below=below, most=MOST_FILES - len(names)
                )
            volume.state.remove(name)
            names += [paths.below(place, name) for name in found]
    if not names:
        raise LoadError(Code.NOT_FOUND, "the image has no file below /models")
    # Of all together: the layers of an image are one folder.
    paths.check_clashes(names)
    return len(names)


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
