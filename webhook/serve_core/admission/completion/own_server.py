"""A model server of the user's own: the port that Knative sends requests to, and whether it serves the loaded model.

Only what the container leaves out is filled in: a port that its probe, its command line or its image names, and the
readiness probe of a known server. A command line that points elsewhere is not corrected; the user gets a warning, with
the line to write.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from serve_core.api import servers
from serve_core.api.servers import KnownServer
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic, Explanation, diagnostic, explanation
from serve_core.workload import command_line, hub_access, known_server, model_server, serving_port
from serve_core.workload.command_line import CommandLine
from serve_core.workload.serving_port import ServingPort, Source

_SHOWN = re.compile(r"(?=.{1,100}\Z)[A-Za-z0-9_.-]*/[A-Za-z0-9_./-]+", re.ASCII)
"""What is shown of a command line: paths and repositories. A word without a slash could be a token."""
_ANY = "Point the server there, for example with an argument or a variable that its documentation names."


@dataclass(frozen=True)
class OwnServer:
    """What a container of the user's own says of itself."""

    ports: tuple[JsonObject, ...] = ()
    """To be filled in where it declares none."""
    readiness: JsonObject | None = None
    """The probe to be filled in where it has none."""
    deadline: int | None = None
    """Seconds in which the server becomes ready, without the download; ``None`` for the platform's default."""
    explanations: tuple[Explanation, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()
    reads_hub_cache: bool = False
    """Whether it finds the model by the name of its repository, in the loader's cache."""


def read(container: JsonObject, path: str, spec: ServingSpec, known: Iterable[KnownServer], mount: str) -> OwnServer:
    """Read ``container``, before anything is filled into it.

    ``path``: of the container in the Deployment, for messages. ``mount``: of the model in the container.
    """
    line = command_line.read(container)
    server = servers.recognize(str(container.get("image") or ""), line.words, known)
    found = serving_port.choose(container, line, server, spec.port)
    explanations: tuple[Explanation, ...] = ()
    if server is not None:
        explanations += (explanation("ServerKnown", name=container.get("name"), server=server.title),)
    uris = [model.uri for model in spec.models]
    warnings: tuple[Diagnostic, ...] = ()
    reads_hub_cache = hub_access.reads_cache(line, server, uris, mount)
    own_cache = None
    if reads_hub_cache:
        own_cache = (
            hub_access.own_cache(container, line)
            or hub_access.other_revision(line, uris)
            or hub_access.other_repository(line, uris)
        )
    if reads_hub_cache and own_cache is None:
        repository = hub_access.named_repository(line, uris)
        explanations += (explanation("HubLayout", name=container.get("name"), repository=repository),)
    elif not line.names_path(mount):
        reads_hub_cache = False
        warnings = (_unseen(container, path, spec, line, server, mount, own_cache),)
    ports: tuple[JsonObject, ...] = ()
    if found.number is not None and not container.get("ports"):
        ports = ({"containerPort": found.number, "protocol": "TCP"},)
        source = found.source or Source.SERVER
        explanations += (explanation("PortFound", port=found.number, source=source.value),)
    readiness = None if server is None else _readiness(container, line, server, found)
    if server is not None and readiness is not None:
        words = {"name": container.get("name"), "path": server.health, "port": found.number, "server": server.title}
        explanations += (explanation("ReadinessProbed", **words),)
    deadline = None if server is None else server.deadline
    return OwnServer(ports, readiness, deadline, explanations, warnings, reads_hub_cache)


def _readiness(container: JsonObject, line: CommandLine, server: KnownServer, found: ServingPort) -> JsonObject | None:
    """The readiness probe of a known server where the container has none.

    A wrong probe would keep a working server from becoming ready. So the requests go to the port on which the server
    listens, not to a proxy's, and more than the image says which server it is.
    """
    if server.health is None or container.get("readinessProbe"):
        return None
    if found.number != serving_port.of_server(line, server) or not known_server.is_evident(container, line, server):
        return None
    return model_server.with_defaults({"httpGet": {"path": server.health, "port": found.number}})


def _unseen(
    container: JsonObject,
    path: str,
    spec: ServingSpec,
    line: CommandLine,
    server: KnownServer | None,
    mount: str,
    own_cache: str | None,
) -> Diagnostic:
    """Warn that the server probably does not serve the loaded model, with the line that points it there.

    ``own_cache``: the user's setting because of which the server does not use the loader's cache.
    """
    file = spec.file_name
    at = mount if file is None else f"{mount}/{file}"
    how, value = _ANY, None
    if server is not None:
        written = known_server.model_argument(container, line, server)
        path_there = f"{mount}/FILE" if server.takes_file and file is None else at
        form = server.write.replace("{path}", "{}").replace("{file}", "{}") if written is None else written.form
        how = f"For {server.title}, write {form.replace('{}', path_there)}."
        value = None if written is None else written.value
    if own_cache is not None:
        how = f"{how} Or remove {own_cache}: the server then finds the loaded model by the name of its repository."
    instead = f" (it refers to {value})" if value is not None and _SHOWN.fullmatch(value) else ""
    return diagnostic("ModelUnseen", path, name=container.get("name"), mount=mount, instead=instead, how=how)
