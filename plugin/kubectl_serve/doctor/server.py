"""kubectl-serve's server: whether it is installed, answers, and has its permissions."""

import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from shlex import quote
from typing import TYPE_CHECKING, Any

from kubectl_serve import __version__
from kubectl_serve.doctor.evidence import CERTIFICATES, SERVER, Evidence, Right, certificate_secret
from kubectl_serve.doctor.finding import CheckResult, failed, ok, skipped, unseen, warning
from kubectl_serve.doctor.platform import available, is_local, loader_image
from kubectl_serve.install import manifests
from kubectl_serve.install.helm import release_of
from kubectl_serve.install.probe import UNASKED
from serve_core.base.constants import NAMESPACE
from serve_core.base.json import JsonObject, value_at
from serve_core.context import istio
from serve_core.syntax import image_reference

if TYPE_CHECKING:
    from cryptography import x509

_RESTART = f"kubectl rollout restart deployment/{SERVER} -n {NAMESPACE}"
_MAX_NODE_IMAGES = 50
"""Maximum images in a node's status, its largest (the kubelet's ``nodeStatusMaxImages``)."""
_SOON = timedelta(days=7)
"""A certificate that ends within this time should have been renewed."""


def checks(evidence: Evidence) -> Iterator[CheckResult]:
    again = install(evidence)
    if evidence.server is None:
        yield unseen("server-installed", f"the Deployments of {NAMESPACE}")
    elif not evidence.server:
        yield failed("server-installed", f"there is no Deployment {SERVER} in namespace {NAMESPACE}.", again)
    else:
        yield _version(evidence.server, again)
        yield _running(evidence.server)
    wanted = {each["kind"]: each for each in manifests.all_objects()}
    yield _webhook("server-mutating-webhook", evidence.mutating, wanted["MutatingWebhookConfiguration"], again)
    yield _webhook("server-validating-webhook", evidence.validating, wanted["ValidatingWebhookConfiguration"], again)
    yield _certificates(evidence)
    yield _answers(evidence, again)
    yield _mine(evidence.my_rights)
    yield _servers(evidence)
    yield _loader_image(evidence)
    if signing := loader_image(evidence, verifying=True):
        yield _on_a_node("loader-signing-image", signing, evidence, warning, ": no model with signature-key is loaded")


def install(evidence: Evidence) -> str:
    """The command that installs everything again, with the present registry."""
    if release := release_of(evidence.server):
        return release.upgrade
    command = "kubectl serve install"
    image = image_reference.parse_or_none(_image(evidence.server) if evidence.server else loader_image(evidence))
    if image is None:
        return command
    registry = "/".join((image.registry, *image.path[:-1]))
    if registry != manifests.PREFIX:
        command += f" --registry {quote(registry)}"
    if image.tag and not _is_release(image.tag):
        command += f" --tag {quote(image.tag)}"
    return command


def _image(server: JsonObject) -> str:
    containers = value_at(server, "spec", "template", "spec", "containers") or [{}]
    return str(containers[0].get("image", ""))


def _is_release(tag: str) -> bool:
    """A tag that is not a version is a custom build."""
    return re.fullmatch(r"v?[0-9]+\.[0-9]+\.[0-9]+", tag) is not None


def _version(server: JsonObject, again: str) -> CheckResult:
    image = image_reference.parse_or_none(_image(server))
    tag = image.tag or "" if image else ""
    if tag != __version__ and _is_release(tag):
        return warning("server-installed", f"the server's image is {tag}, and this command is {__version__}.", again)
    return ok("server-installed", f"version {tag} is installed.")


def _running(server: JsonObject) -> CheckResult:
    running, wanted = available(server), int((server.get("spec") or {}).get("replicas", 1))
    if wanted == 0:
        fix = f"kubectl scale deployment/{SERVER} -n {NAMESPACE} --replicas=2"
        return failed("server-running", "the server is scaled to zero: no model can be created or changed.", fix)
    if not running:
        fix = f"kubectl describe pods -n {NAMESPACE} -l app.kubernetes.io/name={SERVER}"
        return failed("server-running", "no pod of the server is ready.", fix)
    if running < min(wanted, 2):
        return warning(
            "server-running",
            f"{running} of {wanted} pods of the server is ready: a restart stops admission.",
            f"kubectl describe pods -n {NAMESPACE} -l app.kubernetes.io/name={SERVER}",
        )
    return ok("server-running", f"{running} of {wanted} pods of the server are ready.")


