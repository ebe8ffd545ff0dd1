"""One load from start to end: plan, download, verify, unpack, publish."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model_loader.download.range_requests import RangesIgnoredError
from model_loader.download.scheduler import Scheduler
from model_loader.http.transport import Transport, redact
from model_loader.outcomes import OUTCOMES, Code, LoadError
from model_loader.plan import paths
from model_loader.plan.model import MAX_FILES, Context, File, Secret, Unpack
from model_loader.plan.options import LoaderOptions
from model_loader.planner import Plan, make_plan, no_files_match
from model_loader.report import Report, Skipped
from model_loader.storage import hub_cache, journal
from model_loader.storage.shared import RECORD, SharedFolder, by_descriptor, has_only_files, owner_of, read_small
from model_loader.storage.volume import SafeDir, Volume, storage_failure, this_pod
from model_loader.verify import digest as digests
from model_loader.verify import signatures, unsafe_formats
from model_uri import Store
from model_uri.file_patterns import FilePatterns

_SPACE_FACTOR = 1.02
"""Free space that a model needs, times its size: the file system's metadata takes some."""
_NOT_OURS = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Errors for what no loader left on a claim, as against those of its file system."""
_TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables that replace the system's certificate authorities for OpenSSL."""


class Loaded(NamedTuple):
    """A model on the volume.

    `size`: bytes. `files`: number of files. `checked`: number of downloaded files with a checksum of the store's.
    `digest`: of the model, where it was computed. `signed`: whether its signature was verified. `runs_code`: number of
    files that may run code when a server loads them, and `runs_code_first`: the first of these. `skipped`: what was
    not loaded. `resolved`: what names that can change stood for.
    """

    size: int
    files: int
    checked: int
    digest: str
    signed: bool
    runs_code: int
    runs_code_first: str
    skipped: Skipped
    resolved: str


def load(options: LoaderOptions, report: Report) -> Loaded:
    """Put the model onto the volume. Raises LoadError; the model server then sees no model."""
    try:
        if options.shared:
            return _load_shared(options, report)
        with Volume(options.volume, this_pod()) as volume:
            key = _read_key(options, volume)
            # A crash of the node can lose the last writes.
            order = _order(options, key, journal.boot())
            found = _find_complete(volume, order, options)
            if found is not None:
                return found
            volume.require_own()
            if volume.has_record():
                volume.clear()
            verifier = None if key is None else signatures.Verifier(key)
            return _Load(options, report, volume, order, verifier).run()
    except OSError as error:
        raise storage_failure(error) from None


def _load_shared(options: LoaderOptions, report: Report) -> Loaded:
    """Put the model into the folder that pods share, or find it there."""
    key = None if options.signature_key is None else signatures.read_key(options.signature_key)
    verifier = None if key is None else signatures.Verifier(key)
    with SharedFolder(options.volume, options.shared, this_pod()) as folder:
        return _SharedLoad(options, report, folder, _order(options, key), verifier).run()


def _order(options: LoaderOptions, key: bytes | None, boot: str = "") -> str:
    """Return a text that changes with any argument that changes the model on the volume."""
    signer = "" if key is None else hashlib.sha256(key).hexdigest()
    uris = [(redact(load.uri), load.folder) for load in options.loads]
    stores = [store.argument for store in options.stores]
    files = options.files and str(options.files)
    return json.dumps([options.digest, signer, uris, stores, options.hub_cache, files, boot])


def _read_key(options: LoaderOptions, volume: Volume) -> bytes | None:
    """Return the key for the model's signature, if the options name one."""
    if options.signature_key is None:
        return None
    try:
        return signatures.read_key(options.signature_key)
    except LoadError:
        if volume.is_own:
            volume.clear()
        raise


def _find_complete(volume: Volume, order: str, options: LoaderOptions) -> Loaded | None:
    """Return the model of an earlier start of this container, and publish it if that start did not get to it."""
    try:
        record = json.loads(volume.state.read(Volume.COMPLETE))
        if record["order"] != order or (options.hashing and not record["loaded"]["digest"]):
            return None
        if not volume.root.has_folder(Volume.MODEL):
            if not volume.is_own:
                return None
            volume.publish()
        return _of_record(record)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _of_record(record: Mapping[str, Any]) -> Loaded:
    """Return the model that a record on the volume describes. Raises KeyError, TypeError."""
    return Loaded(**record["loaded"] | {"skipped": Skipped(*record["loaded"]["skipped"])})


def authorities(secret: Secret, stores: Sequence[Store]) -> str:
    """Return the certificate authorities to trust in addition to the system's.

    Raises LoadError(Refused) when the stores are fixed and the Secret or the environment names other authorities.
    """
    text = secret.document("AWS_CA_BUNDLE", "ca.crt")
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
            return Path(text).read_text()  # in the environment it is a path, as for the AWS SDKs
        except OSError:
            raise LoadError(Code.INVALID_SOURCE, "AWS_CA_BUNDLE names a file that cannot be read") from None
    return text


