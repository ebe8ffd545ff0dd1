"""Istio: whether a model's pods get a sidecar, and what the loader needs to download when there is one.

:func:`decide` decides what to set on one Deployment, and why. Source: Istio 1.29, ``pkg/kube/inject`` (how pods are
injected, and the order of the containers).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from model_uri import ModelURI
from serve_core.api.annotations import MESH, MODEL, path_of
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.findings import Findings
from serve_core.base.reasons import Diagnostic, Explanation, diagnostic, explanation, quote
from serve_core.base.workload import Workload
from serve_core.context.istio import (
    AMBIENT_LABEL,
    DEFAULT_REVISION,
    INJECT_LABEL,
    INJECTION_LABEL,
    PROXY_RESOURCES,
    REVISION_LABEL,
    Injection,
    IstioInstallation,
    Revision,
    injection_of,
    is_ambient,
)
from serve_core.syntax import quantity
from serve_core.syntax.version import Version

CANONICAL_NAME_LABEL = "service.istio.io/canonical-name"
NATIVE_ANNOTATION = "sidecar.istio.io/nativeSidecar"
PROBES_ANNOTATION = "sidecar.istio.io/rewriteAppHTTPProbers"

PROXY_UID = 1337
"""The sidecar's own user, whose traffic is never redirected."""

_NATIVE_SINCE = (1, 24)
"""The first Istio that reads :data:`NATIVE_ANNOTATION`."""
_SIDECARS_SINCE = (1, 29)
"""The first kubelet that runs native sidecars by default."""

_TEMPLATE = "spec.template.metadata"


class MeshMembership(StrEnum):
    OUTSIDE = "outside"
    SIDECAR = "sidecar"
    AMBIENT = "ambient"


@dataclass(frozen=True)
class MeshDecision:
    """How the pods of one model are connected to the mesh, and what their template needs for it."""

    member: MeshMembership = MeshMembership.OUTSIDE
    revision: Revision | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """To set on the template."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """To set on the template."""
    loader_uid: int | None = None
    """The user that the loader must run as."""
    explanations: tuple[Explanation, ...] = ()
    problems: tuple[Diagnostic, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()


class _Pod(NamedTuple):
    """What decides about a pod's sidecar."""

    istio: IstioInstallation
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    has_loader: bool
    has_user_range: bool = False
    """Whether the namespace gives its pods their user IDs."""

    @property
    def namespace_labels(self) -> Mapping[str, str]:
        return self.istio.namespaces.get(self.namespace, {})

    @property
    def is_ambient(self) -> bool:
        return is_ambient(self.namespace_labels, self.labels, self.istio)

    @property
    def selects_a_revision(self) -> bool:
        """Whether the pod or its namespace says which revision injects it, or that none does."""
        namespace = self.namespace_labels
        return INJECTION_LABEL in namespace or REVISION_LABEL in namespace or REVISION_LABEL in self.labels

    def injection(self, more: Mapping[str, str] | None = None) -> Injection:
        """Whether the pod is injected, with ``more`` labels."""
        labels = {**self.labels, **more} if more else self.labels
        return injection_of(self.namespace_labels, labels, self.annotations, self.istio)


# --- Decision


