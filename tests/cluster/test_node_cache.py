"""The node cache on a real kubelet: one download for a node, access for each pod, and nothing left behind."""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import subprocess
import time
from argparse import Namespace as Flags
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cluster.support import (
    LOADED,
    PYTHON_IMAGE,
    READY,
    RESTRICTED,
    Ingress,
    Json,
    Namespace,
    Store,
    Trained,
    condition,
    constant_requests,
    deployment,
    eventually,
    manifest,
    printed,
)
from kubectl_serve.cli.streams import Streams
from kubectl_serve.connection import connect
from kubectl_serve.install import features, manifests
from kubectl_serve.install.manifests import SETTINGS_CONFIG_MAP, CacheSettings
from localcluster.processes import Record
from serve_core.base.constants import NAMESPACE, NODE_CACHE

SECONDS = float(os.environ.get("KUBECTL_SERVE_CHAOS", "0"))
LIMIT = 64 << 20
"""Bytes of the cache in a run that kills: less than its models."""
NODE = CacheSettings(
    size=f"{LIMIT >> 20}Mi" if SECONDS else "1Gi",
    path="/run/cluster/model-cache",
    # As the kubelet of the local cluster: the disk belongs to the user.
    keep_free="1%",
    kubelet="/run/cluster/kubelet",
)
ROOT = Path(__file__).resolve().parents[2]
DRIVER = Namespace("kubectl-serve-cache")
FLAG = "kubernetes.podspec-volumes-csi"
NO_FLAGS = dict.fromkeys(("kubeconfig", "context", "cluster", "user", "server", "token", "namespace", "as_user"))


def tag() -> str:
    """The tag of the installed images."""
    settings = Namespace(NAMESPACE).get("configmap", SETTINGS_CONFIG_MAP)["data"]["settings.yaml"]
    (image,) = (line.split()[-1] for line in settings.splitlines() if line.strip().startswith("image:"))
    return str(image.rpartition(":")[2])


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def installed() -> AsyncIterator[None]:
    """The driver on the node, and the feature flag that its volumes need."""
    flags = Flags(**NO_FLAGS, as_groups=[], insecure_skip_tls_verify=False, request_timeout=30.0)
    streams = Streams.of_process()
    objects = manifests.cache_objects(NODE, tag=tag())
    async with connect(flags, streams) as cluster:
        await features.enable(cluster, await features.read(cluster), (FLAG,), streams, dry_run="none")
        DRIVER.kubectl("apply", "-f", "-", stdin=manifest(*objects))
        DRIVER.kubectl("rollout", "status", "daemonset/kubectl-serve-cache", "--timeout=2m")
        eventually(lambda: NODE_CACHE in DRIVER.kubectl("get", "csinodes", "-o", "yaml"), 90, "no driver on the node")
        try:
            yield
        finally:
            eventually(lambda: not mounts(), 180, "a mount is left")  # only the driver can unmount
            DRIVER.kubectl("delete", "-f", "-", stdin=manifest(*objects))
            await features.revert(cluster, (), streams, dry_run="none")


def model(name: str, **changes: str) -> Json:
    asked = {"credentials": "store", "cache": "node", "format": "sklearn", **changes}
    return deployment(name, "s3://models/iris", **asked)


def inside(command: str) -> str:
    """What a command prints in the driver's container."""
    # The helper's --namespace at the end becomes an argument of the shell.
    return DRIVER.kubectl("exec", f"--namespace={DRIVER.name}", "ds/kubectl-serve-cache", "--", "sh", "-c", command)


def content() -> list[str]:
    """The names of the models that the node has."""
    return sorted(name for name in inside("ls /cache/trees").split() if not name.endswith(".json"))


def mounts() -> list[str]:
    """The mounts of models that pods have."""
    return [line for line in inside("cat /proc/self/mountinfo").splitlines() if "/trees/" in line]


def test_a_model_reaches_the_node_once_for_all_models_and_pods(
    namespace: Namespace, ingress: Ingress, iris: Trained
) -> None:
    namespace.apply(model("one", scale="2..2"))
    served = namespace.wait_ready("one")
    assert ingress.predict(served, iris.rows).predicted == iris.answers
    assert condition(served, LOADED)["reason"] == "Loaded"
    for pod in namespace.list("pods"):
        assert "initContainers" not in pod["spec"]
    before = content()

    namespace.apply(model("two"))
    assert ingress.predict(namespace.wait_ready("two"), iris.rows).predicted == iris.answers
    assert content() == before