class _Load:
    """A load that has to read at least a part of the model."""

    _volume: Volume

    def __init__(
        self,
        options: LoaderOptions,
        report: Report,
        volume: Volume | None,
        order: str,
        verifier: signatures.Verifier | None,
    ) -> None:
        """`order`: identifies the arguments. A later start with the same order reuses the model."""
        self._options = options
        self._report = report
        if volume is not None:
            self._volume = volume
        self._order = order
        self._verifier = verifier

    def run(self) -> Loaded:
        """Plan and download; once more when the model changes meanwhile, or a server ignores Range requests."""
        options = self._options
        secret = Secret(options.credentials, options.environment)
        planned_again = False
        without_ranges: set[str] = set()
        while True:
            transport = Transport(
                options.network,
                certificates=authorities(secret, options.stores),
                environment=options.environment,
                fixed=bool(options.stores),
            )
            try:
                self._remove_scratch()
                context = Context(transport, secret, stores=options.stores, scratch=self._scratch)
                plan = make_plan(options, context, self._report, without_ranges)
                return self._execute(plan, transport)
            except RangesIgnoredError as failure:
                without_ranges.add(failure.server)
                self._report.retry(failure, 1, 0.0)
            except LoadError as failure:
                if failure.code is not Code.CHANGED or planned_again:
                    raise
                planned_again = True
                self._report.retry(failure, 1, 0.0)
            finally:
                transport.close()
                self._remove_scratch()

    @property
    def _scratch(self) -> Path:
        """The folder for what a source needs only during the load."""
        return self._options.volume / Volume.STATE / Volume.SCRATCH

    def _remove_scratch(self) -> None:
        self._volume.state.remove(Volume.SCRATCH)

    def _execute(self, plan: Plan, transport: Transport) -> Loaded:
        """Download, verify, unpack and publish the files of a plan."""
        options, volume = self._options, self._volume
        if not volume.state.has_folder(Volume.FILES):
            volume.state.remove(Volume.JOURNAL)
        with contextlib.ExitStack() as opened:
            header = f"{journal.identity(plan.files)} {journal.boot()}"
            log = opened.enter_context(journal.Journal(volume.state, Volume.JOURNAL, header))
            if not log.parts:
                volume.state.remove(Volume.FILES)
            folder = opened.enter_context(volume.state.folder(Volume.FILES, make=True))
            size = sum(max(file.size, 0) for file in plan.files)
            check_capacity(volume, size)
            scheduler = Scheduler(
                plan.files,
                folder,
                transport=transport,
                journal=log,
                report=self._report,
                patience=options.patience,
                hashing=options.hashing,
            )
            skipped = skipped_files(plan) if options.files is None else Skipped()
            self._report.plan(len(plan.files), size, skipped)
            check_space(volume, scheduler.missing)
            scheduler.run()
            # From here on the files differ from the journal: a start after a crash has to read them all.
            volume.state.remove(Volume.JOURNAL)
            digest, count = self._verify(plan, folder, scheduler.hashes())
            volume.state.remove(Volume.HUB)
            if options.hub_cache:
                with volume.state.folder(Volume.HUB, make=True) as cache:
                    hub_cache.write(plan.snapshots, folder, cache)
        programs = unsafe_formats.names(volume.files)
        loaded = Loaded(
            size=scheduler.size,
            files=count,
            checked=scheduler.checked,
            digest=digest,
            signed=self._verifier is not None,
            runs_code=len(programs),
            runs_code_first=programs[0] if programs else "",
            skipped=skipped,
            resolved=plan.resolved,
        )
        record = {"order": self._order, "loaded": loaded._asdict()}
        volume.state.write(Volume.COMPLETE, json.dumps(record).encode())
        volume.publish()
        return loaded

    def _verify(self, plan: Plan, folder: SafeDir, hashes: Mapping[str, str]) -> tuple[str, int]:
        """Verify digest and signature, and unpack archives. Returns the digest, if computed, and the count of files.

        `hashes`: each file's sha256 in hex, by path, as computed during the download.
        """
        options, volume = self._options, self._volume
        left_out = [file.path for file in plan.left_out]
        digest = digest_of(hashes, plan) if options.hashing else ""
        if options.digest and options.digest == whole_digest(hashes, plan):
            digest = options.digest
        self._check_digest(digest, len(left_out))
        count = len(plan.files)
        if plan.packed:
            count, unselected = unpack_all(volume, folder, plan.files, options.files)
            left_out += unselected
        if plan.packed and (self._verifier or (options.hashing and not digest)):
            hashes = digests.hashes(volume.files)
        if options.hashing and not digest:
            digest = digests.of_manifest(hashes)
            self._check_digest(digest, len(left_out))
        if self._verifier is not None:
            self._check_signature(self._verifier, folder, hashes, left_out)
        return digest, count

    def _check_digest(self, digest: str, left_out: int) -> None:
        """Raise LoadError for another digest than the requested one. `left_out`: number of files that do not count."""
        if not self._options.digest or not digest or digest == self._options.digest:
            return
        self._volume.clear()
        raise mismatch(self._options, digest, left_out)

    def _check_signature(
        self, verifier: signatures.Verifier, folder: SafeDir, hashes: Mapping[str, str], left_out: Sequence[str]
    ) -> None:
        try:
            verifier.check(folder, hashes, [load.folder for load in self._options.loads], left_out)
        except LoadError as failure:
            if failure.code is Code.NOT_SIGNED:
                self._volume.clear()
            raise


