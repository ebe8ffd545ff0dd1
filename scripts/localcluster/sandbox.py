"""The namespaces of a cluster's machines.

For each machine, one process holds a network, a mount and a PID namespace, which contain the whole node; those of the
first machine also contain the control plane. When this holder ends, the kernel ends every process, container, mount,
interface and iptables rule in them. `remove` and its caller remove the rest, cgroups and files, by the cluster's name.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localcluster import processes
from localcluster.commands import run, succeeds
from localcluster.errors import ClusterError
from localcluster.network import LINK_PREFIX, Network
from localcluster.paths import Inside, Machine
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


def interface(machine: Machine) -> str:
    """Return the name of the far end of a machine's link: a hash, because interface names have at most 15 characters.

    It is on the host for the first machine, and on the first machine for the others.
    """
    return f"ks-{hashlib.sha256(machine.name.encode()).hexdigest()[:10]}"


def cgroup(machine: Machine) -> str:
    """Return the name of the parent cgroup of a machine's containers, the same in every hierarchy."""
    name = f"{machine.state.product.name}-{machine.state.name}"
    return name if machine.number == 1 else f"{name}.{machine.number}"  # no cluster's name has a dot


def find(machine: Machine) -> Sandbox | None:
    """Return the machine's sandbox, if its holder runs and its creation was finished."""
    holder = _record(machine).read()
    return Sandbox(holder) if holder and _made(machine).exists() else None


def _record(machine: Machine) -> Record:
    return Record(machine.run / "sandbox.json")


def _made(machine: Machine) -> Path:
    return machine.run / "sandbox-is-made"


async def create(machine: Machine, network: Network) -> Sandbox:
    """Create the namespaces, their mounts and the link. Remove what an earlier holder left.

    The links of the other machines end with the first machine: create it before them.
    """
    await remove(machine)
    holder = processes.start(
        [
            "unshare", "--net", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc",
            # Process 1 of a PID namespace inherits orphans. With SIGCHLD ignored, the kernel reaps them.
            "sh", "-c", "trap '' CHLD; exec sleep infinity",
        ],
        machine.log / "sandbox.log",
    )  # fmt: skip
    _record(machine).write(holder)
    sandbox = Sandbox(holder)

    async def furnished() -> bool:
        # The child becomes `sleep` after it has mounted its /proc; the next mounts must come after that.
        return any(child.name == "sleep" for child in holder.children())

    await processes.until(furnished, "the sandbox", 30, (holder, machine.log / "sandbox.log"))
    await _mounts(sandbox, machine)
    await _link(sandbox, machine, network)
    for hierarchy in _cgroup_hierarchies():
        _make_cgroup(hierarchy, cgroup(machine))
    # Last: the next command removes a sandbox whose creation was interrupted.
    _made(machine).touch()
    return sandbox


async def stop(machine: Machine) -> None:
    """Stop a machine as a power failure does: its packets vanish, and then its processes. `create` starts it again.

    Its namespaces stay, so that its address gives no answer, as behind a router, instead of an error at once.
    """
    here = find(machine)
    if here is None:
        return
    _made(machine).unlink()
    lines = [
        *(f"iptables --wait --table raw --insert {chain} --jump DROP" for chain in ("PREROUTING", "OUTPUT")),
        # Every process of the namespace except process 1 and this shell.
        "kill -KILL -1",
    ]
    await here.run("sh", "-euc", "\n".join(lines))


async def remove(machine: Machine) -> None:
    """End all processes of the machine, and remove its link and cgroups."""
    _made(machine).unlink(missing_ok=True)
    holder = _record(machine).read()
    if holder:
        # Process 1 of the namespace ends after all others in it; so end it before its parent.
        for child in holder.children():
            await child.kill()
        await holder.kill()
    await _remove_link(machine)
    folders = [hierarchy / cgroup(machine) for hierarchy in _cgroup_hierarchies()]

    async def removed() -> bool:
        # The kernel can take a moment to release a cgroup whose processes have just ended.
        return all(_remove_cgroup(folder) for folder in folders)

    await processes.until(removed, f"the removal of cgroup {cgroup(machine)}", 30)


async def _mounts(sandbox: Sandbox, machine: Machine) -> None:
    machine.log.mkdir(parents=True, exist_ok=True)
    programs = machine.state.product.cache / "bin"
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
    await sandbox.run("sh", "-euc", "\n".join(lines), "sh", machine.folder, programs, machine.log)


def _far(machine: Machine) -> list[str]:
    """Return what runs a command at the far end of the link: on the host, or in the first machine's network.

    Raises:
        ClusterError: the first machine does not run.
    """
    if machine.number == 1:
        return []
    first = find(Machine(machine.state))
    if first is None:
        raise ClusterError(f"{machine.state.name} does not run, and {machine.name} is linked to it")
    return ["nsenter", f"--target={first.holder.pid}", "--net", "--"]


async def _link(sandbox: Sandbox, machine: Machine, network: Network) -> None:
    far, name, link = _far(machine), interface(machine), network.link(machine.number)
    peer = ("peer", "name", "eth0", "netns", str(sandbox.holder.pid))
    await run(*far, "ip", "link", "add", name, "type", "veth", *peer)
    await run(*far, "ip", "address", "add", f"{link.gateway}/{LINK_PREFIX}", "dev", name)
    await run(*far, "ip", "link", "set", name, "up")
    lines = [
        "ip link set lo up",
        'ip address add "$1" dev eth0',
        "ip link set eth0 up",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        # There is no default route, but a process of the node needs a route to Services before kube-proxy's rules
        # rewrite its packets.
        'ip route add "$2" dev lo src "$3"',
    ]
    if machine.number > 1:
        # The first machine is the router between the others. A pod's own route is more specific than these.
        lines += ['ip route add "$4" via "$5"', 'ip route add unreachable "$6"']
    await sandbox.run(
        "sh", "-euc", "\n".join(lines), "sh",
        f"{link.node}/{LINK_PREFIX}", str(network.services), str(link.node),
        str(network.block), str(link.gateway), str(link.pods),
    )  # fmt: skip
    # From the host, pods and Services are reached through the first node, where kube-proxy's rules see every packet.
    behind = [str(network.block)] if machine.number == 1 else [str(link.pods), "src", str(network.node)]
    await run(*far, "ip", "route", "add", *behind, "via", str(link.node), "dev", name)


async def _remove_link(machine: Machine) -> None:
    # The kernel also removes it, some time after the sandbox has ended: either may come first.
    if machine.number > 1 and find(Machine(machine.state)) is None:
        return  # it ended with the first machine
    far, link = _far(machine), interface(machine)
    exists = (*far, "ip", "link", "show", link)
    if await succeeds(*exists) and not await succeeds(*far, "ip", "link", "delete", link) and await succeeds(*exists):
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
