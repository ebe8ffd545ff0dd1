"""A model server of the user's own: the port that Knative sends requests to, and whether it serves the loaded model.

Only what the container leaves out is filled in: a port that its probe, its command line or its image names. A command
line that points elsewhere is not corrected; the user gets a warning, with the line to write.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from serve_core.api import servers
from serve_core.api.servers import KnownServer
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic, Explanation, diagnostic, explanation
from serve_core.workload import command_line, hub_access, serving_port
from serve_core.workload.command_line import CommandLine
from serve_core.workload.serving_port import Source

_SHOWN = re.compile(r"(?=.{1,100}\Z)[A-Za-z0-9_.-]*/[A-Za-z0-9_./-]+", re.ASCII)
"""What is shown of a command line: paths and repositories. A word without a slash could be a token."""
_ANY = "Point the server there, for example with an argument or a variable that its documentation names."


@dataclass(frozen=True)
class OwnServer:
    """What a container of the user's own says of itself."""

    ports: tuple[JsonObject, ...] = ()
    """To be filled in where it declares none."""
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
    if found.number is None or container.get("ports"):
        return OwnServer((), explanations, warnings, reads_hub_cache)
    port: JsonObject = {"containerPort": found.number}
    source = found.source or Source.SERVER
    explanations += (explanation("PortFound", port=found.number, source=source.value),)
    return OwnServer((port,), explanations, warnings, reads_hub_cache)


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
    how = _ANY
    if server is not None:
        written = server.write.replace("{path}", at).replace("{file}", at if file else f"{mount}/FILE")
        how = f"For {server.title}, write {written}."
    if own_cache is not None:
        how = f"{how} Or remove {own_cache}: the server then finds the loaded model by the name of its repository."
    values = [line.flag(name) for name in (server.model_flags if server is not None else ())]
    elsewhere = next((value for value in values if value is not None and _SHOWN.fullmatch(value)), None)
    instead = "" if elsewhere is None else f" (it refers to {elsewhere})"
    return diagnostic("ModelUnseen", path, name=container.get("name"), mount=mount, instead=instead, how=how)