def decide(
    workload: Workload,
    spec: ServingSpec,
    istio: IstioInstallation | None,
    *,
    has_loader: bool,
    has_user_range: bool = False,
) -> MeshDecision:
    """Decide how the pods of a served Deployment are connected to the mesh. Without Istio nothing is set.

    The decision is the same before and after completion: it counts the labels that completion sets.
    """
    if istio is None:
        return _refuse("MeshMissing", MESH) if spec.mesh == "istio" else MeshDecision()
    namespace = workload.namespace or "default"
    pod = _Pod(istio, namespace, workload.pod_labels, workload.template_annotations, has_loader, has_user_range)
    if spec.mesh == "none":
        return _opted_out(pod)
    injection, asked = pod.injection(), {}
    if workload.pod.get("hostNetwork"):
        injection = Injection("the pods use the node's network")
    elif injection.revision is None and spec.mesh == "istio" and not pod.is_ambient:
        if pod.labels.get(INJECT_LABEL, "true") != "true":
            other = f"template label {INJECT_LABEL}"
            return _refuse("ConflictingAnnotations", MESH, one=f"{MESH}: istio", other=other, why=_BOTH)
        asked = _asking_labels(pod, injection)
        if not asked and not pod.selects_a_revision:
            names = ", ".join(revision.name for revision in istio.revisions) or "none"
            return _refuse("MeshRevisionAmbiguous", MESH, names=names)
        injection = pod.injection(asked)
        if injection.revision is None:
            return _refuse("MeshForbidden", MESH, why=injection.why)
        injection = Injection("kubectl-serve.dev/mesh is istio", injection.revision)
    canonical_name = {CANONICAL_NAME_LABEL: workload.name}
    if injection.revision is not None:
        mesh = _sidecar(pod, spec, injection.revision, injection.why)
        return replace(mesh, labels={**asked, **canonical_name})
    if pod.is_ambient:
        explanations = (explanation("MeshAmbient"),)
        return MeshDecision(MeshMembership.AMBIENT, labels=canonical_name, explanations=explanations)
    if spec.mesh == "istio":
        return _refuse("MeshForbidden", MESH, why=injection.why)
    return MeshDecision(explanations=(explanation("MeshOutside", why=injection.why),))


def needs_sidecar(mesh: MeshDecision, istio: IstioInstallation | None, path: str) -> Diagnostic | None:
    """Why the annotation at ``path`` would have no effect: only a sidecar reads requests."""
    if istio is None:
        return diagnostic("MeshMissing", path)
    if mesh.member is MeshMembership.SIDECAR:
        return None
    ambient = "the namespace is in ambient mode, where the node's proxy does not read requests"
    why = ambient if mesh.member is MeshMembership.AMBIENT else "the pods have no sidecar"
    return diagnostic("NeedsSidecar", path, why=why)


_BOTH = "they set the same value differently"


def _refuse(code: str, key: str, **words: object) -> MeshDecision:
    return MeshDecision(problems=(diagnostic(code, path_of(key), **words),))


def _opted_out(pod: _Pod) -> MeshDecision:
    labels = {INJECT_LABEL: "false"}
    if is_ambient(pod.namespace_labels, {}, pod.istio):
        labels[AMBIENT_LABEL] = "none"
    conflicts = tuple(
        diagnostic(
            "ConflictingAnnotations", path_of(MESH), one=f"{MESH}: none", other=f"template label {key}", why=_BOTH
        )
        for key, value in labels.items()
        if pod.labels.get(key, value) != value
    )
    return MeshDecision(labels=labels, explanations=(explanation("MeshOptedOut"),), problems=conflicts)


def _asking_labels(pod: _Pod, injection: Injection) -> dict[str, str]:
    """The labels by which a pod asks for the sidecar that it would not get otherwise; empty if no label helps."""
    if injection.if_asked is not None:
        return {INJECT_LABEL: "true"}
    if pod.selects_a_revision:
        return {}
    if pod.istio.revision(DEFAULT_REVISION) is not None:
        return {INJECT_LABEL: "true"}
    if len(pod.istio.revisions) != 1:
        return {}
    labels = {REVISION_LABEL: pod.istio.revisions[0].name}
    return labels | ({INJECT_LABEL: "true"} if pod.injection(labels).if_asked is not None else {})


