"""Plans a load: which files the sources have, and where in the model each of them goes."""

import functools
import threading
from collections.abc import Sequence, Set
from typing import NamedTuple

from model_loader import sources
from model_loader.download.retries import RetryPolicy
from model_loader.outcomes import Code, LoadError
from model_loader.plan import paths
from model_loader.plan.model import DEFAULT_REVISION, Context, File, Snapshot, Unpack, check_count
from model_loader.plan.options import LoaderOptions
from model_loader.report import Report
from model_loader.verify import signatures
from model_uri import ModelURI, Store, find_store

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
"""Suffixes of single files that the loader unpacks. An archive among the files of a folder stays packed."""


class Plan(NamedTuple):
    """The files of all sources.

    `single`: the first file is the model, so the model's digest is that file's. `snapshots`: the repositories of a hub,
    for their cache.
    """

    files: list[File]
    single: bool
    snapshots: tuple[Snapshot, ...]

    @property
    def packed(self) -> bool:
        """Whether any file is an archive: the model then consists of the unpacked files."""
        return any(file.unpack is not Unpack.NO for file in self.files)


def make_plan(options: LoaderOptions, context: Context, report: Report, without_ranges: Set[str]) -> Plan:
    """Return the files to download. `without_ranges`: the servers that ignore Range requests. Raises LoadError."""
    retry_policy = RetryPolicy(options.patience, report, threading.Event().wait)
    files: list[File] = []
    snapshots: list[Snapshot] = []
    single = False
    unsigned: dict[str, tuple[ModelURI, Context]] = {}
    for load in options.loads:
        uri = sources.parse(load.uri)
        bound = context._replace(store=_fixed_store(uri, options.stores))
        listing = retry_policy.run(functools.partial(sources.list_files, uri, bound))
        single = listing.single and len(options.loads) == 1
        for file in listing.files:
            packed = Unpack.WHOLE if listing.single and file.path.lower().endswith(_ARCHIVES) else file.unpack
            files.append(file._replace(path=paths.below(load.folder, file.path), unpack=packed))
        check_count(len(files))
        if options.hub_cache and listing.commit:
            name, revision = f"{uri.host}/{uri.segments[0]}", paths.safe_path(uri.revision or DEFAULT_REVISION)
            listed = tuple(file.path for file in listing.files)
            snapshots.append(Snapshot(name, revision, listing.commit, load.folder, listed))
        if options.signature_key and listing.single and files[-1].unpack is Unpack.NO:
            unsigned[load.folder] = uri, bound
    for folder, (uri, bound) in unsigned.items():
        path = paths.below(folder, signatures.NAME)
        if all(file.path != path for file in files):
            files.append(retry_policy.run(functools.partial(_signature_file, uri, path, bound)))
    if without_ranges:
        files = [file._replace(ranged=file.ranged and file.server not in without_ranges) for file in files]
    paths.check_clashes(file.path for file in files)
    return Plan(files, single, tuple(snapshots))


def _fixed_store(uri: ModelURI, stores: Sequence[Store]) -> Store | None:
    """Return the store of `uri`, if the arguments fix stores. Raises LoadError(Refused) when none of them holds it."""
    if not stores:
        return None
    found = find_store(uri, stores)
    if found is None or not found.is_fixed or uri.query:
        raise LoadError(Code.REFUSED, f"the loader is not allowed to read from {uri}")
    return found


def _signature_file(uri: ModelURI, path: str, context: Context) -> File:
    """Return the signature of a model that is one file, which is in the same folder of the store. Raises LoadError."""
    beside = uri.beside(signatures.NAME)
    missing = LoadError(Code.NOT_SIGNED, f"there is no signature {beside}", file=path)
    try:
        listing = sources.list_files(beside, context)
    except LoadError as failure:
        raise missing if failure.code is Code.NOT_FOUND else failure from None
    if not listing.single:
        raise missing
    return listing.files[0]._replace(path=path)
