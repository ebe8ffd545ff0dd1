"""How long a model takes to start, beside a bare Knative Service: from `kubectl apply` to Ready, and from zero.

Both arms run the same image with the same resources and autoscaling. `bare` is a Knative Service as a user writes it:
a readiness probe without timing, no startup probe, and a static init container that writes the same model from its own
image. kubectl-serve reads the model from an S3 store in the cluster, with credentials.

Servers: `mlserver` is the runtime mlserver-sklearn with a model of scikit-learn, `trivial` is Python's http.server,
`slow` is the same after 20 s in which it does not listen.

Every start is of a new model. In each round, every server starts once in each arm, in random order. A model that has
scaled to zero, and whose pods have ended, gets one request, and is deleted after the answer. One start at a time:
meanwhile, other models scale to zero. `slow ones`: starts that took 5 s longer than the median.

Needs a local cluster with kubectl-serve installed: eval "$(scripts/cluster env)". Shortens Knative's grace period of
the whole cluster during the run. Prints a Markdown table; see docs/benchmarks/coldstart.md.
"""

import argparse
import contextlib
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]

from cluster.support import (  # noqa: E402  # also used by the tests on a cluster
    PREFIX,
    RESTRICTED,
    Ingress,
    Json,
    Namespace,
    condition,
    deployment,
    example_store,
    file_server,
    is_ready,
    pod_template,
)

CLUSTER = str(ROOT / "scripts" / "cluster")
SPACE = Namespace("coldstart")
FOLDER = "/mnt/models"
OURS, BARE = "kubectl-serve", "bare"
ARMS = (OURS, BARE)
APPLY, ZERO = "apply", "zero"
TITLES = {APPLY: "apply → Ready", ZERO: "from zero"}
SLOW = 5.0
"""Seconds over the median."""
WAITING = 16
"""Models that scale to zero at the same time, at most."""

# Python as a container's first process ignores SIGTERM without a handler.
PROGRAM = f"""
import http.server, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
time.sleep(SECONDS)
handler = lambda *given: http.server.SimpleHTTPRequestHandler(*given, directory={FOLDER!r})
http.server.ThreadingHTTPServer(("", 8080), handler).serve_forever()
"""
COPY = """package main

import "os"

func main() {
	model, err := os.ReadFile("/model")
	if err == nil {
		err = os.WriteFile(os.Args[1], model, 0o644)
	}
	if err != nil {
		panic(err)
	}
}
"""
CONTAINERFILE = """FROM scratch
COPY copy /copy
COPY model /model
USER 65532:65532
ENTRYPOINT ["/copy"]
"""


@dataclass(frozen=True)
class Server:
    """``seconds``: before it listens; ``None`` for the runtime of kubectl-serve."""

    name: str
    file: str
    seconds: int | None = None

    @property
    def uri(self) -> str:
        return f"s3://models/{self.name}/{self.file}"

    @property
    def init_image(self) -> str:
        return f"dev.local/bench/{self.name}:1"

    def model(self) -> bytes:
        """The content of the model."""
        if self.seconds is not None:
            return os.urandom(1_000_000)
        data, file = load_iris(), io.BytesIO()
        joblib.dump(LogisticRegression(max_iter=1000).fit(data.data, data.target), file)
        return file.getvalue()

    def deployment(self, name: str) -> Json:
        """The model, as a user of kubectl-serve writes it."""
        annotations = {"credentials": "store", "window": "6s"}
        if self.seconds is None:
            return deployment(name, self.uri, **annotations)
        command = ["/opt/mlserver/bin/python", "-c", PROGRAM.replace("SECONDS", str(self.seconds))]
        probe = {"httpGet": {"path": "/", "port": 8080}}
        container = file_server("server", FOLDER) | {"command": command, "readinessProbe": probe}
        return deployment(name, self.uri, pod_template(container, {"app": name}), **annotations)

    def request(self, name: str) -> tuple[str, str | None]:
        """Path and body of a request to the model."""
        if self.seconds is not None:
            return f"/{self.file}", None
        tensor = {"name": "rows", "datatype": "FP64", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}
        return f"/v2/models/{name}/infer", json.dumps({"inputs": [tensor]})


