"""install and uninstall: the order, the messages, and the checks before."""

import json

import pytest
import yaml

from kubectl_serve import __version__
from kubectl_serve.commands import install
from kubectl_serve.commands.uninstall import order
from kubectl_serve.install import manifests
from kubectl_serve.install.resources import resource_of
from serve_core.base.json import JsonObject
from serve_kube import errors
from support.fake_cluster import FakeCluster, at_the_end
from unit.kubectl_serve.conftest import Run

KNATIVE: JsonObject = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "services.serving.knative.dev"},
}


def features(**data: str) -> JsonObject:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "config-features", "namespace": "knative-serving"},
        "data": data,
    }


READY = features(**{"kubernetes.podspec-init-containers": "Enabled"})


def test_everything_is_applied_in_the_order_of_the_manifests(run: Run) -> None:
    cluster = FakeCluster([KNATIVE, READY])
    screen = run("install", "--no-wait", cluster=cluster)
    assert screen.code == 0
    kinds = [manifest["kind"] for _, _, manifest in cluster.wrote]
    assert kinds[0] == "Namespace"
    assert kinds.index("ConfigMap") < kinds.index("Deployment") < kinds.index("MutatingWebhookConfiguration")
    assert screen.out.splitlines()[0] == "namespace/kubectl-serve created"
    assert all(line.endswith(" created") for line in screen.out.splitlines())


def test_a_second_time_nothing_changes(run: Run) -> None:
    cluster = FakeCluster([KNATIVE, READY])
    run("install", "--no-wait", cluster=cluster)
    lines = run("install", "--no-wait", cluster=cluster).out.splitlines()
    assert all(line.endswith(" unchanged") for line in lines)
    changed = run("install", "--no-wait", "--tag", "next", cluster=cluster).out.splitlines()
    assert [line for line in changed if line.endswith(" configured")] == [
        "configmap/kubectl-serve configured",
        "deployment.apps/kubectl-serve configured",
    ]


def test_the_ca_of_the_webhooks_is_left_to_the_server() -> None:
    """Server-side apply leaves alone what it does not name."""
    webhooks = [each for each in manifests.all_objects() if each["kind"].endswith("WebhookConfiguration")]
    assert len(webhooks) == 2
    assert "caBundle" not in json.dumps(webhooks)


def test_the_runtimes_come_along_as_one_config_map() -> None:
    (found,) = [each for each in manifests.all_objects() if each["metadata"]["name"] == "kubectl-serve-runtimes"]
    assert {runtime.name for runtime in manifests.known_runtimes()} == {
        yaml.safe_load(text)["metadata"]["name"] for text in found["data"].values()
    }


def test_images_are_taken_from_the_registry_and_tag_that_are_asked_for() -> None:
    text = json.dumps(manifests.all_objects("registry.example.com/serving/", "abc"))
    assert "registry.example.com/serving/server:abc" in text
    assert "registry.example.com/serving/model-loader:abc\\n" in text
    assert "registry.example.com/serving/model-loader:abc-signing\\n" in text
    assert "registry.example.com/serving/mlserver-sklearn:1.7.1" in text
    assert manifests.PREFIX not in text


def test_the_manifests_name_the_images_of_this_version() -> None:
    text = json.dumps(manifests.all_objects())
    assert f"{manifests.PREFIX}/server:{__version__}" in text
    assert all(f"{image}\\n" in text for image in manifests.default_context().loader.images)


@pytest.mark.parametrize(
    "manifest", manifests.all_objects(), ids=lambda each: f"{each['kind']}-{each['metadata']['name']}"
)
def test_every_manifest_is_of_a_kind_that_is_known(manifest: JsonObject) -> None:
    assert resource_of(manifest).namespaced is ("namespace" in manifest["metadata"])


def test_a_dry_run_shows_the_manifests_without_a_request(run: Run) -> None:
    shown = list(yaml.safe_load_all(run("install", "--dry-run", "-o", "yaml").out))
    assert shown == manifests.all_objects()


