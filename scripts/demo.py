"""The demo: two real models on a real cluster, served both ways in, every answer compared with scikit-learn's own."""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import joblib
from obstore.store import S3Store
from sklearn.datasets import load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE = "demo"
REGISTRY = "dev.local/kubectl-serve"

FOUR_LINES = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: wine, annotations: {"kubectl-serve.dev/model": "s3://models/wine/model.joblib",
                                     "kubectl-serve.dev/credentials": "store"}}
"""

NEXT = """\
The cluster is still there. To try more:

  eval "$(scripts/cluster env{name})"                   # kubectl and kubectl serve, for this cluster
  kubectl serve get -n demo
  kubectl serve describe iris -n demo
  kubectl serve predict iris -n demo '[[6.7, 3.0, 5.2, 2.3]]'
  kubectl annotate deployment iris -n demo --overwrite kubectl-serve.dev/scale=1..3
  kubectl serve render -f manifests/examples            # what becomes of a Deployment, without a cluster
  scripts/cluster down{name}
"""


class Model:
    """A model trained on one of scikit-learn's real data sets."""

    def __init__(self, name: str, data: Any) -> None:
        self.name = name
        self.rows: list[list[float]] = data.data.tolist()
        self.fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(data.data, data.target)
        self.expected: list[int] = self.fitted.predict(data.data).tolist()

    def dump(self) -> bytes:
        file = BytesIO()
        joblib.dump(self.fitted, file)
        return file.getvalue()


