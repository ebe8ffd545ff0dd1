"""Model servers: what each can serve, the container that does it, and the choice among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve_core.annotations import FORMAT, MODEL, PROTOCOL, PROTOCOLS, RUNTIME, Format, ServingSpec, path_of
from serve_core.json import JsonObject
from serve_core.models import SUFFIX_FORMATS
from serve_core.names import GROUP
from serve_core.reasons import Choice, Problem, choice, problem, quote

API_VERSION = f"{GROUP}/v1alpha1"
KIND = "ModelRuntime"


@dataclass(frozen=True)
class Runtime:
    name: str
    formats: tuple[Format, ...]
    """What it serves; a format without a version stands for every version."""
    protocols: tuple[str, ...]
    """What it speaks, its default first."""
    container: JsonObject
    """The container as a Kubernetes object. ``$(MODEL_NAME)`` and ``$(MODEL_PATH)`` are expanded in ``args``, ``env``
    and the path of an HTTP probe."""
    priority: int = 0
    """The highest wins where several serve the same."""

    def serves(self, wanted: Format, protocol: str | None) -> bool:
        return (protocol is None or protocol in self.protocols) and any(
            known.name == wanted.name and (wanted.version is None or known.version in (None, wanted.version))
            for known in self.formats
        )


def parse(document: JsonObject) -> Runtime:
    """Read a ``ModelRuntime`` document. Raises ValueError with a sentence that says what is wrong with it."""
    if document.get("apiVersion") != API_VERSION or document.get("kind") != KIND:
        raise ValueError(f"it is not a {KIND} of {API_VERSION}")
    name = _expect(_expect(document, "metadata", dict), "name", str)
    spec = _expect(document, "spec", dict)
    container = _expect(spec, "container", dict)
    _expect(container, "image", str)
    protocols = tuple(_expect(spec, "protocols", list))
    unknown = sorted(set(map(str, protocols)) - set(PROTOCOLS))
    if unknown or not protocols:
        raise ValueError(f"spec.protocols must be some of {', '.join(PROTOCOLS)}, not {', '.join(unknown) or 'empty'}")
    formats = tuple(
        Format(_expect(entry, "name", str), str(entry["version"]) if "version" in entry else None)
        for entry in _expect(spec, "formats", list)
    )
    priority = spec.get("priority", 0)
    if not isinstance(priority, int):
        raise ValueError("spec.priority must be a whole number")
    return Runtime(name, formats, protocols, container, priority)


def _expect(document: Any, key: str, kind: type) -> Any:
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{key} is missing or is not {'an object' if kind is dict else 'a ' + kind.__name__}")
    return value


def format_of(spec: ServingSpec) -> tuple[Format | None, tuple[Choice, ...]]:
    """The model's format: as annotated, or told by the suffix of its file."""
    if spec.format is not None:
        return spec.format, ()
    name = spec.model.file_name
    if name is None:
        return None, ()
    suffix = next(suffix for suffix in SUFFIX_FORMATS if name.endswith(suffix))
    found = Format(SUFFIX_FORMATS[suffix])
    return found, (choice("FormatFromURI", format=found, suffix=suffix),)


def choose(
    spec: ServingSpec, runtimes: Sequence[Runtime]
) -> tuple[Runtime | None, tuple[Choice, ...], tuple[Problem, ...]]:
    """The runtime for a model: the annotated one, or the best that serves its format and protocol."""
    known = ", ".join(sorted(runtime.name for runtime in runtimes)) or "none"
    if spec.runtime is not None:
        named = next((runtime for runtime in runtimes if runtime.name == spec.runtime), None)
        if named is None:
            name = quote(spec.runtime)
            return None, (), (problem("UnknownRuntime", path_of(RUNTIME), name=name, known=f"{known}, custom"),)
        wanted = spec.format
        if (wanted is not None and not named.serves(wanted, None)) or not (
            spec.protocol is None or spec.protocol in named.protocols
        ):
            at = FORMAT if wanted is not None and not named.serves(wanted, None) else PROTOCOL
            what = f"{wanted or 'this model'} over {spec.protocol or 'any protocol'} among {named.name}"
            return None, (), (problem("NoRuntime", path_of(at), wanted=what, known=_offers([named])),)
        return named, (choice("RuntimeByName", runtime=named.name),), ()
    wanted, choices = format_of(spec)
    if wanted is None:
        formats = ", ".join(sorted({known.name for runtime in runtimes for known in runtime.formats})) or "none"
        return None, (), (problem("FormatUnknown", path_of(MODEL), formats=formats),)
    able = [runtime for runtime in runtimes if runtime.serves(wanted, spec.protocol)]
    what = f"{wanted}" + (f" over {spec.protocol}" if spec.protocol else "")
    if not able:
        at = path_of(FORMAT if spec.format else MODEL)
        return None, choices, (problem("NoRuntime", at, wanted=what, known=_offers(runtimes)),)
    best = min(able, key=lambda runtime: (-runtime.priority, runtime.name))
    return best, (*choices, choice("RuntimeByFormat", runtime=best.name, wanted=what)), ()


def _offers(runtimes: Sequence[Runtime]) -> str:
    return (
        "; ".join(
            f"{runtime.name} ({', '.join(map(str, runtime.formats))} over {', '.join(runtime.protocols)})"
            for runtime in sorted(runtimes, key=lambda runtime: runtime.name)
        )
        or "none"
    )
