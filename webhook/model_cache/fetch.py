"""The unprivileged process of one mount: lists the source with the pod's credentials, and downloads what is missing.

It reads a request from stdin, then an answer for each list of files; it writes JSON lines to stdout. The driver, which
may mount, parses nothing that a store sends.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from model_cache import keys, privileges, request
from model_loader import loader
from model_loader.download.range_requests import RangesIgnoredError
from model_loader.download.scheduler import Scheduler
from model_loader.http.authorizers import ANONYMOUS
from model_loader.http.network import Network
from model_loader.http.transport import Transport
from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, Secret
from model_loader.plan.options import LoaderOptions
from model_loader.planner import Plan, make_plan
from model_loader.report import Report, Skipped, outcome
from model_loader.storage import journal
from model_loader.storage.journal import Journal
from model_loader.storage.volume import Volume, storage_failure
from model_loader.verify import digest as digests
from model_loader.verify import unsafe_formats
from model_uri import WEB

OWNER = "cache"
"""The owner of the volume in which a download is made."""
LISTED, FETCHED, READY, FAILED = "listed", "fetched", "ready", "failed"
"""Events for the driver, beside those of the loader."""
USE, WAIT, DOWNLOAD = "use", "wait", "download"
"""The driver's answers to a list: the model is on the node, another process downloads it, or this one should."""
_NO_HEAD = (405, 501)
"""Statuses of servers that do not support HEAD."""
_MEMORY = 2 << 30
"""Bytes of memory, without the page cache: no list of files takes the node's memory."""


class _Fetch:
    def __init__(self, options: LoaderOptions, answers: TextIO, report: Report) -> None:
        self._options = options
        self._answers = answers
        self._report = report

    def run(self, work: Path) -> None:
        """List, and do what the driver answers. Raises LoadError, OSError."""
        secret = Secret(self._options.credentials, self._options.environment)
        authorities = loader.authorities(secret, self._options.stores)
        without_ranges: set[str] = set()
        while True:
            transport = Transport(
                self._options.network,
                certificates=authorities,
                environment=self._options.environment,
                fixed=bool(self._options.stores),
            )
            try:
                with Volume(work, OWNER):
                    context = Context(
                        transport, secret, stores=self._options.stores, scratch=work / Volume.STATE / Volume.SCRATCH
                    )
                    plan = make_plan(self._options, context, self._report, without_ranges)
                    _prove(plan, transport)
                    self._proceed(plan, transport, keys.of_trust(self._options, transport.origins, authorities))
                    return
            except RangesIgnoredError as failure:
                without_ranges.add(failure.server)
            finally:
                transport.close()

    def _proceed(self, plan: Plan, transport: Transport, trust: str) -> None:
        names = [keys.of_file(trust, file) for file in plan.files]
        tree = keys.of_tree(self._options, trust, plan.files, names, plan.snapshots)
        listed = [[file.path, name, file.size] for file, name in zip(plan.files, names, strict=True)]
        hub = [list(each) for each in plan.snapshots] if self._options.hub_cache else []
        self._report.event(LISTED, {"tree": tree, "files": listed, "packed": plan.packed, "snapshots": hub})
        answer = json.loads(self._answers.readline())
        if answer["do"] == DOWNLOAD:
            with Volume(Path(answer["volume"]), OWNER) as volume:
                self._download(plan, transport, volume, answer["known"])
        elif answer["do"] == USE:
            self._check(plan, answer["hashes"], answer["unpacked"])
            self._report.event(READY, {"resolved": plan.resolved})

    def _download(self, plan: Plan, transport: Transport, volume: Volume, known: Mapping[str, str]) -> None:
        """Download all files except the known ones, and what an earlier process left. `known`: hex sha256 by path."""
        missing = [file for file in plan.files if file.path not in known]
        size = sum(max(file.size, 0) for file in plan.files)
        skipped = loader.skipped_files(plan) if self._options.files is None else Skipped()
        self._report.plan(len(plan.files), size, skipped)
        if not volume.state.has_folder(Volume.FILES):
            volume.state.remove(Volume.JOURNAL)
        with Journal(volume.state, Volume.JOURNAL, f"{journal.identity(missing)} {journal.boot()}") as log:
            if not log.parts:
                volume.state.remove(Volume.FILES)
            with volume.state.folder(Volume.FILES, make=True) as folder:
                loader.check_capacity(volume, sum(max(file.size, 0) for file in missing))
                scheduler = Scheduler(
                    missing,
                    folder,
                    transport=transport,
                    journal=log,
                    report=self._report,
                    patience=self._options.patience,
                    hashing=True,
                )
                loader.check_space(volume, scheduler.missing)
                if missing:
                    scheduler.run()
                hashes = {**known, **scheduler.hashes()}
                unpacked: dict[str, str] = {}
                if plan.packed:
                    # From here on the files differ from the journal.
                    volume.state.remove(Volume.JOURNAL)
                    loader.unpack_all(volume, folder, plan.files, self._options.files)
                    unpacked = digests.hashes(volume.files)
                digest = self._check(plan, hashes, unpacked)
        programs = unsafe_formats.names(volume.files)
        fields: dict[str, object] = {
            "hashes": hashes,
            "unpacked": unpacked,
            "digest": digest,
            "resolved": plan.resolved,
        }
        fields |= {"received": scheduler.received, "checked": scheduler.checked, **skipped.fields}
        if programs:
            fields |= {"runs_code": len(programs), "runs_code_first": programs[0]}
        self._report.event(FETCHED, fields)

    def _check(self, plan: Plan, hashes: Mapping[str, str], unpacked: Mapping[str, str]) -> str:
        """Return the model's digest. Raises LoadError(DigestMismatch)."""
        digest = loader.digest_of(hashes, plan) or digests.of_manifest(unpacked)
        if self._options.digest and self._options.digest == loader.whole_digest(hashes, plan):
            return self._options.digest
        if self._options.digest and digest != self._options.digest:
            raise loader.mismatch(self._options, digest, len(plan.left_out))
        return digest


