"""Which port of a container serves the model, and which container of a pod has that port.

Knative sends requests to one port, and to 8080 where none is declared, whatever the server listens on. So we look where
people write it: the declared port, the annotation ``port``, the readiness probe, and the known server's flags,
variables and default. Only what the container says counts: we never inspect the image.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from serve_core.api import servers
from serve_core.api.servers import KnownServer
from serve_core.base.json import JsonObject, list_of, value_at
from serve_core.workload import command_line
from serve_core.workload.command_line import CommandLine, is_flag, port_of
from serve_core.workload.model_server import requests_container

_GENERIC_FLAGS = (
    "--port", "--http-port", "--http_port", "--server-port", "--server_port", "--server.port", "--bind", "--listen",
)  # fmt: skip
_GENERIC_VARIABLES = ("PORT", "HTTP_PORT", "SERVER_PORT", "UVICORN_PORT", "FLASK_RUN_PORT", "GRADIO_SERVER_PORT")
"""Of servers that are not known. The flags are those of uvicorn, gunicorn, streamlit and the like."""
_HTTP_NAMES = ("http1", "h2c", "http", "http2")
_LARGEST = 65535


class Source(StrEnum):
    """What the port was taken from."""

    DECLARED = "ports"
    ANNOTATION = "the annotation port"
    PROBE = "readinessProbe"
    FLAG = "the command line"
    SERVER = "the model server's default"


@dataclass(frozen=True)
class ServingPort:
    """``number`` is ``None`` where nothing says which it is."""

    number: int | None
    source: Source | None = None
    index: int | None = None
    """Its place in the container's ``ports``; ``None`` where it is not declared."""
    others: tuple[int, ...] = ()
    """The places in ``ports`` of those that are not it."""


def of_pod(containers: list[JsonObject], known: Iterable[KnownServer], annotated: int | None = None) -> ServingPort:
    """The port that takes a pod's requests: the model server's, or that of a user's container in its place."""
    return of(requests_container(containers, annotated) or {}, known, annotated)


def of(container: JsonObject, known: Iterable[KnownServer], annotated: int | None = None) -> ServingPort:
    """The port of a container, read whole; see :func:`choose`."""
    if (only := _only_declared(container, annotated)) is not None:
        return only  # most containers: the command line need not be read
    line = command_line.read(container)
    server = servers.recognize(str(container.get("image") or ""), line.words, known)
    return choose(container, line, server, annotated)


def choose(
    container: JsonObject, line: CommandLine, server: KnownServer | None = None, annotated: int | None = None
) -> ServingPort:
    """The port that serves the model.

    A single declared port is it. Of several, or of none, the annotation decides, then the readiness probe, then the
    command line, then the known server's default, and last a declared port with a name for HTTP.
    """
    if (only := _only_declared(container, annotated)) is not None:
        return only
    declared = _declared(container)
    said: list[tuple[int | None, Source]] = [
        (annotated, Source.ANNOTATION),
        (_probed(container), Source.PROBE),
        (_said(line, server), Source.FLAG),
        (server.port if server is not None else None, Source.SERVER),
        (_named(container), Source.DECLARED),
    ]
    for number, source in said:
        if number is None:
            continue
        if number in declared:
            index = declared.index(number)
            return ServingPort(number, source, index, tuple(i for i in range(len(declared)) if i != index))
        if not declared or source is Source.ANNOTATION:
            return ServingPort(number, source, None, tuple(range(len(declared))))
    return ServingPort(None, None, None, tuple(range(len(declared))))


def of_server(line: CommandLine, server: KnownServer) -> int:
    """The port on which a known server listens, as its flags and variables say, or by default."""
    return _said(line, server) or server.port


def listening(written: JsonObject, given: JsonObject) -> tuple[int, ...]:
    """All ports on which a container listens that its user has ``written`` and a runtime completes with the fields
    ``given``: the declared ones, and those of variables and flags, such as ``MLSERVER_GRPC_PORT`` and ``--grpc-port``.
    """
    env = [*list_of(given.get("env")), *list_of(written.get("env"))]
    container = {**written, **given, "env": env}
    line = command_line.read(container)
    said = [value for name, value in line.variables.items() if name.endswith("_PORT")]
    for word, following in pairwise((*line.words, "")):
        flag, equals, value = word.partition("=")
        if is_flag(flag) and flag.endswith("port"):
            said.append(value if equals else following)
    numbers = (*_declared(container), *map(port_of, said))
    return tuple(each for each in numbers if each is not None)


def _declared(container: JsonObject) -> list[int | None]:
    ports = container.get("ports")
    return [_number(port) for port in ports] if isinstance(ports, list) else []


def _only_declared(container: JsonObject, annotated: int | None) -> ServingPort | None:
    """The single declared port of a container, unless the annotation says otherwise."""
    declared = _declared(container)
    if len(declared) == 1 and annotated in (None, declared[0]):
        return ServingPort(declared[0], Source.DECLARED, 0)
    return None


def _number(port: object) -> int | None:
    number = value_at(port, "containerPort")
    return number if isinstance(number, int) and not isinstance(number, bool) and 0 < number <= _LARGEST else None


def _probed(container: JsonObject) -> int | None:
    """The port of the readiness probe, or else of the startup or the liveness probe."""
    ports = container.get("ports")
    named = {str(value_at(port, "name")): _number(port) for port in ports} if isinstance(ports, list) else {}
    for kind in ("readinessProbe", "startupProbe", "livenessProbe"):
        for handler in ("httpGet", "tcpSocket", "grpc"):
            port = value_at(container, kind, handler, "port")
            if isinstance(port, int) and not isinstance(port, bool) and 0 < port <= _LARGEST:
                return port
            if isinstance(port, str):
                return int(port) if port.isdecimal() and len(port) <= 5 and port.isascii() else named.get(port)
    return None


def _said(line: CommandLine, server: KnownServer | None) -> int | None:
    flags = server.port_flags if server is not None else _GENERIC_FLAGS
    for name in flags:
        if (port := port_of(line.flag(name))) is not None:
            return port
    for name in server.port_variables if server is not None else _GENERIC_VARIABLES:
        if (port := port_of(line.variables.get(name))) is not None:
            return port
    return None


def _named(container: JsonObject) -> int | None:
    """The one declared port whose name says that it is for HTTP."""
    ports = container.get("ports")
    for name in _HTTP_NAMES:
        found = [port for port in ports if value_at(port, "name") == name] if isinstance(ports, list) else []
        if len(found) == 1:
            return _number(found[0])
    return None