@pytest.mark.attack(41)
def test_a_tenant_with_a_wrong_secret_gets_the_reason_and_no_model(
    namespace: Namespace, ingress: Ingress, iris: Trained
) -> None:
    namespace.apply(model("right"))
    namespace.wait_ready("right")
    secret = namespace.get("secret", "store")
    wrong = {**secret["data"], "AWS_SECRET_ACCESS_KEY": "d3Jvbmc="}
    namespace.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong"}, "data": wrong})
    namespace.apply(model("wrong", credentials="wrong"))
    found = namespace.watch("deployment", "wrong", lambda each: condition(each, LOADED).get("status") == "False", 60)
    assert condition(found, LOADED)["reason"] == "Unauthorized"


def test_the_switch_to_the_cache_and_back_fails_no_request(
    namespace: Namespace, ingress: Ingress, iris: Trained
) -> None:
    namespace.apply(model("iris", cache="none", scale="1..1"))
    served = namespace.wait_ready("iris")
    with constant_requests(lambda: ingress.predict(served, iris.rows)) as requests:
        for value, by_loader in (("node", False), ("none", True)):
            namespace.apply(model("iris", cache=value, scale="1..1"))

            def is_loaded_so(found: Json, by_loader: bool = by_loader) -> bool:
                template = found["spec"]["template"]["spec"]
                return ("initContainers" in template) is by_loader and condition(found, LOADED)["status"] == "True"

            namespace.watch("deployment", "iris", is_loaded_so, 120)
            namespace.wait_ready("iris")
    assert requests.failed == []


def test_a_restart_of_the_driver_disturbs_no_pod_and_leaves_no_mount(
    namespace: Namespace, ingress: Ingress, iris: Trained
) -> None:
    namespace.apply(model("iris", scale="1..1"))
    served = namespace.wait_ready("iris")
    with constant_requests(lambda: ingress.predict(served, iris.rows)) as requests:
        DRIVER.kubectl("delete", "pods", "--all", "--now")
        DRIVER.kubectl("rollout", "status", "daemonset/kubectl-serve-cache", "--timeout=2m")
    assert requests.failed == []
    assert ingress.predict(served, iris.rows).predicted == iris.answers
    namespace.kubectl("delete", "deployment", "iris")
    eventually(lambda: not namespace.list("pods"), 120, "a pod does not end")
    eventually(lambda: not mounts(), 120, "a mount is left")


def test_the_driver_has_seven_capabilities_and_no_token() -> None:
    said = inside("grep -E 'Cap(Eff|Bnd)' /proc/1/status; ls /var/run/secrets/kubernetes.io 2>&1 || true")
    masks = [int(line.split()[1], 16) for line in said.splitlines() if line.startswith("Cap")]
    assert [mask.bit_count() for mask in masks] == [7, 7]
    assert "No such file" in said


def listed(namespace: Namespace) -> list[Json]:
    """The models that pods of a namespace use, as an operator sees them."""
    shown = json.loads(namespace.kubectl("serve", "cache", "list", "-o", "json"))
    return [model for node in shown["nodes"] for model in node["models"]]


def test_an_operator_lists_verifies_and_evicts(namespace: Namespace, ingress: Ingress, iris: Trained) -> None:
    namespace.apply(model("iris", scale="1..1"))
    namespace.wait_ready("iris")
    (found,) = listed(namespace)
    assert found["sources"] == ["s3://models/iris"]
    (user,) = found["pods"]
    assert (user["namespace"], user["deployment"]) == (namespace.name, "iris")
    assert f"{found['name'][:12]} verified" in namespace.kubectl("serve", "cache", "verify", found["name"])
    refused = namespace.run("kubectl", "serve", "cache", "evict", found["name"], check=False)
    assert refused.returncode == 1
    assert "a pod uses it" in refused.stderr
    tenant = ("--as", f"system:serviceaccount:{namespace.name}:default")
    denied = namespace.run("kubectl", "serve", "cache", "list", *tenant, check=False)
    assert denied.returncode == 1
    assert "only operators" in denied.stderr
    assert "iris" not in denied.stdout

    namespace.kubectl("delete", "deployment", "iris")
    eventually(lambda: not namespace.list("pods"), 120, "a pod does not end")
    gone = eventually(
        lambda: namespace.run("kubectl", "serve", "cache", "evict", found["name"], check=False).stdout,
        30,
        "not evicted",
    )
    assert "evicted" in gone
    assert found["name"] not in content()


