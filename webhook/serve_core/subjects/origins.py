"""Where the model in a pod comes from: everything that can write where the model server reads.

The loader is compared field by field, and does what its arguments say. Everything else that can write there is a
program that can fetch anything: an unknown origin.
"""

from collections.abc import Collection, Iterator, Mapping

import model_uri
from model_uri import URIError, find_store, uri_of_path
from serve_core.api import models
from serve_core.base.constants import LOADER_CONTAINER, MODEL_MOUNT, MODEL_VOLUME, NODE_CACHE
from serve_core.base.json import JsonObject, list_of, value_at
from serve_core.base.reasons import quote
from serve_core.context.cluster import ClusterContext
from serve_core.policy.subject import Origin
from serve_core.subjects.shapes import containers, elements
from serve_core.syntax import image_reference, mount_path
from serve_core.workload import cache_volume, loader_container, prefetch
from serve_core.workload.loader_container import LoaderRequest
from serve_core.workload.model_server import model_mount

_STORAGE_INITIALIZER = "storage-initializer"
"""KServe's loader, which has its source as an argument as well."""

_CAPABILITIES = frozenset({
    "AUDIT_WRITE", "CHOWN", "FOWNER", "FSETID", "IPC_LOCK", "KILL", "NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW",
    "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME",
})  # fmt: skip
"""Capabilities with which a container writes only to what it mounts."""


def loaders(pod: JsonObject, path: str, context: ClusterContext) -> dict[str, LoaderRequest | str]:
    """The init containers with the loader's name, by path: what each loads, or which of its fields differs from the
    rendered loader."""
    found: dict[str, LoaderRequest | str] = {}
    for container, at in elements(pod.get("initContainers"), f"{path}.initContainers"):
        if container.get("name") == LOADER_CONTAINER:
            # A valid pod has no two of one name. Comparing thousands with the pod's volumes would take minutes.
            found[at] = "name" if found else loader_container.read(container, pod, context.known_loaders)
    return found


def cached(pod: JsonObject, path: str) -> dict[str, LoaderRequest | str]:
    """The volumes of the node cache, by path: what each loads, or which of its fields differs from the rendered one."""
    volumes = elements(pod.get("volumes"), f"{path}.volumes")
    return {at: cache_volume.read(volume) for volume, at in volumes if cache_volume.is_ours(volume)}


def loaded(request: LoaderRequest, path: str, pod: JsonObject, context: ClusterContext) -> Iterator[Origin]:
    """The origins that the loader of ``pod`` loads."""
    digest, key = request.digest is not None, request.signature_key or ""
    for model in request.models:
        store = find_store(model.uri, request.stores)
        adrift = _resolves_otherwise(pod) or (_can_redirect(pod, context) if store and store.is_plain else "")
        yield Origin(str(model.uri), path, digest, key, store, adrift)


def from_cache(request: LoaderRequest | str, path: str) -> Iterator[Origin]:
    """The origins of a volume of the node cache. The driver downloads: nothing in the pod changes how names resolve."""
    if isinstance(request, str):
        why = f"{request} of the volume differs from what kubectl-serve sets"
        yield Origin(f"{NODE_CACHE}:", path, unknown=why)
        return
    for model in request.models:
        store = find_store(model.uri, request.stores)
        yield Origin(str(model.uri), path, request.digest is not None, "", store)


def _resolves_otherwise(pod: JsonObject) -> str:
    """The field that changes how names resolve in a pod; empty where they resolve as the cluster does it."""
    fields = [field for field in ("hostAliases", "hostnameOverride", "dnsConfig", "hostNetwork") if pod.get(field)]
    if pod.get("dnsPolicy") not in (None, "ClusterFirst"):
        fields.append("dnsPolicy")
    return next(iter(fields), "")


def _can_redirect(pod: JsonObject, context: ClusterContext) -> str:
    """The field with a user's container that runs before the loader ends: it shares the loader's network and resolver
    files, so it can answer requests without TLS."""
    if list_of(pod.get("ephemeralContainers")):
        return "ephemeralContainers"
    for container in list_of(pod.get("initContainers")):
        if value_at(container, "name") == LOADER_CONTAINER:
            break
        if str(value_at(container, "image")) not in context.sidecar_images:
            return "initContainers"
    return ""


