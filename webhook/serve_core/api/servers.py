"""Model servers that other people's Deployments run: how each is recognized, its port, its health check, its protocol,
and how it is given its model.

A known server is data (``manifests/servers``): it completes nothing, it only says what an image means. A runtime
(:mod:`serve_core.api.runtimes`) is what kubectl-serve itself runs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from serve_core.api.annotations import PROTOCOLS
from serve_core.base.constants import GROUP
from serve_core.base.json import JsonObject
from serve_core.syntax import glob, image_reference

API_VERSION = f"{GROUP}/v1alpha1"
KIND = "KnownServer"
_MAX_NAMES = 64
"""Of each list."""
_LONGEST_IMAGE = 512
DEFAULT_BASE_PATH = "/v1"
_FIELDS = (
    "title", "images", "commands", "port", "health", "protocol", "basePath", "progressDeadlineSeconds", "model",
)  # fmt: skip
_PORT_FIELDS = ("default", "flags", "variables")


@dataclass(frozen=True)
class KnownServer:
    """One model server. A flag takes its value as the next word, or after ``=``."""

    name: str
    title: str
    """The name that people use, for messages."""
    images: tuple[str, ...]
    """Globs over ``registry/path`` of its images, without tag and digest."""
    commands: tuple[tuple[str, ...], ...]
    """Words that stand one after the other in its command line, programs without their folder."""
    port: int
    """Where it listens if nothing says otherwise."""
    port_flags: tuple[str, ...] = ()
    port_variables: tuple[str, ...] = ()
    """Their values are ``8000`` or ``0.0.0.0:8000``."""
    health: str | None = None
    """The path of its health check, where it has one over HTTP: 200 when the model can be asked."""
    protocol: str | None = None
    """What ``kubectl serve predict`` speaks to it."""
    base_path: str = DEFAULT_BASE_PATH
    """What OpenAI's paths begin with, such as ``/v1/embeddings``."""
    base_path_flags: tuple[str, ...] = ()
    base_path_variables: tuple[str, ...] = ()
    deadline: int | None = None
    """Seconds in which it becomes ready with a large model, without the download."""
    model_flags: tuple[str, ...] = ()
    model_variables: tuple[str, ...] = ()
    model_words: tuple[tuple[str, ...], ...] = ()
    """Words in its command line that the model follows as an argument, such as ``vllm serve``."""
    write: str = ""
    """What to write so that it serves the loaded model, where the container names none; ``{path}`` is the model's path,
    ``{file}`` its file's."""
    hub_cache: bool = False
    """Whether it reads repositories of the Hugging Face Hub from the cache of ``huggingface_hub``."""

    @property
    def takes_file(self) -> bool:
        """Whether it gets the path of the model's file, not of its folder."""
        return "{file}" in self.write


def parse(document: JsonObject) -> KnownServer:
    """Read a ``KnownServer`` document. Raises ValueError with a sentence that says what is wrong."""
    if document.get("apiVersion") != API_VERSION or document.get("kind") != KIND:
        raise ValueError(f"it is not a {KIND} of {API_VERSION}")
    name = _take(_take(document, "metadata", dict, "metadata"), "name", str, "metadata.name")
    spec = _take(document, "spec", dict, "spec")
    port, model = _take(spec, "port", dict, "spec.port"), _take(spec, "model", dict, "spec.model")
    base = _take(spec, "basePath", dict, "spec.basePath") if "basePath" in spec else {"default": DEFAULT_BASE_PATH}
    for part, at, known in (
        (spec, "spec", _FIELDS),
        (port, "spec.port", _PORT_FIELDS),
        (base, "spec.basePath", _PORT_FIELDS),
        (model, "spec.model", ("flags", "variables", "words", "write", "hubCache")),
    ):
        if unknown := sorted(set(part) - set(known)):
            raise ValueError(f"{at} has no field {', '.join(unknown)}")
    protocol = spec.get("protocol")
    if protocol is not None and protocol not in PROTOCOLS:
        raise ValueError(f"spec.protocol must be one of {', '.join(PROTOCOLS)}")
    number = _take(port, "default", int, "spec.port.default")
    if not 0 < number < 65536:
        raise ValueError("spec.port.default must be from 1 to 65535")
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None and _take(spec, "progressDeadlineSeconds", int, "spec.progressDeadlineSeconds") < 1:
        raise ValueError("spec.progressDeadlineSeconds must be at least 1")
    health = None if spec.get("health") is None else _take(spec, "health", str, "spec.health")
    if health is not None and not health.startswith("/"):
        raise ValueError("spec.health must begin with /")
    return KnownServer(
        name=name,
        title=_take(spec, "title", str, "spec.title"),
        images=_texts(spec, "images", "spec"),
        commands=_commands(spec, "commands", "spec"),
        port=number,
        port_flags=_texts(port, "flags", "spec.port"),
        port_variables=_texts(port, "variables", "spec.port"),
        health=health,
        protocol=protocol,
        base_path=_take(base, "default", str, "spec.basePath.default"),
        base_path_flags=_texts(base, "flags", "spec.basePath"),
        base_path_variables=_texts(base, "variables", "spec.basePath"),
        deadline=deadline,
        model_flags=_texts(model, "flags", "spec.model"),
        model_variables=_texts(model, "variables", "spec.model"),
        model_words=_commands(model, "words", "spec.model"),
        write=_take(model, "write", str, "spec.model.write"),
        hub_cache=bool(model.get("hubCache", False)),
    )


def recognize(image: str, words: tuple[str, ...], known: Iterable[KnownServer]) -> KnownServer | None:
    """The server that a container runs: by its command line first, otherwise by the longest pattern that its image
    matches, which is the most specific one."""
    known = tuple(known)
    for server in known if words else ():
        if any(end_of(command, words) is not None for command in server.commands):
            return server
    repository = image_reference.repository(image)[:_LONGEST_IMAGE]
    best = max(known, key=lambda each: _likeness(repository, each.images), default=None)
    return best if best is not None and _likeness(repository, best.images) else None


@lru_cache(maxsize=4096)
def _likeness(repository: str, images: tuple[str, ...]) -> int:
    """The length of the longest pattern that matches; 0 if none does."""
    return max((len(pattern) for pattern in images if glob.matches(repository, pattern)), default=0)


def end_of(command: tuple[str, ...], words: tuple[str, ...]) -> int | None:
    """The place behind ``command`` in a command line, whatever the folder of its programs; ``None`` if it is not
    there."""
    length = len(command)
    programs = tuple(word.rpartition("/")[2] for word in words)
    for index, word in enumerate(programs):
        if word == command[0] and programs[index : index + length] == command:
            return index + length
    return None


def _commands(document: JsonObject, key: str, at: str) -> tuple[tuple[str, ...], ...]:
    found = tuple(tuple(each.split()) for each in _texts(document, key, at))
    if not all(found):
        raise ValueError(f"{at}.{key} must not be empty")
    return found


def _take(document: JsonObject, key: str, kind: type, at: str) -> Any:
    value = document.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{at} is missing or not a {'number' if kind is int else kind.__name__}")
    return value


def _texts(document: JsonObject, key: str, at: str) -> tuple[str, ...]:
    value = document.get(key, [])
    if not isinstance(value, list) or len(value) > _MAX_NAMES or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{at}.{key} must be a list of at most {_MAX_NAMES} texts")
    return tuple(value)
