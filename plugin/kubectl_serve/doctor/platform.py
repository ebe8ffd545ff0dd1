"""Kubernetes and Knative: whether they exist, and are configured so that a model can be served."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from shlex import quote

from kubectl_serve.doctor.evidence import KNATIVE, SERVER, Evidence
from kubectl_serve.doctor.finding import CheckResult, failed, ok, skipped, unseen, warning
from kubectl_serve.node_cache.drivers import NodeContent
from kubectl_serve.status import model
from serve_core.api.loader_protocol import size_text
from serve_core.base.constants import NODE_CACHE_NAMESPACE
from serve_core.base.json import JsonObject, value_at
from serve_core.context import nodes
from serve_core.context.cluster import REQUIRED_FEATURES
from serve_core.knative.features import FLAGS, IMAGE_VOLUMES, state
from serve_core.syntax import image_reference
from serve_core.syntax import version as versions

KUBERNETES_SINCE = (1, 30)
"""The first version with stable matchConditions of webhooks."""
KNATIVE_SINCE = (1, 20)
"""Tests run with 1.23; the required flags exist since this version."""

_PARTS = ("activator", "autoscaler", "controller", "webhook")
_CACHE_FLAG = "kubernetes.podspec-volumes-csi"
_STATES = ("enabled", "allowed", "disabled")
_STATES_OF = {"secure-pod-defaults": ("enabled", "AllowRootBounded", "disabled")}
_EXAMPLE = "_example"
_SKIPPED_BY_DEFAULT = "kind.local,ko.local,dev.local"
# Name of the Deployment by ingress class.
_INGRESSES = {
    "istio.ingress.networking.knative.dev": "net-istio-controller",
    "kourier.ingress.networking.knative.dev": "net-kourier-controller",
    "contour.ingress.networking.knative.dev": "net-contour-controller",
    "gateway-api.ingress.networking.knative.dev": "net-gateway-api-controller",
    "traefik.ingress.networking.knative.dev": "traefik",
}


def patch(config_map: str, values: Mapping[str, str | None]) -> str:
    """The command that sets keys of a ConfigMap of Knative; ``None`` removes one."""
    data = json.dumps({"data": dict(values)}, separators=(",", ":"))
    return f"kubectl patch configmap/{config_map} -n {KNATIVE} --type merge -p {quote(data)}"


def checks(evidence: Evidence) -> Iterator[CheckResult]:
    yield _kubernetes(evidence)
    yield _installed(evidence)
    if evidence.knative == {}:
        return
    yield _running(evidence)
    if evidence.knative_config is None:
        yield unseen("knative-features", f"the ConfigMaps of {KNATIVE}")
        return
    features = evidence.knative_config.get("config-features", {})
    yield _features(features)
    yield _flag_values(features)
    yield _image_volumes(evidence, features)
    yield _ingress(evidence, evidence.knative_config.get("config-network", {}))
    yield _domain(evidence.knative_config.get("config-domain", {}))
    yield _tags(evidence, evidence.knative_config.get("config-deployment", {}))
    yield _scale_to_zero(evidence.knative_config.get("config-autoscaler", {}))
    if evidence.node_cache:
        yield _node_cache(evidence.node_cache, evidence.nodes, features)
        yield _cache_space(evidence.cached)


def _kubernetes(evidence: Evidence) -> CheckResult:
    text = str(evidence.version.get("gitVersion", ""))
    version = versions.parse(text)
    if version is None:
        return skipped("kubernetes-version", "the API server does not report its version.")
    if version < KUBERNETES_SINCE:
        least = ".".join(map(str, KUBERNETES_SINCE))
        return failed(
            "kubernetes-version",
            f"Kubernetes is {text}; the webhook's matchConditions need {least}.",
            f"Update the cluster to Kubernetes {least} or newer.",
        )
    return ok("kubernetes-version", f"Kubernetes is {text}.")


def _installed(evidence: Evidence) -> CheckResult:
    if evidence.knative is None:
        return unseen("knative-version", "CustomResourceDefinitions")
    if not evidence.knative:
        return failed(
            "knative-version",
            "Knative Serving is not installed, and kubectl-serve needs it.",
            "Install it: https://knative.dev/docs/install/",
        )
    text = str((evidence.knative["metadata"].get("labels") or {}).get("app.kubernetes.io/version", "unknown"))
    version = versions.parse(text)
    if version is not None and version < KNATIVE_SINCE:
        return warning(
            "knative-version",
            f"Knative Serving is {text}, older than the oldest supported version.",
            f"Update Knative Serving to {'.'.join(map(str, KNATIVE_SINCE))} or newer.",
        )
    return ok("knative-version", f"Knative Serving is {text}.")


def available(deployment: JsonObject) -> int:
    return int((deployment.get("status") or {}).get("availableReplicas") or 0)


def _running(evidence: Evidence) -> CheckResult:
    if evidence.knative_deployments is None:
        return unseen("knative-running", f"the Deployments of {KNATIVE}")
    running = {model.name_of(each) for each in evidence.knative_deployments if available(each)}
    down = [part for part in _PARTS if part not in running]
    if down:
        return failed(
            "knative-running",
            f"Knative's {', '.join(down)} has no running pod.",
            f"kubectl rollout restart deployment/{down[0]} -n {KNATIVE}",
        )
    return ok("knative-running", f"Knative's {', '.join(_PARTS)} are running.")


def _features(features: Mapping[str, str]) -> CheckResult:
    missing = {key: value for key, value in REQUIRED_FEATURES.items() if state(features, key) != value}
    if missing:
        return failed(
            "knative-features",
            f"{', '.join(missing)} is not enabled: the loader cannot run without it.",
            patch("config-features", missing),
        )
    return ok("knative-features", f"{', '.join(REQUIRED_FEATURES)} is enabled.")


def _image_volumes(evidence: Evidence, features: Mapping[str, str]) -> CheckResult:
    """Whether the nodes can keep images of models, as ``cache: node`` asks."""
    if evidence.nodes is None:
        return unseen("image-volumes", "the nodes")
    if fault := nodes.without_image_volumes(evidence.nodes):
        return skipped("image-volumes", f"the nodes cannot keep oci:// models: {fault}.")
    if not IMAGE_VOLUMES.is_met(features):
        enable = patch("config-features", {IMAGE_VOLUMES.flag: "enabled"})
        return skipped("image-volumes", f"Knative lets no node keep an oci:// model. To change that: {enable}")
    return ok("image-volumes", "the nodes can keep oci:// models (kubectl-serve.dev/cache: node).")


def _flag_values(features: Mapping[str, str]) -> CheckResult:
    """Knative ignores an unknown key, and uses the default for an unknown value.

    A value's case does not matter; blanks and line ends do.
    """
    for key, value in features.items():
        near = difflib.get_close_matches(key, FLAGS, n=1, cutoff=0.85)
        if key not in FLAGS and key != _EXAMPLE and near and near[0] not in features:
            return failed(
                "knative-flags",
                f'"{key}" is not a feature flag of Knative, which ignores it.',
                patch("config-features", {key: None, near[0]: value}),
            )
        states = {state.lower(): state for state in _STATES_OF.get(key, _STATES)}
        if key in FLAGS and value.lower() not in states:
            near_value = difflib.get_close_matches(value.strip().lower(), states, n=1, cutoff=0.5)
            meant = states[near_value[0]] if near_value else "enabled"
            return failed(
                "knative-flags",
                f"{key} is {json.dumps(value)}, which Knative treats as its default.",
                patch("config-features", {key: meant}),
            )
    return ok("knative-flags", "Knative knows every feature flag that is set.")


def ingress_class(network: Mapping[str, str]) -> str:
    """Knative's ingress, from ConfigMap ``config-network``."""
    return network.get("ingress-class") or network.get("ingress.class") or "istio.ingress.networking.knative.dev"


