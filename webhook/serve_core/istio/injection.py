"""Istio: whether a model's pods get a sidecar, and what the loader needs so that it can download behind one.

:func:`decide` says what to set on one Deployment, and why. Sources: Istio 1.29, ``pkg/kube/inject`` (how pods are
injected, and in which order the containers end up).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from model_uri import ModelURI
from serve_core.api.annotations import MESH, MODEL, path_of
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.constants import DEPLOYMENT_LABEL, EXPLANATION
from serve_core.base.json import JsonObject, value_at
from serve_core.base.reasons import Diagnostic, Explanation, diagnostic, explanation, quote
from serve_core.context.istio import (
    AMBIENT_LABEL,
    DEFAULT_REVISION,
    INJECT_LABEL,
    INJECTION_LABEL,
    PROXY_RESOURCES,
    REVISION_LABEL,
    IstioInstallation,
    Revision,
    Version,
    injector_of,
    is_ambient,
)
from serve_core.knative.name_conflict import service_name
from serve_core.syntax import quantity

CANONICAL_NAME_LABEL = "service.istio.io/canonical-name"
NATIVE_ANNOTATION = "sidecar.istio.io/nativeSidecar"
PROBES_ANNOTATION = "sidecar.istio.io/rewriteAppHTTPProbers"

PROXY_UID = 1337
"""The sidecar's own user, whose traffic is never redirected."""

_NATIVE_SINCE = (1, 24)
"""The first Istio that reads :data:`NATIVE_ANNOTATION`."""
_SIDECARS_SINCE = (1, 29)
"""The first kubelet that runs an init container as a sidecar unasked."""

_SERVICE_LABEL = "serving.knative.dev/service"
"""On every pod of every revision of a Knative Service."""

_TEMPLATE = "spec.template.metadata"


class MeshMembership(StrEnum):
    OUTSIDE = "outside"
    SIDECAR = "sidecar"
    AMBIENT = "ambient"


