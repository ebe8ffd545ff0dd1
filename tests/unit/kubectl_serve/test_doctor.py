"""``kubectl serve doctor``: each fault is found, and its fix works."""

import base64
import copy
import functools
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import trustme

from kubectl_serve.install import manifests
from serve_core.api.annotations import AUTH, AUTH_CALLERS, AUTH_ISSUER
from serve_core.base.constants import NEVER_JUDGED, SERVED_LABEL
from serve_core.base.json import JsonObject
from serve_kube import errors, resources
from serve_kube.resources import Resource
from support.fake_cluster import FakeCluster
from support.istio_installation import control_plane
from unit.kubectl_serve.conftest import Run, Screen

LOADER = "dev.local/kubectl-serve/model-loader:0.1.0"
SIGNING = f"{LOADER}-signing"
AUTHORITY = trustme.CA()


@dataclass
class Cluster(FakeCluster):
    """Also answers what one may do, and says which Kubernetes it is."""

    git_version: str = "v1.35.4"
    denied: set[str] = field(default_factory=set)
    """Resources or namespaces that the server may not touch, or ``me`` where the user may do nothing."""
    broken: errors.ApiError | None = None
    """How the webhook fails."""

    async def version(self) -> JsonObject:
        return {"gitVersion": self.git_version}

    async def create(self, resource: Resource, manifest: JsonObject, *, dry_run: bool = False) -> JsonObject:
        if resource.plural.endswith("subjectaccessreviews"):
            asked = manifest["spec"]["resourceAttributes"]
            about = {asked["resource"], asked.get("namespace")} if "user" in manifest["spec"] else {"me"}
            return manifest | {"status": {"allowed": not about & self.denied}}
        assert dry_run, "the doctor changes nothing"
        if self.broken:
            raise self.broken
        if manifest["metadata"]["namespace"] in NEVER_JUDGED:
            return manifest
        return manifest | {"metadata": manifest["metadata"] | {"labels": {SERVED_LABEL: "true"}}}

    def one(self, kind: str, name: str, namespace: str | None = None) -> JsonObject:
        found = [
            each
            for each in self.objects
            if each["kind"] == kind
            and each["metadata"]["name"] == name
            and namespace in (None, each["metadata"].get("namespace"))
        ]
        assert len(found) == 1, (kind, name)
        return found[0]

    def remove(self, kind: str, name: str, namespace: str | None = None) -> None:
        self.objects.remove(self.one(kind, name, namespace))


def thing(api: str, kind: str, name: str, namespace: str | None = None, **rest: Any) -> JsonObject:
    labels = rest.pop("labels", {})
    metadata: JsonObject = {"name": name, "labels": labels, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}


def knative() -> list[JsonObject]:
    config = {
        "config-features": {
            "kubernetes.podspec-init-containers": "enabled",
            "kubernetes.podspec-volumes-image": "enabled",
            "_example": "text",
        },
        "config-network": {
            "ingress-class": "istio.ingress.networking.knative.dev",
            "mesh-compatibility-mode": "enabled",
        },
        "config-domain": {"models.example.com": ""},
        "config-deployment": {"registries-skipping-tag-resolving": "kind.local,ko.local,dev.local"},
        "config-autoscaler": {},
    }
    parts = ("activator", "autoscaler", "controller", "webhook", "net-istio-controller")
    space, crd = "knative-serving", "CustomResourceDefinition"
    version = {"app.kubernetes.io/version": "1.23.0"}
    return [
        thing("apiextensions.k8s.io/v1", crd, "services.serving.knative.dev", labels=version),
        *(thing("v1", "ConfigMap", name, space, data=data) for name, data in config.items()),
        *(knative_deployment(part) for part in parts),
        *(knative_pod(part) for part in parts[:2]),
    ]


def knative_deployment(part: str) -> JsonObject:
    labels = {"sidecar.istio.io/inject": "false"} if part == "webhook" else {}
    spec = {"template": {"metadata": {"labels": labels}}}
    return thing("apps/v1", "Deployment", part, "knative-serving", spec=spec, status={"availableReplicas": 1})


def knative_pod(part: str, *containers: str) -> JsonObject:
    names = containers or (part, "istio-proxy")
    spec = {"containers": [{"name": name} for name in names]}
    return thing("v1", "Pod", f"{part}-7d4c", "knative-serving", spec=spec)


