"""URLs of hosts that public DNS can know."""

import re

from serve_core.syntax import object_name

_URL = re.compile(r"https://([a-z0-9.-]{4,253})(:[1-9][0-9]{0,4})?(/[A-Za-z0-9._~%/-]{0,512})?")
_TOP_LEVEL_DOMAIN = re.compile(r"[a-z]{2,63}|xn--[a-z0-9-]{1,59}")
_NOT_PUBLIC = frozenset(
    ("arpa", "corp", "default", "home", "internal", "intranet", "invalid", "lan", "local", "localdomain", "localhost",
     "onion", "private", "svc")
)  # fmt: skip
"""Last labels that no public DNS has (RFC 6761, RFC 6762, ICANN's ``internal``, customs), and the namespace that every
cluster has."""


def is_public(url: str) -> bool:
    """Whether ``url`` is a plain https URL of a host that public DNS can know: no address, no name inside the cluster,
    no user, no query, no way up in its path.

    The name is not resolved: network policy must keep the client of the URL away from private addresses.
    """
    match = _URL.fullmatch(url)
    if match is None:
        return False
    if any(segment.lower().replace("%2e", ".") in (".", "..") for segment in (match[3] or "").split("/")):
        return False
    *labels, top = match[1].split(".")
    # NAME.NAMESPACE.svc, with any cluster domain behind it.
    inside = top in _NOT_PUBLIC or "svc" in labels[2:3]
    return (
        bool(labels)
        and not inside
        and bool(_TOP_LEVEL_DOMAIN.fullmatch(top))
        and all(map(object_name.is_label, labels))
    )
