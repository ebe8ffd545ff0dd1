"""The catalogue of messages for users: refusals, warnings, choices and condition reasons.

Each has a code, a sentence and, if the user can act, a hint. Callers pass the words for the braces. Every message comes
from this catalogue: tests compare :data:`CATALOGUE` with the code and the documentation.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from serve_core.base.escaping import inline

MAX_PROBLEMS = 100
"""Maximum number of reported problems of one object: more take time, and help no reader."""
_LONGEST_QUOTE = 200
"""Characters of a user's text that a message repeats."""
_LONGEST_PATH = 500
_LONGEST_WORD = 2_000
"""Characters of one word of a sentence, such as a list of all allowed values."""


class Kind(StrEnum):
    REFUSAL = "refusal"
    WARNING = "warning"
    CHOICE = "choice"
    CONDITION = "condition"
    POLICY = "policy"


@dataclass(frozen=True)
class Reason:
    code: str
    kind: Kind
    sentence: str
    hint: str = ""


@dataclass(frozen=True, order=True)
class Diagnostic:
    """A refusal or a warning about one path of an object."""

    path: str
    code: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return _one_line(f"{self.code}: {self.path}: {self.message}" + (f" {self.hint}" if self.hint else ""))


@dataclass(frozen=True, order=True)
class Explanation:
    """What kubectl-serve chose for the user, and why."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


_REFUSALS = (
    # The annotations.
    ("UnknownAnnotation", "kubectl-serve has no annotation {key}.", "{nearest}"),
    ("InvalidAnnotation", "{value} is not a valid {what}.", "{meant}Allowed: {allowed}."),
    ("OrphanAnnotation", "{key} has no effect without a model.", "Add kubectl-serve.dev/model, or remove {key}."),
    ("ConflictingAnnotations", "{one} cannot be combined with {other}: {why}.", "Remove one of them."),
    ("MissingAnnotation", "{one} requires {other}.", "Add {other}, or remove {one}."),
    # The model's URI.
    ("InvalidModelURI", "{value} is not a valid model URI: {why}.", "Use the form {example}."),
    ("UnknownScheme", "{scheme} is not a supported scheme.", "{meant}Supported: {allowed}."),
    (
        "SecretInURI",
        "the model URI contains a secret ({what}).",
        "Remove it, put credentials into a Secret, and set kubectl-serve.dev/credentials to the Secret's name.",
    ),
    # The choice of the model server.
    (
        "FormatUnknown",
        "the model URI does not show the model's format.",
        "{meant}Add kubectl-serve.dev/format (known: {formats}), or a container with your own model server.",
    ),
    (
        "NoRuntime",
        "no runtime serves {wanted}.",
        "Known: {known}. To use another model server, add its container to the Deployment.",
    ),
    (
        "SnapshotUnnamed",
        "runtime {runtime} reads one snapshot, and {uri} is a repository's folder in a cache of the Hugging Face Hub.",
        "Write {uri}/snapshots/COMMIT: the file {reference} of the claim has the commit of main.",
    ),
    (
        "ModelFileUnnamed",
        "runtime {runtime} serves one file, and the model URI names none.",
        "Write a URI that ends in {suffix}{example}.",
    ),
    ("UnknownRuntime", "there is no runtime {name}.", "{meant}Known: {known}."),
    (
        "ContainerMissing",
        "runtime custom needs a container with your model server, and the Deployment has none.",
        "Add the container to spec.template.spec.containers, or remove kubectl-serve.dev/runtime.",
    ),
    (
        "PortUnknown",
        "container {name} declares no port, and neither its probes nor its command line name one.",
        "Declare the port that the server listens on (ports), or set {annotation}.",
    ),
    (
        "PortAmbiguous",
        "container {name} declares several ports, and nothing says which one serves the model.",
        "Set {annotation} to the port that serves the model.",
    ),
    (
        "PortTaken",
        (
            "runtime {runtime} in container {server} listens on port {port}, and the containers of a pod share their "
            "ports."
        ),
        "Use another port for this container, and declare it. The model server is at localhost:{serving}.",
    ),
    (
        "ContainerAmbiguous",
        "it is not clear which of the containers {names} serves the model.",
        "Name that container model-server, or give ports to that container only.",
    ),
    (
        "ImageMissing",
        "container {name} has no image.",
        "Add an image, or remove the container: kubectl-serve then chooses a runtime.",
    ),
    # The mesh.
    (
        "MeshMissing",
        "this cluster has no Istio that can inject a sidecar.",
        "Remove this annotation, or install Istio.",
    ),
    (
        "MeshForbidden",
        "Istio would not inject a sidecar into the pods: {why}.",
        "Change that, or set kubectl-serve.dev/mesh to auto.",
    ),
    (
        "MeshRevisionAmbiguous",
        "it is not clear which Istio revision injects the sidecar.",
        "Add the label istio.io/rev to the namespace or to spec.template.metadata.labels (known: {names}).",
    ),
    (
        "LoaderBlocked",
        "Istio would block the loader's download: {why}, and on OpenShift the loader cannot get the sidecar's user ID.",
        "Use Istio 1.24 and kubelets 1.29 or newer, use a pvc:// model, or set kubectl-serve.dev/mesh to none.",
    ),
    (
        "StoreNotRegistered",
        (
            "the mesh allows traffic only to registered hosts (outboundTrafficPolicy REGISTRY_ONLY), and {host} is not "
            "registered."
        ),
        "Ask a mesh administrator for a ServiceEntry for {host} that is visible in namespace {namespace}.",
    ),
    (
        "ProbesBlocked",
        "the sidecar would block Knative's probes, and the model would never become ready.",
        'Set this annotation to "true", or remove it.',
    ),
    # Who may call.
    (
        "NeedsSidecar",
        "this setting has no effect: {why}.",
        "Set kubectl-serve.dev/mesh to istio, or label the namespace istio-injection=enabled.",
    ),
    ("PastSidecar", "{what} can bypass Istio's sidecar, which enforces {by}.", "Remove it."),
    (
        "IssuerNotPublic",
        "Istio would fetch the keys from {issuer}, which is not a public https:// URL.",
        "Use https:// with a public host name, or set kubectl-serve.dev/auth-jwks to the URL of the keys.",
    ),
    (
        "KnativeOutsideMesh",
        "the sidecar would reject Knative's autoscaler and activator, which are not in the mesh.",
        (
            "Ask a cluster administrator to run `kubectl label ns knative-serving istio-injection=enabled` and to "
            "restart the pods in that namespace."
        ),
    ),
    (
        "CallersNeedReplica",
        "Knative's activator would hide the callers: it stands in front of a model that scales to zero.",
        "Set kubectl-serve.dev/scale to at least 1, for example 1..5.",
    ),
    (
        "AdoptedModelInvalid",
        "policy {policy} builds an invalid model URI from this label: {why}.",
        "Correct the label, or remove it.",
    ),
    ("NameReserved", "{what} {name} is reserved for kubectl-serve.", "Choose another name."),
    (
        "ModelPathTaken",
        "volume {volume} is mounted at {path}, and would hide the model at {mount}.",
        "Remove this mount or move it, or set kubectl-serve.dev/mount to another path for the model.",
    ),
    (
        "MountOfFile",
        "{mount} is the path of a file, and the model is a folder.",
        "Set kubectl-serve.dev/mount to the path of a folder, such as {folder}.",
    ),
    (
        "MountNotForRuntime",
        "runtime {runtime} cannot have the model at {mount}: {why}.",
        "Set kubectl-serve.dev/mount to a path in one of {allowed}; a container of your own can have it elsewhere.",
    ),
    # The object as a whole.
    ("InvalidObject", "{why}.", "Compare the object with `kubectl explain deployment`."),
    ("TooLarge", "it is too large: {why}.", "Move large content into a ConfigMap, or remove it."),
    (
        "NothingToGiveBack",
        "without the model annotation, the Deployment has no container with an image.",
        "Delete the Deployment, or add a container with an image in the same change.",
    ),
    (
        "InvalidServiceName",
        "{name} is not a valid Service name.",
        "Use at most 63 lower-case letters, digits and hyphens; begin with a letter.",
    ),
    (
        "NameTooLong",
        (
            "{name} has {length} characters, so the host name {host} of its previous revision would exceed the 63 "
            "characters that Knative allows."
        ),
        "Use a name of at most {most} characters, or kubectl-serve.dev/mode: deployment.",
    ),
    (
        "PortByName",
        (
            "Service {service} refers to port {port} by name, and Knative renames ports: clients of the Service would "
            "not reach the model."
        ),
        "Set the Service's targetPort to a number first.",
    ),
    # Fields that a Knative Service cannot carry.
    ("FieldUnsupported", "Knative does not support this: {why}.", "{way_out}"),
    (
        "FeatureDisabled",
        "Knative's feature flag {flag} is {state}.",
        (
            "Ask a cluster administrator to run `kubectl patch cm/config-features -n knative-serving -p "
            '\'{{"data":{{"{flag}":"enabled"}}}}\'`.'
        ),
    ),
    (
        "TimeoutTooLong",
        "{seconds}s is longer than the maximum of Knative's configuration, {maximum}s.",
        (
            "Shorten it, or ask a cluster administrator to run `kubectl patch cm/config-defaults -n knative-serving -p "
            '\'{{"data":{{"{key}":"{seconds}"}}}}\'`. Offline, pass that ConfigMap with -f.'
        ),
    ),
    (
        "Parked",
        "Knative sets the number of replicas of this Deployment.",
        "Set the annotation kubectl-serve.dev/scale instead, for example 1..5.",
    ),
)

_WARNINGS = (
    (
        "RepositoryOfGGUF",
        "the repository's name ends in -GGUF, and runtime {runtime} does not serve GGUF.",
        "Name one file of it: {example}.",
    ),
    ("NameInTheWay", "Service {taken} already exists, so the model is served as Service {service}.", ""),
    (
        "BoundsLost",
        "{kind} {name} has no effect on a model that Knative scales: its bounds are lost.",
        "Write kubectl-serve.dev/scale: {bounds}, and delete {kind} {name}.",
    ),
    (
        "ScaledByKeda",
        (
            "KEDA tries to scale this Deployment for ScaledObject {name}, and admission refuses each attempt: Knative "
            "scales the model."
        ),
        "Delete the ScaledObject.",
    ),
    (
        "AutoscalerTwice",
        "{kind} {name} and the autoscaler of kubectl-serve.dev/scale both scale this Deployment.",
        "Remove one of them.",
    ),
    (
        "RequestMissing",
        "container {name} requests no {resource}, so {autoscaler} cannot measure its use.",
        "Add resources.requests.{resource}, unless a LimitRange of the namespace sets it.",
    ),
    (
        "EvictionBlocked",
        (
            "PodDisruptionBudget {name} requires {count} available pods, and the model can run with {minimum}. "
            "Nodes with its pods then cannot be drained."
        ),
        "Set maxUnavailable: 1 instead of minAvailable, or set kubectl-serve.dev/scale to at least {more}.",
    ),
    (
        "PastKnative",
        (
            "Service {service} selects the pods directly: its requests bypass Knative and cannot start a model that is "
            "scaled to zero."
        ),
        "Use the model's URL instead; canaries do not apply to this Service either.",
    ),
    ("CompletedAgain", "the recorded runtime and loader are no longer available; the current ones replace them.", ""),
    (
        "ModelInReadOnly",
        "volume {volume} is read-only at {path}: the container starts only if the volume already has {mount}.",
        "If it has not, mount the volume elsewhere, or set kubectl-serve.dev/mount to a path outside of it.",
    ),
    (
        "ModelUnseen",
        "container {name} does not refer to {mount}, where the model is{instead}. It probably serves another model.",
        "{how} If the image reads {mount} by itself, ignore this warning.",
    ),
    (
        "RuntimeReplaced",
        "field {what} of container {name} replaces the command line of runtime {runtime}: {line}.",
        "{how}",
    ),
    (
        "RuntimeWithoutVariant",
        "runtime {runtime} has no variant for {wanted}, so its server runs on the CPU and the device is idle.",
        "{how}",
    ),
    (
        "KnownImage",
        (
            "this is the image of runtime {runtime}, but the container does not get that runtime's arguments, "
            "environment and probes."
        ),
        "Add the annotation kubectl-serve.dev/runtime: {runtime}. To keep your own model server, set it to custom.",
    ),
    (
        "MountReadOnly",
        "Knative mounts volume {volume} read-only, so the container cannot write there.",
        "{way_out}",
    ),
    (
        "HostPathReplaced",
        (
            "Knative mounts host paths read-only, and init container {container} fills volume {volume}: it fills an "
            "emptyDir instead, and its files do not stay on the node."
        ),
        "Each pod needs room for them in its ephemeral storage. {way_out}",
    ),
    (
        "PrivilegesDropped",
        "Knative runs no privileged containers, so container {name} only gets the devices that it requests: {devices}.",
        "If it needs other devices of the node, set kubectl-serve.dev/mode: deployment.",
    ),
    (
        "StartDelayed",
        "container {name} can wait {seconds} s for this probe after its server is ready, at each start.",
        "Set {line}.",
    ),
    ("FieldIgnored", "this has no effect on a Knative Service and is omitted: {why}.", ""),
    (
        "StoreMayBeUnregistered",
        "the mesh allows traffic only to registered hosts (outboundTrafficPolicy REGISTRY_ONLY).",
        "Make sure that a ServiceEntry covers the store of {scheme}:// and is visible in namespace {namespace}.",
    ),
    (
        "GatewayCounts",
        "Knative's gateway and activator are workloads in the mesh: every client that reaches them can call the model.",
        "Add kubectl-serve.dev/auth-callers, or use auth jwt.",
    ),
    (
        "NotAdopted",
        "no policy adopts Deployments in namespace {namespace}, so no model is served.",
        "Add kubectl-serve.dev/model, or remove the label.",
    ),
    (
        "AnyAudience",
        "the model accepts every token of the issuer, also tokens that are meant for other services.",
        "Add {key}.",
    ),
    ("Excepted", "exception {exception} suspends {by} until {until}: {reason} ({ticket}).", ""),
    (
        "ExceptionOfNothing",
        "the exception names {what}, which does not exist.",
        "Correct the name (`kubectl get servingpolicy -o yaml` lists policies and rules), or create it.",
    ),
)

_CHOICES = (
    ("FormatFromCache", "format huggingface, because the URI has the form of a Hugging Face cache.", ""),
    ("FormatFromScheme", "format {format}, because the model's URI begins with {scheme}://.", ""),
    ("FormatFromURI", "format {format}, because the model's name ends in {suffix}.", ""),
    ("RuntimeByFormat", "runtime {runtime}, because it serves {wanted} with the highest priority.", ""),
    ("RuntimeByName", "runtime {runtime}, because kubectl-serve.dev/runtime names it.", ""),
    ("RuntimeVariant", "runtime {runtime} in its variant for {wanted}, because the Deployment requests that.", ""),
    ("ServerKnown", "container {name} runs {server}.", ""),
    (
        "UserOfNamespace",
        "the pods get their user ID from the range of namespace {namespace}, so none is set.",
        "",
    ),
    (
        "RequestsInFront",
        "container {name} takes the requests, because it has the port. It reaches {server} at localhost:{port}.",
        "",
    ),
    ("PortFound", "port {port}, from {source}.", ""),
    (
        "ReadinessProbed",
        "container {name} gets a readiness probe: {path} on port {port}, the health check of {server}.",
        "",
    ),
    (
        "ArgumentsAppended",
        "container {name} gets the arguments of runtime {runtime}{without} in command; args follow them.",
        "",
    ),
    ("SeveralDevices", "{option}, because container {name} requests several devices.", ""),
    (
        "HubLayout",
        "container {name} finds {repository} by its name, in {cache}.",
        "",
    ),
    (
        "TokenForLoader",
        "the loader gets the token for the hub from key {key} of Secret {secret}, as container {name} does.",
        "",
    ),
    ("RuntimeCustom", "container {name} serves the model, because {why}.", ""),
    (
        "CompletedEarlier",
        "the Deployment keeps its recorded runtime and loader; `kubectl serve runtimes` shows newer ones.",
        "",
    ),
    ("ModelFromClaim", "PersistentVolumeClaim {claim} is mounted {how}; nothing is downloaded.", ""),
    (
        "ModelShared",
        "the first pod downloads the model to PersistentVolumeClaim {claim}; the others use it from there.",
        "",
    ),
    (
        "ModelFromImage",
        "the node pulls image {image}{secret}, and mounts its folder /{folder}; no pod downloads the model.",
        "",
    ),
    ("ModelByLoader", "init container model-loader downloads the model before the server starts.", ""),
    ("ModelOnNode", "the node cache mounts the model: the first pod of a node downloads it, the others use it.", ""),
    ("ModelNotOnNode", "init container model-loader downloads the model for each pod, because {why}.", ""),
    ("SizedByModel", "{storage} of ephemeral storage and a longer deadline, because the model has {size}.", ""),
    ("ModelPathIsFile", "the server loads {path}, because the URI names one file.", ""),
    ("MeshOptedOut", "no sidecar, because kubectl-serve.dev/mesh is none.", ""),
    ("MeshOutside", "no sidecar, because {why}.", ""),
    (
        "MeshAmbient",
        (
            "no sidecar, because the namespace is in ambient mode: the node's proxy carries the traffic, also the "
            "loader's."
        ),
        "",
    ),
    ("MeshSidecar", "a sidecar of Istio revision {revision}, because {why}.", ""),
    ("LoaderBehindSidecar", "a native sidecar, which starts before the loader, because {why}.", ""),
    (
        "LoaderPastSidecar",
        (
            "the loader runs as user 1337, so that Istio does not redirect its {what} to a sidecar that starts later: "
            "{why}."
        ),
        "",
    ),
    (
        "LoaderBeforeRedirect",
        (
            "the loader downloads before istio-init redirects traffic, without mTLS, because there is no native "
            "sidecar: {why}."
        ),
        "",
    ),
    ("CallersDirect", "requests bypass Knative's activator, because auth-callers needs the caller's identity.", ""),
    ("ServiceNamed", "Service {service}, because the name {name} is in use.", ""),
    (
        "ScaleForService",
        "scale {value}, because Service {service} selects the pods directly and cannot start them from zero.",
        "",
    ),
    ("DefaultByPolicy", "{key} is {value}, because policy {policy} sets this default.", ""),
    ("AdoptedByPolicy", "the model is {uri}, because policy {policy} adopts Deployments with label {label}.", ""),
)

_CONDITIONS = (
    # ModelLoaded, while and after the loader runs. Its own codes first.
    ("Loading", "the loader is downloading the model.", ""),
    ("Loaded", "the model is loaded.", ""),
    ("NotNeeded", "nothing to download: the model is mounted from a PersistentVolumeClaim.", ""),
    ("InvalidSource", "the loader cannot use the model URI.", "Correct kubectl-serve.dev/model."),
    (
        "Unauthorized",
        "the store denied access to the loader.",
        "Check the Secret that kubectl-serve.dev/credentials names, and its read permissions in the store.",
    ),
    ("NotFound", "the store does not have this model.", "Correct kubectl-serve.dev/model, or upload the model."),
    (
        "DigestMismatch",
        "the downloaded model does not match kubectl-serve.dev/digest.",
        "Correct the digest, or find out who changed the model.",
    ),
    (
        "NotSigned",
        "the model has no valid signature by the key of kubectl-serve.dev/signature-key.",
        "Restore the model that was signed, or sign it again.",
    ),
    (
        "NoFilesMatch",
        "no file of the model matches kubectl-serve.dev/files.",
        "Correct the patterns, or remove the annotation.",
    ),
    (
        "CannotVerify",
        "the loader cannot verify signatures.",
        "Check key.pub in the ConfigMap that kubectl-serve.dev/signature-key names.",
    ),
    ("Corrupted", "the downloaded data does not match the store's checksum.", "Upload the model again."),
    ("Refused", "the loader rejects this source.", "See the message for the rule that it violates."),
    ("NoSpace", "the model does not fit on the node's disk.", "Use nodes with larger disks, or a pvc:// model."),
    (
        "Unreachable",
        "the loader cannot reach the store.",
        "Check the host name, DNS and NetworkPolicies; the loader keeps retrying.",
    ),
    (
        "SidecarStartsLater",
        "Istio redirects the loader's traffic to a sidecar that starts after the loader.",
        (
            "Change any annotation, so that kubectl-serve completes the Deployment for Istio, or set "
            "kubectl-serve.dev/mesh to none."
        ),
    ),
    ("ServerError", "the store responds with errors.", "The loader keeps retrying; check the state of the store."),
    ("Stalled", "the download stalled.", "Check the network between the node and the store."),
    (
        "Changed",
        "the model changed during the download.",
        "Upload each version of a model under a new name; never overwrite one.",
    ),
    ("Interrupted", "the download was interrupted.", "The kubelet restarts it."),
    (
        "ImagePullFailed",
        "the node cannot pull an image.",
        "Check the image's name, and the pull secrets of the pod or of its service account.",
    ),
    ("PullingModel", "the node pulls the model's image.", ""),
    ("ModelPulled", "the node has the model's image.", ""),
    (
        "ModelNotPulled",
        "the node cannot pull the model's image.",
        (
            "Check kubectl-serve.dev/model, and that the Secret of kubectl-serve.dev/credentials has type "
            "kubernetes.io/dockerconfigjson. If it is not an image, or the Secret is of another type, set "
            "kubectl-serve.dev/cache to none: the loader then downloads it."
        ),
    ),
    (
        "ModelNotMounted",
        "the node cannot mount the folder /{folder} of the model's image.",
        (
            "Put the model into that folder of the image. If it is not an image, set kubectl-serve.dev/cache to none: "
            "the loader then downloads it."
        ),
    ),
    ("OutOfMemory", "a container ran out of memory.", "Increase its memory limit."),
    (
        "SecretNotFound",
        "Secret {secret} does not exist.",
        (
            "Create it: `kubectl create secret generic {secret} -n {namespace} --from-env-file=FILE` (for S3: "
            "AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; docs/loader.md lists others). The pod then starts "
            "automatically."
        ),
    ),
    (
        "ConfigMapNotFound",
        "ConfigMap {config_map} does not exist.",
        (
            "Create it: `kubectl create configmap {config_map} -n {namespace} --from-file=FILE`. The pod then starts "
            "automatically."
        ),
    ),
    ("NotStarted", "the node cannot start the pod.", "The kubelet keeps retrying."),
    ("Unschedulable", "no node can run the pod.", "Lower the resource requests, or add a node."),
    (
        "LoaderCrashed",
        "the loader exited without giving a reason.",
        "Run `kubectl serve logs {name} -n {namespace} -c loader`.",
    ),
    # Prefetched, beside the codes of ModelLoaded.
    ("Prefetching", "the nodes load the model before pods need it.", ""),
    ("Prefetched", "the nodes have loaded the model.", ""),
    (
        "PrefetchRefused",
        "the cluster refuses the pods that load the model on nodes.",
        "See the message: a ResourceQuota, a LimitRange or a policy applies to them as to the model's pods.",
    ),
    (
        "PrefetchEnded",
        "not all nodes loaded the model within an hour, and kubectl-serve has stopped.",
        "Run `kubectl serve cache prefetch {name} -n {namespace}` to try again.",
    ),
    (
        "PrefetchNotPossible",
        "nodes cannot keep this model: each pod downloads it.",
        "Run `kubectl serve describe {name} -n {namespace}`, which shows why.",
    ),
    # PolicyCompliant.
    ("Compliant", "the Deployment complies with every policy that applies to it.", ""),
    ("PolicyViolated", "{found}.", "Run `kubectl serve policy explain {name} -n {namespace}`."),
    # Ready.
    ("Ready", "the model is ready for requests.", ""),
    ("Registered", "the model is accepted, and not started: it starts with the first request.", ""),
    ("Progressing", "waiting for the Knative Service.", ""),
    ("ModelNotLoaded", "the model is not loaded.", "See the condition kubectl-serve.dev/ModelLoaded."),
    ("ServerCrashed", "the model server keeps crashing.", "Run `kubectl serve logs {name} -n {namespace}`."),
    ("ServiceNotReady", "the Knative Service is not ready.", "Run `kubectl describe ksvc {name} -n {namespace}`."),
    ("RevisionFailed", "the latest revision is not ready.", "Run `kubectl serve describe {name} -n {namespace}`."),
    (
        "DomainNotClaimed",
        "namespace {namespace} has no ClusterDomainClaim for the host name {domain}.",
        (
            "Create a ClusterDomainClaim {domain} for the namespace, or set autocreate-cluster-domain-claims in "
            "ConfigMap config-network."
        ),
    ),
    (
        "DomainNotReady",
        "the model is ready, but not under {domain}.",
        "Run `kubectl describe domainmapping {domain} -n {namespace}`.",
    ),
    (
        "NameTaken",
        "the {kind} {name} exists already, and kubectl-serve does not own it.",
        "Delete it, or choose another name for the Deployment (for a DomainMapping: another host name).",
    ),
    (
        "Unreadable",
        "the server cannot read the {kind} {name}.",
        "See the message; correct or delete the object. The server reads it again when it changes.",
    ),
    (
        "Defect",
        "the server failed on this Deployment with {error}, and keeps retrying.",
        "Report this defect, with the lines of the server's log for this Deployment.",
    ),
    ("NotAccepted", "the API server rejects the {kind} {name}.", "See the message; correct the Deployment."),
    (
        "KnativeMissing",
        "the cluster has no Knative Serving.",
        "Install Knative Serving; kubectl-serve then creates the Knative Service.",
    ),
)

_POLICIES = (
    # What a rule finds stands in its own module, serve_core/policy/rules.
    ("PolicyUnreadable", "policy {policy} cannot be read: {why}.", "Ask the author of the policy."),
    # Documents of policies themselves.
    ("InvalidPolicy", "{why}.", "Compare the object with `kubectl explain {kind}.spec`."),
    ("ExceptionElsewhere", "an exception has an effect only in namespace {namespace}.", "Create it there."),
)

CATALOGUE: dict[str, Reason] = {
    code: Reason(code, kind, sentence, hint)
    for kind, rows in (
        (Kind.REFUSAL, _REFUSALS),
        (Kind.WARNING, _WARNINGS),
        (Kind.CHOICE, _CHOICES),
        (Kind.CONDITION, _CONDITIONS),
        (Kind.POLICY, _POLICIES),
    )
    for code, sentence, hint in rows
}


def _one_line(text: str) -> str:
    """Text of an object cannot fake another line of a message, or change the terminal's direction or colour."""
    return text if text.isprintable() else inline(" ".join(text.split()))