@dataclass(frozen=True)
class MeshDecision:
    """How the pods of one model stand to the mesh, and what is set on their template for it."""

    member: MeshMembership = MeshMembership.OUTSIDE
    revision: Revision | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    loader_uid: int | None = None
    choices: tuple[Explanation, ...] = ()
    problems: tuple[Diagnostic, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()


# --- Decision


def decide(deployment: JsonObject, spec: ServingSpec, context: IstioInstallation | None) -> MeshDecision:
    """Decide what the mesh asks of a served Deployment. Without Istio nothing is set."""
    if context is None:
        return _refuse("MeshMissing", MESH) if spec.mesh == "istio" else MeshDecision()
    template = value_at(deployment, "spec", "template", "metadata") or {}
    pod = Template(template.get("labels") or {}, template.get("annotations") or {})
    namespace = value_at(deployment, "metadata", "namespace") or "default"
    of_namespace = context.namespaces.get(namespace, {})
    if spec.mesh == "none":
        return _opted_out(pod, of_namespace, context)
    asked: dict[str, str] = {}
    revision, why = injector_of(of_namespace, pod.labels, pod.annotations, context)
    if value_at(deployment, "spec", "template", "spec", "hostNetwork"):
        revision, why = None, "it uses the node's network"
    elif revision is None and spec.mesh == "istio" and not is_ambient(of_namespace, pod.labels, context):
        found = _ask(of_namespace, pod, context, why)
        if isinstance(found, Diagnostic):
            return MeshDecision(problems=(found,))
        revision, asked = found
        why = "kubectl-serve.dev/mesh is istio"
    name = str(value_at(deployment, "metadata", "name") or "")
    if revision is not None:
        mesh = _sidecar(pod, spec, revision, context, why, namespace)
        return replace(mesh, labels={**asked, CANONICAL_NAME_LABEL: name})
    if is_ambient(of_namespace, pod.labels, context):
        return MeshDecision(
            MeshMembership.AMBIENT, labels={CANONICAL_NAME_LABEL: name}, choices=(explanation("MeshAmbient"),)
        )
    if spec.mesh == "istio":
        return _refuse("MeshForbidden", MESH, why=why)
    return MeshDecision(choices=(explanation("MeshOutside", why=why),))


def needs_sidecar(mesh: MeshDecision, context: IstioInstallation | None, path: str) -> tuple[Diagnostic, ...]:
    """Why the annotation at ``path`` would come to nothing: only a sidecar reads requests."""
    if context is None:
        return (diagnostic("MeshMissing", path),)
    if mesh.member is MeshMembership.SIDECAR:
        return ()
    ambient = "the namespace is ambient, and its node's proxy reads no requests"
    why = ambient if mesh.member is MeshMembership.AMBIENT else "the pods get no sidecar"
    return (diagnostic("NeedsSidecar", path, why=why),)


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


def _refuse(code: str, key: str, **words: object) -> MeshDecision:
    return MeshDecision(problems=(diagnostic(code, path_of(key), **words),))


def _opted_out(pod: Template, namespace: Mapping[str, str], context: IstioInstallation) -> MeshDecision:
    labels = {INJECT_LABEL: "false"}
    if is_ambient(namespace, {}, context):
        labels[AMBIENT_LABEL] = "none"
    conflicts = tuple(
        diagnostic(
            "ConflictingAnnotations", path_of(MESH), one=f"{MESH}: none", other=f"template label {key}", why=_BOTH
        )
        for key, value in labels.items()
        if pod.labels.get(key, value) != value
    )
    return MeshDecision(labels=labels, choices=(explanation("MeshOptedOut"),), problems=conflicts)


_BOTH = "both say the same thing differently"


def _ask(
    namespace: Mapping[str, str], pod: Template, context: IstioInstallation, why: str
) -> tuple[Revision, dict[str, str]] | Diagnostic:
    """The label by which a pod asks for a sidecar that its namespace does not ask for."""
    if pod.labels.get(INJECT_LABEL, "true") != "true":
        other = f"template label {INJECT_LABEL}"
        return diagnostic("ConflictingAnnotations", path_of(MESH), one=f"{MESH}: istio", other=other, why=_BOTH)
    if INJECTION_LABEL in namespace or REVISION_LABEL in namespace or REVISION_LABEL in pod.labels:
        if INJECT_LABEL not in pod.labels and "only pods" in why:
            name = namespace.get(REVISION_LABEL) or pod.labels.get(REVISION_LABEL) or DEFAULT_REVISION
            revision = context.revision(name)
            if revision is not None:
                return revision, {INJECT_LABEL: "true"}
        return diagnostic("MeshForbidden", path_of(MESH), why=why)
    default = context.revision(DEFAULT_REVISION)
    if default is not None:
        return default, {INJECT_LABEL: "true"}
    if len(context.revisions) == 1:
        return context.revisions[0], {REVISION_LABEL: context.revisions[0].name}
    names = ", ".join(revision.name for revision in context.revisions) or "none"
    return diagnostic("MeshRevisionAmbiguous", path_of(MESH), names=names)


def _sidecar(
    pod: Template, spec: ServingSpec, revision: Revision, context: IstioInstallation, why: str, namespace: str
) -> MeshDecision:
    """What a pod with a sidecar needs, without the labels that ask for it."""
    annotations: dict[str, str] = {}
    choices = [explanation("MeshSidecar", revision=revision.name, why=why)]
    problems = list(_template_faults(pod))
    if not revision.probes_rewritten:
        annotations[PROBES_ANNOTATION] = "true"
    if any(key in pod.annotations for key in PROXY_RESOURCES):
        annotations |= {key: value for key, value in revision.proxy_resources.items() if key not in pod.annotations}
    uid, through_proxy = None, False
    warnings: tuple[Diagnostic, ...] = ()
    if spec.model.scheme != "pvc":
        native, because = _native(pod, revision, context)
        through_proxy = native is not None
        if native is not None:
            annotations |= native
            choices.append(explanation("LoaderBehindSidecar", why=because))
        elif revision.cni is False:
            choices.append(explanation("LoaderBeforeRedirect", why=because))
        elif revision.openshift:
            problems.append(diagnostic("LoaderBlocked", path_of(MODEL), why=because))
        else:
            uid = PROXY_UID
            what = "traffic and DNS lookups are" if revision.dns_capture else "traffic is"
            choices.append(explanation("LoaderPastSidecar", what=what, why=because))
    if through_proxy and revision.registry_only:
        for model in dict.fromkeys(model.uri for model in spec.models):
            refused, more = _registry(model, context, namespace)
            problems += refused
            warnings += more
    return MeshDecision(
        MeshMembership.SIDECAR,
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
) -> tuple[tuple[Diagnostic, ...], tuple[Diagnostic, ...]]:
    """Whether a mesh of registered hosts lets the loader reach the store. Hosts inside the cluster are registered."""
    if model.scheme not in ("http", "https"):
        return (), (diagnostic("StoreMayBeUnregistered", path_of(MODEL), scheme=model.scheme, namespace=namespace),)
    host = model.host.rstrip(".")
    parts = host.split(".")
    inside = len(parts) == 1 or "svc" in parts[2:3] or (len(parts) == 2 and parts[1] in context.namespaces)
    known = any(_covers(pattern, host) and seen_by & {"*", namespace} for pattern, seen_by in context.hosts.items())
    if inside or known:
        return (), ()
    return (diagnostic("StoreNotRegistered", path_of(MODEL), host=host, namespace=namespace),), ()


def _covers(pattern: str, host: str) -> bool:
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _template_faults(pod: Template) -> Iterable[Diagnostic]:
    """Values with which Istio would refuse the pod, or Knative would not see it become ready."""
    at = f"{_TEMPLATE}.annotations"
    for key in (NATIVE_ANNOTATION, PROBES_ANNOTATION):
        value = pod.annotations.get(key, "true")
        if value not in ("true", "false"):
            yield diagnostic(
                "InvalidAnnotation", f"{at}[{key}]", value=quote(value), what="boolean", allowed="true, false", meant=""
            )
    if pod.annotations.get(PROBES_ANNOTATION) == "false":
        yield diagnostic("ProbesBlocked", f"{at}[{PROBES_ANNOTATION}]")
    for key in PROXY_RESOURCES:
        value = pod.annotations.get(key, "0")
        if not quantity.is_amount(value):
            allowed = "a quantity of Kubernetes, for example 100m or 128Mi"
            yield diagnostic(
                "InvalidAnnotation", f"{at}[{key}]", value=quote(value), what="quantity", allowed=allowed, meant=""
            )