class _SharedLoad(_Load):
    """A load into a folder that pods share. It lists the files first, with the credentials of its own pod."""

    def __init__(
        self,
        options: LoaderOptions,
        report: Report,
        folder: SharedFolder,
        order: str,
        verifier: signatures.Verifier | None,
    ) -> None:
        super().__init__(options, report, None, order, verifier)
        self._shared = folder

    def _execute(self, plan: Plan, transport: Transport) -> Loaded:
        self._refuse_unverifiable(plan)
        # The cache of a hub has the commit in its names.
        commits = [each[:3] for each in plan.snapshots] if self._options.hub_cache else []
        listed = f"{self._order} {commits} {journal.identity(plan.files)}"
        version = hashlib.sha256(listed.encode()).hexdigest()
        loaded: Loaded | None = None
        while loaded is None:
            loaded = self._found(version, plan)
            if loaded is not None:
                self._report.plan(len(plan.files), 0, loaded.skipped)
                break
            attempt = self._shared.attempt(version, self._report)
            if attempt is None:
                continue
            with attempt:
                with Volume(attempt.root, owner_of(version)) as self._volume:
                    self._volume.require_own()
                    # Of an attempt that was killed before it published. Another pod can have written it.
                    if _find_complete(self._volume, self._order, self._options) is None:
                        if self._volume.has_record():
                            self._volume.clear()
                        loaded = super()._execute(plan, transport)
                if not attempt.publish():
                    loaded = None  # another loader was faster
        names = (Volume.MODEL, Volume.HUB) if self._options.hub_cache else (Volume.MODEL,)
        self._shared.link(version, *names)
        return loaded

    @property
    def _scratch(self) -> Path:
        return by_descriptor(self._shared.folder) / self._shared.scratch

    def _remove_scratch(self) -> None:
        self._shared.folder.remove(self._shared.scratch)

    def _refuse_unverifiable(self, plan: Plan) -> None:
        """Refuse what could not be verified in an unpacked archive that another pod left."""
        options = self._options
        if plan.packed and ((options.digest and plan.single) or (self._verifier and options.files is not None)):
            raise LoadError(
                Code.REFUSED,
                "what is unpacked from this archive cannot be verified on a claim that pods share",
                hint="Unpack the archive in the store, or load it without kubectl-serve.dev/cache.",
            )

    def _found(self, version: str, plan: Plan) -> Loaded | None:
        """Return the version that a loader of any pod completed, after verification if the options require any."""
        with self._shared.version(version) as folder:
            if folder is None:
                return None
            try:
                record = json.loads(read_small(folder, RECORD))
                found = _of_record(record) if record["order"] == self._order else None
                if found is not None and self._is_verified(folder, plan):
                    return found._replace(resolved=plan.resolved)
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    raise
            except (LoadError, ValueError, KeyError, TypeError, RecursionError):
                pass  # not what a loader writes
        failure = LoadError(Code.CORRUPTED, "a pod changed the model on the claim; it is downloaded again")
        self._report.retry(failure, 1, 0.0)
        self._shared.set_aside(version)
        return None

    def _is_verified(self, folder: SafeDir, plan: Plan) -> bool:
        """Whether the files on the claim are what the digest and the signature say."""
        with folder.folder(Volume.MODEL) as model:
            options, verifier = self._options, self._verifier
            if not options.digest and verifier is None:
                return True
            root = by_descriptor(model)
            if not has_only_files(root):
                return False
            hashes = digests.hashes(root)
            if not plan.packed and hashes.keys() != {file.path for file in plan.files}:
                return False
            digest = digest_of(hashes, plan) or digests.of_manifest(hashes)
            if options.digest and options.digest not in (digest, whole_digest(hashes, plan)):
                return False
            if verifier is not None:
                left_out = [file.path for file in plan.left_out]
                verifier.check(model, hashes, [load.folder for load in options.loads], left_out)
        if options.hub_cache:
            with folder.folder(Volume.HUB) as cache:
                root = by_descriptor(cache)
                return has_only_files(root) and digests.hashes(root) == hub_cache.hashes(plan.snapshots, hashes)
        return True