class Demo:
    """The steps, each shown as the commands that a user would type."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.name_flag = [] if cluster == "kubectl-serve" else ["--name", cluster]
        self.environment = dict(os.environ)
        self.began = time.monotonic()
        self.asked: dict[str, float] = {}
        """When each model was last asked."""
        self.wrong = 0

    def heading(self, text: str) -> None:
        print(f"\n=== {text}  [{time.monotonic() - self.began:.0f} s]", flush=True)

    def run(self, *command: str, stdin: str | None = None, show: bool = True) -> str:
        """Run a command and return what it prints on stdout; ends the demo where it fails."""
        if show:
            print(f"$ {shlex.join(command)}", flush=True)
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, input=stdin, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            sys.stdout.write(done.stdout)
            raise SystemExit(f"error: this failed with exit code {done.returncode}: {shlex.join(command)}")
        return done.stdout

    def tell(self, *command: str, stdin: str | None = None) -> None:
        """Run a command and show what it prints."""
        print(self.run(*command, stdin=stdin), end="", flush=True)

    def bring_up(self) -> None:
        self.heading("A real cluster: API server, kubelet, Knative, an ingress")
        self.tell("scripts/cluster", "up", *self.name_flag)
        script = 'eval "$(scripts/cluster env --name "$1")" && env -0'
        variables = self.run("bash", "-c", script, "env", self.cluster, show=False)
        self.environment = dict(variable.split("=", 1) for variable in variables.split("\0") if "=" in variable)
        self.environment["PATH"] = f"{ROOT / '.venv' / 'bin'}:{self.environment['PATH']}"

    def install(self) -> None:
        self.heading("kubectl-serve: images of this checkout, installed by the plugin")
        tag = self.run("scripts/images", "--name", self.cluster).strip()
        self.tell("kubectl", "serve", "install", "--registry", REGISTRY, "--tag", tag)

    def store(self, models: list[Model]) -> None:
        self.heading("An S3 store in the cluster, and the models in it")
        self.tell("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found")
        self.tell("kubectl", "create", "namespace", NAMESPACE)
        self.tell("kubectl", "apply", "-n", NAMESPACE, "-f", "manifests/examples/store.yaml")
        self.tell("kubectl", "rollout", "status", "-n", NAMESPACE, "deployment/store", "--timeout=2m")
        # The host reaches the cluster's addresses; in the cluster the store is http://store:7070.
        get_address = ("kubectl", "get", "service", "store", "-n", NAMESPACE, "-o", "jsonpath={.spec.clusterIP}")
        bucket = S3Store(
            "models",
            endpoint=f"http://{self.run(*get_address, show=False)}:7070",
            access_key_id="try-it-out",
            secret_access_key="not-for-production",  # noqa: S106  # what store.yaml says
            region="us-east-1",
            client_options={"allow_http": True},
        )
        for model in models:
            content = model.dump()
            bucket.put(f"{model.name}/model.joblib", content)
            print(f"Trained {model.name} and put it to s3://models/{model.name}/model.joblib ({len(content)} bytes).")

    def compare(self, model: Model) -> float:
        """Ask for every row of the data set, compare with scikit-learn's answer, and return the seconds it took."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(model.rows, file)
            file.flush()
            began = time.monotonic()
            answer = self.run("kubectl", "serve", "predict", model.name, "-n", NAMESPACE, "-f", file.name)
            self.asked[model.name] = time.monotonic()
            seconds = self.asked[model.name] - began
        predicted = json.loads(answer)["outputs"][0]["data"]
        same = sum(one == other for one, other in zip(predicted, model.expected, strict=False))
        print(f"{same} of {len(model.expected)} predictions equal scikit-learn's own ({seconds:.1f} s).")
        self.wrong += len(model.expected) - same
        return seconds

    def first_way(self, iris: Model) -> None:
        self.heading("First way in: kubectl serve create")
        uri = f"s3://models/{iris.name}/model.joblib"
        create = ("kubectl", "serve", "create", iris.name, "-n", NAMESPACE, "--model", uri, "--credentials", "store")
        self.tell(*create, "--window", "6s")
        self.tell("kubectl", "serve", "predict", iris.name, "-n", NAMESPACE, json.dumps(iris.rows[:1]))
        self.compare(iris)

    def second_way(self, wine: Model) -> None:
        self.heading("Second way in: four lines of YAML and kubectl apply")
        print(FOUR_LINES)
        self.tell("kubectl", "apply", "-n", NAMESPACE, "-f", "-", stdin=FOUR_LINES)
        condition = "--for=condition=kubectl-serve.dev/Ready"
        self.tell("kubectl", "wait", "-n", NAMESPACE, condition, f"deployment/{wine.name}", "--timeout=3m")
        self.compare(wine)
        self.tell("kubectl", "serve", "get", "-n", NAMESPACE)

    def from_zero(self, iris: Model) -> None:
        self.heading("Scale to zero, and back on a request")
        pods = f"serving.knative.dev/service={iris.name}"
        self.tell("kubectl", "wait", "-n", NAMESPACE, "--for=delete", "pod", "-l", pods, "--timeout=3m")
        idle = time.monotonic() - self.asked[iris.name]
        print(f"{iris.name} was last asked {idle:.0f} s ago, and no pod is left of it.")
        cold = self.compare(iris)
        warm = self.compare(iris)
        print(f"Cold start {cold:.1f} s (pod, model, server, answer), warm {warm:.1f} s, as the user sees it.")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--name", default="kubectl-serve", help="the local cluster's name (default: kubectl-serve)")
    parser.add_argument("--down", action="store_true", help="take the cluster down at the end")
    options = parser.parse_args()

    demo = Demo(options.name)
    iris, wine = Model("iris", load_iris()), Model("wine", load_wine())
    try:
        demo.bring_up()
        demo.install()
        demo.store([iris, wine])
        demo.first_way(iris)
        demo.second_way(wine)
        demo.from_zero(iris)
        if demo.wrong:
            print(f"\nerror: {demo.wrong} predictions differ from scikit-learn's", file=sys.stderr)
            return 1
        demo.heading("Every prediction equals scikit-learn's, for both ways in")
    finally:
        if options.down:
            demo.tell("scripts/cluster", "down", *demo.name_flag)
    if not options.down:
        print(NEXT.format(name=f" {shlex.join(demo.name_flag)}" if demo.name_flag else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
