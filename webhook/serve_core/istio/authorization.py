"""Access policies: the Istio objects that the ``auth`` annotations become, each with the reasons for its rules.

They select the model's pods by label, never by host: Knative's activator replaces ``Host``, and any client can write
the header in which it keeps the original. One ALLOW policy on a workload denies everything that it does not name.

Sources: Knative Serving 1.23, ``pkg/queue/sharedmain/handlers.go`` and ``knative.dev/pkg/network/handlers/drain.go``
(what queue-proxy answers itself), ``networking/pkg/status`` (the ingress's probe); Istio 1.29's reference of
AuthorizationPolicy, PeerAuthentication and RequestAuthentication.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from serve_core.api.annotation_values import Caller
from serve_core.api.annotations import AUTH, AUTH_AUDIENCES, AUTH_CALLERS, DEPLOYMENT, path_of
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.findings import Findings
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic, diagnostic, explanation, quote
from serve_core.base.workload import TEMPLATE, Workload
from serve_core.context.cluster import ClusterContext
from serve_core.context.istio import KNATIVE_NAMESPACE
from serve_core.istio import injection, sidecar
from serve_core.istio.injection import MeshDecision
from serve_core.istio.resource import resource, selected
from serve_core.knative.limits import DEFAULT_PORT
from serve_core.workload import serving_port

_API_VERSION = "security.istio.io/v1"
_BURST = "autoscaling.knative.dev/target-burst-capacity"
_LEAST = "autoscaling.knative.dev/min-scale"

# queue-proxy's ports for requests: a policy must name them, and not the model's port, which is behind queue-proxy.
_MODEL_PORTS = ("8012", "8013")
_AUTOSCALER_PORT = "9090"
_METRICS_PORT = "9091"


def bypass_activator(workload: Workload, spec: ServingSpec, findings: Findings) -> dict[str, str]:
    """The template annotations that ``auth-callers`` needs of Knative: with the activator in the path of requests, the
    activator would be the caller."""
    if not spec.auth_callers or spec.mode == DEPLOYMENT:
        return {}
    written = workload.template_annotations
    if written.get(_BURST, "0") != "0":
        why = "the activator would hide the caller"
        other = f"template annotation {_BURST}"
        findings.problems.append(
            diagnostic("ConflictingAnnotations", path_of(AUTH_CALLERS), one=AUTH_CALLERS, other=other, why=why)
        )
    if not _keeps_a_replica(spec, written):
        findings.problems.append(diagnostic("CallersNeedReplica", path_of(AUTH_CALLERS)))
    findings.explanations.append(explanation("CallersDirect"))
    return {_BURST: "0"}


def _keeps_a_replica(spec: ServingSpec, written: Mapping[str, Any]) -> bool:
    if spec.scale is not None:
        return spec.scale.minimum > 0
    return str(written.get(_LEAST, "0")).strip("0") != ""


def access_policies(
    workload: Workload, spec: ServingSpec, mesh: MeshDecision, context: ClusterContext, findings: Findings
) -> list[JsonObject]:
    """The objects that let only the callers that ``auth`` names reach the model's pods; none if they cannot."""
    if spec.auth == "none":
        return []
    problems = list(_obstacles(workload, spec, mesh, context))
    findings.problems += problems
    if problems or mesh.revision is None:
        return []
    by_knative = spec.mode != DEPLOYMENT
    if spec.auth == "mtls" and by_knative and not spec.auth_callers:
        findings.warnings.append(diagnostic("GatewayCounts", path_of(AUTH)))
    if spec.auth == "jwt" and not spec.auth_audiences:
        findings.warnings.append(diagnostic("AnyAudience", path_of(AUTH), key=AUTH_AUDIENCES))
    return [
        _strict(workload, by_knative) if spec.auth == "mtls" else _tokens(workload, spec, by_knative),
        _allowed(workload, spec, mesh.revision.trust_domain, None if by_knative else _port(workload, spec, context)),
    ]


def _obstacles(
    workload: Workload, spec: ServingSpec, mesh: MeshDecision, context: ClusterContext
) -> Iterator[Diagnostic]:
    """Why access policies would have no effect. Of several reasons only the first kind: the others follow from it."""
    if problem := injection.needs_sidecar(mesh, context.istio, path_of(AUTH)):
        yield problem
        return
    by_knative = spec.mode != DEPLOYMENT
    found = tuple(_bypasses(workload, by_knative, context))
    yield from found
    if not found and by_knative and not (context.istio and context.istio.injects(KNATIVE_NAMESPACE)):
        yield diagnostic("KnativeOutsideMesh", path_of(AUTH))


def _bypasses(workload: Workload, by_knative: bool, context: ClusterContext) -> Iterator[Diagnostic]:
    """What in the pod template would let requests bypass the access policies."""
    for bypass in sidecar.bypasses(workload.template, TEMPLATE, context.known_loaders):
        yield diagnostic("PastSidecar", bypass.path, what=bypass.what, by=AUTH)
    for key, value in selected(workload, by_knative=by_knative).items():
        if (other := workload.template_labels.get(key, value)) != value:
            what = f"label {key} with value {quote(other)}, which the access policies do not select,"
            yield diagnostic("PastSidecar", f"{TEMPLATE}.metadata.labels[{key}]", what=what, by=AUTH)


def is_access_policy(manifest: JsonObject) -> bool:
    """Whether an object decides who can call a model."""
    return bool(manifest["apiVersion"] == _API_VERSION)


def _strict(workload: Workload, by_knative: bool) -> JsonObject:
    spec: JsonObject = {"mtls": {"mode": "STRICT"}}
    why = ["STRICT: only workloads in the mesh can reach the pods, and the traffic is encrypted."]
    if by_knative:
        spec["portLevelMtls"] = {_METRICS_PORT: {"mode": "PERMISSIVE"}}
        why.append(f"{_METRICS_PORT} PERMISSIVE: a Prometheus outside the mesh can read queue-proxy's metrics.")
    return _object("PeerAuthentication", workload, by_knative, spec, why)


