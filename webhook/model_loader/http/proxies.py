"""The proxies that the environment names, as Go programs read them: the same variables mean the same everywhere.

Source: https://pkg.go.dev/golang.org/x/net/http/httpproxy
"""

import base64
import contextlib
import ipaddress
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from model_loader.outcomes import Code, LoadError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
HINT = "Write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT."
"""How the variables name a proxy."""


def proxy_for(scheme: str, host: str, port: int, environment: Mapping[str, str]) -> SplitResult | None:
    """Return the http proxy for a host by HTTPS_PROXY, HTTP_PROXY and NO_PROXY, or None for a direct connection.

    Raises LoadError(InvalidSource) if the variable does not name an http proxy.
    """
    name = f"{scheme}_proxy".upper()
    text = _variable(environment, name)
    if not text or _is_excepted(host, port, _variable(environment, "NO_PROXY")):
        return None
    if name == "HTTP_PROXY" and environment.get("REQUEST_METHOD"):
        # A client of a CGI program can set HTTP_PROXY: see https://go.dev/s/cgihttpproxy.
        raise LoadError(Code.REFUSED, "HTTP_PROXY is not used with REQUEST_METHOD", hint="Remove one of the variables.")
    with contextlib.suppress(ValueError):
        proxy = urlsplit(text if "://" in text else f"http://{text}")
        if proxy.scheme not in ("http", ""):
            why = f"{name} names a proxy of the type {proxy.scheme[:16]}, and the loader supports only http proxies"
            raise LoadError(Code.INVALID_SOURCE, why, hint=HINT)
        if proxy.hostname and proxy.port != 0:
            return proxy
    raise LoadError(Code.INVALID_SOURCE, f"{name} does not name an http proxy", hint=HINT)


def authorization(proxy: SplitResult) -> dict[str, str]:
    """Return the header with the user and password in the proxy's URL, if there are any."""
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def _variable(environment: Mapping[str, str], name: str) -> str:
    return (environment.get(name) or environment.get(name.lower()) or "").strip()


def _is_excepted(host: str, port: int, no_proxy: str) -> bool:
    """Return whether a host is reached directly: this machine always is, and what NO_PROXY names."""
    host = host.lower()
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_matches(entry.strip().lower(), host, port, address) for entry in no_proxy.split(","))


def _matches(entry: str, host: str, port: int, address: _Address | None) -> bool:
    """Return whether an entry of NO_PROXY is about a host: `*`, a network, or a name or address, maybe with a port."""
    if entry == "*":
        return True
    if "/" in entry:
        with contextlib.suppress(ValueError):
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
    name, number = _split(entry)
    if number not in ("", str(port)):
        return False
    named = _address(name)
    if named is not None:
        return named == address
    if not name:
        return False
    suffix = name.removeprefix("*")
    return host.endswith(suffix) if suffix.startswith(".") else host == name or host.endswith(f".{name}")


def _split(entry: str) -> tuple[str, str]:
    """Return the name and the port of an entry, as Go's net.SplitHostPort. IPv6 needs brackets for a port."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest.removeprefix(":")
    name, _, number = entry.partition(":")
    return (entry, "") if ":" in number else (name, number)


def _address(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
