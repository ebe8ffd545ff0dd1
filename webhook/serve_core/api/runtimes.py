"""Model servers: what each can serve, the container that does it, and the choice among them."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from serve_core.api.annotation_values import Format
from serve_core.api.annotations import FORMAT, MODEL, PROTOCOL, PROTOCOLS, RUNTIME, path_of
from serve_core.api.models import SUFFIX_FORMATS, file_name
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.constants import GROUP
from serve_core.base.json import JsonObject, canonical
from serve_core.base.reasons import Diagnostic, Explanation, diagnostic, explanation, meant, quote

API_VERSION = f"{GROUP}/v1alpha1"
KIND = "ModelRuntime"

LARGEST = 64 * 1024
"""Characters of a runtime's spec: it is kept for as long as models are served by it."""

_BY_NAME = frozenset({"env", "volumeMounts"})
"""Lists of a container that a variant adds to; everything else it replaces."""


@dataclass(frozen=True)
class Variant:
    """What is different about a runtime's container where something is asked for."""

    container: JsonObject
    resource: str | None = None
    """An extended resource that the user's container asks for, such as ``nvidia.com/gpu``."""
    protocol: str | None = None

    def applies(self, protocol: str, resources: Collection[str]) -> bool:
        return self.protocol in (None, protocol) and (self.resource is None or self.resource in resources)


@dataclass(frozen=True)
class RuntimeSettings:
    """What users may set of a runtime's container, and have that runtime still: none of it says what is served."""

    env: tuple[str, ...] = ()
    """Names of variables; one that ends in ``*`` stands for all that begin so."""
    args: tuple[str, ...] = ()
    """Options that may follow the runtime's own arguments; one that ends in ``=`` takes a value, in either form."""

    def has_variable(self, name: str) -> bool:
        return any(
            name.startswith(known.removesuffix("*")) if known.endswith("*") else name == known for known in self.env
        )


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
    variants: tuple[Variant, ...] = ()
    """Laid over the container one after the other, each where it applies."""
    volumes: tuple[JsonObject, ...] = ()
    """The volumes of its mounts that are not a plain ``emptyDir``."""
    deadline: int | None = None
    """Seconds that it may take to become ready, the download included; ``None`` is Knative's default, 600."""
    settings: RuntimeSettings = RuntimeSettings()

    def serves(self, wanted: Format, protocol: str | None) -> bool:
        return (protocol is None or protocol in self.protocols) and any(
            known.name == wanted.name and (wanted.version is None or known.version in (None, wanted.version))
            for known in self.formats
        )

    def applying(self, protocol: str | None, resources: Collection[str]) -> tuple[Variant, ...]:
        """The variants for a protocol, or the default one, and the extended resources that were asked for."""
        return tuple(v for v in self.variants if v.applies(protocol or self.protocols[0], resources))

    def container_of(self, variants: Iterable[Variant]) -> JsonObject:
        """The container with ``variants`` laid over it."""
        made = dict(self.container)
        for variant in variants:
            for key, value in variant.container.items():
                made[key] = _joined(made.get(key, []), value) if key in _BY_NAME else value
        return made

    def has_variant_for(self, resources: Collection[str]) -> bool:
        return any(variant.resource in resources for variant in self.variants)


def _joined(present: list[JsonObject], added: list[JsonObject]) -> list[JsonObject]:
    names = {element["name"] for element in added}
    return [*(element for element in present if element["name"] not in names), *added]


def parse(document: JsonObject) -> Runtime:
    """Read a ``ModelRuntime`` document. Raises ValueError with a sentence that says what is wrong with it."""
    if document.get("apiVersion") != API_VERSION or document.get("kind") != KIND:
        raise ValueError(f"it is not a {KIND} of {API_VERSION}")
    name = _expect(_expect(document, "metadata", dict), "name", str)
    spec = _expect(document, "spec", dict)
    if len(canonical(spec)) > LARGEST:
        raise ValueError(f"spec is larger than {LARGEST // 1024} KiB")
    return parse_spec(name, spec)


