"""Runs programs: captures their output, explains failures, and ends them with the caller."""

import asyncio
import contextlib
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from localcluster.errors import ClusterError


def tail(text: str, lines: int = 20) -> str:
    """Return the last lines, indented, for an error message."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-lines:])


async def run(
    *arguments: str | Path,
    text: str | None = None,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run a program and return its standard output.

    Standard input is `text`, `file`, or nothing. `environment` is added to the caller's environment. Cancelling the
    caller ends the program.

    Raises:
        ClusterError: the program did not start, or its exit code was not 0; the message has the end of its output.
    """
    command = [str(argument) for argument in arguments]
    try:
        with contextlib.ExitStack() as stack:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=_stdin(text, file, stack),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **(environment or {})},
                cwd=folder,
            )
    except OSError as error:
        raise ClusterError(f"{command[0]} could not be started: {error}") from error
    try:
        output, errors = await process.communicate(None if text is None else text.encode())
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode:
        raise ClusterError(
            f"`{shlex.join(command)}` ended with code {process.returncode}:\n"
            f"{tail((errors or output).decode(errors='replace'))}"
        )
    return output.decode(errors="replace")


def _stdin(text: str | None, file: Path | None, stack: contextlib.ExitStack) -> int | BinaryIO:
    if file is not None:
        return stack.enter_context(file.open("rb"))
    return asyncio.subprocess.DEVNULL if text is None else asyncio.subprocess.PIPE


async def succeeds(*arguments: str | Path) -> bool:
    """Return whether a program ends with exit code 0."""
    try:
        await run(*arguments)
    except ClusterError:
        return False
    return True