def _ingress(evidence: Evidence, network: Mapping[str, str]) -> CheckResult:
    name = ingress_class(network)
    wanted = _INGRESSES.get(name)
    if wanted is None:
        return skipped("knative-ingress", f"ingress class {name} is unknown to this check.")
    if evidence.ingresses is None or evidence.knative_deployments is None:
        return unseen("knative-ingress", "the Deployments of all namespaces")
    running = {model.name_of(each) for each in (*evidence.ingresses, *evidence.knative_deployments) if available(each)}
    if any(wanted in each for each in running):
        return ok("knative-ingress", f"ingress class {name} is served by {wanted}.")
    others = [known for known, deployment in _INGRESSES.items() if any(deployment in each for each in running)]
    fix = patch("config-network", {"ingress-class": others[0]}) if others else f"Install {wanted}."
    return failed(
        "knative-ingress", f"ingress class {name} is set, and no {wanted} is running: no URL is reachable.", fix
    )


def _domain(domain: Mapping[str, str]) -> CheckResult:
    domains = [name for name in domain if name != _EXAMPLE]
    if not domains or domains == ["svc.cluster.local"]:
        return warning(
            "knative-domain",
            "no domain is set: models are reachable only inside the cluster.",
            patch("config-domain", {"models.example.com": ""}) + " (with your domain)",
        )
    return ok("knative-domain", f"URLs end in {', '.join(sorted(domains))}.")