@functools.cache
def parsed() -> list[JsonObject]:
    return manifests.all_objects()


@pytest.fixture(autouse=True)
def _parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = parsed()
    monkeypatch.setattr(manifests, "all_objects", lambda: made)


def installed() -> list[JsonObject]:
    objects = copy.deepcopy(parsed())
    bundle = base64.b64encode(AUTHORITY.cert_pem.bytes()).decode()
    for each in objects:
        if each["kind"].endswith("WebhookConfiguration"):
            for hook in each["webhooks"]:
                hook["clientConfig"]["caBundle"] = bundle
        if each["kind"] == "Deployment":
            each["status"] = {"availableReplicas": each["spec"]["replicas"]}
    return [*objects, secret(AUTHORITY)]


def secret(authority: trustme.CA, **how: Any) -> JsonObject:
    leaf = authority.issue_cert("kubectl-serve.kubectl-serve.svc", **how).cert_chain_pems[0].bytes()
    data = {"tls.crt": base64.b64encode(leaf).decode()}
    return thing("v1", "Secret", "kubectl-serve-certificates", "kubectl-serve", data=data)


def mesh(**how: Any) -> list[JsonObject]:
    plane = control_plane(**how)
    kinds = {
        "injectors": ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"),
        "config_maps": ("v1", "ConfigMap"),
    }
    made = []
    for part, (version, kind) in kinds.items():
        for each in plane[part]:
            each["metadata"] |= {"namespace": "istio-system"} if kind == "ConfigMap" else {}
            made.append({"apiVersion": version, "kind": kind, **each})
    return made


def healthy() -> Cluster:
    versions = {"kubeletVersion": "v1.35.4", "containerRuntimeVersion": "containerd://2.4.2"}
    node = {"nodeInfo": versions, "images": [{"names": [LOADER]}, {"names": [SIGNING]}]}
    return Cluster(
        [
            thing("v1", "Node", "a", status=node),
            thing("v1", "Namespace", "knative-serving", labels={"istio-injection": "enabled"}),
            thing("v1", "Namespace", "istio-system"),
            *knative(),
            *installed(),
            *mesh(),
        ]
    )


def strict(namespace: str) -> JsonObject:
    """A namespace, or the whole mesh, that takes mTLS alone."""
    spec = {"mtls": {"mode": "STRICT"}}
    return thing("security.istio.io/v1", "PeerAuthentication", "all", namespace, spec=spec)


def served_in_mesh(**notes: str) -> list[JsonObject]:
    """A model in a namespace of the mesh."""
    iris = thing("apps/v1", "Deployment", "iris", "team-a", labels={SERVED_LABEL: "true"}, spec={"template": {}})
    iris["metadata"]["annotations"] = notes
    return [thing("v1", "Namespace", "team-a", labels={"istio-injection": "enabled"}), iris]


def traefik(cluster: Cluster) -> list[JsonObject]:
    """An ingress that is not Istio's, and Knative set up for it."""
    settings(cluster, "config-network")["ingress-class"] = "traefik.ingress.networking.knative.dev"
    labels = {"app.kubernetes.io/name": "traefik"}
    spec = {"template": {"metadata": {"labels": labels}}}
    status = {"availableReplicas": 1}
    gateway = thing("apps/v1", "Deployment", "traefik", "traefik", labels=labels, spec=spec, status=status)
    return [thing("v1", "Namespace", "traefik"), gateway]


Fault = Callable[[Cluster], object]
FAULTS: dict[str, tuple[str, str, str]] = {}
PLANTED: dict[str, Fault] = {}


def plants(check: str, reason: str, fix: str) -> Callable[[Fault], Fault]:
    """A fault, what is said of it, and how the fix begins."""

    def register(fault: Fault) -> Fault:
        PLANTED[fault.__name__] = fault
        FAULTS[fault.__name__] = (check, reason, fix)
        return fault

    return register


def settings(cluster: Cluster, name: str) -> dict[str, str]:
    found: dict[str, str] = cluster.one("ConfigMap", name)["data"]
    return found


@plants("kubernetes-version", "Kubernetes is v1.29.3", "Update the cluster")
def old_kubernetes(cluster: Cluster) -> None:
    cluster.git_version = "v1.29.3"