def mismatch(options: LoaderOptions, digest: str, left_out: int) -> LoadError:
    """Return the failure for a model with another digest. `left_out`: number of files that do not count."""
    hint = OUTCOMES[Code.DIGEST_MISMATCH].hint
    if options.files is not None:
        hint = f"A digest covers only the files that kubectl-serve.dev/files selects. {hint}"
    elif left_out:
        files = f"{left_out} files with copies of the weights do not count"
        hint = f'{files}; kubectl-serve.dev/files "*" loads all. {hint}'
    return LoadError(Code.DIGEST_MISMATCH, f"the model's digest is {digest}, which is not the requested one", hint=hint)


def skipped_files(plan: Plan) -> Skipped:
    """Return what the report says of the files that are not loaded."""
    files = plan.left_out
    return Skipped(len(files), sum(max(file.size, 0) for file in files), files[0].path) if files else Skipped()


def digest_of(hashes: Mapping[str, str], plan: Plan) -> str:
    """Return the digest from the hashes of the download, or an empty text where only the unpacked files have one."""
    if plan.single:
        return f"sha256:{hashes[plan.files[0].path]}"
    if plan.packed:
        return ""
    return digests.of_manifest(hashes)


def whole_digest(hashes: Mapping[str, str], plan: Plan) -> str:
    """Return the digest of all files of the sources, from the store's sha256 of those that are left out.

    Empty if the store does not list it. A model with this digest can have no other content in the files that are
    loaded: the digest covers the hashes of the download, which come before what a store lists for the same path.
    """
    others = {file.path: file.checksum.partition("sha256:")[2] for file in plan.left_out}
    if plan.packed or plan.single or not others or not all(others.values()):
        return ""
    return digests.of_manifest({**others, **hashes})


def unpack_all(
    volume: Volume, folder: SafeDir, files: Sequence[File], patterns: FilePatterns | None
) -> tuple[int, list[str]]:
    """Replace every archive by its files that the patterns select.

    Returns how many files there are then, and the paths of the other files of the archives.
    """
    # Imported here, because tarfile and zipfile slow down the start and most models are not archives.
    from model_loader.archives.archive import Archive  # noqa: PLC0415
    from model_loader.archives.unpacking import unpack  # noqa: PLC0415

    names = [file.path for file in files if file.unpack is Unpack.NO]
    left_out: list[str] = []
    for file in files:
        if file.unpack is not Unpack.NO:
            place, _, name = file.path.rpartition("/")

            def select(member: str, place: str = place) -> bool:
                if patterns is None or member == signatures.NAME or patterns.select(paths.below(place, member)):
                    return True
                left_out.append(paths.below(place, member))
                return False

            folder.rename(file.path, volume.state, name)
            with open(volume.state.open(name, os.O_RDONLY), "rb") as archive, folder.folder(place or ".") as into:
                below = "models/" if file.unpack is Unpack.IMAGE else ""
                most = MAX_FILES - len(names) - len(left_out)
                found = unpack(Archive(name, archive), into, below=below, max_files=most, select=select)
            volume.state.remove(name)
            names += [paths.below(place, name) for name in found]
    if not set(names) - {signatures.NAME} and left_out:
        raise no_files_match(f"no file of the archive matches {str(patterns)[:200]}")
    if not names:
        raise LoadError(Code.NOT_FOUND, "the image has no file below /models")
    # Of all archives together: the layers of an image are one folder.
    paths.check_clashes(names)
    return len(names), left_out


def check_capacity(volume: Volume, size: int) -> None:
    """Raise LoadError(NoSpace) for a model larger than the volume.

    Before the scheduler cuts files into parts: for a false size, the list of parts alone would exceed the memory.
    """
    stats = volume.stats()
    total = stats.f_blocks * stats.f_frsize
    if size > total:
        raise LoadError(Code.NO_SPACE, f"the model has {size >> 20} MiB and the whole volume {total >> 20} MiB")


def check_space(volume: Volume, needed: int) -> None:
    """Raise LoadError(NoSpace) for more missing bytes than the volume has free."""
    stats = volume.stats()
    free = stats.f_bavail * stats.f_frsize
    if needed * _SPACE_FACTOR > free:
        raise LoadError(
            Code.NO_SPACE,
            f"the model needs {needed >> 20} MiB more and the volume has {free >> 20} MiB free",
        )
