"""Model servers: what each can serve, the container that does it, and the choice among them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from serve_core.api.annotation_values import Format
from serve_core.api.annotations import FORMAT, MODEL, PROTOCOL, RUNTIME, path_of
from serve_core.api.models import SUFFIX_FORMATS, file_name
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.constants import GROUP, MERGED_BY_NAME
from serve_core.base.json import JsonObject, canonical, value_at
from serve_core.base.reasons import Diagnostic, Explanation, diagnostic, explanation, meant, quote

API_VERSION = f"{GROUP}/v1alpha1"
KIND = "ModelRuntime"

LARGEST = 64 * 1024
"""Characters of a runtime's spec: it is kept for as long as models are served by it."""


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
                made[key] = _joined(made.get(key, []), value) if key in MERGED_BY_NAME else value
        return made

    def has_variant_for(self, resources: Collection[str]) -> bool:
        return any(variant.resource in resources for variant in self.variants)


def _joined(present: list[JsonObject], added: list[JsonObject]) -> list[JsonObject]:
    names = {element["name"] for element in added}
    return [*(element for element in present if element["name"] not in names), *added]


def parse(document: JsonObject) -> Runtime:
    """Read a ``ModelRuntime`` document. Raises ValueError with a sentence for each fault."""
    if document.get("apiVersion") != API_VERSION or document.get("kind") != KIND:
        raise ValueError(f"it is not a {KIND} of {API_VERSION}")
    name, spec = value_at(document, "metadata", "name"), document.get("spec")
    if not isinstance(name, str):
        raise ValueError("metadata.name is missing")
    if not isinstance(spec, dict):
        raise ValueError("spec is missing or is not an object")
    if len(canonical(spec)) > LARGEST:
        raise ValueError(f"spec is larger than {LARGEST // 1024} KiB")
    return parse_spec(name, spec)


def parse_spec(name: str, spec: JsonObject) -> Runtime:
    """Read the ``spec`` of the ``ModelRuntime`` of that name. Raises ValueError as :func:`parse` does."""
    from serve_core.api import model_runtime  # only what comes from outside pays for pydantic  # noqa: PLC0415

    model_runtime.check(spec)
    return checked(name, spec)


def checked(name: str, spec: JsonObject) -> Runtime:
    """The runtime of a ``spec`` that is known to be valid, such as one that comes with kubectl-serve."""
    settings = spec.get("settings") or {}
    return Runtime(
        name,
        tuple(Format(each["name"], str(each["version"]) if "version" in each else None) for each in spec["formats"]),
        tuple(spec["protocols"]),
        spec["container"],
        spec.get("priority") or 0,
        tuple(
            Variant(each["container"], each["when"].get("resource"), each["when"].get("protocol"))
            for each in spec.get("variants") or []
        ),
        tuple(spec.get("volumes") or []),
        spec.get(_DEADLINE),
        RuntimeSettings(tuple(settings.get("env") or ()), tuple(settings.get("args") or ())),
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
