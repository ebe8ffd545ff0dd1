"""Istio: its effect on models, and configurations that break Knative or the webhook."""

import json
from collections.abc import Iterator
from shlex import quote

from kubectl_serve.doctor.evidence import KNATIVE, Evidence
from kubectl_serve.doctor.finding import CheckResult, failed, ok, skipped, unseen, warning
from kubectl_serve.doctor.platform import ingress_class, patch
from kubectl_serve.doctor.server import install
from kubectl_serve.status import model
from serve_core.api.annotations import AUTH, AUTH_CALLERS, AUTH_ISSUER
from serve_core.base.constants import DEPLOYMENT_LABEL, NAMESPACE, SERVER_USERNAME
from serve_core.base.json import JsonObject, value_at
from serve_core.context import istio
from serve_core.context.istio import IstioInstallation, Revision

_NATIVE_KUBELET = "1.29"
_BURST = "target-burst-capacity"
_COMPATIBILITY = "mesh-compatibility-mode"
_PROXY = "istio-proxy"
_RESTART = f"kubectl rollout restart deployment -n {KNATIVE}"
_RESTART_READERS = f"kubectl rollout restart deployment/activator deployment/autoscaler -n {KNATIVE}"
"""These two read the setting, when they start. Knative's webhook stays: for minutes after a restart, the API server can
still call the old pod, which no longer reads settings."""
_OUTSIDE = frozenset(f"{name}.ingress.networking.knative.dev" for name in ("contour", "kourier", "traefik"))
"""Ingress classes that use plain text. A sidecar does not help: it has no Service for a model's host."""
_ISTIO_CLASS = "istio.ingress.networking.knative.dev"
_ISTIO_GATEWAYS = "istio-ingress"
"""The namespace in which Istio's documentation installs gateways, if not that of the control plane."""


def checks(evidence: Evidence) -> Iterator[CheckResult]:
    if evidence.injectors is None or evidence.namespaces is None:
        yield unseen("istio", "webhook configurations or namespaces")
        return
    context = evidence.istio
    if context is None:
        yield ok("istio", "Istio is not installed: models get no sidecar.")
        return
    if not context.revisions:
        yield ok("istio", "Istio is installed in ambient mode: models get no sidecar.")
        return
    yield _installed(context)
    yield _readable(evidence)
    yield _loader(context)
    yield _webhook_sidecar(evidence, context)
    yield _knative_injected(evidence, context)
    if context.injects(KNATIVE):
        yield _knative_sidecars(evidence)
        yield _knative_webhooks(evidence, context)
        yield _compatibility(evidence)
        yield _ingress(evidence, context)
    yield _tokens(evidence)
    yield _registry(context)


def _namespace(thing: JsonObject) -> str:
    return str(value_at(thing, "metadata", "namespace") or "")


def _installed(context: IstioInstallation) -> CheckResult:
    return ok("istio", f"Istio is installed: {'; '.join(_described(each) for each in context.revisions)}.")


def _described(revision: Revision) -> str:
    version = "of unknown version" if revision.version is None else ".".join(map(str, revision.version))
    how = {True: "with CNI", False: "with istio-init", None: "with unknown traffic redirection"}[revision.cni]
    return f"revision {revision.name} {version} {how}"


def _readable(evidence: Evidence) -> CheckResult:
    """The server must read the same Istio objects as the plugin."""
    rights = {
        right: allowed
        for right, allowed in (evidence.server_rights or {}).items()
        if right.namespace == istio.NAMESPACE
    }
    if not rights:
        return unseen("istio-configuration", f"whether {SERVER_USERNAME} can read Istio's configuration")
    if not all(rights.values()):
        return failed(
            "istio-configuration",
            "the server is not allowed to read Istio's configuration, and uses the safest settings for the loader.",
            install(evidence),
        )
    return ok("istio-configuration", "the server reads Istio's configuration.")


def _loader(context: IstioInstallation) -> CheckResult:
    """How the loader bypasses the sidecar."""
    check = "istio-loader"
    old = context.kubelet is None or context.kubelet < (1, 29)
    for revision in context.revisions:
        native = not old and revision.version is not None and revision.version >= (1, 24)
        if native or revision.native:
            continue
        kubelet = "unknown" if context.kubelet is None else ".".join(map(str, context.kubelet))
        why = f"the oldest kubelet is {kubelet}" if old else f"{_described(revision)} is older than 1.24"
        if revision.openshift and revision.cni is not False:
            return failed(
                check,
                f"no loader can download behind a sidecar of revision {revision.name}: {why}.",
                f"Update Istio to 1.24 and the nodes to {_NATIVE_KUBELET} or newer.",
            )
        way = "before istio-init, without mTLS" if revision.cni is False else "as the sidecar's user, outside the mesh"
        return warning(
            check,
            f"loaders download {way}: {why}.",
            f"Update Istio to 1.24 and the nodes to {_NATIVE_KUBELET} or newer.",
        )
    return ok(check, "loaders download behind a native sidecar.")


