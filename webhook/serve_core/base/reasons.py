"""The catalogue of everything that kubectl-serve says to a user: refusals, warnings, choices and condition reasons.

Each has a code, a sentence and, where there is something to do, a hint. Words in braces are filled in by the caller.
A message is made from here or it is not made: the documentation and the tests are checked against :data:`CATALOGUE`.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

from serve_core.base.escaping import inline

MOST_PROBLEMS = 100
"""Of one object that are said; nobody reads more, and each takes time to make."""
_LONGEST_QUOTE = 200
"""Characters of a user's own text that a message repeats."""
_LONGEST_PATH = 500
_LONGEST_WORD = 2_000
"""Characters of what fills one place of a sentence, such as a list of everything that is allowed."""


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
    """A refusal or a warning about one place of an object."""

    path: str
    code: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return _one_line(f"{self.code}: {self.path}: {self.message}" + (f" {self.hint}" if self.hint else ""))


@dataclass(frozen=True, order=True)
class Explanation:
    """What was chosen for the user, and why."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


_REFUSALS = (
    # The annotations.
    ("UnknownAnnotation", "{key} is not an annotation of kubectl-serve.", "{nearest}"),
    ("InvalidAnnotation", "{value} is not a {what}.", "{meant}Allowed: {allowed}."),
    ("OrphanAnnotation", "{key} means nothing without a model.", "Add kubectl-serve.dev/model, or remove it."),
    ("ConflictingAnnotations", "{one} and {other} exclude each other: {why}.", "Remove one of them."),
    ("MissingAnnotation", "{one} means nothing without {other}.", "Add {other}, or remove it."),
    # The model's URI.
    ("InvalidModelURI", "{value} is not a model URI: {why}.", "Write it as {example}."),
    ("UnknownScheme", "{scheme} is not a scheme that models are loaded from.", "{meant}Allowed: {allowed}."),
    (
        "SecretInURI",
        "the model URI carries a secret ({what}).",
        "Put it into a Secret and name that in kubectl-serve.dev/credentials.",
    ),
    # The choice of the model server.
    (
        "FormatUnknown",
        "the format of the model cannot be told from its URI.",
        "{meant}Add kubectl-serve.dev/format (known: {formats}), or write a container of your own.",
    ),
    (
        "NoRuntime",
        "no runtime serves {wanted}.",
        "Known: {known}. For another model server write its container into the Deployment.",
    ),
    ("UnknownRuntime", "there is no runtime {name}.", "{meant}Known: {known}."),
    (
        "ContainerMissing",
        "runtime custom needs a container of your own, and the Deployment has none.",
        "Add spec.template.spec.containers, or remove kubectl-serve.dev/runtime.",
    ),
    (
        "ContainerAmbiguous",
        "it cannot be told which of the containers {names} serves the model.",
        "Name one of them model-server, or give ports to that one alone.",
    ),
    (
        "ImageMissing",
        "container {name} has no image.",
        "Add one, or remove the container so that a runtime is chosen.",
    ),
    # The mesh.
    (
        "MeshMissing",
        "there is no Istio in this cluster that could take the model into its mesh.",
        "Remove this annotation, or have Istio installed.",
    ),
    (
        "MeshForbidden",
        "the pods would get no sidecar: {why}.",
        "Change that, or set kubectl-serve.dev/mesh to auto.",
    ),
    (
        "MeshRevisionAmbiguous",
        "it cannot be told which revision of Istio is meant.",
        "Add label istio.io/rev to the namespace or to spec.template.metadata.labels (known: {names}).",
    ),
    (
        "LoaderBlocked",
        "the loader could not download behind the sidecar: {why}, and on OpenShift the sidecar's user is not known.",
        "Have Istio 1.24 and kubelets 1.29 or newer, use a pvc:// model, or set kubectl-serve.dev/mesh to none.",
    ),
    (
        "StoreNotRegistered",
        "the mesh lets pods reach only hosts that it knows (outboundTrafficPolicy REGISTRY_ONLY), and {host} is none.",
        "Ask for a ServiceEntry of host {host} that namespace {namespace} sees.",
    ),
    (
        "ProbesBlocked",
        "Knative's probes would end at the sidecar, and the model would never be ready.",
        'Set it to "true", or remove it.',
    ),
    # Who may call.
    (
        "NeedsSidecar",
        "nothing would come of it: {why}.",
        "Set kubectl-serve.dev/mesh to istio, or label the namespace istio-injection=enabled.",
    ),
    (
        "PastSidecar",
        "{what} can lead past Istio's sidecar, by which {by} is enforced.",
        "Remove it.",
    ),
    (
        "IssuerNotPublic",
        "Istio would fetch keys from {issuer}, and that is not a public https:// address.",
        "Write https:// and a public host name, or name the keys in kubectl-serve.dev/auth-jwks.",
    ),
    (
        "KnativeOutsideMesh",
        "the sidecar would turn away Knative's autoscaler and activator, which are not in the mesh.",
        "Ask for `kubectl label ns knative-serving istio-injection=enabled` and a restart of what runs there.",
    ),
    (
        "CallersNeedReplica",
        "the callers would be hidden by Knative's activator, which stands in for a model that scales to zero.",
        "Set kubectl-serve.dev/scale to at least 1, for example 1..5.",
    ),
    (
        "AdoptedModelInvalid",
        "policy {policy} makes a model URI of this label that cannot be used: {why}.",
        "Correct the label, or remove it.",
    ),
    ("NameReserved", "{what} {name} is kubectl-serve's own.", "Choose another name."),
    # The object as a whole.
    ("InvalidObject", "{why}.", "Compare it with `kubectl explain deployment`."),
    (
        "TooLarge",
        "it is too large: {why}.",
        "Move what is large in it into a ConfigMap, or remove it.",
    ),
    (
        "NothingToGiveBack",
        "without the model annotation the Deployment has no container to run, or one that has no image.",
        "Delete it, or write a container with its image in the same change.",
    ),
    (
        "InvalidServiceName",
        "{name} cannot be the name of a Service.",
        "Use at most 63 lower-case letters, digits and hyphens, beginning with a letter.",
    ),
    (
        "PortByName",
        "Service {service} finds port {port} by its name, which Knative changes: its clients would lose the model.",
        "Give that Service's targetPort as a number first.",
    ),
    # Fields that a Knative Service cannot carry.
    ("FieldUnsupported", "a Knative Service cannot carry it: {why}.", "{way_out}"),
    (
        "FeatureDisabled",
        "Knative's feature flag {flag} is {state}.",
        'Ask for `kubectl patch cm/config-features -n knative-serving -p \'{{"data":{{"{flag}":"enabled"}}}}\'`.',
    ),
    (
        "Parked",
        "the Deployment is served by Knative, which decides how many replicas run.",
        "Set the annotation kubectl-serve.dev/scale instead, for example 1..5.",
    ),
)

_WARNINGS = (
    ("NameInTheWay", "Service {taken} is in the way; the model is served as Service {service}.", ""),
    (
        "PastKnative",
        "Service {service} finds the pods past Knative, and cannot wake them from zero.",
        "A canary does not count for its clients either: have them use the model's URL.",
    ),
    (
        "CompletedAgain",
        "the runtime and the loader that it was completed with are not known any more; those of now take their place.",
        "",
    ),
    (
        "KnownImage",
        "this is the image of runtime {runtime}, and the container gets none of its arguments, environment and probes.",
        "Add annotation kubectl-serve.dev/runtime: {runtime}. If you meant a server of your own, write custom.",
    ),
    ("FieldIgnored", "it has no meaning for a Knative Service and is left out: {why}.", ""),
    (
        "StoreMayBeUnregistered",
        "the mesh lets pods reach only hosts that it knows (outboundTrafficPolicy REGISTRY_ONLY).",
        "Make sure that a ServiceEntry covers the store of {scheme}:// for namespace {namespace}.",
    ),
    (
        "GatewayCounts",
        "Knative's gateway and activator are workloads of the mesh: who reaches them reaches the model.",
        "Add kubectl-serve.dev/auth-callers, or use auth jwt.",
    ),
    (
        "NotAdopted",
        "no policy adopts Deployments of namespace {namespace}, so no model is served.",
        "Add kubectl-serve.dev/model, or remove the label.",
    ),
    ("AnyAudience", "every token of the issuer is good, also one meant for others.", "Add {key}."),
    ("Excepted", "{by} does not count until {until}, by exception {exception}: {reason} ({ticket}).", ""),
    (
        "ExceptionOfNothing",
        "the exception names {what}, and there is none now.",
        "Correct the name: `kubectl get servingpolicy -o yaml` shows them. Or make what it names.",
    ),
)

_CHOICES = (
    ("FormatFromHub", "format huggingface, because the model comes from a Hugging Face hub.", ""),
    ("FormatFromURI", "format {format}, because the model's name ends in {suffix}.", ""),
    ("RuntimeByFormat", "runtime {runtime}, because it serves {wanted} with the highest priority.", ""),
    ("RuntimeByName", "runtime {runtime}, because the annotation says so.", ""),
    ("RuntimeVariant", "runtime {runtime} in its variant for {wanted}, because that is asked for.", ""),
    ("RuntimeWithoutVariant", "runtime {runtime} as for any node: it has no variant for {wanted}.", ""),
    ("RuntimeCustom", "container {name} serves the model, because {why}.", ""),
    (
        "CompletedEarlier",
        "runtime and loader stay as they were at first; `kubectl serve runtimes` shows what has changed since.",
        "",
    ),
    ("ModelFromClaim", "claim {claim} is mounted read-only; nothing is downloaded.", ""),
    ("ModelByLoader", "init container model-loader downloads the model before the server starts.", ""),
    ("SizedByModel", "{storage} of the node's disk and time to download it, because the model has {size}.", ""),
    ("ModelPathIsFile", "the server is pointed at {path}, because the URI names one file.", ""),
    ("MeshOptedOut", "no sidecar, because kubectl-serve.dev/mesh is none.", ""),
    ("MeshOutside", "no sidecar, because {why}.", ""),
    (
        "MeshAmbient",
        "the node's proxy carries the traffic, because the namespace is ambient; the loader needs nothing.",
        "",
    ),
    ("MeshSidecar", "a sidecar of Istio's revision {revision}, because {why}.", ""),
    ("LoaderBehindSidecar", "the sidecar starts before the loader, as a native one, because {why}.", ""),
    (
        "LoaderPastSidecar",
        "the loader runs as user 1337, whose {what} not redirected, because the sidecar starts after it: {why}.",
        "",
    ),
    (
        "LoaderBeforeRedirect",
        "the loader downloads before istio-init redirects traffic, in plain text, without a native sidecar: {why}.",
        "",
    ),
    ("CallersDirect", "Knative's activator is kept out of the way, because auth-callers needs to see who calls.", ""),
    ("ServiceNamed", "Service {service}, because the name {name} was taken.", ""),
    (
        "ScaleForService",
        "scale {value}, because Service {service} leads to the pods past Knative, which could not wake them for it.",
        "",
    ),
    ("ScaleDefault", "scales from zero without an upper bound, because there is no scale annotation.", ""),
    ("DefaultByPolicy", "{key} is {value}, because policy {policy} says so.", ""),
    ("AdoptedByPolicy", "the model is {uri}, because policy {policy} adopts Deployments with label {label}.", ""),
)

_CONDITIONS = (
    # ModelLoaded, while and after the loader runs. Its own codes first.
    ("Loading", "the model is being downloaded.", ""),
    ("Loaded", "the model is loaded.", ""),
    ("NotNeeded", "nothing is downloaded: the model is mounted from a claim.", ""),
    ("InvalidSource", "the loader cannot use the model URI.", "Correct kubectl-serve.dev/model."),
    (
        "Unauthorized",
        "the store refuses the loader.",
        "Check the Secret that kubectl-serve.dev/credentials names, and what it may read.",
    ),
    ("NotFound", "the store has no such model.", "Correct kubectl-serve.dev/model, or upload the model."),
    (
        "DigestMismatch",
        "what was downloaded is not what kubectl-serve.dev/digest promises.",
        "Correct the digest, or find out who changed the model.",
    ),
    (
        "NotSigned",
        "the model is not what was signed with the key of kubectl-serve.dev/signature-key.",
        "Serve the model as it was signed, or sign it again.",
    ),
    (
        "CannotVerify",
        "the loader cannot verify signatures.",
        "Check the key.pub of the ConfigMap that kubectl-serve.dev/signature-key names.",
    ),
    ("Corrupted", "what arrived does not match the store's own checksum.", "Upload the model again."),
    ("Refused", "the loader refuses this source.", "See the message for the rule."),
    ("NoSpace", "the model does not fit on the node's disk.", "Give the node more disk, or use a pvc:// model."),
    (
        "Unreachable",
        "the store cannot be reached.",
        "Check the host, DNS and network policies; the loader goes on trying.",
    ),
    (
        "SidecarStartsLater",
        "Istio redirects the loader's traffic to a sidecar that starts after it.",
        "Change any annotation, so that it is completed for Istio; or set kubectl-serve.dev/mesh to none.",
    ),
    ("ServerError", "the store answers with errors.", "The loader goes on trying; look at the store's own state."),
    ("Stalled", "the download stalled.", "Check the network between the node and the store."),
    ("Changed", "the model changed while it was downloaded.", "Upload models under a new name, never over an old one."),
    ("Interrupted", "the download was interrupted.", "The kubelet starts it again."),
    ("ImagePullFailed", "an image cannot be pulled.", "Check its name, and the pull secrets of the service account."),
    ("OutOfMemory", "a container ran out of memory.", "Raise its memory limit."),
    (
        "SecretNotFound",
        "there is no Secret {secret}.",
        (
            "Create it: `kubectl create secret generic {secret} -n {namespace} --from-env-file=FILE` (for S3: "
            "AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; docs/loader.md has others). The pod then starts by "
            "itself."
        ),
    ),
    (
        "ConfigMapNotFound",
        "there is no ConfigMap {config_map}.",
        "Create it: `kubectl create configmap {config_map} -n {namespace} --from-file=FILE`; the pod goes on.",
    ),
    ("NotStarted", "the node cannot start the pod.", "It goes on trying."),
    ("Unschedulable", "no node can take the pod.", "Lower the resource requests, or add a node."),
    (
        "LoaderCrashed",
        "the loader ended without saying why.",
        "Read `kubectl serve logs {name} -n {namespace} -c loader`.",
    ),
    # PolicyCompliant.
    ("Compliant", "it keeps every policy that is about it.", ""),
    ("PolicyViolated", "{found}.", "Read `kubectl serve policy explain {name} -n {namespace}`."),
    # Ready.
    ("Ready", "the model answers.", ""),
    ("Progressing", "waiting for the Knative Service.", ""),
    ("ModelNotLoaded", "the model is not loaded.", "See the condition kubectl-serve.dev/ModelLoaded."),
    ("ServerCrashed", "the model server ends again and again.", "Read `kubectl serve logs {name} -n {namespace}`."),
    ("ServiceNotReady", "the Knative Service is not ready.", "Read `kubectl describe ksvc {name} -n {namespace}`."),
    ("RevisionFailed", "the newest revision is not ready.", "Read `kubectl serve describe {name} -n {namespace}`."),
    (
        "DomainNotClaimed",
        "namespace {namespace} has no claim to the host name {domain}.",
        "Make a ClusterDomainClaim of that name for it, or set autocreate-cluster-domain-claims in config-network.",
    ),
    (
        "DomainNotReady",
        "the model answers, but not under {domain}.",
        "Read `kubectl describe domainmapping {domain} -n {namespace}`.",
    ),
    (
        "NameTaken",
        "there is a {kind} {name} that is not ours.",
        "Delete it, or choose another name: the Deployment's, or the host name that a DomainMapping is named after.",
    ),
    (
        "Unreadable",
        "the {kind} {name} cannot be read.",
        "See the message; correct it, or delete it: it is looked at again as soon as it changes.",
    ),
    (
        "Defect",
        "the server fails on this Deployment, with {error}, and goes on trying.",
        "Report it with what the server's log says of the Deployment.",
    ),
    ("NotAccepted", "the API server refuses the {kind} {name}.", "See the message; correct the Deployment."),
    (
        "KnativeMissing",
        "the cluster has no Knative Serving.",
        "Install it; the Knative Service is made as soon as it can.",
    ),
)

_POLICIES = (
    # What a rule finds stands in its own module, serve_core/policy/rules.
    ("PolicyUnreadable", "policy {policy} cannot be read: {why}.", "Ask whoever wrote the policy."),
    # Documents of policies themselves.
    ("InvalidPolicy", "{why}.", "Compare it with `kubectl explain {kind}.spec`."),
    ("ExceptionElsewhere", "an exception counts only in namespace {namespace}.", "Create it there."),
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
    """No text of an object may look like another line of a refusal, or turn the terminal's direction or colour."""
    return text if text.isprintable() else inline(" ".join(text.split()))


