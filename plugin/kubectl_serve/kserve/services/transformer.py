"""A transformer: a container that takes the requests and calls the model server in the same pod. Pure.

KServe runs the component ``transformer`` in pods of its own, and the container ``transformer-container`` in those of
the predictor. Here, both are a container in front of the model server.
Source: KServe 0.20, ``pkg/apis/serving/v1beta1/transformer_custom.go``.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.arguments import Arguments
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.base.names import PORT, SERVER, STORAGE_URI, TRANSFORMER
from kubectl_serve.kserve.services import container as containers
from serve_core.workload import command_line
from serve_core.workload.model_server import PROBES

_FREE_PORT = 8090
"""A port that no runtime of the catalogue listens on."""
_LOCAL = ("localhost", "127.0.0.1", "0.0.0.0", "::1")  # noqa: S104
_HOST, _MODEL_NAME = "--predictor_host", "--model_name"
_HTTP, _GRPC = "--http_port", "--grpc_port"
_IN_THE_PODS = "has no equivalent: the transformer runs in the pods of the model server."


@dataclass(frozen=True)
class Server:
    """The model server behind a transformer."""

    port: int
    """Of the requests."""
    taken: Collection[int]
    """All ports on which it listens."""


def in_front(container: Field, server: Server, draft: Draft) -> dict[str, Any]:
    """The container ``transformer-container`` of a predictor, in front of its model server."""
    args = Arguments(container.at("args"))
    host = args.find(_HOST)
    if host is not None and not _leads_to(host.value, server.port):
        host.words[0].remark(f"must be localhost:{server.port}, where the model server listens.")
    return _listening(container, args, server.taken, draft)


def component(transformer: Field, server: Server, draft: Draft) -> list[dict[str, Any]]:
    """The containers of the component ``transformer``; its pods' other fields go to the model server's pods."""
    elements = transformer.at("containers").objects()
    if not elements:
        transformer.note("has no equivalent: it has no container.")
        return []
    transformer.remark("runs in front of the model server in the same pods, and scales with it.")
    first = elements[0]
    args = Arguments(first.at("args"))
    if (host := args.take(_HOST)) is not None and not _leads_to(host.value, server.port):
        host.words[0].remark(f"is localhost:{server.port} here, where the model server listens.")
    for each in first.at("env").objects():
        if each.at("name").value == STORAGE_URI:
            each.remark("has no effect: the loader loads the model of the predictor only.")
    if args.find(_MODEL_NAME) is None:
        args.words += [f"{_MODEL_NAME}={draft.name}"]
    args.words += [f"{_HOST}=localhost:{server.port}"]
    made = [_listening(first, args, server.taken, draft), *(containers.read(each) for each in elements[1:])]
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


def _listening(container: Field, args: Arguments, taken: Collection[int], draft: Draft) -> dict[str, Any]:
    """The container with declared ports that are not the model server's: containers of a pod share their ports."""
    made = containers.read(container, "args", "ports")
    ports = container.at("ports")
    own = dict(_own_ports(container, args))
    moved: dict[int, int] = {}
    for number, flag in own.items():
        if number in taken:
            free = next(each for each in count(_FREE_PORT) if each not in {*taken, *own, *moved.values()})
            moved[number] = free
            args.take(flag)
            args.words.append(f"{flag}={free}")
            container.remark(
                f"must listen on {free}, as {flag} says: the model server in the same pod has port {number}."
            )
    number = next(iter(own))
    made["ports"] = ports or [{"containerPort": moved.get(number, number)}]
    if moved:
        made |= _moved(container, moved)
    model = args.find(_MODEL_NAME)
    if model is not None and model.value in draft.former_names:
        model.words[0].remark(f"must be {draft.name}, the model's name here.")
    if args.words:
        made["args"] = args.words
    return made


def _own_ports(container: Field, args: Arguments) -> Iterator[tuple[int, str]]:
    """The ports of a transformer for HTTP and gRPC, and the flag for each. A port that is not declared is the flag's;
    that for HTTP has a default."""
    declared: dict[str, int] = {}
    for each in container.at("ports").objects():
        number = each.at("containerPort").value
        if isinstance(number, int) and not containers.is_for_metrics(each):
            declared.setdefault(_GRPC if containers.is_for_grpc(each) else _HTTP, number)
    for flag, default in ((_HTTP, PORT), (_GRPC, None)):
        option = args.find(flag)
        said = command_line.port_of(option.value) if option is not None else None
        if (own := declared.get(flag) or said or default) is not None:
            yield own, flag


def _moved(container: Field, moved: Mapping[int, int]) -> dict[str, Any]:
    """The fields of a container that name one of its ports, with those to which they are ``moved`` instead."""
    made: dict[str, Any] = {}
    if ports := container.at("ports").objects():
        made["ports"] = [_with(each, moved, "containerPort") for each in ports]
    for probe in PROBES:
        handlers = container.at(probe).entries()
        if handlers:
            made[probe] = {key: _with(each, moved, "port") for key, each in handlers.items()}
    return made


def _with(owner: Field, moved: Mapping[int, int], key: str) -> Any:
    port = owner.at(key)
    if not isinstance(port.value, int) or port.value not in moved:
        return owner
    return {**owner.entries(), key: moved[port.use()]}


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
