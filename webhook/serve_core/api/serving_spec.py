"""What a user asks for, read from the annotations of a Deployment and checked."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from model_uri import ModelURI
from model_uri.file_patterns import FilePatterns
from serve_core.api import models
from serve_core.api.annotation_values import (
    NO_CACHE,
    Cache,
    Caller,
    Format,
    InvalidValueError,
    Nodes,
    Scale,
    Telemetry,
)
from serve_core.api.annotations import (
    AUTH,
    AUTH_AUDIENCES,
    AUTH_CALLERS,
    AUTH_CLAIMS,
    AUTH_ISSUER,
    AUTH_JWKS,
    CACHE,
    CANARY,
    CONCURRENCY,
    CREDENTIALS,
    DEPLOYMENT,
    DIGEST,
    DOMAIN,
    EARLIER_STATE,
    FILES,
    KNATIVE,
    MAX_LENGTH,
    METRIC,
    MODEL,
    MOUNT,
    PIN,
    PREFETCH,
    SCALE,
    SIGNATURE_KEY,
    SIZE,
    STATE,
    TARGET,
    TIMEOUT,
    TLS,
    USER,
    VISIBILITY,
    WINDOW,
    WRITABLE,
    Annotation,
    path_of,
)
from serve_core.base.constants import MODEL_MOUNT, PREFIX
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic, capped, diagnostic, meant, quote, step
from serve_core.base.workload import Workload
from serve_core.syntax import mount_path
from serve_core.syntax.public_url import is_public


@dataclass(frozen=True)
class ServingSpec:
    """What the user asked for, checked. Durations are in seconds."""

    models: tuple[models.Placed, ...]
    """At least one."""
    digest: str | None = None
    signature_key: str | None = None
    files: FilePatterns | None = None
    cache: Cache = NO_CACHE
    prefetch: Nodes | None = None
    writable: bool = False
    """Whether the server can write to the model's claim."""
    size: int | None = None
    """Bytes."""
    runtime: str | None = None
    format: Format | None = None
    protocol: str | None = None
    mount: str = MODEL_MOUNT
    """The path of the model in its container: of its folder, or of its file."""
    port: int | None = None
    """The container port that serves the model."""
    scale: Scale | None = None
    target: str | None = None
    metric: str | None = None
    concurrency: int | None = None
    window: int | None = None
    timeout: int | None = None
    credentials: str | None = None
    visibility: str | None = None
    canary: int | None = None
    """Percent of the traffic."""
    pin: str | None = None
    domain: str | None = None
    tls: str | None = None
    mode: str = KNATIVE
    mesh: str | None = None
    auth: str = "none"
    auth_issuer: str | None = None
    auth_jwks: str | None = None
    auth_audiences: tuple[str, ...] = ()
    auth_claims: tuple[tuple[str, str], ...] = ()
    """Name and value of each claim; several values of one claim are alternatives."""
    auth_callers: tuple[Caller, ...] = ()
    telemetry: Telemetry | None = None

    @property
    def model(self) -> ModelURI:
        """The first model, which determines the format."""
        return self.models[0].uri

    @property
    def file_name(self) -> str | None:
        """The name of the model file, if there is one model and its suffix is that of a file."""
        return models.file_name(self.model) if len(self.models) == 1 else None

    @property
    def mounts_file(self) -> bool:
        """Whether the path is that of the model file, under whatever name, and not that of its folder."""
        return self.file_name is not None and models.has_file_suffix(self.mount)

    @property
    def model_path(self) -> str:
        """The path at which the server finds the model: its file, if it is a single one, otherwise its folder."""
        return self.mount if self.file_name is None or self.mounts_file else f"{self.mount}/{self.file_name}"


_USER_BY_KEY = {annotation.key: annotation for annotation in USER}
_STATE_KEYS = frozenset((*(annotation.key for annotation in STATE), *EARLIER_STATE))

