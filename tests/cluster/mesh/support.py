"""Tools of the tests in the mesh: the installation of Istio, an issuer of tokens, callers, and pods as they are."""

import base64
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import trustme
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa

from cluster.support import (
    PREFIX,
    PYTHON_IMAGE,
    RESTRICTED,
    Answer,
    Json,
    Namespace,
    config_map,
    deployment,
    eventually,
)
from support.paths import ROOT

ISTIO = Namespace("istio-system")
KNATIVE = Namespace("knative-serving")
ISSUER = Namespace("mesh-issuer")
INJECTED = {"istio-injection": "enabled"}
NATIVE = "sidecar.istio.io/nativeSidecar"
CONTAINER = {NATIVE: "false"}
"""Pods with this annotation have a sidecar that starts after the init containers."""
PYTHON = "/opt/mlserver/bin/python"
IRIS = "s3://models/iris/model.joblib"


# --- The installation


def inject_by(injection: str) -> None:
    """Change how the Istio of the cluster of KUBECONFIG injects sidecars."""
    name = Path(os.environ["KUBECONFIG"]).parent.name
    command = [str(ROOT / "scripts/cluster"), "up", "--name", name, "--istio", injection]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)


def into_the_mesh(namespace: Namespace) -> None:
    """Give every pod of a namespace's Deployments a sidecar."""
    namespace.kubectl("label", "namespace", namespace.name, "istio-injection=enabled", "--overwrite")
    if not all("istio-proxy" in json.dumps(pod["spec"]) for pod in namespace.list("pod")):
        namespace.kubectl("rollout", "restart", "deployment")
    rolled_out(namespace)


def rolled_out(namespace: Namespace) -> None:
    for each in namespace.list("deployment"):
        namespace.kubectl("rollout", "status", f"deployment/{each['metadata']['name']}", "--timeout=4m")


@contextmanager
def mesh_config(**changes: Any) -> Iterator[None]:
    """Other settings of the mesh while the block runs, for pods that start in it."""
    before = ISTIO.get("configmap", "istio")["data"]["mesh"]
    _write_mesh_config(yaml.safe_dump(yaml.safe_load(before) | changes))
    try:
        yield
    finally:
        _write_mesh_config(before)


def _write_mesh_config(text: str) -> None:
    _write("istio", "mesh", text)


def _write(config_map: str, key: str, text: str) -> None:
    ISTIO.kubectl("patch", "configmap", config_map, "--type=merge", "-p", json.dumps({"data": {key: text}}))


def completed(namespace: Namespace, spec: Json | None = None, **annotations: str) -> str:
    """The pod template that admission makes of a Deployment, asked by a dry run, as JSON."""
    model = deployment("probe", "https://example.com/iris.joblib", spec, **annotations)
    made = json.loads(namespace.apply(model, flags=("--dry-run=server", "-o", "json")))
    return json.dumps(made["spec"]["template"])


def with_template(annotations: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None) -> Json:
    """The spec of a Deployment whose pods have these annotations and labels, and no container yet."""
    own = {"app": "iris"}
    metadata = {"annotations": dict(annotations or {}), "labels": own | dict(labels or {})}
    return {"selector": {"matchLabels": own}, "template": {"metadata": metadata}}


def pods_of(namespace: Namespace, name: str = "iris") -> list[Json]:
    """The pods of a model that are not ending."""
    found = namespace.list("pod", f"{PREFIX}deployment={name}")
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def order(pod: Json) -> list[str]:
    """The init containers and the sidecar of a pod, in the order in which they start."""
    containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    return [each["name"] for each in containers if each["name"] not in {"queue-proxy", "model-server"}]


def loader(pod: Json) -> Json:
    found: Json = next(each for each in pod["spec"]["initContainers"] if each["name"] == "model-loader")
    return found


def peer_authentication(mode: str, name: str = "default") -> Json:
    """The mTLS mode of a namespace."""
    head = {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": name}}
    return head | {"spec": {"mtls": {"mode": mode}}}


def service_entry(name: str, host: str, port: int, address: str) -> Json:
    """A host outside of the mesh that answers plain HTTP at an address."""
    head = {"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {"name": name}}
    ports = [{"number": port, "name": "http", "protocol": "HTTP"}]
    endpoints = [{"address": address}]
    spec = {"hosts": [host], "location": "MESH_EXTERNAL", "ports": ports, "resolution": "STATIC"}
    return head | {"spec": spec | {"endpoints": endpoints}}


# --- Requests


def status(answer: Answer | Exception) -> int | str:
    """The status of an answer, or the name of a connection's error."""
    return answer.status if isinstance(answer, Answer) else type(answer).__name__


# --- Tokens


@dataclass(frozen=True)
class Issuer:
    """Signs tokens; istiod reads its keys at :attr:`jwks`, from a server with a certificate of ``authority``."""

    host: str = "issuer.example.com"
    key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048), repr=False
    )
    authority: trustme.CA = field(default_factory=trustme.CA, repr=False)

    @property
    def name(self) -> str:
        return f"https://{self.host}"

    @property
    def jwks(self) -> str:
        return f"{self.name}/jwks.json"

    @property
    def keys(self) -> str:
        """The document at :attr:`jwks`."""
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return json.dumps({"keys": [public | {"kid": "one", "use": "sig", "alg": "RS256"}]})

    def token(
        self, seconds: float = 3600, *, key: rsa.RSAPrivateKey | None = None, claims: Mapping[str, object] | None = None
    ) -> str:
        """A token for audience ``models`` that ends in ``seconds``; ``claims`` are added or replaced."""
        now = int(time.time())
        payload = {"iss": self.name, "sub": "tester", "aud": "models", "iat": now - 7200, "exp": now + int(seconds)}
        return jwt.encode(payload | dict(claims or {}), key or self.key, algorithm="RS256", headers={"kid": "one"})


