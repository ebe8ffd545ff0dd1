"""What models are completed with, the loader and the runtimes, each kept under a digest of its content.

A Deployment only names these digests. The server keeps the content where no user writes, and reads it only if it still
has its digest: a record cannot bring a loader or a runtime of its own.
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
"""Characters of one as text."""

_PREFIX = "completion-"
_KEY = "completion.json"


def document(snapshot: Snapshot) -> JsonObject:
    """As it is kept, for people to read too."""
    if isinstance(snapshot, Runtime):
        return {"runtime": {"name": snapshot.name, "spec": runtimes.spec_document(snapshot)}}
    return {"loader": {"image": snapshot.image, "allowNetworks": list(snapshot.allow_networks)}}


def digest(snapshot: Snapshot) -> str:
    """16 hexadecimal digits that stand for its content."""
    return _digest(canonical(document(snapshot)))


def config_map(snapshot: Snapshot) -> JsonObject:
    """The ConfigMap that keeps it. It can only be made and deleted, never be changed."""
    content = document(snapshot)
    (kind,) = content
    metadata = {"name": _PREFIX + digest(snapshot), "namespace": NAMESPACE, "labels": {COMPLETION_LABEL: kind}}
    data = {_KEY: canonical(content)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "immutable": True, "data": data}


def digest_of(manifest: JsonObject) -> str | None:
    """The digest in the name of such a ConfigMap; ``None`` for any other name."""
    name = str(manifest["metadata"]["name"])
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else None


def of_config_map(manifest: JsonObject) -> Snapshot:
    """What a ConfigMap keeps. Raises ValueError as :func:`parse` does."""
    name, text = digest_of(manifest), value_at(manifest, "data", _KEY)
    if name is None or not isinstance(text, str):
        raise ValueError("it has no content")
    return parse(name, text)


def parse(name: str, text: str) -> Snapshot:
    """Read what is kept under the digest ``name``.

    Raises ValueError with a sentence that says why it is not believed.
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
    """The loaders that models may be completed with: each with the one image that it then has."""
    return tuple(loader.chosen(verifying=verifying) for verifying in (False, True))


def present(loader: LoaderConfig, catalogue: Iterable[Runtime]) -> dict[str, Snapshot]:
    """Everything that a model may be completed with now, by its digest."""
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
