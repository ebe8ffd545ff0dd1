"""Bypasses of Istio's sidecar: an allow-list of what pods can configure about it.

The sidecar enforces rules on ``auth`` and ``mesh``, and pods can configure a lot of it: which ports it sees, its
configuration, its image. Everything that is not known here to be harmless counts as a bypass.

Sources: Istio 1.29, ``istio.io/api`` ``annotation/annotations.gen.go`` and ``label/labels.gen.go`` (the keys),
``pkg/kube/inject`` (what the injector takes over from a pod, and what it writes itself), ``tools/istio-iptables``
(which users' traffic is not redirected).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from serve_core.base.constants import LOADER_CONTAINER
from serve_core.base.json import JsonObject, list_of, value_at
from serve_core.base.reasons import quote
from serve_core.context.cluster import LoaderConfig
from serve_core.context.istio import INJECT_LABEL, PROXY_RESOURCES, REVISION_LABEL, Redirects
from serve_core.istio.injection import CANONICAL_NAME_LABEL, NATIVE_ANNOTATION, PROBES_ANNOTATION, PROXY_UID
from serve_core.workload import loader_container
from serve_core.workload.loader_container import LoaderRequest

MOST = 100
"""Bypasses that are reported of one template; one is enough to refuse it."""

_SIDECAR = "sidecar.istio.io/"
_DOMAIN = "istio.io"
"""Keys of this domain and of its subdomains are Istio's, including keys of later versions."""
_OTHERS = frozenset({"v1.multus-cni.io/default-network", "apm.datadoghq.com/env"})
"""Other keys that reach the sidecar: another network for the pod has no Istio plugin, and the injector turns the last
one into environment variables of the sidecar."""

_Check = Callable[[str], bool]
_WORD = re.compile(r"[A-Za-z0-9_.,:/*%+-]{0,512}")
_NUMBER = re.compile(r"[0-9]{1,6}")


def _one_of(*values: str) -> _Check:
    return frozenset(values).__contains__


def _word(value: str) -> bool:
    """Whether a value is one plain word: Istio inserts some values unquoted into YAML or JSON."""
    return bool(_WORD.fullmatch(value))


def _number(value: str) -> bool:
    return bool(_NUMBER.fullmatch(value))


_CONFIG = re.compile(
    r"(holdApplicationUntilProxyStarts|concurrency|drainDuration|terminationDrainDuration): ?[A-Za-z0-9]{1,16}"
)


def _config(value: str) -> bool:
    """Whether each line of a proxy configuration is plain, and only about its start and its end."""
    return all(_CONFIG.fullmatch(line) for line in value.splitlines() if line)


_HARMLESS: Mapping[str, _Check] = {
    # Whether the pod is injected, and by which revision: serve_core.istio.injection decides, policies judge the result.
    INJECT_LABEL: _word,
    REVISION_LABEL: _word,
    NATIVE_ANNOTATION: _one_of("true", "false"),
    PROBES_ANNOTATION: _one_of("true", "false"),
    CANONICAL_NAME_LABEL: _word,
    "service.istio.io/canonical-revision": _word,
    "service.istio.io/workload-name": _word,
    **dict.fromkeys(PROXY_RESOURCES, _word),
    # How traffic is redirected. NONE would redirect nothing.
    f"{_SIDECAR}interceptionMode": _one_of("REDIRECT", "TPROXY"),
    f"{_SIDECAR}proxyImageType": _one_of("default", "debug", "distroless"),
    "proxy.istio.io/config": _config,
    # Logs and metrics.
    f"{_SIDECAR}logLevel": _word,
    f"{_SIDECAR}componentLogLevel": _word,
    f"{_SIDECAR}agentLogLevel": _word,
    f"{_SIDECAR}extraStatTags": _word,
    f"{_SIDECAR}statsInclusionPrefixes": _word,
    f"{_SIDECAR}statsInclusionSuffixes": _word,
    f"{_SIDECAR}statsCompression": _word,
    f"{_SIDECAR}statsEvictionInterval": _word,
    "prometheus.istio.io/merge-metrics": _one_of("true", "false"),
    # Readiness, without its port: the traffic of that port is never redirected.
    "readiness.status.sidecar.istio.io/initialDelaySeconds": _number,
    "readiness.status.sidecar.istio.io/periodSeconds": _number,
    "readiness.status.sidecar.istio.io/failureThreshold": _number,
    "security.istio.io/tlsMode": _one_of("istio"),
}
"""Labels and annotations of a pod, each with the values that are no bypass."""

_WRITTEN = frozenset({f"{_SIDECAR}status", "topology.istio.io/network"})
"""What the injector writes on a pod, besides the redirect."""

_CONTAINERS = re.compile(r"istio-.*|enable-core-dump", re.DOTALL)
"""Names of containers that the injector adds. A user's container of such a name is merged into it: image, variables and
user."""
_VOLUMES = re.compile(
    r"istio.*|workload-(socket|certs)|credential-socket|gke-workload-certificate|custom-bootstrap-volume|lightstep-certs",
    re.DOTALL,
)
"""Names of the sidecar's volumes: a container that mounts one has its socket, its token or its configuration."""
_PORTS = frozenset({15020, 15021, 15090})
"""Ports of the sidecar itself whose inbound traffic is never redirected to it (``manifests/charts``, the injector's
templates)."""
_CAPABILITIES = frozenset({"NET_BIND_SERVICE", "CAP_NET_BIND_SERVICE"})
"""Capabilities that cannot undo the redirect: those that the Pod Security Standard ``restricted`` allows."""


