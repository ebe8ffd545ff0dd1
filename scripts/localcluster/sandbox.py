"""The namespaces a cluster lives in.

One process holds a network, a mount and a PID namespace; everything of the cluster runs in them. When the holder ends,
the kernel ends every process, container, mount, interface and iptables rule of the cluster with it. What it cannot take
along, the cgroups and the files, `remove` and the caller take away by the cluster's own name.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localcluster import processes
from localcluster.commands import run, succeeds
from localcluster.errors import ClusterError
from localcluster.network import Network
from localcluster.paths import Inside, State
from localcluster.processes import Process, Record

# The kubelet sets these for the whole machine unless they have these values already. It is shown files that do.
KUBELET_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


@dataclass(frozen=True)
class Sandbox:
    """The namespaces of a running holder."""

    holder: Process

    def enter(self, *command: str | Path) -> list[str]:
        """The command line that runs `command` in the sandbox, as root."""
        pid = self.holder.pid
        return [
            "nsenter", f"--target={pid}", "--net", "--mount", f"--pid=/proc/{pid}/ns/pid_for_children", "--",
            *map(str, command),
        ]  # fmt: skip

    async def start(self, command: Sequence[str | Path], log: Path) -> Process:
        """Start a process in the sandbox.

        Raises:
            ClusterError: it ended at once.
        """
        # nsenter waits outside of the PID namespace; its child is the process that matters.
        outside = processes.start(self.enter(*command), log)

        async def forked() -> bool:
            return bool(outside.children())

        await processes.until(forked, str(command[0]), 10, (outside, log))
        return outside.children()[0]

    async def run(self, *command: str | Path) -> str:
        return await run(*self.enter(*command))


def interface(name: str) -> str:
    """The machine's end of the link. Interface names have 15 characters at most, so the cluster's name is hashed."""
    return f"ks-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def cgroup(state: State) -> str:
    """Return the name of the parent cgroup of the cluster's containers, the same in every hierarchy."""
    return f"{state.product.name}-{state.name}"


def find(state: State) -> Sandbox | None:
    """The cluster's sandbox, if its holder runs and it was made to its end."""
    holder = _record(state).read()
    return Sandbox(holder) if holder and _made(state).exists() else None


def _record(state: State) -> Record:
    return Record(state.run / "sandbox.json")


def _made(state: State) -> Path:
    return state.run / "sandbox-is-made"


async def create(state: State, network: Network) -> Sandbox:
    """Make the namespaces, their mounts and the link to the machine. What an earlier holder left is taken away."""
    await remove(state)
    holder = processes.start(
        [
            "unshare", "--net", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc",
            # Process 1 of a PID namespace inherits orphans; with SIGCHLD ignored the kernel reaps them.
            "sh", "-c", "trap '' CHLD; exec sleep infinity",
        ],
        state.log / "sandbox.log",
    )  # fmt: skip
    _record(state).write(holder)
    sandbox = Sandbox(holder)

    async def furnished() -> bool:
        # The child becomes `sleep` after it has mounted its own /proc, which the next mounts are to lie over.
        return any(child.name == "sleep" for child in holder.children())

    await processes.until(furnished, "the sandbox", 30, (holder, state.log / "sandbox.log"))
    await _mounts(sandbox, state)
    await _link(sandbox, state.name, network)
    for hierarchy in _cgroup_hierarchies():
        _make_cgroup(hierarchy, cgroup(state))
    # Last: a sandbox that was interrupted half-made is not taken for a whole one, but is ended by the next command.
    _made(state).touch()
    return sandbox


