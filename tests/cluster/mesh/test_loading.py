"""The loader behind each kind of sidecar: with what admission sets it downloads, and without that it would not."""

import json
from collections.abc import Iterator

import pytest

from cluster.mesh.support import (
    CONTAINER,
    INJECTED,
    IRIS,
    NATIVE,
    completed,
    inject_by,
    loader,
    mesh_config,
    order,
    peer_authentication,
    pods_of,
    service_entry,
    with_template,
)
from cluster.support import (
    LOADED,
    PREFIX,
    Ingress,
    Json,
    Namespace,
    Store,
    Trained,
    condition,
    created,
    deployment,
    eventually,
    example_store,
)


@pytest.fixture(scope="module")
def by_cni(mesh: None) -> Iterator[None]:
    inject_by("cni")
    yield
    inject_by("native")


@pytest.fixture(scope="module")
def strict_store(mesh: None, iris: Trained) -> Iterator[Store]:
    """A store in the mesh that only workloads of the mesh reach."""
    with created(Namespace("mesh-store"), "privileged", INJECTED) as namespace:
        found = example_store(namespace)
        found.bucket.put("iris/model.joblib", iris.content)
        namespace.apply(peer_authentication("STRICT"))
        yield found


def serve(namespace: Namespace, annotations: dict[str, str] | None = None) -> Json:
    namespace.apply(deployment("iris", IRIS, with_template(annotations), credentials="store"))
    return namespace.wait_ready("iris", 240)


def users_of_loaders(namespace: Namespace) -> set[int | None]:
    return {loader(pod)["securityContext"].get("runAsUser") for pod in pods_of(namespace)}


def not_loaded(namespace: Namespace, reason: str) -> Json:
    """The condition of a model whose loader has failed, or tries again, for this reason."""
    failed = namespace.watch("deployment", "iris", lambda found: condition(found, LOADED).get("reason") == reason, 180)
    return condition(failed, LOADED)


def judged(namespace: Namespace, model: Json) -> str:
    """What admission says of a Deployment, without applying it."""
    done = namespace.run("kubectl", "apply", "--dry-run=server", "-f", "-", stdin=json.dumps(model), check=False)
    return done.stdout + done.stderr


@pytest.fixture
def sidecar_required(team: Namespace) -> Iterator[None]:
    """A policy that refuses pods whose sidecar can be bypassed: it also judges what the injector writes on a pod."""
    rule: Json = {"name": "sidecar", "mesh": {"allow": ["istio"]}}
    spec: Json = {"match": {"namespaces": [team.name]}, "action": "Deny", "rules": [rule]}
    policy: Json = {"apiVersion": "kubectl-serve.dev/v1alpha1", "kind": "ServingPolicy"}
    team.apply(policy | {"metadata": {"name": team.name}, "spec": spec})
    bypass = deployment("iris", IRIS, with_template({"sidecar.istio.io/interceptionMode": "NONE"}))
    eventually(lambda: "SidecarNotKept" in judged(team, bypass), 60, "the server sees the policy")
    yield
    team.kubectl("delete", "servingpolicy", team.name)


def test_a_native_sidecar_starts_before_the_loader(
    team: Namespace, sidecar_required: None, ingress: Ingress, iris: Trained
) -> None:
    with mesh_config(accessLogFile="/dev/stdout"):
        served = serve(team)
    [pod] = pods_of(team)
    assert order(pod) == ["istio-init", "istio-proxy", "model-loader"]
    assert "models/iris/model.joblib" in team.kubectl("logs", pod["metadata"]["name"], "-c", "istio-proxy")
    assert ingress.predict(served, iris.rows).predicted == iris.answers


def test_istio_init_redirects_after_the_loader(
    team: Namespace, sidecar_required: None, ingress: Ingress, iris: Trained
) -> None:
    served = serve(team, CONTAINER)
    [pod] = pods_of(team)
    assert order(pod) == ["model-loader", "istio-init", "istio-proxy"]
    assert loader(pod)["securityContext"].get("runAsUser") != 1337
    assert ingress.predict(served, iris.rows).predicted == iris.answers


