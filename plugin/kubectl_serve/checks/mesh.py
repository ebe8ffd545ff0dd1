"""Istio: what it makes of models, and the traps that it sets to Knative and to our webhook."""

from collections.abc import Iterator

from kubectl_serve import view
from kubectl_serve.checks.evidence import KNATIVE, Evidence
from kubectl_serve.checks.finding import Finding, failed, ok, skipped, unseen, warning
from kubectl_serve.checks.platform import patch
from serve_core import istio
from serve_core.annotations import AUTH
from serve_core.istio import IstioFacts, Revision
from serve_core.json import JsonObject
from serve_core.names import NAMESPACE, SERVER_USERNAME

_NATIVE_KUBELET = "1.29"
_COMPATIBILITY = "mesh-compatibility-mode"
_PROXY = "istio-proxy"


def checks(evidence: Evidence) -> Iterator[Finding]:
    if evidence.injectors is None or evidence.namespaces is None:
        yield unseen("istio", "webhook configurations or namespaces")
        return
    facts = evidence.istio
    if facts is None:
        yield ok("istio", "Istio is not installed: models get no sidecar.")
        return
    if not facts.revisions:
        yield ok("istio", "Istio is installed in ambient mode: models get no sidecar.")
        return
    yield _installed(facts)
    yield _readable(evidence)
    yield _loader(facts)
    yield _webhook_namespace(facts)
    strict = _strict(evidence.peers or [])
    guarded = [each for each in evidence.served or [] if view.notes(each).get(AUTH, "none") != "none"]
    yield _knative_injected(evidence, facts, strict, guarded)
    if facts.injects(KNATIVE):
        yield _knative_sidecars(evidence)
        yield _compatibility(evidence)
    yield _registry(facts)


def _installed(facts: IstioFacts) -> Finding:
    return ok("istio", f"Istio is installed: {'; '.join(_described(each) for each in facts.revisions)}.")


def _described(revision: Revision) -> str:
    version = "of unknown version" if revision.version is None else ".".join(map(str, revision.version))
    how = {True: "with CNI", False: "with istio-init", None: "redirecting in an unknown way"}[revision.cni]
    return f"revision {revision.name} {version} {how}"


def _readable(evidence: Evidence) -> Finding:
    """The server has to see what the plugin sees."""
    rights = {
        right: allowed
        for right, allowed in (evidence.server_rights or {}).items()
        if right.namespace == istio.NAMESPACE
    }
    if not rights:
        return unseen("istio-configuration", f"whether {SERVER_USERNAME} may read Istio's configuration")
    if not all(rights.values()):
        return failed(
            "istio-configuration",
            "the server may not read Istio's configuration, and takes the safest way for the loader.",
            "kubectl serve install",
        )
    return ok("istio-configuration", "the server reads Istio's configuration.")


def _loader(facts: IstioFacts) -> Finding:
    """How the loader gets past the sidecar."""
    check = "istio-loader"
    old = facts.kubelet is None or facts.kubelet < (1, 29)
    for revision in facts.revisions:
        native = not old and revision.version is not None and revision.version >= (1, 24)
        if native or revision.native:
            continue
        kubelet = "unknown" if facts.kubelet is None else ".".join(map(str, facts.kubelet))
        why = f"the oldest kubelet is {kubelet}" if old else f"{_described(revision)} is older than 1.24"
        if revision.openshift and revision.cni is not False:
            return failed(
                check,
                f"no loader can download behind a sidecar of revision {revision.name}: {why}.",
                f"Update Istio to 1.24 and the nodes to {_NATIVE_KUBELET} or newer.",
            )
        way = "in plain text before istio-init" if revision.cni is False else "as the sidecar's user, outside the mesh"
        return warning(
            check,
            f"loaders download {way}: {why}.",
            f"Update Istio to 1.24 and the nodes to {_NATIVE_KUBELET} or newer.",
        )
    return ok(check, "loaders download behind a native sidecar.")


def _webhook_namespace(facts: IstioFacts) -> Finding:
    """The API server is in no mesh: a sidecar before the webhook can turn it away."""
    if facts.injects(NAMESPACE):
        return failed(
            "istio-webhook",
            f"pods of namespace {NAMESPACE} get a sidecar, which turns the API server away where mTLS is STRICT.",
            f"kubectl label namespace {NAMESPACE} istio-injection=disabled --overwrite",
        )
    return ok("istio-webhook", "no sidecar stands before the webhook.")


def _strict(peers: list[JsonObject]) -> bool:
    """Whether the mesh, or Knative's namespace, takes mTLS alone."""
    return any(
        view.at(each, "spec", "mtls", "mode") == "STRICT"
        and each["metadata"].get("namespace") in (istio.NAMESPACE, KNATIVE)
        and not view.at(each, "spec", "selector")
        for each in peers
    )


def _knative_injected(evidence: Evidence, facts: IstioFacts, strict: bool, guarded: list[JsonObject]) -> Finding:
    check = "istio-knative"
    if facts.injects(KNATIVE):
        return ok(check, "Knative is in the mesh.")
    needed = "mTLS is STRICT" if strict else ""
    if guarded:
        needed = f"{view.name_of(guarded[0])} has {AUTH}"
    if needed:
        return failed(
            check,
            f"{needed}, and Knative's activator and autoscaler are not in the mesh: they are turned away.",
            f"kubectl label namespace {KNATIVE} istio-injection=enabled --overwrite "
            f"&& kubectl rollout restart deployment -n {KNATIVE}",
        )
    return ok(check, f"Knative is not in the mesh, which matters only with STRICT mTLS or {AUTH}.")


def _knative_sidecars(evidence: Evidence) -> Finding:
    """The label alone does nothing to pods that were there before."""
    check = "istio-knative-sidecars"
    if evidence.knative_pods is None:
        return unseen(check, f"the pods of {KNATIVE}")
    without = [
        view.name_of(pod)
        for pod in evidence.knative_pods
        if any(part in view.name_of(pod) for part in ("activator", "autoscaler"))
        and not any(
            container["name"] == _PROXY
            for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]
        )
    ]
    if without:
        return failed(
            check,
            f"{', '.join(without)} started before the namespace was labelled, and has no sidecar.",
            f"kubectl rollout restart deployment -n {KNATIVE}",
        )
    return ok(check, "Knative's activator and autoscaler have their sidecars.")


def _compatibility(evidence: Evidence) -> Finding:
    """A sidecar does not let Knative ask a pod by its address."""
    check = "istio-mesh-compatibility"
    if evidence.knative_config is None:
        return unseen(check, f"the ConfigMaps of {KNATIVE}")
    mode = evidence.knative_config.get("config-network", {}).get(_COMPATIBILITY, "auto")
    if mode.lower() != "enabled":
        return failed(
            check,
            f"{_COMPATIBILITY} is {mode}: Knative asks pods by address, which a sidecar under STRICT refuses.",
            patch("config-network", {_COMPATIBILITY: "enabled"}),
        )
    return ok(check, f"{_COMPATIBILITY} is enabled.")


def _registry(facts: IstioFacts) -> Finding:
    closed = [revision.name for revision in facts.revisions if revision.registry_only]
    if not closed:
        return ok("istio-egress", "pods of the mesh reach every host.")
    if not facts.hosts:
        return warning(
            "istio-egress",
            "pods of the mesh reach only registered hosts (REGISTRY_ONLY), and no ServiceEntry names one.",
            "Apply a ServiceEntry for each store outside of the cluster.",
        )
    return skipped("istio-egress", f"pods of the mesh reach only the hosts of {len(facts.hosts)} ServiceEntry hosts.")
