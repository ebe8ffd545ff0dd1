"""What a pod serves: the runtime that its container is, and the formats of its models."""

from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote

import model_uri
from model_uri import URIError
from serve_core.api import annotations
from serve_core.api.annotations import path_of
from serve_core.api.models import SUFFIX_FORMATS
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext
from serve_core.policy.subject import Origin, RuntimeUse, Use
from serve_core.workload import model_server


def formats_of(notes: Mapping[str, str], origins: Iterable[Origin]) -> Iterator[Use]:
    """The formats that the annotation and the files' suffixes name, each once."""
    found = {}
    if written := notes.get(annotations.FORMAT):
        found[written.partition(":")[0]] = Use(written.partition(":")[0], path_of(annotations.FORMAT))
    for origin in origins:
        path = _path_of(origin.text)
        for suffix, name in SUFFIX_FORMATS.items():
            if path.endswith(suffix):
                found.setdefault(name, Use(name, origin.path))
    yield from found.values()


def _path_of(text: str) -> str:
    """What a URI names, decoded and in lower case: a revision or a tag behind the path does not hide its suffix."""
    try:
        uri = model_uri.parse(text)
    except URIError:
        return unquote(text.split("?", 1)[0]).lower()
    return "/".join((uri.host, *uri.segments)).lower()


def runtime_of(
    pod: JsonObject, path: str, context: ClusterContext, likely: str = "", name: str = "", file: str = ""
) -> RuntimeUse:
    """The catalogue's runtime that renders a pod's server, for the model ``name`` at ``file`` where these are known."""
    known = model_server.read(pod, context.known_runtimes, likely=likely, name=name, path=file)
    if not known.path:
        served = (each.name for one in context.known_runtimes if one.name == known.name for each in one.formats)
        return RuntimeUse(known.name, path, known.based_on, formats=tuple(dict.fromkeys(served)))
    why = f"{known.path} differs from runtime {known.based_on[0]}"
    return RuntimeUse(known.name, f"{path}.{known.path}", known.based_on, why)
