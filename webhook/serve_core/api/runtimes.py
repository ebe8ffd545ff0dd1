"""Model servers: what each can serve, its container, and the choice of one for a model."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from model_uri.file_patterns import ALL, FilePatterns
from model_uri.schemes import scheme_of
from serve_core.api import hub_on_claim
from serve_core.api.annotation_values import Format
from serve_core.api.annotations import FORMAT, MODEL, PROTOCOL, RUNTIME, path_of
from serve_core.api.models import SUFFIX_FORMATS, file_name
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.constants import GROUP, MERGED_BY_NAME
from serve_core.base.findings import Findings
from serve_core.base.json import JsonObject, canonical, value_at
from serve_core.base.reasons import Explanation, diagnostic, explanation, meant, quote
from serve_core.syntax import glob

API_VERSION = f"{GROUP}/v1alpha1"
KIND = "ModelRuntime"

HUB_FORMAT = "huggingface"
"""The format of a repository of a Hugging Face hub."""
_BY_DEFAULT = (HUB_FORMAT, "gguf")
"""Formats for which the loader's default selects files of a hub's repository."""

LARGEST = 64 * 1024
"""The maximum of characters of a runtime's spec, which is stored while models use it."""


@dataclass(frozen=True)
class Variant:
    """A change of a runtime's container for a resource or a protocol."""

    container: JsonObject
    resource: str | None = None
    """An extended resource in the user's container, such as ``nvidia.com/gpu``. ``*`` stands for any characters."""
    protocol: str | None = None

    def applies(self, protocol: str, resources: Collection[str]) -> bool:
        return self.protocol in (None, protocol) and (self.resource is None or bool(self.matching(resources)))

    def matching(self, resources: Collection[str]) -> list[str]:
        """Those of ``resources`` that it is for."""
        return [] if self.resource is None else sorted(r for r in resources if glob.matches(r, self.resource))


@dataclass(frozen=True)
class RuntimeSettings:
    """What users can set in a runtime's container and still have that runtime. None decides what is served."""

    env: tuple[str, ...] = ()
    """Names of variables. A name with ``*`` at its end stands for all with that prefix."""
    args: tuple[str, ...] = ()
    """Options that can follow the runtime's own arguments. One with ``=`` at its end takes a value, in either form."""

    def has_variable(self, name: str) -> bool:
        return any(
            name.startswith(known.removesuffix("*")) if known.endswith("*") else name == known for known in self.env
        )


@dataclass(frozen=True)
class Parallelism:
    """How a runtime is started for several devices."""

    argument: str
    """Option that takes their number."""
    resources: tuple[str, ...]
    """Extended resources that count whole devices."""
    unless: tuple[str, ...] = ()
    """Options with which a user spreads the model in another way."""


@dataclass(frozen=True)
class Runtime:
    name: str
    formats: tuple[Format, ...]
    """Formats that it serves. A format without a version stands for every version."""
    protocols: tuple[str, ...]
    """Inference protocols, the default first."""
    container: JsonObject
    """The container as a Kubernetes object. ``$(MODEL_NAME)`` and ``$(MODEL_PATH)`` are expanded in ``args``, ``env``
    and the path of an HTTP probe."""
    priority: int = 0
    """If several runtimes serve a format, the highest priority is used."""
    variants: tuple[Variant, ...] = ()
    """Changes of the container, in the order in which they apply."""
    volumes: tuple[JsonObject, ...] = ()
    """Volumes of its mounts with settings. Other mounts get a plain ``emptyDir``."""
    deadline: int | None = None
    """Maximum seconds until it is ready, including the download; ``None`` is Knative's default, 600."""
    settings: RuntimeSettings = RuntimeSettings()
    entrypoint: tuple[str, ...] = ()
    """The entrypoint of its image. It is written out where a user adds arguments to the runtime's."""
    parallelism: Parallelism | None = None
    single_file: bool = False
    """Whether it serves one file, which the URI must name."""

    def serves(self, wanted: Format, protocol: str | None) -> bool:
        return (protocol is None or protocol in self.protocols) and any(
            known.name == wanted.name and (wanted.version is None or known.version in (None, wanted.version))
            for known in self.formats
        )

    def applying(self, protocol: str | None, resources: Collection[str]) -> tuple[Variant, ...]:
        """The variants for a protocol, by default the first one, and for extended resources."""
        return tuple(v for v in self.variants if v.applies(protocol or self.protocols[0], resources))

    def container_of(self, variants: Iterable[Variant]) -> JsonObject:
        """The container after the changes of ``variants``."""
        made = dict(self.container)
        for variant in variants:
            for key, value in variant.container.items():
                made[key] = _joined(made.get(key, []), value) if key in MERGED_BY_NAME else value
        return made

    def has_variant_for(self, resources: Collection[str]) -> bool:
        return any(variant.matching(resources) for variant in self.variants)


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
    from serve_core.api import model_runtime  # noqa: PLC0415

    model_runtime.check(spec)
    return checked(name, spec)


def checked(name: str, spec: JsonObject) -> Runtime:
    """The runtime of a ``spec`` that is known to be valid, such as one that comes with kubectl-serve."""
    settings, parallelism = spec.get("settings") or {}, spec.get("parallelism")
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
        tuple(spec.get("entrypoint") or ()),
        Parallelism(parallelism["argument"], tuple(parallelism["resources"]), tuple(parallelism.get("unless") or ()))
        if parallelism
        else None,
        bool(spec.get(_SINGLE_FILE)),
    )