def _prove(plan: Plan, transport: Transport) -> None:
    """Request the head of a file with the pod's credentials: some stores list models that they do not let read.

    Raises LoadError.
    """
    readable = [file for file in plan.files if file.url.partition(":")[0] in WEB and file.authorizer is not ANONYMOUS]
    anonymous = [file for file in plan.files if file.url.partition(":")[0] in WEB]
    for file in sorted(readable or anonymous, key=lambda each: -each.size)[:1]:
        try:
            transport.probe(file.url, file.authorizer)
        except LoadError as failure:
            if failure.status not in _NO_HEAD:
                raise


def _parse(said: Mapping[str, Any]) -> LoaderOptions:
    """Return the options of the request, with what the driver decides. Raises LoadError."""
    options = request.checked(tuple(said["arguments"]))
    return options._replace(
        volume=Path(said["work"]),
        credentials=Path(said["secret"]) if said["secret"] else None,
        network=Network.of(said["networks"]),
        environment=dict(os.environ),
        hashing=True,
    )


def _interrupt(number: int, frame: object) -> None:
    raise LoadError(Code.INTERRUPTED, f"stopped by {signal.Signals(number).name}")


def run(answers: TextIO, out: TextIO) -> int:
    """Handle one request, and return the exit code."""
    report = Report(out)
    try:
        said = json.loads(answers.readline())
        resource.setrlimit(resource.RLIMIT_FSIZE, (said["limit"], said["limit"]))
        _Fetch(_parse(said), answers, report).run(Path(said["work"]))
        return 0
    except LoadError as failure:
        found = failure
    except OSError as error:
        found = storage_failure(error)
    except Exception as error:  # noqa: BLE001  # the driver must report defects too
        found = LoadError(Code.INTERNAL, f"unexpected {type(error).__name__}")
    report.event(FAILED, outcome(found.code, found.message, hint=found.hint, file=found.file))
    return 1


def main() -> None:
    """Run as a process."""
    privileges.end_with_parent()
    privileges.give_up_all()
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.exit(run(sys.stdin, sys.stdout))


if __name__ == "__main__":
    main()
