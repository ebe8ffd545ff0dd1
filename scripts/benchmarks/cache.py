"""What the node cache saves for a large model: many pods at once, and later pods beside a bare Knative Service.

1. `--pods` pods of one Deployment start at once, with a new model of `--gib` GiB: seconds from `kubectl apply` to
   Ready, downloads, and bytes that the store sent.
2. Another Deployment of the same model is at zero. In each round, a request starts a pod of it, and another request a
   pod of a bare Knative Service: the same server without a volume, which serves a folder of its own image. The size of
   an unpacked image does not change a start, so that image has no copy of the model. Bytes that the store sent for the
   model meanwhile: they must be 0.

Needs a quiet machine, a local cluster with kubectl-serve installed (eval "$(scripts/cluster env)"), and free disk for
two models. Installs the node cache in a folder of its own, and removes it with all content at the end; Knative's
feature flag stays enabled. Prints Markdown.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

from benchmarks.coldstart import FOLDER, PROGRAM, is_service_ready, short_grace_period  # noqa: E402
from cluster.support import (  # noqa: E402  # also used by the tests on a cluster
    PREFIX,
    Ingress,
    Json,
    Namespace,
    deployment,
    eventually,
    example_store,
    file_server,
    is_ready,
    pod_template,
)
from serve_core.base.constants import NAMESPACE, NODE_CACHE  # noqa: E402

SPACE = Namespace("bench-cache")
DRIVER = Namespace("kubectl-serve-cache")
CACHED, BARE = "cached", "bare"
FILES = 4
BLOCK = bytes(8 << 20)
MAX_SECONDS = 1800


def install(gib: int) -> None:
    """Install the node cache, as on the local cluster's nodes."""
    settings = Namespace(NAMESPACE).get("configmap", "kubectl-serve")["data"]["settings.yaml"]
    (image,) = (line.split()[-1] for line in settings.splitlines() if line.strip().startswith("image:"))
    registry, _, tag = image.rpartition("/model-loader:")
    command = [str(Path(sys.executable).parent / "kubectl-serve"), "install", "--registry", registry, "--tag", tag]
    command += ["--cache", "--cache-size", f"{gib + 1}Gi", "--cache-path", "/run/cluster/bench-cache"]
    command += ["--cache-keep-free", "1%", "--kubelet-path", "/run/cluster/kubelet"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    DRIVER.kubectl("rollout", "status", "daemonset/kubectl-serve-cache", "--timeout=2m")
    eventually(lambda: NODE_CACHE in DRIVER.kubectl("get", "csinodes", "-o", "yaml"), 90, "no driver on the node")


@contextlib.contextmanager
def installed(gib: int) -> Iterator[None]:
    """The node cache is installed, while the block runs."""
    install(gib)
    try:
        yield
    finally:
        # Only the driver can unmount.
        SPACE.kubectl("delete", "namespace", SPACE.name, f"--timeout={MAX_SECONDS}s")
        inside = ["exec", f"--namespace={DRIVER.name}", "ds/kubectl-serve-cache", "--", "sh", "-c"]
        DRIVER.kubectl(*inside, "rm -rf /cache/files/* /cache/trees/* /cache/parts/*")
        DRIVER.kubectl("delete", "daemonset", "kubectl-serve-cache")


def metrics() -> dict[str, float]:
    """The driver's metrics, by name."""
    (pod,) = (pod["metadata"]["name"] for pod in DRIVER.list("pods"))
    text = DRIVER.kubectl("get", "--raw", f"/api/v1/namespaces/{DRIVER.name}/pods/{pod}:8080/proxy/metrics")
    lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return {name.removeprefix("kubectl_serve_cache_"): float(value) for name, value in lines}


def server(folder: str) -> Json:
    """A server that lists a folder, answers at once, and ends at once."""
    program = PROGRAM.replace("SECONDS", "0").replace(repr(FOLDER), repr(folder))
    return file_server("server", folder) | {"command": ["/opt/mlserver/bin/python", "-c", program]}


def model(name: str, **annotations: str) -> Json:
    """A model that the node keeps."""
    asked = {"credentials": "store", "cache": "node", **annotations}
    return deployment(name, "s3://models/large", pod_template(server(FOLDER), {"app": name}), **asked)


def bare(template: Json) -> Json:
    """The Knative Service of the pod that kubectl-serve made, as a user writes it, without the model."""
    template = json.loads(json.dumps(template))
    for kind in ("labels", "annotations"):
        kept = {key: value for key, value in template["metadata"].get(kind, {}).items() if not key.startswith(PREFIX)}
        template["metadata"][kind] = kept
    pod = template["spec"]
    (container,) = pod["containers"]
    container |= {"command": server("/etc/ssl")["command"], "volumeMounts": []}
    pod["volumes"] = []
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": BARE},
        "spec": {"template": template},
    }


