"""Runs one verb: imports its module, parses its flags, and turns errors into an exit code."""

import contextlib
import importlib
import os
from types import ModuleType
from typing import TYPE_CHECKING

from kubectl_serve import PROGRAM, errors
from kubectl_serve.cli.options import Parser
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cli.verbs import BY_NAME, ON_DEPLOYMENTS, OTHER_NAMES, VERBS, Verb, help_text, split
from kubectl_serve.errors import ReportedError, ServeError, UsageError
from serve_kube.errors import ApiError

if TYPE_CHECKING:
    from argparse import Namespace

    from kubectl_serve.cluster import Cluster, Connect

INTERRUPTED = 130
"""The exit code after Ctrl-C, as in shells."""


def main(argv: list[str], streams: Streams | None = None, connect: "Connect | None" = None) -> int:
    """Run the command line and return the exit code. Tests pass ``streams`` and ``connect``."""
    streams = streams or Streams.of_process()
    try:
        code = _run(argv, streams, connect)
        streams.stdout.flush()
    except ReportedError:
        return _failed(argv)
    except (ServeError, ApiError) as error:
        shown = errors.for_user(error)
        streams.error(shown.sentence, shown.hint)
        return _failed(argv)
    except KeyboardInterrupt:
        streams.note()
        return INTERRUPTED
    except OSError as error:
        # Leave nothing for the interpreter to flush at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), streams.stdout.fileno())
        # The reader has closed the pipe, as `head` does: not an error.
        if not isinstance(error, BrokenPipeError):
            with contextlib.suppress(OSError):
                streams.error(f"the output cannot be written: {error.strerror or error}.")
        return _failed(argv)
    return code


def _failed(argv: list[str]) -> int:
    verb = BY_NAME.get(split(argv)[0] or "")
    return verb.failed if verb else 1


def _run(argv: list[str], streams: Streams, connect: "Connect | None") -> int:
    name, rest = split(argv)
    if name == "help":
        name, rest = split(rest)
        rest = ["--help"]
    if name is None and rest and rest[0] not in ("-h", "--help"):
        raise UsageError("the verb is missing.", f"`{PROGRAM} --help` lists them.")
    if name is None:
        streams.stdout.write(help_text())
        return 0
    verb = BY_NAME.get(name)
    if verb is None:
        raise _unknown(name)
    module = importlib.import_module(f"kubectl_serve.commands.{verb.name}")
    parser = Parser(verb, examples=getattr(module, "EXAMPLES", ""))
    module.configure(parser)
    if {"-h", "--help"} & set(rest[: rest.index("--") if "--" in rest else None]):
        if hasattr(module, "help_of"):
            module.help_of(parser, rest)
        parser.print_help(streams.stdout)
        return 0
    args = parser.read(rest)
    return _execute(verb, module, args, streams, connect)


def _execute(verb: Verb, module: ModuleType, args: "Namespace", streams: Streams, connect: "Connect | None") -> int:
    if not verb.online:
        return int(module.run(args, streams))
    if connect is None:
        connect = _connect
    if hasattr(module, "prepare"):
        # Slow work outside the cluster: in the event loop, Ctrl-C would not stop it.
        module.prepare(args, streams, connect)
    import asyncio

    from kubectl_serve.io.readable import readable

    return int(asyncio.run(module.run(args, streams, readable(connect))))


def _connect(args: "Namespace", streams: Streams) -> "contextlib.AbstractAsyncContextManager[Cluster]":
    from kubectl_serve.connection import connect

    return connect(args, streams)


def _unknown(name: str) -> UsageError:
    import difflib

    near = difflib.get_close_matches(name.lower(), BY_NAME, n=1, cutoff=0.7)
    if name in ON_DEPLOYMENTS:
        return UsageError(
            f'"{name}" is not a verb.',
            "Change a model by its annotations: `kubectl annotate deployment NAME --overwrite "
            "kubectl-serve.dev/KEY=VALUE`, or edit its file and `kubectl apply -f FILE`.",
        )
    meant = OTHER_NAMES.get(name.lower()) or (near[0] if near else "")
    if meant:
        return UsageError(f'"{name}" is not a verb.', f"Did you mean `{PROGRAM} {meant}`?")
    return UsageError(f'"{name}" is not a verb.', f"Verbs: {', '.join(verb.name for verb in VERBS)}.")
