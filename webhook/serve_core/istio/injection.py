"""Istio: whether a model's pods get a sidecar, and what the loader needs so that it can download behind one.

:func:`detect` reads an installation out of its raw objects, :func:`decide` says what to set on one Deployment, and why.

Sources: Istio 1.29, the chart's ``mutatingwebhook.yaml`` (who is injected), ``pkg/kube/inject`` (how, and in which
order the containers end up).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from model_uri import ModelURI
from serve_core.api.annotations import MESH, MODEL, ServingSpec, path_of
from serve_core.base.constants import DEPLOYMENT_LABEL, EXPLANATION
from serve_core.base.json import JsonObject, value_at
from serve_core.base.reasons import Choice, Problem, choice, problem, quote
from serve_core.knative.name_conflict import service_name

NAMESPACE = "istio-system"
"""Where Istio's control plane keeps its configuration."""
KNATIVE_NAMESPACE = "knative-serving"

INJECTION_LABEL = "istio-injection"
REVISION_LABEL = "istio.io/rev"
TAG_LABEL = "istio.io/tag"
AMBIENT_LABEL = "istio.io/dataplane-mode"
INJECT_LABEL = "sidecar.istio.io/inject"
CANONICAL_NAME_LABEL = "service.istio.io/canonical-name"
NATIVE_ANNOTATION = "sidecar.istio.io/nativeSidecar"
PROBES_ANNOTATION = "sidecar.istio.io/rewriteAppHTTPProbers"
PROXY_RESOURCES = {
    "sidecar.istio.io/proxyCPU": ("requests", "cpu"),
    "sidecar.istio.io/proxyCPULimit": ("limits", "cpu"),
    "sidecar.istio.io/proxyMemory": ("requests", "memory"),
    "sidecar.istio.io/proxyMemoryLimit": ("limits", "memory"),
}
"""Annotation to its place in the installation's values. Where one is set, Istio forgets its defaults of all four."""

PROXY_UID = 1337
"""The sidecar's own user, whose traffic is never redirected."""

INJECTORS = "app=sidecar-injector"
"""Label selector of Istio's mutating webhook configurations: one for each revision and tag."""

_YES = ("y", "yes", "true", "on")
"""Of :data:`INJECT_LABEL`, in any case; whatever else stands there is a no (``injectRequired``)."""

_NATIVE_SINCE = (1, 24)
"""The first Istio that reads :data:`NATIVE_ANNOTATION`."""
_SIDECARS_SINCE = (1, 29)
"""The first kubelet that runs an init container as a sidecar unasked."""

_SERVICE_LABEL = "serving.knative.dev/service"
"""On every pod of every revision of a Knative Service."""

_TRAFFIC = "traffic.sidecar.istio.io/"
_NAMESPACE_LABELS = frozenset({INJECTION_LABEL, REVISION_LABEL, AMBIENT_LABEL})
_DEFAULT = "default"
_TEMPLATE = "spec.template.metadata"
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")

Version = tuple[int, int]
Redirects = Mapping[str, frozenset[str]]
"""Annotation to the values that the injector writes on pods by Istio's own settings."""


@dataclass(frozen=True)
class Revision:
    """One control plane of Istio. ``None`` stands for what could not be read."""

    name: str
    version: Version | None = None
    cni: bool | None = None
    """Whether a node agent redirects the pod's traffic, before any of its containers runs; else ``istio-init`` does."""
    native: bool | None = None
    """What the installation says of native sidecars; ``None`` leaves it to Istio's own default."""
    registry_only: bool = False
    """Whether pods reach only hosts that the mesh knows."""
    dns_capture: bool = False
    """Whether the sidecar answers the pod's DNS lookups."""
    everywhere: bool = False
    """Whether pods are injected where nobody says anything."""
    only_when_asked: bool = False
    """Whether the pod itself has to ask, although its namespace does."""
    never: tuple[JsonObject, ...] = ()
    """Label selectors of pods that get no sidecar where they themselves do not ask for one."""
    always: tuple[JsonObject, ...] = ()
    """Label selectors of pods that need not ask for theirs; ``never`` comes first."""
    probes_rewritten: bool = True
    openshift: bool = False
    """On OpenShift each namespace has users of its own, and the sidecar's is not 1337."""
    trust_domain: str = "cluster.local"
    redirect: Mapping[str, str] = field(default_factory=lambda: _redirect({}))
    """Which traffic the sidecar sees where the pod says nothing of it, by the annotation that says so."""
    proxy_resources: Mapping[str, str] = field(default_factory=dict)
    """The sidecar's default resources, by the annotation that sets each."""