def _webhook_sidecar(evidence: Evidence, context: IstioInstallation) -> CheckResult:
    """The API server is not in a mesh: a sidecar in front of the webhook can refuse it."""
    if evidence.server and context.injects(NAMESPACE, value_at(evidence.server, "spec", "template")):
        return failed(
            "istio-webhook",
            "the webhook's pods get a sidecar, which rejects the API server if mTLS is STRICT.",
            install(evidence),
        )
    return ok("istio-webhook", "the webhook's pods have no sidecar.")


def _strict(peers: list[JsonObject], namespaces: set[str]) -> str:
    """Where one of the namespaces requires mTLS, as text; empty if none does."""
    for each in sorted(peers, key=lambda peer: _namespace(peer) != istio.NAMESPACE):
        namespace = _namespace(each)
        everywhere = namespace == istio.NAMESPACE
        strict = value_at(each, "spec", "mtls", "mode") == "STRICT" and not value_at(each, "spec", "selector")
        if strict and (everywhere or namespace in namespaces):
            return "mTLS is STRICT" + ("" if everywhere else f" in namespace {namespace}")
    return ""


def _with_auth(evidence: Evidence, *kinds: str) -> list[JsonObject]:
    """The served Deployments with one of these values of ``auth``."""
    return [each for each in evidence.served or [] if model.annotations_of(each).get(AUTH) in kinds]


def _in_mesh(evidence: Evidence, context: IstioInstallation) -> set[str]:
    """The namespaces of the models that get a sidecar."""
    return {
        _namespace(each)
        for each in evidence.served or []
        if context.injects(_namespace(each), value_at(each, "spec", "template"))
    }


def _knative_injected(evidence: Evidence, context: IstioInstallation) -> CheckResult:
    check = "istio-knative"
    if context.injects(KNATIVE):
        return ok(check, "Knative is in the mesh.")
    needed = _strict(evidence.peers or [], {KNATIVE} | _in_mesh(evidence, context))
    if protected := _with_auth(evidence, "mtls", "jwt"):
        needed = f"{model.name_of(protected[0])} has {AUTH}"
    if needed:
        return failed(
            check,
            f"{needed}, and Knative's activator and autoscaler are not in the mesh: sidecars reject them.",
            f"kubectl label namespace {KNATIVE} istio-injection=enabled --overwrite && {_RESTART}",
        )
    return ok(check, f"Knative is not in the mesh, which matters only with STRICT mTLS or {AUTH}.")


def _knative_sidecars(evidence: Evidence) -> CheckResult:
    """The label has no effect on existing pods."""
    check = "istio-knative-sidecars"
    if evidence.knative_pods is None:
        return unseen(check, f"the pods of {KNATIVE}")
    without = [
        model.name_of(pod)
        for pod in evidence.knative_pods
        if "deletionTimestamp" not in pod["metadata"]
        and any(part in model.name_of(pod) for part in ("activator", "autoscaler"))
        and not any(
            container["name"] == _PROXY
            for kind in ("containers", "initContainers")
            for container in value_at(pod, "spec", kind) or []
        )
    ]
    if without:
        return failed(
            check,
            f"{', '.join(without)} started before the namespace was labelled, and has no sidecar.",
            _RESTART,
        )
    return ok(check, "Knative's activator and autoscaler have their sidecars.")


def _knative_webhooks(evidence: Evidence, context: IstioInstallation) -> CheckResult:
    """The API server is not in a mesh, and calls Knative's webhooks as it calls kubectl-serve's."""
    check = "istio-knative-webhook"
    if evidence.knative_deployments is None:
        return unseen(check, f"the Deployments of {KNATIVE}")
    peers = evidence.peers or []
    behind = [
        model.name_of(each)
        for each in evidence.knative_deployments
        if model.name_of(each).endswith("webhook")
        and context.injects(KNATIVE, value_at(each, "spec", "template"))
        and not _takes_plain_text(peers, model.name_of(each), "8443")
    ]
    if behind and (strict := _strict(peers, {KNATIVE})):
        return failed(
            check,
            f"{strict}, and Knative's {', '.join(behind)} has a sidecar that rejects the API server: "
            "no model can be created or changed.",
            " && ".join(_accept(name, "8443") for name in behind),
        )
    return ok(check, "the API server can reach Knative's webhooks.")


def _compatibility(evidence: Evidence) -> CheckResult:
    """A sidecar uses no mTLS for a request to the address of a pod, so the pod does not know the caller."""
    check = "istio-mesh-compatibility"
    if evidence.knative_config is None:
        return unseen(check, f"the ConfigMaps of {KNATIVE}")
    mode = evidence.knative_config.get("config-network", {}).get(_COMPATIBILITY, "auto")
    if mode.lower() != "enabled":
        return failed(
            check,
            f"{_COMPATIBILITY} is {mode}: Knative connects to pods by address, without mTLS. With STRICT, pods reject "
            f"its requests; with {AUTH}, they reject the autoscaler's, and models never scale to zero.",
            # Knative Serving 1.23, cmd/activator and cmd/autoscaler: they read it only when they start.
            f"{patch('config-network', {_COMPATIBILITY: 'enabled'})} && {_RESTART_READERS}",
        )
    return ok(check, f"{_COMPATIBILITY} is enabled.")


