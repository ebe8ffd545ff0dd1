"""What the containers and volumes of a pod use."""

import re
from collections.abc import Container, Iterator, Mapping
from itertools import islice

from serve_core.base import bounds
from serve_core.base.json import JsonObject, list_of, object_at, value_at
from serve_core.context.cluster import ClusterContext
from serve_core.policy.subject import ContainerUse, ImageUse, Origin, PodUse, Use
from serve_core.subjects.origins import loaders, not_as_filled_in, origins
from serve_core.subjects.shapes import Parts, containers, elements
from serve_core.workload import model_server, prefetch
from serve_core.workload.loader_container import LoaderRequest

_EXPANDED = re.compile(r"\$\(([^()]+)\)|\$\{?(\w+)")
"""A variable that Kubernetes or a shell expands."""
_REFERENCE = re.compile(r"\$\$|\$\(([^()]+)\)")
"""A variable that Kubernetes expands, or an escaped dollar sign."""
_MAX_EXPANDED = 8 << 10
"""The maximum of characters after expansion: each variable can contain two others."""


def pod_spec_parts(
    pod: JsonObject, path: str, context: ClusterContext, annotated: str = "", whole: JsonObject | None = None
) -> Parts:
    """What a pod uses. ``whole`` is the pod with the platform's containers, which can be origins of the model too."""
    volumes = list(elements(pod.get("volumes"), f"{path}.volumes"))
    idle = {at for each, at, _ in containers(pod, path) if prefetch.is_container(each, pod, context.known_loaders)}
    parts = container_parts(list(containers(pod, path)), context, loaders(pod, path, context), idle)
    found = islice(origins(whole or pod, path, context, annotated), bounds.MAX_USES + 1)
    parts["origins"] = (*found, *parts["origins"])
    parts["images"] += tuple(
        ImageUse(str(value_at(volume, "image", "reference")), f"{at}.image.reference")
        for volume, at in volumes
        if value_at(volume, "image", "reference")
    )
    secrets = [*parts["secrets"], *(use for volume, at in volumes for use in _volume_secrets(volume, at))]
    if any("image" in volume for volume, _ in volumes):
        secrets += _pull_secrets(pod, path)
    parts["secrets"] = tuple(dict.fromkeys(secrets))
    parts["pods"] = (
        PodUse(
            path,
            parts["containers"],
            _amounts(pod),
            object_at(pod, "overhead"),
            tuple(_claims(pod, path)),
        ),
    )
    account = pod.get("serviceAccountName") or pod.get("serviceAccount") or "default"
    parts["service_accounts"] = (Use(str(account), f"{path}.serviceAccountName"),)
    return parts


def _claims(pod: JsonObject, path: str) -> Iterator[str]:
    if pod.get("resourceClaims"):
        yield f"{path}.resourceClaims"
    for container, at, _ in containers(pod, path):
        if value_at(container, "resources", "claims"):
            yield f"{at}.resources.claims"


def container_parts(
    containers: list[tuple[JsonObject, str, bool]],
    context: ClusterContext,
    read: Mapping[str, LoaderRequest | str] | None = None,
    idle: Container[str] = (),
) -> Parts:
    """What containers use. ``read`` has those that can be the loader, from :func:`loaders`; ``idle`` those that only
    hold the model's volume."""
    origins: list[Origin] = []
    used_images: list[ImageUse] = []
    uses: list[ContainerUse] = []
    secrets: list[Use] = []
    ours = {image for loader in context.known_loaders for image in loader.images}
    for container, at, side in containers:
        found = (read or {}).get(at)
        if container.get("image") and not isinstance(found, LoaderRequest) and at not in idle:
            why = not_as_filled_in(container, found) if str(container["image"]) in ours else ""
            note = f"The loader's image is allowed only in the loader: {why}." if why else ""
            used_images.append(ImageUse(str(container["image"]), f"{at}.image", note))
        environment = list(elements(container.get("env"), f"{at}.env"))
        origins += [
            Origin(str(variable.get("value")), f"{where}.value")
            for variable, where in environment
            if variable.get("name") == "STORAGE_URI"
        ]
        secrets += _container_secrets(container, environment, at)
        uses.append(_container_use(container, environment, at, side))
    return {
        "origins": tuple(origins),
        "images": tuple(used_images),
        "containers": tuple(uses),
        "secrets": tuple(secrets),
    }


