"""A hub in the cluster, with the files of one repository. It requires a token."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster.support import PYTHON_IMAGE, RESTRICTED, Json, Namespace, config_map

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "tests"
_PROGRAM = Path(__file__).parent / "hub-client/hub.py"


def secret(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


@contextmanager
def served(namespace: Namespace, repository: str, files: Mapping[str, bytes]) -> Iterator[str]:
    """A hub with that repository while the block runs; its address. Its token is in the Secret ``hub-token``, under the
    key ``reader``. The files fit into a ConfigMap."""
    siblings = [
        {"rfilename": name, "size": len(body), "blobId": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()}
        for name, body in files.items()
    ]
    listing = json.dumps({"sha": COMMIT, "siblings": siblings}).encode()
    keys = {f"file-{number}": name for number, name in enumerate(files)}
    places = {key: f"{repository}/resolve/{COMMIT}/{name}" for key, name in keys.items()}
    places["listing"] = f"api/models/{repository}/revision/main"
    items = [{"key": key, "path": path} for key, path in places.items()]
    container = {
        "name": "hub",
        "image": PYTHON_IMAGE,
        "command": ["/opt/mlserver/bin/python", "-c", _PROGRAM.read_text()],
        "env": [{"name": "HUB_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub-token", "key": "reader"}}}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "files", "mountPath": "/hub"}],
    }
    pod = {"containers": [container], "volumes": [{"name": "files", "configMap": {"name": "hub", "items": items}}]}
    labels = {"app": "hub"}
    namespace.apply(
        secret("hub-token", reader=TOKEN),
        config_map("hub", {key: files[name] for key, name in keys.items()} | {"listing": listing}),
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hub", "labels": labels}, "spec": pod},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "hub"},
            "spec": {"selector": labels, "ports": [{"port": 8080}]},
        },
        flags=("--server-side",),  # the files are too large for the annotation of an apply by the client
    )
    namespace.kubectl("wait", "--for=condition=Ready", "pod/hub", "--timeout=2m")
    yield f"http://hub.{namespace.name}.svc:8080"
    namespace.kubectl("delete", "pod", "hub", "--now", "--wait=false")
