"""The chart on a real cluster: install, upgrade, test and uninstall."""

import subprocess
from collections.abc import Iterator

import pytest

from cluster.support import (
    SERVER,
    Ingress,
    Json,
    Namespace,
    Trained,
    deployment,
    file_server,
    pod_template,
)
from support.paths import ROOT
from support.programs import program

MODEL = "s3://models/iris/model.joblib"
DEFINITIONS = [f"{plural}.kubectl-serve.dev" for plural in ("modelruntimes", "policyexceptions", "servingpolicies")]
ADMISSION = (
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
)
CLUSTER = Namespace("default")
"""For objects without a namespace."""


class Release:
    """The release ``serving`` of the chart, in a namespace of its own."""

    def __init__(self, registry: str, tag: str) -> None:
        self.namespace = Namespace("releases")
        self._values = ["--set", f"image.registry={registry},image.tag={tag}"]

    def helm(self, verb: str, *arguments: str) -> str:
        return self.namespace.run(program("helm"), verb, "serving", *arguments).stdout

    def put(self, verb: str, *arguments: str) -> None:
        chart = str(ROOT / "manifests/chart")
        self.helm(verb, chart, *self._values, "--wait", "--timeout", "2m", *arguments)


def serve(*arguments: str) -> None:
    subprocess.run(["kubectl", "serve", *arguments], check=True, timeout=300)


@pytest.fixture
def release(ingress: Ingress) -> Iterator[Release]:
    """A release that can be installed: kubectl-serve is not, until the end of the test."""
    image = SERVER.get("deployment", "kubectl-serve")["spec"]["template"]["spec"]["containers"][0]["image"]
    registry, tag = image.rpartition("/")[0], image.rpartition(":")[2]
    serve("uninstall")
    release = Release(registry, tag)
    try:
        yield release
    finally:
        release.helm("uninstall", "--ignore-not-found", "--wait")
        release.namespace.kubectl("delete", "namespace", "releases", "--ignore-not-found", "--wait=false")
        serve("install", "--registry", registry, "--tag", tag)


def bundles() -> list[str]:
    return [
        hook["clientConfig"].get("caBundle", "")
        for kind in ADMISSION[:2]
        for hook in CLUSTER.get(kind, "kubectl-serve")["webhooks"]
    ]


def ours(kind: str) -> list[str]:
    return [each["metadata"]["name"] for each in CLUSTER.list(kind, "app.kubernetes.io/name=kubectl-serve")]


def server() -> Json:
    return SERVER.get("deployment", "kubectl-serve")


def test_a_release_serves_models_that_run_on_without_it(
    namespace: Namespace, ingress: Ingress, iris: Trained, release: Release
) -> None:
    release.put("install", "--create-namespace")
    namespace.apply(deployment("iris", MODEL, credentials="store"))
    served = namespace.wait_ready("iris")
    assert ingress.predict(served, iris.rows).predicted == iris.answers

    trusted = bundles()
    assert all(trusted)
    release.put("upgrade", "--set", "server.replicas=1,labels.team=ml,settings.sidecarImages={example.com/proxy:1}")
    assert server()["spec"]["replicas"] == 1
    assert bundles() == trusted, "the server's fields stay"
    for name in DEFINITIONS:
        labels = CLUSTER.get("customresourcedefinition", name)["metadata"]["labels"]
        assert labels["team"] == "ml", "definitions are upgraded"
    assert ingress.predict(namespace.get("deployment", "iris"), iris.rows).predicted == iris.answers

    assert "Succeeded" in release.helm("test")

    release.helm("uninstall", "--wait")
    assert sorted(ours("customresourcedefinitions")) == DEFINITIONS
    assert {kind: ours(kind) for kind in ADMISSION} == {kind: [] for kind in ADMISSION}
    assert ingress.predict(namespace.get("deployment", "iris"), iris.rows).predicted == iris.answers
    plain = pod_template(file_server("web", "/tmp"), {"app": "web"})
    namespace.apply(deployment("unserved", MODEL, plain))
    namespace.kubectl("rollout", "status", "deployment/unserved", "--timeout=60s")