def quote(text: object) -> str:
    """A user's text for a message: in quotes, on one line, visible, limited in length."""
    plain = _cut(text, _LONGEST_QUOTE)
    if plain.isprintable() and '"' not in plain:
        return f'"{plain}"'
    return '"' + "".join(c if c.isprintable() and c != '"' else ascii(c)[1:-1] for c in plain) + '"'


_LONGEST_MEANT = 64
"""Characters of a word that is compared with known words."""


def meant(word: str, known: Iterable[str]) -> str:
    """``Did you mean …? `` with the words of ``known`` that resemble or contain ``word``; empty if there are none."""
    import difflib  # only a mistake pays for it  # noqa: PLC0415

    lowered = word[:_LONGEST_MEANT].strip().lower()
    names = {each.lower(): each for each in known}
    near = [lowered] if lowered in names else difflib.get_close_matches(lowered, names, n=2, cutoff=0.7)
    near = near or [each for each in names if len(lowered) > 2 and lowered in each][:2]
    return f"Did you mean {' or '.join(names[each] for each in near)}? " if near else ""


def _filled(template: str, words: Mapping[str, object]) -> str:
    """``template`` with its words. Between backticks is a shell command, where each word is quoted."""
    in_command = {name: shlex.quote(str(word)) for name, word in words.items()} if "`" in template else words
    parts = enumerate(template.split("`"))
    return "`".join(part.format(**(in_command if index % 2 else words)) for index, part in parts)


