"""A transformer: a container that takes the requests and calls the model server in the same pod. Pure.

KServe runs the component ``transformer`` in pods of its own, and the container ``transformer-container`` in those of
the predictor. Here, both are a container in front of the model server.
Source: KServe 0.20, ``pkg/apis/serving/v1beta1/transformer_custom.go``.
"""

from typing import Any

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.arguments import Arguments
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.base.names import PORT, SERVER, STORAGE_URI, TRANSFORMER
from kubectl_serve.kserve.services import container as containers
from serve_core.workload import command_line
from serve_core.workload.model_server import PROBES

_FREE_PORT = 8090
"""A port that no runtime listens on."""
_LOCAL = ("localhost", "127.0.0.1", "0.0.0.0", "::1")  # noqa: S104
_HOST, _PORT_FLAG, _MODEL_NAME = "--predictor_host", "--http_port", "--model_name"
_IN_THE_PODS = "has no equivalent: the transformer runs in the pods of the model server."


def in_front(container: Field, server_port: int, draft: Draft) -> dict[str, Any]:
    """The container ``transformer-container`` of a predictor, in front of a model server with that port."""
    args = Arguments(container.at("args"))
    host = args.find(_HOST)
    if host is not None and not _leads_to(host.value, server_port):
        host.words[0].remark(f"must be localhost:{server_port}, where the model server listens.")
    return _listening(container, args, server_port, draft)


def component(transformer: Field, draft: Draft, server_port: int) -> list[dict[str, Any]]:
    """The containers of the component ``transformer``; its pods' other fields go to the model server's pods."""
    elements = transformer.at("containers").objects()
    if not elements:
        transformer.note("has no equivalent: it has no container.")
        return []
    transformer.remark("runs in front of the model server in the same pods, and scales with it.")
    first = elements[0]
    args = Arguments(first.at("args"))
    if (host := args.take(_HOST)) is not None and not _leads_to(host.value, server_port):
        host.words[0].remark(f"is localhost:{server_port} here, where the model server listens.")
    for each in first.at("env").objects():
        if each.at("name").value == STORAGE_URI:
            each.remark("has no effect: the loader loads the model of the predictor only.")
    if args.find(_MODEL_NAME) is None:
        args.words += [f"{_MODEL_NAME}={draft.name}"]
    args.words += [f"{_HOST}=localhost:{server_port}"]
    made = [_listening(first, args, server_port, draft), *(containers.read(each) for each in elements[1:])]
    name = first.at("name")
    if name.value in (None, SERVER):
        name.use()
        made[0] = {"name": TRANSFORMER, **{key: value for key, value in made[0].items() if key != "name"}}
    _pod(transformer, draft)
    return made


def port_of(front: dict[str, Any]) -> int:
    """The port of a container that one of the functions above gives."""
    ports = front["ports"].objects() if isinstance(front["ports"], Field) else front["ports"]
    numbers = (each.at("containerPort").value if isinstance(each, Field) else each["containerPort"] for each in ports)
    return next((each for each in numbers if isinstance(each, int)), PORT)


def _leads_to(host: str, port: int) -> bool:
    name, _, number = host.rpartition("://")[2].rstrip("/").rpartition(":")
    return name in _LOCAL and number == str(port)


def _listening(container: Field, args: Arguments, server_port: int, draft: Draft) -> dict[str, Any]:
    """The container with a declared port that is not the model server's: containers of a pod share its ports."""
    made = containers.read(container, "args", "ports")
    ports, said = container.at("ports"), args.find(_PORT_FLAG)
    number = containers.port_of(container) if ports else command_line.port_of(said.value if said else None) or PORT
    if number == server_port:
        args.take(_PORT_FLAG)
        args.words.append(f"{_PORT_FLAG}={_FREE_PORT}")
        made |= _moved(container, number)
        container.remark(
            f"must listen on {_FREE_PORT}, as {_PORT_FLAG} says: the model server in the same pod has port {number}."
        )
    else:
        made["ports"] = ports or [{"containerPort": number}]
    model = args.find(_MODEL_NAME)
    if model is not None and model.value in draft.former_names:
        model.words[0].remark(f"must be {draft.name}, the model's name here.")
    if args.words:
        made["args"] = args.words
    return made


def _moved(container: Field, number: int) -> dict[str, Any]:
    """The fields of a container that name its port ``number``, with the free one instead."""
    made: dict[str, Any] = {}
    ports = [_with(each, number, "containerPort") for each in container.at("ports").objects()]
    made["ports"] = ports or [{"containerPort": _FREE_PORT}]
    for probe in PROBES:
        handlers = container.at(probe).entries()
        if handlers:
            made[probe] = {key: _with(each, number, "port") for key, each in handlers.items()}
    return made


def _with(owner: Field, number: int, key: str) -> Any:
    port = owner.at(key)
    if port.value != number:
        return owner
    port.use()
    return {**owner.entries(), key: _FREE_PORT}


def _pod(transformer: Field, draft: Draft) -> None:
    """Volumes and Secrets of the transformer's pods. The other fields are those of the model server's pods."""
    for key, each in transformer.entries().items():
        present = draft.pod.get(key)
        if key == "containers":
            continue
        if key in ("volumes", "imagePullSecrets", "initContainers"):
            own = present.objects() if isinstance(present, Field) else []
            names = {str(element.at("name").value): element for element in own}
            added = []
            for element in each.objects():
                same = names.get(str(element.at("name").value))
                if same is None:
                    added.append(element)
                elif same.value == element.value:
                    element.use()
                else:
                    element.note(f"has no equivalent: {same.path} has the same name.")
            draft.pod[key] = [*own, *added]
        elif isinstance(present, Field) and present.value == each.value:
            each.use()
        else:
            each.note(_IN_THE_PODS)
