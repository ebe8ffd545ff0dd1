"""Which addresses the loader may talk to, decided on the resolved address that is then connected to."""

import ipaddress
import socket
from collections.abc import Iterable
from typing import NamedTuple

from model_loader.outcomes import Code, LoadError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Cidr = ipaddress.IPv4Network | ipaddress.IPv6Network

# Clouds' metadata services: AWS and most others, Azure, Alibaba, Oracle, AWS over IPv6. A wide range allowed by
# the operator does not open them: only an entry of exactly that address does.
METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def parse_cidr(text: str) -> Cidr:
    """Return the network that `text` writes as CIDR. Raises LoadError(InvalidSource)."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise LoadError(
            Code.INVALID_SOURCE, f"--allow-network {text!r} is not a network: {error}", hint="Write it as 10.0.0.0/8."
        ) from None


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 transition address (mapped, 6to4, NAT64) leads to, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


class Network(NamedTuple):
    """The rule: public addresses, and those inside an allowed network; plain http only to the latter."""

    allowed: tuple[Cidr, ...] = ()

    @classmethod
    def of(cls, cidrs: Iterable[str]) -> "Network":
        """Return the rule that allows `cidrs`. Raises LoadError(InvalidSource)."""
        return cls(tuple(parse_cidr(cidr) for cidr in cidrs))

    def allows(self, address: Address, *, plain: bool) -> bool:
        """Tell whether `address` may be talked to, `plain` without TLS."""
        address = _embedded(address)
        holders = [net for net in self.allowed if net.version == address.version and address in net]
        if address in METADATA:
            return any(net.num_addresses == 1 for net in holders)
        return bool(holders) or (address.is_global and not address.is_multicast and not plain)

    def resolve(self, host: str, port: int, *, plain: bool) -> list[tuple[int, str]]:
        """Return the (family, address) pairs of `host` that may be talked to.

        Raises LoadError: Unreachable when the name does not resolve, Refused when no address of it may be used.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
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
                hint="Use https, or have the operator add the address to the loader's allowed networks.",
            )
        raise LoadError(
            Code.REFUSED,
            f"host {host} has the address {pairs[0][1]}, which is not public and in no allowed network",
            hint="Have the operator add it to the loader's allowed networks, if the model may come from there.",
        )

    def check(self, host: str, port: int, *, plain: bool) -> None:
        """Raise LoadError(Refused) for a host behind a proxy that may not be used; who resolves it is the proxy."""
        try:
            self.resolve(host, port, plain=plain)
        except LoadError as failure:
            # Inside a cluster that is left through a proxy only, names outside often do not resolve.
            if failure.code is not Code.UNREACHABLE:
                raise

    def connect(self, host: str, port: int, *, plain: bool, timeout: float) -> socket.socket:
        """Return a TCP connection to the first address of `host` that may be used and answers.

        Raises LoadError: Refused, or Unreachable with the last address' reason.
        """
        reason = ""
        for family, text in self.resolve(host, port, plain=plain):
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


def _address(text: str) -> Address:
    return ipaddress.ip_address(text.partition("%")[0])