@plants("knative-version", "Knative Serving is not installed", "Install it: https://knative.dev")
def no_knative(cluster: Cluster) -> None:
    cluster.remove("CustomResourceDefinition", "services.serving.knative.dev")


@plants("knative-running", "Knative's activator has no running pod.", "kubectl rollout restart deployment/activator")
def activator_down(cluster: Cluster) -> None:
    cluster.one("Deployment", "activator")["status"] = {}


@plants(
    "knative-features", "kubernetes.podspec-init-containers is not enabled", "kubectl patch configmap/config-features"
)
def init_containers_off(cluster: Cluster) -> None:
    settings(cluster, "config-features")["kubernetes.podspec-init-containers"] = "allowed"


@plants("knative-flags", '"enabeld", which Knative treats as its default', "kubectl patch configmap/config-features")
def misspelt_value(cluster: Cluster) -> None:
    settings(cluster, "config-features")["kubernetes.podspec-affinity"] = "enabeld"


@plants("knative-flags", '"enabled\\n", which Knative treats as its default', "kubectl patch configmap/config-features")
def line_end_in_value(cluster: Cluster) -> None:
    settings(cluster, "config-features")["kubernetes.podspec-affinity"] = "enabled\n"


@plants("knative-flags", "is not a feature flag of Knative", "kubectl patch configmap/config-features")
def misspelt_flag(cluster: Cluster) -> None:
    settings(cluster, "config-features")["kubernetes.podspec-toleration"] = "enabled"


@plants("knative-ingress", "no net-kourier-controller is running", "kubectl patch configmap/config-network")
def wrong_ingress(cluster: Cluster) -> None:
    settings(cluster, "config-network")["ingress-class"] = "kourier.ingress.networking.knative.dev"


@plants("knative-domain", "no domain is set", "kubectl patch configmap/config-domain")
def no_domain(cluster: Cluster) -> None:
    settings(cluster, "config-domain").clear()


@plants("knative-tags", "Knative would resolve image tags at dev.local", "kubectl patch configmap/config-deployment")
def tags_resolved(cluster: Cluster) -> None:
    settings(cluster, "config-deployment")["registries-skipping-tag-resolving"] = "kind.local"


@plants("knative-scale-to-zero", "scale to zero is disabled in Knative", "kubectl patch configmap/config-autoscaler")
def no_scale_to_zero(cluster: Cluster) -> None:
    settings(cluster, "config-autoscaler")["enable-scale-to-zero"] = "false"


def cached(cluster: Cluster, ready: int) -> None:
    """The node cache on two nodes."""
    status = {"desiredNumberScheduled": 2, "numberReady": ready}
    name = "kubectl-serve-cache"
    cluster.objects.append(thing("v1", "Namespace", name))
    cluster.objects.append(thing("apps/v1", "DaemonSet", name, name, status=status))


@plants("node-cache", "kubernetes.podspec-volumes-csi is not enabled", "kubectl patch configmap/config-features")
def no_volumes_of_the_cache(cluster: Cluster) -> None:
    cached(cluster, 2)


@plants("node-cache", "the node cache runs on 1 of 2 nodes", "kubectl describe pods -n kubectl-serve-cache")
def node_without_the_cache(cluster: Cluster) -> None:
    cached(cluster, 1)
    settings(cluster, "config-features")["kubernetes.podspec-volumes-csi"] = "enabled"


@plants("server-installed", "there is no Deployment kubectl-serve", "kubectl serve install")
def not_installed(cluster: Cluster) -> None:
    cluster.remove("Deployment", "kubectl-serve")


@plants("server-installed", "the server's image is 0.0.9", "kubectl serve install")
def another_version(cluster: Cluster) -> None:
    cluster.one("Deployment", "kubectl-serve")["spec"]["template"]["spec"]["containers"][0]["image"] = "a/server:0.0.9"


@plants("server-running", "scaled to zero", "kubectl scale deployment/kubectl-serve")
def server_scaled_to_zero(cluster: Cluster) -> None:
    cluster.one("Deployment", "kubectl-serve")["spec"]["replicas"] = 0


@plants("server-running", "no pod of the server is ready", "kubectl describe pods")
def server_down(cluster: Cluster) -> None:
    cluster.one("Deployment", "kubectl-serve")["status"] = {}


