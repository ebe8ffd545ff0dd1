"""Images of one static binary, as archives that containerd imports. They need no image builder."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from localcluster import build, pins

NON_ROOT = "65532:65532"
"""The numeric user of distroless images. Knative's pods require a non-root image."""


def write(image: pins.Image, reference: str, binaries: build.Binaries, target: Path) -> Path:
    """Write the archive of an image, under the name `reference`, and return its path."""
    binary = binaries.path(image.module, image.binary)
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
    with tarfile.open(target, mode="w") as archive:
        for name, content in (("manifest.json", manifest), ("config.json", config), ("layer.tar", layer)):
            _add(archive, name, content, 0o644)
    return target


def _layer(binary: Path) -> bytes:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as layer_file:
        scratch = tarfile.TarInfo("tmp")
        scratch.type, scratch.mode = tarfile.DIRTYPE, 0o1777
        layer_file.addfile(scratch)
        _add(layer_file, binary.name, binary.read_bytes(), 0o755)
    return layer.getvalue()


def _add(target: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    # Time and owner of a TarInfo are 0: the same binary gives the same archive.
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    target.addfile(entry, io.BytesIO(content))
