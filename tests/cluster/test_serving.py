"""The main job: a model answers, scales to zero and back, changes, and is deleted completely."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
import yaml

from cluster.support import (
    EXAMPLES,
    LOADED,
    PREFIX,
    READY,
    Ingress,
    Json,
    Namespace,
    Trained,
    condition,
    constant_requests,
    deployment,
    eventually,
    file_server,
    is_ready,
    manifest,
    pod_template,
)
from serve_core.api import state

SLOW_SERVER = """
import http.server, json, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *message):
        print(json.dumps({"answered": time.time()}), flush=True)
time.sleep(SECONDS)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler)
print(json.dumps({"listens": time.time()}), flush=True)
server.serve_forever()
"""
IRIS = "s3://models/iris/model.joblib"
ALWAYS_TWO = "s3://models/always-two/model.joblib"


def test_four_lines_of_yaml_answer_like_scikit_learn(namespace: Namespace, ingress: Ingress, iris: Trained) -> None:
    namespace.apply(deployment("iris", IRIS, credentials="store"))
    served = namespace.wait_ready("iris")

    assert ingress.predict(served, iris.rows).predicted == iris.answers
    assert condition(served, LOADED)["status"] == "True"
    assert state.read(served).revision == "iris-00001"
    assert served["spec"]["replicas"] == 0, "the Deployment itself is parked"
    assert not [pod for pod in namespace.list("pods") if "-deployment-" not in pod["metadata"]["name"]]


def test_the_plugin_creates_predicts_and_deletes(namespace: Namespace, iris: Trained) -> None:
    create = namespace.run("kubectl", "serve", "create", "iris", "--model", IRIS, "--credentials", "store")
    assert create.stdout == "deployment.apps/iris served\n"

    answer = namespace.kubectl("serve", "predict", "iris", json.dumps(iris.rows))
    assert json.loads(answer)["outputs"][0]["data"] == iris.answers

    namespace.kubectl("serve", "delete", "iris")
    assert namespace.list("deployments") == []
    assert namespace.list("services.serving.knative.dev") == []


def test_both_ways_in_make_the_same_service(namespace: Namespace) -> None:
    namespace.run("kubectl", "serve", "create", "iris", "--model", IRIS, "--credentials", "store", "--no-wait")
    created = namespace.watch("services.serving.knative.dev", "iris", lambda found: True)
    namespace.kubectl("delete", "deployment", "iris", "--cascade=foreground")
    namespace.apply(deployment("iris", IRIS, credentials="store"))
    applied = namespace.watch("services.serving.knative.dev", "iris", lambda found: True)

    assert applied["metadata"]["uid"] != created["metadata"]["uid"]
    assert applied["spec"] == created["spec"]


def test_goes_to_zero_and_comes_back_on_a_request(namespace: Namespace, ingress: Ingress, iris: Trained) -> None:
    namespace.apply(deployment("iris", IRIS, credentials="store", window="6s"))
    namespace.wait_ready("iris")
    namespace.wait_scaled_to_zero("iris")

    asleep = namespace.get("deployment", "iris")
    assert is_ready(asleep), "a model at zero is ready"
    assert condition(asleep, LOADED)["status"] == "True"

    began = time.monotonic()
    assert ingress.predict(asleep, iris.rows).predicted == iris.answers
    print(f"cold start: {time.monotonic() - began:.1f} s")


@pytest.mark.parametrize("seconds", [0.3, 2.5, 14])
def test_a_pod_is_ready_when_its_server_is(namespace: Namespace, seconds: float) -> None:
    """It does not wait for the next of Knative's probes, which come every 10 s; nor are there more of them later."""
    server = file_server("server", "") | {"readinessProbe": {"httpGet": {"path": "/", "port": 8080}}}
    server["command"] = ["/opt/mlserver/bin/python", "-c", SLOW_SERVER.replace("SECONDS", str(seconds))]
    spec = pod_template(server, {"app": "slow"})
    namespace.apply(deployment("slow", IRIS, spec, credentials="store", scale="1", runtime="custom"))
    namespace.wait_ready("slow")
    (pod,) = namespace.list("pods")
    name, since = pod["metadata"]["name"], datetime.fromisoformat(condition(pod, "Ready")["lastTransitionTime"])

    def printed() -> list[Json]:
        return [json.loads(line) for line in namespace.kubectl("logs", name, "-c", "server").splitlines()]

    listens = printed()[0]["listens"]
    # The API has whole seconds.
    assert since.timestamp() - listens < 2
    assert all(each["restartCount"] == 0 for each in pod["status"]["containerStatuses"])
    settled = since.timestamp() + 5
    eventually(lambda: printed()[-1].get("answered", 0) > settled + 15, 60, "the kubelet probes it again")
    answers = [line["answered"] for line in printed()[1:] if line["answered"] > settled]
    assert len(answers) <= 1 + (answers[-1] - settled) / 5, "more often than every 5 s"


