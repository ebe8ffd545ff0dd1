"""A user's container in front of a model server of the catalogue, such as a transformer.

It has the port, so the requests go to it. The model server listens on its runtime's port inside the pod only, and does
not declare it: a Knative Service has one port over all of its containers.
"""

from serve_core.admission.working_set import Admission
from serve_core.api.runtimes import Runtime
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.findings import Findings
from serve_core.base.json import JsonObject, list_of
from serve_core.base.reasons import diagnostic, explanation
from serve_core.base.workload import POD
from serve_core.workload import serving_port
from serve_core.workload.model_server import PROBES, declared_ports, front_container, with_ports


def put_in_front(
    server: JsonObject, containers: list[JsonObject], spec: ServingSpec, runtime: Runtime, findings: Findings
) -> tuple[JsonObject, list[JsonObject]]:
    """The completed ``server`` behind the user's container that takes the requests, if one of ``containers`` does; and
    what to set in the containers beside it."""
    own = declared_ports(server)
    front = front_container(containers, spec.port)
    if front is None or not own or (spec.port in own and spec.port not in declared_ports(front)):
        return server, []
    _refuse_taken_ports(server, containers, runtime, findings)
    findings.explanations.append(explanation("RequestsInFront", name=front["name"], server=server["name"], port=own[0]))
    numbers: dict[int | str, int] = {str(port.get("name")): port["containerPort"] for port in server["ports"]}
    behind = {key: value for key, value in server.items() if key != "ports"}
    behind |= {probe: with_ports(behind[probe], numbers) for probe in PROBES if probe in behind}
    if front.get("ports"):
        return behind, []
    return behind, [{"name": front["name"], "ports": [{"containerPort": spec.port}]}]


def takes_port(admission: Admission) -> bool:
    """Whether a container of the completed Deployment takes the requests on the annotated port: the user's in front of
    the runtime, or the runtime's own."""
    containers, port = admission.workload.containers, admission.spec.port
    return front_container(containers, port) is not None or admission.serving_port.index is not None


def _refuse_taken_ports(server: JsonObject, containers: list[JsonObject], runtime: Runtime, findings: Findings) -> None:
    """Refuse ports of the model server in other containers: all containers of a pod share its ports."""
    written = next((each for each in containers if each.get("name") == server["name"]), {})
    own = serving_port.listening(written, server)
    for index, container in enumerate(containers):
        for place, port in enumerate(list_of(container.get("ports"))):
            if container.get("name") != server["name"] and port.get("containerPort") in own:
                words = {"port": port["containerPort"], "serving": declared_ports(server)[0]}
                words |= {"runtime": runtime.name, "server": server["name"]}
                at = f"{POD}.containers[{index}].ports[{place}].containerPort"
                findings.problems.append(diagnostic("PortTaken", at, **words))