def _webhook(check: str, found: JsonObject | None, wanted: JsonObject, again: str) -> CheckResult:
    """Compares a webhook configuration with the manifests, where a difference would skip models or stop other
    objects."""
    kind = check.removeprefix("server-").replace("-", " ")
    if found is None:
        return unseen(check, "webhook configurations")
    if not found:
        return failed(check, f"the {kind} {SERVER} is missing.", again)
    live = {hook["name"]: hook for hook in found.get("webhooks") or []}
    for hook in wanted["webhooks"]:
        name = hook["name"]
        if name not in live:
            return failed(check, f"{name} is missing from it.", again)
        policy = live[name].get("failurePolicy")
        # If it is not in the manifests, the leader sets it by the policies.
        if policy != hook.get("failurePolicy", policy):
            return failed(check, f"{name} has failurePolicy {policy} instead of {hook['failurePolicy']}.", again)
        if "matchConditions" in hook and not live[name].get("matchConditions"):
            return failed(check, f"{name} has no matchConditions: it is called for every object.", again)
    return ok(check, f"the {kind} is as installed.")


def _bundle(configuration: JsonObject | None) -> set[str]:
    return {
        str(value_at(hook, "clientConfig", "caBundle") or "") for hook in (configuration or {}).get("webhooks") or []
    }


def _certificates(evidence: Evidence) -> CheckResult:
    """Whether the API server trusts the server's certificate, and for how long."""
    from cryptography import x509

    check = "server-certificates"
    if evidence.mutating is None or evidence.validating is None:
        return unseen(check, "webhook configurations")
    bundles = _bundle(evidence.mutating) | _bundle(evidence.validating)
    if not bundles:
        return skipped(check, "there are no webhooks.")
    try:
        authorities = {text: x509.load_pem_x509_certificates(b64decode(text)) for text in bundles}
    except ValueError:
        return failed(check, "the caBundle of a webhook cannot be read.", _RESTART)
    now, secret = datetime.fromtimestamp(evidence.now, UTC), certificate_secret(evidence.server)
    renew = _RESTART if secret == CERTIFICATES else f"Renew the certificate in Secret {secret} and its authority."
    for authority in (each for found in authorities.values() for each in found):
        late = _late(authority, now, "the certificate authority", renew)
        if late:
            return late
    if evidence.secret is None:
        return ok(check, "the webhooks trust a valid certificate authority; you are not allowed to see its Secret.")
    if not evidence.secret:
        return failed(check, f"there is no Secret {secret} in namespace {NAMESPACE}.", renew)
    data: Mapping[str, Any] = evidence.secret.get("data") or {}
    try:
        chain = x509.load_pem_x509_certificates(b64decode(data["tls.crt"]))
    except (KeyError, ValueError):
        fix = f"kubectl delete secret {secret} -n {NAMESPACE}" if secret == CERTIFICATES else renew
        return failed(check, "the certificate in the Secret cannot be read.", fix)
    leaf = chain[0]
    late = _late(leaf, now, "the server's certificate", renew)
    if late:
        return late
    path = list(_path(chain))
    if not all(any(_signed(each, authority) for each in path for authority in found) for found in authorities.values()):
        return failed(check, "a webhook does not trust the server's certificate.", renew)
    return ok(check, f"the server's certificate is trusted, and valid until {leaf.not_valid_after_utc:%Y-%m-%d}.")


def _path(chain: Sequence["x509.Certificate"]) -> Iterator["x509.Certificate"]:
    """The certificate, and the intermediate authorities behind it."""
    yield chain[0]
    for certificate, signer in pairwise(chain):
        if not _signed(certificate, signer):
            return
        yield signer