@plants("server-mutating-webhook", "is missing", "kubectl serve install")
def no_webhook(cluster: Cluster) -> None:
    cluster.remove("MutatingWebhookConfiguration", "kubectl-serve")


@plants("server-mutating-webhook", "has failurePolicy Ignore instead of Fail", "kubectl serve install")
def webhook_fails_open(cluster: Cluster) -> None:
    cluster.one("MutatingWebhookConfiguration", "kubectl-serve")["webhooks"][0]["failurePolicy"] = "Ignore"


@plants(
    "server-certificates",
    "the caBundle of a webhook cannot be read",
    "kubectl rollout restart deployment/kubectl-serve",
)
def no_bundle(cluster: Cluster) -> None:
    cluster.one("MutatingWebhookConfiguration", "kubectl-serve")["webhooks"][0]["clientConfig"]["caBundle"] = "Cg=="


@plants("server-certificates", "has expired on 2026-01-01", "kubectl rollout restart deployment/kubectl-serve")
def expired(cluster: Cluster) -> None:
    cluster.remove("Secret", "kubectl-serve-certificates")
    cluster.objects.append(secret(AUTHORITY, not_after=datetime(2026, 1, 1, tzinfo=UTC)))


@plants("server-certificates", "a webhook does not trust", "kubectl rollout restart deployment/kubectl-serve")
def of_another_authority(cluster: Cluster) -> None:
    cluster.remove("Secret", "kubectl-serve-certificates")
    cluster.objects.append(secret(trustme.CA()))


def issued_elsewhere(cluster: Cluster, authority: trustme.CA, **how: Any) -> None:
    """The Deployment mounts a certificate that the server does not make, with the chain to its authority."""
    cluster.remove("Secret", "kubectl-serve-certificates")
    pod = cluster.one("Deployment", "kubectl-serve")["spec"]["template"]["spec"]
    pod["volumes"].append({"name": "certificate", "secret": {"secretName": "own"}})
    leaf = authority.issue_cert("kubectl-serve.kubectl-serve.svc", **how)
    chain = base64.b64encode(b"".join(each.bytes() for each in leaf.cert_chain_pems)).decode()
    cluster.objects.append(thing("v1", "Secret", "own", "kubectl-serve", data={"tls.crt": chain}))


@plants("server-certificates", "has expired on 2026-01-01", "Renew the certificate in Secret own")
def own_certificate_expired(cluster: Cluster) -> None:
    issued_elsewhere(cluster, AUTHORITY, not_after=datetime(2026, 1, 1, tzinfo=UTC))


@plants("server-certificates", "a webhook does not trust", "Renew the certificate in Secret own")
def own_certificate_of_another_authority(cluster: Cluster) -> None:
    issued_elsewhere(cluster, trustme.CA())


@plants("server-answers", "connection refused", "kubectl rollout restart deployment/kubectl-serve")
def webhook_unreachable(cluster: Cluster) -> None:
    cluster.broken = errors.ApiError("failed calling webhook: connection refused.")


@plants("rights-mine", "you are not allowed to create deployments.apps in default", "Ask the cluster administrator")
def user_may_nothing(cluster: Cluster) -> None:
    cluster.denied.add("me")


@plants("rights-server", "domainmappings.serving.knative.dev", "kubectl serve install")
def server_lacks_a_right(cluster: Cluster) -> None:
    cluster.denied.add("domainmappings")


@plants("loader-image", f"no node reports {LOADER}, and no registry has it", f"Load {LOADER} into the nodes")
def no_loader_image(cluster: Cluster) -> None:
    cluster.one("Node", "a")["status"]["images"] = [{"names": [SIGNING]}]


@plants("loader-image", f"no node reports {LOADER}, but a node reports at most", f"Load {LOADER} into the nodes (they")
def node_with_many_images(cluster: Cluster) -> None:
    images = [SIGNING, *(f"example.com/large:{number}" for number in range(49))]
    cluster.one("Node", "a")["status"]["images"] = [{"names": [image]} for image in images]


@plants("loader-signing-image", f"no node reports {SIGNING}, and no registry has it: no model with", "Load")
def no_loader_image_that_verifies(cluster: Cluster) -> None:
    cluster.one("Node", "a")["status"]["images"] = [{"names": [LOADER]}]


@plants("istio-configuration", "the server is not allowed to read Istio's configuration", "kubectl serve install")
def server_does_not_see_istio(cluster: Cluster) -> None:
    cluster.denied.add("istio-system")


