"""The annotations under ``kubectl-serve.dev/``: for each its values, its meaning and its check.

Users set those in :data:`USER`; kubectl-serve sets those in :data:`STATE` on the Deployment. The plugin's flags, the
documentation and the checks at admission all come from these tables.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from serve_core.api import annotation_values as values
from serve_core.api import models
from serve_core.base.constants import PREFIX
from serve_core.syntax.object_name import LABEL, SUBDOMAIN

PROTOCOLS = ("v1", "v2", "openai", "grpc-v2")
"""v1: TensorFlow Serving's; v2 and grpc-v2: the Open Inference Protocol; openai: OpenAI's REST API."""

KNATIVE, DEPLOYMENT = "knative", "deployment"
"""The modes: a Knative Service that scales from zero, or the Deployment itself, which keeps running."""

MAX_LENGTH = 16 * 1024
"""Maximum characters of a value; the longest are lists of claims and of callers."""

CUSTOM = "custom"
"""The runtime of a Deployment with its own model server."""


@dataclass(frozen=True)
class Annotation:
    name: str
    """The key after the prefix."""
    values: str
    """The allowed values, for documentation and hints."""
    meaning: str
    what: str = ""
    """The noun for a value in a refusal."""
    parse: Callable[[str], Any] = field(default=str, repr=False)

    @property
    def key(self) -> str:
        return PREFIX + self.name


# Bounds of Knative 1.23: pkg/apis/autoscaling/annotation_validation.go, pkg/apis/config/defaults.go.
USER: tuple[Annotation, ...] = (
    Annotation(
        "model",
        ", ".join(models.SCHEMES.values()) + "; or several, separated by white space, each with its folder: URI=FOLDER",
        "URI of the model. kubectl-serve serves a Deployment that has this annotation.",
    ),
    Annotation(
        "digest",
        "sha256: and 64 hexadecimal digits",
        "Digest of the model file, or of the manifest of a directory. The loader rejects any other content.",
        "digest",
        values.pattern(r"sha256:[0-9a-f]{64}"),
    ),
    Annotation(
        "signature-key",
        "the name of a ConfigMap in the Deployment's namespace",
        "ConfigMap with the public key (key.pub) for OpenSSF signature verification. The loader rejects models that "
        "fail it.",
        "ConfigMap name",
        values.pattern(SUBDOMAIN),
    ),
    Annotation(
        "files",
        "patterns, separated by spaces, for example *.safetensors *.json !original/*; ! excludes, and * matches / too",
        "Files of the model to load, by their paths below the model's folder. Default: all, except copies of the "
        "weights in a Hugging Face repository.",
        "list of file patterns",
        values.file_patterns,
    ),
    Annotation(
        "cache",
        "none, node, pvc://CLAIM or pvc://CLAIM/PATH",
        "Where the model stays for other pods: on a claim, where the first pod downloads it, or on the node, where the "
        "cluster can keep it there. none (default): each pod downloads the model.",
        "place for a model",
        values.cache,
    ),
    Annotation(
        "prefetch",
        "a number of nodes from 1 to 1000, or all",
        "On how many nodes the model is loaded before pods need it; a new model before its first pod. Requires cache "
        "node.",
        "number of nodes",
        values.prefetch,
    ),
    Annotation(
        "writable",
        "true, false",
        "Whether the model server can write to the claim of a pvc:// model. Default: false.",
        "setting",
        values.switch,
    ),
    Annotation(
        "size",
        "a quantity from 1 to 1Pi, for example 140Gi",
        "Model size. Sets the download deadline and the ephemeral-storage request. Default: the previous model's size.",
        "model size",
        values.size,
    ),
    Annotation(
        "runtime",
        "the name of a runtime, or custom",
        "Model server. Default: a runtime for the format, or the container that you add.",
        "runtime name",
        values.pattern(SUBDOMAIN),
    ),
    Annotation(
        "format",
        "a name with an optional :version, for example sklearn or sklearn:1",
        "Format of the model. Default: derived from the suffix of the model file.",
        "model format",
        values.model_format,
    ),
    Annotation(
        "protocol",
        ", ".join(PROTOCOLS),
        "Inference protocol.",
        "protocol",
        values.OneOf(*PROTOCOLS),
    ),
    Annotation(
        "mount",
        "an absolute path, for example /models; no system folder",
        "Path of the model in its container. Several models have their folders there. A runtime's arguments follow it. "
        "Default: /mnt/models.",
        "path for a model",
        values.model_mount,
    ),
    Annotation(
        "port",
        "a port from 1 to 65535",
        "The container port that serves the model. Default: the declared port, the readiness probe's, or the server's.",
        "port",
        values.integer(1, 65535),
    ),
    Annotation(
        "scale",
        "minimum..maximum, for example 0..5; 1.. has no maximum; 3 is exactly three",
        "Minimum and maximum replicas. Default: 0.., from zero without a maximum.",
        "range of replicas",
        values.scale,
    ),
    Annotation(
        "target",
        "a number of at least 0.01",
        "Target value of the metric for each replica.",
        "target",
        values.target,
    ),
    Annotation(
        "metric",
        "concurrency, rps",
        "Metric for autoscaling. Default: concurrency.",
        "metric",
        values.OneOf("concurrency", "rps"),
    ),
    Annotation(
        "concurrency",
        "a whole number from 0 to 1000",
        "Maximum concurrent requests for each replica; 0 is no limit.",
        "number of concurrent requests",
        values.integer(0, 1000),
    ),
    Annotation(
        "window",
        "6s to 1h in whole seconds, for example 30s or 1m30s",
        "Time window over which the autoscaler averages the metric. Default: 60s.",
        "window",
        values.duration(6, 3600),
    ),
    Annotation(
        "timeout",
        "1s to the cluster's maximum (Knative's default: 10m) in whole seconds, for example 90s",
        "Maximum duration of a request. Default: Knative's, which is 300s.",
        "timeout",
        values.duration(1, 2**31 - 1),
    ),
    Annotation(
        "credentials",
        "the name of a Secret in the Deployment's namespace",
        "Secret with the loader's credentials, mounted as files. The webhook never reads it.",
        "Secret name",
        values.pattern(SUBDOMAIN),
    ),
    Annotation(
        "visibility",
        "public, cluster-local",
        "Where clients can reach the model. Default: as Knative is configured.",
        "visibility",
        values.OneOf("public", "cluster-local"),
    ),
    Annotation(
        "canary",
        "1% to 99%",
        "Percentage of the traffic for the latest revision. The last promoted revision gets the rest.",
        "traffic percentage",
        values.percent,
    ),
    Annotation(
        "pin",
        "the name of a revision",
        "Revision that gets all traffic until you remove the pin.",
        "revision name",
        values.pattern(LABEL),
    ),
    Annotation(
        "domain",
        "a host name, for example models.example.com",
        "Custom host name of the model. Your DNS must point it to Knative's ingress.",
        "host name",
        values.pattern(rf"(?=.{{3,253}}\Z){LABEL}(\.{LABEL})+"),
    ),
    Annotation(
        "tls",
        "the name of a TLS Secret in the Deployment's namespace",
        "TLS certificate of the domain. Default: Knative's certificates, if they are configured.",
        "Secret name",
        values.pattern(SUBDOMAIN),
    ),
    Annotation(
        "mode",
        "knative, deployment",
        "knative (default): a Knative Service that scales from zero. deployment: the Deployment keeps running behind a "
        "Service, with an autoscaler if scale is a range.",
        "mode",
        values.OneOf(KNATIVE, DEPLOYMENT),
    ),
    Annotation(
        "mesh",
        "auto, istio, none",
        "Whether the pods get Istio's sidecar. auto (default): as the namespace and the cluster are configured.",
        "mesh setting",
        values.OneOf("auto", "istio", "none"),
    ),
    Annotation(
        "auth",
        "none, mtls, jwt",
        "Who can call the model; Istio enforces it. mtls: workloads in the mesh. jwt: clients with a token of "
        "auth-issuer. none (default): only the rules of the mesh apply.",
        "authentication method",
        values.OneOf("none", "mtls", "jwt"),
    ),
    Annotation(
        "auth-issuer",
        "the iss claim of the tokens, for example https://login.example.com",
        "Accepted JWT issuer. Required with auth jwt. Without auth-jwks, it must be an https:// URL of a public host.",
        "token issuer",
        values.issuer,
    ),
    Annotation(
        "auth-jwks",
        "an https:// URL of a public host",
        "URL of the issuer's key set (JWKS). Default: Istio reads it from the issuer's OpenID configuration.",
        "key set URL",
        values.key_set,
    ),
    Annotation(
        "auth-audiences",
        "audiences, separated by commas",
        "Accepted JWT audiences. Default: any audience.",
        "list of audiences",
        values.items(values.CLAIM_TEXT),
    ),
    Annotation(
        "auth-claims",
        "name=value, separated by commas, for example group=research,group=ops,scope=predict",
        "Required JWT claims. Several values of one claim are alternatives.",
        "list of claims",
        values.claims,
    ),
    Annotation(
        "auth-callers",
        "namespaces or namespace/service-account, separated by commas, for example shop,research/notebook",
        "Workloads in the mesh that can call the model. They require a minimum scale of 1: Knative's activator hides "
        "callers.",
        "list of callers",
        values.callers,
    ),
    Annotation(
        "telemetry",
        "access-log, trace=1% to trace=100%, or both, separated by a comma",
        "What Istio records in addition to metrics: a log line for each request, and traces of some requests.",
        "telemetry setting",
        values.telemetry,
    ),
)

STATE: tuple[Annotation, ...] = (
    Annotation("replicas", "a number", "Replicas of the Deployment before Knative served it."),
    Annotation(
        "handover",
        "to-knative, from-knative",
        "Present during a handover. to-knative: until the Knative Service is ready. from-knative: until the "
        "Deployment's own pods are, and the Knative Service is deleted.",
    ),
    Annotation(
        "filled",
        "8 characters for each value",
        "Marks of the values that the webhook set. `kubectl serve describe` lists the values.",
    ),
    Annotation(
        "completed-with",
        "JSON",
        "Digests of the recorded runtime and loader; ConfigMap completion-DIGEST in namespace kubectl-serve has the "
        "content. They stay until the annotations or devices change for which they were chosen, or until this value is "
        "renew.",
    ),
    Annotation(
        "service",
        "a name",
        "Name of the Knative Service if the Deployment's name was in use; in mode deployment, of the Service.",
    ),
)

MODEL = PREFIX + "model"
DIGEST = PREFIX + "digest"
SIGNATURE_KEY = PREFIX + "signature-key"
FILES = PREFIX + "files"
CACHE = PREFIX + "cache"
PREFETCH = PREFIX + "prefetch"
WRITABLE = PREFIX + "writable"
SIZE = PREFIX + "size"
RUNTIME = PREFIX + "runtime"
FORMAT = PREFIX + "format"
PROTOCOL = PREFIX + "protocol"
MOUNT = PREFIX + "mount"
PORT = PREFIX + "port"
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

EARLIER_STATE = {
    PREFIX + "url": "url",
    PREFIX + "ready-revision": "revision",
    PREFIX + "model-size": "modelBytes",
    PREFIX + "promoted": "promoted",
    PREFIX + "previous": "previous",
    PREFIX + "observed-generation": "observedGeneration",
}
"""The annotations in which earlier builds recorded the state (:mod:`serve_core.api.state`), each with its field. The
reconciler reads them once and removes them."""


def path_of(key: str) -> str:
    """The path of an annotation in messages."""
    return f"metadata.annotations[{key}]"