def extended(catalogue: Iterable[Runtime], own: Iterable[Runtime]) -> tuple[Runtime, ...]:
    """The catalogue of kubectl-serve and the cluster's own runtimes, which replace those with the same name."""
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
        "entrypoint": list(runtime.entrypoint),
        "parallelism": _parallelism_document(runtime.parallelism),
        _SINGLE_FILE: runtime.single_file,
    }
    return {key: value for key, value in document.items() if value not in (None, [], {}, 0)}


def _parallelism_document(parallelism: Parallelism | None) -> JsonObject:
    if parallelism is None:
        return {}
    document = {"argument": parallelism.argument, "resources": list(parallelism.resources)}
    return document | ({"unless": list(parallelism.unless)} if parallelism.unless else {})


_DEADLINE = "progressDeadlineSeconds"
_SINGLE_FILE = "singleFile"


def format_of(spec: ServingSpec) -> tuple[Format | None, tuple[Explanation, ...]]:
    """The model's format, from the annotation or from the suffix of its file."""
    if spec.format is not None:
        return spec.format, ()
    name = file_name(spec.model)
    if name is None:
        scheme = scheme_of(spec.model.scheme)
        if scheme.format:
            return Format(scheme.format), (explanation("FormatFromScheme", format=scheme.format, scheme=scheme.name),)
        is_cached = hub_on_claim.is_snapshot(spec.model) or hub_on_claim.repository(spec.model) is not None
        return (Format(HUB_FORMAT), (explanation("FormatFromCache"),)) if is_cached else (None, ())
    suffix = next(suffix for suffix in SUFFIX_FORMATS if name.endswith(suffix))
    found = Format(SUFFIX_FORMATS[suffix])
    return found, (explanation("FormatFromURI", format=found, suffix=suffix),)


def files_of(spec: ServingSpec) -> FilePatterns | None:
    """The files to load. ``None``: the loader's default, which leaves out what a server of :data:`HUB_FORMAT` ignores.

    A server of another format can read the copies that the default leaves out, so it gets all files. Not one of GGUF:
    the default requires that the user names one of several models.
    """
    is_whole = any(model.uri.scheme == "hf" and file_name(model.uri) is None for model in spec.models)
    if spec.files is None and is_whole and spec.format is not None and spec.format.name not in _BY_DEFAULT:
        return FilePatterns((ALL,))
    return spec.files


def choose(
    spec: ServingSpec, runtimes: Sequence[Runtime], resources: Collection[str] = (), findings: Findings | None = None
) -> Runtime | None:
    """The runtime for a model: the annotated one, or the best that serves its format and protocol.

    ``resources`` are the extended resources of the user's container. A runtime with a variant for one of them comes
    before one without, then the priority decides, then the name. The reason goes into ``findings``.
    """
    findings = Findings() if findings is None else findings
    if spec.runtime is not None:
        return _named(spec, spec.runtime, runtimes, findings)
    wanted, explanations = format_of(spec)
    if wanted is None:
        formats = ", ".join(sorted({known.name for runtime in runtimes for known in runtime.formats})) or "none"
        findings.problems.append(
            diagnostic("FormatUnknown", path_of(MODEL), formats=formats, meant=_suffix_meant(spec))
        )
        return None
    findings.explanations += explanations
    able = [runtime for runtime in runtimes if runtime.serves(wanted, spec.protocol)]
    what = f"{wanted}" + (f" over {spec.protocol}" if spec.protocol else "")
    if not able:
        at, known = path_of(FORMAT if spec.format else MODEL), _offers(_nearest(wanted.name, runtimes))
        findings.problems.append(diagnostic("NoRuntime", at, wanted=what, known=known))
        return None
    best = min(able, key=lambda runtime: (not runtime.has_variant_for(resources), -runtime.priority, runtime.name))
    findings.explanations.append(explanation("RuntimeByFormat", runtime=best.name, wanted=what))
    return best


def _named(spec: ServingSpec, name: str, runtimes: Sequence[Runtime], findings: Findings) -> Runtime | None:
    """The annotated runtime, if there is one of that name and it serves the model."""
    names = sorted(runtime.name for runtime in runtimes)
    named = next((runtime for runtime in runtimes if runtime.name == name), None)
    if named is None:
        known = f"{', '.join(names) or 'none'}, custom"
        words = {"name": quote(name), "known": known, "meant": meant(name, names)}
        findings.problems.append(diagnostic("UnknownRuntime", path_of(RUNTIME), **words))
        return None
    has_format = spec.format is None or named.serves(spec.format, None)
    if not has_format or spec.protocol not in (None, *named.protocols):
        at = path_of(PROTOCOL if has_format else FORMAT)
        what = f"{spec.format or 'this model'} over {spec.protocol or 'any protocol'} among {named.name}"
        findings.problems.append(diagnostic("NoRuntime", at, wanted=what, known=_offers([named])))
        return None
    findings.explanations.append(explanation("RuntimeByName", runtime=named.name))
    return named


def _suffix_meant(spec: ServingSpec) -> str:
    """Known suffixes that are similar to the suffix of the model's file."""
    name = spec.model.path.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return meant(f".{suffix}", SUFFIX_FORMATS) if stem and dot else ""


def _nearest(name: str, runtimes: Sequence[Runtime]) -> Sequence[Runtime]:
    """The runtimes of the format, or of one with a similar name, or all."""
    import difflib  # imported only for a mistake  # noqa: PLC0415

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