def origins(pod: JsonObject, path: str, context: ClusterContext, annotated: str = "") -> Iterator[Origin]:
    """Every origin of the model in a pod. ``annotated``: the URI that its Deployment names."""
    read, names, seen = loaders(pod, path, context), loader_names(context), set()
    for container, at, _ in containers(pod, path):
        found = read.get(at)
        if isinstance(found, LoaderRequest):
            yield from loaded(found, f"{at}.args", pod, context)
            seen.add(at)
        elif prefetch.is_container(container, pod, context.known_loaders):
            seen.add(at)
        elif is_called_loader(container, names):
            yield from _claimed(container, at, found)
            seen.add(at)
    for at, volume in cached(pod, path).items():
        yield from from_cache(volume, f"{at}.csi")
    yield from _mounted(pod, path, annotated)
    yield from _written(pod, path, seen, any(isinstance(found, LoaderRequest) for found in read.values()))


def loader_names(context: ClusterContext) -> frozenset[str]:
    """The last path segments of the loaders' images: a copy in another registry is the same program."""
    known = {image for loader in context.known_loaders for image in loader.images}
    return frozenset(name for image in known if (name := _last_name(image)))


def is_called_loader(container: JsonObject, names: Collection[str]) -> bool:
    """Whether a container has the name or the image of kubectl-serve's or KServe's loader, which anybody can write.

    ``names`` are those of :func:`loader_names`.
    """
    image = str(container.get("image"))
    called = container.get("name") in (LOADER_CONTAINER, _STORAGE_INITIALIZER)
    # Most images need not be parsed.
    return called or (any(name in image for name in names) and _last_name(image) in names)


def _last_name(image: str) -> str | None:
    parsed = image_reference.parse_or_none(image)
    return None if parsed is None else parsed.path[-1]


def not_as_filled_in(container: JsonObject, field: str | None) -> str:
    """Why a container with the loader's name or image is not the loader."""
    whose = f"container {quote(container.get('name'))}"
    return (
        f"{field} of {whose} differs from what kubectl-serve sets"
        if field
        else f"{whose} is not kubectl-serve's loader"
    )


def _claimed(container: JsonObject, path: str, field: str | None) -> Iterator[Origin]:
    """The URIs in the arguments of a container that only has the loader's name or image: it can load anything else."""
    words = [str(word) for key in ("command", "args") for word in list_of(container.get(key))]
    uris = [word for word in words if "://" in word]
    if len(uris) > 1:
        uris = [word.rpartition("=")[0] or word for word in uris]
    why = not_as_filled_in(container, field)
    # A loader has no more; the others would be as unknown.
    for uri in uris[: models.MAX_MODELS] or [f"container:{container.get('name')}"]:
        yield Origin(uri, f"{path}.{field}" if field else path, unknown=why)


def _mounted(pod: JsonObject, path: str, annotated: str) -> Iterator[Origin]:
    """Models that are mounted and not loaded: volumes where the model server reads its model."""
    mounts = _read_from(pod)
    annotated, names = canonical(annotated), set()
    for volume, at in elements(pod.get("volumes"), f"{path}.volumes"):
        sources, name = _sources(volume), str(volume.get("name"))
        subpaths = mounts.get(name, {})
        if name in names and subpaths:
            subpaths = {"": None}  # a second volume of that name counts as a whole, not part by part
        names.add(name)
        for subpath in subpaths:
            if "persistentVolumeClaim" in sources:
                text = uri_of_path("pvc", str(value_at(volume, "persistentVolumeClaim", "claimName")), subpath)
                # The claim of the annotation, which names the file in the mounted folder.
                if not (annotated == text or annotated.rpartition("/")[0] == text):
                    yield Origin(text, f"{at}.persistentVolumeClaim")
            elif "image" in sources:
                yield Origin(
                    _artifact(str(value_at(volume, "image", "reference"))), f"{at}.image", by_loader=False, by_node=True
                )
            elif "hostPath" in sources:
                folder = str(value_at(volume, "hostPath", "path")).strip("/")
                yield Origin(uri_of_path("file", "", folder), f"{at}.hostPath")
            elif sources != ["emptyDir"] and not cache_volume.is_ours(volume):
                yield Origin(f"{'/'.join(sources)}:", at)