def parse_spec(name: str, spec: JsonObject) -> Runtime:
    """Read the ``spec`` of the ``ModelRuntime`` of that name. Raises ValueError as :func:`parse` does."""
    _only(spec, "spec", ("formats", "protocols", "priority", "container", "variants", "volumes", _DEADLINE, "settings"))
    container = _expect(spec, "container", dict)
    _expect(container, "image", str)
    _named(container, "spec.container")
    protocols = tuple(_expect(spec, "protocols", list))
    unknown = sorted(set(map(str, protocols)) - set(PROTOCOLS))
    if unknown or not protocols:
        raise ValueError(f"spec.protocols must be some of {', '.join(PROTOCOLS)}, not {', '.join(unknown) or 'empty'}")
    formats = tuple(
        Format(_expect(entry, "name", str), str(entry["version"]) if "version" in entry else None)
        for entry in _expect(spec, "formats", list)
    )
    deadline = _number(spec, _DEADLINE, None)
    if deadline is not None and deadline < 1:
        raise ValueError(f"spec.{_DEADLINE} must be at least 1")
    return Runtime(
        name,
        formats,
        protocols,
        container,
        _number(spec, "priority", None) or 0,
        tuple(_variant(entry, protocols) for entry in spec.get("variants") or []),
        tuple(_volume(entry) for entry in spec.get("volumes") or []),
        deadline,
        _settings(spec.get("settings") or {}),
    )


def extended(catalogue: Iterable[Runtime], own: Iterable[Runtime]) -> tuple[Runtime, ...]:
    """The runtimes that come with kubectl-serve and the cluster's own, which replace those of their names."""
    return tuple(({each.name: each for each in catalogue} | {each.name: each for each in own}).values())


def spec_document(runtime: Runtime) -> JsonObject:
    """The ``spec`` that :func:`parse_spec` reads as ``runtime``."""
    document: JsonObject = {
        "formats": [{"name": f.name} | ({"version": f.version} if f.version else {}) for f in runtime.formats],
        "protocols": list(runtime.protocols),
        "priority": runtime.priority,
        "container": runtime.container,
        "variants": [
            {"when": {key: value for key, value in when.items() if value is not None}, "container": variant.container}
            for variant in runtime.variants
            for when in ({"resource": variant.resource, "protocol": variant.protocol},)
        ],
        "volumes": list(runtime.volumes),
        _DEADLINE: runtime.deadline,
        "settings": {key: list(names) for key, names in vars(runtime.settings).items() if names},
    }
    return {key: value for key, value in document.items() if value not in (None, [], {}, 0)}


_DEADLINE = "progressDeadlineSeconds"


def _variant(entry: Any, protocols: tuple[str, ...]) -> Variant:
    when, container = _expect(entry, "when", dict), _expect(entry, "container", dict)
    _only(when, "spec.variants[].when", ("resource", "protocol"))
    if not when or not all(isinstance(value, str) for value in when.values()):
        raise ValueError("spec.variants[].when must name a resource or a protocol")
    if when.get("protocol") not in (None, *protocols):
        raise ValueError(f"spec.variants[].when.protocol must be one of spec.protocols, not {when['protocol']}")
    _named(container, "spec.variants[].container")
    return Variant(container, when.get("resource"), when.get("protocol"))


_SETTINGS = {
    "env": re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\*?", re.ASCII),
    "args": re.compile(r"--?[A-Za-z0-9][A-Za-z0-9._-]{0,127}=?", re.ASCII),
}


def _settings(entry: Any) -> RuntimeSettings:
    if not isinstance(entry, dict):
        raise ValueError("spec.settings is not an object")
    _only(entry, "spec.settings", tuple(_SETTINGS))
    for key, pattern in _SETTINGS.items():
        names = entry.get(key) or []
        if not isinstance(names, list) or not all(isinstance(each, str) and pattern.fullmatch(each) for each in names):
            what = "names of variables, with or without * at the end" if key == "env" else "options, such as --threads="
            raise ValueError(f"spec.settings.{key} must be a list of {what}")
    return RuntimeSettings(tuple(entry.get("env") or ()), tuple(entry.get("args") or ()))


def _volume(entry: Any) -> JsonObject:
    _expect(entry, "name", str)
    if not isinstance(entry.get("emptyDir"), dict) or len(entry) != 2:
        raise ValueError("spec.volumes may only hold a name and an emptyDir each")
    return dict(entry)


def _named(container: JsonObject, path: str) -> None:
    for key in sorted(_BY_NAME):
        for element in container.get(key) or []:
            if not isinstance(element, dict) or not isinstance(element.get("name"), str):
                raise ValueError(f"each of {path}.{key} must have a name")


def _only(document: JsonObject, path: str, known: tuple[str, ...]) -> None:
    unknown = sorted(set(document) - set(known))
    if unknown:
        raise ValueError(f"{path} has no field {quote(unknown[0])}; known: {', '.join(known)}")


