"""The proxies that the environment names, by the rules of curl and Python's urllib."""

from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from model_loader.outcomes import Code, LoadError


def proxy_for(scheme: str, host: str, environment: Mapping[str, str]) -> SplitResult | None:
    """Return the http proxy for a host by HTTPS_PROXY, HTTP_PROXY and NO_PROXY, or None for a direct connection.

    Raises LoadError(InvalidSource) if the variable does not name a proxy.
    """
    # Lower case first. curl and Python ignore HTTP_PROXY in CGI programs only, and this is none.
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    text = next((environment[name] for name in names if environment.get(name)), "")
    if not text or _excepted(host, environment.get("no_proxy") or environment.get("NO_PROXY") or ""):
        return None
    proxy = urlsplit(text if "://" in text else f"http://{text}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise LoadError(Code.INVALID_SOURCE, f"{names[1]} does not name an http proxy", hint="Write http://host:port.")
    return proxy


def _excepted(host: str, no_proxy: str) -> bool:
    patterns = [pattern.strip().lstrip("*").lstrip(".").lower() for pattern in no_proxy.split(",")]
    host = host.lower()
    return no_proxy.strip() == "*" or any(host == name or host.endswith(f".{name}") for name in patterns if name)