_LONGEST_MISSPELT = 40
"""Characters of an unknown annotation's name that are compared with the known names; these have half as many."""


def read(annotations: Mapping[str, str]) -> tuple[ServingSpec | None, tuple[Diagnostic, ...]]:
    """Read all annotations with our prefix; return the spec, or ``None`` and all problems.

    An object without our annotations gives ``(None, ())``.
    """
    ours = {key: value for key, value in annotations.items() if key.startswith(PREFIX) and key not in _STATE_KEYS}
    problems = capped(_unknown(key) for key in ours if key not in _USER_BY_KEY)
    if MODEL not in ours:
        problems += [diagnostic("OrphanAnnotation", path_of(key), key=key) for key in ours if key in _USER_BY_KEY]
        return None, tuple(sorted(problems))
    values: dict[str, Any] = {}
    for key, text in ours.items():
        annotation = _USER_BY_KEY.get(key)
        if annotation is None:
            continue
        if key == MODEL:
            values["models"], faults = models.parse_all(text, path_of(key))
            problems += faults
            continue
        value = _value(annotation, text)
        if isinstance(value, Diagnostic):
            problems.append(value)
        else:
            values[_field(annotation.key)] = value
    problems += _conflicts(values)
    problems += _incomplete(values, ours.keys())
    if problems:
        return None, tuple(sorted(problems))
    return ServingSpec(**values), ()


def read_stored(deployment: JsonObject) -> ServingSpec | None:
    """What the annotations of a stored Deployment ask for; ``None`` if they ask for nothing or are invalid."""
    return read(Workload(deployment).annotations)[0]


def _field(key: str) -> str:
    """The field of :class:`ServingSpec` for an annotation."""
    return key.removeprefix(PREFIX).replace("-", "_")


def _value(annotation: Annotation, text: str) -> Any:
    if len(text) > MAX_LENGTH:
        return diagnostic("TooLarge", path_of(annotation.key), why=f"it is longer than {MAX_LENGTH:,} characters")
    try:
        return annotation.parse(text)
    except InvalidValueError as error:
        return diagnostic(
            "InvalidAnnotation",
            path_of(annotation.key),
            value=quote(text),
            what=annotation.what,
            allowed=annotation.values,
            meant=(f"{error}. " if str(error) else "") + _meant(annotation, text),
        )


_LONGEST_CORRECTED = 64


def _meant(annotation: Annotation, text: str) -> str:
    """A suggestion for a wrong value: the first correction of a usual mistake that the annotation allows."""
    if len(text) > _LONGEST_CORRECTED:
        return ""
    plain = text.strip().lower()
    least, _, most = plain.partition("..")
    tries = [text.strip(), plain]
    if "/" not in text:  # a path with other characters is another path
        tries += [f"{plain}%", f"{plain}s", re.sub(r"[-:,]|\.{3}|\s+", "..", plain), f"{most}..{least}"]
    corrected = next((each for each in tries if _allows(annotation, each)), "")
    if corrected:
        return f"Did you mean {corrected}? "
    return meant(plain, [each for each in annotation.values.split(", ") if _allows(annotation, each)])


def _allows(annotation: Annotation, text: str) -> bool:
    try:
        annotation.parse(text)
    except InvalidValueError:
        return False
    return True


def _unknown(key: str) -> Diagnostic:
    near = _near(key.removeprefix(PREFIX)[:_LONGEST_MISSPELT])
    nearest = f"Did you mean {' or '.join(PREFIX + name for name in near)}?"
    if not near:
        nearest = f"Known after {PREFIX}: {', '.join(annotation.name for annotation in USER)}."
    return diagnostic("UnknownAnnotation", path_of(step(key)), key=step(key), nearest=nearest)


@lru_cache(maxsize=256)
def _near(name: str) -> list[str]:
    """Names that resemble a wrong one. Cached: policies can repeat a mistake for each of their defaults."""
    import difflib  # only a mistake pays for it  # noqa: PLC0415

    return difflib.get_close_matches(name, [annotation.name for annotation in USER], n=2)


