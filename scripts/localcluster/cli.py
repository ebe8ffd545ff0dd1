"""The command line: arguments in, exit code out."""

import argparse
import asyncio
import re
import shlex
import signal
import sys
from pathlib import Path

from localcluster import images, lifecycle, places, prerequisites
from localcluster.errors import ClusterError
from localcluster.places import State
from localcluster.progress import Progress

NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code: 0, 1 after an error, 130 after an interruption."""
    options = _parser().parse_args(arguments)
    prerequisites.prepare_environment()
    try:
        return asyncio.run(_interruptible(options))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\ninterrupted; `up` goes on from here, `down` removes what there is", file=sys.stderr)
        return 130


async def _interruptible(options: argparse.Namespace) -> int:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await _command(options)
    except ExceptionGroup as group:
        # Of several parts that failed together, the first is told; the others were ended because of it.
        found = group.subgroup(ClusterError)
        while isinstance(found, ExceptionGroup):
            found = found.exceptions[0]
        raise found or group from None


async def _command(options: argparse.Namespace) -> int:
    state = State(options.name)
    async with Progress(sys.stderr) as progress:
        match options.command:
            case "up":
                await lifecycle.up(state, progress)
            case "down":
                await lifecycle.down(state, progress)
            case "status":
                return _show(await lifecycle.status(state))
            case "env":
                cluster = lifecycle.existing(state)
                print(f"export KUBECONFIG={shlex.quote(str(cluster.state.kubeconfig))}")
                print(f'export PATH={shlex.quote(str(cluster.state.bin))}:"$PATH"')
            case "load-image":
                for archive in options.images:
                    async with progress.step(f"loaded {archive}"):
                        await images.load(lifecycle.running(state), Path(archive))
    return 0


def _show(parts: dict[str, str]) -> int:
    width = max(map(len, parts))
    for part, trouble in parts.items():
        print(f"{part:<{width}}  {trouble or 'ok'}")
    return 1 if any(parts.values()) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/cluster", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", type=_name, default=places.APPLICATION, help="the cluster's name (%(default)s)")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for verb, text in {
        "up": "make the cluster run; repairs one that runs in part",
        "down": "end the cluster and remove everything but the cache",
        "status": "say of every part whether it is well; exit code 1 if one is not",
        "env": 'print what a shell needs: eval "$(scripts/cluster env)"',
        "load-image": "give images to the cluster",
    }.items():
        added = verbs.add_parser(verb, help=text, description=text, parents=[common])
        if verb == "load-image":
            added.add_argument("images", nargs="+", metavar="FILE|NAME:TAG", help="an archive, or a built image")
    return parser


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a name: 1 to 40 lower-case letters, digits and dashes, beginning with a letter"
        )
    return text