def test_only_a_native_sidecar_lets_the_loader_read_a_store_behind_strict_mtls(
    team: Namespace, strict_store: Store, ingress: Ingress, iris: Trained
) -> None:
    team.apply(strict_store.secret())
    team.apply(deployment("iris", IRIS, with_template(CONTAINER), credentials="store"))
    not_loaded(team, "Unreachable")
    served = serve(team)
    assert ingress.predict(served, iris.rows).predicted == iris.answers


def test_a_mesh_of_registered_hosts_needs_a_service_entry(
    team: Namespace, empty: Namespace, web: str, ingress: Ingress, iris: Trained
) -> None:
    """Only the sidecar knows the host's address, from the ServiceEntry."""
    model = deployment("iris", "http://models.example.com:8080/model.joblib")
    closed = {
        "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
        "defaultConfig": {"proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true"}},
    }
    with mesh_config(**closed):
        eventually(lambda: "StoreNotRegistered" in judged(team, model), 60, "the server sees the mesh's policy")
        address = empty.get("service", "web")["spec"]["clusterIP"]
        entry = service_entry("models", "models.example.com", 8080, address)
        team.apply(entry)
        eventually(lambda: "StoreNotRegistered" not in judged(team, model), 60, "the server sees the ServiceEntry")
        team.apply(model)
        # Istio chose the address. Nodes of some clouds have addresses of this kind, so it needs permission.
        assert "240.240." in not_loaded(team, "Refused")["message"]
        team.kubectl("delete", "deployment", "iris")
        team.apply(entry | {"spec": entry["spec"] | {"addresses": [address]}}, model)
        served = team.wait_ready("iris", 240)
    assert ingress.predict(served, iris.rows).predicted == iris.answers


@pytest.mark.parametrize("dns_capture", ["false", "true"])
def test_behind_istios_cni_the_loader_downloads_past_the_sidecar(
    by_cni: None, team: Namespace, sidecar_required: None, ingress: Ingress, iris: Trained, dns_capture: str
) -> None:
    with mesh_config(defaultConfig={"proxyMetadata": {"ISTIO_META_DNS_CAPTURE": dns_capture}}):
        eventually(lambda: '"runAsUser": 1337' in completed(team, with_template(CONTAINER)), 60, "the CNI is seen")
        served = serve(team, CONTAINER)
    [pod] = pods_of(team)
    assert order(pod) == ["istio-validation", "model-loader", "istio-proxy"]
    assert loader(pod)["securityContext"]["runAsUser"] == 1337
    assert ingress.predict(served, iris.rows).predicted == iris.answers


def test_behind_istios_cni_a_native_sidecar_starts_before_the_loader(
    by_cni: None, team: Namespace, sidecar_required: None, ingress: Ingress, iris: Trained
) -> None:
    served = serve(team)
    [pod] = pods_of(team)
    assert order(pod) == ["istio-validation", "istio-proxy", "model-loader"]
    assert loader(pod)["securityContext"].get("runAsUser") != 1337
    assert ingress.predict(served, iris.rows).predicted == iris.answers


def test_behind_istios_cni_a_loader_that_was_completed_outside_the_mesh_is_blocked_until_completed_for_it(
    by_cni: None, team: Namespace, ingress: Ingress, iris: Trained
) -> None:
    team.kubectl("label", "namespace", team.name, "istio-injection-")
    eventually(lambda: NATIVE not in completed(team), 60, "the server sees that the namespace is not injected")
    team.apply(deployment("iris", IRIS, with_template(CONTAINER), credentials="store", scale="1..1"))
    team.wait_ready("iris", 240)
    team.kubectl("label", "namespace", team.name, "istio-injection=enabled")
    eventually(lambda: NATIVE in completed(team), 60, "the server sees that the namespace is injected")
    team.kubectl("delete", "pod", "-l", f"{PREFIX}deployment=iris", "--wait=false")
    not_loaded(team, "SidecarStartsLater")

    team.kubectl("annotate", "deployment", "iris", "team=a")
    eventually(lambda: 1337 in users_of_loaders(team), 60, "a pod is completed for the mesh")
    served = team.wait_ready("iris", 240)
    assert ingress.predict(served, iris.rows).predicted == iris.answers