def quote(text: object) -> str:
    """A user's own text as a message may repeat it: on one line, visible, bounded."""
    plain = _cut(text, _LONGEST_QUOTE)
    if plain.isprintable() and '"' not in plain:
        return f'"{plain}"'
    return '"' + "".join(c if c.isprintable() and c != '"' else ascii(c)[1:-1] for c in plain) + '"'


_LONGEST_MEANT = 64
"""Characters of a word for which something like it is looked for."""


def meant(word: str, known: Iterable[str]) -> str:
    """``Did you mean …? `` with those of ``known`` that are spelt like ``word`` or hold it; empty if none is."""
    import difflib  # only a mistake pays for it  # noqa: PLC0415

    lowered = word[:_LONGEST_MEANT].strip().lower()
    names = {each.lower(): each for each in known}
    near = [lowered] if lowered in names else difflib.get_close_matches(lowered, names, n=2, cutoff=0.7)
    near = near or [each for each in names if len(lowered) > 2 and lowered in each][:2]
    return f"Did you mean {' or '.join(names[each] for each in near)}? " if near else ""


def _filled(template: str, words: Mapping[str, object]) -> str:
    """``template`` with its words. Between backticks is a command for a shell: there each is one plain word."""
    in_command = {name: shlex.quote(str(word)) for name, word in words.items()} if "`" in template else words
    parts = enumerate(template.split("`"))
    return "`".join(part.format(**(in_command if index % 2 else words)) for index, part in parts)


