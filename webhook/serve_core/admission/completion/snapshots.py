"""Snapshots of the loaders and runtimes that models are completed with, each stored under a digest of its content.

A Deployment has only the digests. The server stores the content where users cannot write, and uses it only if it still
has its digest: a record cannot bring its own loader or runtime.
"""

import hashlib
import json
from collections.abc import Iterable

from serve_core.api import runtimes
from serve_core.api.runtimes import Runtime
from serve_core.base.constants import COMPLETION_LABEL, NAMESPACE
from serve_core.base.json import JsonObject, canonical, value_at
from serve_core.context.cluster import LoaderConfig, Snapshot

LONGEST = 2 * runtimes.LARGEST
"""Characters of a snapshot's text."""

_PREFIX = "completion-"
_KEY = "completion.json"


def document(snapshot: Snapshot) -> JsonObject:
    """The stored form, which people can read too."""
    if isinstance(snapshot, Runtime):
        return {"runtime": {"name": snapshot.name, "spec": runtimes.spec_document(snapshot)}}
    return {"loader": {"image": snapshot.image, "allowNetworks": list(snapshot.allow_networks)}}


def digest(snapshot: Snapshot) -> str:
    """16 hexadecimal digits: a digest of the content."""
    return _digest(canonical(document(snapshot)))


def config_map(snapshot: Snapshot) -> JsonObject:
    """The immutable ConfigMap that stores it."""
    content = document(snapshot)
    (kind,) = content
    metadata = {"name": _PREFIX + digest(snapshot), "namespace": NAMESPACE, "labels": {COMPLETION_LABEL: kind}}
    data = {_KEY: canonical(content)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "immutable": True, "data": data}


def digest_of(manifest: JsonObject) -> str | None:
    """The digest in the name of such a ConfigMap; ``None`` for other names."""
    name = str(manifest["metadata"]["name"])
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else None


def of_config_map(manifest: JsonObject) -> Snapshot:
    """The snapshot in a ConfigMap. Raises ValueError as :func:`parse` does."""
    name, text = digest_of(manifest), value_at(manifest, "data", _KEY)
    if name is None or not isinstance(text, str):
        raise ValueError("it has no content")
    return parse(name, text)


def parse(name: str, text: str) -> Snapshot:
    """Read the snapshot that is stored under the digest ``name``.

    Raises ValueError with the reason, as a sentence continues after "because".
    """
    if len(text) > LONGEST:
        raise ValueError("it is too long")
    if _digest(text) != name:
        raise ValueError("its content does not match the digest in its name")
    try:
        snapshot = _read(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("it is neither a loader nor a runtime") from None
    if digest(snapshot) != name:
        raise ValueError("it has fields that this version does not know")
    return snapshot


def loaders(loader: LoaderConfig) -> tuple[LoaderConfig, ...]:
    """The loaders that models can be completed with now, each with its one image."""
    return tuple(loader.chosen(verifying=verifying) for verifying in (False, True))


def present(loader: LoaderConfig, catalogue: Iterable[Runtime]) -> dict[str, Snapshot]:
    """All loaders and runtimes that models can be completed with now, by digest."""
    now: tuple[Snapshot, ...] = (*loaders(loader), *catalogue)
    return {digest(each): each for each in now}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _read(written: JsonObject) -> Snapshot:
    if "runtime" in written:
        return runtimes.parse_spec(written["runtime"]["name"], written["runtime"]["spec"])
    image, networks = written["loader"]["image"], tuple(written["loader"]["allowNetworks"])
    if not all(isinstance(text, str) for text in (image, *networks)):
        raise TypeError
    return LoaderConfig(image, networks)