@plants("istio-loader", "as the sidecar's user, outside the mesh: the oldest kubelet is 1.28", "Update Istio to 1.24")
def old_kubelet_with_cni(cluster: Cluster) -> None:
    cluster.one("Node", "a")["status"]["nodeInfo"]["kubeletVersion"] = "v1.28.1"
    cluster.objects = [each for each in cluster.objects if each["metadata"].get("namespace") != "istio-system"]
    cluster.objects += [each for each in mesh(cni=True) if each["kind"] == "ConfigMap"]


@plants("istio-webhook", "the webhook's pods get a sidecar", "kubectl serve install")
def webhook_in_the_mesh(cluster: Cluster) -> None:
    cluster.one("Namespace", "kubectl-serve")["metadata"]["labels"]["istio-injection"] = "enabled"
    template = cluster.one("Deployment", "kubectl-serve")["spec"]["template"]
    template["metadata"]["labels"].pop("sidecar.istio.io/inject")


@plants("istio-knative", "mTLS is STRICT", "kubectl label namespace knative-serving istio-injection=enabled")
def strict_without_knative(cluster: Cluster) -> None:
    cluster.one("Namespace", "knative-serving")["metadata"]["labels"].clear()
    cluster.objects.append(strict("istio-system"))


@plants("istio-knative", "mTLS is STRICT in namespace team-a", "kubectl label namespace knative-serving")
def strict_models_without_knative(cluster: Cluster) -> None:
    cluster.one("Namespace", "knative-serving")["metadata"]["labels"].clear()
    cluster.objects += [*served_in_mesh(), strict("team-a")]


@plants("istio-knative", "iris has kubectl-serve.dev/auth", "kubectl label namespace knative-serving")
def guarded_without_knative(cluster: Cluster) -> None:
    cluster.one("Namespace", "knative-serving")["metadata"]["labels"].clear()
    cluster.objects += served_in_mesh(**{AUTH: "jwt"})


@plants(
    "istio-knative-sidecars", "activator-7d4c started before", "kubectl rollout restart deployment -n knative-serving"
)
def knative_not_restarted(cluster: Cluster) -> None:
    cluster.remove("Pod", "activator-7d4c")
    cluster.objects.append(knative_pod("activator", "activator"))


@plants("istio-mesh-compatibility", "mesh-compatibility-mode is auto", "kubectl patch configmap/config-network")
def asks_pods_by_address(cluster: Cluster) -> None:
    del settings(cluster, "config-network")["mesh-compatibility-mode"]


@plants("istio-knative-webhook", "Knative's webhook has a sidecar that rejects the API server", 'echo \'{"apiVersion":')
def strict_knative_webhook(cluster: Cluster) -> None:
    cluster.one("Deployment", "webhook")["spec"].clear()
    cluster.objects.append(strict("knative-serving"))


@plants("istio-ingress", "mTLS is STRICT, and Knative's ingress does not use mTLS", 'echo \'{"apiVersion":')
def strict_with_an_ingress_outside(cluster: Cluster) -> None:
    cluster.objects += [*traefik(cluster), strict("istio-system")]


@plants("istio-ingress", "mTLS is STRICT in namespace team-a", "kubectl patch configmap/config-autoscaler")
def strict_models_with_an_ingress_outside(cluster: Cluster) -> None:
    cluster.objects += [*traefik(cluster), *served_in_mesh(), strict("team-a")]


@plants("istio-ingress", "iris has kubectl-serve.dev/auth: mtls", "kubectl patch configmap/config-autoscaler")
def guarded_with_an_ingress_outside(cluster: Cluster) -> None:
    cluster.objects += [*traefik(cluster), *served_in_mesh(**{AUTH: "mtls"})]


@plants(
    "istio-tokens",
    "RequestAuthentication all in istio-system removes the token from requests to iris",
    "kubectl patch requestauthentication/all -n istio-system",
)
def token_taken_off_before_the_model(cluster: Cluster) -> None:
    rules = [{"issuer": "https://else.example.com"}, {"issuer": "https://login.example.com"}]
    cluster.objects += served_in_mesh(**{AUTH: "jwt", AUTH_ISSUER: "https://login.example.com"})
    everywhere = ("RequestAuthentication", "all", "istio-system")
    cluster.objects.append(thing("security.istio.io/v1", *everywhere, spec={"jwtRules": rules}))


