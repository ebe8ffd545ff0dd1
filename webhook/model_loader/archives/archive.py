"""An archive, and the reasons to refuse it."""

import os
from dataclasses import dataclass
from typing import IO

from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import MAX_FILES

MAX_RATIO = 100
"""Maximum compression ratio. Weights hardly compress."""
BUFFER = 1 << 20
"""Bytes of one read."""


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive: its name, whose suffix is its format, and its bytes."""

    name: str
    stream: IO[bytes]

    @property
    def size(self) -> int:
        """The size in bytes."""
        return os.fstat(self.stream.fileno()).st_size


def broken(archive: Archive, error: Exception) -> LoadError:
    """Return the failure for an archive that cannot be read."""
    return LoadError(
        Code.CORRUPTED,
        f"{archive.name} cannot be unpacked: {type(error).__name__}",
        hint="Create the archive again, and upload it.",
        file=archive.name,
    )


def too_many(archive: Archive) -> LoadError:
    """Return the refusal of more files than a model may have."""
    return refused(archive, f"gives the model more than {MAX_FILES:,} files")


def bomb(archive: Archive) -> LoadError:
    """Return the refusal of a decompression bomb."""
    return refused(archive, f"unpacks to more than {MAX_RATIO} times its size")


def refused(archive: Archive, why: str) -> LoadError:
    """Return a refusal. `why` completes a sentence that starts with the archive's name."""
    return LoadError(
        Code.REFUSED,
        f"{archive.name} {why}",
        hint="Create an archive of files and folders only.",
        file=archive.name,
    )
