"""How long the core takes: one Deployment in a separate process, and a thousand files through `kubectl-serve render`.

In the same rounds, `kubectl create --dry-run=client` reads the same files. It needs a cluster for discovery: `eval
"$(scripts/cluster env)"`; without one the table omits its column. Prints medians and paired ratios.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

ONE = """
import time
started = time.perf_counter()
import json, sys
from serve_core.admission.decide import judge
from serve_core.api.runtimes import checked
from serve_core.context.cluster import ClusterContext, LoaderConfig
runtimes = tuple(checked(each["metadata"]["name"], each["spec"]) for each in json.load(sys.stdin))
metadata = {"name": "iris", "annotations": {"kubectl-serve.dev/model": "s3://models/iris/model.joblib"}}
deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
verdict = judge(deployment, ClusterContext(LoaderConfig("example.com/loader:1"), runtimes))
assert verdict.service is not None
print(time.perf_counter() - started)
"""

MANIFEST = """apiVersion: apps/v1
kind: Deployment
metadata:
  name: model-{number}
  namespace: default
  annotations:
    kubectl-serve.dev/model: s3://models/model-{number}/model.joblib
    kubectl-serve.dev/scale: 0..5
spec:
  selector: {{matchLabels: {{app: model-{number}}}}}
  template:
    metadata: {{labels: {{app: model-{number}}}}}
    spec:
      containers:
        - name: server
          image: example.com/server:{number}
          ports: [{{containerPort: 8080}}]
          resources: {{limits: {{memory: 1Gi}}}}
"""


def timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    return time.perf_counter() - started


def one(runtimes: str) -> float:
    made = subprocess.run([sys.executable, "-c", ONE], input=runtimes, check=True, capture_output=True, text=True)
    return float(made.stdout)


def runtimes_as_json() -> str:
    import json  # noqa: PLC0415 only here

    import yaml  # noqa: PLC0415 only here

    paths = sorted((ROOT / "manifests/runtimes").glob("*.yaml"))
    return json.dumps([yaml.safe_load(path.read_text()) for path in paths])


def kubectl_answers() -> bool:
    found = shutil.which("kubectl")
    return bool(found) and subprocess.run([str(found), "version"], capture_output=True, check=False).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench core", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=1000)
    options = parser.parse_args()
    runtimes = runtimes_as_json()
    single = [one(runtimes) for _ in range(options.rounds)]
    print(f"import the core, judge one Deployment: median {statistics.median(single) * 1000:.0f} ms")
    beside = kubectl_answers()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.files):
            (Path(folder) / f"{number}.yaml").write_text(MANIFEST.format(number=number))
        ours_command = [str(Path(sys.executable).with_name("kubectl-serve")), "render", "-f", folder]
        theirs_command = ["kubectl", "create", "--dry-run=client", "--validate=false", "-o", "yaml", "-f", folder]
        ours, theirs = [], []
        for _ in range(options.rounds):
            ours.append(timed(ours_command))
            if beside:
                theirs.append(timed(theirs_command))
    print(f"kubectl-serve render, {options.files} files: median {statistics.median(ours):.2f} s")
    if not beside:
        print("kubectl create --dry-run=client: left out, no cluster answers")
        return
    print(f"kubectl create --dry-run=client, the same files: median {statistics.median(theirs):.2f} s")
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    print(f"ratio of each pair: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
