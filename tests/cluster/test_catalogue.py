"""Knative accepts every runtime of the catalogue, and a restricted namespace its pod; with each protocol and a GPU."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.api_server import ApiServer
from cluster.support import Json, Namespace, deployment
from serve_core.admission.decide import judge
from serve_core.api import runtimes
from serve_core.context.cluster import ClusterContext, LoaderConfig
from support.paths import ROOT

FOLDER = ROOT / "manifests/runtimes"
CATALOGUE = [runtimes.parse(yaml.safe_load(path.read_text())) for path in sorted(FOLDER.glob("*.yaml"))]
OF_ONE_FILE = {each.name for each in CATALOGUE if each.single_file}
FACTS = ClusterContext(LoaderConfig("example.com/loader:1"), tuple(CATALOGUE))
GPU: Json = {"name": "model-server", "resources": {"limits": {"nvidia.com/gpu": "1"}}}


@pytest.fixture(scope="module")
def api() -> Iterator[ApiServer]:
    with ApiServer() as connected:
        yield connected


@pytest.fixture(scope="module")
def restricted(api: ApiServer) -> Iterator[str]:
    """The name of a namespace that enforces the restricted Pod Security Standard; nothing is ever created in it."""
    name = "test-catalogue"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    Namespace(name).kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=30s")
    yield name
    api.delete(f"/api/v1/namespaces/{name}")


@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize(
    ("runtime", "protocol"), [(each.name, protocol) for each in CATALOGUE for protocol in each.protocols]
)
def test_knative_and_the_restricted_standard_take_it(
    runtime: str, protocol: str, gpu: bool, api: ApiServer, restricted: str
) -> None:
    spec: Json | None = {"template": {"spec": {"containers": [GPU]}}} if gpu else None
    model = "s3://models/net.gguf" if runtime in OF_ONE_FILE else "s3://models/net"
    verdict = judge(deployment("model", model, spec, runtime=runtime, protocol=protocol), FACTS)
    assert verdict.problems == ()
    assert verdict.service is not None
    template = verdict.service["spec"]["template"]["spec"]
    # A bare pod may not have what only Knative understands: an eager probe, and the port's name.
    bare = [{**each, "readinessProbe": None, "ports": None} for each in template["containers"]]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "model"}, "spec": template | {"containers": bare}}
    status, answer = api.dry_run(f"/apis/serving.knative.dev/v1/namespaces/{restricted}/services", verdict.service)
    assert status == 201, answer
    status, answer = api.dry_run(f"/api/v1/namespaces/{restricted}/pods", pod)
    assert status == 201, answer


def test_the_namespace_does_turn_others_away(api: ApiServer, restricted: str) -> None:
    spec = {"containers": [{"name": "a", "image": "example.com/a:1"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "model"}, "spec": spec}
    status, answer = api.dry_run(f"/api/v1/namespaces/{restricted}/pods", pod)
    assert (status, "violates PodSecurity" in answer["message"]) == (403, True)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_crd_takes_it_as_a_runtime_of_the_clusters_own(path: Path, api: ApiServer) -> None:
    status, answer = api.dry_run("/apis/kubectl-serve.dev/v1alpha1/modelruntimes", yaml.safe_load(path.read_text()))
    assert status == 201, answer
    assert runtimes.parse(answer) == runtimes.parse(yaml.safe_load(path.read_text()))