def step(text: object) -> str:
    """A user's name as a step of a path: like :func:`quote`, without the quotes."""
    return quote(text)[1:-1]


def capped(problems: Iterable[Diagnostic]) -> list[Diagnostic]:
    """The first of ``problems``, one more than are reported. Later problems of a lazy iterable are never created."""
    return list(islice(problems, MAX_PROBLEMS + 1))


def diagnostic(reason: str | Reason, path: str, /, **words: object) -> Diagnostic:
    """The refusal or warning ``reason``, given by its code or itself, about ``path``.

    ``words`` fill the sentence and the hint; long words are cut.
    """
    known = CATALOGUE[reason] if isinstance(reason, str) else reason
    sentence, hint = _rendered(known, words)
    return Diagnostic(_cut(path, _LONGEST_PATH), known.code, sentence, hint)


def explanation(code: str, **words: object) -> Explanation:
    """The choice ``code`` with its reason."""
    return Explanation(code, _rendered(CATALOGUE[code], words)[0])


def condition_message(code: str, **words: object) -> str:
    """The message of a condition with reason ``code``: its sentence and its hint."""
    return " ".join(filter(None, _rendered(CATALOGUE[code], words)))


def _rendered(reason: Reason, words: Mapping[str, object]) -> tuple[str, str]:
    """Sentence and hint with their words."""
    bounded = {name: _cut(word, _LONGEST_WORD) for name, word in words.items()}
    return _filled(reason.sentence, bounded), _filled(reason.hint, bounded)


def _cut(text: object, longest: int) -> str:
    plain = str(text)
    return plain if len(plain) <= longest else plain[:longest] + "…"
