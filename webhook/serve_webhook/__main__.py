"""The server's command: arguments in, exit code out.

0: stopped by a signal; 1: an unexpected failure (the container restarts); 2: wrong arguments, settings or cluster
access.
"""

import argparse
import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from serve_kube.errors import ApiError
from serve_webhook import logs, settings
from serve_webhook.app import Replica, ReplicaOptions

logger = logging.getLogger("serve_webhook")


def run() -> NoReturn:
    """The entry point ``kubectl-serve-webhook``."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    args = _parser().parse_args(arguments)
    logs.configure(sys.stderr, args.log_level)
    try:
        configuration = settings.load(args.settings, args.runtimes, args.servers)
    except settings.SettingsError as error:
        for fault in str(error).splitlines():
            logger.error("%s", fault)
        return 2
    options = ReplicaOptions(
        identity=args.identity,
        settings=args.settings,
        runtimes=args.runtimes,
        servers=args.servers,
        host=args.host,
        port=args.port,
        health_port=args.health_port,
        drain_seconds=args.drain_seconds,
        certificate=args.certificate,
    )
    try:
        asyncio.run(_serve(options, configuration, args.kubeconfig))
    except ApiError as error:
        logger.error("%s", error)
        return 2
    except Exception:
        logger.exception("The server failed.")
        return 1
    logger.info("Stopped.")
    return 0


async def _serve(options: ReplicaOptions, configuration: settings.Configuration, kubeconfig: str | None) -> None:
    from serve_webhook.connection import connect  # noqa: PLC0415

    # Imported modules stay. Excluding them from full collections saves pauses of tens of milliseconds.
    gc.collect()
    gc.freeze()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with await connect(kubeconfig) as cluster:
        await Replica(cluster, options, configuration).run(stop)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kubectl-serve-webhook", description="Answers admission reviews and reconciles served Deployments."
    )
    folder = Path("/etc/kubectl-serve")
    parser.add_argument("--settings", type=Path, default=folder / "settings" / "settings.yaml", metavar="FILE")
    parser.add_argument("--runtimes", type=Path, default=folder / "runtimes", metavar="FOLDER")
    parser.add_argument("--servers", type=Path, default=folder / "servers", metavar="FOLDER")
    parser.add_argument(
        "--certificate",
        type=Path,
        metavar="FOLDER",
        help="folder with tls.crt and tls.key; default: the server makes and renews its certificate",
    )
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104 - a pod's is not known
    parser.add_argument("--port", type=int, default=8443, help="admission, over TLS")
    parser.add_argument("--health-port", type=int, default=8080, help="/healthz, /readyz and /metrics")
    parser.add_argument("--identity", default=socket.gethostname(), help="name in the Lease and in Events")
    parser.add_argument("--drain-seconds", type=float, default=5.0, help="time between SIGTERM and the last response")
    parser.add_argument(
        "--kubeconfig", metavar="FILE", help="kubeconfig of the cluster; default: the cluster of the pod"
    )
    parser.add_argument("--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    return parser


if __name__ == "__main__":
    run()
