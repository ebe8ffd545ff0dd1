"""What may not be there whatever was asked: the starter policies, said once more in a few lines of their own. Pure.

It shares no code with the server. It looks at what is stored, of kinds that serve a model: annotated Deployments,
Knative Services, Configurations and Revisions, pods with the loader, and what leads to them.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

PREFIX = "kubectl-serve.dev/"
POLICIES = ("restricted-sources", "pinned-models", "no-pickle", "private-by-default", "gpu-budget")
"""The starter policies that are held against it; the others ask for a mesh and for keys."""

SOURCES = re.compile(
    r"(s3://models|https://models\.example\.com)(/(?!\.\.)[A-Za-z0-9._/-]*)?|pvc://[a-z0-9.-]+(/[A-Za-z0-9._/-]*)?"
)
IMAGES = re.compile(
    r"(docker\.io/seldonio/mlserver|dev\.local/kubectl-serve|ghcr\.io/kserve|registry\.example\.com/models)[/:@].*"
)
CATALOGUE = re.compile(r"docker\.io/seldonio/mlserver:.*|dev\.local/kubectl-serve/mlserver-.*")
"""Images of the catalogue that the run allows."""
TOLD = ("command", "args", "workingDir", "envFrom")
SERVER = {
    "MLSERVER_MODEL_URI": "$(MODEL_PATH)",
    "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_xgboost.XGBoostModel",
    "MLSERVER_MODELS_DIR": "/nonexistent",
}
"""As their runtime for a format that is allowed has them: no argument of their own, and these variables."""
DATA = ("/mnt/", "/data", "/models", "/srv/")
"""Where a model of the run may appear: elsewhere, its files could be programs of the image."""
ADDED = ("queue-proxy", "istio-proxy", "istio-init")
"""Containers that the platform puts beside the model's."""
PICKLES = (".joblib", ".pkl", ".pickle", ".pt", ".pth", ".pmml")
LOADER = re.compile(r"(.*/)?model-loader([:@].*)?")


def forbidden(manifest: Json) -> Iterator[str]:
    """Which policies an object breaks, each with what it is."""
    kind, metadata = manifest["kind"], manifest["metadata"]
    notes: Json = metadata.get("annotations") or {}
    group = manifest["apiVersion"].partition("/")[0]
    spec: Json = manifest.get("spec") or {}
    if kind == "Pod":
        pod, outer = spec, metadata
        if not any(_is_loader(each) for each in _containers(pod)) and not _cached(pod):
            return
    elif kind == "Revision":
        pod, outer = spec, metadata
    elif kind in ("DomainMapping", "Route") and group == "serving.knative.dev":
        yield from _public(kind, metadata)
        return
    else:
        template: Json = spec.get("template") or {}
        pod, outer = template.get("spec") or {}, template.get("metadata") or {}
        if kind == "Deployment" and f"{PREFIX}model" not in notes:
            return
    yield from _sources(notes, pod)
    yield from _images(pod)
    yield from _servers(pod)
    yield from _pinned(notes, pod)
    yield from _pickle(notes, pod)
    yield from _budget(notes, outer.get("annotations") or {}, pod, spec)
    if group == "serving.knative.dev" and kind == "Service":
        yield from _public(kind, metadata)
    elif notes.get(f"{PREFIX}visibility") == "public":
        yield "private-by-default: a public Deployment"


def _containers(pod: Json) -> list[Json]:
    return [each for key in ("initContainers", "containers", "ephemeralContainers") for each in pod.get(key) or []]


def _is_loader(container: Json) -> bool:
    return container.get("name") == "model-loader" or bool(LOADER.fullmatch(container.get("image") or ""))


CACHE = "cache.kubectl-serve.dev"
WAITS = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); signal.pause()"
HOLDS = ["/opt/model-loader/bin/python", "-I", "-c", WAITS]


def _cached(pod: Json) -> list[list[str]]:
    """The arguments of each volume of the node cache; none where they cannot be read."""
    found = []
    for volume in pod.get("volumes") or []:
        csi = volume.get("csi") or {}
        if csi.get("driver") == CACHE:
            try:
                arguments = json.loads((csi.get("volumeAttributes") or {}).get("arguments") or "")
            except (ValueError, RecursionError):
                arguments = []
            found.append([str(word) for word in arguments] if isinstance(arguments, list) else [])
    return found


def _is_holder(container: Json) -> bool:
    """Whether a container only holds the model's volume while a node loads it."""
    free = ("args", "env", "envFrom", "lifecycle", "workingDir")
    mounts = [each for each in container.get("volumeMounts") or [] if not each["mountPath"].startswith("/var/run/")]
    return (
        container.get("name") == "model-prefetch"
        and str(container.get("image")).startswith("dev.local/kubectl-serve/model-loader:")
        and container.get("command") == HOLDS
        and not any(map(container.get, free))
        and mounts == [{"name": "model", "mountPath": "/mnt/models", "readOnly": True}]
    )


def _uris(notes: Json, pod: Json) -> list[str]:
    written = [part.rpartition("=")[0] or part for part in (notes.get(f"{PREFIX}model") or "").split()]
    arguments = [str(word) for each in _containers(pod) if _is_loader(each) for word in each.get("args") or []]
    arguments += [word for words in _cached(pod) for word in words]
    # One with a space is a store, which a place leads to.
    return [*written, *(word for word in arguments if re.match(r"[a-z0-9]+://[^ ]*$", word, re.IGNORECASE))]


