"""Knative's manifests, put together from the Go modules its programs are built from."""

import string
import tempfile
from pathlib import Path

from localcluster import build, pins, places
from localcluster.build import Binaries
from localcluster.commands import run

LEFT_OUT = {
    # Instances of custom resources, of use only with cert-manager and with a caching controller.
    "300-knativecertificate.yaml",
    "999-cache.yaml",
    # One replica of each is enough.
    "activator-hpa.yaml",
    "webhook-hpa.yaml",
    # Replaced by config-observability.
    "tracing.yaml",
}
MODULES = ("knative.dev/serving", "knative.dev/networking", "knative.dev/caching")


async def manifest(binaries: Binaries) -> Path:
    """The file to apply, in the cache."""
    ours = sorted(places.MANIFESTS.glob("knative/*.yaml"))
    key = build.fingerprint(
        [binaries.folders["knative"].name.encode(), *(path.read_bytes() for path in (*ours, Path(__file__)))]
    )
    target = places.cache() / "manifests" / f"knative-{key}.yaml"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        for path in ours:
            (there / path.name).write_text(string.Template(path.read_text()).substitute(domain=pins.DOMAIN))
        (there / "upstream.yaml").write_text(_upstream(await build.module_folders("knative", *MODULES)))
        rendered = await run(binaries.path("kubernetes", "kubectl"), "kustomize", folder)
    unfinished = target.with_suffix(".new")
    unfinished.write_text(rendered)
    unfinished.replace(target)
    return target


def _upstream(sources: list[Path]) -> str:
    serving, networking, caching = (source / "config" for source in sources)
    # The module archive has no symbolic links: what serving links to in the other two is taken from there.
    files = [*sorted((serving / "core").rglob("*.yaml")), *sorted(networking.glob("*.yaml")), caching / "image.yaml"]
    text = "\n---\n".join(path.read_text() for path in files if path.name not in LEFT_OUT)
    for image in pins.KNATIVE:
        text = text.replace(f"ko://knative.dev/serving/cmd/{image.binary}", image.reference)
    return text
