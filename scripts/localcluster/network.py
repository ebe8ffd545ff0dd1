"""A cluster's addresses: one free /16, divided into the links of the nodes, the Services and the pods of each node."""

import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from localcluster.commands import run
from localcluster.errors import ClusterError

CANDIDATES = [IPv4Network(f"10.{number}.0.0/16") for number in range(240, 200, -1)]

LINK_PREFIX = 30
PODS_PREFIX = 20
MAX_NODES = 8
"""As many ranges of pods as there are in half of a /16."""


@dataclass(frozen=True)
class Link:
    """The link of a node: its two ends, and the addresses behind it.

    The link of the first node leads to the host, and those of the others lead to the first node.
    """

    gateway: IPv4Address
    node: IPv4Address
    pods: IPv4Network


@dataclass(frozen=True)
class Network:
    """The parts of a cluster's /16."""

    block: IPv4Network

    @property
    def node(self) -> IPv4Address:
        """The first node, the API server and the load balancer."""
        return self.link(1).node

    def link(self, number: int) -> Link:
        """Return the link of a node, by the number of its machine."""
        first = 4 * (number - 1)
        pods = list(self.pods.subnets(new_prefix=PODS_PREFIX))[number - 1]
        return Link(self.block[first + 1], self.block[first + 2], pods)

    @property
    def services(self) -> IPv4Network:
        return IPv4Network((self.block[64 << 8], 18))

    @property
    def api_service(self) -> IPv4Address:
        """The ClusterIP of Service `kubernetes`, which is always the first of the range."""
        return self.services[1]

    @property
    def dns_service(self) -> IPv4Address:
        return self.services[10]

    @property
    def registry_service(self) -> IPv4Address:
        """The ClusterIP of a registry without TLS, if there is one: the node pulls images from it."""
        return self.services[11]

    @property
    def pods(self) -> IPv4Network:
        """The pods of all nodes."""
        return IPv4Network((self.block[128 << 8], 17))


def first_free(taken: Iterable[IPv4Network]) -> Network:
    """Return the first candidate that does not overlap with any network in `taken`.

    Raises:
        ClusterError: all overlap.
    """
    used = list(taken)
    for block in CANDIDATES:
        if not any(block.overlaps(other) for other in used):
            return Network(block)
    raise ClusterError(
        f"no free network between {CANDIDATES[-1]} and {CANDIDATES[0]}",
        "End a cluster: scripts/cluster down --name NAME",
    )


async def taken(clusters: Path) -> list[IPv4Network]:
    """Return the networks of the machine's routes, its name servers, and the clusters below `clusters`."""
    routes = json.loads(await run("ip", "-json", "-4", "route", "show", "table", "all"))
    destinations = [route["dst"] for route in routes if route["dst"] != "default"]
    networks = [ipaddress.ip_network(destination, strict=False) for destination in destinations]
    return [network for network in networks if isinstance(network, IPv4Network)] + _clusters(clusters) + _name_servers()


def _clusters(folder: Path) -> list[IPv4Network]:
    return [IPv4Network(json.loads(facts.read_text())["block"]) for facts in folder.glob("*/cluster.json")]


def _name_servers() -> list[IPv4Network]:
    lines = [line.split() for line in Path("/etc/resolv.conf").read_text().splitlines()]
    return [IPv4Network(line[1]) for line in lines if line[:1] == ["nameserver"] and ":" not in line[1]]
