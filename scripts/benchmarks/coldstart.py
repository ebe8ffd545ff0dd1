"""How long a request waits for a model that is at zero: with our loader, with kserve-storage, and with no loader.

Three Knative Services of one pod each: the same server, probes and volumes. Only the init container differs: ours and
kserve-storage read a model of 1 MB from an S3 store in the cluster; `none` is a static program that ends at once, and
its pod has no model and no Secret. The server is Python's http.server, which starts fast and so hides no loading time.
Every round sends one request to each of the three, in random order, after all have scaled to zero.

The kubelet checks for ended containers once a second, so the server starts up to a second after the init container.
Each request therefore waits for a random part of a second: compare means, not medians.

Needs a local cluster with kubectl-serve installed: eval "$(scripts/cluster env)". Prints a Markdown table; see
docs/benchmarks/coldstart.md.
"""

import argparse
import contextlib
import copy
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

from cluster.support import (  # noqa: E402  # also used by the tests on a cluster
    PREFIX,
    RESTRICTED,
    Ingress,
    Json,
    Namespace,
    deployment,
    eventually,
    example_store,
    file_server,
    pod_template,
)
from loading import tables  # noqa: E402

CLUSTER = str(ROOT / "scripts" / "cluster")
SPACE = Namespace("coldstart")
MODEL = "s3://models/cold/model.bin"
MODEL_BYTES = 1_000_000
FOLDER = "/mnt/models"
OURS, NONE, PEER = "ours", "none", "kserve-storage"
TITLES = {OURS: "kubectl-serve's loader", NONE: "none: a static no-op", PEER: "kserve-storage 0.21"}

# Python as a container's first process ignores SIGTERM without a handler.
SERVER = f"""
import http.server, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
handler = lambda *given: http.server.SimpleHTTPRequestHandler(*given, directory={FOLDER!r})
http.server.ThreadingHTTPServer(("", 8080), handler).serve_forever()
"""
IMAGES = {
    "dev.local/bench/none:1": """FROM scratch
COPY none /none
USER 65532:65532
ENTRYPOINT ["/none"]
""",
    "dev.local/bench/kserve-storage:0.21.0": """ARG BASE
FROM ${BASE}
RUN python3 -m venv /opt/kserve \\
 && /opt/kserve/bin/pip install --no-cache-dir --only-binary :all: kserve-storage==0.21.0 \\
 && /opt/kserve/bin/python -m compileall -q /opt/kserve/lib
USER 65532:65532
ENTRYPOINT ["/opt/kserve/bin/python", "-c", \\
    "import sys; from kserve_storage import Storage; Storage.download(sys.argv[1], sys.argv[2])"]
""",
}


def build_images(cluster: str) -> None:
    """Build the init containers that are not ours, and load them into the cluster."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "main.go").write_text("package main\n\nfunc main() {}\n")
        command = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", "none", "main.go"]
        subprocess.run(command, cwd=folder, env=os.environ | {"CGO_ENABLED": "0"}, check=True)
        for image, text in IMAGES.items():
            (Path(folder) / "Containerfile").write_text(text)
            subprocess.run([CLUSTER, "build-image", image, folder, "-f", f"{folder}/Containerfile"], check=True)
    subprocess.run([CLUSTER, "load-image", "--name", cluster, *IMAGES], check=True)


@contextlib.contextmanager
def served() -> Iterator[dict[str, str]]:
    """Create the store and the three Services; yield their URLs. Deletes the namespace at the end."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    SPACE.kubectl("delete", "namespace", SPACE.name, "--ignore-not-found")
    SPACE.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE.name, "labels": labels}})
    try:
        example_store(SPACE).bucket.put(MODEL.removeprefix("s3://models/"), os.urandom(MODEL_BYTES))
        server = file_server("server", FOLDER) | {"command": ["/opt/mlserver/bin/python", "-c", SERVER]}
        SPACE.apply(
            deployment(OURS, MODEL, pod_template(server, {"app": OURS}), credentials="store", window="6s"),
        )
        SPACE.wait_ready(OURS, 300)
        template = SPACE.get("ksvc", OURS)["spec"]["template"]
        volume = {"name": "model", "mountPath": FOLDER, "subPath": "model"}
        none, peer = IMAGES
        beside(NONE, template, {"image": none})
        secret = [{"secretRef": {"name": "store"}}]
        beside(PEER, template, {"image": peer, "args": [MODEL, FOLDER], "envFrom": secret, "volumeMounts": [volume]})
        yield {name: SPACE.get("ksvc", name)["status"]["url"] for name in TITLES}
    finally:
        SPACE.kubectl("delete", "namespace", SPACE.name, "--wait=false")