def step(text: object) -> str:
    """A user's own name as a step of a path: like :func:`quote`, without the quotes."""
    return quote(text)[1:-1]


def capped(problems: Iterable[Diagnostic]) -> list[Diagnostic]:
    """The first of ``problems``, one more than are said; the others are not even made where they are found lazily."""
    return list(islice(problems, MOST_PROBLEMS + 1))


def diagnostic(reason: str | Reason, path: str, /, **words: object) -> Diagnostic:
    """The refusal or warning ``reason``, by its code in the catalogue or itself, about ``path``. ``words`` fill the
    sentence and the hint, each cut where it is too long."""
    known = CATALOGUE[reason] if isinstance(reason, str) else reason
    sentence, hint = _said(known, words)
    return Diagnostic(_cut(path, _LONGEST_PATH), known.code, sentence, hint)


def explanation(code: str, **words: object) -> Explanation:
    """The choice ``code``, said with its reason."""
    return Explanation(code, _said(CATALOGUE[code], words)[0])


def condition_message(code: str, **words: object) -> str:
    """The message of a condition with reason ``code``: its sentence and its hint."""
    return " ".join(filter(None, _said(CATALOGUE[code], words)))


def _said(reason: Reason, words: Mapping[str, object]) -> tuple[str, str]:
    """Sentence and hint with their words."""
    bounded = {name: _cut(word, _LONGEST_WORD) for name, word in words.items()}
    return _filled(reason.sentence, bounded), _filled(reason.hint, bounded)


def _cut(text: object, longest: int) -> str:
    plain = str(text)
    return plain if len(plain) <= longest else plain[:longest] + "…"
