"""Plans a load: which files the sources have, and where in the model each of them goes."""

import functools
import threading
from collections.abc import Sequence, Set
from typing import NamedTuple

from model_loader import sources
from model_loader.download.retries import RetryPolicy
from model_loader.outcomes import OUTCOMES, Code, LoadError
from model_loader.plan import paths
from model_loader.plan.model import Context, File, Listing, Snapshot, Unpack, check_count
from model_loader.plan.options import LoaderOptions
from model_loader.report import Report
from model_loader.verify import signatures
from model_uri import ModelURI, hub
from model_uri.file_patterns import FilePatterns

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
"""Suffixes of single files that the loader unpacks. An archive among the files of a folder stays packed."""
_SHOWN = 6
_LONGEST_SHOWN = 80
"""Names in a message, and characters of each."""
_USUAL = "Q4_K_M"
"""The quantization that llama.cpp and Ollama take by default."""


class Plan(NamedTuple):
    """The files of all sources.

    `single`: the first file is the model, so the model's digest is that file's. `snapshots`: the repositories of a hub,
    for their cache. `left_out`: files of the sources that are not loaded. `resolved`: what names that can change stood
    for.
    """

    files: list[File]
    single: bool
    snapshots: tuple[Snapshot, ...]
    left_out: list[File]
    resolved: str = ""

    @property
    def packed(self) -> bool:
        """Whether any file is an archive: the model then consists of the unpacked files."""
        return any(file.unpack is not Unpack.NO for file in self.files)


def make_plan(options: LoaderOptions, context: Context, report: Report, without_ranges: Set[str]) -> Plan:
    """Return the files to download. `without_ranges`: the servers that ignore Range requests. Raises LoadError."""
    retry_policy = RetryPolicy(options.patience, report, threading.Event().wait)
    files: list[File] = []
    snapshots: list[Snapshot] = []
    left_out: list[File] = []
    resolved: list[str] = []
    single = False
    unsigned: dict[str, tuple[ModelURI, Context]] = {}
    for load in options.loads:
        uri = sources.parse(load.uri)
        bound = context.bound_to(uri)
        try:
            listing = retry_policy.run(functools.partial(sources.list_files, uri, bound))
        except LoadError as failure:
            if failure.code is not Code.NOT_FOUND or not load.folder:
                raise
            read = (
                f"{load.folder} was read as the model's folder; if it is a part of the path, write %3D for the = there."
            )
            raise LoadError(failure.code, failure.message, hint=f"{failure.hint} {read}") from None
        if listing.resolved:
            resolved.append(listing.resolved)
        single = listing.single and len(options.loads) == 1
        if listing.choices and options.files is None:
            raise _several(uri, listing)
        chosen, others = select(str(uri), listing, load.folder, options.files)
        left_out += (file._replace(path=paths.below(load.folder, file.path)) for file in others)
        files += (file._replace(path=paths.below(load.folder, file.path)) for file in chosen)
        check_count(len(files) + len(left_out))
        if options.hub_cache and listing.commit:
            revision = paths.safe_path(uri.revision or hub.DEFAULT_REVISION)
            listed = tuple(file.path for file in chosen)
            snapshots.append(Snapshot(uri.repository, revision, listing.commit, load.folder, listing.inside, listed))
        if options.signature_key and listing.single and files[-1].unpack is Unpack.NO:
            unsigned[load.folder] = uri, bound
    for folder, (uri, bound) in unsigned.items():
        path = paths.below(folder, signatures.NAME)
        if all(file.path != path for file in files):
            files.append(retry_policy.run(functools.partial(_signature_file, uri, path, bound)))
    if without_ranges:
        files = [file._replace(ranged=file.ranged and file.server not in without_ranges) for file in files]
    paths.check_clashes(file.path for file in files)
    return Plan(files, single, tuple(snapshots), left_out, "; ".join(resolved))


def select(source: str, listing: Listing, folder: str, patterns: FilePatterns | None) -> tuple[list[File], list[File]]:
    """Return the files to load, and the others. The files of an archive are selected when it is unpacked.

    `source`: for the message. `folder`: of the model, for these files. A signature is always loaded. Raises
    LoadError(NoFilesMatch).
    """
    files = list(listing.files)
    if listing.single and files[0].path.lower().endswith(_ARCHIVES):
        files = [files[0]._replace(unpack=Unpack.WHOLE)]
    if patterns is None:
        wanted = {file.path for file in files} - listing.copies
    else:
        wanted = {
            file.path
            for file in files
            if file.unpack is not Unpack.NO or patterns.select(paths.below(folder, file.path))
        }
        if not wanted:
            has = _listed([file.path for file in files])
            raise no_files_match(f"no file of {source} matches {str(patterns)[:200]}", f"It has {has}.")
        wanted.add(signatures.NAME)
    chosen = [file for file in files if file.path in wanted]
    return chosen, [file for file in files if file.path not in wanted]


def no_files_match(message: str, found: str = "") -> LoadError:
    """Return the LoadError for patterns that select nothing. `found`: a sentence with what there is."""
    return LoadError(Code.NO_FILES_MATCH, message, hint=f"{found} {OUTCOMES[Code.NO_FILES_MATCH].hint}".strip())


def _several(uri: ModelURI, listing: Listing) -> LoadError:
    size = {file.path: file.size for file in listing.files}
    found = _listed([f"{name} ({size[name] / 1e9:.1f} GB)" for name in listing.choices])
    best = next((name for name in listing.choices if _USUAL in name.upper()), listing.choices[0])
    one = uri.below(best)
    return LoadError(
        Code.INVALID_SOURCE,
        f"{uri} has {len(listing.choices)} models: {found}",
        hint=f"Name one of them, for example {one}, or set kubectl-serve.dev/files."
        if uri.segments
        else f"Select one with kubectl-serve.dev/files, for example {best}.",
    )


def _listed(names: Sequence[str]) -> str:
    """Return the first names, for a message."""
    shown = [name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…" for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


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
