"""The network between the client and the store: loopback, or a long distance.

As root, everything runs in a separate network namespace: its counters count nothing else, and nothing is left behind.
The long distance is two TUN devices, the store's in a second namespace, and a process between them that delays every
packet. It replaces `tc netem`, which not every kernel has.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
CLIENT, STORE = "10.99.0.1", "10.99.0.2"
_PACKET = 65000
"""The maximum of a TUN device, so that the process in between is not the limit."""


@dataclass(frozen=True)
class Way:
    """`address`: the store's address. `enter`: prefix of a command that runs it where the store is."""

    address: str
    enter: tuple[str, ...] = ()


def leave_the_machines_network() -> None:
    """Move this process and its children into a separate network namespace. Root only."""
    _unshare()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def received() -> int:
    """Return the bytes that all devices of this namespace have received."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return sum(int(line.partition(":")[2].split()[0]) for line in lines)


@contextlib.contextmanager
def loopback() -> Iterator[Way]:
    """The store is on loopback."""
    yield Way("127.0.0.1")


@contextlib.contextmanager
def long_way(seconds: float) -> Iterator[Way]:
    """The store is `seconds` away (round trip) during the block. Root only."""
    # As a module, the package's folder would be first on sys.path: so run it as a file.
    relay = subprocess.Popen([sys.executable, __file__, str(seconds / 2)], stdout=subprocess.PIPE, text=True)
    try:
        if relay.stdout is None or relay.stdout.readline() != "ready\n":
            raise RuntimeError("the long way could not be made")
        yield Way(STORE, ("nsenter", f"--net=/proc/{relay.pid}/ns/net"))
    finally:
        relay.terminate()
        relay.wait()
        if relay.stdout is not None:
            relay.stdout.close()


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "a network namespace could not be made")


def _device(name: str, address: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH14x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    subprocess.run(["ip", "address", "add", f"{address}/30", "dev", name], check=True)
    settings = ("mtu", str(_PACKET), "txqueuelen", "10000", "up")
    subprocess.run(["ip", "link", "set", name, *settings], check=True)
    return fd


def _relay(seconds: float) -> None:
    """Forward packets between a device here and one in a new namespace, each after `seconds`."""
    near = _device("near", CLIENT)
    leave_the_machines_network()
    far = _device("far", STORE)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    waiting: dict[int, deque[tuple[float, bytes]]] = {near: deque(), far: deque()}
    while True:
        due = min((queue[0][0] for queue in waiting.values() if queue), default=None)
        pause = None if due is None else max(0.0, due - time.monotonic())
        for fd in select.select([near, far], [], [], pause)[0]:
            queue = waiting[far if fd == near else near]
            with contextlib.suppress(BlockingIOError):
                while True:
                    queue.append((time.monotonic() + seconds, os.read(fd, _PACKET)))
        now = time.monotonic()
        for fd, queue in waiting.items():
            while queue and queue[0][0] <= now:
                with contextlib.suppress(BlockingIOError):
                    os.write(fd, queue.popleft()[1])


if __name__ == "__main__":
    _relay(float(sys.argv[1]))