def loader_image(evidence: Evidence, *, verifying: bool = False) -> str | None:
    """The loader's image in the settings. ``verifying``: the one that verifies signatures."""
    from serve_core.base.yaml import load_object

    text = (evidence.config or {}).get(SERVER, {}).get("settings.yaml", "")
    image = value_at(load_object(text), "loader", "signingImage" if verifying else "image")
    return image if isinstance(image, str) else None


def images(evidence: Evidence) -> list[str]:
    """The images of the model servers and of the loader."""
    from serve_core.base.yaml import load_object

    loaders = (loader_image(evidence), loader_image(evidence, verifying=True))
    found = [image for image in loaders if image]
    for text in (evidence.config or {}).get("kubectl-serve-runtimes", {}).values():
        image = value_at(load_object(text), "spec", "container", "image")
        if isinstance(image, str):
            found.append(image)
    return found


def is_local(image: str) -> bool:
    """Whether an image's registry exists only on the nodes."""
    return _registry(image).partition(":")[0].endswith(".local")


def _registry(image: str) -> str:
    parsed = image_reference.parse_or_none(image)
    return "" if parsed is None else parsed.registry


def _tags(evidence: Evidence, deployment: Mapping[str, str]) -> CheckResult:
    skipping = deployment.get("registries-skipping-tag-resolving", _SKIPPED_BY_DEFAULT).split(",")
    hosts = {_registry(image) for image in images(evidence) if is_local(image) and "@" not in image}
    missing = sorted(hosts - {each.strip() for each in skipping})
    if missing:
        value = ",".join([*(each.strip() for each in skipping if each.strip()), *missing])
        return failed(
            "knative-tags",
            f"Knative would resolve image tags at {', '.join(missing)}, and there is no such registry.",
            patch("config-deployment", {"registries-skipping-tag-resolving": value}),
        )
    return ok("knative-tags", "Knative can use the images of the loader and of the runtimes.")


def _scale_to_zero(autoscaler: Mapping[str, str]) -> CheckResult:
    if autoscaler.get("enable-scale-to-zero", "true").lower() != "true":
        return warning(
            "knative-scale-to-zero",
            "scale to zero is disabled in Knative: an idle model keeps a replica.",
            patch("config-autoscaler", {"enable-scale-to-zero": "true"}),
        )
    return ok("knative-scale-to-zero", "idle models scale to zero.")


def _node_cache(daemon_set: JsonObject, known: Sequence[JsonObject] | None, features: Mapping[str, str]) -> CheckResult:
    """Whether the driver runs on each node, and Knative admits its volumes."""
    if state(features, _CACHE_FLAG) != "enabled":
        return warning(
            "node-cache",
            f"the node cache is installed, and {_CACHE_FLAG} is not enabled: each pod downloads its model.",
            patch("config-features", {_CACHE_FLAG: "enabled"}),
        )
    status = daemon_set.get("status") or {}
    wanted, running = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    if running < wanted:
        return failed(
            "node-cache",
            f"the node cache runs on {running} of {wanted} nodes: on the others, pods with its volumes do not start.",
            f"kubectl describe pods -n {NODE_CACHE_NAMESPACE}",
        )
    if known is not None and wanted < len(known):
        return warning(
            "node-cache",
            f"{len(known) - wanted} of {len(known)} nodes have no driver: pods with volumes of the node cache do not "
            "start there.",
            f"kubectl get pods -n {NODE_CACHE_NAMESPACE} -o wide",
        )
    return ok("node-cache", f"the node cache runs on {running} of {wanted} nodes.")


_NEARLY_FULL = 0.9


def _cache_space(cached: Sequence[NodeContent] | None) -> CheckResult:
    """Whether a new model finds room: models that pods use are never evicted."""
    if cached is None:
        return unseen("node-cache-space", "what the nodes keep")
    for node in cached:
        used = sum(each.bytes for each in node.models if each.pods)
        if used >= _NEARLY_FULL * node.limit:
            return warning(
                "node-cache-space",
                f"on node {node.node}, pods use {size_text(used)} of the cache's {size_text(node.limit)}: the next "
                "model may find no room.",
                "kubectl serve install --cache --cache-size SIZE",
            )
    return ok("node-cache-space", "the next model finds room on each node.")
