"""What pods may say of Istio's sidecar where something rests on it: an allow-list.

A rule on ``auth`` or ``mesh`` is enforced by the sidecar, and pods can say a lot to it and about it: which ports it
sees, which configuration it takes, whose program it is. What is not known to be harmless here counts as a way past it.

Sources: Istio 1.29, ``istio.io/api`` ``annotation/annotations.gen.go`` and ``label/labels.gen.go`` (the keys),
``pkg/kube/inject`` (what the injector takes over from a pod, and what it writes itself), ``tools/istio-iptables``
(whose traffic is not redirected).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from serve_core.base.constants import LOADER_CONTAINER
from serve_core.base.json import JsonObject, value_at
from serve_core.base.reasons import quote
from serve_core.context.cluster import LoaderConfig
from serve_core.context.istio import INJECT_LABEL, PROXY_RESOURCES, REVISION_LABEL, Redirects
from serve_core.istio.injection import CANONICAL_NAME_LABEL, NATIVE_ANNOTATION, PROBES_ANNOTATION, PROXY_UID
from serve_core.workload import loader_container
from serve_core.workload.loader_container import LoaderRequest

MOST = 100
"""Ways past the sidecar that are reported of one template; one is enough to refuse it."""

_SIDECAR = "sidecar.istio.io/"
_DOMAIN = "istio.io"
"""Keys of this domain and of those below it are Istio's, those of its later versions too."""
_OTHERS = frozenset({"v1.multus-cni.io/default-network", "apm.datadoghq.com/env"})
"""Keys of others that reach the sidecar: another network for the pod is one without Istio's plugin in it, and the
injector makes variables of the sidecar's of what is under the last."""

_Check = Callable[[str], bool]
_WORD = re.compile(r"[A-Za-z0-9_.,:/*%+-]{0,512}")
_NUMBER = re.compile(r"[0-9]{1,6}")


def _one_of(*values: str) -> _Check:
    return frozenset(values).__contains__


def _word(value: str) -> bool:
    """Whether a value can be no more than that: Istio writes some of them, as they are, into YAML or JSON."""
    return bool(_WORD.fullmatch(value))


def _number(value: str) -> bool:
    return bool(_NUMBER.fullmatch(value))


_CONFIG = re.compile(
    r"(holdApplicationUntilProxyStarts|concurrency|drainDuration|terminationDrainDuration): ?[A-Za-z0-9]{1,16}"
)


def _config(value: str) -> bool:
    """Whether each line of a proxy's configuration is plain, and about how it starts and ends."""
    return all(_CONFIG.fullmatch(line) for line in value.splitlines() if line)


_HARMLESS: Mapping[str, _Check] = {
    # Whether, and by which revision: serve_core.istio.injection decides it, and policies judge the result.
    INJECT_LABEL: _word,
    REVISION_LABEL: _word,
    NATIVE_ANNOTATION: _one_of("true", "false"),
    PROBES_ANNOTATION: _one_of("true", "false"),
    CANONICAL_NAME_LABEL: _word,
    "service.istio.io/canonical-revision": _word,
    "service.istio.io/workload-name": _word,
    **dict.fromkeys(PROXY_RESOURCES, _word),
    # How the redirect is made. NONE is what makes none.
    f"{_SIDECAR}interceptionMode": _one_of("REDIRECT", "TPROXY"),
    f"{_SIDECAR}proxyImageType": _one_of("default", "debug", "distroless"),
    "proxy.istio.io/config": _config,
    # What it writes into its log, and which numbers it keeps.
    f"{_SIDECAR}logLevel": _word,
    f"{_SIDECAR}componentLogLevel": _word,
    f"{_SIDECAR}agentLogLevel": _word,
    f"{_SIDECAR}extraStatTags": _word,
    f"{_SIDECAR}statsInclusionPrefixes": _word,
    f"{_SIDECAR}statsInclusionSuffixes": _word,
    f"{_SIDECAR}statsCompression": _word,
    f"{_SIDECAR}statsEvictionInterval": _word,
    "prometheus.istio.io/merge-metrics": _one_of("true", "false"),
    # When it counts as ready, but for the port, which is never redirected.
    "readiness.status.sidecar.istio.io/initialDelaySeconds": _number,
    "readiness.status.sidecar.istio.io/periodSeconds": _number,
    "readiness.status.sidecar.istio.io/failureThreshold": _number,
    "security.istio.io/tlsMode": _one_of("istio"),
}
"""Labels and annotations of a pod, each with the values that take nothing past the sidecar."""

_WRITTEN = frozenset({f"{_SIDECAR}status", "topology.istio.io/network"})
"""What the injector writes on a pod, beside how it redirects."""

_CONTAINERS = re.compile(r"istio-.*|enable-core-dump", re.DOTALL)
"""Names of containers that the injector adds. One of the user's is laid over them: its image, variables and user."""
_VOLUMES = re.compile(
    r"istio.*|workload-(socket|certs)|credential-socket|gke-workload-certificate|custom-bootstrap-volume|lightstep-certs",
    re.DOTALL,
)
"""Names of the sidecar's own volumes: who mounts one has its socket, its token or its configuration."""
_CAPABILITIES = frozenset({"NET_BIND_SERVICE", "CAP_NET_BIND_SERVICE"})
"""Capabilities with which no redirect is undone; the ones that the Pod Security Standard ``restricted`` allows."""


