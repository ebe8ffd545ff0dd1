"""`file:///path`: a file or folder that is already in the container."""

import os
from pathlib import Path

from model_loader.outcomes import Code, LoadError
from model_loader.plan.model import Context, File, Listing
from model_loader.plan.paths import safe_path
from model_uri import ModelURI


def list_files(uri: ModelURI, context: Context) -> Listing:
    """Return the regular files below the path. Raises LoadError."""
    return files_of(path_of(uri))


def path_of(uri: ModelURI) -> Path:
    """Return the path of a file URI."""
    return Path("/", *uri.segments)


def files_of(root: Path) -> Listing:
    """Return the regular files below an absolute path. Raises LoadError: NotFound, or Refused for links and devices."""
    if not root.exists():
        raise LoadError(Code.NOT_FOUND, f"{root} does not exist")
    if not root.is_dir():
        return Listing((_file(root, root.name),), single=True)
    files: list[File] = []
    for folder, folders, names in os.walk(root):
        for name in sorted(names + [name for name in folders if (Path(folder) / name).is_symlink()]):
            path = Path(folder) / name
            files.append(_file(path, str(path.relative_to(root))))
    if not files:
        raise LoadError(Code.NOT_FOUND, f"{root} holds no file")
    return Listing(tuple(files))


def _file(path: Path, name: str) -> File:
    name = safe_path(name)
    if path.is_symlink() or not path.is_file():
        raise LoadError(Code.REFUSED, f"{name} is not a regular file", hint="Copy the file itself there.", file=name)
    state = path.stat()
    return File(path=name, url=path.as_uri(), size=state.st_size, version=str(state.st_mtime_ns))
