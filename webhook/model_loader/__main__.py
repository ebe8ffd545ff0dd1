"""The command line: arguments in; JSON lines on stdout, a termination message and an exit code for each cause out."""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from model_loader.loader import load
from model_loader.outcomes import OUTCOMES, Code, LoadError
from model_loader.plan import options as command_line
from model_loader.report import Report, outcome, termination_message

DEADLINE_SECONDS = 24 * 3600
"""Limit for the whole load."""


def main(arguments: Sequence[str], environment: Mapping[str, str], out: TextIO, err: TextIO) -> int:
    """Run one load and return the exit code."""
    started = time.monotonic()
    report = Report(out)
    try:
        options = command_line.parse(arguments, environment)
        loaded = load(options, report)
        fields = outcome(
            Code.LOADED,
            f"the model is loaded: {loaded.files} files",
            size=loaded.size,
            files=loaded.files,
            seconds=time.monotonic() - started,
            digest=loaded.digest,
        )
        fields |= {"checked": loaded.checked}
        if loaded.resolved:
            fields |= {"resolved": loaded.resolved}
        if loaded.signed:
            fields |= {"signed": True}
        if loaded.runs_code:
            fields |= {"runs_code": loaded.runs_code, "runs_code_first": loaded.runs_code_first}
        fields |= loaded.skipped.fields
    except LoadError as failure:
        fields = _failed(failure, started)
    except Exception as error:  # noqa: BLE001  # the termination message must report defects too
        import traceback  # noqa: PLC0415  # start-up time (15 ms) that a load without a defect saves

        traceback.print_exc(file=err)
        fields = _failed(LoadError(Code.INTERNAL, f"unexpected {type(error).__name__}"), started)
    code = Code(str(fields["code"]))
    report.event("loaded" if code is Code.LOADED else "failed", fields)
    _leave(arguments, termination_message(fields), err)
    return OUTCOMES[code].exit_code


def _failed(failure: LoadError, started: float) -> dict[str, object]:
    seconds = time.monotonic() - started
    return outcome(failure.code, failure.message, hint=failure.hint, file=failure.file, seconds=seconds)


def _leave(arguments: Sequence[str], message: str, err: TextIO) -> None:
    """Write the termination message, even when the arguments are wrong."""
    path = command_line.TERMINATION_LOG
    for index, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == "--termination-log" and index + 1 < len(arguments):
            path = Path(arguments[index + 1])
        elif argument.startswith("--termination-log="):
            path = Path(argument.partition("=")[2])
    try:
        # The kubelet created the file and reads this very file: do not replace it by a rename.
        path.write_text(message)
    except OSError as error:
        err.write(f"model-loader: {path} cannot be written: {error.strerror}\n")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise LoadError(Code.INTERRUPTED, f"stopped by {signal.Signals(number).name}")


def _late(number: int, frame: FrameType | None) -> None:
    raise LoadError(Code.STALLED, f"the load did not end within {DEADLINE_SECONDS // 3600} hours")


def run() -> None:
    """Run as a process. No other function exits."""
    # The model server runs as another user and must be able to read the files.
    os.umask(0o022)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    # A load always ends, even if a store is slow or every retry makes a little progress.
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(DEADLINE_SECONDS)
    sys.exit(main(sys.argv[1:], os.environ, sys.stdout, sys.stderr))


if __name__ == "__main__":
    run()