def test_a_new_model_takes_over_without_a_failed_request(
    namespace: Namespace, ingress: Ingress, iris: Trained, always_two: Trained
) -> None:
    row = iris.rows[:1]
    assert iris.answers[:1] != always_two.answers[:1]
    namespace.apply(deployment("iris", IRIS, credentials="store"))
    served = namespace.wait_ready("iris")

    with constant_requests(lambda: ingress.predict(served, row)) as requests:
        eventually(lambda: iris.answers[:1] in requests.predictions, 30, "the first model answers")
        namespace.apply(deployment("iris", ALWAYS_TWO, credentials="store"))
        changed = namespace.wait_ready("iris")
        eventually(lambda: requests.predictions[-1] == always_two.answers[:1], 30, "the second model answers")

    print(f"{len(requests.answers)} requests, {len(requests.failed)} failed")
    assert requests.failed == []
    assert state.read(served).revision == "iris-00001"
    assert state.read(changed).revision == "iris-00002"


def test_a_large_model_gets_time_and_room(namespace: Namespace) -> None:
    namespace.apply(deployment("iris", IRIS, credentials="store", size="1Gi"))
    namespace.wait_ready("iris")

    (revision,) = namespace.list("deployments", "serving.knative.dev/revision=iris-00001")
    assert revision["spec"]["progressDeadlineSeconds"] == 703
    (pod,) = namespace.list("pods")
    assert pod["spec"]["initContainers"][0]["resources"]["requests"]["ephemeral-storage"] == "2Gi"


@pytest.fixture
def probing() -> Iterator[None]:
    """Knative probes all containers of a pod. The flag is as it was afterwards."""
    flag, knative = "multi-container-probing", Namespace("knative-serving")
    patch = ("patch", "configmap", "config-features", "--type=merge", "-p")
    before = knative.get("configmap", "config-features")["data"].get(flag)
    knative.kubectl(*patch, json.dumps({"data": {flag: "enabled"}}))
    yield
    knative.kubectl(*patch, json.dumps({"data": {flag: before}}))


def answer_of(address: str, body: str) -> str:
    """The transformer's answer; empty while the node does not lead the Service's address to the pod yet."""
    with contextlib.suppress(ConnectionRefusedError):
        return Ingress(address).request("http://flowers", "/predict", body).body
    return ""


@pytest.mark.parametrize("mode", ["knative", "deployment"])
def test_a_transformer_in_front_calls_the_model_server(
    namespace: Namespace, ingress: Ingress, probing: None, mode: str
) -> None:
    served, app = yaml.safe_load_all((EXAMPLES / "transformer.yaml").read_text())
    served["metadata"]["annotations"][f"{PREFIX}mode"] = mode
    apply = ("kubectl", "apply", "-f", "-")
    eventually(
        lambda: namespace.run(*apply, stdin=manifest(served, app), check=False).returncode == 0,
        30,
        "both webhooks have seen the flag",
    )
    found = namespace.wait_ready("flowers")

    body = json.dumps({"flowers": [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]})
    if mode == "knative":
        answer = ingress.request(state.read(found).url, "/predict", body).body
    else:
        address = namespace.get("service", "flowers")["spec"]["clusterIP"]
        answer = eventually(lambda: answer_of(address, body), 30, "the Service leads to the pod")
    assert json.loads(answer) == {"species": ["setosa", "virginica"]}


