"""Knative's manifests, assembled from the Go modules of its programs."""

import string
import tempfile
from pathlib import Path

from localcluster import build, node, paths, pins
from localcluster.build import Binaries
from localcluster.commands import run
from localcluster.product import Product

LEFT_OUT = {
    # Custom resources that only cert-manager and a caching controller use.
    "300-knativecertificate.yaml",
    "999-cache.yaml",
    # One replica of each is enough.
    "activator-hpa.yaml",
    "webhook-hpa.yaml",
    # Replaced by config-observability.
    "tracing.yaml",
}
MODULES = ("knative.dev/serving", "knative.dev/networking", "knative.dev/caching")


async def manifest(product: Product, binaries: Binaries) -> Path:
    """Return the file to apply, in the cache."""
    ours = sorted(paths.MANIFESTS.glob("knative/*.yaml"))
    names = (binaries.folders["knative"].name, product.image_prefix, product.domain, node.CONTROL_PLANE_LABEL)
    parts = [*(name.encode() for name in names), *(path.read_bytes() for path in (*ours, Path(__file__)))]
    target = product.cache / "manifests" / f"knative-{build.fingerprint(parts)}.yaml"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    values = {"domain": product.domain, "control_plane_label": node.CONTROL_PLANE_LABEL}
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        for path in ours:
            (there / path.name).write_text(string.Template(path.read_text()).substitute(values))
        (there / "upstream.yaml").write_text(
            _upstream(product, await build.module_folders(product.cache, "knative", *MODULES))
        )
        rendered = await run(binaries.path("kubernetes", "kubectl"), "kustomize", folder)
    unfinished = target.with_suffix(".new")
    unfinished.write_text(rendered)
    unfinished.replace(target)
    return target


def _upstream(product: Product, sources: list[Path]) -> str:
    serving, networking, caching = (source / "config" for source in sources)
    # The module archive has no symbolic links: read the link targets of serving from the other two modules.
    files = [*sorted((serving / "core").rglob("*.yaml")), *sorted(networking.glob("*.yaml")), caching / "image.yaml"]
    text = "\n---\n".join(path.read_text() for path in files if path.name not in LEFT_OUT)
    for image in pins.KNATIVE:
        text = text.replace(f"ko://knative.dev/serving/cmd/{image.binary}", product.reference(image))
    return text
