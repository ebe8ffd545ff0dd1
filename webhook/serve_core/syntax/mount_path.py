"""Paths at which containers mount volumes."""

import posixpath


def normalized(path: str) -> str:
    """The one spelling of a path. The kubelet and the container runtime read mnt/models and //mnt/models as
    /mnt/models."""
    return posixpath.normpath("/" + path.lstrip("/"))
