"""A cache of ``huggingface_hub`` on a claim, of which a URI names a repository's folder or one of its snapshots.

The folder ``models--ORG--NAME`` has ``blobs``, ``refs`` and ``snapshots/COMMIT``. The files of a snapshot are relative
links to the blobs, such as ``../../blobs/HASH``. Mounted without the blobs, they lead nowhere. Source:
huggingface_hub, "Understand caching".
"""

import posixpath
import re

from model_uri import ModelURI, hub
from serve_core.base.json import JsonObject

_SNAPSHOT = re.compile(r"(?P<repository>(?:.*/)?models--[^/]+)/snapshots/[^/]+(?P<inside>(?:/[^/]+)*)")


def repository(uri: ModelURI) -> str | None:
    """The repository, as the hub names it, if ``uri`` is its whole folder in a cache; ``None`` for another URI."""
    return hub.repository_of(uri.segments[-1]) if uri.scheme == "pvc" and uri.segments else None


def is_snapshot(uri: ModelURI) -> bool:
    """Whether ``uri`` is a snapshot, or something in it."""
    return uri.scheme == "pvc" and _SNAPSHOT.fullmatch("/".join(uri.segments)) is not None


def mounts(model: JsonObject) -> list[JsonObject]:
    """The mount ``model`` of a model, and the mount of the blobs to which its links lead, if it is of a snapshot.

    The links are relative, so the blobs go to where the links lead from the model's path.
    """
    found = _SNAPSHOT.fullmatch(str(model.get("subPath") or ""))
    if found is None:
        return [model]
    up = "../" * (2 + found["inside"].count("/"))
    path = posixpath.normpath(f"{model['mountPath']}/{up}blobs")
    blobs = {"mountPath": path, "subPath": f"{found['repository']}/blobs", "readOnly": True}
    return [model, {"name": model["name"], **blobs}]