@pytest.mark.attack(46)
def test_no_pod_and_no_download_reaches_the_drivers_endpoint(namespace: Namespace) -> None:
    program = (
        "import os, urllib.request; os.setuid(2000001)\n"
        "try: print(urllib.request.urlopen('http://127.0.0.1:8081/models').status)\n"
        "except urllib.error.HTTPError as error: print(error.code)"
    )
    assert inside(f'/opt/model-loader/bin/python -c "{program}"').strip() == "403"
    (driver,) = DRIVER.list("pods")
    target = f"http://{driver['status']['podIP']}:8081/models"
    from_a_pod = (
        "import urllib.request\n"
        f"try: urllib.request.urlopen('{target}', timeout=5); print('{{}}')\n"
        "except OSError as error: print('{\"reached\": false}')"
    )
    found = printed(namespace, PYTHON_IMAGE, ["python3", "-c", from_a_pod])
    assert found == {"reached": False}


PREFETCHED = "kubectl-serve.dev/Prefetched"


def test_a_new_model_is_on_the_node_before_its_revision_starts(
    namespace: Namespace, ingress: Ingress, store: Store, iris: Trained
) -> None:
    namespace.apply(model("iris", prefetch="1", scale="1..1"))
    served = namespace.wait_ready("iris")
    namespace.watch("deployment", "iris", lambda each: condition(each, PREFETCHED).get("reason") == "Prefetched", 60)
    eventually(lambda: not in_advance(namespace), 30, "what loads the model is left")
    with constant_requests(lambda: ingress.predict(served, iris.rows)) as requests:
        changed = model("iris", prefetch="all", scale="1..1")
        changed["metadata"]["annotations"]["kubectl-serve.dev/model"] = "s3://models/iris/model.joblib"
        namespace.apply(changed)
        namespace.watch("deployment", "iris", lambda each: "Waiting for nodes" in condition(each, READY)["message"], 60)
        moved = namespace.watch("deployment", "iris", lambda each: condition(each, READY)["status"] == "True", 120)
    assert requests.failed == []
    assert condition(moved, PREFETCHED)["message"].endswith("nodes have the model.")
    eventually(lambda: not in_advance(namespace), 30, "what loads the model is left")
    again = namespace.run("kubectl", "serve", "cache", "prefetch", "iris")
    assert "nodes have the model" in again.stdout
    namespace.kubectl("annotate", "deployment", "iris", "kubectl-serve.dev/prefetch-")
    namespace.watch("deployment", "iris", lambda each: not condition(each, PREFETCHED), 30)


def in_advance(namespace: Namespace) -> list[Json]:
    """What loads models in advance."""
    selector = "kubectl-serve.dev/prefetch"
    return [each for kind in ("statefulsets", "daemonsets", "pods") for each in namespace.list(kind, selector)]


def test_a_limit_of_the_namespace_is_reported_and_the_model_is_served(
    namespace: Namespace, ingress: Ingress, iris: Trained
) -> None:
    limit = {"type": "Container", "min": {"memory": "64Mi"}, "defaultRequest": {"memory": "64Mi"}}
    namespace.apply(
        {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "least"}, "spec": {"limits": [limit]}}
    )
    namespace.apply(model("iris", prefetch="1"))
    found = namespace.watch(
        "deployment", "iris", lambda each: condition(each, PREFETCHED).get("reason") == "PrefetchRefused", 60
    )
    assert "minimum memory usage" in condition(found, PREFETCHED)["message"]
    namespace.wait_ready("iris")
    refused = namespace.run("kubectl", "serve", "cache", "prefetch", "iris", "--timeout", "30s", check=False)
    assert refused.returncode == 1
    assert "PrefetchRefused" in refused.stderr
    namespace.kubectl("delete", "deployment", "iris")
    eventually(lambda: not in_advance(namespace), 60, "what loads the model is left")


def test_a_wrong_secret_is_the_cause(namespace: Namespace, store: Store) -> None:
    secret = namespace.get("secret", "store")
    wrong = {**secret["data"], "AWS_SECRET_ACCESS_KEY": "d3Jvbmc="}
    namespace.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong"}, "data": wrong})
    namespace.apply(model("iris", credentials="wrong", prefetch="1"))
    found = namespace.watch("deployment", "iris", lambda each: condition(each, PREFETCHED).get("status") == "False", 60)
    assert condition(found, PREFETCHED)["reason"] == "Unauthorized"


KILLS = ("driver", "downloads", "containerd", "kubelet")