SERVERS = {
    each.name: each
    for each in (Server("mlserver", "model.joblib"), Server("slow", "model.bin", 20), Server("trivial", "model.bin", 0))
}


@dataclass(frozen=True)
class Model:
    """One model that is started: by kubectl-serve, or as a Knative Service of its own."""

    server: Server
    arm: str
    name: str

    def start(self, template: Json) -> float:
        """Apply it; return the seconds until it is Ready. ``template``: of the bare Knative Service."""
        if self.arm == OURS:
            kind, manifest, ready = "deployment", self.server.deployment(self.name), is_ready
        else:
            kind, manifest, ready = "ksvc", bare(self.server, self.name, template), is_service_ready
        began = time.perf_counter()
        SPACE.apply(manifest)
        SPACE.watch(kind, self.name, ready, 180)
        return time.perf_counter() - began

    def is_at_zero(self) -> bool:
        """Whether no pod is left, also none that is terminating."""
        return not SPACE.list("pods", self._pods)

    def wait_for_zero(self) -> None:
        SPACE.wait_scaled_to_zero(self.name)

    def ask(self, ingress: Ingress) -> float:
        """Send a request; return the seconds until its answer."""
        url = f"http://{self.name}.{SPACE.name}.kubectl-serve.test"
        path, body = self.server.request(self.name)
        began = time.perf_counter()
        answer = ingress.request(url, path, body, seconds=180)
        seconds = time.perf_counter() - began
        if answer.status != 200:
            raise RuntimeError(f"{url}{path} answered {answer.status}: {answer.body[:200]}")
        return seconds

    def delete(self) -> None:
        kind = "deployment" if self.arm == OURS else "ksvc"
        SPACE.kubectl("delete", kind, self.name, "--wait=false")

    @property
    def _pods(self) -> str:
        return f"serving.knative.dev/service={self.name}"


def bare(server: Server, name: str, template: Json) -> Json:
    """The Knative Service of the pod that kubectl-serve made, as a user writes it. ``template``: of a model that has
    the server's name."""
    template = json.loads(json.dumps(template).replace(f"/{server.name}/", f"/{name}/"))
    for kind in ("labels", "annotations"):
        kept = {key: value for key, value in template["metadata"].get(kind, {}).items() if not key.startswith(PREFIX)}
        template["metadata"][kind] = kept
    pod = template["spec"]
    (loader,) = pod["initContainers"]
    init: Json = {"name": "init", "image": server.init_image, "args": [f"{FOLDER}/{server.file}"]}
    init |= {"resources": loader["resources"], "securityContext": RESTRICTED}
    pod["initContainers"] = [init | {"volumeMounts": [{"name": "model", "mountPath": FOLDER, "subPath": "model"}]}]
    (container,) = pod["containers"]
    for variable in container.get("env") or []:
        if variable.get("value") == server.name:
            variable["value"] = name
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] in mounted]
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"template": template},
    }


def is_service_ready(found: Json) -> bool:
    """Whether a Knative Service is ready in its present generation."""
    observed = (found.get("status") or {}).get("observedGeneration")
    return condition(found, "Ready").get("status") == "True" and observed == found["metadata"]["generation"]


def build_images(cluster: str, models: Mapping[Server, bytes]) -> None:
    """Build the init containers of the bare Knative Services, and load them into the cluster."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "main.go").write_text(COPY)
        (Path(folder) / "Containerfile").write_text(CONTAINERFILE)
        command = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", "copy", "main.go"]
        subprocess.run(command, cwd=folder, env=os.environ | {"CGO_ENABLED": "0"}, check=True)
        for server, model in models.items():
            (Path(folder) / "model").write_bytes(model)
            build = [CLUSTER, "build-image", server.init_image, folder, "-f", f"{folder}/Containerfile"]
            subprocess.run(build, check=True)
    subprocess.run([CLUSTER, "load-image", "--name", cluster, *(each.init_image for each in models)], check=True)


@contextlib.contextmanager
def short_grace_period() -> Iterator[None]:
    """Knative's grace period for the last pod is short, while the block runs."""
    knative, key = Namespace("knative-serving"), "scale-to-zero-grace-period"

    def write(value: str | None) -> None:
        knative.kubectl("patch", "configmap", "config-autoscaler", "-p", json.dumps({"data": {key: value}}))

    before = (knative.get("configmap", "config-autoscaler").get("data") or {}).get(key)
    write("6s")
    try:
        yield
    finally:
        write(before)


