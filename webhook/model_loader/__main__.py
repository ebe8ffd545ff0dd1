"""The command line: arguments in, lines on stdout, a termination message, an exit code by cause."""

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
"""Of the whole load."""


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
        if loaded.signed:
            fields |= {"signed": True}
        if loaded.runs_code:
            fields |= {"runs_code": loaded.runs_code, "runs_code_first": loaded.runs_code_first}
    except LoadError as failure:
        fields = _failed(failure, started)
    except Exception as error:  # noqa: BLE001  # a defect must still be told in the termination message
        import traceback  # noqa: PLC0415  # 15 ms of start-up that a load without a defect need not pay

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
    """Write the termination message, also when the arguments themselves were the fault."""
    path = command_line.TERMINATION_LOG
    for index, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == "--termination-log" and index + 1 < len(arguments):
            path = Path(arguments[index + 1])
        elif argument.startswith("--termination-log="):
            path = Path(argument.partition("=")[2])
    try:
        # The kubelet made the file and reads it as it is: no rename.
        path.write_text(message)
    except OSError as error:
        err.write(f"model-loader: {path} cannot be written: {error.strerror}\n")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise LoadError(Code.INTERRUPTED, f"stopped by {signal.Signals(number).name}")


def _late(number: int, frame: FrameType | None) -> None:
    raise LoadError(Code.STALLED, f"the model was not there after {DEADLINE_SECONDS // 3600} hours")


def run() -> None:
    """Run as a process: the only place that exits."""
    # The model server runs as another user and reads what is written here.
    os.umask(0o022)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    # However slowly a store sends, and however often it is asked again: a load ends.
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(DEADLINE_SECONDS)
    sys.exit(main(sys.argv[1:], os.environ, sys.stdout, sys.stderr))


if __name__ == "__main__":
    run()