def _container_use(
    container: JsonObject, environment: list[tuple[JsonObject, str]], path: str, side: bool
) -> ContainerUse:
    words = [str(word) for key in ("command", "args") for word in list_of(container.get(key))]
    values = [(str(v.get("name")), str(v["value"])) for v, _ in environment if v.get("value") is not None]
    texts = [*words, *(value for _, value in values)]
    taken_in = tuple(
        Use(str(source.get("prefix") or ""), at) for source, at in elements(container.get("envFrom"), f"{path}.envFrom")
    )
    elsewhere = {str(variable.get("name")): at for variable, at in environment if variable.get("valueFrom")}
    written = {str(variable.get("name")) for variable, _ in environment}
    unseen = {}
    for name in (one or other for text in texts for one, other in _EXPANDED.findall(text)):
        if name in elsewhere:
            unseen[name] = elsewhere[name]
        elif name not in written and taken_in:
            unseen[name] = taken_in[0].path
    expanded = _expanded(words, values)
    if expanded is None:
        expanded, unseen["env"] = texts, f"{path}.env"
    return ContainerUse(
        name=str(container.get("name") or path.rpartition(".")[2]),
        path=path,
        amounts=_amounts(container),
        variables=tuple(str(variable.get("name")) for variable, _ in environment),
        texts=(*expanded, *_handlers(container)),
        taken_in=taken_in,
        unseen=tuple(Use(name, at) for name, at in unseen.items()),
        side=side,
    )


def _expanded(words: list[str], values: list[tuple[str, str]]) -> list[str] | None:
    """The values of variables and the arguments, expanded as the kubelet does it: a variable can contain those before
    it. ``None`` where they become longer than the bound."""
    known: dict[str, str] = {}
    left = _MAX_EXPANDED

    def one(text: str) -> str:
        nonlocal left
        left -= sum(len(known.get(name, "")) for name in _REFERENCE.findall(text)) if "$" in text else 0
        if left < 0:
            return text
        return _REFERENCE.sub(lambda found: known.get(found[1], found[0]) if found[1] else "$", text)

    texts = []
    for name, value in values:
        known[name] = one(value)
        texts.append(known[name])
    texts += map(one, words)
    return texts if left >= 0 else None


def _handlers(container: JsonObject) -> Iterator[str]:
    """The words of a container's probe and hook commands."""
    for at in (("lifecycle", "postStart"), ("lifecycle", "preStop"), *((probe,) for probe in model_server.PROBES)):
        yield from map(str, list_of(value_at(container, *at, "exec", "command")))


def _amounts(owner: JsonObject) -> JsonObject:
    return object_at(owner, "resources", "requests") | object_at(owner, "resources", "limits")


def _container_secrets(container: JsonObject, environment: list[tuple[JsonObject, str]], path: str) -> Iterator[Use]:
    for variable, at in environment:
        if name := value_at(variable, "valueFrom", "secretKeyRef", "name"):
            yield Use(str(name), f"{at}.valueFrom.secretKeyRef")
    for source, at in elements(container.get("envFrom"), f"{path}.envFrom"):
        if name := value_at(source, "secretRef", "name"):
            yield Use(str(name), f"{at}.secretRef")


def _pull_secrets(pod: JsonObject, path: str) -> Iterator[Use]:
    """The Secrets with which the kubelet pulls images. They count where an image has data: the loader would get such
    credentials as a volume."""
    for secret, at in elements(pod.get("imagePullSecrets"), f"{path}.imagePullSecrets"):
        if name := secret.get("name"):
            yield Use(str(name), at)


def _volume_secrets(volume: JsonObject, path: str) -> Iterator[Use]:
    for source, at in elements(value_at(volume, "projected", "sources"), f"{path}.projected.sources"):
        if name := value_at(source, "secret", "name"):
            yield Use(str(name), f"{at}.secret")
    for kind, source in volume.items():
        # secret, azureFile, csi, and the secretRef of cephfs, flexVolume, iscsi, rbd, scaleIO and storageos.
        for steps in (("secretName",), ("nodePublishSecretRef", "name"), ("secretRef", "name")):
            if name := value_at(source, *steps):
                yield Use(str(name), f"{path}.{kind}")