def test_a_dry_run_in_the_cluster_writes_nothing(run: Run) -> None:
    cluster = FakeCluster([KNATIVE, READY])
    assert run("install", "--dry-run=server", cluster=cluster).code == 0
    assert {verb for verb, _, _ in cluster.wrote} == {"dry-run"}


def test_without_knative_nothing_is_applied(run: Run) -> None:
    cluster = FakeCluster()
    screen = run("install", cluster=cluster)
    assert (screen.code, cluster.wrote) == (1, [])
    assert screen.err.startswith("error: Knative Serving is not installed in this cluster")


@pytest.mark.parametrize("config", [features(), features(**{"kubernetes.podspec-init-containers": "disabled"})])
def test_a_missing_feature_flag_is_named_with_the_command_that_sets_it(run: Run, config: JsonObject) -> None:
    cluster = FakeCluster([KNATIVE, config])
    screen = run("install", cluster=cluster)
    assert (screen.code, cluster.wrote) == (1, [])
    assert screen.err == (
        "error: Knative's feature flag kubernetes.podspec-init-containers is not enabled: "
        "the loader cannot run without it.\n"
        "hint: kubectl patch configmap/config-features -n knative-serving --type merge "
        '-p \'{"data":{"kubernetes.podspec-init-containers":"enabled"}}\'\n'
    )


def rolled_out(run: Run) -> FakeCluster:
    """A cluster in which the server runs."""
    cluster = FakeCluster([KNATIVE, READY], completes=at_the_end("iris")[0])
    run("install", "--no-wait", cluster=cluster)
    server = next(each for each in cluster.objects if each["kind"] == "Deployment")
    server["metadata"]["generation"] = 1
    replicas = server["spec"]["replicas"]
    server["status"] = {
        "observedGeneration": 1,
        "replicas": replicas,
        "updatedReplicas": replicas,
        "availableReplicas": replicas,
    }
    cluster.keeps_status = True
    return cluster


def test_it_waits_until_the_server_runs_and_the_webhook_answers(run: Run) -> None:
    cluster = rolled_out(run)
    screen = run("install", cluster=cluster)
    assert screen.code == 0
    assert screen.err == (
        "Waiting for the server ...\nkubectl-serve is ready. Next: kubectl serve create NAME --model URI\n"
    )
    assert [verb for verb, _, _ in cluster.wrote][-1] == "dry-run"


def test_a_policy_that_would_deny_what_the_webhook_is_asked_is_no_reason_to_wait(run: Run) -> None:
    cluster = rolled_out(run)
    cluster.refuses = errors.DeniedError("SourceNotAllowed: no", webhook="policies.kubectl-serve.dev")
    assert run("install", cluster=cluster).code == 0


