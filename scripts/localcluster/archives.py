"""Images of one static binary, written as archives that containerd imports. No image builder is needed for them."""

import hashlib
import io
import json
import os
import tarfile
import tempfile
from pathlib import Path

from localcluster import build, pins, places

NON_ROOT = "65532:65532"
"""The numeric user of distroless images; Knative's pods ask for a non-root image."""


def archive(image: pins.Image, binaries: build.Binaries) -> Path:
    """The image's archive in the cache; written if it is not there yet."""
    binary = binaries.path(image.module, image.binary)
    target = places.cache() / "images" / f"{image.name}-{binary.parent.name.rpartition('-')[2]}.tar"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(prefix=f".{image.name}-", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                _write(file, image.reference, binary)
            Path(unfinished).rename(target)
        finally:
            Path(unfinished).unlink(missing_ok=True)
    return target


def _write(file: io.BufferedWriter, reference: str, binary: Path) -> None:
    layer = _layer(binary)
    config = json.dumps(
        {
            "architecture": build.architecture(),
            "os": "linux",
            "config": {"Entrypoint": [f"/{binary.name}"], "User": NON_ROOT, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(fileobj=file, mode="w") as archive_file:
        for name, content in (("manifest.json", manifest), ("config.json", config), ("layer.tar", layer)):
            _add(archive_file, name, content, 0o644)


def _layer(binary: Path) -> bytes:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as layer_file:
        scratch = tarfile.TarInfo("tmp")
        scratch.type, scratch.mode = tarfile.DIRTYPE, 0o1777
        layer_file.addfile(scratch)
        _add(layer_file, binary.name, binary.read_bytes(), 0o755)
    return layer.getvalue()


def _add(target: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    # TarInfo's time and owner are 0: the same binary makes the same archive.
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    target.addfile(entry, io.BytesIO(content))
