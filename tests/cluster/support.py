"""Tools of the cluster tests: kubectl, the ingress as a client uses it, the S3 store."""

import base64
import http.client
import json
import os
import queue
import shlex
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from obstore.store import S3Store
from prometheus_client.parser import text_string_to_metric_families

from serve_core.api import state
from support.paths import ROOT

Json = dict[str, Any]
_T = TypeVar("_T")

EXAMPLES = ROOT / "manifests" / "examples"
PREFIX = "kubectl-serve.dev/"
READY = f"{PREFIX}Ready"
LOADED = f"{PREFIX}ModelLoaded"


class Namespace:
    """kubectl and kubectl serve against one namespace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *command: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in this namespace; with ``check`` a failure shows both its streams."""
        done = subprocess.run(
            [*command, "--namespace", self.name], input=stdin, capture_output=True, text=True, check=False, timeout=300
        )
        if check and done.returncode:
            raise AssertionError(f"exit code {done.returncode}: {' '.join(command)}\n{done.stdout}\n{done.stderr}")
        return done

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.run("kubectl", *arguments, stdin=stdin).stdout

    def apply(self, *objects: Json, flags: tuple[str, ...] = ()) -> str:
        return self.kubectl("apply", *flags, "-f", "-", stdin=manifest(*objects))

    def refusal(self, *objects: Json) -> str:
        """The message of a refused ``kubectl apply``."""
        done = self.run("kubectl", "apply", "-f", "-", stdin=manifest(*objects), check=False)
        assert done.returncode != 0, f"it was accepted: {done.stdout}"
        return done.stderr

    def get(self, kind: str, name: str) -> Json:
        found: Json = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    def list(self, kind: str, selector: str = "") -> list[Json]:
        found: list[Json] = json.loads(self.kubectl("get", kind, "-l", selector, "-o", "json"))["items"]
        return found

    def wait_ready(self, name: str, seconds: int = 120) -> Json:
        """Wait as a user does, and until the conditions are of the Deployment's present generation."""
        self.watch("deployment", name, is_ready, seconds)
        self.kubectl("wait", f"--for=condition={READY}", f"deployment/{name}", "--timeout=10s")
        return self.get("deployment", name)

    def wait_scaled_to_zero(self, name: str, seconds: int = 180) -> None:
        pods = f"serving.knative.dev/service={name}"
        self.kubectl("wait", "--for=delete", "pod", "-l", pods, f"--timeout={seconds}s")

    def watch(self, kind: str, name: str, until: Callable[[Json], bool], seconds: float = 60) -> Json:
        """Watch one object, which may appear later, until a condition is true. Fails with its last state."""
        last: Json = {}
        for last in self._events(kind, name, seconds):
            if until(last):
                return last
        status = json.dumps({"metadata": last.get("metadata"), "status": last.get("status")}, indent=1)
        raise AssertionError(f"{kind} {name} did not get there within {seconds} s; last seen:\n{status}")

    def _events(self, kind: str, name: str, seconds: float) -> Iterator[Json]:
        command = ["kubectl", "get", kind, "--namespace", self.name, "--field-selector", f"metadata.name={name}"]
        process = subprocess.Popen([*command, "-o", "json", "--watch"], stdout=subprocess.PIPE, text=True)
        objects: queue.Queue[Json | None] = queue.Queue()
        threading.Thread(target=_read_objects, args=(process.stdout, objects), daemon=True).start()
        deadline = time.monotonic() + seconds
        try:
            while (left := deadline - time.monotonic()) > 0:
                try:
                    found = objects.get(timeout=left)
                except queue.Empty:
                    return
                if found is None:
                    raise AssertionError(f"kubectl's watch of {kind} {name} ended early")
                yield found
        finally:
            process.terminate()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _read_objects(stream: Any, objects: "queue.Queue[Json | None]") -> None:
    """kubectl prints one indented document after the other; each ends with a brace in the first column."""
    lines: list[str] = []
    try:
        for line in stream:
            lines.append(line)
            if line.startswith("}"):
                objects.put(json.loads("".join(lines)))
                lines = []
    except ValueError:
        pass  # the stream was closed
    objects.put(None)


@contextmanager
def pod_counts(namespace: Namespace, selector: str) -> Iterator[list[int]]:
    """The number of pods after each change, also of those that are ending; complete after the block."""
    command = ["kubectl", "get", "pods", "--namespace", namespace.name, "-l", selector, "--watch", "-o", "json"]
    with tempfile.TemporaryFile("w+") as events:
        process = subprocess.Popen([*command, "--output-watch-events"], stdout=events, text=True)
        counts: list[int] = []
        try:
            yield counts
        finally:
            process.terminate()
            process.wait()
        events.seek(0)
        present: set[str] = set()
        for line in events:
            event = json.loads(line)
            name = event["object"]["metadata"]["name"]
            present = present - {name} if event["type"] == "DELETED" else present | {name}
            counts.append(len(present))


