"""The user's language: the annotations under ``kubectl-serve.dev/``, each with its values, meaning and check.

:data:`USER` is what a user may write, :data:`STATE` what kubectl-serve keeps on the Deployment itself. The plugin's
flags, the documentation and the checks at admission all come from these tables.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from model_uri import ModelURI
from serve_core.api import models
from serve_core.api.models import Placed
from serve_core.base.constants import PREFIX
from serve_core.base.reasons import Diagnostic, capped, diagnostic, meant, quote, step
from serve_core.syntax import quantity

PROTOCOLS = ("v1", "v2", "openai", "grpc-v2")
"""v1: TensorFlow Serving's; v2 and grpc-v2: the Open Inference Protocol; openai: OpenAI's REST API."""

KNATIVE, DEPLOYMENT = "knative", "deployment"
"""The modes: scaled from zero by a Knative Service, or left running as the Deployment it is."""

LONGEST = 16 * 1024
"""Characters of an annotation's value; the longest are lists of claims and of callers."""

_LONGEST_MISSPELT = 40
"""Characters of an unknown annotation's name by which the nearest is looked for; none of ours has half as many."""

CUSTOM = "custom"
"""The runtime of a Deployment that brings its own model server."""


@dataclass(frozen=True)
class Scale:
    """Fewest and most replicas; ``most`` is ``None`` where there is no upper bound."""

    least: int = 0
    most: int | None = None


@dataclass(frozen=True)
class Format:
    name: str
    version: str | None = None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}:{self.version}"


@dataclass(frozen=True)
class Caller:
    """Workloads of the mesh: all of a namespace, or those of one of its service accounts."""

    namespace: str
    service_account: str | None = None


@dataclass(frozen=True)
class Telemetry:
    """What the mesh is to record; ``trace`` is percent of the requests."""

    access_log: bool
    trace: int | None


@dataclass(frozen=True)
class ServingSpec:
    """What the user asked for, checked. Durations are in seconds."""

    models: tuple[Placed, ...]
    """At least one."""
    digest: str | None = None
    signature_key: str | None = None
    size: int | None = None
    """Bytes."""
    runtime: str | None = None
    format: Format | None = None
    protocol: str | None = None
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
        """The first, which the format is told by."""
        return self.models[0].uri

    @property
    def file_name(self) -> str | None:
        """The name of the one file that is the model, if the suffix of its URI says that it is one."""
        return models.file_name(self.model) if len(self.models) == 1 else None


class _InvalidError(ValueError):
    """A value that its annotation does not allow."""


@dataclass(frozen=True)
class Annotation:
    name: str
    """The key after the prefix."""
    values: str
    """What is allowed, as documentation and hints say it."""
    meaning: str
    what: str = ""
    """What a value is called in a refusal."""
    parse: Callable[[str], Any] = field(default=str, repr=False)

    @property
    def key(self) -> str:
        return PREFIX + self.name


def _pattern(expression: str) -> Callable[[str], str]:
    compiled = re.compile(expression)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise _InvalidError
        return text

    return parse


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise _InvalidError
        return text

    return parse


