"""Containers of the input. Pure."""

from typing import Any

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.names import PORT, SERVER
from serve_core.base.constants import SERVER_CONTAINER
from serve_core.knative.fields import CONTAINER


def read(container: Field, *left_out: str) -> dict[str, Any]:
    """The fields of a container that Kubernetes has, without those ``left_out``. Others stay unread."""
    check(container)
    return {key: each for key, each in container.entries().items() if key in CONTAINER and key not in left_out}


def check(container: Field) -> None:
    """Check the types of the fields that the conversion and the rendering look into."""
    for key in ("env", "ports", "volumeMounts"):
        container.at(key).objects()
    container.at("args").elements()
    for key in ("limits", "requests"):
        container.at("resources", key).entries()
    container.at("resources").entries()
    container.at("image").is_text()


def port_of(container: Field) -> int:
    """The port of a container's requests: the first that it declares, or KServe's default."""
    for each in container.at("ports").objects():
        number = each.at("containerPort").value
        if isinstance(number, int) and not is_for_metrics(each):
            return number
    return PORT


def is_for_metrics(port: Field) -> bool:
    """Whether the name of a port says that it is for metrics."""
    return "metrics" in str(port.at("name").value)


def is_for_grpc(port: Field) -> bool:
    """Whether the name of a port says that it is for gRPC."""
    return any(part in str(port.at("name").value) for part in ("h2c", "grpc"))


def name_server(made: dict[str, Any]) -> dict[str, Any]:
    """A container under the name of the model server, which decides between several containers."""
    name = made.get("name")
    if isinstance(name, Field):
        note_name(name)
    return {"name": SERVER_CONTAINER, **{key: value for key, value in made.items() if key != "name"}}


def note_name(name: Field) -> None:
    """Report another name than the one that KServe gives the model server."""
    if name.value == SERVER:
        name.use()
    else:
        name.note(f"is {SERVER_CONTAINER} here.")


def note_further_ports(container: Field) -> None:
    """Report the ports of a container that KServe's Service has beside the first."""
    port = port_of(container)
    for each in container.at("ports").objects():
        if each.at("containerPort").value not in (port, None):
            each.remark(f"has no equivalent for clients: the model's URL leads to port {port}.")
