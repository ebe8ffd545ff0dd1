"""The user's language: the annotations under ``kubectl-serve.dev/``, each with its values, meaning and check.

:data:`USER` is what a user may write, :data:`STATE` what kubectl-serve keeps on the Deployment itself. The plugin's
flags, the documentation and the checks at admission all come from these tables.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from serve_core.api import annotation_values as values
from serve_core.api import models
from serve_core.base.constants import PREFIX
from serve_core.base.json import JsonObject
from serve_core.base.workload import Workload
from serve_core.syntax.object_name import LABEL, SUBDOMAIN

PROTOCOLS = ("v1", "v2", "openai", "grpc-v2")
"""v1: TensorFlow Serving's; v2 and grpc-v2: the Open Inference Protocol; openai: OpenAI's REST API."""

KNATIVE, DEPLOYMENT = "knative", "deployment"
"""The modes: scaled from zero by a Knative Service, or left running as the Deployment it is."""

LONGEST = 16 * 1024
"""Characters of an annotation's value; the longest are lists of claims and of callers."""

CUSTOM = "custom"
"""The runtime of a Deployment that brings its own model server."""


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
        values.pattern(r"sha256:[0-9a-f]{64}"),
    ),
    Annotation(
        "signature-key",
        "the name of a ConfigMap in the Deployment's namespace",
        "Whose OpenSSF signature the model must have: key.pub is the public key. The loader refuses what is not as it "
        "was signed.",
        "ConfigMap's name",
        values.pattern(SUBDOMAIN),
    ),
    Annotation(
        "size",
        "a quantity from 1 to 1Pi, for example 140Gi",
        "How large the model is: the deadline, and the room on the node. Without it, as large as the one before it.",
        "size of a model",
        values.size,
    ),
    Annotation(
        "runtime",
        "the name of a runtime, or custom",
        "The model server. Without it, chosen by the format, or by the container that you wrote.",
        "runtime's name",
        values.pattern(SUBDOMAIN),
    ),
    Annotation(
        "format",
        "a name with an optional :version, for example sklearn or sklearn:1",
        "What the model is. Without it, told by the suffix of the model's file.",
        "model format",
        values.model_format,
    ),
    Annotation(
        "protocol",
        ", ".join(PROTOCOLS),
        "How the model is asked.",
        "protocol",
        values.OneOf(*PROTOCOLS),
    ),
    Annotation(
        "scale",
        "fewest..most, for example 0..5; 1.. has no upper bound; 3 is exactly three",
        "Fewest and most replicas. Default 0.., from zero without an upper bound.",
        "range of replicas",
        values.scale,
    ),
    Annotation(
        "target",
        "a number of at least 0.01",
        "How much of the metric one replica should carry.",
        "target",
        values.target,
    ),
    Annotation(
        "metric",
        "concurrency, rps",
        "What the autoscaler measures. Default concurrency.",
        "metric",
        values.OneOf("concurrency", "rps"),
    ),
    Annotation(
        "concurrency",
        "a whole number from 0 to 1000",
        "Most requests at once that one replica is given; 0 is no limit.",
        "number of requests at once",
        values.integer(0, 1000),
    ),
    Annotation(
        "window",
        "6s to 1h in whole seconds, for example 30s or 1m30s",
        "How long the autoscaler looks back. Default 60s.",
        "window",
        values.duration(6, 3600),
    ),
    Annotation(
        "timeout",
        "1s to 10m in whole seconds, for example 90s",
        "How long one request may take. Default 300s.",
        "timeout",
        values.duration(1, 600),
    ),
    Annotation(
        "credentials",
        "the name of a Secret in the Deployment's namespace",
        "Credentials for the loader, mounted as files, never read by the webhook.",
        "Secret's name",
        values.pattern(SUBDOMAIN),
    ),
    Annotation(
        "visibility",
        "public, cluster-local",
        "Where the model's URL is reachable. Default: as Knative is set up.",
        "visibility",
        values.OneOf("public", "cluster-local"),
    ),
    Annotation(
        "canary",
        "1% to 99%",
        "Share of the traffic for the newest revision; the rest stays on the last one that was promoted.",
        "share of the traffic",
        values.percent,
    ),
    Annotation(
        "pin",
        "the name of a revision",
        "All traffic goes to that revision until the pin is removed.",
        "revision's name",
        values.pattern(LABEL),
    ),
    Annotation(
        "domain",
        "a host name, for example models.example.com",
        "The model's own host name. Your DNS has to lead it to Knative's ingress.",
        "host name",
        values.pattern(rf"(?=.{{3,253}}\Z){LABEL}(\.{LABEL})+"),
    ),
    Annotation(
        "tls",
        "the name of a TLS Secret in the Deployment's namespace",
        "The certificate of the domain. Without it, Knative's own certificates are used where they are set up.",
        "Secret's name",
        values.pattern(SUBDOMAIN),
    ),
    Annotation(
        "mode",
        "knative, deployment",
        "knative (default): a Knative Service that scales from zero. deployment: the Deployment is completed and left "
        "running, with a Service in front, and an autoscaler where scale gives a range.",
        "mode",
        values.OneOf(KNATIVE, DEPLOYMENT),
    ),
    Annotation(
        "mesh",
        "auto, istio, none",
        "Whether the pods get Istio's sidecar. auto (default): as the namespace and the cluster have it.",
        "way to stand to the mesh",
        values.OneOf("auto", "istio", "none"),
    ),
    Annotation(
        "auth",
        "none, mtls, jwt",
        "Who may call the model, as Istio enforces it. mtls: workloads of the mesh. jwt: who shows a token of "
        "auth-issuer. none (default): the mesh's own rules alone.",
        "way to authenticate",
        values.OneOf("none", "mtls", "jwt"),
    ),
    Annotation(
        "auth-issuer",
        "the iss of the tokens, for example https://login.example.com",
        "Who has to have issued the token. Needed with auth jwt. Without auth-jwks, an https:// URL of a public host.",
        "token issuer",
        values.issuer,
    ),
    Annotation(
        "auth-jwks",
        "an https:// URL of a public host",
        "Where the issuer's keys are. Without it, Istio asks the issuer's OpenID configuration.",
        "URL of a key set",
        values.key_set,
    ),
    Annotation(
        "auth-audiences",
        "audiences, separated by commas",
        "For whom the token has to have been issued: one of these. Without it, any token of the issuer is good.",
        "list of audiences",
        values.items(values.CLAIM_TEXT),
    ),
    Annotation(
        "auth-claims",
        "name=value, separated by commas, for example group=research,group=ops,scope=predict",
        "Claims that the token has to carry. Several values of one name are alternatives.",
        "list of claims",
        values.claims,
    ),
    Annotation(
        "auth-callers",
        "namespaces or namespace/service-account, separated by commas, for example shop,research/notebook",
        "Which workloads of the mesh may call. Needs one replica at least: Knative's activator would hide the caller.",
        "list of callers",
        values.callers,
    ),
    Annotation(
        "telemetry",
        "access-log, trace=1% to trace=100%, or both, separated by a comma",
        "What Istio records beside its metrics: each request in the sidecar's log, and traces of a share of them.",
        "list of what to record",
        values.telemetry,
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


def is_current(deployment: JsonObject) -> bool:
    """Whether the reconciler's annotations and conditions are about the Deployment's present generation."""
    workload = Workload(deployment)
    return workload.annotations.get(OBSERVED_GENERATION) == str(workload.metadata.get("generation"))


def path_of(key: str) -> str:
    """Where an annotation stands in its object, as messages say it."""
    return f"metadata.annotations[{key}]"
