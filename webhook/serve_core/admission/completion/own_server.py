"""A model server of the user's own: the port that Knative sends requests to, and whether it serves the loaded model.

Only what the container leaves out is filled in: a port that its probe, its command line or its image names, and the
readiness probe of a known server. A command line that points elsewhere is not corrected; the user gets a warning, with
the line to write.
"""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from serve_core.api import models, servers
from serve_core.api.annotations import MOUNT
from serve_core.api.servers import KnownServer
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic, Explanation, diagnostic, explanation
from serve_core.syntax import mount_path
from serve_core.workload import command_line, hub_access, known_server, model_server, serving_port
from serve_core.workload.command_line import CommandLine
from serve_core.workload.serving_port import ServingPort, Source

_SHOWN = re.compile(r"(?=.{1,100}\Z)[A-Za-z0-9_.-]*/[A-Za-z0-9_./-]+", re.ASCII)
"""What is shown of a command line: paths and repositories. A word without a slash could be a token."""
_FILE = re.compile(r"\.[a-z][a-z0-9]{1,11}\Z", re.ASCII)
"""The suffix of a file. A folder's name can end in a version: qwen-2.5."""
_MAX_FLAGS = 8
_ANY = "Point the server there, for example with an argument or a variable that its documentation names."
_ANY_PATH = f"Or set {MOUNT} to the path where the server looks for its model."


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


def read(container: JsonObject, path: str, spec: ServingSpec, known: Iterable[KnownServer]) -> OwnServer:
    """Read ``container``, before anything is filled into it. ``path``: of the container in the Deployment, for
    messages."""
    line = command_line.read(container)
    server = servers.recognize(str(container.get("image") or ""), line.words, known)
    found = serving_port.choose(container, line, server, spec.port)
    explanations: tuple[Explanation, ...] = ()
    if server is not None:
        explanations += (explanation("ServerKnown", name=container.get("name"), server=server.title),)
    uris = [model.uri for model in spec.models]
    warnings: tuple[Diagnostic, ...] = ()
    reads_hub_cache = hub_access.reads_cache(line, server, uris, spec.mount)
    own_cache = None
    if reads_hub_cache:
        own_cache = (
            hub_access.own_cache(container, line)
            or hub_access.other_revision(line, uris)
            or hub_access.other_repository(line, uris)
        )
    if reads_hub_cache and own_cache is None:
        repository = hub_access.named_repository(line, uris)
        cache = "its cache on the claim" if spec.model.scheme == "pvc" else "a cache that the loader fills"
        words = {"name": container.get("name"), "repository": repository, "cache": cache}
        explanations += (explanation("HubLayout", **words),)
    elif not line.names_model(spec.mount, None if spec.mounts_file else spec.file_name):
        reads_hub_cache = False
        warnings = (_unseen(container, path, spec, line, server, own_cache),)
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
    own_cache: str | None,
) -> Diagnostic:
    """Warn that the server probably does not serve the loaded model, with the line that points it there.

    ``own_cache``: the user's setting because of which the server does not use the loader's cache.
    """
    file, mount = spec.file_name, spec.mount
    at = spec.model_path
    how, value = f"{_ANY} {_ANY_PATH}", _model_path(line) if server is None else None
    if server is not None:
        written = known_server.model_argument(container, line, server)
        path_there = f"{mount}/FILE" if server.takes_file and file is None else at
        form = server.write.replace("{path}", "{}").replace("{file}", "{}") if written is None else written.form
        how = f"For {server.title}, write {form.replace('{}', path_there)}."
        value = None if written is None else written.value
    if own_cache is not None:
        how = f"{how} Or remove {own_cache}: the server then finds the loaded model by the name of its repository."
    elsewhere = value if value is not None and _SHOWN.fullmatch(value) else None
    instead = "" if elsewhere is None else f" (it refers to {elsewhere})"
    if elsewhere is not None and (proposal := _other_mount(elsewhere, spec, container)):
        how = f"{how.removesuffix(f' {_ANY_PATH}')} {proposal}"
    return diagnostic("ModelUnseen", path, name=container.get("name"), mount=mount, instead=instead, how=how)


def _model_path(line: CommandLine) -> str | None:
    """The path that a server that is not known is given as its model, in a flag or a variable of such a name."""
    flags = dict.fromkeys(word.partition("=")[0] for word in line.words if word.startswith("-") and "model" in word)
    values = [line.flag(name) for name in islice(flags, _MAX_FLAGS)]
    values += [value for name, value in line.variables.items() if "MODEL" in name]
    return next((value for value in values if value is not None and value.startswith("/")), None)


def _other_mount(path: str, spec: ServingSpec, container: JsonObject) -> str:
    """The proposal to have the model at ``path``, with the annotation ``mount``; empty if it cannot be there."""
    path = path.rstrip("/")
    folder, name = posixpath.split(path)
    if not _FILE.search(name):
        candidates = [path]
    elif spec.file_name is None:
        candidates = [folder]
    else:
        candidates = [folder] if name == spec.file_name else []
        candidates += [path] if models.has_file_suffix(name) else []
    candidates = [each for each in candidates if mount_path.fault(each) is None]
    mounted = model_server.mounted_paths(container)
    taken = {each: [one for one in mounted if mount_path.is_within(one, each)] for each in candidates}
    free = next((each for each in candidates if not taken[each]), None)
    if free is not None:
        return f"Or set {MOUNT} to {free}, where the server looks for its model."
    if candidates and taken[candidates[0]] == candidates[:1]:
        return f"Or remove the mount of the volume at {candidates[0]}, and set {MOUNT} to {candidates[0]}."
    return ""