def _incomplete(values: Mapping[str, Any], keys: Collection[str]) -> list[Diagnostic]:
    """Annotations that require another one. ``keys``: all annotations of the object, valid or not."""
    missing = [(TLS, DOMAIN)] if TLS in keys and DOMAIN not in keys else []
    if "prefetch" in values and (CACHE not in keys or ("cache" in values and not values["cache"].on_node)):
        missing.append((PREFETCH, f"{CACHE}: node"))
    if AUTH not in keys or "auth" in values:
        auth = values.get("auth")
        of_tokens = (AUTH_ISSUER, AUTH_JWKS, AUTH_AUDIENCES, AUTH_CLAIMS)
        missing += [(key, f"{AUTH}: jwt") for key in of_tokens if key in keys and auth != "jwt"]
        if AUTH_CALLERS in keys and auth not in ("mtls", "jwt"):
            missing.append((AUTH_CALLERS, f"{AUTH}: mtls"))
        if auth == "jwt" and AUTH_ISSUER not in keys:
            missing.append((AUTH, AUTH_ISSUER))
    return [diagnostic("MissingAnnotation", path_of(one), one=one, other=other) for one, other in missing]


def _exclude(values: Mapping[str, Any], keys: Iterable[str], other: str, why: str) -> Iterator[Diagnostic]:
    for key in keys:
        if _field(key) in values:
            yield diagnostic("ConflictingAnnotations", path_of(key), one=key, other=other, why=why)


def _conflicts(values: Mapping[str, Any]) -> Iterator[Diagnostic]:
    spec = ServingSpec(values["models"], mount=values.get("mount", MODEL_MOUNT))
    if spec.models and models.has_file_suffix(spec.mount) and not spec.mounts_file:
        folder = spec.mount.rpartition("/")[0]
        folder = folder if mount_path.fault(folder) is None else MODEL_MOUNT
        yield diagnostic("MountOfFile", path_of(MOUNT), mount=spec.mount, folder=folder)
    if "pin" in values:
        yield from _exclude(values, [CANARY], PIN, "a pin sends all traffic to one revision")
    if values.get("visibility") == "cluster-local":
        why = "a custom host name is reachable from outside the cluster"
        yield from _exclude(values, [DOMAIN], "visibility cluster-local", why)
    yield from _conflicts_with_model(values)
    if "auth_issuer" in values and "auth_jwks" not in values and not is_public(values["auth_issuer"]):
        issuer = quote(values["auth_issuer"])
        yield diagnostic("IssuerNotPublic", path_of(AUTH_ISSUER), issuer=issuer)
    if values.get("mode") == DEPLOYMENT:
        of_knative = (TARGET, METRIC, CONCURRENCY, WINDOW, TIMEOUT, CANARY, PIN, DOMAIN, VISIBILITY)
        yield from _exclude(values, of_knative, "mode deployment", "only Knative implements it")
        scale = values.get("scale")
        if scale is not None and (scale.minimum == 0 or scale.maximum is None):
            why = "without Knative, it needs a minimum of at least 1, and a maximum"
            yield from _exclude(values, [SCALE], "mode deployment", why)


def _conflicts_with_model(values: Mapping[str, Any]) -> Iterator[Diagnostic]:
    if any(model.uri.scheme == "pvc" for model in values["models"]):
        of_loader = (DIGEST, SIGNATURE_KEY, FILES, SIZE, CREDENTIALS, CACHE, PREFETCH)
        yield from _exclude(values, of_loader, "a pvc:// model", "this model is mounted, not downloaded")
    elif values["models"] and values.get("writable"):
        why = "only the claim of a pvc:// model can be mounted for writing"
        yield from _exclude(values, [WRITABLE], "a downloaded model", why)