def test_a_model_is_at_the_path_of_its_annotation(namespace: Namespace, ingress: Ingress, iris: Trained) -> None:
    own = pod_template(file_server("files", "/models"), {"app": "own"})
    namespace.apply(deployment("own", IRIS, own, credentials="store", mount="/models"))
    namespace.apply(deployment("iris", IRIS, credentials="store", mount="/data/iris"))
    named = pod_template(file_server("files", "/srv/models"), {"app": "named"})
    namespace.apply(deployment("named", IRIS, named, credentials="store", mount="/srv/models/iris.joblib"))
    for name, file in (("own", "model.joblib"), ("named", "iris.joblib")):
        listing = ingress.request(state.read(namespace.wait_ready(name)).url, "/")
        assert re.findall(r'href="([^"]+)"', listing.body) == [file]
    assert ingress.predict(namespace.wait_ready("iris"), iris.rows).predicted == iris.answers

    namespace.kubectl("annotate", "deployment", "iris", f"{PREFIX}mount-")
    moved = namespace.wait_ready("iris")
    assert state.read(moved).revision == "iris-00002"
    assert ingress.predict(moved, iris.rows).predicted == iris.answers


def test_kubectl_wait_is_enough(namespace: Namespace) -> None:
    namespace.apply(deployment("iris", IRIS, credentials="store"))
    said = namespace.kubectl("wait", f"--for=condition={READY}", "deployment/iris", "--timeout=2m")
    assert said == "deployment.apps/iris condition met\n"


def test_deleting_the_deployment_leaves_nothing_behind(namespace: Namespace) -> None:
    before = everything_in(namespace)
    namespace.apply(deployment("iris", IRIS, credentials="store"))
    namespace.wait_ready("iris")
    assert everything_in(namespace) > before

    namespace.kubectl("delete", "deployment", "iris")

    eventually(lambda: everything_in(namespace) <= before, 120, "only what was there before")


def test_taking_the_annotation_off_gives_the_plain_deployment_back(namespace: Namespace) -> None:
    spec = {"replicas": 2} | pod_template(file_server("files", "/"), {"app": "own"})
    namespace.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "own"}, "spec": spec})
    written = namespace.get("deployment", "own")["spec"]
    namespace.kubectl("delete", "deployment", "own")

    namespace.apply(deployment("own", IRIS, spec, credentials="store"))
    namespace.wait_ready("own")
    namespace.kubectl("annotate", "deployment", "own", "kubectl-serve.dev/model-", "kubectl-serve.dev/credentials-")

    namespace.kubectl("wait", "--for=delete", "services.serving.knative.dev/own", "--timeout=120s")
    given_back = namespace.watch("deployment", "own", lambda found: not marks_of_ours(found))
    assert given_back["spec"] == written
    assert given_back["status"]["readyReplicas"] == 2


def marks_of_ours(found: Json) -> list[str]:
    """Annotations, labels and conditions that are kubectl-serve's."""
    metadata = found["metadata"]
    keys = [*metadata.get("annotations", {}), *metadata.get("labels", {})]
    keys += [condition["type"] for condition in found["status"].get("conditions", [])]
    return [key for key in keys if key.startswith(PREFIX)]


def everything_in(namespace: Namespace) -> set[tuple[str, str]]:
    """Every object of every kind that can be listed there; Events only report the past."""
    kinds = namespace.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    listed = ",".join(kind for kind in kinds if not kind.startswith("events"))
    names = namespace.kubectl("get", listed, "--ignore-not-found", "-o", "name").split()
    return {(kind, name) for kind, name in (line.split("/", 1) for line in names)}