def _number(document: JsonObject, key: str, default: int | None) -> int | None:
    value = document.get(key, default)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError(f"spec.{key} must be a whole number")
    return value


def _expect(document: Any, key: str, kind: type) -> Any:
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{key} is missing or is not {'an object' if kind is dict else 'a ' + kind.__name__}")
    return value


def format_of(spec: ServingSpec) -> tuple[Format | None, tuple[Explanation, ...]]:
    """The model's format: as annotated, or told by the suffix of its file."""
    if spec.format is not None:
        return spec.format, ()
    if spec.model.scheme == "hf":
        return Format("huggingface"), (explanation("FormatFromHub"),)
    name = file_name(spec.model)
    if name is None:
        return None, ()
    suffix = next(suffix for suffix in SUFFIX_FORMATS if name.endswith(suffix))
    found = Format(SUFFIX_FORMATS[suffix])
    return found, (explanation("FormatFromURI", format=found, suffix=suffix),)


def choose(
    spec: ServingSpec, runtimes: Sequence[Runtime], resources: Collection[str] = ()
) -> tuple[Runtime | None, tuple[Explanation, ...], tuple[Diagnostic, ...]]:
    """The runtime for a model: the annotated one, or the best that serves its format and protocol.

    ``resources`` are the extended resources that the user's container asks for: a runtime with a variant for one of
    them comes before one without, the higher priority before the lower, and then the name decides.
    """
    known = ", ".join(sorted(runtime.name for runtime in runtimes)) or "none"
    if spec.runtime is not None:
        named = next((runtime for runtime in runtimes if runtime.name == spec.runtime), None)
        if named is None:
            name = quote(spec.runtime)
            return (
                None,
                (),
                (
                    diagnostic(
                        "UnknownRuntime",
                        path_of(RUNTIME),
                        name=name,
                        known=f"{known}, custom",
                        meant=meant(spec.runtime, [runtime.name for runtime in runtimes]),
                    ),
                ),
            )
        wanted = spec.format
        if (wanted is not None and not named.serves(wanted, None)) or not (
            spec.protocol is None or spec.protocol in named.protocols
        ):
            at = FORMAT if wanted is not None and not named.serves(wanted, None) else PROTOCOL
            what = f"{wanted or 'this model'} over {spec.protocol or 'any protocol'} among {named.name}"
            return None, (), (diagnostic("NoRuntime", path_of(at), wanted=what, known=_offers([named])),)
        return named, (explanation("RuntimeByName", runtime=named.name),), ()
    wanted, choices = format_of(spec)
    if wanted is None:
        formats = ", ".join(sorted({known.name for runtime in runtimes for known in runtime.formats})) or "none"
        return None, (), (diagnostic("FormatUnknown", path_of(MODEL), formats=formats, meant=_suffix_meant(spec)),)
    able = [runtime for runtime in runtimes if runtime.serves(wanted, spec.protocol)]
    what = f"{wanted}" + (f" over {spec.protocol}" if spec.protocol else "")
    if not able:
        at = path_of(FORMAT if spec.format else MODEL)
        return (
            None,
            choices,
            (diagnostic("NoRuntime", at, wanted=what, known=_offers(_nearest(wanted.name, runtimes))),),
        )
    best = min(able, key=lambda runtime: (not runtime.has_variant_for(resources), -runtime.priority, runtime.name))
    return best, (*choices, explanation("RuntimeByFormat", runtime=best.name, wanted=what)), ()


def _suffix_meant(spec: ServingSpec) -> str:
    """What the suffix of the model's file may have been meant to be."""
    name = spec.model.path.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return meant(f".{suffix}", SUFFIX_FORMATS) if stem and dot else ""


def _nearest(name: str, runtimes: Sequence[Runtime]) -> Sequence[Runtime]:
    """Those of the format, else those of one that is spelt like it, else all."""
    import difflib  # only a mistake pays for it  # noqa: PLC0415

    names = sorted({known.name for runtime in runtimes for known in runtime.formats})
    near = [name] if name in names else difflib.get_close_matches(name, names, n=1)
    return [runtime for runtime in runtimes if any(known.name in near for known in runtime.formats)] or runtimes


def _offers(runtimes: Sequence[Runtime]) -> str:
    return (
        "; ".join(
            f"{runtime.name} ({', '.join(map(str, runtime.formats))} over {', '.join(runtime.protocols)})"
            for runtime in sorted(runtimes, key=lambda runtime: runtime.name)
        )
        or "none"
    )
