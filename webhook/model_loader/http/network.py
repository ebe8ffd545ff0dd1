"""Which addresses the loader may connect to. It checks the resolved address and connects to that very address."""

import ipaddress
import socket
from collections.abc import Iterable
from typing import NamedTuple

from model_loader.outcomes import Code, LoadError
from model_uri import hosts

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Cidr = ipaddress.IPv4Network | ipaddress.IPv6Network

# Metadata and credential services of clouds. A wide allowed network does not include them; only an entry for exactly
# that address does.
METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # most clouds
        "169.254.170.2", "169.254.170.23", "fd00:ec2::23", "fd00:ec2::254",  # AWS: ECS, EKS, EC2
        "fd20:ce::254",  # Google
        "168.63.129.16",  # Azure
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "169.254.0.23",  # Tencent
        "169.254.42.42", "fd00:42::42",  # Scaleway
        "fd00:a9fe:a9fe::1",  # Akamai
        "fe80::a9fe:a9fe",  # OpenStack
    )
)  # fmt: skip


def _networks(*texts: str) -> tuple[Cidr, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# Not Python's is_global, which differs between releases. Sources: the registries of special-purpose addresses,
# https://www.iana.org/assignments/iana-ipv4-special-registry and .../iana-ipv6-special-registry.
_SPECIAL = _networks(
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4",
    "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
)  # fmt: skip
_UNICAST = ipaddress.ip_network("2000::/3")
"""All public IPv6 addresses, except the special ones."""
# Well-known prefixes whose last 32 bits are an IPv4 address: compatible, mapped, translated, NAT64.
_CARRYING = _networks("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
_ISATAP = (0x00005EFE, 0x02005EFE)
_ITSELF = frozenset({ipaddress.ip_address("::"), ipaddress.ip_address("::1")})


def parse_cidr(text: str) -> Cidr:
    """Return the network of a CIDR. Raises LoadError(InvalidSource)."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise LoadError(
            Code.INVALID_SOURCE, f"--allow-network {text!r} is not a network: {error}", hint="Write it as 10.0.0.0/8."
        ) from None


def _embedded(address: Address) -> Address:
    """Return the IPv4 address in an IPv6 transition address, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address) and address not in _ITSELF:
        if any(address in network for network in _CARRYING):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.sixtofour or address
    return address


def _perhaps(address: Address) -> tuple[Address, ...]:
    """Return the IPv4 addresses that a translator or tunnel may forward packets for `address` to."""
    if not isinstance(address, ipaddress.IPv6Address):
        return ()
    number = int(address)
    if address.teredo:
        return address.teredo
    if address in _LOCAL_NAT64:
        # RFC 6052, section 2.2: the prefix has 48, 56, 64 or 96 bits, and bits 64 to 71 are unused.
        low, high = number & (1 << 56) - 1, number >> 64 & 0xFFFF
        found = [high << 16 | low >> 40, (high & 0xFF) << 24 | low >> 32, low >> 24, number]
        return tuple(ipaddress.IPv4Address(each & 0xFFFFFFFF) for each in found)
    if number >> 32 & 0xFFFFFFFF in _ISATAP:
        return (ipaddress.IPv4Address(number & 0xFFFFFFFF),)
    return ()


def _is_public(address: Address) -> bool:
    if any(address in network for network in _SPECIAL):
        return False
    return address.version == 4 or address in _UNICAST


class Network(NamedTuple):
    """The rule: public addresses, and addresses in an allowed network. Plain http only to the latter."""

    allowed: tuple[Cidr, ...] = ()

    @classmethod
    def of(cls, cidrs: Iterable[str]) -> "Network":
        """Return the rule that allows `cidrs`. Raises LoadError(InvalidSource)."""
        return cls(tuple(parse_cidr(cidr) for cidr in cidrs))

    def allows(self, address: Address, *, plain: bool) -> bool:
        """Return whether the loader may connect to `address`. `plain`: without TLS."""
        if getattr(address, "scope_id", None) is not None:
            return False
        meant = _embedded(address)
        holders = self._holders(meant)
        for each in (meant, *_perhaps(meant)):
            if each in METADATA and not any(net.num_addresses == 1 for net in (*holders, *self._holders(each))):
                return False
        return bool(holders) or (_is_public(meant) and not plain)

    def _holders(self, address: Address) -> list[Cidr]:
        return [net for net in self.allowed if net.version == address.version and address in net]

    def resolve(self, host: str, port: int, *, plain: bool, absolute: bool = False) -> list[tuple[int, str]]:
        """Return the allowed (family, address) pairs of `host`.

        `absolute`: try no search domain, where another user may have created the name.

        Raises LoadError: Unreachable if the name does not resolve, Refused if none of its addresses is allowed.
        """
        try:
            found = socket.getaddrinfo(_absolute(host) if absolute else host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            reason = error.strerror if isinstance(error, socket.gaierror) else "it is not a valid name"
            raise LoadError(Code.UNREACHABLE, f"host {host!r} does not resolve: {reason}") from None
        pairs = [(int(family), str(sockaddr[0])) for family, _, _, _, sockaddr in found]
        usable = [pair for pair in pairs if self.allows(_address(pair[1]), plain=plain)]
        if usable:
            return usable
        if plain and any(self.allows(_address(text), plain=False) for _, text in pairs):
            raise LoadError(
                Code.REFUSED,
                f"plain http to {host} ({pairs[0][1]}) is not allowed",
                hint="Use https, or ask a cluster administrator to add the address to the loader's allowed networks.",
            )
        raise LoadError(
            Code.REFUSED,
            f"host {host} has the address {pairs[0][1]}, which is neither public nor in an allowed network",
            hint="Ask a cluster administrator to add it to the loader's allowed networks.",
        )

    def check(self, host: str, port: int, *, plain: bool) -> None:
        """Raise LoadError(Refused) if a host behind a proxy is not allowed. The proxy resolves the name itself."""
        try:
            self.resolve(host, port, plain=plain)
        except LoadError as failure:
            # In a cluster with an egress proxy, external names often do not resolve.
            if failure.code is not Code.UNREACHABLE:
                raise

    def connect(self, host: str, port: int, *, plain: bool, timeout: float, absolute: bool = False) -> socket.socket:
        """Return a TCP connection to the first allowed address of `host` that accepts it.

        Raises LoadError: Refused, or Unreachable with the last address' error.
        """
        reason = ""
        for family, text in self.resolve(host, port, plain=plain, absolute=absolute):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout)
                sock.connect((text, port))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            except OSError as error:
                sock.close()
                reason = f"{text} port {port}: {'timed out' if isinstance(error, TimeoutError) else error.strerror}"
        raise LoadError(Code.UNREACHABLE, f"cannot connect to {host}: {reason}")


def _absolute(host: str) -> str:
    """Return a name to which no search domain is added.

    NAME.NAMESPACE.svc needs the search domains of Kubernetes, which cannot hide another name of this form: Pods and
    Services have at most two labels before the namespace.
    """
    if hosts.is_address(host) or host.endswith((".", ".svc")):
        return host
    return f"{host}."


def _address(text: str) -> Address:
    return ipaddress.ip_address(text)