@plants("istio-egress", "REGISTRY_ONLY", "Apply a ServiceEntry")
def closed_mesh(cluster: Cluster) -> None:
    cluster.objects = [
        each
        for each in cluster.objects
        if (each["kind"], each["metadata"].get("namespace")) != ("ConfigMap", "istio-system")
    ]
    outbound = {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}
    cluster.objects += [each for each in mesh(mesh=outbound) if each["kind"] == "ConfigMap"]


def diagnose(run: Run, cluster: Cluster, **how: Any) -> tuple[Screen, dict[str, JsonObject]]:
    screen = run("doctor", "-o", "json", cluster=cluster, **how)
    return screen, {each["check"]: each for each in json.loads(screen.out)["checks"]}


def obey(cluster: Cluster, command: str) -> None:
    """Do what a fix says, as the cluster would."""
    for words in (shlex.split(part) for part in command.split("&&")):
        match words:
            case ["echo", text, "|", "kubectl", "apply", "-f", "-"]:
                cluster.objects.append(json.loads(text))
            case ["kubectl", "patch", target, "-n", namespace, "--type", "merge", "-p", patch, *_]:
                merge(named(cluster, target, namespace), json.loads(patch))
            case ["kubectl", "patch", target, "-n", namespace, "--type", "json", "-p", patch]:
                [change] = json.loads(patch)
                *steps, last = change["path"].strip("/").split("/")
                node = named(cluster, target, namespace)
                for step in steps:
                    node = node[int(step) if isinstance(node, list) else step]
                assert change["op"] == "add"
                node[last] = change["value"]
            case ["kubectl", "label", "namespace", name, label, "--overwrite"]:
                key, _, value = label.partition("=")
                cluster.one("Namespace", name)["metadata"]["labels"][key] = value
            case ["kubectl", "scale", target, "-n", namespace, replicas]:
                named(cluster, target, namespace)["spec"]["replicas"] = int(replicas.partition("=")[2])
            case ["kubectl", "rollout", "restart", *_, "-n", "knative-serving"]:
                restore(cluster, [each for each in knative() if each["kind"] in ("Deployment", "Pod")])
            case ["kubectl", "rollout", "restart", "deployment/kubectl-serve", "-n", "kubectl-serve"]:
                cluster.broken = None  # a new pod renews what is not good any more, and writes the bundle
                restore(cluster, [e for e in installed() if e["kind"] == "Secret" or "webhooks" in e])
            case ["kubectl", "serve", "install", *flags]:
                registry = flags[flags.index("--registry") + 1] if "--registry" in flags else manifests.PREFIX
                tag = flags[flags.index("--tag") + 1] if "--tag" in flags else None
                cluster.denied.clear()
                restore(cluster, manifests.relocate(installed(), registry, tag))
            case _:
                raise AssertionError(f"this command cannot run: {words}")


def named(cluster: Cluster, target: str, namespace: str) -> Any:
    """The object that a command names as TYPE/NAME."""
    kinds = {
        "configmap": "ConfigMap",
        "deployment": "Deployment",
        "requestauthentication": "RequestAuthentication",
    }
    kind, _, name = target.partition("/")
    return cluster.one(kinds[kind], name, namespace)


def merge(node: JsonObject, patch: JsonObject) -> None:
    """RFC 7386."""
    for key, value in patch.items():
        if value is None:
            node.pop(key, None)
        elif isinstance(value, dict):
            merge(node.setdefault(key, {}), value)
        else:
            node[key] = value


def restore(cluster: Cluster, objects: list[JsonObject]) -> None:
    def key(each: JsonObject) -> tuple[str, str, str | None]:
        return each["kind"], each["metadata"]["name"], each["metadata"].get("namespace")

    fresh = {key(each) for each in objects}
    cluster.objects = [each for each in cluster.objects if key(each) not in fresh] + objects