def beside(name: str, template: Json, init: Json) -> None:
    """Create a Knative Service of the pod that kubectl-serve made, with another init container."""
    template = copy.deepcopy(template)
    for kind in ("labels", "annotations"):
        kept = {key: value for key, value in template["metadata"].get(kind, {}).items() if not key.startswith(PREFIX)}
        template["metadata"][kind] = kept
    pod = template["spec"]
    (ours,) = pod["initContainers"]
    pod["initContainers"] = [
        {"name": "init", "resources": ours["resources"], "securityContext": RESTRICTED, **init},
    ]
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] == "model"]
    metadata = {"name": name}
    SPACE.apply(
        {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"template": template},
        }
    )
    SPACE.kubectl("wait", "--for=condition=Ready", f"ksvc/{name}", "--timeout=5m")


def cold_start(ingress: Ingress, url: str) -> float:
    """Return the seconds until the first response."""
    began = time.perf_counter()
    answer = ingress.request(url, "/", seconds=120)
    seconds = time.perf_counter() - began
    if answer.status != 200:
        raise RuntimeError(f"{url} answered {answer.status}: {answer.body[:200]}")
    return seconds


def pods(selector: str) -> list[Json]:
    """Return the pods that are not terminating, which takes half a minute with Knative."""
    return [pod for pod in SPACE.list("pods", selector) if "deletionTimestamp" not in pod["metadata"]]


def wait_for_zero() -> None:
    """Wait until no request can reach a pod."""
    eventually(lambda: not pods("serving.knative.dev/service"), 180, "all are at zero")


def loading() -> float:
    """Return the seconds of our loader, from the pod's status."""
    (pod,) = pods(f"serving.knative.dev/service={OURS}")
    (status,) = pod["status"]["initContainerStatuses"]
    return float(json.loads(status["state"]["terminated"]["message"])["seconds"])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench coldstart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default="kubectl-serve", help="the local cluster (default: kubectl-serve)")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    build_images(options.name)
    balancer = Namespace("traefik").get("service", "traefik")["status"]["loadBalancer"]
    ingress = Ingress(balancer["ingress"][0]["ip"])
    seconds: dict[str, list[float]] = {name: [] for name in TITLES}
    inside: list[float] = []
    with served() as urls:
        for name in (OURS, PEER):
            if len(ingress.request(urls[name], "/model.bin").body) == 0:
                raise RuntimeError(f"{name} has no model")
        for _ in range(options.rounds):
            wait_for_zero()
            for name in random.sample(list(TITLES), len(TITLES)):
                time.sleep(random.random())  # noqa: S311
                seconds[name].append(cold_start(ingress, urls[name]))
                if name == OURS:
                    inside.append(loading())
    print("| init container | mean, s | ÷ none | median, s | ÷ none |\n| --- | --- | --- | --- | --- |")
    for name, values in seconds.items():
        mean, none = statistics.mean(values), statistics.mean(seconds[NONE])
        median = statistics.median(values) / statistics.median(seconds[NONE])
        error = statistics.stdev(values) / len(values) ** 0.5
        cells = [
            TITLES[name],
            f"{mean:.2f} ± {error:.2f}",
            f"{mean / none:.2f}",
            tables.median(values),
            f"{median:.2f}",
        ]
        print(f"| {' | '.join(cells)} |")
    print(f"\n{options.rounds} rounds. Our loader's own time, by its termination message: {tables.median(inside)} s.")


if __name__ == "__main__":
    main()
