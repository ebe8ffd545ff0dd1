"""Access logs and traces of a model: the Telemetry resource that the annotation becomes."""

from serve_core.api.annotations import DEPLOYMENT, TELEMETRY, path_of
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.findings import Findings
from serve_core.base.json import JsonObject
from serve_core.base.workload import Workload
from serve_core.context.istio import IstioInstallation
from serve_core.istio.injection import MeshDecision, needs_sidecar
from serve_core.istio.resource import resource


def render(
    workload: Workload, spec: ServingSpec, mesh: MeshDecision, istio: IstioInstallation | None, findings: Findings
) -> list[JsonObject]:
    """The Telemetry (telemetry.istio.io/v1) that ``telemetry`` asks for; none if it cannot have an effect."""
    wanted = spec.telemetry
    if wanted is None:
        return []
    if problem := needs_sidecar(mesh, istio, path_of(TELEMETRY)):
        findings.problems.append(problem)
        return []
    settings: JsonObject = {}
    why = []
    if wanted.access_log:
        settings["accessLogging"] = [{"providers": [{"name": "envoy"}]}]
        why.append("The sidecar logs each request.")
    if wanted.trace is not None:
        settings["tracing"] = [{"randomSamplingPercentage": wanted.trace}]
        why.append(f"Istio traces {wanted.trace} % of the requests, with the tracing provider of the mesh.")
    by_knative = spec.mode != DEPLOYMENT
    return [resource("telemetry.istio.io/v1", "Telemetry", workload, settings, why, by_knative=by_knative)]