def _late(certificate: "x509.Certificate", now: datetime, what: str, renew: str) -> CheckResult | None:
    end = certificate.not_valid_after_utc
    if now >= end:
        return failed("server-certificates", f"{what} has expired on {end:%Y-%m-%d}.", renew)
    if now >= end - _SOON:
        return warning("server-certificates", f"{what} expires on {end:%Y-%m-%d}, and was not renewed.", renew)
    return None


def _signed(leaf: "x509.Certificate", authority: "x509.Certificate") -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _answers(evidence: Evidence, again: str) -> CheckResult:
    if evidence.mutating == {}:
        return skipped("server-answers", "there is no webhook to test.")
    if evidence.probe is None:
        where = f"in namespace {evidence.namespace}"
        return skipped(
            "server-answers", f"you are not allowed to create Deployments {where}, so the webhook was not tested."
        )
    if evidence.probe:
        fix = again if evidence.probe == UNASKED else _RESTART
        return failed("server-answers", f"the webhook does not complete a Deployment: {evidence.probe}", fix)
    return ok("server-answers", "the webhook completes a Deployment.")


def _missing(rights: Mapping[Right, bool]) -> list[str]:
    return [str(right) for right, allowed in rights.items() if not allowed]


def _mine(rights: Mapping[Right, bool] | None) -> CheckResult:
    if rights is None:
        return unseen("rights-mine", "your permissions")
    missing = _missing(rights)
    if missing:
        return warning(
            "rights-mine", f"you are not allowed to {', '.join(missing)}.", "Ask the cluster administrator for it."
        )
    return ok("rights-mine", "you can serve models in this namespace.")


def _servers(evidence: Evidence) -> CheckResult:
    if not evidence.server_rights:
        return unseen("rights-server", "the server's permissions")
    if evidence.server == {}:
        return skipped("rights-server", "there is no server.")
    # Without Istio, its namespace has nothing to read; with Istio, the mesh checks cover it.
    rights = {right: may for right, may in evidence.server_rights.items() if right.namespace != istio.NAMESPACE}
    missing = _missing(rights)
    if missing:
        more = f", and {len(missing) - 3} more" if len(missing) > 3 else ""
        return failed(
            "rights-server", f"the server is not allowed to {', '.join(missing[:3])}{more}.", install(evidence)
        )
    return ok("rights-server", f"the server has all {len(rights)} permissions that it needs.")


def _loader_image(evidence: Evidence) -> CheckResult:
    check = "loader-image"
    if evidence.config is None:
        return unseen(check, f"the ConfigMaps of {NAMESPACE}")
    image = loader_image(evidence)
    if not image and evidence.server == {}:
        return skipped(check, "there is no server.")
    if not image:
        return failed(check, f"the ConfigMap {SERVER} has no image of the loader.", install(evidence))
    return _on_a_node(check, image, evidence, failed)


def _on_a_node(
    check: str, image: str, evidence: Evidence, fault: Callable[[str, str, str], CheckResult], so: str = ""
) -> CheckResult:
    """Whether the image is on the nodes, or in a registry. ``so``: the consequence if neither."""
    if evidence.nodes is None:
        return unseen(check, "which images the nodes have")
    node_images = [value_at(node, "status", "images") or [] for node in evidence.nodes]
    names = {name for images in node_images for each in images for name in each["names"]}
    if image in names or f"docker.io/{image}" in names:
        return ok(check, f"a node has {image}.")
    if is_local(image):
        fix = (
            f"Load {image} into the nodes (they report it within a minute), "
            "or `kubectl serve install --registry PREFIX` with your registry."
        )
        if any(len(images) >= _MAX_NODE_IMAGES for images in node_images):
            why = f"no node reports {image}, but a node reports at most {_MAX_NODE_IMAGES} images, and some have more."
            return warning(check, why, fix)
        return fault(check, f"no node reports {image}, and no registry has it{so}.", fix)
    return ok(check, f"{image} is pulled when the first model needs it.")
