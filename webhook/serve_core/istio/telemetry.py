"""What Istio is to record of a model beside its metrics: the Telemetry resource that the annotation becomes."""

from serve_core.api.annotations import DEPLOYMENT, TELEMETRY, path_of
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic
from serve_core.context.istio import IstioInstallation
from serve_core.istio import injection


def recorded(
    deployment: JsonObject, spec: ServingSpec, context: IstioInstallation | None
) -> tuple[tuple[JsonObject, ...], tuple[Diagnostic, ...]]:
    """The Telemetry (telemetry.istio.io/v1) of a model, if it is asked for, or why there cannot be one."""
    wanted = spec.telemetry
    if wanted is None:
        return (), ()
    mesh = injection.decide(deployment, spec, context)
    problems = injection.needs_sidecar(mesh, context, path_of(TELEMETRY))
    if problems:
        return (), problems
    settings: JsonObject = {}
    why = []
    if wanted.access_log:
        settings["accessLogging"] = [{"providers": [{"name": "envoy"}]}]
        why.append("The sidecar writes a line for each request to its log.")
    if wanted.trace is not None:
        settings["tracing"] = [{"randomSamplingPercentage": wanted.trace}]
        why.append(f"{wanted.trace} % of the requests are traced, to where the mesh sends traces.")
    by_knative = spec.mode != DEPLOYMENT
    return (injection.resource("telemetry.istio.io/v1", "Telemetry", deployment, by_knative, settings, why),), ()
