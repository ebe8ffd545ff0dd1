"""The served model that a request goes to: its URL and its inference protocol. Pure."""

from dataclasses import dataclass

from kubectl_serve import PROGRAM
from kubectl_serve.errors import ServeError
from kubectl_serve.install import manifests
from kubectl_serve.predict import protocols
from kubectl_serve.status import model
from serve_core.admission.completion import completion_record
from serve_core.api import annotations, servers, serving_spec
from serve_core.api import state as model_state
from serve_core.api.runtimes import Runtime
from serve_core.api.servers import DEFAULT_BASE_PATH
from serve_core.base.json import JsonObject
from serve_core.syntax import image_reference
from serve_core.workload import command_line, known_server
from serve_core.workload.model_server import requests_container, server_container


def url_of(deployment: JsonObject, flags: str) -> str:
    """The model's URL. It answers while any revision is ready; raises ServeError otherwise."""
    recorded = model_state.read(deployment)
    state, name = model.readiness(deployment), model.name_of(deployment)
    if recorded.url and (state.status == "True" or recorded.revision):
        return recorded.url.rstrip("/")
    raise ServeError(
        f"{name} is not ready: {state.reason or 'Progressing'}: {state.message or 'it is being set up.'}",
        f"`{PROGRAM} describe {name}{flags}` shows more."
        if state.status == "False"
        else f"`{PROGRAM} get {name}{flags} -w` waits until it is.",
    )


@dataclass(frozen=True)
class Interface:
    """How the model server of a Deployment is asked."""

    protocol: str
    """v2 where this command supports none of the server's."""
    base_path: str = DEFAULT_BASE_PATH
    """What OpenAI's paths begin with."""
    is_own_server: bool = False
    """Whether the server is the user's own, which can have another name for the model than the Deployment's."""


def interface_of(deployment: JsonObject) -> Interface:
    """The protocol of the annotation, of the runtime, or of the known server that takes the requests."""
    spec = serving_spec.read_stored(deployment)
    record = completion_record.read(model.annotations_of(deployment).get(annotations.COMPLETED_WITH))
    is_own_server = record is not None and record.runtime_name is None
    container = requests_container(model.containers_of(deployment), spec.port if spec is not None else None) or {}
    line = command_line.read(container)
    image, known = str(container.get("image") or ""), manifests.known_servers() if is_own_server else ()
    server = servers.recognize(image, line.words, known)
    runtime = _runtime(deployment, record.runtime_name if record is not None else None)
    spoken = (
        spec.protocol if spec is not None else None,
        record.protocol if record is not None else None,
        server.protocol if server is not None else None,
        *(runtime.protocols if runtime is not None else ()),
    )
    return Interface(
        next((str(each) for each in spoken if each in protocols.PROTOCOLS), "v2"),
        DEFAULT_BASE_PATH if server is None else known_server.base_path(line, server),
        is_own_server,
    )


def _runtime(deployment: JsonObject, name: str | None) -> Runtime | None:
    """The runtime of that name, or without a name, of the image, if it is one of this command's manifests."""
    image = next((each.get("image") for each in model.containers_of(deployment) if each.get("image")), None)
    for each in manifests.known_runtimes():
        by_image = name is None and _image_name(each.container["image"]) == _image_name(image)
        if by_image or each.name == name:
            return each
    return None


def _image_name(image: str | None) -> str:
    """The last part of an image's name: an installation can use another registry and tag."""
    parsed = image_reference.parse_or_none(image)
    return "" if parsed is None else parsed.path[-1]


def server_container_of(deployment: JsonObject) -> str:
    """Name of the container with the model server."""
    return str((server_container(model.containers_of(deployment)) or {}).get("name"))