@contextmanager
def created(
    namespace: Namespace, standard: str = "restricted", more: Mapping[str, str] | None = None
) -> Iterator[Namespace]:
    """A namespace under a Pod Security Standard, with ``more`` labels, while the block runs."""
    labels = {"pod-security.kubernetes.io/enforce": standard, **(more or {})}
    namespace.kubectl("delete", "namespace", namespace.name, "--ignore-not-found")
    namespace.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace.name, "labels": labels}})
    yield namespace
    namespace.kubectl("delete", "namespace", namespace.name, "--wait=false")


SERVER = Namespace("kubectl-serve")
"""The namespace of kubectl-serve."""


def measured(metric: str, **labels: str) -> list[float]:
    """A metric of each running replica, summed over all samples with the labels; largest first."""
    found = []
    for pod in SERVER.list("pods"):
        if "deletionTimestamp" in pod["metadata"]:
            continue  # of an earlier installation
        proxy = f"/api/v1/namespaces/{SERVER.name}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
        families = text_string_to_metric_families(SERVER.kubectl("get", "--raw", proxy))
        samples = (sample for family in families for sample in family.samples if sample.name == metric)
        found.append(sum(sample.value for sample in samples if labels.items() <= sample.labels.items()))
    return sorted(found, reverse=True)


def diagnose() -> tuple[int, dict[str, Json]]:
    """The doctor's exit code, and its results by check."""
    done = SERVER.run("kubectl", "serve", "doctor", "-o", "json", check=False)
    return done.returncode, {each["check"]: each for each in json.loads(done.stdout)["checks"]}


def obey(fix: str) -> None:
    """Run the commands of a fix unchanged."""
    for command in fix.split(" && "):
        given, _, words = command.rpartition(" | ")
        text = shlex.split(given)[1] if given else None  # echo TEXT | COMMAND
        subprocess.run(shlex.split(words), input=text, check=True, capture_output=True, text=True, timeout=300)


@dataclass(frozen=True)
class Store:
    """The S3 store, reachable in the cluster by ``endpoint`` and from here by ``address``.

    ``credentials`` is the Secret's content.
    """

    endpoint: str
    address: str
    bucket: S3Store
    credentials: dict[str, str]

    def secret(self, **changes: str) -> Json:
        data = self.credentials | changes
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "store"}, "stringData": data}


def example_store(namespace: Namespace) -> Store:
    """The store of ``manifests/examples`` in a namespace, once it is ready."""
    namespace.kubectl("apply", "-f", str(EXAMPLES / "store.yaml"))
    namespace.kubectl("rollout", "status", "deployment/store", "--timeout=2m")
    credentials = {
        "AWS_ACCESS_KEY_ID": "try-it-out",
        "AWS_SECRET_ACCESS_KEY": "not-for-production",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://store.{namespace.name}.svc:7070",
    }
    address = f"http://{namespace.get('service', 'store')['spec']['clusterIP']}:7070"
    bucket = S3Store(
        "models",
        endpoint=address,
        access_key_id=credentials["AWS_ACCESS_KEY_ID"],
        secret_access_key=credentials["AWS_SECRET_ACCESS_KEY"],
        region=credentials["AWS_REGION"],
        client_options={"allow_http": True},
    )
    return Store(credentials["AWS_ENDPOINT_URL"], address, bucket, credentials)


@dataclass(frozen=True)
class Trained:
    """A fitted model and its predictions."""

    rows: list[list[float]]
    answers: list[int]
    content: bytes = field(repr=False)


def manifest(*objects: Json) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


def deployment(name: str, model: str, spec: Json | None = None, /, **annotations: str) -> Json:
    """An annotated Deployment; without a spec, it has only a name and annotations."""
    ours = {PREFIX + key: value for key, value in {"model": model, **annotations}.items()}
    found: Json = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "annotations": ours}}
    return found if spec is None else found | {"spec": spec}


PYTHON_IMAGE = "dev.local/kubectl-serve/mlserver-sklearn:1.7.1"

RESTRICTED: Json = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def file_server(name: str, directory: str) -> Json:
    """A container that serves the files of a folder, as an example of a custom model server."""
    return {
        "name": name,
        "image": PYTHON_IMAGE,
        "command": ["/opt/mlserver/bin/python", "-m", "http.server", "8080", "--directory", directory],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "securityContext": RESTRICTED,
    }


def pod_template(container: Json, labels: dict[str, str]) -> Json:
    """The spec of a Deployment of that one container."""
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return {"selector": {"matchLabels": labels}, "template": template}