def _artifact(reference: str) -> str:
    """The URI of an image, with the name in full as the container runtime reads it."""
    try:
        image = image_reference.parse(reference)
    except ValueError:
        return f"oci://{reference}"
    tag, digest = f":{image.tag}" if image.tag else "", f"@{image.digest}" if image.digest else ""
    return f"oci://{image.registry}/{'/'.join(image.path)}{tag}{digest}"


def canonical(text: str) -> str:
    """A URI in canonical form, or unchanged if it cannot be read."""
    try:
        return str(model_uri.parse(text))
    except URIError:
        return text


def _read_from(pod: JsonObject) -> Mapping[str, Mapping[str, None]]:
    """Volumes by name, with their sub-paths that are mounted at the model's folder, below it or above it.

    The default path counts as well where the model is elsewhere: images can read it by themselves.
    """
    found: dict[str, dict[str, None]] = {}
    folders = {MODEL_MOUNT, model_mount(pod)}
    for container, _, _ in containers(pod, ""):
        mounts = [
            (mount_path.normalized(str(mount.get("mountPath"))), mount)
            for mount, _ in elements(container.get("volumeMounts"), "")
        ]
        hidden = {target for target, _ in mounts} & folders
        for target, mount in mounts:
            if any(
                mount_path.is_within(target, folder) or (folder not in hidden and mount_path.is_within(folder, target))
                for folder in folders
            ):
                found.setdefault(str(mount.get("name")), {})[str(mount.get("subPath") or "").strip("/")] = None
    return found


def _written(pod: JsonObject, path: str, known: set[str], with_loader: bool) -> Iterator[Origin]:
    """What can write to the pod's own volumes from which the model is read, except for the containers at ``known``."""
    volumes = list(elements(pod.get("volumes"), f"{path}.volumes"))
    own = {str(volume.get("name")) for volume, _ in volumes if _sources(volume) == ["emptyDir"]}
    own = (own & _read_from(pod).keys()) | ({MODEL_VOLUME} if with_loader else set())
    if not own:
        return
    for container, at, _ in containers(pod, path):
        if at in known:
            continue
        name, whose = f"container:{container.get('name')}", f"container {quote(container.get('name'))}"
        for mount, where in elements(container.get("volumeMounts"), f"{at}.volumeMounts"):
            if str(mount.get("name")) in own and mount.get("readOnly") is not True:
                yield Origin(name, where, unknown=f"{whose} can write to the model's files")
        if field := _power(container):
            yield Origin(name, f"{at}.{field}", unknown=f"{whose} can write to the files of other containers")
    shared = "one container in the pod can write to the files of another"
    for field in ("shareProcessNamespace", "hostPID"):
        if pod.get(field):
            yield Origin("container:", f"{path}.{field}", unknown=shared)
    for volume, at in volumes:
        if "hostPath" in _sources(volume):
            yield Origin("container:", f"{at}.hostPath", unknown="files of the node include the volumes of all pods")


def _power(container: JsonObject) -> str:
    """The field that lets a container reach what it does not mount; empty where there is none."""
    if container.get("targetContainerName"):
        return "targetContainerName"
    context = container.get("securityContext")
    if value_at(context, "privileged"):
        return "securityContext.privileged"
    if value_at(context, "windowsOptions", "hostProcess"):
        return "securityContext.windowsOptions.hostProcess"
    added = {str(name).upper().removeprefix("CAP_") for name in list_of(value_at(context, "capabilities", "add"))}
    return "" if added <= _CAPABILITIES else "securityContext.capabilities.add"


def _sources(volume: JsonObject) -> list[str]:
    return [key for key, value in volume.items() if key != "name" and value is not None]