@contextlib.contextmanager
def namespace(models: Mapping[Server, bytes]) -> Iterator[dict[Server, Json]]:
    """The namespace with the store; yields the template of a model of each server. Deleted at the end."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    SPACE.kubectl("delete", "namespace", SPACE.name, "--ignore-not-found")
    SPACE.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE.name, "labels": labels}})
    try:
        store = example_store(SPACE)
        templates = {}
        for server, content in models.items():
            store.bucket.put(server.uri.removeprefix("s3://models/"), content)
            pattern = Model(server, OURS, server.name)
            pattern.start({})
            templates[server] = SPACE.get("ksvc", server.name)["spec"]["template"]
            pattern.delete()
        yield templates
    finally:
        SPACE.kubectl("delete", "namespace", SPACE.name, "--wait=false")


Results = dict[tuple[Server, str, str], list[float]]
"""Seconds by server, kind of start, and arm."""


def measure(templates: Mapping[Server, Json], ingress: Ingress, rounds: int, what: Sequence[str]) -> Results:
    """Run all rounds."""
    results: Results = defaultdict(list)
    waiting: deque[Model] = deque()

    def start_from_zero() -> None:
        model = waiting.popleft()
        model.wait_for_zero()
        time.sleep(random.random())  # noqa: S311  # the kubelet looks for ended containers once a second
        results[model.server, ZERO, model.arm].append(model.ask(ingress))
        model.delete()

    for number in range(rounds):
        for server, arm in random.sample([(server, arm) for server in templates for arm in ARMS], 2 * len(templates)):
            model = Model(server, arm, f"{server.name}-{arm}-{number}")
            results[server, APPLY, arm].append(model.start(templates[server]))
            if ZERO not in what:
                model.delete()
                continue
            waiting.append(model)
            while waiting and (len(waiting) > WAITING or waiting[0].is_at_zero()):
                start_from_zero()
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    while waiting:
        start_from_zero()
    return results


def table(results: Results, what: Sequence[str]) -> str:
    """The results as a Markdown table."""
    titles = ["server", "start", "arm", "rounds", "p50, s", "p90, s", "maximum, s", "slow ones", "p90 ÷ p50", "÷ bare"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for (server, kind, arm), values in sorted(results.items(), key=lambda each: _order(each[0])):
        if kind not in what:
            continue
        median = statistics.median(values)
        p90 = statistics.quantiles(values, n=10, method="inclusive")[8] if len(values) > 1 else median
        slow = sum(value > median + SLOW for value in values)
        other = statistics.median(results[server, kind, BARE])
        cells = [server.name, TITLES[kind], arm, str(len(values)), f"{median:.2f}", f"{p90:.2f}", f"{max(values):.2f}"]
        lines.append(f"| {' | '.join([*cells, str(slow), f'{p90 / median:.2f}', f'{median / other:.2f}'])} |")
    return "\n".join(lines)


def _order(key: tuple[Server, str, str]) -> tuple[int, int, int]:
    server, kind, arm = key
    return list(SERVERS).index(server.name), list(TITLES).index(kind), ARMS.index(arm)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench coldstart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default="kubectl-serve", help="the local cluster (default: kubectl-serve)")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--servers", default="mlserver", help=f"of {','.join(SERVERS)} (default: mlserver)")
    parser.add_argument("--what", default=f"{APPLY},{ZERO}", help=f"of {APPLY},{ZERO} (default: both)")
    options = parser.parse_args()
    servers, what = options.servers.split(","), options.what.split(",")
    if unknown := {*servers} - {*SERVERS} | {*what} - {*TITLES}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    models = {SERVERS[name]: SERVERS[name].model() for name in servers}
    build_images(options.name, models)
    balancer = Namespace("traefik").get("service", "traefik")["status"]["loadBalancer"]
    with short_grace_period(), namespace(models) as templates:
        results = measure(templates, Ingress(balancer["ingress"][0]["ip"]), options.rounds, what)
    print(table(results, what))


if __name__ == "__main__":
    main()