def test_a_healthy_cluster_is_ready(run: Run) -> None:
    screen, found = diagnose(run, healthy())
    assert {check: each["reason"] for check, each in found.items() if each["verdict"] != "ok"} == {}
    assert screen.code == 0
    assert len(found) >= 20


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_is_found_and_its_fix_works(run: Run, fault: str) -> None:
    check, reason, fix = FAULTS[fault]
    cluster = healthy()
    PLANTED[fault](cluster)
    screen, found = diagnose(run, cluster)
    said = found[check]
    assert reason in said["reason"]
    assert said["fix"].startswith(fix)
    assert (said["verdict"], screen.code) in (("failed", 1), ("warning", 0))
    others = [name for name, each in found.items() if each["verdict"] == "failed" and name != check]
    if fault == "no_knative":
        return
    if fix.startswith(("echo", "kubectl patch", "kubectl label", "kubectl scale", "kubectl rollout", "kubectl serve")):
        obey(cluster, said["fix"])
        again, found = diagnose(run, cluster)
        assert found[check]["verdict"] == "ok"
        assert again.code == 0
    assert others == [], "one fault is reported once"


def test_what_is_installed_again_comes_from_where_it_came_before(run: Run) -> None:
    cluster = healthy()
    template = cluster.one("Deployment", "kubectl-serve")["spec"]["template"]
    template["spec"]["containers"][0]["image"] = "registry.example.com:5000/ml/server:3f2a"
    no_webhook(cluster)
    _, found = diagnose(run, cluster)
    fix = "kubectl serve install --registry registry.example.com:5000/ml --tag 3f2a"
    assert found["server-mutating-webhook"]["fix"] == fix


def test_callers_that_are_named_come_by_no_ingress(run: Run) -> None:
    cluster = healthy()
    cluster.objects += [*traefik(cluster), *served_in_mesh(**{AUTH: "mtls", AUTH_CALLERS: "shop"})]
    _, found = diagnose(run, cluster)
    assert found["istio-ingress"]["verdict"] == "ok"


def test_a_pod_that_is_going_needs_no_sidecar(run: Run) -> None:
    cluster = healthy()
    knative_not_restarted(cluster)
    cluster.one("Pod", "activator-7d4c")["metadata"]["deletionTimestamp"] = "2026-11-26T00:00:00Z"
    _, found = diagnose(run, cluster)
    assert found["istio-knative-sidecars"]["verdict"] == "ok"


def test_a_flag_with_values_of_its_own_is_spelt_right(run: Run) -> None:
    cluster = healthy()
    settings(cluster, "config-features")["secure-pod-defaults"] = "AllowRootBounded"
    _, found = diagnose(run, cluster)
    assert found["knative-flags"]["verdict"] == "ok"


def test_at_least_fifteen_faults_are_planted() -> None:
    assert len(PLANTED) >= 15


@pytest.mark.parametrize(
    ("flag", "runtime", "verdict", "reason"),
    [
        ("enabled", "containerd://2.4.2", "ok", "cache: node"),
        ("disabled", "containerd://2.4.2", "skipped", "kubectl patch configmap/config-features"),
        ("enabled", "containerd://1.6.20", "skipped", "image volumes need containerd 2.2"),
    ],
)
def test_whether_nodes_can_keep_images_of_models(run: Run, flag: str, runtime: str, verdict: str, reason: str) -> None:
    cluster = healthy()
    cluster.one("Node", "a")["status"]["nodeInfo"]["containerRuntimeVersion"] = runtime
    cluster.one("ConfigMap", "config-features")["data"]["kubernetes.podspec-volumes-image"] = flag
    _, found = diagnose(run, cluster)
    assert found["image-volumes"]["verdict"] == verdict
    assert reason in found["image-volumes"]["reason"]


def test_what_may_not_be_seen_is_not_judged(run: Run) -> None:
    cluster = healthy()
    cluster.hidden = frozenset({"nodes", "configmaps", "secrets", "mutatingwebhookconfigurations", "namespaces"})
    _, found = diagnose(run, cluster)
    skipped = {check for check, each in found.items() if each["verdict"] == "skipped"}
    assert {"knative-features", "loader-image", "istio"} <= skipped


def test_a_user_of_one_namespace_gets_no_wrong_results(run: Run) -> None:
    cluster = healthy()
    seen = {"events", "pods", "services", "revisions"}
    every = {value.plural for value in vars(resources).values() if isinstance(value, Resource)}
    cluster.hidden = frozenset(every - seen)
    screen, found = diagnose(run, cluster)
    assert {check for check, each in found.items() if each["verdict"] != "skipped"} == {
        "kubernetes-version",
        "server-answers",
        "rights-mine",
        "rights-server",  # asked by a review, which nothing hides here
    }
    assert found["knative-version"]["reason"] == "you are not allowed to see CustomResourceDefinitions."
    assert found["server-mutating-webhook"]["reason"] == "you are not allowed to see webhook configurations."
    assert screen.code == 0