def test_an_image_that_cannot_be_pulled_is_reported_once_and_at_the_time_limit(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "TROUBLE_PAUSE", 0.001)
    pod: JsonObject = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "kubectl-serve-0",
            "namespace": "kubectl-serve",
            "labels": {"app.kubernetes.io/name": "kubectl-serve"},
        },
        "status": {"containerStatuses": [{"name": "server", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
    }
    screen = run("install", "--timeout", "200ms", cluster=FakeCluster([KNATIVE, READY, pod]))
    assert screen.code == 1
    assert screen.err.splitlines()[:3] == [
        "Waiting for the server ...",
        "ImagePullBackOff.",
        "error: kubectl-serve is not ready after 0 s: ImagePullBackOff.",
    ]


def test_the_webhooks_go_first_and_the_namespace_last() -> None:
    kinds = [each["kind"] for each in order(manifests.all_objects())]
    webhooks = [index for index, kind in enumerate(kinds) if kind.endswith("WebhookConfiguration")]
    assert webhooks == list(range(len(webhooks)))
    assert kinds[-1] == "Namespace"
    assert len(kinds) == len(manifests.all_objects())


def test_uninstalling_removes_what_was_installed_and_nothing_else(run: Run) -> None:
    cluster = FakeCluster([KNATIVE, READY])
    run("install", "--no-wait", cluster=cluster)
    screen = run("uninstall", cluster=cluster)
    assert (screen.code, screen.err) == (0, "")
    assert cluster.objects == [KNATIVE, READY]
    assert run("uninstall", cluster=cluster).out == ""


def test_uninstalling_keeps_what_users_wrote(run: Run) -> None:
    cluster = FakeCluster([KNATIVE, READY])
    run("install", "--no-wait", cluster=cluster)
    definition = next(each for each in cluster.objects if each["metadata"]["name"].startswith("servingpolicies."))
    spec = definition["spec"]
    version = f"{spec['group']}/{spec['versions'][0]['name']}"
    cluster.objects.append({"apiVersion": version, "kind": spec["names"]["kind"], "metadata": {"name": "sources"}})
    screen = run("uninstall", cluster=cluster)
    name = definition["metadata"]["name"]
    assert screen.err == (
        f"customresourcedefinition.apiextensions.k8s.io/{name} kept: "
        "its deletion would also delete the objects of its kind.\n"
    )
    assert definition in cluster.objects or any(each["metadata"]["name"] == name for each in cluster.objects)


def test_uninstalling_says_what_goes_on_without_it(run: Run) -> None:
    cluster = FakeCluster([KNATIVE, READY, *at_the_end("iris")])
    assert run("uninstall", cluster=cluster).err.startswith("Warning: 1 served Deployment in this cluster: ")
    assert any(each["metadata"]["name"] == "iris" for each in cluster.objects)


def test_a_dry_run_of_uninstalling_deletes_nothing(run: Run) -> None:
    cluster = FakeCluster([KNATIVE, READY])
    run("install", "--no-wait", cluster=cluster)
    before = len(cluster.objects)
    assert "namespace/kubectl-serve deleted (dry run)" in run("uninstall", "--dry-run", cluster=cluster).out
    out = run("uninstall", "--dry-run=server", cluster=cluster).out
    assert "namespace/kubectl-serve deleted (server dry run)" in out
    assert len(cluster.objects) == before


def test_the_installed_version_is_the_servers_tag(run: Run) -> None:
    cluster = FakeCluster([KNATIVE, READY])
    none = f"kubectl-serve {__version__}\ninstalled in the cluster: <none>\n"
    assert run("version", "--installed", cluster=cluster).out == none
    run("install", "--no-wait", "--tag", "abc", cluster=cluster)
    assert json.loads(run("version", "--installed", "-o", "json", cluster=cluster).out) == {
        "client": __version__,
        "cluster": "abc",
    }


def test_without_the_right_to_install_it_is_said(run: Run) -> None:
    cluster = FakeCluster(hidden=frozenset({"customresourcedefinitions"}))
    screen = run("install", cluster=cluster)
    assert (screen.code, screen.err.splitlines()[0]) == (1, "error: customresourcedefinitions is forbidden")


def of_helm() -> JsonObject:
    """The server's Deployment, as a release of the chart has it."""
    (found,) = [each for each in manifests.all_objects() if each["kind"] == "Deployment"]
    found["metadata"]["annotations"] = {
        "meta.helm.sh/release-name": "serving",
        "meta.helm.sh/release-namespace": "platform",
    }
    return found


@pytest.mark.parametrize(
    ("verb", "command"),
    [
        ("install", "helm upgrade serving CHART -n platform --reset-then-reuse-values"),
        ("uninstall", "helm uninstall serving -n platform"),
    ],
)
def test_what_helm_manages_is_left_to_helm(run: Run, verb: str, command: str) -> None:
    cluster = FakeCluster([KNATIVE, READY, of_helm()])
    screen = run(verb, cluster=cluster)
    assert (screen.code, cluster.wrote) == (1, [])
    assert screen.err == (
        "error: Helm manages kubectl-serve in this cluster: release serving in namespace platform.\n"
        f"hint: Use Helm: {command}\n"
    )
