"""How Istio is installed, read from its raw objects by :func:`detect`, and which pods it injects.

Source: Istio 1.29, the chart's ``mutatingwebhook.yaml`` (which pods are injected).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from serve_core.base.json import JsonObject, value_at
from serve_core.syntax import version as versions
from serve_core.syntax.version import Version

NAMESPACE = "istio-system"
"""Where Istio's control plane keeps its configuration."""
KNATIVE_NAMESPACE = "knative-serving"

INJECTION_LABEL = "istio-injection"
REVISION_LABEL = "istio.io/rev"
TAG_LABEL = "istio.io/tag"
AMBIENT_LABEL = "istio.io/dataplane-mode"
INJECT_LABEL = "sidecar.istio.io/inject"
PROXY_RESOURCES = {
    "sidecar.istio.io/proxyCPU": ("requests", "cpu"),
    "sidecar.istio.io/proxyCPULimit": ("limits", "cpu"),
    "sidecar.istio.io/proxyMemory": ("requests", "memory"),
    "sidecar.istio.io/proxyMemoryLimit": ("limits", "memory"),
}
"""Annotation to its place in the installation's values. If one is set, Istio ignores its defaults of all four."""

INJECTORS = "app=sidecar-injector"
"""Label selector of Istio's mutating webhook configurations: one for each revision and tag."""

_YES = ("y", "yes", "true", "on")
"""Values of :data:`INJECT_LABEL` that ask for a sidecar, in any case; all others decline (``injectRequired``)."""

_TRAFFIC = "traffic.sidecar.istio.io/"
_NAMESPACE_LABELS = frozenset({INJECTION_LABEL, REVISION_LABEL, AMBIENT_LABEL})
DEFAULT_REVISION = "default"
Redirects = Mapping[str, frozenset[str]]
"""Annotation to the values that the injector writes on pods by Istio's own settings."""


@dataclass(frozen=True)
class Revision:
    """One control plane of Istio. ``None``: the value could not be read."""

    name: str
    version: Version | None = None
    cni: bool | None = None
    """Whether a node agent redirects the pod's traffic before any container starts; otherwise ``istio-init`` does."""
    native: bool | None = None
    """The installation's setting of native sidecars; ``None``: Istio's own default."""
    registry_only: bool = False
    """Whether pods reach only hosts in the mesh's registry."""
    dns_capture: bool = False
    """Whether the sidecar answers the pod's DNS lookups."""
    everywhere: bool = False
    """Whether pods are injected if neither they nor their namespace ask."""
    only_when_asked: bool = False
    """Whether the pod itself must ask, even if its namespace does."""
    never: tuple[JsonObject, ...] = ()
    """Label selectors of pods that get no sidecar unless they themselves ask for one."""
    always: tuple[JsonObject, ...] = ()
    """Label selectors of pods that get a sidecar without asking; ``never`` comes first."""
    probes_rewritten: bool = True
    openshift: bool = False
    """On OpenShift each namespace has its own range of users, and the sidecar's user is not 1337."""
    trust_domain: str = "cluster.local"
    redirect: Mapping[str, str] = field(default_factory=lambda: _redirect({}))
    """Which traffic is redirected to the sidecar by default, by the annotation that changes it."""
    proxy_resources: Mapping[str, str] = field(default_factory=dict)
    """The sidecar's default resources, by the annotation that sets each."""


@dataclass(frozen=True)
class IstioInstallation:
    """How Istio is installed in the cluster."""

    revisions: tuple[Revision, ...]
    tags: Mapping[str, str] = field(default_factory=dict)
    """Revision tag to the revision it stands for."""
    kubelet: Version | None = None
    """The oldest kubelet; ``None``: not known."""
    ambient: bool = False
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Every namespace with its labels about the mesh."""
    hosts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Hosts of ServiceEntries to the namespaces that see them; ``*`` is every namespace."""

    def revision(self, name: str) -> Revision | None:
        """The revision of that name or tag."""
        name = self.tags.get(name, name)
        return next((revision for revision in self.revisions if revision.name == name), None)

    @property
    def redirects(self) -> Redirects:
        """The annotations about the redirect that the injector writes on pods that had none."""
        found: dict[str, frozenset[str]] = {}
        for revision in self.revisions:
            for key, value in revision.redirect.items():
                found[key] = found.get(key, frozenset()) | {value}
        return found

    def injects(self, namespace: str, template: JsonObject | None = None) -> bool:
        """Whether pods of ``namespace`` get a sidecar: those of a ``template``, or those without labels."""
        if value_at(template, "spec", "hostNetwork"):
            return False
        labels, annotations = (value_at(template, "metadata", kind) or {} for kind in ("labels", "annotations"))
        return injection_of(self.namespaces.get(namespace, {}), labels, annotations, self).revision is not None


class Injection(NamedTuple):
    """Whether Istio injects a sidecar into a pod."""

    why: str
    """The reason, as sentences continue after "because"."""
    revision: Revision | None = None
    """The revision that injects the pod; ``None`` if none does."""
    if_asked: Revision | None = None
    """The revision that would inject the pod if the pod itself asked, and only then."""