async def remove(state: State) -> None:
    """End everything of the cluster that runs, and take its link and cgroups away."""
    _made(state).unlink(missing_ok=True)
    holder = _record(state).read()
    if holder:
        # Process 1 of the namespace is gone only when all others in it are; so it is ended before its parent.
        for child in holder.children():
            await child.kill()
        await holder.kill()
    await _remove_link(state.name)
    folders = [hierarchy / cgroup(state) for hierarchy in _cgroup_hierarchies()]

    async def removed() -> bool:
        # The kernel may take a moment to let go of a cgroup whose processes have just ended.
        return all(_remove_cgroup(folder) for folder in folders)

    await processes.until(removed, f"the removal of cgroup {cgroup(state)}", 30)


async def _mounts(sandbox: Sandbox, state: State) -> None:
    state.log.mkdir(parents=True, exist_ok=True)
    programs = state.product.cache / "bin"
    lines = [
        # A /run of its own hides the machine's sockets and locks and takes containerd's, the kubelet's and CNI's.
        "mount -t tmpfs -o mode=755 tmpfs /run",
        f"mkdir {Inside.STATE} {Inside.PROGRAMS} /run/sysctl",
        f'mount --bind "$1" {Inside.STATE}',
        f'mount --bind -o ro "$2" {Inside.PROGRAMS}',
        # The kubelet writes logs of containers to /var/log.
        'mount --bind "$3" /var/log',
        # Mounts the kubelet makes are to be seen by containers, as systemd has it on a node.
        "mount --make-rshared /",
    ]
    for name, value in KUBELET_SYSCTLS.items():
        file = f"/run/sysctl/{name.replace('/', '.')}"
        lines.append(f"echo {value} > {file} && mount --bind {file} /proc/sys/{name}")
    await sandbox.run("sh", "-euc", "\n".join(lines), "sh", state.folder, programs, state.log)


async def _link(sandbox: Sandbox, name: str, network: Network) -> None:
    here = interface(name)
    await run("ip", "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", str(sandbox.holder.pid))
    await run("ip", "address", "add", f"{network.host}/{network.link_prefix}", "dev", here)
    await run("ip", "link", "set", here, "up")
    lines = [
        "ip link set lo up",
        'ip address add "$1" dev eth0',
        "ip link set eth0 up",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        # There is no default route, but a process of the node needs some route to a Service before kube-proxy's rules
        # see its packet and send it where it belongs.
        'ip route add "$2" dev lo src "$3"',
    ]
    await sandbox.run(
        "sh", "-euc", "\n".join(lines), "sh",
        f"{network.node}/{network.link_prefix}", str(network.services), str(network.node),
    )  # fmt: skip
    # Pods and Services are reached through the node; kube-proxy's rules there see every packet.
    await run("ip", "route", "add", str(network.block), "via", str(network.node), "dev", here)


async def _remove_link(name: str) -> None:
    # The kernel removes it too, some time after the sandbox has ended: who comes first does not matter.
    link = interface(name)
    exists = ("ip", "link", "show", link)
    if await succeeds(*exists) and not await succeeds("ip", "link", "delete", link) and await succeeds(*exists):
        raise ClusterError(f"the network link {link} could not be removed")


def _cgroup_hierarchies() -> list[Path]:
    """Where cgroup hierarchies are mounted: one with version 2, one per controller with version 1."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(fields[1]) for fields in mounts if fields[2] in {"cgroup", "cgroup2"}]


def _make_cgroup(hierarchy: Path, name: str) -> None:
    # With version 2 the kubelet asks for every controller it knows, and a child has those its parent hands down.
    controllers = hierarchy / "cgroup.controllers"
    if controllers.exists():
        wanted = {"cpu", "cpuset", "hugetlb", "memory", "pids"} & set(controllers.read_text().split())
        (hierarchy / "cgroup.subtree_control").write_text(" ".join(f"+{controller}" for controller in sorted(wanted)))
    (hierarchy / name).mkdir(exist_ok=True)


def _remove_cgroup(folder: Path) -> bool:
    """Remove a cgroup and those below it; returns whether it is gone."""
    try:
        for child in folder.iterdir():
            if child.is_dir():
                _remove_cgroup(child)
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
