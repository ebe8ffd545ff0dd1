"""What a container's command line and variables say of the known server in it: the model it is given, its base path.

A known server (:mod:`serve_core.api.servers`) is recognized by its image as well, and images of other programs have
similar names. So what could keep such a program from becoming ready rests on what is written in the container.
"""

from dataclasses import dataclass

from serve_core.api import servers
from serve_core.api.servers import KnownServer
from serve_core.base.json import JsonObject, objects_in
from serve_core.workload.command_line import CommandLine


@dataclass(frozen=True)
class ModelArgument:
    """The place where a container names its model."""

    form: str
    """How to write another model there; ``{}`` is the model's path."""
    value: str | None
    """What is written there; ``None`` if it is taken from elsewhere, such as a ConfigMap."""


def model_argument(container: JsonObject, line: CommandLine, server: KnownServer) -> ModelArgument | None:
    """Where a container names the model: a flag, which counts more than a variable, or an argument of its own."""
    for index in range(len(line.words) - 1, -1, -1):  # of a repeated flag, the last one counts
        name, equals, value = line.words[index].partition("=")
        if name in server.model_flags:
            behind = line.words[index + 1] if index + 1 < len(line.words) else None
            return ModelArgument(f"{name}={{}}" if equals else f"{name} {{}}", value if equals else behind)
    for command in server.model_words:
        end = servers.end_of(command, line.words)
        if end is not None and end < len(line.words) and not line.words[end].startswith("-"):
            return ModelArgument(f"`{' '.join(command)} {{}}`", line.words[end])
    written = {str(each.get("name")) for each in objects_in(container.get("env"))}
    for name in server.model_variables:
        if name in written:
            return ModelArgument(f"the variable {name}={{}}", line.variables.get(name))
    return None


def is_evident(container: JsonObject, line: CommandLine, server: KnownServer) -> bool:
    """Whether more than the image says that the server runs: its command line, or a setting that is its own."""
    if any(servers.end_of(command, line.words) is not None for command in server.commands):
        return True
    return model_argument(container, line, server) is not None


def base_path(line: CommandLine, server: KnownServer) -> str:
    """What OpenAI's paths begin with, without a slash at the end."""
    said = [line.flag(*server.base_path_flags), *(line.variables.get(name) for name in server.base_path_variables)]
    return next((each for each in said if each is not None), server.base_path).rstrip("/")