def injection_of(
    namespace: Mapping[str, str], labels: Mapping[str, str], annotations: Mapping[str, str], istio: IstioInstallation
) -> Injection:
    """Whether a pod with these labels and annotations gets a sidecar. ``namespace``: the labels of its namespace."""
    wish = labels.get(INJECT_LABEL)
    if wish == "false":
        return Injection(f"the pods' label {INJECT_LABEL} is false")
    if INJECTION_LABEL in namespace:
        if namespace[INJECTION_LABEL] != "enabled":
            return Injection(f"the namespace's label {INJECTION_LABEL} is {namespace[INJECTION_LABEL]}")
        name, why = DEFAULT_REVISION, f"the namespace's label {INJECTION_LABEL} is enabled"
    elif REVISION_LABEL in namespace:
        name = namespace[REVISION_LABEL]
        why = f"the namespace's label {REVISION_LABEL} is {name}"
    elif REVISION_LABEL in labels:
        name = labels[REVISION_LABEL]
        why = f"the pods' label {REVISION_LABEL} is {name}"
    elif wish == "true":
        name, why = DEFAULT_REVISION, f"the pods' label {INJECT_LABEL} is true"
    else:
        default = istio.revision(DEFAULT_REVISION)
        if default is None or not default.everywhere:
            return Injection("neither the namespace nor the pods request one")
        name, why = DEFAULT_REVISION, "Istio injects sidecars in every namespace"
    revision = istio.revision(name)
    if revision is None:
        missing = f"{why}, but there is no Istio revision with this name"
        return Injection(missing if name != DEFAULT_REVISION else "no Istio revision is the default")
    where, value = _inject_value(labels, annotations)
    if declines(labels, annotations):
        return Injection(f"the pods' {where} {INJECT_LABEL} is {value}")
    if not value and any(_selects(selector, labels) for selector in revision.never):
        return Injection("Istio's neverInjectSelector matches the pods")
    asked = value or any(_selects(selector, labels) for selector in revision.always)
    if not asked and revision.only_when_asked:
        return Injection("Istio injects only pods that request it themselves", if_asked=revision)
    return Injection(why, revision)


def _inject_value(labels: Mapping[str, str], annotations: Mapping[str, str]) -> tuple[str, str]:
    """Where a pod asks for or declines a sidecar, and the value there. The label comes before the annotation."""
    if INJECT_LABEL in labels:
        return "label", labels[INJECT_LABEL]
    return "annotation", annotations.get(INJECT_LABEL, "")


def declines(labels: Mapping[str, str], annotations: Mapping[str, str]) -> bool:
    """Whether pods with these labels and annotations decline a sidecar."""
    _, value = _inject_value(labels, annotations)
    return bool(value) and value.lower() not in _YES