@dataclass(frozen=True)
class IstioInstallation:
    """How Istio is installed in the cluster."""

    revisions: tuple[Revision, ...]
    tags: Mapping[str, str] = field(default_factory=dict)
    """Revision tag to the revision it stands for."""
    kubelet: Version | None = None
    """The oldest kubelet; ``None`` when it is not known."""
    ambient: bool = False
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Every namespace with its labels that concern the mesh."""
    hosts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Hosts of ServiceEntries to the namespaces that see them; ``*`` is every namespace."""

    def revision(self, name: str) -> Revision | None:
        """The revision of that name or tag."""
        name = self.tags.get(name, name)
        return next((revision for revision in self.revisions if revision.name == name), None)

    @property
    def redirects(self) -> Redirects:
        """What pods say of the redirect where they were injected and said nothing of it themselves."""
        found: dict[str, frozenset[str]] = {}
        for revision in self.revisions:
            for key, value in revision.redirect.items():
                found[key] = found.get(key, frozenset()) | {value}
        return found

    def injects(self, namespace: str, template: JsonObject | None = None) -> bool:
        """Whether pods of ``namespace`` get a sidecar: those of a ``template``, or those that say nothing of it."""
        if value_at(template, "spec", "hostNetwork"):
            return False
        labels, annotations = (value_at(template, "metadata", kind) or {} for kind in ("labels", "annotations"))
        return _injection(self.namespaces.get(namespace, {}), labels, annotations, self)[0] is not None


class Member(StrEnum):
    OUTSIDE = "outside"
    SIDECAR = "sidecar"
    AMBIENT = "ambient"