def _tokens(workload: Workload, spec: ServingSpec, by_knative: bool) -> JsonObject:
    rule: JsonObject = {"issuer": spec.auth_issuer}
    why = [f"A token must be signed by {spec.auth_issuer}; other tokens and expired tokens are rejected (401)."]
    if spec.auth_jwks is not None:
        rule["jwksUri"] = spec.auth_jwks
    if spec.auth_audiences:
        rule["audiences"] = list(spec.auth_audiences)
        why.append(f"Its audience must be {' or '.join(spec.auth_audiences)} (403).")
    why.append("A request without a token passes here; the AuthorizationPolicy rejects it.")
    return _object("RequestAuthentication", workload, by_knative, {"jwtRules": [rule]}, why)


def _allowed(workload: Workload, spec: ServingSpec, trust_domain: str, port: int | None) -> JsonObject:
    """``port``: the container's; ``None`` behind Knative, which has ports of its own."""
    by_knative = port is None
    ports = list(_MODEL_PORTS) if by_knative else [str(port)]
    callers: JsonObject = {"from": _sources(spec, trust_domain), "to": [{"operation": {"ports": ports}}]}
    if spec.auth_claims:
        claims: dict[str, list[str]] = {}
        for name, value in spec.auth_claims:
            claims.setdefault(name, []).append(value)
        callers["when"] = [{"key": f"request.auth.claims[{name}]", "values": found} for name, found in claims.items()]
    rules = [(callers, f"{_who(spec)} can call the model.")]
    if by_knative:
        rules += _of_knative()
    why = [f"Rule {number}: {reason}" for number, (_, reason) in enumerate(rules, 1)]
    why.append("Requests that no rule allows are rejected (403), also for the model's metrics and for other ports.")
    return _object(
        "AuthorizationPolicy",
        workload,
        by_knative,
        {"action": "ALLOW", "rules": [rule for rule, _ in rules]},
        why,
    )


def _of_knative() -> list[tuple[JsonObject, str]]:
    """What Knative itself must reach, as narrow as possible."""

    def probe(agent: str) -> JsonObject:
        return {
            "to": [{"operation": {"ports": list(_MODEL_PORTS), "methods": ["GET"], "paths": ["/healthz"]}}],
            "when": [{"key": "request.headers[User-Agent]", "values": [f"{agent}*"]}],
        }

    ingress = probe("Knative-Ingress-Probe")
    # Without this header queue-proxy forwards the request, and a forged agent would reach the model's /healthz.
    ingress["when"].append({"key": "request.headers[K-Network-Probe]", "values": ["probe"]})
    scrape = {
        "from": [{"source": {"namespaces": [KNATIVE_NAMESPACE]}}],
        "to": [{"operation": {"ports": [_AUTOSCALER_PORT], "methods": ["GET"], "paths": ["/metrics"]}}],
    }
    metrics = {"to": [{"operation": {"ports": [_METRICS_PORT], "methods": ["GET"], "paths": ["/metrics"]}}]}
    return [
        (
            probe("Knative-Activator-Probe"),
            "Readiness probes of the activator; queue-proxy answers this user agent itself, on every path.",
        ),
        (
            ingress,
            "Readiness probes of the ingress; queue-proxy answers requests with this header itself.",
        ),
        (scrape, f"The autoscaler reads the number of requests; port {_AUTOSCALER_PORT} belongs to queue-proxy."),
        (metrics, f"Prometheus reads queue-proxy's metrics; port {_METRICS_PORT} serves nothing of the model."),
    ]


def _sources(spec: ServingSpec, trust_domain: str) -> list[JsonObject]:
    """All fields of one source must match, so namespaces and principals are separate sources."""

    def source(key: str, values: list[str]) -> JsonObject:
        named = {key: values} if values else {}
        token = {"requestPrincipals": [f"{spec.auth_issuer}/*"]} if spec.auth == "jwt" else {}
        return {"source": {**named, **token}}

    if not spec.auth_callers:
        return [source("principals", ["*"] if spec.auth == "mtls" else [])]
    namespaces = [caller.namespace for caller in spec.auth_callers if caller.service_account is None]
    principals = [
        f"{trust_domain}/ns/{caller.namespace}/sa/{caller.service_account}"
        for caller in spec.auth_callers
        if caller.service_account is not None
    ]
    found = [("namespaces", namespaces), ("principals", principals)]
    return [source(key, values) for key, values in found if values]


def _who(spec: ServingSpec) -> str:
    named = " or ".join(_caller(caller) for caller in spec.auth_callers)
    if spec.auth == "mtls":
        return f"In the mesh, {named}" if named else "Every workload in the mesh"
    claims = " and ".join(sorted({name for name, _ in spec.auth_claims}))
    token = f"With a token of {spec.auth_issuer}" + (f" and the required claims ({claims})" if claims else "")
    return f"{token}, {named or 'every caller'}"


def _caller(caller: Caller) -> str:
    if caller.service_account is None:
        return f"a workload in namespace {caller.namespace}"
    return f"service account {caller.service_account} in namespace {caller.namespace}"


def _object(kind: str, workload: Workload, by_knative: bool, spec: JsonObject, why: list[str]) -> JsonObject:
    return resource(_API_VERSION, kind, workload, spec, why, by_knative=by_knative)


def _port(workload: Workload, spec: ServingSpec, context: ClusterContext) -> int:
    return serving_port.of_pod(workload.containers, context.servers, spec.port).number or DEFAULT_PORT
