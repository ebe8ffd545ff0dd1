"""Paths at which containers mount volumes, and those at which a model can be mounted."""

import posixpath
import re

from serve_core.base.constants import HUB_MOUNT, MODEL_VOLUME_MOUNT

_PLAIN = re.compile(r"(/[A-Za-z0-9._-]+)+", re.ASCII)
"""Neither a ``:``, nor what a shell, the kubelet (``$(NAME)``) or a reader of URIs (``%2e``) would read differently."""
_LONGEST = 255
_SYSTEM = re.compile(
    r"/(bin|boot|dev|etc|lib|lib32|lib64|libx32|proc|run|sbin|sys|usr(?!/src/)|var/lock|var/run)(/.*)?", re.ASCII
)
"""Programs, libraries, devices and settings of every image, and the tokens that the platform mounts. Images keep
applications below ``/usr/src``."""
_SHARED = frozenset({
    "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp", "/var", "/var/cache", "/var/lib",  # noqa: S108
    "/var/log", "/var/spool", "/var/tmp",  # noqa: S108
})  # fmt: skip
"""Folders of the Filesystem Hierarchy Standard that hold folders of several programs, or to which programs write."""
_OURS = (HUB_MOUNT, MODEL_VOLUME_MOUNT)

FOR_DATA = (
    "/data", "/media", "/mnt", "/model", "/model-repository", "/model-store", "/model_repository", "/models",
    "/opt/ml/model", "/repository", "/srv", "/weights",
)  # fmt: skip
"""Folders in which images keep data, and no programs: by the Filesystem Hierarchy Standard, or by a convention of model
servers."""


def normalized(path: str) -> str:
    """The one spelling of a path. The kubelet and the container runtime read mnt/models and //mnt/models as
    /mnt/models."""
    return posixpath.normpath("/" + path.lstrip("/"))


def is_within(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder``, or below it. Both are normalized."""
    return f"{path}/".startswith(folder.rstrip("/") + "/")


def fault(path: str) -> str | None:
    """Why no model can be mounted at ``path``, as a sentence without its period; ``None`` if it can."""
    if not path.startswith("/"):
        return "It must be absolute"
    if len(path) > _LONGEST:
        return f"It is longer than {_LONGEST} characters"
    plain = normalized(path)
    if plain != "/" and not _PLAIN.fullmatch(plain):
        return "Only letters, digits, dots, underscores and hyphens can stand between its slashes"
    if plain != path:
        return f"Its normalized form is {plain}"
    if _SYSTEM.fullmatch(path):
        return "The model would hide files that the container needs to start"
    if path == "/" or path in _SHARED:
        return f"The model would hide everything else there. Use a folder in it, such as {path.rstrip('/')}/models"
    ours = next((each for each in _OURS if is_within(path, each)), None)
    return None if ours is None else f"kubectl-serve mounts another volume at {ours}"


def is_for_data(path: str) -> bool:
    """Whether a model at ``path`` cannot take the place of programs, code or settings of an image."""
    return fault(path) is None and any(is_within(path, folder) for folder in FOR_DATA)