def _integer(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not least <= int(text) <= most:
            raise _InvalidError
        return int(text)

    return parse


def _duration(least: int, most: int) -> Callable[[str], int]:
    """Go's notation, as Kubernetes and Knative write durations, in whole seconds."""

    def parse(text: str) -> int:
        parts = re.fullmatch(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?", text, re.ASCII)
        if not text or parts is None:
            raise _InvalidError
        hours, minutes, seconds = (int(part or 0) for part in parts.groups())
        total = hours * 3600 + minutes * 60 + seconds
        if not least <= total <= most:
            raise _InvalidError
        return total

    return parse


def _scale(text: str) -> Scale:
    match = re.fullmatch(r"([0-9]{1,6})(\.\.([0-9]{1,6})?)?", text, re.ASCII)
    if match is None:
        raise _InvalidError
    least = int(match[1])
    if match[2] is None:
        most: int | None = least
    else:
        most = int(match[3]) if match[3] else None
    if most is not None and most < least:
        raise _InvalidError(f"{least} is more than {most}")
    if most == 0:
        raise _InvalidError
    return Scale(least, most)


def _format(text: str) -> Format:
    match = re.fullmatch(r"([a-z][a-z0-9-]{0,62})(?::([A-Za-z0-9][A-Za-z0-9.-]{0,62}))?", text, re.ASCII)
    if match is None:
        raise _InvalidError
    return Format(match[1], match[2])


def _percent(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]?)%", text, re.ASCII)
    if match is None:
        raise _InvalidError
    return int(match[1])


def _target(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII) or float(text) < 0.01:
        raise _InvalidError
    return text


def _size(text: str) -> int:
    try:
        size = quantity.parse(text)
    except ValueError:
        raise _InvalidError from None
    if not 1 <= size <= 2**50:
        raise _InvalidError
    return math.ceil(size)


_NAME = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_LABEL = re.compile(_NAME)
_DNS_SUBDOMAIN = rf"(?=.{{1,253}}\Z){_NAME}(\.{_NAME})*"

_WORD = r"[A-Za-z0-9][A-Za-z0-9._~:/@+-]{0,252}"
"""Of a token. No comma, and no ``*``, which Istio would take for any text."""


_FETCHED = re.compile(r"https://([a-z0-9.-]{4,253})(:[1-9][0-9]{0,4})?(/[A-Za-z0-9._~%/-]{0,512})?")
_TOP = re.compile(r"[a-z]{2,63}|xn--[a-z0-9-]{1,59}")
_NOT_PUBLIC = frozenset(
    ("arpa", "corp", "default", "home", "internal", "intranet", "invalid", "lan", "local", "localdomain", "localhost",
     "onion", "private", "svc")
)  # fmt: skip
"""Last labels of names that no public DNS has (RFC 6761, RFC 6762, ICANN's ``internal``, customs), and the namespace
that every cluster has."""


def is_public(url: str) -> bool:
    """Whether ``url`` is an https URL of a host that public DNS can know, and plain: no address, and no name of the
    cluster's own, no user, no query, no way up in its path.

    Where the name leads is not asked: what fetches it should not be able to reach what must not be reached.
    """
    match = _FETCHED.fullmatch(url)
    if match is None:
        return False
    if any(segment.lower().replace("%2e", ".") in (".", "..") for segment in (match[3] or "").split("/")):
        return False
    *labels, top = match[1].split(".")
    # NAME.NAMESPACE.svc, and whatever domain the cluster has behind it.
    inside = top in _NOT_PUBLIC or "svc" in labels[2:3]
    return bool(labels) and not inside and bool(_TOP.fullmatch(top)) and all(map(_LABEL.fullmatch, labels))


def _issuer(text: str) -> str:
    """Of a token. What looks like a URL has to be one of https; whether it is fetched depends on ``auth-jwks``."""
    issuer = _pattern(r"[A-Za-z0-9][A-Za-z0-9._~:/@%-]{0,252}")(text)
    if "://" in issuer and not issuer.startswith("https://"):
        raise _InvalidError
    return issuer


def _key_set(text: str) -> str:
    if not is_public(text):
        raise _InvalidError
    return text


def _list(expression: str) -> Callable[[str], tuple[str, ...]]:
    item = _pattern(expression)

    def parse(text: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(item(part.strip()) for part in text.split(",")))

    return parse


def _claims(text: str) -> tuple[tuple[str, str], ...]:
    pairs = _list(rf"[A-Za-z_][A-Za-z0-9_-]{{0,62}}={_WORD}")(text)
    return tuple((name, value) for name, _, value in (pair.partition("=") for pair in pairs))


def _telemetry(text: str) -> Telemetry:
    parts = _list(r"access-log|trace=([1-9][0-9]?|100)%")(text)
    traces = [int(part.removeprefix("trace=").rstrip("%")) for part in parts if part != "access-log"]
    if len(traces) > 1:
        raise _InvalidError
    return Telemetry("access-log" in parts, traces[0] if traces else None)


def _callers(text: str) -> tuple[Caller, ...]:
    pairs = _list(rf"{_NAME}(/{_DNS_SUBDOMAIN})?")(text)
    return tuple(
        Caller(namespace, account or None) for namespace, _, account in (pair.partition("/") for pair in pairs)
    )


# Bounds of Knative 1.23: pkg/apis/autoscaling/annotation_validation.go, pkg/apis/config/defaults.go.
USER: tuple[Annotation, ...] = (
    Annotation(
        "model",
        ", ".join(models.SCHEMES.values()) + "; or several, divided by white space, each with its folder: URI=FOLDER",
        "Where the model is. The trigger for everything.",
    ),
    Annotation(
        "digest",
        "sha256: and 64 hexadecimal digits",
        "What the downloaded model must hash to: a file, or a directory's manifest. The loader refuses anything else.",
        "digest",
        _pattern(r"sha256:[0-9a-f]{64}"),
    ),
    Annotation(
        "signature-key",
        "the name of a ConfigMap in the Deployment's namespace",
        "Whose OpenSSF signature the model must have: key.pub is the public key. The loader refuses what is not as it "
        "was signed.",
        "ConfigMap's name",
        _pattern(_DNS_SUBDOMAIN),
    ),
    Annotation(
        "size",
        "a quantity from 1 to 1Pi, for example 140Gi",
        "How large the model is: the deadline, and the room on the node. Without it, as large as the one before it.",
        "size of a model",
        _size,
    ),
    Annotation(
        "runtime",
        "the name of a runtime, or custom",
        "The model server. Without it, chosen by the format, or by the container that you wrote.",
        "runtime's name",
        _pattern(_DNS_SUBDOMAIN),
    ),
    Annotation(
        "format",
        "a name with an optional :version, for example sklearn or sklearn:1",
        "What the model is. Without it, told by the suffix of the model's file.",
        "model format",
        _format,
    ),
    Annotation(
        "protocol",
        ", ".join(PROTOCOLS),
        "How the model is asked.",
        "protocol",
        _one_of(*PROTOCOLS),
    ),
    Annotation(
        "scale",
        "fewest..most, for example 0..5; 1.. has no upper bound; 3 is exactly three",
        "Fewest and most replicas. Default 0.., from zero without an upper bound.",
        "range of replicas",
        _scale,
    ),
    Annotation(
        "target",
        "a number of at least 0.01",
        "How much of the metric one replica should carry.",
        "target",
        _target,
    ),
    Annotation(
        "metric",
        "concurrency, rps",
        "What the autoscaler measures. Default concurrency.",
        "metric",
        _one_of("concurrency", "rps"),
    ),
    Annotation(
        "concurrency",
        "a whole number from 0 to 1000",
        "Most requests at once that one replica is given; 0 is no limit.",
        "number of requests at once",
        _integer(0, 1000),
    ),
    Annotation(
        "window",
        "6s to 1h in whole seconds, for example 30s or 1m30s",
        "How long the autoscaler looks back. Default 60s.",
        "window",
        _duration(6, 3600),
    ),
    Annotation(
        "timeout",
        "1s to 10m in whole seconds, for example 90s",
        "How long one request may take. Default 300s.",
        "timeout",
        _duration(1, 600),
    ),
    Annotation(
        "credentials",
        "the name of a Secret in the Deployment's namespace",
        "Credentials for the loader, mounted as files, never read by the webhook.",
        "Secret's name",
        _pattern(_DNS_SUBDOMAIN),
    ),
    Annotation(
        "visibility",
        "public, cluster-local",
        "Where the model's URL is reachable. Default: as Knative is set up.",
        "visibility",
        _one_of("public", "cluster-local"),
    ),
    Annotation(
        "canary",
        "1% to 99%",
        "Share of the traffic for the newest revision; the rest stays on the last one that was promoted.",
        "share of the traffic",
        _percent,
    ),
    Annotation(
        "pin",
        "the name of a revision",
        "All traffic goes to that revision until the pin is removed.",
        "revision's name",
        _pattern(_NAME),
    ),
    Annotation(
        "domain",
        "a host name, for example models.example.com",
        "The model's own host name. Your DNS has to lead it to Knative's ingress.",
        "host name",
        _pattern(rf"(?=.{{3,253}}\Z){_NAME}(\.{_NAME})+"),
    ),
    Annotation(
        "tls",
        "the name of a TLS Secret in the Deployment's namespace",
        "The certificate of the domain. Without it, Knative's own certificates are used where they are set up.",
        "Secret's name",
        _pattern(_DNS_SUBDOMAIN),
    ),
    Annotation(
        "mode",
        "knative, deployment",
        "knative (default): a Knative Service that scales from zero. deployment: the Deployment is completed and left "
        "running, with a Service in front, and an autoscaler where scale gives a range.",
        "mode",
        _one_of(KNATIVE, DEPLOYMENT),
    ),
    Annotation(
        "mesh",
        "auto, istio, none",
        "Whether the pods get Istio's sidecar. auto (default): as the namespace and the cluster have it.",
        "way to stand to the mesh",
        _one_of("auto", "istio", "none"),
    ),
    Annotation(
        "auth",
        "none, mtls, jwt",
        "Who may call the model, as Istio enforces it. mtls: workloads of the mesh. jwt: who shows a token of "
        "auth-issuer. none (default): the mesh's own rules alone.",
        "way to authenticate",
        _one_of("none", "mtls", "jwt"),
    ),
    Annotation(
        "auth-issuer",
        "the iss of the tokens, for example https://login.example.com",
        "Who has to have issued the token. Needed with auth jwt. Without auth-jwks, an https:// URL of a public host.",
        "token issuer",
        _issuer,
    ),
    Annotation(
        "auth-jwks",
        "an https:// URL of a public host",
        "Where the issuer's keys are. Without it, Istio asks the issuer's OpenID configuration.",
        "URL of a key set",
        _key_set,
    ),
    Annotation(
        "auth-audiences",
        "audiences, separated by commas",
        "For whom the token has to have been issued: one of these. Without it, any token of the issuer is good.",
        "list of audiences",
        _list(_WORD),
    ),
    Annotation(
        "auth-claims",
        "name=value, separated by commas, for example group=research,group=ops,scope=predict",
        "Claims that the token has to carry. Several values of one name are alternatives.",
        "list of claims",
        _claims,
    ),
    Annotation(
        "auth-callers",
        "namespaces or namespace/service-account, separated by commas, for example shop,research/notebook",
        "Which workloads of the mesh may call. Needs one replica at least: Knative's activator would hide the caller.",
        "list of callers",
        _callers,
    ),
    Annotation(
        "telemetry",
        "access-log, trace=1% to trace=100%, or both, separated by a comma",
        "What Istio records beside its metrics: each request in the sidecar's log, and traces of a share of them.",
        "list of what to record",
        _telemetry,
    ),
)

STATE: tuple[Annotation, ...] = (
    Annotation("replicas", "a number", "The replicas that the Deployment had or asked for before it was parked."),
    Annotation(
        "handover",
        "to-knative, from-knative",
        "While the Deployment's own pods serve until the Knative Service does, or the other way round.",
    ),
    Annotation(
        "filled",
        "8 characters a value",
        "A mark of each value that the webhook filled in: `kubectl serve describe` shows which they are.",
    ),
    Annotation(
        "completed-with",
        "JSON",
        "The runtime and the loader that it was completed with, by digest: ConfigMap completion-DIGEST in namespace "
        "kubectl-serve has the content. They stay until what the choice rests on changes, or until this says renew.",
    ),
    Annotation(
        "service",
        "a name",
        "The Knative Service's name, where the Deployment's own was taken; in mode deployment the Service's.",
    ),
    Annotation("url", "a URL", "Where the model answers."),
    Annotation("ready-revision", "a name", "The newest revision that is ready."),
    Annotation(
        "model-size",
        "bytes",
        "The size of the newest model as its loader told it, from 1 GiB on. The next model is sized by it.",
    ),
    Annotation("promoted", "the name of a revision", "The revision that last had all the traffic."),
    Annotation("previous", "the name of a revision", "The one before it, reachable under the tag previous."),
    Annotation("observed-generation", "a number", "The generation of the Deployment that the conditions speak of."),
)

MODEL = PREFIX + "model"
DIGEST = PREFIX + "digest"
SIGNATURE_KEY = PREFIX + "signature-key"
SIZE = PREFIX + "size"
RUNTIME = PREFIX + "runtime"
FORMAT = PREFIX + "format"
PROTOCOL = PREFIX + "protocol"
SCALE = PREFIX + "scale"
TARGET = PREFIX + "target"
METRIC = PREFIX + "metric"
CONCURRENCY = PREFIX + "concurrency"
WINDOW = PREFIX + "window"
TIMEOUT = PREFIX + "timeout"
CREDENTIALS = PREFIX + "credentials"
VISIBILITY = PREFIX + "visibility"
CANARY = PREFIX + "canary"
PIN = PREFIX + "pin"
DOMAIN = PREFIX + "domain"
TLS = PREFIX + "tls"
MODE = PREFIX + "mode"
MESH = PREFIX + "mesh"
AUTH = PREFIX + "auth"
AUTH_ISSUER = PREFIX + "auth-issuer"
AUTH_JWKS = PREFIX + "auth-jwks"
AUTH_AUDIENCES = PREFIX + "auth-audiences"
AUTH_CLAIMS = PREFIX + "auth-claims"
AUTH_CALLERS = PREFIX + "auth-callers"
TELEMETRY = PREFIX + "telemetry"

REPLICAS = PREFIX + "replicas"
HANDOVER = PREFIX + "handover"
FILLED = PREFIX + "filled"
COMPLETED_WITH = PREFIX + "completed-with"
SERVICE = PREFIX + "service"
URL = PREFIX + "url"
READY_REVISION = PREFIX + "ready-revision"
MODEL_SIZE = PREFIX + "model-size"
PROMOTED = PREFIX + "promoted"
PREVIOUS = PREFIX + "previous"
OBSERVED_GENERATION = PREFIX + "observed-generation"

NOTED = (SERVICE, URL, READY_REVISION, MODEL_SIZE, PROMOTED, PREVIOUS, OBSERVED_GENERATION)
"""What the reconciler notes on a served Deployment."""
OF_REVISIONS = (READY_REVISION, PROMOTED, PREVIOUS)
"""What it notes of the revisions of one Knative Service: the next one begins to count anew."""

_USER_BY_KEY = {annotation.key: annotation for annotation in USER}
_STATE_KEYS = frozenset(annotation.key for annotation in STATE)


def is_current(deployment: Mapping[str, Any]) -> bool:
    """Whether what the reconciler notes and says speaks of the Deployment as it is now."""
    metadata = deployment["metadata"]
    return bool((metadata.get("annotations") or {}).get(OBSERVED_GENERATION) == str(metadata.get("generation")))


def path_of(key: str) -> str:
    """Where an annotation stands in its object, as messages say it."""
    return f"metadata.annotations[{key}]"


def read(annotations: Mapping[str, str]) -> tuple[ServingSpec | None, tuple[Diagnostic, ...]]:
    """Read all annotations under our prefix; all their faults come at once, as far as they are said.

    Returns ``(None, ())`` for an object that has none of the user's.
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


def _field(key: str) -> str:
    """The name of an annotation's field of :class:`ServingSpec`."""
    return key.removeprefix(PREFIX).replace("-", "_")


def _value(annotation: Annotation, text: str) -> Any:
    if len(text) > LONGEST:
        return diagnostic("TooLarge", path_of(annotation.key), why=f"it is longer than {LONGEST:,} characters")
    try:
        return annotation.parse(text)
    except _InvalidError as error:
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
    """What somebody who wrote ``text`` may have meant: the first of the usual slips, put right, that is allowed."""
    if len(text) > _LONGEST_CORRECTED:
        return ""
    plain = text.strip().lower()
    least, _, most = plain.partition("..")
    tries = (plain, f"{plain}%", f"{plain}s", re.sub(r"[-:,]|\.{3}|\s+", "..", plain), f"{most}..{least}")
    corrected = next((each for each in tries if _allows(annotation, each)), "")
    if corrected:
        return f"Did you mean {corrected}? "
    return meant(plain, [each for each in annotation.values.split(", ") if _allows(annotation, each)])


def _allows(annotation: Annotation, text: str) -> bool:
    try:
        annotation.parse(text)
    except _InvalidError:
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
    """What may be meant; the same mistakes are looked up once for each default of the policies."""
    import difflib  # only a mistake pays for it  # noqa: PLC0415

    return difflib.get_close_matches(name, [annotation.name for annotation in USER], n=2)


def _incomplete(values: Mapping[str, Any], keys: Collection[str]) -> list[Diagnostic]:
    """What is written without what makes it mean something. ``keys`` are those written, right or wrong."""
    missing = [(TLS, DOMAIN)] if TLS in keys and DOMAIN not in keys else []
    if AUTH not in keys or "auth" in values:
        auth = values.get("auth")
        of_tokens = (AUTH_ISSUER, AUTH_JWKS, AUTH_AUDIENCES, AUTH_CLAIMS)
        missing += [(key, f"{AUTH}: jwt") for key in of_tokens if key in keys and auth != "jwt"]
        if AUTH_CALLERS in keys and auth not in ("mtls", "jwt"):
            missing.append((AUTH_CALLERS, f"{AUTH}: mtls"))
        if auth == "jwt" and AUTH_ISSUER not in keys:
            missing.append((AUTH, AUTH_ISSUER))
    return [diagnostic("MissingAnnotation", path_of(one), one=one, other=other) for one, other in missing]


def _conflicts(values: Mapping[str, Any]) -> list[Diagnostic]:
    found = []

    def exclude(key: str, other: str, why: str) -> None:
        if _field(key) in values:
            found.append(diagnostic("ConflictingAnnotations", path_of(key), one=key, other=other, why=why))

    if "pin" in values:
        exclude(CANARY, PIN, "a pin sends all traffic to one revision")
    if values.get("visibility") == "cluster-local":
        exclude(DOMAIN, "visibility cluster-local", "a host name of its own is for the world outside")
    if any(model.uri.scheme == "pvc" for model in values["models"]):
        for key in (DIGEST, SIGNATURE_KEY, SIZE, CREDENTIALS):
            exclude(key, "a pvc:// model", "a model in a claim is mounted, not downloaded")
    if "auth_issuer" in values and "auth_jwks" not in values and not is_public(values["auth_issuer"]):
        issuer = quote(values["auth_issuer"])
        found.append(diagnostic("IssuerNotPublic", path_of(AUTH_ISSUER), issuer=issuer))
    if values.get("mode") == DEPLOYMENT:
        for key in (TARGET, METRIC, CONCURRENCY, WINDOW, TIMEOUT, CANARY, PIN, DOMAIN, VISIBILITY):
            exclude(key, "mode deployment", "it is Knative that does it")
        scale = values.get("scale")
        if scale is not None and (scale.least == 0 or scale.most is None):
            exclude(SCALE, "mode deployment", "without Knative there is no scale to zero, and an upper bound is needed")
    return found
