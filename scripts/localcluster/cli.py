"""The command line: arguments in, exit code out."""

import argparse
import asyncio
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import NoReturn

from localcluster import build, containerfiles, images, lifecycle, network, pins, prerequisites
from localcluster.cluster import Cluster
from localcluster.errors import ClusterError
from localcluster.istio import Injection
from localcluster.locks import held
from localcluster.paths import State
from localcluster.product import Product
from localcluster.progress import Progress

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")

DESCRIPTION = """A real local Kubernetes cluster with Knative Serving and an ingress, on a machine without Docker.
Built from source on first use. State is kept in ~/.local/state/{name}, and what can be made again in
~/.cache/{name}."""


def main(arguments: list[str], product: Product) -> int:
    """Run one command for `product` and return its exit code: 0, 1 after an error, 130 after an interruption."""
    prerequisites.prepare_environment()
    try:
        options = _parser(product.name).parse_args(arguments)
        return asyncio.run(_interruptible(options, product))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\ninterrupted; `up` continues from here, `down` removes what exists", file=sys.stderr)
        return 130


async def _interruptible(options: argparse.Namespace, product: Product) -> int:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await _command(options, product)
    except ExceptionGroup as group:
        # Report the first of several errors that occurred together: it made the other parts end.
        first: Exception = group
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _command(options: argparse.Namespace, product: Product) -> int:
    async with Progress(sys.stderr) as progress:
        if options.command == "build-image":
            print(await _build(options, product, progress))
            return 0
        if options.command == "program":
            print(await _program(options.program, product, progress))
            return 0
        state = State(options.name, product)
        match options.command:
            case "up":
                injection = Injection(options.istio) if options.istio else None
                await lifecycle.up(state, options.nodes, injection, progress)
            case "down":
                await lifecycle.down(state, progress)
            case "stop-node":
                await lifecycle.stop_node(state, options.node, progress)
            case "start-node":
                await lifecycle.start_node(state, options.node, progress)
            case "status":
                return _show(await lifecycle.status(state))
            case "env":
                _print_environment(lifecycle.existing(state))
            case "load-image":
                await _load(state, options.images, options.tags, progress)
    return 0


def _print_environment(cluster: Cluster) -> None:
    print(f"export KUBECONFIG={shlex.quote(str(cluster.state.kubeconfig))}")
    print(f'export PATH={shlex.quote(str(cluster.state.bin))}:"$PATH"')
    if any(os.environ.get(name) for name in PROXIES):
        print(f'export NO_PROXY="${{NO_PROXY:+$NO_PROXY,}}{cluster.network.block}"; export no_proxy="$NO_PROXY"')


async def _load(state: State, wanted: list[str], tags: list[str], progress: Progress) -> None:
    if tags and len(wanted) != 1:
        raise ClusterError("--as names one image", "Load the images one by one.")
    sandboxes = [lifecycle.running(machine) for machine in lifecycle.existing(state).machines]
    for image, archive in [(image, containerfiles.archive_of(state.product.cache, image)) for image in wanted]:
        async with progress.step(f"loaded {image}"), asyncio.TaskGroup() as group:
            for here in sandboxes:
                built = archive != Path(image)
                group.create_task(images.load_built(here, image, archive) if built else images.load(here, archive))
    for tag in tags:
        for here in sandboxes:
            await images.tag(here, wanted[0], tag)


async def _build(options: argparse.Namespace, product: Product, progress: Progress) -> Path:
    prerequisites.need_root()
    await prerequisites.need(pins.DEBIAN_PACKAGES_FOR_IMAGES, progress)
    recipe = containerfiles.Recipe(
        options.image,
        options.context.resolve(),
        (options.file or options.context / "Containerfile").resolve(),
        dict(options.build_arg),
        tuple(options.package),
    )
    async with held(product.cache / "images.lock", "images", progress):
        return await containerfiles.build_image(recipe, product, progress)


async def _program(name: str, product: Product, progress: Progress) -> Path:
    [module] = (each for each in pins.TOOLS if each.name == name)
    program = product.cache / "bin" / build.folder_name(module) / name
    if not program.exists():
        async with held(product.cache / "lock", "the cache", progress):
            await build.binaries(product.cache, progress, (module,))
    return program


def _show(parts: dict[str, str]) -> int:
    width = max(map(len, parts))
    for part, trouble in parts.items():
        print(f"{part:<{width}}  {trouble or 'ok'}")
    return 1 if any(parts.values()) else 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ClusterError(message, f"{self.prog} --help")


def _parser(name: str) -> argparse.ArgumentParser:
    parser = _Parser(prog="scripts/cluster", description=DESCRIPTION.format(name=name))
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for verb, text in {
        "up": "start the cluster; repair one that runs only partly",
        "stop-node": "stop a node as a power failure does; Kubernetes gets no notice",
        "start-node": "start a node again after stop-node",
        "down": "remove the cluster and everything except the cache",
        "status": "report the status of every part; exit code 1 if a part has a problem",
        "env": 'print the environment for a shell: eval "$(scripts/cluster env)"',
        "load-image": "load images into every node of the cluster",
        "build-image": "build a Containerfile and print the path of the image's archive; no cluster is needed",
        "program": "build a program of the tests and print its path; no cluster is needed",
    }.items():
        added = verbs.add_parser(verb, help=text, description=text)
        if verb not in {"build-image", "program"}:
            added.add_argument("--name", type=_name, default=name, help="the cluster's name (default: %(default)s)")
        if verb == "up":
            added.add_argument(
                "--nodes",
                type=int,
                choices=range(1, network.MAX_NODES + 1),
                metavar="N",
                help=f"how many nodes, 1 to {network.MAX_NODES} (default: as many as it has, 1 for a new one)",
            )
            added.add_argument(
                "--istio",
                nargs="?",
                const=Injection.NATIVE,
                choices=[*Injection],
                help="install Istio; how it injects sidecars: by native sidecars (default), or by containers after "
                "istio-init or its CNI plugin",
            )
        if verb in {"stop-node", "start-node"}:
            added.add_argument("node", metavar="NODE", help="its name, as `kubectl get nodes` prints it")
        if verb == "load-image":
            added.add_argument("images", nargs="+", metavar="FILE|NAME:TAG", help="an archive, or a built image")
            added.add_argument(
                "--as", dest="tags", action="append", default=[], metavar="NAME:TAG", help="another name in the cluster"
            )
        if verb == "program":
            added.add_argument("program", choices=[module.name for module in pins.TOOLS])
        if verb == "build-image":
            added.add_argument("image", metavar="NAME:TAG")
            added.add_argument("context", metavar="CONTEXT_DIR", type=Path)
            added.add_argument("-f", "--file", type=Path, help="the Containerfile (CONTEXT_DIR/Containerfile)")
            added.add_argument("--build-arg", type=_pair, action="append", default=[], metavar="KEY=VALUE")
            added.add_argument(
                "--package", action="append", default=[], metavar="NAME", help="a Debian package for the base image"
            )
    return parser


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a name: 1 to 40 lower-case letters, digits and dashes, beginning with a letter"
        )
    return text
