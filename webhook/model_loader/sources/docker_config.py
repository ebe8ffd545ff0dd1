"""The credentials for a registry in a Secret of the types kubernetes.io/dockerconfigjson, dockercfg and basic-auth.

The keys of a docker configuration are read as the kubelet reads them: `ghcr.io`, `https://ghcr.io`, `HOST/v1/`,
`HOST/v2/`, `HOST:PORT`, `HOST/organisation`, `*.example.com`, and `https://index.docker.io/v1/` for Docker Hub. Unlike
there, a path is compared by whole segments: `HOST/acme` is not for `HOST/acme-labs`.

Source: github.com/kubernetes/kubernetes, pkg/credentialprovider/keyring.go and config.go
"""

import base64
import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple
from urllib.parse import urlsplit

from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Secret, one_line
from model_loader.sources.documents import mapping
from model_uri.uri import DOCKER_HUB, DOCKER_HUBS

_FILES = (".dockerconfigjson", "config.json", ".dockercfg")
_HTTPS = 443


class Login(NamedTuple):
    """Credentials for one registry.

    `basic`: user and password, as `user:password`. `identity`: a token that the token service exchanges.
    `bearer`: a token for the registry itself. At least one is not empty.
    """

    basic: str = ""
    identity: str = ""
    bearer: str = ""


class _Key(NamedTuple):
    """A key of a docker configuration: labels of a host, which can have wildcards, a port, and segments of a path."""

    labels: tuple[str, ...]
    port: int | None
    path: tuple[str, ...] = ()

    def holds(self, other: "_Key") -> bool:
        """Return whether the credentials of this key are for `other`."""
        return (
            self.port == other.port
            and len(self.labels) == len(other.labels)
            and self.path == other.path[: len(self.path)]
            and all(fnmatchcase(name, pattern) for pattern, name in zip(self.labels, other.labels, strict=True))
        )


def logins(secret: Secret, registry: str, repository: str) -> list[Login]:
    """Return the credentials for a repository in the order to try, the most specific first.

    `registry`: host, and port if there is one. Raises LoadError(InvalidSource).
    """
    wanted = _key(f"{registry}/{repository}")
    holding = [(key, entry) for key, entry in _entries(secret) if wanted is not None and key.holds(wanted)]
    holding.sort(key=lambda each: (each[0].labels, each[0].path), reverse=True)
    found = [login for login in (_login(entry) for _, entry in holding) if any(login)]
    user, password = secret.get("username"), secret.get("password")
    if not found and (user or password):
        found.append(Login(f"{user}:{password}"))
    return list(dict.fromkeys(found))


def names(secret: Secret, host: str) -> bool:
    """Return whether the Secret's docker configuration has an entry for a host and its port."""
    wanted = _key(host)
    return wanted is not None and any(key._replace(path=()).holds(wanted) for key, _ in _entries(secret))


def _key(text: str) -> _Key | None:
    """Return a parsed key, or None for a text that names no host."""
    scheme, separator, rest = text.partition("://")
    try:
        parts = urlsplit(f"{scheme}://{rest}" if separator else f"https://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return None
    path = tuple(filter(None, parts.path.split("/")))
    if path[:1] in (("v1",), ("v2",)):
        path = path[1:]
    labels = (DOCKER_HUB if host in DOCKER_HUBS else host).split(".")
    return _Key(tuple(labels), None if port == _HTTPS else port, path) if host else None


def _entries(secret: Secret) -> Iterator[tuple[_Key, Mapping[str, object]]]:
    for name in _FILES:
        text = secret.document(name)
        if not text:
            continue
        try:
            config = mapping(json.loads(text))
            for key, entry in (config if name == ".dockercfg" else mapping(config.get("auths") or {})).items():
                parsed = _key(key)
                if parsed is not None:
                    yield parsed, mapping(entry or {})
        except (ValueError, TypeError, RecursionError):
            raise LoadError(Code.INVALID_SOURCE, f"the Secret's {name} cannot be read") from None


def _login(entry: Mapping[str, object]) -> Login:
    """Return the credentials of an entry, all of them empty if a credential helper has them."""
    user, password, auth, identity, bearer = (
        str(entry.get(name) or "") for name in ("username", "password", "auth", "identitytoken", "registrytoken")
    )
    basic = f"{user}:{password}" if user or password else ""
    if auth:
        try:
            basic = base64.b64decode(f"{auth.strip().rstrip('=')}==").decode()
        except ValueError:
            basic = ""
        if ":" not in basic:
            raise LoadError(
                Code.INVALID_SOURCE,
                "an auth of the Secret's docker configuration is not user:password in base64",
                hint="Create it again: kubectl create secret docker-registry NAME --docker-server=REGISTRY ...",
            )
    what = "a password or token in the Secret's docker configuration"
    return Login(*(one_line(text, what) for text in (basic, identity, bearer)))
