"""A registry in the cluster with one image of a model. It requires a password."""

import base64
import gzip
import hashlib
import io
import ipaddress
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.support import PYTHON_IMAGE, RESTRICTED, Json, Namespace, config_map

_PROGRAM = Path(__file__).parent / "registry-server/registry.py"
_LOGIN = "reader:" + "secret"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True)
class Registry:
    """A running registry."""

    namespace: Namespace
    authority: str
    """Host and port, for nodes and pods. The local cluster's containerd uses plain http there."""
    digest: str
    """Of the image's manifest."""

    @property
    def uri(self) -> str:
        return f"oci://{self.authority}/models/iris:1"

    def secret(self, name: str, login: str = _LOGIN) -> Json:
        """A Secret for the kubelet and the loader."""
        auth = base64.b64encode(login.encode()).decode()
        data = {".dockerconfigjson": json.dumps({"auths": {self.authority: {"auth": auth}}}), "plain-http": "true"}
        kind = "kubernetes.io/dockerconfigjson"
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind, "stringData": data}

    @property
    def downloads(self) -> int:
        """How often the image's layer was requested."""
        lines = self.namespace.kubectl("logs", "registry").splitlines()
        return sum(line == f"GET /v2/models/iris/blobs/{self._layer}" for line in lines)

    @property
    def _layer(self) -> str:
        data = self.namespace.get("configmap", "registry")["binaryData"]
        layer: str = json.loads(base64.b64decode(data["manifest"]))["layers"][0]["digest"]
        return layer


def image(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """An image of one layer with these files: its blobs by digest, and its manifest."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    layer = gzip.compress(tar.getvalue(), mtime=0)
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar.getvalue()).hexdigest()}"]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(_CONFIG, config),
        "layers": [_descriptor(_LAYER, layer)],
    }
    blobs = {hashlib.sha256(body).hexdigest(): body for body in (config, layer)}
    return blobs | {"manifest": json.dumps(manifest).encode()}


def _descriptor(media_type: str, body: bytes) -> Json:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(body).hexdigest()}", "size": len(body)}


@contextmanager
def served(namespace: Namespace, files: Mapping[str, bytes]) -> Iterator[Registry]:
    """A registry with an image of ``files`` while the block runs, at the address where the local cluster's node uses
    plain http. The files fit into a ConfigMap."""
    parts = image(files)
    dns = Namespace("kube-system").get("service", "kube-dns")["spec"]["clusterIP"]
    address = str(ipaddress.ip_address(dns) + 1)
    container = {
        "name": "registry",
        "image": PYTHON_IMAGE,
        "command": ["/opt/mlserver/bin/python", "-c", _PROGRAM.read_text()],
        "env": [{"name": "REGISTRY_LOGIN", "value": _LOGIN}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 5000}, "periodSeconds": 1},
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "files", "mountPath": "/registry"}],
    }
    pod = {"containers": [container], "volumes": [{"name": "files", "configMap": {"name": "registry"}}]}
    labels = {"app": "registry"}
    service = {"clusterIP": address, "selector": labels, "ports": [{"port": 5000}]}
    namespace.apply(
        config_map("registry", parts),
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "registry", "labels": labels}, "spec": pod},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "registry"}, "spec": service},
    )
    digest = f"sha256:{hashlib.sha256(parts['manifest']).hexdigest()}"
    try:
        namespace.kubectl("wait", "--for=condition=Ready", "pod/registry", "--timeout=2m")
        yield Registry(namespace, f"{address}:5000", digest)
    finally:
        # The next registry needs the address.
        namespace.kubectl("delete", "service/registry", "pod/registry", "--now")
