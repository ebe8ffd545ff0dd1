"""Model servers that other people's Deployments run: how each is recognized, its port, and how it is given its model.

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
    """The path of its health check, where it has one over HTTP."""
    protocol: str | None = None
    model_flags: tuple[str, ...] = ()
    model_variables: tuple[str, ...] = ()
    write: str = ""
    """What to write so that it serves the loaded model; ``{path}`` is the model's path, ``{file}`` its file's."""
    hub_cache: bool = False
    """Whether it reads repositories of the Hugging Face Hub from the cache of ``huggingface_hub``."""


def parse(document: JsonObject) -> KnownServer:
    """Read a ``KnownServer`` document. Raises ValueError with a sentence that says what is wrong."""
    if document.get("apiVersion") != API_VERSION or document.get("kind") != KIND:
        raise ValueError(f"it is not a {KIND} of {API_VERSION}")
    name = _take(_take(document, "metadata", dict, "metadata"), "name", str, "metadata.name")
    spec = _take(document, "spec", dict, "spec")
    port, model = _take(spec, "port", dict, "spec.port"), _take(spec, "model", dict, "spec.model")
    for part, at, known in (
        (spec, "spec", ("title", "images", "commands", "port", "health", "protocol", "model")),
        (port, "spec.port", ("default", "flags", "variables")),
        (model, "spec.model", ("flags", "variables", "write", "hubCache")),
    ):
        if unknown := sorted(set(part) - set(known)):
            raise ValueError(f"{at} has no field {', '.join(unknown)}")
    protocol = spec.get("protocol")
    if protocol is not None and protocol not in PROTOCOLS:
        raise ValueError(f"spec.protocol must be one of {', '.join(PROTOCOLS)}")
    number = _take(port, "default", int, "spec.port.default")
    if not 0 < number < 65536:
        raise ValueError("spec.port.default must be from 1 to 65535")
    commands = tuple(tuple(each.split()) for each in _texts(spec, "commands", "spec"))
    if not all(commands):
        raise ValueError("spec.commands must not be empty")
    return KnownServer(
        name,
        _take(spec, "title", str, "spec.title"),
        _texts(spec, "images", "spec"),
        commands,
        number,
        _texts(port, "flags", "spec.port"),
        _texts(port, "variables", "spec.port"),
        None if spec.get("health") is None else _take(spec, "health", str, "spec.health"),
        protocol,
        _texts(model, "flags", "spec.model"),
        _texts(model, "variables", "spec.model"),
        _take(model, "write", str, "spec.model.write"),
        bool(model.get("hubCache", False)),
    )


def recognize(image: str, words: tuple[str, ...], known: Iterable[KnownServer]) -> KnownServer | None:
    """The server that a container runs: by its command line first, otherwise by the longest pattern that its image
    matches, which is the most specific one."""
    known = tuple(known)
    programs = tuple(word.rpartition("/")[2] for word in words)
    for server in known if programs else ():
        if any(_stands_in(command, programs) for command in server.commands):
            return server
    repository = _repository(image)
    best = max(known, key=lambda each: _likeness(repository, each.images), default=None)
    return best if best is not None and _likeness(repository, best.images) else None


@lru_cache(maxsize=4096)
def _likeness(repository: str, images: tuple[str, ...]) -> int:
    """The length of the longest pattern that matches; 0 if none does."""
    return max((len(pattern) for pattern in images if glob.matches(repository, pattern)), default=0)


def _repository(image: str) -> str:
    """``registry/path`` of an image; an image that no reference can be is compared as it is written."""
    try:
        read = image_reference.parse(image)
    except ValueError:
        return image[:_LONGEST_IMAGE]
    return "/".join((read.registry, *read.path))


def _stands_in(command: tuple[str, ...], words: tuple[str, ...]) -> bool:
    length = len(command)
    return any(words[index] == command[0] and words[index : index + length] == command for index in range(len(words)))


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