def printed(namespace: Namespace, image: str, command: list[str], seconds: int = 120) -> Json:
    """The last line that a pod prints, as JSON."""
    container: Json = {"name": "program", "image": image, "command": command}
    container["securityContext"] = RESTRICTED | {"runAsUser": 1000}
    spec: Json = {"restartPolicy": "Never", "containers": [container]}
    namespace.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "program"}, "spec": spec})
    succeeded = "--for=jsonpath={.status.phase}=Succeeded"
    namespace.kubectl("wait", succeeded, "pod/program", f"--timeout={seconds}s")
    found: Json = json.loads(namespace.kubectl("logs", "program").splitlines()[-1])
    namespace.kubectl("delete", "pod", "program", "--now")
    return found


def config_map(name: str, files: dict[str, bytes]) -> Json:
    data = {key: base64.b64encode(value).decode() for key, value in files.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "binaryData": data}


def condition(found: Json, kind: str) -> Json:
    """The condition of that type; empty if missing."""
    conditions: list[Json] = (found.get("status") or {}).get("conditions") or []
    return next((entry for entry in conditions if entry["type"] == kind), {})


def annotation(found: Json, name: str) -> str | None:
    value: str | None = found["metadata"].get("annotations", {}).get(PREFIX + name)
    return value


def is_ready(found: Json) -> bool:
    """As the plugin waits."""
    return condition(found, READY).get("status") == "True" and state.is_current(found)


def label_of_service(found: Json) -> str:
    return f"serving.knative.dev/service={found['metadata']['name']}"


@dataclass(frozen=True)
class Answer:
    status: int
    body: str

    @property
    def predicted(self) -> list[Any]:
        assert self.status == 200, f"HTTP {self.status}: {self.body}"
        data: list[Any] = json.loads(self.body)["outputs"][0]["data"]
        return data


class Ingress:
    """The ingress for a client outside the cluster; the URL's host is in the Host header and in TLS."""

    def __init__(self, address: str, port: int = 80) -> None:
        self.address = address
        self.port = port

    def request(
        self,
        url: str,
        path: str,
        body: str | None = None,
        seconds: float = 60,
        trust: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """``trust``: the trusted certificates, required for an ``https`` URL."""
        host = urlsplit(url).netloc
        connection = http.client.HTTPConnection(self.address, self.port, timeout=seconds)
        try:
            if urlsplit(url).scheme == "https":
                assert trust is not None
                connection.sock = trust.wrap_socket(self._connected(seconds), server_hostname=host)
            own = {"Host": host, "Content-Type": "application/json"}
            connection.request("GET" if body is None else "POST", path, body, own | dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(errors="replace"))
        finally:
            connection.close()

    def certificate(self, host: str) -> bytes:
        """The certificate of a host name, by any signer, in DER."""
        anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anything.check_hostname, anything.verify_mode = False, ssl.CERT_NONE
        with anything.wrap_socket(self._connected(), server_hostname=host) as connection:
            shown = connection.getpeercert(binary_form=True)
        assert shown is not None
        return shown

    def predict(
        self,
        found: Json,
        rows: list[list[float]],
        seconds: float = 60,
        trust: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request of the Open Inference Protocol (v2) to a served Deployment."""
        url = state.read(found).url
        assert url, "the Deployment has no URL"
        tensor = {"name": "rows", "datatype": "FP64", "shape": [len(rows), len(rows[0])], "data": rows}
        path = f"/v2/models/{found['metadata']['name']}/infer"
        return self.request(url, path, json.dumps({"inputs": [tensor]}), seconds, trust, headers)

    def _connected(self, seconds: float = 60) -> socket.socket:
        return socket.create_connection((self.address, 443), seconds)


@dataclass
class Requests:
    """The results of continuous requests."""

    answers: list[Answer | OSError | http.client.HTTPException] = field(default_factory=list)

    @property
    def failed(self) -> list[Answer | OSError | http.client.HTTPException]:
        return [answer for answer in self.answers if not isinstance(answer, Answer) or answer.status != 200]

    @property
    def predictions(self) -> list[list[Any]]:
        return [answer.predicted for answer in self.answers if isinstance(answer, Answer) and answer.status == 200]


@contextmanager
def constant_requests(send: Callable[[], Answer], clients: int = 3, pause: float = 0.05) -> Iterator[Requests]:
    """Send requests from several clients while the block runs."""
    requests, stop = Requests(), threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                requests.answers.append(send())
            except (OSError, http.client.HTTPException) as error:
                requests.answers.append(error)
            stop.wait(pause)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield requests
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def eventually(check: Callable[[], _T], seconds: float, why: str) -> _T:
    """For what has no watch: check until the answer is true."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {why}"
        time.sleep(0.25)
    return found


def large_images_are_built() -> bool:
    """Whether the images are there that take minutes to build: see CONTRIBUTING."""
    return bool(os.environ.get("KUBECTL_SERVE_LANGUAGE_MODELS"))


def kubeconfig_is_set() -> bool:
    return bool(os.environ.get("KUBECONFIG"))