@dataclass(frozen=True)
class Mesh:
    """How the pods of one model stand to the mesh, and what is set on their template for it."""

    member: Member = Member.OUTSIDE
    revision: Revision | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    loader_uid: int | None = None
    choices: tuple[Choice, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


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
    """Read how Istio is installed out of raw Kubernetes objects; ``None`` when it is not.

    ``injectors`` are the MutatingWebhookConfigurations with :data:`INJECTORS`, ``config_maps`` and ``daemon_sets``
    those of :data:`NAMESPACE`. What is missing among them counts as not known, never as not there.
    """
    names: dict[str, Version | None] = {}
    tags: dict[str, str] = {}
    for injector in injectors:
        labels = _labels(injector)
        name = labels.get(REVISION_LABEL, _DEFAULT)
        if TAG_LABEL in labels:
            tags[labels[TAG_LABEL]] = name
        names.setdefault(name, _version(labels.get("app.kubernetes.io/version")))
    values, meshes = {}, {}
    for config_map in config_maps:
        name = _labels(config_map).get(REVISION_LABEL, _DEFAULT)
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
        _version(value_at(values, "global", "tag")) or version,
        # Before Istio 1.22 it was called istio_cni.
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
    """What the injector makes of the settings ``global.proxy`` (its template, ``excludeInboundPort``)."""
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


def _version(text: object) -> Version | None:
    match = re.match(r"v?([0-9]{1,4})\.([0-9]{1,4})(?![0-9])", str(text), re.ASCII)
    return (int(match[1]), int(match[2])) if match else None


def _oldest(nodes: Iterable[JsonObject]) -> Version | None:
    versions = [_version(value_at(node, "status", "nodeInfo", "kubeletVersion")) for node in nodes]
    known = [version for version in versions if version is not None]
    return min(known) if known and len(known) == len(versions) else None


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


# --- Decision


def decide(deployment: JsonObject, spec: ServingSpec, context: IstioInstallation | None) -> Mesh:
    """Decide what the mesh asks of a served Deployment. Without Istio nothing is set."""
    if context is None:
        return _refuse("MeshMissing", MESH) if spec.mesh == "istio" else Mesh()
    template = value_at(deployment, "spec", "template", "metadata") or {}
    pod = Template(template.get("labels") or {}, template.get("annotations") or {})
    namespace = value_at(deployment, "metadata", "namespace") or "default"
    of_namespace = context.namespaces.get(namespace, {})
    if spec.mesh == "none":
        return _opted_out(pod, of_namespace, context)
    asked: dict[str, str] = {}
    revision, why = _injection(of_namespace, pod.labels, pod.annotations, context)
    if value_at(deployment, "spec", "template", "spec", "hostNetwork"):
        revision, why = None, "it uses the node's network"
    elif revision is None and spec.mesh == "istio" and not _ambient(of_namespace, pod.labels, context):
        found = _ask(of_namespace, pod, context, why)
        if isinstance(found, Problem):
            return Mesh(problems=(found,))
        revision, asked = found
        why = "kubectl-serve.dev/mesh is istio"
    name = _name(deployment)
    if revision is not None:
        mesh = _sidecar(pod, spec, revision, context, why, namespace)
        return replace(mesh, labels={**asked, CANONICAL_NAME_LABEL: name})
    if _ambient(of_namespace, pod.labels, context):
        return Mesh(Member.AMBIENT, labels={CANONICAL_NAME_LABEL: name}, choices=(choice("MeshAmbient"),))
    if spec.mesh == "istio":
        return _refuse("MeshForbidden", MESH, why=why)
    return Mesh(choices=(choice("MeshOutside", why=why),))


def needs_sidecar(mesh: Mesh, context: IstioInstallation | None, path: str) -> tuple[Problem, ...]:
    """Why the annotation at ``path`` would come to nothing: only a sidecar reads requests."""
    if context is None:
        return (problem("MeshMissing", path),)
    if mesh.member is Member.SIDECAR:
        return ()
    ambient = "the namespace is ambient, and its node's proxy reads no requests"
    why = ambient if mesh.member is Member.AMBIENT else "the pods get no sidecar"
    return (problem("NeedsSidecar", path, why=why),)


def resource(
    api_version: str, kind: str, deployment: JsonObject, by_knative: bool, spec: JsonObject, why: list[str]
) -> JsonObject:
    """A resource of Istio's about the pods of one model, which says why it says what it says."""
    name = deployment["metadata"]["name"]
    metadata: JsonObject = {
        "name": name,
        "labels": {DEPLOYMENT_LABEL: name},
        "annotations": {EXPLANATION: "\n".join(why)},
    }
    if "namespace" in deployment["metadata"]:
        metadata["namespace"] = deployment["metadata"]["namespace"]
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": metadata,
        "spec": {"selector": {"matchLabels": selected(deployment, by_knative)}, **spec},
    }


def selected(deployment: JsonObject, by_knative: bool) -> dict[str, str]:
    """The labels by which Istio finds the pods of one model."""
    name: str = deployment["metadata"]["name"]
    return {_SERVICE_LABEL: service_name(deployment)} if by_knative else {DEPLOYMENT_LABEL: name}