def _ingress(evidence: Evidence, context: IstioInstallation) -> CheckResult:
    """An ingress without mTLS cannot reach the activator or a model if STRICT applies there."""
    check = "istio-ingress"
    if evidence.knative_config is None:
        return unseen(check, f"the ConfigMaps of {KNATIVE}")
    name = ingress_class(evidence.knative_config.get("config-network", {}))
    if name == _ISTIO_CLASS:
        return ok(check, "Knative uses Istio's ingress.")
    if name not in _OUTSIDE:
        return skipped(check, f"it is unknown whether ingress class {name} uses mTLS.")
    peers = evidence.peers or []
    strict = _strict(peers, {KNATIVE} | _in_mesh(evidence, context))
    protected = [each for each in _with_auth(evidence, "mtls") if AUTH_CALLERS not in model.annotations_of(each)]
    fixes = []
    if _strict(peers, {KNATIVE}) and not _takes_plain_text(peers, "activator", "8012"):
        fixes.append(_accept("activator", "8012", "8013"))
    if (strict or protected) and evidence.knative_config.get("config-autoscaler", {}).get(_BURST) != "-1":
        # Otherwise the ingress bypasses the activator once there are enough replicas.
        fixes.append(patch("config-autoscaler", {_BURST: "-1"}))
    if not fixes:
        return ok(check, "sidecars accept the requests of Knative's ingress.")
    says = "and Knative's ingress does not use mTLS: sidecars reject its requests (502)."
    if strict:
        return failed(check, f"{strict}, {says}", " && ".join(fixes))
    return warning(check, f"{model.name_of(protected[0])} has {AUTH}: mtls, {says}", " && ".join(fixes))


def _takes_plain_text(peers: list[JsonObject], app: str, port: str) -> bool:
    """Whether a PeerAuthentication lets a component of Knative accept plain text at a port."""
    return any(
        value_at(each, "spec", "portLevelMtls", port, "mode") in ("PERMISSIVE", "DISABLE")
        for each in peers
        if _namespace(each) == KNATIVE and value_at(each, "spec", "selector", "matchLabels") == {"app": app}
    )


def _accept(app: str, *ports: str) -> str:
    """The command that lets a component of Knative accept plain text at its ports, and nothing else."""
    peer = {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": f"{app}-plain-text", "namespace": KNATIVE},
        "spec": {
            "selector": {"matchLabels": {"app": app}},
            "portLevelMtls": {port: {"mode": "PERMISSIVE"} for port in ports},
        },
    }
    return f"echo {quote(json.dumps(peer, separators=(',', ':')))} | kubectl apply -f -"


def _tokens(evidence: Evidence) -> CheckResult:
    """A proxy that validates a token removes it from the request by default: the next proxy has none."""
    check = "istio-tokens"
    issuers = {model.annotations_of(each).get(AUTH_ISSUER): each for each in _with_auth(evidence, "jwt")}
    if not issuers:
        return ok(check, f"no model has {AUTH}: jwt.")
    if evidence.tokens is None:
        return unseen(check, "RequestAuthentications")
    places = {istio.NAMESPACE, _ISTIO_GATEWAYS, KNATIVE}
    for each in evidence.tokens:
        if _namespace(each) not in places or DEPLOYMENT_LABEL in (each["metadata"].get("labels") or {}):
            continue
        for index, rule in enumerate(value_at(each, "spec", "jwtRules") or []):
            if rule.get("issuer") in issuers and not rule.get("forwardOriginalToken"):
                name, namespace = model.name_of(each), _namespace(each)
                change = [{"op": "add", "path": f"/spec/jwtRules/{index}/forwardOriginalToken", "value": True}]
                return failed(
                    check,
                    f"RequestAuthentication {name} in {namespace} removes the token from requests to "
                    f"{model.name_of(issuers[rule['issuer']])}, which then rejects them (403).",
                    f"kubectl patch {quote(f'requestauthentication/{name}')} -n {quote(namespace)} --type json "
                    f"-p {quote(json.dumps(change, separators=(',', ':')))}",
                )
    return ok(check, f"no RequestAuthentication removes the tokens of requests to models with {AUTH}: jwt.")


def _registry(context: IstioInstallation) -> CheckResult:
    closed = [revision.name for revision in context.revisions if revision.registry_only]
    if not closed:
        return ok("istio-egress", "pods in the mesh can reach every host.")
    if not context.hosts:
        return warning(
            "istio-egress",
            "pods in the mesh can reach only registered hosts (REGISTRY_ONLY), and no ServiceEntry names one.",
            "Apply a ServiceEntry for each store outside of the cluster.",
        )
    return skipped(
        "istio-egress", f"pods in the mesh can reach only the hosts of {len(context.hosts)} ServiceEntry hosts."
    )