@pytest.mark.skipif(not SECONDS, reason="KUBECTL_SERVE_CHAOS has the seconds of the run")
def test_no_kill_shows_a_pod_a_wrong_model(namespace: Namespace, store: Store) -> None:
    """Pods come and go, while the driver, its downloads, containerd and the kubelet are killed at random."""
    chance = random.Random(20)
    bodies = [chance.randbytes(20 << 20) for _ in range(4)]
    for number, body in enumerate(bodies):
        store.bucket.put(f"chaos-{number}/model.bin", body)
    ends, count = time.monotonic() + SECONDS, 0
    phases: Counter[str] = Counter()
    kills: Counter[str] = Counter()
    largest = 0
    while True:
        pods = [pod for pod in namespace.list("pods") if "deletionTimestamp" not in pod["metadata"]]
        ended = [pod for pod in pods if pod["status"].get("phase") in ("Succeeded", "Failed")]
        phases.update(pod["status"]["phase"] for pod in ended)
        # Others can fail without a model: a killed containerd does not start their container.
        wrong = [pod["metadata"]["name"] for pod in ended if exit_code(pod) == WRONG]
        assert not wrong, [namespace.kubectl("logs", name) for name in wrong]
        if time.monotonic() > ends and len(ended) == len(pods):
            break
        gone = [*ended, *([chance.choice(pods)] if pods and chance.random() < 0.3 else [])]
        if gone:
            namespace.kubectl("delete", "pods", "--wait=false", *{pod["metadata"]["name"] for pod in gone})
        if time.monotonic() < ends:
            count += (missing := max(0, 10 - len(pods)))
            made = [(number, chance.randrange(4)) for number in range(count - missing, count)]
            if made:
                namespace.apply(*(checking(number, which, bodies[which]) for number, which in made))
            if chance.random() < 0.2:
                what = chance.choice(KILLS)
                kills[what] += 1
                kill(what)
        with contextlib.suppress(AssertionError):  # the driver can be between two lives
            largest = max(largest, used())
        time.sleep(1)  # of a random run
    print(f"pods: {dict(phases)}; kills: {dict(kills)}; at most {largest >> 20} MiB on the disk")
    assert phases["Succeeded"] > SECONDS / 20
    assert largest <= LIMIT + (2 << 20)  # folders, and records
    eventually(lambda: not mounts(), 180, "a mount is left")


def used() -> int:
    """Bytes on the disk, also of what is not complete."""
    return int(inside("du -s --block-size=1 /cache").split()[0])


def kill(what: str) -> None:
    """Kill something of the node, as a crash does. What Kubernetes does not start again is started again."""
    if what == "driver":
        DRIVER.kubectl("delete", "pods", "--all", "--force", "--grace-period=0")
        DRIVER.kubectl("rollout", "status", "daemonset/kubectl-serve-cache", "--timeout=2m")
    elif what == "downloads":
        with contextlib.suppress(AssertionError):
            inside("for p in /proc/[0-9]*; do grep -q model_cache.fetch $p/cmdline && kill -9 ${p#/proc/}; done; :")
    else:
        cluster = Path(os.environ["KUBECONFIG"]).parent
        process = Record(cluster / "run" / f"{what}.json").read()
        assert process is not None
        asyncio.run(process.kill())
        command = [str(ROOT / "scripts/cluster"), "up", "--name", cluster.name]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)


def exit_code(pod: Json) -> int | None:
    """The exit code of a pod's container, if it was started."""
    states = [each.get("state", {}) for each in pod["status"].get("containerStatuses", [])]
    return next((each["terminated"]["exitCode"] for each in states if "terminated" in each), None)


WRONG = 42
"""Exit code of a container that saw another model."""


def checking(number: int, which: int, body: bytes) -> Json:
    """A pod that fails where the model is not exactly `body`, all the time."""
    wanted = hashlib.sha256(body).hexdigest()
    program = f"""
import hashlib, os, sys, time
def found():
    read = lambda name: open("/mnt/models/" + name, "rb").read()
    return {{name: hashlib.sha256(read(name)).hexdigest() for name in os.listdir("/mnt/models")}}
try:
    for _ in range(3):
        assert found() == {{"model.bin": {wanted!r}}}, found()
        time.sleep(1)
except Exception as error:
    print(repr(error))
    sys.exit({WRONG})
"""
    container = {
        "name": "check",
        "image": PYTHON_IMAGE,
        "command": ["python3", "-c", program],
        "securityContext": RESTRICTED | {"runAsUser": 1000},
        "volumeMounts": [{"name": "model", "mountPath": "/mnt/models", "subPath": "model", "readOnly": True}],
    }
    csi = {
        "driver": NODE_CACHE,
        "readOnly": True,
        "nodePublishSecretRef": {"name": "store"},
        "volumeAttributes": {"arguments": json.dumps(["--", f"s3://models/chaos-{which}"])},
    }
    spec = {"restartPolicy": "Never", "containers": [container], "volumes": [{"name": "model", "csi": csi}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"check-{number}"}, "spec": spec}