def _selects(selector: JsonObject, labels: Mapping[str, str]) -> bool:
    """Whether a label selector as Istio's values have it, without a check of its form, selects these labels."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for each in selector.get("matchExpressions") or []:
        key, values = each.get("key"), each.get("values") or []
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not holds.get(each.get("operator"), False):
            return False
    return True


def is_ambient(namespace: Mapping[str, str], labels: Mapping[str, str], istio: IstioInstallation) -> bool:
    """Whether ambient mode covers a pod. ``namespace``: the labels of its namespace."""
    return istio.ambient and labels.get(AMBIENT_LABEL, namespace.get(AMBIENT_LABEL)) == "ambient"


# --- Detection


def detect(
    *,
    injectors: Iterable[JsonObject] = (),
    config_maps: Iterable[JsonObject] = (),
    nodes: Iterable[JsonObject] = (),
    namespaces: Iterable[JsonObject] = (),
    daemon_sets: Iterable[JsonObject] = (),
    service_entries: Iterable[JsonObject] = (),
) -> IstioInstallation | None:
    """Read from raw Kubernetes objects how Istio is installed; ``None`` if it is not.

    ``injectors`` are the MutatingWebhookConfigurations with :data:`INJECTORS`, ``config_maps`` and ``daemon_sets``
    those of :data:`NAMESPACE`. What is missing among them counts as unknown, never as absent.
    """
    names: dict[str, Version | None] = {}
    tags: dict[str, str] = {}
    for injector in injectors:
        labels = _labels(injector)
        name = labels.get(REVISION_LABEL, DEFAULT_REVISION)
        if TAG_LABEL in labels:
            tags[labels[TAG_LABEL]] = name
        names.setdefault(name, versions.parse(labels.get("app.kubernetes.io/version")))
    values, meshes = {}, {}
    for config_map in config_maps:
        name = _labels(config_map).get(REVISION_LABEL, DEFAULT_REVISION)
        data = config_map.get("data") or {}
        if "values" in data:
            values[name] = _document(data["values"])
            names.setdefault(name, None)
        elif "mesh" in data:
            meshes[name] = _document(data["mesh"])
    ambient = any(_name(daemon_set) == "ztunnel" for daemon_set in daemon_sets)
    if not names and not ambient:
        return None
    return IstioInstallation(
        revisions=tuple(
            _revision(name, names[name], values.get(name), meshes.get(name) or {}) for name in sorted(names)
        ),
        tags=tags,
        kubelet=_oldest(nodes),
        ambient=ambient,
        namespaces={
            _name(namespace): {key: value for key, value in _labels(namespace).items() if key in _NAMESPACE_LABELS}
            for namespace in namespaces
        },
        hosts=_hosts(service_entries),
    )


def _revision(name: str, version: Version | None, values: JsonObject | None, mesh: JsonObject) -> Revision:
    if values is None:
        return Revision(name, version)
    native = str(value_at(values, "pilot", "env", "ENABLE_NATIVE_SIDECARS")).lower()
    resources = {
        key: str(amount)
        for key, (kind, what) in PROXY_RESOURCES.items()
        if (amount := value_at(values, "global", "proxy", "resources", kind, what)) is not None
    }
    metadata = value_at(mesh, "defaultConfig", "proxyMetadata") or {}
    return Revision(
        name,
        versions.parse(value_at(values, "global", "tag")) or version,
        # Istio before 1.22 calls it istio_cni.
        cni=bool(value_at(values, "pilot", "cni", "enabled") or value_at(values, "istio_cni", "enabled")),
        native={"true": True, "false": False}.get(native),
        registry_only=value_at(mesh, "outboundTrafficPolicy", "mode") == "REGISTRY_ONLY",
        dns_capture=str(metadata.get("ISTIO_META_DNS_CAPTURE", "")).lower() == "true",
        everywhere=bool(value_at(values, "sidecarInjectorWebhook", "enableNamespacesByDefault")),
        only_when_asked=value_at(values, "global", "proxy", "autoInject") == "disabled",
        never=_selectors(value_at(values, "sidecarInjectorWebhook", "neverInjectSelector")),
        always=_selectors(value_at(values, "sidecarInjectorWebhook", "alwaysInjectSelector")),
        probes_rewritten=value_at(values, "sidecarInjectorWebhook", "rewriteAppHTTPProbe") is not False,
        openshift="openshift" in (value_at(values, "global", "platform"), value_at(values, "platform"))
        or value_at(values, "pilot", "cni", "provider") == "multus"
        or value_at(values, "istio_cni", "chained") is False,
        redirect=_redirect(value_at(values, "global", "proxy") or {}),
        trust_domain=str(mesh.get("trustDomain") or "cluster.local"),
        proxy_resources=resources,
    )


def _redirect(proxy: JsonObject) -> dict[str, str]:
    """The injector's annotations for the settings ``global.proxy`` (its template, ``excludeInboundPort``)."""
    status, excluded = str(proxy.get("statusPort", 15020)), str(proxy.get("excludeInboundPorts") or "")
    ports = [port for port in excluded.split(",") if port]
    if status not in ("", "0", *ports):
        excluded = ",".join([*ports, status])
    return {
        f"{_TRAFFIC}includeInboundPorts": str(proxy.get("includeInboundPorts", "*")),
        f"{_TRAFFIC}excludeInboundPorts": excluded,
        f"{_TRAFFIC}includeOutboundIPRanges": str(proxy.get("includeIPRanges", "*")),
        f"{_TRAFFIC}excludeOutboundIPRanges": str(proxy.get("excludeIPRanges") or ""),
        f"{_TRAFFIC}excludeOutboundPorts": str(proxy.get("excludeOutboundPorts") or ""),
    }


def _selectors(written: object) -> tuple[JsonObject, ...]:
    return tuple(each for each in written if isinstance(each, dict)) if isinstance(written, list) else ()


def _document(text: object) -> JsonObject | None:
    from serve_core.base.yaml import load_object  # noqa: PLC0415

    return load_object(str(text))


def _oldest(nodes: Iterable[JsonObject]) -> Version | None:
    found = [versions.parse(value_at(node, "status", "nodeInfo", "kubeletVersion")) for node in nodes]
    known = [version for version in found if version is not None]
    return min(known) if known and len(known) == len(found) else None


def _hosts(service_entries: Iterable[JsonObject]) -> dict[str, frozenset[str]]:
    hosts: dict[str, frozenset[str]] = {}
    for entry in service_entries:
        own = value_at(entry, "metadata", "namespace") or ""
        exported = value_at(entry, "spec", "exportTo") or ["*"]
        seen_by = frozenset(own if namespace == "." else str(namespace) for namespace in exported)
        for host in value_at(entry, "spec", "hosts") or []:
            hosts[str(host)] = hosts.get(str(host), frozenset()) | seen_by
    return hosts


def _name(document: JsonObject) -> str:
    return str(value_at(document, "metadata", "name") or "")


def _labels(document: JsonObject) -> Mapping[str, str]:
    return value_at(document, "metadata", "labels") or {}