def at_once(pods: int) -> float:
    """Start pods at once; return the seconds until all are ready."""
    began = time.perf_counter()
    SPACE.apply(model("many", scale=f"{pods}..{pods}"))
    SPACE.watch("deployment", "many", is_ready, MAX_SECONDS)
    seconds = time.perf_counter() - began
    SPACE.kubectl("delete", "deployment", "many")
    SPACE.wait_scaled_to_zero("many", MAX_SECONDS)
    return seconds


def from_zero(rounds: int, ingress: Ingress) -> dict[str, list[float]]:
    """Seconds from a request to its answer, by arm."""
    SPACE.apply(model(CACHED, window="6s"))
    SPACE.watch("deployment", CACHED, is_ready, MAX_SECONDS)
    SPACE.apply(bare(SPACE.get("ksvc", CACHED)["spec"]["template"]))
    SPACE.watch("ksvc", BARE, is_service_ready, MAX_SECONDS)
    seconds: dict[str, list[float]] = {CACHED: [], BARE: []}
    for number in range(rounds):
        for arm in (CACHED, BARE) if number % 2 else (BARE, CACHED):
            SPACE.wait_scaled_to_zero(arm)
            began = time.perf_counter()
            answer = ingress.request(f"http://{arm}.{SPACE.name}.kubectl-serve.test", "/", None, seconds=180)
            seconds[arm].append(time.perf_counter() - began)
            if answer.status != 200:
                raise RuntimeError(f"{arm} answered {answer.status}: {answer.body[:200]}")
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return seconds


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench cache", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=int, default=8, help="size of the model (default: 8)")
    parser.add_argument("--pods", type=int, default=20, help="pods that start at once (default: 20)")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    balancer = Namespace("traefik").get("service", "traefik")["status"]["loadBalancer"]
    ingress = Ingress(balancer["ingress"][0]["ip"])
    SPACE.kubectl("delete", "namespace", SPACE.name, "--ignore-not-found")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    SPACE.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE.name, "labels": labels}})
    with installed(options.gib), short_grace_period():
        store = example_store(SPACE)
        SPACE.apply(store.secret())  # with the store's name in full: the driver is in another namespace
        for number in range(FILES):
            blocks = (options.gib << 30) // FILES // len(BLOCK)
            store.bucket.put(f"large/{number}.bin", (BLOCK for _ in range(blocks)))
        first = metrics()
        together = at_once(options.pods)
        second = metrics()
        downloads, received = (second[name] - first[name] for name in ("downloads_total", "received_bytes_total"))
        print(f"{options.pods} pods at once, {options.gib} GiB: ready after {together:.1f} s,", end=" ")
        print(f"{downloads:.0f} download, {received / (1 << 30):.2f} GiB from the store\n", flush=True)
        seconds = from_zero(options.rounds, ingress)
        third = metrics()
        print("| from zero | rounds | p50, s | maximum, s | ÷ bare |\n| --- | --- | --- | --- | --- |")
        for arm, values in seconds.items():
            ratio = statistics.median(values) / statistics.median(seconds[BARE])
            print(f"| {arm} | {len(values)} | {statistics.median(values):.2f} | {max(values):.2f} | {ratio:.2f} |")
        received = third["received_bytes_total"] - second["received_bytes_total"]
        print(f"\nBytes from the store for {CACHED}: {received:.0f}", flush=True)


if __name__ == "__main__":
    main()