def _sources(notes: Json, pod: Json) -> Iterator[str]:
    for uri in _uris(notes, pod):
        if not SOURCES.fullmatch(uri.rpartition("=")[0] or uri):
            yield f"restricted-sources: {uri[:100]}"
    for words in _cached(pod):
        if "--" not in words or words[-1] == "--":
            yield "restricted-sources: a volume of the node cache without a model"
        if any(
            word.startswith("--") and word not in ("--", "--digest", "--files", "--hub-cache", "--store")
            for word in words
        ):
            yield "restricted-sources: an option of a volume of the node cache"
    for volume in pod.get("volumes") or []:
        reference = str((volume.get("image") or {}).get("reference") or "")
        if reference and not SOURCES.fullmatch(f"oci://{reference}"):
            yield f"restricted-sources: image volume {reference[:100]}"
    if any(_is_loader(each) for each in _containers(pod)) or f"{PREFIX}model" in notes:
        for field in ("hostAliases", "dnsConfig", "hostNetwork"):
            if pod.get(field):
                yield f"restricted-sources: {field}"


def _images(pod: Json) -> Iterator[str]:
    for container in _containers(pod):
        image = str(container.get("image") or "")
        if container.get("name") not in ADDED and not IMAGES.fullmatch(image):
            yield f"restricted-sources: image {image[:100]}"


def _servers(pod: Json) -> Iterator[str]:
    """A server of one's own may read another model, whatever is pinned or allowed."""
    for container in pod.get("containers") or []:
        if _is_holder(container):
            continue
        own = not CATALOGUE.fullmatch(str(container.get("image") or "")) or any(map(container.get, TOLD))
        values = {each["name"]: each.get("value") for each in container.get("env") or []}
        own |= not SERVER.items() <= values.items()
        mounts = container.get("volumeMounts") or []
        models = ["/mnt/models", *(mount["mountPath"] for mount in mounts if mount["name"] == "model")]
        own |= any(mount["mountPath"].startswith(tuple(models)) and mount["name"] != "model" for mount in mounts)
        own |= not all(path.startswith(DATA) for path in models)
        if container.get("name") not in ADDED and own:
            for policy in ("restricted-sources", "pinned-models", "no-pickle"):
                yield f"{policy}: a server of one's own"


def _pinned(notes: Json, pod: Json) -> Iterator[str]:
    """None of the allowed sources has revisions, so there has to be a digest."""
    if f"{PREFIX}model" in notes and not re.fullmatch("sha256:[0-9a-f]{64}", notes.get(f"{PREFIX}digest") or ""):
        yield "pinned-models: no digest"
    for loader in (each for each in _containers(pod) if _is_loader(each) and not _is_holder(each)):
        if "--digest" not in (loader.get("args") or []):
            yield "pinned-models: a loader without a digest"
        if loader.get("command"):
            yield "pinned-models: a loader with a command of its own"
    for words in _cached(pod):
        if "--digest" not in words:
            yield "pinned-models: a volume of the node cache without a digest"


def _pickle(notes: Json, pod: Json) -> Iterator[str]:
    formats = (notes.get(f"{PREFIX}format") or "").partition("=")[0].partition(":")[0]
    if formats in ("sklearn", "pytorch", "mlflow", "pmml"):
        yield f"no-pickle: {formats}"
    if any(uri.lower().endswith(PICKLES) for uri in _uris(notes, pod)):
        yield "no-pickle: a pickle by its name"
    for container in _containers(pod):
        words = [*(container.get("command") or []), *(container.get("args") or [])]
        if re.search("--(trust[-_]remote[-_]code|allow[-_]pickle)", " ".join(map(str, words))):
            yield "no-pickle: an argument"
        names = [variable.get("name") for variable in container.get("env") or []]
        if {"TRUST_REMOTE_CODE", "HF_HUB_TRUST_REMOTE_CODE"} & set(names):
            yield "no-pickle: a variable"


def _public(kind: str, metadata: Json) -> Iterator[str]:
    if kind == "DomainMapping":
        yield "private-by-default: a DomainMapping"
    elif (metadata.get("labels") or {}).get("networking.knative.dev/visibility") != "cluster-local":
        yield f"private-by-default: a public {kind}"


_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "m": 1e-3, "": 1}


def _amount(text: Any) -> float:
    found = re.fullmatch(r"([0-9.]+)(Ki|Mi|Gi|Ti|k|M|G|T|m|)", str(text))
    return float(found[1]) * _UNITS[found[2]] if found else float("inf")


def _budget(notes: Json, template: Json, pod: Json, spec: Json) -> Iterator[str]:
    gpus = memory = 0.0
    for container in pod.get("containers") or []:
        resources = container.get("resources") or {}
        wanted = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
        gpus += _amount(wanted.get("nvidia.com/gpu", 0))
        memory += _amount(wanted.get("memory", 0))
    if gpus > 1:
        yield f"gpu-budget: {gpus:g} GPUs a replica"
    if memory > 64 * 2**30:
        yield f"gpu-budget: {memory / 2**30:g} GiB a replica"
    most = [template.get("autoscaling.knative.dev/max-scale"), template.get("autoscaling.knative.dev/initial-scale")]
    scale = (notes.get(f"{PREFIX}scale") or "").rpartition("..")[2]
    numbers = [float(text) for text in (*most, scale) if text and str(text).isdigit()]
    numbers.append(float(spec.get("replicas") or 0))
    # A model for which nobody says it is given 0..4 by the policy.
    unbounded = not any(numbers) and f"{PREFIX}model" not in notes
    if gpus and (unbounded or max(numbers) * gpus > 4):
        yield "gpu-budget: more than 4 GPUs"
