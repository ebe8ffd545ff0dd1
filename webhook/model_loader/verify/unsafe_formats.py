"""Files that may run code when a model server loads them: the report names them for people to decide.

A pickle is a program, and most formats of Python libraries contain pickles. `auto_map` in a configuration of Hugging
Face's transformers names classes in the repository's own Python files.
"""

import json
import os
from pathlib import Path

from model_loader.plan.paths import below

_SUFFIXES = (".pkl", ".pickle", ".joblib", ".bin", ".pt", ".pth", ".ckpt", ".mar", ".py")
_CONFIGURATION_BYTES = 4 << 20


def names(folder: Path) -> list[str]:
    """Return the relative paths of such files below `folder`, sorted. Raises OSError."""
    found: list[str] = []
    for parent, _, files in os.walk(folder):
        place = "" if parent == str(folder) else os.path.relpath(parent, folder)
        for name in files:
            lower = name.lower()
            if lower.endswith(_SUFFIXES) or (lower.endswith("config.json") and _has_auto_map(Path(parent, name))):
                found.append(below(place, name))
    return sorted(found)


def _has_auto_map(path: Path) -> bool:
    if path.stat().st_size > _CONFIGURATION_BYTES:
        return False
    try:
        read_body = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(read_body, dict) and bool(read_body.get("auto_map"))
