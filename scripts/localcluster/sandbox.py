"""The namespaces of a cluster.

One process holds a network, a mount and a PID namespace, which contain the whole cluster. When this holder ends, the
kernel ends every process, container, mount, interface and iptables rule in them. `remove` and its caller remove the
rest, cgroups and files, by the cluster's name.
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

# The kubelet sets these for the whole machine unless they have these values. It sees files that have them.
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
        """Return the command line that runs `command` in the sandbox, as root."""
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
        # nsenter stays outside of the PID namespace; its child is the process.
        outside = processes.start(self.enter(*command), log)

        async def forked() -> bool:
            return bool(outside.children())

        await processes.until(forked, str(command[0]), 10, (outside, log))
        return outside.children()[0]

    async def run(self, *command: str | Path) -> str:
        return await run(*self.enter(*command))


def interface(name: str) -> str:
    """Return the name of the machine's end of the link: a hash, because interface names have at most 15 characters."""
    return f"ks-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def cgroup(state: State) -> str:
    """Return the name of the parent cgroup of the cluster's containers, the same in every hierarchy."""
    return f"{state.product.name}-{state.name}"


def find(state: State) -> Sandbox | None:
    """Return the cluster's sandbox, if its holder runs and its creation was finished."""
    holder = _record(state).read()
    return Sandbox(holder) if holder and _made(state).exists() else None


def _record(state: State) -> Record:
    return Record(state.run / "sandbox.json")


def _made(state: State) -> Path:
    return state.run / "sandbox-is-made"


async def create(state: State, network: Network) -> Sandbox:
    """Create the namespaces, their mounts and the link to the machine. Remove what an earlier holder left."""
    await remove(state)
    holder = processes.start(
        [
            "unshare", "--net", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc",
            # Process 1 of a PID namespace inherits orphans. With SIGCHLD ignored, the kernel reaps them.
            "sh", "-c", "trap '' CHLD; exec sleep infinity",
        ],
        state.log / "sandbox.log",
    )  # fmt: skip
    _record(state).write(holder)
    sandbox = Sandbox(holder)

    async def furnished() -> bool:
        # The child becomes `sleep` after it has mounted its /proc; the next mounts must come after that.
        return any(child.name == "sleep" for child in holder.children())

    await processes.until(furnished, "the sandbox", 30, (holder, state.log / "sandbox.log"))
    await _mounts(sandbox, state)
    await _link(sandbox, state.name, network)
    for hierarchy in _cgroup_hierarchies():
        _make_cgroup(hierarchy, cgroup(state))
    # Last: the next command removes a sandbox whose creation was interrupted.
    _made(state).touch()
    return sandbox


async def remove(state: State) -> None:
    """End all processes of the cluster, and remove its link and cgroups."""
    _made(state).unlink(missing_ok=True)
    holder = _record(state).read()
    if holder:
        # Process 1 of the namespace ends after all others in it; so end it before its parent.
        for child in holder.children():
            await child.kill()
        await holder.kill()
    await _remove_link(state.name)
    folders = [hierarchy / cgroup(state) for hierarchy in _cgroup_hierarchies()]

    async def removed() -> bool:
        # The kernel can take a moment to release a cgroup whose processes have just ended.
        return all(_remove_cgroup(folder) for folder in folders)

    await processes.until(removed, f"the removal of cgroup {cgroup(state)}", 30)


async def _mounts(sandbox: Sandbox, state: State) -> None:
    state.log.mkdir(parents=True, exist_ok=True)
    programs = state.product.cache / "bin"
    lines = [
        # A separate /run hides the machine's sockets and locks, and takes those of containerd, the kubelet and CNI.
        "mount -t tmpfs -o mode=755 tmpfs /run",
        f"mkdir {Inside.STATE} {Inside.PROGRAMS} /run/sysctl",
        f'mount --bind "$1" {Inside.STATE}',
        f'mount --bind -o ro "$2" {Inside.PROGRAMS}',
        # The kubelet writes container logs to /var/log.
        'mount --bind "$3" /var/log',
        # Containers must see the kubelet's mounts, as systemd configures it on a node.
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
        # There is no default route, but a process of the node needs a route to Services before kube-proxy's rules
        # rewrite its packets.
        'ip route add "$2" dev lo src "$3"',
    ]
    await sandbox.run(
        "sh", "-euc", "\n".join(lines), "sh",
        f"{network.node}/{network.link_prefix}", str(network.services), str(network.node),
    )  # fmt: skip
    # Pods and Services are reached through the node, where kube-proxy's rules see every packet.
    await run("ip", "route", "add", str(network.block), "via", str(network.node), "dev", here)


async def _remove_link(name: str) -> None:
    # The kernel also removes it, some time after the sandbox has ended: either may come first.
    link = interface(name)
    exists = ("ip", "link", "show", link)
    if await succeeds(*exists) and not await succeeds("ip", "link", "delete", link) and await succeeds(*exists):
        raise ClusterError(f"the network link {link} could not be removed")


def _cgroup_hierarchies() -> list[Path]:
    """Return the mount points of cgroup hierarchies: one for version 2, one for each controller for version 1."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(fields[1]) for fields in mounts if fields[2] in {"cgroup", "cgroup2"}]


def _make_cgroup(hierarchy: Path, name: str) -> None:
    # With version 2 the kubelet requires every known controller, and a child has those that its parent delegates.
    controllers = hierarchy / "cgroup.controllers"
    if controllers.exists():
        wanted = {"cpu", "cpuset", "hugetlb", "memory", "pids"} & set(controllers.read_text().split())
        (hierarchy / "cgroup.subtree_control").write_text(" ".join(f"+{controller}" for controller in sorted(wanted)))
    (hierarchy / name).mkdir(exist_ok=True)


def _remove_cgroup(folder: Path) -> bool:
    """Remove a cgroup and those below it; return whether it is gone."""
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