@dataclass(frozen=True)
class Stray:
    """Something that can lead past the sidecar."""

    what: str
    """As messages say it."""
    path: str


def strays(
    template: JsonObject, path: str, loaders: tuple[LoaderConfig, ...], *, injected: Redirects | None = None
) -> Iterator[Stray]:
    """What in a pod's template, which stands at ``path``, can lead past the sidecar or change what it enforces: the
    first :data:`MOST` of it.

    ``loaders`` are those that may be the sidecar's user, as they are where it starts after them: they have ended before
    anything serves. ``injected``: it is a pod that the injector has been at, not a template, and this is what it says
    of the redirect by Istio's settings (:attr:`.IstioInstallation.redirects`). Whether there is a
    sidecar at all is not asked here (:meth:`.IstioInstallation.injects`).
    """
    return islice(_strays(template, path, loaders, injected), MOST)


def _strays(
    template: JsonObject, path: str, loaders: tuple[LoaderConfig, ...], injected: Redirects | None
) -> Iterator[Stray]:
    at = f"{path}." if path else ""
    for kind in ("annotations", "labels"):
        texts = value_at(template, "metadata", kind)
        for key, value in (texts if isinstance(texts, dict) else {}).items():
            if _is_istios(str(key)) and not _is_harmless(str(key), str(value), injected):
                shown = quote(key)[1:-1]
                yield Stray(f"{kind[:-1]} {shown} with {quote(value)}", f"{at}metadata.{kind}[{shown}]")
    pod = value_at(template, "spec")
    if isinstance(pod, dict):
        yield from _of_pod(pod, f"{at}spec", loaders, injected=injected is not None)


def _is_istios(key: str) -> bool:
    domain = key.partition("/")[0].lower()
    return domain == _DOMAIN or domain.endswith(f".{_DOMAIN}") or key in _OTHERS


def _is_harmless(key: str, value: str, injected: Redirects | None) -> bool:
    if injected is not None and (key in _WRITTEN or value in injected.get(key, ())):
        return True
    check = _HARMLESS.get(key)
    return check is not None and check(value)


def _of_pod(pod: JsonObject, path: str, loaders: tuple[LoaderConfig, ...], *, injected: bool) -> Iterator[Stray]:
    for key, why in (
        ("hostNetwork", "the node's network"),
        ("hostPID", "the node's process namespace"),
        ("shareProcessNamespace", "a shared process namespace"),
    ):
        if pod.get(key):
            yield Stray(why, f"{path}.{key}")
    # The sidecar asks the same names for its control plane.
    if pod.get("hostAliases"):
        yield Stray("a list of host addresses in the pod", f"{path}.hostAliases")
    if pod.get("hostnameOverride"):
        yield Stray("a host name set by the pod", f"{path}.hostnameOverride")
    if pod.get("dnsPolicy") not in (None, "ClusterFirst", "ClusterFirstWithHostNet"):
        yield Stray(f"dnsPolicy {quote(pod['dnsPolicy'])}", f"{path}.dnsPolicy")
    # An installation may have the injector add searches.
    for key in ("nameservers",) if injected else ("nameservers", "searches"):
        if value_at(pod, "dnsConfig", key):
            yield Stray(f"a DNS setting of the pod ({key})", f"{path}.dnsConfig.{key}")
    yield from _of_user(pod.get("securityContext"), f"{path}.securityContext")
    yield from _of_containers(pod, path, loaders, injected=injected)
    for index, volume in enumerate([] if injected else _list(pod.get("volumes"))):
        name = str(value_at(volume, "name"))
        if _VOLUMES.fullmatch(name):
            yield Stray(f"a volume with the sidecar's name {quote(name)}", f"{path}.volumes[{index}].name")


def _of_containers(pod: JsonObject, path: str, loaders: tuple[LoaderConfig, ...], *, injected: bool) -> Iterator[Stray]:
    for key in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(_list(pod.get(key))):
            if not isinstance(container, dict):
                continue
            at, name = f"{path}.{key}[{index}]", str(container.get("name"))
            if _CONTAINERS.fullmatch(name):
                if not injected:
                    yield Stray(f"a container with Istio's name {quote(name)}", f"{at}.name")
                continue
            context, at = container.get("securityContext"), f"{at}.securityContext"
            if not (key == "initContainers" and _is_loader(container, pod, loaders)):
                yield from _of_user(context, at)
            if value_at(context, "privileged"):
                yield Stray("a privileged container", f"{at}.privileged")
            added = value_at(context, "capabilities", "add")
            if added and not (isinstance(added, list) and all(str(each).upper() in _CAPABILITIES for each in added)):
                shown = quote(", ".join(map(str, _list(added))))
                yield Stray(f"a container with capabilities {shown}", f"{at}.capabilities.add")


def _is_loader(container: JsonObject, pod: JsonObject, loaders: tuple[LoaderConfig, ...]) -> bool:
    named = container.get("name") == LOADER_CONTAINER
    return named and isinstance(loader_container.read(container, pod, loaders), LoaderRequest)


def _of_user(context: Any, path: str) -> Iterator[Stray]:
    for key in ("runAsUser", "runAsGroup"):
        if value_at(context, key) == PROXY_UID:
            yield Stray(f"the sidecar's {key} {PROXY_UID}", f"{path}.{key}")


def _list(node: Any) -> list[Any]:
    return node if isinstance(node, list) else []