def guard(issuer: Issuer) -> dict[str, str]:
    """The annotations of a model that wants a token for audience ``models``."""
    return {"auth": "jwt", "auth-issuer": issuer.name, "auth-jwks": issuer.jwks, "auth-audiences": "models"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


SERVE_KEYS = """
import functools, http.server, ssl
server = http.server.HTTPServer(("", 8443), functools.partial(http.server.SimpleHTTPRequestHandler, directory="/keys"))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tls/tls.crt", "/tls/tls.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def publish(issuer: Issuer) -> None:
    """Serve an issuer's keys at its URL, as istiod sees it."""
    issued = issuer.authority.issue_cert(issuer.host)
    tls = {"tls.crt": issued.cert_chain_pems[0].bytes(), "tls.key": issued.private_key_pem.bytes()}
    labels = {"app": "issuer", "sidecar.istio.io/inject": "false"}
    container = {
        "name": "issuer",
        "image": PYTHON_IMAGE,
        "command": [PYTHON, "-c", SERVE_KEYS],
        "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "keys", "mountPath": "/keys"}, {"name": "tls", "mountPath": "/tls"}],
    }
    volumes = [{"name": "keys", "configMap": {"name": "keys"}}, {"name": "tls", "secret": {"secretName": "tls"}}]
    pod = {"metadata": {"name": "issuer", "labels": labels}, "spec": {"containers": [container], "volumes": volumes}}
    ISSUER.apply(
        config_map("keys", {"jwks.json": issuer.keys.encode()}),
        secret("tls", tls),
        {"apiVersion": "v1", "kind": "Pod"} | pod,
        service("issuer", {"app": "issuer"}, 443, 8443),
    )
    ISSUER.kubectl("wait", "--for=condition=Ready", "pod/issuer", "--timeout=2m")
    introduce(issuer, "istiod")


def introduce(issuer: Issuer, istiod: str) -> None:
    """Let a control plane resolve a published issuer's host, and trust its certificate."""
    address = ISSUER.get("service", "issuer")["spec"]["clusterIP"]
    authority = issuer.authority.cert_pem.bytes()
    ISTIO.apply(config_map("issuer", {"ca.pem": authority}))
    aliases = [{"ip": address, "hostnames": [issuer.host]}]
    discovery = {
        "name": "discovery",
        "env": [{"name": "SSL_CERT_FILE", "value": "/etc/issuer/ca.pem"}],
        "volumeMounts": [{"name": "issuer", "mountPath": "/etc/issuer"}],
    }
    pod = {"containers": [discovery], "volumes": [{"name": "issuer", "configMap": {"name": "issuer"}}]}
    # The annotation starts new pods: those that run trust an earlier authority.
    metadata = {"annotations": {"authority": hashlib.sha256(authority).hexdigest()}}
    for kind, template in {
        "merge": {"spec": {"hostAliases": aliases}},
        "strategic": {"metadata": metadata, "spec": pod},
    }.items():
        patch = json.dumps({"spec": {"template": template}})
        ISTIO.kubectl("patch", "deployment", istiod, f"--type={kind}", "-p", patch)
    ISTIO.kubectl("rollout", "status", f"deployment/{istiod}", "--timeout=4m")


def secret(name: str, files: Mapping[str, bytes]) -> Json:
    data = {key: base64.b64encode(value).decode() for key, value in files.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


def service(name: str, selector: Mapping[str, str], port: int, target: int) -> Json:
    spec = {"selector": dict(selector), "ports": [{"name": "http", "port": port, "targetPort": target}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


# --- Callers in the mesh


@dataclass(frozen=True)
class Caller:
    """A pod with Python that sends requests from inside the cluster."""

    namespace: Namespace
    name: str

    def status(self, url: str, token: str = "") -> int | str:
        """The status of a GET, or the name of the connection's error."""
        program = (
            "import sys, urllib.request, urllib.error\n"
            "request = urllib.request.Request(sys.argv[1])\n"
            "if sys.argv[2]: request.add_header('Authorization', 'Bearer ' + sys.argv[2])\n"
            "try: print(urllib.request.urlopen(request, timeout=20).status)\n"
            "except urllib.error.HTTPError as error: print(error.code)\n"
            "except OSError as error: print(type(getattr(error, 'reason', error)).__name__)\n"
        )
        command = ["kubectl", "exec", "--namespace", self.namespace.name, self.name, "--container=caller", "--", PYTHON]
        done = subprocess.run(
            [*command, "-c", program, url, token], capture_output=True, text=True, check=True, timeout=60
        )
        said = done.stdout.strip()
        return int(said) if said.isdigit() else said


def caller(namespace: Namespace, name: str = "caller", *, account: str = "default", sidecar: bool = True) -> Caller:
    """Start a caller under a service account, and wait until it is ready."""
    labels = {"app": name, "sidecar.istio.io/inject": str(sidecar).lower()}
    container = {
        "name": "caller",
        "image": PYTHON_IMAGE,
        "command": [PYTHON, "-c", "import signal; signal.sigwait([signal.SIGTERM])"],
        "securityContext": RESTRICTED,
    }
    metadata: Json = {"name": name, "labels": labels}
    spec: Json = {"serviceAccountName": account, "containers": [container], "terminationGracePeriodSeconds": 1}
    if account != "default":
        namespace.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}})
    eventually(lambda: namespace.run("kubectl", "get", "serviceaccount", account, check=False).returncode == 0, 30, "")
    namespace.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    namespace.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=2m")
    return Caller(namespace, name)