def _sidecar(pod: _Pod, spec: ServingSpec, revision: Revision, why: str) -> MeshDecision:
    """What a pod with a sidecar needs, without the labels that ask for it."""
    findings = Findings(problems=list(_template_faults(pod)))
    findings.explanations.append(explanation("MeshSidecar", revision=revision.name, why=why))
    annotations: dict[str, str] = {}
    if not revision.probes_rewritten:
        annotations[PROBES_ANNOTATION] = "true"
    if any(key in pod.annotations for key in PROXY_RESOURCES):
        annotations |= {key: value for key, value in revision.proxy_resources.items() if key not in pod.annotations}
    uid: int | None = None
    if pod.has_loader:
        native = _native(pod, revision)
        annotations |= native.annotations
        if native.first and revision.registry_only:
            for model in dict.fromkeys(model.uri for model in spec.models):
                _check_registered(model, pod, findings)
        if native.first:
            findings.explanations.append(explanation("LoaderBehindSidecar", why=native.why))
        elif revision.cni is False:
            findings.explanations.append(explanation("LoaderBeforeRedirect", why=native.why))
        elif revision.openshift or pod.has_user_range:
            findings.problems.append(diagnostic("LoaderBlocked", path_of(MODEL), why=native.why))
        else:
            uid = PROXY_UID
            what = "traffic and DNS lookups" if revision.dns_capture else "traffic"
            findings.explanations.append(explanation("LoaderPastSidecar", what=what, why=native.why))
    return MeshDecision(
        MeshMembership.SIDECAR,
        revision,
        annotations=annotations,
        loader_uid=uid,
        explanations=tuple(findings.explanations),
        problems=tuple(findings.problems),
        warnings=tuple(findings.warnings),
    )


class _Native(NamedTuple):
    """Whether the sidecar is a native one, which starts before the loader."""

    first: bool
    why: str
    annotations: Mapping[str, str] = {}
    """What the template needs for it."""


def _native(pod: _Pod, revision: Revision) -> _Native:
    kubelet, setting = pod.istio.kubelet, pod.annotations.get(NATIVE_ANNOTATION)
    if setting in ("true", "false"):
        return _Native(setting == "true", f"the pods' annotation {NATIVE_ANNOTATION} is {setting}")
    if kubelet is None:
        return _Native(False, "the versions of the kubelets are unknown")
    if kubelet < _SIDECARS_SINCE:
        return _Native(False, f"a kubelet is {_text(kubelet)}, older than {_text(_SIDECARS_SINCE)}")
    if revision.version is not None and revision.version >= _NATIVE_SINCE:
        why = f"Istio is {_text(revision.version)} and the oldest kubelet {_text(kubelet)}"
        return _Native(True, why, {NATIVE_ANNOTATION: "true"})
    if revision.native:
        return _Native(True, "Istio is installed with native sidecars")
    if revision.version is None:
        return _Native(False, "Istio's version is unknown")
    return _Native(False, f"Istio is {_text(revision.version)}, older than {_text(_NATIVE_SINCE)}")


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def _check_registered(model: ModelURI, pod: _Pod, findings: Findings) -> None:
    """Whether a mesh of registered hosts lets the loader reach the store. Hosts inside the cluster are registered."""
    namespace = pod.namespace
    if model.scheme not in ("http", "https"):
        warning = diagnostic("StoreMayBeUnregistered", path_of(MODEL), scheme=model.scheme, namespace=namespace)
        findings.warnings.append(warning)
        return
    host = model.host.rstrip(".")
    parts = host.split(".")
    inside = len(parts) == 1 or "svc" in parts[2:3] or (len(parts) == 2 and parts[1] in pod.istio.namespaces)
    known = any(_covers(pattern, host) and seen_by & {"*", namespace} for pattern, seen_by in pod.istio.hosts.items())
    if not (inside or known):
        findings.problems.append(diagnostic("StoreNotRegistered", path_of(MODEL), host=host, namespace=namespace))


def _covers(pattern: str, host: str) -> bool:
    return pattern in ("*", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _template_faults(pod: _Pod) -> Iterable[Diagnostic]:
    """Values with which Istio would refuse the pod, or with which Knative would not see it become ready."""
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
            allowed = "a Kubernetes quantity, for example 100m or 128Mi"
            yield diagnostic(
                "InvalidAnnotation", f"{at}[{key}]", value=quote(value), what="quantity", allowed=allowed, meant=""
            )