@dataclass(frozen=True)
class Template:
    """What the user wrote on the pods' template."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def _refuse(code: str, key: str, **words: object) -> Mesh:
    return Mesh(problems=(problem(code, path_of(key), **words),))


def _injection(
    namespace: Mapping[str, str], labels: Mapping[str, str], annotations: Mapping[str, str], context: IstioInstallation
) -> tuple[Revision | None, str]:
    """The revision that injects a pod, if one does, and why or why not."""
    wish = labels.get(INJECT_LABEL)
    if wish == "false":
        return None, f"the pods' label {INJECT_LABEL} is false"
    if INJECTION_LABEL in namespace:
        if namespace[INJECTION_LABEL] != "enabled":
            return None, f"the namespace's label {INJECTION_LABEL} is {namespace[INJECTION_LABEL]}"
        name, why = _DEFAULT, f"the namespace's label {INJECTION_LABEL} is enabled"
    elif REVISION_LABEL in namespace:
        name = namespace[REVISION_LABEL]
        why = f"the namespace's label {REVISION_LABEL} is {name}"
    elif REVISION_LABEL in labels:
        name = labels[REVISION_LABEL]
        why = f"the pods' label {REVISION_LABEL} is {name}"
    elif wish == "true":
        name, why = _DEFAULT, f"the pods' label {INJECT_LABEL} is true"
    else:
        default = context.revision(_DEFAULT)
        if default is None or not default.everywhere:
            return None, "neither the namespace nor the pods ask for one"
        name, why = _DEFAULT, "Istio injects every namespace"
    revision = context.revision(name)
    if revision is None:
        return None, f"{why}, but no revision of Istio has that name" if name != _DEFAULT else "no revision is default"
    where, said = _said(labels, annotations)
    if declines(labels, annotations):
        return None, f"the pods' {where} {INJECT_LABEL} is {said}"
    if not said and any(_selects(selector, labels) for selector in revision.never):
        return None, "Istio's neverInjectSelector names labels that the pods have"
    asked = said or any(_selects(selector, labels) for selector in revision.always)
    if not asked and revision.only_when_asked:
        return None, "Istio injects only pods that ask for it themselves"
    return revision, why


def _said(labels: Mapping[str, str], annotations: Mapping[str, str]) -> tuple[str, str]:
    return (
        ("label", labels[INJECT_LABEL]) if INJECT_LABEL in labels else ("annotation", annotations.get(INJECT_LABEL, ""))
    )


def declines(labels: Mapping[str, str], annotations: Mapping[str, str]) -> bool:
    """Whether pods that say this want no sidecar. The label comes before the annotation."""
    _, said = _said(labels, annotations)
    return bool(said) and said.lower() not in _YES


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


def _ambient(namespace: Mapping[str, str], labels: Mapping[str, str], context: IstioInstallation) -> bool:
    return context.ambient and labels.get(AMBIENT_LABEL, namespace.get(AMBIENT_LABEL)) == "ambient"


def _opted_out(pod: Template, namespace: Mapping[str, str], context: IstioInstallation) -> Mesh:
    labels = {INJECT_LABEL: "false"}
    if _ambient(namespace, {}, context):
        labels[AMBIENT_LABEL] = "none"
    conflicts = tuple(
        problem("ConflictingAnnotations", path_of(MESH), one=f"{MESH}: none", other=f"template label {key}", why=_BOTH)
        for key, value in labels.items()
        if pod.labels.get(key, value) != value
    )
    return Mesh(labels=labels, choices=(choice("MeshOptedOut"),), problems=conflicts)


_BOTH = "both say the same thing differently"


def _ask(
    namespace: Mapping[str, str], pod: Template, context: IstioInstallation, why: str
) -> tuple[Revision, dict[str, str]] | Problem:
    """The label by which a pod asks for a sidecar that its namespace does not ask for."""
    if pod.labels.get(INJECT_LABEL, "true") != "true":
        other = f"template label {INJECT_LABEL}"
        return problem("ConflictingAnnotations", path_of(MESH), one=f"{MESH}: istio", other=other, why=_BOTH)
    if INJECTION_LABEL in namespace or REVISION_LABEL in namespace or REVISION_LABEL in pod.labels:
        if INJECT_LABEL not in pod.labels and "only pods" in why:
            revision = context.revision(namespace.get(REVISION_LABEL) or pod.labels.get(REVISION_LABEL) or _DEFAULT)
            if revision is not None:
                return revision, {INJECT_LABEL: "true"}
        return problem("MeshForbidden", path_of(MESH), why=why)
    default = context.revision(_DEFAULT)
    if default is not None:
        return default, {INJECT_LABEL: "true"}
    if len(context.revisions) == 1:
        return context.revisions[0], {REVISION_LABEL: context.revisions[0].name}
    names = ", ".join(revision.name for revision in context.revisions) or "none"
    return problem("MeshRevisionAmbiguous", path_of(MESH), names=names)


def _sidecar(
    pod: Template, spec: ServingSpec, revision: Revision, context: IstioInstallation, why: str, namespace: str
) -> Mesh:
    """What a pod with a sidecar needs, without the labels that ask for it."""
    annotations: dict[str, str] = {}
    choices = [choice("MeshSidecar", revision=revision.name, why=why)]
    problems = list(_template_faults(pod))
    if not revision.probes_rewritten:
        annotations[PROBES_ANNOTATION] = "true"
    if any(key in pod.annotations for key in PROXY_RESOURCES):
        annotations |= {key: value for key, value in revision.proxy_resources.items() if key not in pod.annotations}
    uid, through_proxy = None, False
    warnings: tuple[Problem, ...] = ()
    if spec.model.scheme != "pvc":
        native, because = _native(pod, revision, context)
        through_proxy = native is not None
        if native is not None:
            annotations |= native
            choices.append(choice("LoaderBehindSidecar", why=because))
        elif revision.cni is False:
            choices.append(choice("LoaderBeforeRedirect", why=because))
        elif revision.openshift:
            problems.append(problem("LoaderBlocked", path_of(MODEL), why=because))
        else:
            uid = PROXY_UID
            what = "traffic and DNS lookups are" if revision.dns_capture else "traffic is"
            choices.append(choice("LoaderPastSidecar", what=what, why=because))
    if through_proxy and revision.registry_only:
        for model in dict.fromkeys(model.uri for model in spec.models):
            refused, more = _registry(model, context, namespace)
            problems += refused
            warnings += more
    return Mesh(
        Member.SIDECAR,
        revision,
        annotations=annotations,
        loader_uid=uid,
        choices=tuple(choices),
        problems=tuple(problems),
        warnings=warnings,
    )


def _native(pod: Template, revision: Revision, context: IstioInstallation) -> tuple[dict[str, str] | None, str]:
    """What makes the sidecar start before the loader (nothing, where it does anyway), or ``None``; and the reason."""
    wish = pod.annotations.get(NATIVE_ANNOTATION)
    if wish == "true":
        return {}, f"the pods' annotation {NATIVE_ANNOTATION} is true"
    if wish == "false":
        return None, f"the pods' annotation {NATIVE_ANNOTATION} is false"
    if context.kubelet is None:
        return None, "the kubelets' versions are not known"
    if context.kubelet < _SIDECARS_SINCE:
        return None, f"a kubelet is {_text(context.kubelet)}, older than {_text(_SIDECARS_SINCE)}"
    if revision.version is not None and revision.version >= _NATIVE_SINCE:
        versions = f"Istio is {_text(revision.version)} and the oldest kubelet {_text(context.kubelet)}"
        return {NATIVE_ANNOTATION: "true"}, versions
    if revision.native:
        return {}, "Istio is installed so"
    if revision.version is None:
        return None, "Istio's version is not known"
    return None, f"Istio is {_text(revision.version)}, older than {_text(_NATIVE_SINCE)}"


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def _registry(
    model: ModelURI, context: IstioInstallation, namespace: str
) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Whether a mesh of registered hosts lets the loader reach the store. Hosts inside the cluster are registered."""
    if model.scheme not in ("http", "https"):
        return (), (problem("StoreMayBeUnregistered", path_of(MODEL), scheme=model.scheme, namespace=namespace),)
    host = model.host.rstrip(".")
    parts = host.split(".")
    inside = len(parts) == 1 or "svc" in parts[2:3] or (len(parts) == 2 and parts[1] in context.namespaces)
    known = any(_covers(pattern, host) and seen_by & {"*", namespace} for pattern, seen_by in context.hosts.items())
    if inside or known:
        return (), ()
    return (problem("StoreNotRegistered", path_of(MODEL), host=host, namespace=namespace),), ()


def _covers(pattern: str, host: str) -> bool:
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _template_faults(pod: Template) -> Iterable[Problem]:
    """Values with which Istio would refuse the pod, or Knative would not see it become ready."""
    at = f"{_TEMPLATE}.annotations"
    for key in (NATIVE_ANNOTATION, PROBES_ANNOTATION):
        value = pod.annotations.get(key, "true")
        if value not in ("true", "false"):
            yield problem(
                "InvalidAnnotation", f"{at}[{key}]", value=quote(value), what="boolean", allowed="true, false", meant=""
            )
    if pod.annotations.get(PROBES_ANNOTATION) == "false":
        yield problem("ProbesBlocked", f"{at}[{PROBES_ANNOTATION}]")
    for key in PROXY_RESOURCES:
        value = pod.annotations.get(key, "0")
        if not _QUANTITY.fullmatch(value):
            allowed = "a quantity of Kubernetes, for example 100m or 128Mi"
            yield problem(
                "InvalidAnnotation", f"{at}[{key}]", value=quote(value), what="quantity", allowed=allowed, meant=""
            )