@dataclass(frozen=True)
class Bypass:
    """Something in a pod template that can lead past the sidecar."""

    what: str
    """As it stands in messages."""
    path: str


def bypasses(
    template: JsonObject, path: str, loaders: tuple[LoaderConfig, ...], *, injected: Redirects | None = None
) -> Iterator[Bypass]:
    """What in the pod template at ``path`` can bypass the sidecar or change what it enforces: the first :data:`MOST`.

    ``loaders`` can run as the sidecar's user, which they do if it starts after them: they end before anything serves.
    ``injected``: the template is an injected pod, and these are the redirect's annotations by Istio's settings
    (:attr:`.IstioInstallation.redirects`). Whether there is a sidecar is a question for
    :meth:`.IstioInstallation.injects`.
    """
    return islice(_bypasses(template, path, loaders, injected), MOST)


def _bypasses(
    template: JsonObject, path: str, loaders: tuple[LoaderConfig, ...], injected: Redirects | None
) -> Iterator[Bypass]:
    at = f"{path}." if path else ""
    for kind in ("annotations", "labels"):
        texts = value_at(template, "metadata", kind)
        for key, value in (texts if isinstance(texts, dict) else {}).items():
            if _is_istios(str(key)) and not _is_harmless(str(key), str(value), injected):
                shown = quote(key)[1:-1]
                yield Bypass(f"{kind[:-1]} {shown} with {quote(value)}", f"{at}metadata.{kind}[{shown}]")
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


def _of_pod(pod: JsonObject, path: str, loaders: tuple[LoaderConfig, ...], *, injected: bool) -> Iterator[Bypass]:
    for key, why in (
        ("hostNetwork", "the node's network"),
        ("hostPID", "the node's process namespace"),
        ("shareProcessNamespace", "a shared process namespace"),
    ):
        if pod.get(key):
            yield Bypass(why, f"{path}.{key}")
    # The sidecar resolves its control plane in the same way.
    if pod.get("hostAliases"):
        yield Bypass("a list of host addresses in the pod", f"{path}.hostAliases")
    if pod.get("hostnameOverride"):
        yield Bypass("a host name set by the pod", f"{path}.hostnameOverride")
    if pod.get("dnsPolicy") not in (None, "ClusterFirst", "ClusterFirstWithHostNet"):
        yield Bypass(f"dnsPolicy {quote(pod['dnsPolicy'])}", f"{path}.dnsPolicy")
    # The injector can be configured to add searches.
    for key in ("nameservers",) if injected else ("nameservers", "searches"):
        if value_at(pod, "dnsConfig", key):
            yield Bypass(f"a DNS setting of the pod ({key})", f"{path}.dnsConfig.{key}")
    yield from _of_user(pod.get("securityContext"), f"{path}.securityContext")
    yield from _of_containers(pod, path, loaders, injected=injected)
    for index, volume in enumerate([] if injected else list_of(pod.get("volumes"))):
        name = str(value_at(volume, "name"))
        if _VOLUMES.fullmatch(name):
            yield Bypass(f"a volume with the sidecar's name {quote(name)}", f"{path}.volumes[{index}].name")


def _of_containers(
    pod: JsonObject, path: str, loaders: tuple[LoaderConfig, ...], *, injected: bool
) -> Iterator[Bypass]:
    for key in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(list_of(pod.get(key))):
            if not isinstance(container, dict):
                continue
            at, name = f"{path}.{key}[{index}]", str(container.get("name"))
            if _CONTAINERS.fullmatch(name):
                if not injected:
                    yield Bypass(f"a container with Istio's name {quote(name)}", f"{at}.name")
                continue
            for place, port in enumerate(list_of(container.get("ports"))):
                number = value_at(port, "containerPort")
                if isinstance(number, int) and number in _PORTS:
                    what = f"port {number}, whose traffic is not redirected to it,"
                    yield Bypass(what, f"{at}.ports[{place}].containerPort")
            context, at = container.get("securityContext"), f"{at}.securityContext"
            if not (key == "initContainers" and _is_loader(container, pod, loaders)):
                yield from _of_user(context, at)
            if value_at(context, "privileged"):
                yield Bypass("a privileged container", f"{at}.privileged")
            added = value_at(context, "capabilities", "add")
            if added and not (isinstance(added, list) and all(str(each).upper() in _CAPABILITIES for each in added)):
                shown = quote(", ".join(map(str, list_of(added))))
                yield Bypass(f"a container with capabilities {shown}", f"{at}.capabilities.add")


def _is_loader(container: JsonObject, pod: JsonObject, loaders: tuple[LoaderConfig, ...]) -> bool:
    named = container.get("name") == LOADER_CONTAINER
    return named and isinstance(loader_container.read(container, pod, loaders), LoaderRequest)


def _of_user(context: Any, path: str) -> Iterator[Bypass]:
    for key in ("runAsUser", "runAsGroup"):
        if value_at(context, key) == PROXY_UID:
            yield Bypass(f"the sidecar's {key} {PROXY_UID}", f"{path}.{key}")
