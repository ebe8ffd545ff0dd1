"""From the command line to an exit code. The only place that exits the process.

Help and version are answered before any slow import.
"""

import sys

from kubectl_serve import __version__

_HELP: tuple[list[str], ...] = ([], ["--help"], ["-h"], ["help"])
_VERSION = (["--version"], ["version", "--client"])


def run() -> None:
    """Entry point of ``kubectl-serve``, which kubectl runs as ``kubectl serve``."""
    sys.exit(main(sys.argv[1:]))


def run_completion() -> None:
    """Entry point of ``kubectl_complete-serve``, which kubectl runs for completions."""
    from kubectl_serve import completion

    sys.exit(completion.main(sys.argv[1:]))


def main(argv: list[str]) -> int:
    if argv in _HELP:
        from kubectl_serve.cli.verbs import help_text

        return _say(help_text())
    if argv in _VERSION:
        return _say(f"kubectl-serve {__version__}\n")
    from kubectl_serve import dispatch

    return dispatch.main(argv)


def _say(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Leave nothing for the interpreter to flush at exit. A closed pipe is not reported.
        sys.stdout = None
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"error: the output cannot be written: {error.strerror}.\n")
        return 1
    return 0


if __name__ == "__main__":
    run()