def test_a_cluster_without_a_server_lacks_that_alone(run: Run) -> None:
    cluster = healthy()
    cluster.remove("Deployment", "kubectl-serve")
    cluster.remove("MutatingWebhookConfiguration", "kubectl-serve")
    cluster.remove("ValidatingWebhookConfiguration", "kubectl-serve")
    cluster.remove("ConfigMap", "kubectl-serve", "kubectl-serve")
    cluster.denied = {"deployments"}
    _, found = diagnose(run, cluster)
    failed = {check: each["fix"] for check, each in found.items() if each["verdict"] == "failed"}
    missing = ("server-installed", "server-mutating-webhook", "server-validating-webhook")
    assert failed == dict.fromkeys(missing, "kubectl serve install")


def test_a_policy_that_would_deny_what_the_webhook_is_asked_is_no_fault_of_the_webhook(run: Run) -> None:
    cluster = healthy()
    cluster.broken = errors.DeniedError("SourceNotAllowed: no", webhook="policies.kubectl-serve.dev")
    _, found = diagnose(run, cluster)
    assert found["server-answers"]["verdict"] == "ok"


def test_a_webhook_that_is_not_asked_is_installed_again(run: Run) -> None:
    cluster = healthy()
    cluster.broken = errors.InvalidError("spec.selector: Required value", 422, ("spec.selector",))
    _, found = diagnose(run, cluster)
    assert found["server-answers"]["fix"] == "kubectl serve install"


@pytest.mark.parametrize("namespace", sorted(NEVER_JUDGED))
def test_a_namespace_of_which_the_webhook_is_never_asked_is_no_fault_of_its(namespace: str, run: Run) -> None:
    screen = run("doctor", "-n", namespace, "-o", "json", cluster=healthy())
    assert screen.code == 0


def test_a_missing_namespace_is_reported(run: Run) -> None:
    cluster = healthy()
    cluster.broken = errors.NotFoundError('namespaces "nope" not found')
    screen = run("doctor", "-n", "nope", cluster=cluster)
    assert (screen.code, screen.err) == (1, 'error: namespaces "nope" not found\n')


def test_a_cluster_without_istio_is_ready_too(run: Run) -> None:
    cluster = healthy()
    cluster.objects = [
        each
        for each in cluster.objects
        if each["metadata"].get("namespace") != "istio-system"
        and not each["metadata"]["name"].startswith("istio-sidecar-injector")
    ]
    screen, found = diagnose(run, cluster)
    assert found["istio"]["reason"] == "Istio is not installed: models get no sidecar."
    assert screen.code == 0


def test_the_screen_has_a_line_for_each_check_and_the_fix_below_it(run: Run) -> None:
    cluster = healthy()
    no_webhook(cluster)
    screen = run("doctor", cluster=cluster)
    lines = screen.out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("failed"))
    assert lines[at] == "failed   server-mutating-webhook    the mutating webhook kubectl-serve is missing."
    assert lines[at + 1].strip() == "fix: kubectl serve install"
    assert screen.err.endswith(" ok, 1 failed, 1 skipped; for models in namespace default\n")
    assert screen.code == 1


def test_a_certificate_of_an_intermediate_authority_is_trusted(run: Run) -> None:
    cluster = healthy()
    issued_elsewhere(cluster, AUTHORITY.create_child_ca())
    assert diagnose(run, cluster)[1]["server-certificates"]["verdict"] == "ok"


def test_the_fix_of_what_helm_manages_is_helms(run: Run) -> None:
    cluster = healthy()
    cluster.remove("MutatingWebhookConfiguration", "kubectl-serve")
    cluster.one("Deployment", "kubectl-serve")["metadata"]["annotations"] = {
        "meta.helm.sh/release-name": "serving",
        "meta.helm.sh/release-namespace": "platform",
    }
    _, found = diagnose(run, cluster)
    assert found["server-mutating-webhook"]["fix"] == "helm upgrade serving CHART -n platform --reset-then-reuse-values"
