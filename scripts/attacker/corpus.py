"""What a hostile user sends: requests that were thought out, and others that chance makes of good ones. Pure.

Everything is drawn from one generator, so that a seed gives the same requests again.
"""

import copy
import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

Json = dict[str, Any]

PREFIX = "kubectl-serve.dev/"
IMAGES = "dev.local/kubectl-serve"
PYTHON = "/opt/mlserver/bin/python"
PYTHON_IMAGE = f"{IMAGES}/mlserver-sklearn:1.7.1"
LARGEST = 2_900_000
"""Bytes: the API server takes 3 MiB."""
DIGEST = "sha256:" + "0" * 64
NAMES = [f"w{number}" for number in range(8)]
APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
STRATEGIC, OPERATIONS = "application/strategic-merge-patch+json", "application/json-patch+json"
MANAGERS = (
    "server.kubectl-serve.dev",
    "kubectl-serve-audit",
    "kubectl-serve-install",
    "failure-policy.kubectl-serve.dev",
)


@dataclass(frozen=True)
class Kind:
    api_version: str
    plural: str
    name: str

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        root = "/apis/" if "/" in self.api_version else "/api/"
        parts = [part for part in (self.plural, name, subresource) if part]
        return f"{root}{self.api_version}/namespaces/{namespace}/{'/'.join(parts)}"


DEPLOYMENTS = Kind("apps/v1", "deployments", "Deployment")
PODS = Kind("v1", "pods", "Pod")
STATEFUL_SETS = Kind("apps/v1", "statefulsets", "StatefulSet")
DAEMON_SETS = Kind("apps/v1", "daemonsets", "DaemonSet")
SERVICES = Kind("v1", "services", "Service")
SECRETS = Kind("v1", "secrets", "Secret")
CONFIG_MAPS = Kind("v1", "configmaps", "ConfigMap")
EVENTS = Kind("events.k8s.io/v1", "events", "Event")
AUTOSCALERS = Kind("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
KNATIVE_SERVICES = Kind("serving.knative.dev/v1", "services", "Service")
CONFIGURATIONS = Kind("serving.knative.dev/v1", "configurations", "Configuration")
REVISIONS = Kind("serving.knative.dev/v1", "revisions", "Revision")
ROUTES = Kind("serving.knative.dev/v1", "routes", "Route")
DOMAIN_MAPPINGS = Kind("serving.knative.dev/v1beta1", "domainmappings", "DomainMapping")
EXCEPTIONS = Kind("kubectl-serve.dev/v1alpha1", "policyexceptions", "PolicyException")
KINDS = (
    DEPLOYMENTS, PODS, SERVICES, SECRETS, CONFIG_MAPS, EVENTS, AUTOSCALERS, KNATIVE_SERVICES, CONFIGURATIONS, ROUTES,
    DOMAIN_MAPPINGS, EXCEPTIONS,
)  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """One request. ``what``: a word for the table."""

    what: str
    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"


def _head(kind: Kind, name: str, **metadata: Any) -> Json:
    return {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": name, **metadata}}


RESTRICTED: Json = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
MODEST: Json = {"limits": {"memory": "128Mi"}}


def container(name: str = "server", **more: Any) -> Json:
    sleep = [PYTHON, "-c", "import time; time.sleep(20)"]
    good = {"image": PYTHON_IMAGE, "command": sleep, "securityContext": RESTRICTED, "resources": MODEST}
    return {"name": name, **good, **more}


def deployment(name: str, model: str | None, pod: Json | None = None, /, **annotations: str) -> Json:
    """One with our annotations. With a model and without ``pod`` it is for a runtime of the catalogue, as it is."""
    notes = {PREFIX + key.replace("_", "-"): value for key, value in annotations.items()}
    if model is not None:
        notes[f"{PREFIX}model"] = model
    made = _head(DEPLOYMENTS, name, annotations=notes) | {"spec": {"replicas": 0}}
    if pod is not None or model is None:
        labels = {"app": name}
        template = {"metadata": {"labels": labels}, "spec": pod or {"containers": [container()]}}
        made["spec"] |= {"selector": {"matchLabels": labels}, "template": template}
    return made


def honest(name: str) -> Json:
    """One that every policy of the run lets through."""
    notes = {"digest": DIGEST, "visibility": "cluster-local", "scale": "0..1"}
    return deployment(name, "s3://models/tenant/model.ubj", **notes)


def of_kind(kind: Kind, name: str) -> Json:
    """A plain good object."""
    template: Json = {"spec": {"containers": [{"image": PYTHON_IMAGE}]}}
    specs: dict[Kind, Json] = {
        PODS: {"containers": [container()], "restartPolicy": "Never"},
        SERVICES: {"selector": {"app": name}, "ports": [{"port": 80}]},
        AUTOSCALERS: {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "maxReplicas": 2,
        },
        KNATIVE_SERVICES: {"template": template},
        CONFIGURATIONS: {"template": template},
        ROUTES: {"traffic": [{"configurationName": name, "percent": 100, "latestRevision": True}]},
        DOMAIN_MAPPINGS: {"ref": {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": name}},
        EXCEPTIONS: {"policies": ["restricted-sources"], "expires": "2099-01-01T00:00:00Z", "reason": "x"},
    }
    if kind is DEPLOYMENTS:
        return honest(name)
    if kind is DOMAIN_MAPPINGS:
        name = f"{name}.example.com"
    made = _head(kind, name, labels={f"{PREFIX}deployment": name})
    if kind in (SECRETS, CONFIG_MAPS):
        return made | {"data": {"key": "dmFsdWU="}}
    if kind is EVENTS:
        regarding = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        said = {"eventTime": "2026-01-01T00:00:00.000000Z", "type": "Warning", "reason": "Failed", "action": "Serve"}
        source = {"reportingController": f"{PREFIX}server", "reportingInstance": "x"}
        return made | said | source | {"regarding": regarding, "note": "no"}
    return made | {"spec": specs[kind]}


# --- What was thought out


def _deep(depth: int) -> str:
    """Stands for an object of that depth, too deep for Python to write: see :func:`written`."""
    return f"@{depth} deep@"


def written(manifest: Json) -> bytes:
    """An object in JSON."""
    text = json.dumps(manifest)
    return _DEEP.sub(lambda found: _nested(int(found[1])), text).encode()


_DEEP = re.compile('"@([0-9]+) deep@"')


def _nested(depth: int) -> str:
    return '{"f:a":' * depth + "{}" + "}" * depth


def _managed(depth: int) -> list[Json]:
    fields = {"f:metadata": _deep(depth)}
    entry = {"manager": "m", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": fields}
    return [entry | {"apiVersion": "v1", "time": "2026-01-01T00:00:00Z"}]


def _long_annotations(rng: random.Random, name: str) -> Iterator[Json]:
    """Work before bounds: long values of whatever is parsed."""
    long = rng.choice([1_000, 12_000, 40_000, 120_000])
    digits = "9" * long
    yield deployment(name, "x" * long)
    yield deployment(name, "s3://models/" + "a/" * (long // 2))
    yield deployment(name, "s3://models/" + "%41" * (long // 3), digest=DIGEST)
    yield deployment(name, " ".join(f"s3://models/a{i}=f{i}" for i in range(long // 20)))
    yield deployment(name, "https://" + "a." * (long // 2) + "example.com/m")
    yield deployment(name, "hf://" + "-" * long + "/x@" + "f" * 40)
    for key in ("window", "timeout", "size", "target", "concurrency", "canary", "model_size", "observed_generation"):
        yield deployment(name, "s3://models/a", **{key: digits + rng.choice(["", "s", "Gi", "%", "."])})
    yield deployment(name, "s3://models/a", scale=f"{digits}..{digits}")
    yield deployment(name, "s3://models/a", auth="jwt", auth_issuer="https://" + "a" * long, auth_claims="a=b," * long)
    yield deployment(name, "s3://models/a", domain="a." * (long // 2) + "com")
    unknown = {f"unknown_{i}": "x" for i in range(min(9_000, long // 2))}
    yield deployment(name, "s3://models/a", **unknown)
    yield deployment(name, None, **unknown)


def _records(rng: random.Random, name: str) -> Iterator[Json]:
    """State of ours, written by hand."""
    loader = {"image": "evil.example/loader:1", "allowNetworks": ["169.254.169.254/32", "0.0.0.0/0"]}
    runtime = {"name": "vllm", "spec": {"formats": [], "container": {"image": "evil.example/x"}}}
    records = [
        json.dumps({"asked": "0" * 16, "loader": loader, "runtime": runtime}),
        json.dumps({"asked": [], "loader": None}),
        _nested(3_000),
        "[" * 100_000,
        "renew",
        '{"size": ' + "9" * 5_000 + "}",
        "\u202e\x1b]52;c;AAAA\x07",
        "completion-" + "f" * 16,
    ]
    for key in ("completed_with", "filled"):
        yield deployment(name, "s3://models/a", digest=DIGEST, **{key: rng.choice(records)})
    paths = {f"/spec/template/spec/containers/0/{i}": "0" * 16 for i in range(5_000)}
    yield deployment(name, "s3://models/a", filled=json.dumps(paths))
    yield deployment(name, "s3://models/a", filled=json.dumps({"/spec/selector": "x", "//": "", "/~2": "~"}))
    yield deployment(name, "s3://models/a", replicas="9" * 400, handover="to-knative", promoted="x", previous="y")
    yield deployment(name, "s3://models/a", service="../../kube-system", url="javascript:alert(1)")


def _loaders(rng: random.Random, name: str) -> Iterator[Json]:
    """What looks like the loader and is not, and what leads it elsewhere."""
    arguments = ["--digest", DIGEST, "--", "s3://models/a", "/mnt/model-volume/model"]
    evil = container("model-loader", image=f"{IMAGES}/model-loader:0.1.0", args=arguments)
    renamed = container("fetch", image="evil.example/mirror/model-loader:1", args=arguments)
    led = {
        "env": [{"name": "AWS_ENDPOINT_URL", "value": "https://evil.example"}, {"name": "HF_ENDPOINT", "value": "x"}]
    }
    for init in (evil, renamed, evil | led, {**evil, "command": None}, {"name": "model-loader", **led}):
        pod = {"initContainers": [init], "containers": [container(env=[{"name": "MODEL_PATH", "value": "/elsewhere"}])]}
        yield deployment(name, "s3://models/a", pod, digest=DIGEST)
        yield _head(PODS, name, labels={f"{PREFIX}deployment": name}) | {"spec": pod}
        yield _head(KNATIVE_SERVICES, name) | {"spec": {"template": {"spec": pod}}}
        yield _head(CONFIGURATIONS, name) | {"spec": {"template": {"spec": pod}}}
    sidecar = {"traffic.sidecar.istio.io/excludeInboundPorts": "8012,8013", "sidecar.istio.io/inject": "false"}
    made = deployment(name, "s3://models/a.ubj", {"containers": [container()]}, digest=DIGEST)
    made["spec"]["template"]["metadata"]["annotations"] = sidecar
    yield made


def _forbidden(rng: random.Random, name: str) -> Iterator[Json]:
    """What the policies of the run deny, said in other ways."""
    for uri in (
        "s3://elsewhere/a.ubj", "s3://models-evil/a.ubj", "S3://models/../elsewhere/a.ubj",
        "https://models.example.com.evil.example/a.ubj",
        "https://models.example.com@evil.example/a", "https://models.example.com%2eevil.example/a", "hf://evil/a",
        "https://127.1/a", "https://[::ffff:169.254.169.254]/a", "pvc://claim/../..", "s3://models%2f..%2felsewhere/a",
        "oci://evil.example/a:1", "ｓ3://models/a", "s3://models/a s3://elsewhere/b=b",
    ):  # fmt: skip
        yield deployment(name, uri, digest=DIGEST, visibility="cluster-local", format="xgboost")
    yield deployment(name, "s3://models/a.ubj")
    # What a runtime of the catalogue is told otherwise.
    for server in (
        {"image": f"{IMAGES}/mlserver-sklearn:1.7.1"}, {"args": ["--evil"]}, {"command": ["/elsewhere"]},
        {"env": [{"name": "MLSERVER_MODEL_URI", "value": "/elsewhere"}]}, {"workingDir": "/elsewhere"},
        {"env": [{"name": "MLSERVER_MODEL_IMPLEMENTATION", "value": "mlserver_sklearn.SKLearnModel"}]},
        {"volumeMounts": [{"name": "elsewhere", "mountPath": "/mnt/models"}]},
        {"envFrom": [{"secretRef": {"name": "x"}}]},
    ):  # fmt: skip
        pod = {"containers": [{"name": "model-server", **server}], "volumes": [{"name": "elsewhere", "emptyDir": {}}]}
        yield deployment(name, "s3://models/tenant/model.ubj", pod, digest=DIGEST, visibility="cluster-local")
    elsewhere = {"volumeMounts": [{"name": "elsewhere", "mountPath": "/data/model.ubj"}]}
    for path in ("/data", "/opt/mlserver", "/usr/lib", "/data/../opt/mlserver", "/data:/opt", "/\uff0e\uff0e/opt"):
        server = elsewhere if path == "/data" else {}
        pod = {"containers": [{"name": "model-server", **server}], "volumes": [{"name": "elsewhere", "emptyDir": {}}]}
        notes = {"digest": DIGEST, "visibility": "cluster-local", "mount": path}
        yield deployment(name, "s3://models/tenant/model.ubj", pod, **notes)
    yield deployment(name, "s3://models/a.pkl", digest=DIGEST, format="sklearn")
    yield deployment(name, "s3://models/a", digest=DIGEST, visibility="public")
    yield deployment(name, "s3://models/a", digest=DIGEST, domain=f"{name}.example.com")
    greedy = container(resources={"limits": {"nvidia.com/gpu": "4", "memory": "900Gi"}})
    yield deployment(name, "s3://models/a", {"containers": [greedy]}, digest=DIGEST, scale="0..50")
    yield deployment(name, "s3://models/a", {"containers": [greedy]}, digest=DIGEST, mode="deployment", scale="1..2")
    trust = container(args=["--trust-remote-code"], env=[{"name": "TRUST_REMOTE_CODE", "value": "1"}])
    yield deployment(name, "s3://models/a", {"containers": [trust]}, digest=DIGEST)
    yield deployment(name, "s3://models/a", {"containers": [container(image="evil.example/x")]}, digest=DIGEST)
    yield deployment(name, "s3://models/a", {"containers": [container(image=f"{IMAGES}-evil/x")]}, digest=DIGEST)
    public = _head(KNATIVE_SERVICES, name) | {
        "spec": {"template": {"spec": {"containers": [{"image": "evil.example/x"}]}}}
    }
    yield public
    yield _head(DOMAIN_MAPPINGS, f"{name}.example.com") | of_kind(DOMAIN_MAPPINGS, name)
    yield of_kind(ROUTES, name)


CACHE = "cache.kubectl-serve.dev"
WAITS = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); signal.pause()"


def cached(*words: str, secret: str = "", **more: Any) -> Json:
    """A volume of the node cache that a user writes."""
    own = {"nodePublishSecretRef": {"name": secret}} if secret else {}
    csi = {"driver": CACHE, "readOnly": True, "volumeAttributes": {"arguments": json.dumps(list(words))}}
    return {"name": "model", "csi": csi | own | more}


def holder(**more: Any) -> Json:
    """The container that holds a model's volume while a node loads it, or one that looks like it."""
    wait = ["/opt/model-loader/bin/python", "-I", "-c", WAITS]
    mounts = [{"name": "model", "mountPath": "/mnt/models", "readOnly": True}]
    restricted = RESTRICTED | {"readOnlyRootFilesystem": True}
    good = {"image": f"{IMAGES}/model-loader:0.1.0", "command": wait, "securityContext": restricted}
    good |= {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "FallbackToLogsOnError"}
    return {"name": "model-prefetch", **good, "resources": MODEST, "volumeMounts": mounts, **more}


def _on_nodes(rng: random.Random, name: str) -> Iterator[Json]:
    """Volumes of the node cache and images as volumes, by hand; and what loads models on nodes in advance."""
    place = "s3://models/tenant/model.ubj"
    pinned = ("--store", "s3://models -", "--digest", DIGEST, "--")
    volumes = [
        cached(*pinned, place),
        cached("--", place),
        cached(*pinned, "s3://elsewhere/a.ubj"),
        cached(*pinned, "s3://models-evil/a.ubj", secret="x"),  # noqa: S106  # a name
        cached("--allow-network", "0.0.0.0/0", *pinned, place),
        cached("--credentials", "/run/secrets/models", *pinned, place),
        cached("--volume", "/", *pinned, "file:///etc"),
        cached("--signature-key", "/etc/shadow", *pinned, place),
        cached(*pinned, place, nodePublishSecretRef={"name": "../x"}),
        cached(*pinned, place, volumeAttributes={"arguments": "[" * 50_000}),
        cached(*pinned, place, volumeAttributes={"arguments": json.dumps(["--"]), "csi.storage.k8s.io/ephemeral": "x"}),
        cached(*pinned, place, readOnly=False),
        cached(*pinned, place, driver=CACHE.upper()),
        {"name": "model", "image": {"reference": "evil.example/a:1", "pullPolicy": "Always"}},
        {"name": "model", "image": {"reference": "dev.local/kubectl-serve-evil/a:1"}},
    ]
    for volume in volumes:
        pod = {"containers": [holder()], "volumes": [volume]}
        yield _head(PODS, name, labels={f"{PREFIX}prefetch": name}) | {"spec": pod}
        mounted = container(volumeMounts=[{"name": "model", "mountPath": "/mnt/models"}])
        yield _head(KNATIVE_SERVICES, name) | {"spec": {"template": {"spec": pod | {"containers": [mounted]}}}}
        notes = {"digest": DIGEST, "visibility": "cluster-local", "cache": "node"}
        yield deployment(name, place, {"containers": [mounted], "volumes": [volume]}, **notes)
    good = {"volumes": [cached(*pinned, place)]}
    for spoilt in (
        {"command": ["/opt/model-loader/bin/python", "-c", "import os; os.system('id')"]}, {"args": ["--evil"]},
        {"env": [{"name": "LD_PRELOAD", "value": "/mnt/models/evil.so"}]}, {"envFrom": [{"secretRef": {"name": "x"}}]},
        {"image": "evil.example/model-loader:1"}, {"lifecycle": {"postStart": {"exec": {"command": ["id"]}}}},
        {"volumeMounts": [{"name": "model", "mountPath": "/opt/model-loader"}]},
        {"workingDir": "/mnt/models"}, {"name": "model-loader"}, {"stdin": True, "tty": True},
    ):  # fmt: skip
        yield _head(PODS, name, labels={f"{PREFIX}prefetch": name}) | {
            "spec": {"containers": [holder(**spoilt)], **good}
        }
    labels = {f"{PREFIX}deployment": name, f"{PREFIX}prefetch": name}
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": "0", "controller": True}
    for kind in (STATEFUL_SETS, DAEMON_SETS):
        spec: Json = {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {**good}},
        }
        spec["template"]["spec"]["containers"] = [holder()]
        head = _head(kind, f"{name}-prefetch-0123456789", labels=labels)
        yield head | {"spec": spec}
        yield head | {"metadata": head["metadata"] | {"ownerReferences": [owner]}, "spec": spec}
    for value in ("2", "all", "0", "-1", "9" * 5_000, "all,2", "ALL", "2\n2", "1001", ""):
        notes = {"digest": DIGEST, "visibility": "cluster-local", "prefetch": value}
        yield deployment(name, place, cache=rng.choice(["node", "none", "pvc://claim"]), **notes)


def _large(rng: random.Random, name: str) -> Iterator[Json]:
    """Near the API server's limit, or what costs more than its bytes."""
    size = rng.choice([200_000, 1_000_000, LARGEST])
    many = [{"name": f"N{i}", "value": ""} for i in range(size // 40)]
    yield deployment(name, "s3://models/a", {"containers": [container(env=many)]})
    yield deployment(name, "s3://models/a", {"containers": [container(args=["x" * size])]})
    yield deployment(name, "s3://models/a", {"containers": [container(f"c{i}") for i in range(size // 400)]})
    mounts = [{"name": "v", "mountPath": f"/{i}"} for i in range(size // 50)]
    yield deployment(name, "s3://models/a", {"containers": [container(volumeMounts=mounts)], "volumes": []})
    yield honest(name) | {"metadata": honest(name)["metadata"] | {"managedFields": _managed(2_000)}}
    wide: Json = {f"f:{i}": {} for i in range(size // 40)}
    managed = [_managed(1)[0] | {"fieldsV1": wide}]
    yield honest(name) | {"metadata": honest(name)["metadata"] | {"managedFields": managed}}
    labels = {f"l{i}": "x" for i in range(size // 60)}
    yield honest(name) | {"metadata": honest(name)["metadata"] | {"labels": labels}}


def _neighbours(rng: random.Random, name: str) -> Iterator[Json]:
    """What the server watches although nobody asked it to: with our labels, large, deep, or in a model's way."""
    ports = [{"name": f"p{i}", "port": i + 1} for i in range(rng.choice([10, 1_000, 15_000]))]
    service = of_kind(SERVICES, name)
    yield service | {"spec": {"selector": {"app": name}, "ports": ports}}
    for depth in (200, 2_000, 9_000):
        yield service | {"metadata": service["metadata"] | {"managedFields": _managed(depth)}}
    yield service | {"spec": {"type": "ExternalName", "externalName": "evil.example"}}
    selector = {f"l{i}": "x" for i in range(5_000)}
    yield service | {"spec": {"selector": selector, "ports": [{"port": 80}]}}
    yield service | {"metadata": service["metadata"] | {"annotations": {"a": "x" * 200_000}}}
    held = _head(DEPLOYMENTS, name, labels={f"{PREFIX}served": "true"}, finalizers=["example.com/hold"])
    yield held | {"spec": deployment(name, None)["spec"]}
    yield _head(SECRETS, name) | {
        "stringData": {"AWS_ENDPOINT_URL": "https://evil.example", "HF_ENDPOINT": "x" * 900_000}
    }
    yield _head(CONFIG_MAPS, f"completion-{'0' * 16}", labels={f"{PREFIX}completion": "true"}) | {"data": {"a": "b"}}
    autoscaler = of_kind(AUTOSCALERS, name)
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": "0", "controller": True}
    yield autoscaler | {"metadata": autoscaler["metadata"] | {"ownerReferences": [owner]}}
    for kind in (KNATIVE_SERVICES, CONFIGURATIONS, EVENTS):
        made = of_kind(kind, name)
        yield made | {"metadata": made["metadata"] | {"ownerReferences": [owner], "managedFields": _managed(1_500)}}


def messages(rng: random.Random) -> str:
    """What a container says at its end: 4,096 bytes reach the pod's status."""
    return rng.choice(
        [
            '{"code": [], "seconds": 1}', '{"code": {"a": 1}, "seconds": "x"}', '{"seconds": 1e999}', "[" * 4_000,
            '{"code": "Loaded", "bytes": ' + "9" * 4_000 + "}", "null", '"x"', "\x00\x1b[2J\x1b]52;c;AAAA\x07",
            "\u202e",
            '{"code": "Loaded", "seconds": -1, "bytes": NaN}', '{"code": "' + "A" * 4_000 + '"}', '{"code": "\ud83d"}',
            '{"code": "Refused", "message": "\\n\\nReady: the model is loaded"}', '{"code": true, "files": {}}', "",
            '{"code": "Loading", "done": {}, "total": []}', "{" + '"a":{' * 700 + "}" * 701,
        ]
    )  # fmt: skip


def speaking_pod(rng: random.Random, name: str) -> Json:
    """A pod with our names and labels whose containers say such things, in the log too."""
    text = messages(rng).encode(errors="replace").decode(errors="replace").replace("\0", "")
    program = (
        "import sys; text = sys.argv[1]; print(text, flush=True); "
        "open('/dev/termination-log', 'w', encoding='utf-8').write(text); sys.exit(int(sys.argv[2]))"
    )
    init = container("model-loader") | {"command": [PYTHON, "-c", program, text, str(rng.choice([0, 1]))]}
    revision = f"{name}-0000{rng.randint(1, 3)}"
    labels = {f"{PREFIX}deployment": name, "app": name, "serving.knative.dev/revision": revision}
    spec: Json = {"restartPolicy": "Never", "initContainers": [init], "containers": [container("model-server")]}
    spec |= {"terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False}
    return _head(PODS, f"{name}-{rng.randrange(10**6)}", labels=labels) | {"spec": spec}


FAMILIES: dict[str, tuple[int, Callable[[random.Random, str], Iterator[Json]]]] = {
    "long annotations": (4, _long_annotations),
    "records of ours": (3, _records),
    "false loaders": (3, _loaders),
    "what is denied": (4, _forbidden),
    "models on nodes": (3, _on_nodes),
    "large objects": (1, _large),
    "neighbours": (3, _neighbours),
}
"""Each with how often it is drawn."""


# --- What chance makes of it

_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**400, 1.5, "", "x" * 5_000, [], {}, [[]], [None], {"": ""}, "$(A)", "-",
    "../..", "\u202e", "\x1b]52;c;AAAA\x07", "ｓ3://models", "sha256:", "0..", "9" * 12_000, {"a": _deep(80)}, "NaN",
    "1e999",
)  # fmt: skip
_KEYS = ("model", "modle", "scale", "filled", "completed-with", "handover", "replicas", "url", "mode", "adopt", "")


def mutated(rng: random.Random, manifest: Json) -> Json:
    """A copy of which a few values are others, gone, doubled, or under another key."""
    made = copy.deepcopy(manifest)
    for _ in range(rng.randint(1, 5)):
        places = list(_places(made))
        if not places:
            break
        owner, key = rng.choice(places)
        match rng.randrange(5):
            case 0:
                owner[key] = copy.deepcopy(rng.choice(_VALUES))
            case 1:
                del owner[key]
            case 2:
                other, at = rng.choice(places)
                owner[key] = copy.deepcopy(other[at]) if at in other or isinstance(other, list) else None
            case 3 if isinstance(owner, dict):
                owner[PREFIX + rng.choice(_KEYS)] = owner[key]
            case _ if isinstance(owner, list):
                owner += copy.deepcopy(owner[:20])
            case _:
                owner[key] = f"{owner[key]}{rng.choice(_VALUES)}"[:20_000]
    return made


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Where a value may be changed; the head's kind and version stay, else nothing would be judged."""
    if depth > 12:
        return
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 50)) if isinstance(value, list) else ()
    for key in keys:
        if depth == 0 and key in ("apiVersion", "kind"):
            continue
        if not (depth == 1 and key == "name"):
            yield value, key
        yield from _places(value[key], depth + 1)


def operation(rng: random.Random, namespace: str) -> Operation:
    """One request to draw."""
    name = rng.choice(NAMES)
    if rng.random() < 0.25:
        kind = rng.choice(KINDS)
        family, manifest = f"{kind.plural} by chance", mutated(rng, of_kind(kind, name))
    else:
        family = rng.choices(list(FAMILIES), [weight for weight, _ in FAMILIES.values()])[0]
        made = FAMILIES[family][1]
        # Only as far as the one that is drawn: some are megabytes.
        manifest = next(itertools.islice(made(rng, name), rng.randrange(_count(made)), None))
        if rng.random() < 0.3:
            manifest = mutated(rng, manifest)
    return _sent(rng, namespace, family, manifest)


@cache
def _count(made: Callable[[random.Random, str], Iterator[Json]]) -> int:
    return sum(1 for _ in made(random.Random(0), NAMES[0]))  # noqa: S311


def _kind_of(manifest: Json) -> Kind:
    wanted = (manifest.get("apiVersion"), manifest.get("kind"))
    return next(
        kind for kind in (*KINDS, REVISIONS, STATEFUL_SETS, DAEMON_SETS) if (kind.api_version, kind.name) == wanted
    )


def _sent(rng: random.Random, namespace: str, family: str, manifest: Json) -> Operation:
    kind = _kind_of(manifest)
    metadata = manifest.get("metadata")
    name = str((metadata if isinstance(metadata, dict) else {}).get("name") or rng.choice(NAMES))[:60] or "w0"
    if not name.replace("-", "").replace(".", "").isalnum() or not name.isascii():
        name = "w0"
    text = written(manifest)
    one, dry = kind.path(namespace, name), "dryRun=All"
    # What is large is tried and not kept: the cluster's store is not what is attacked here.
    dry_only = len(text) > 400_000 or rng.random() < 0.35
    query = f"?{dry}" if dry_only else ""
    match rng.randrange(9):
        case 0 | 1 | 2:
            return Operation(family, "POST", kind.path(namespace) + query, text)
        case 3:
            manager = rng.choice(MANAGERS)
            return Operation(family, "PATCH", f"{one}?fieldManager={manager}&force=true&{query[1:]}", text, APPLY)
        case 4 | 5:
            return Operation(family, "PATCH", one + query, text, rng.choice([MERGE, STRATEGIC]))
        case 6:
            return Operation(family, "PUT", one + query, text)
        case 7 if kind is DEPLOYMENTS:
            return _scaled(rng, namespace, name)
        case 7:
            return Operation("deletion", "DELETE", one)
        case _:
            return _small(rng, kind, namespace, name)


def _scaled(rng: random.Random, namespace: str, name: str) -> Operation:
    replicas = rng.choice([0, 1, 2, 50, 2**31 - 1, -1])
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": name, "namespace": namespace}}
    # Many pods that nobody can hold are no part of this: the quota of the namespace bounds them.
    text = json.dumps(scale | {"spec": {"replicas": replicas}}).encode()
    return Operation("scale", rng.choice(["PUT", "PATCH"]), DEPLOYMENTS.path(namespace, name, "scale"), text, MERGE)


def _small(rng: random.Random, kind: Kind, namespace: str, name: str) -> Operation:
    """Writes of one field, to whatever there is; some that the role does not allow."""
    path = kind.path(namespace, name)
    key = f"{PREFIX}{rng.choice(_KEYS) or 'x'}"
    value = rng.choice([None, "renew", "s3://elsewhere/a", "true", "deployment", "9" * 12_000])
    patch: Any = {"metadata": {rng.choice(["annotations", "labels"]): {key: value}}}
    match rng.randrange(6):
        case 0:
            patch = {"metadata": {"finalizers": rng.choice([None, ["example.com/hold"]])}}
        case 1:
            patch = {"metadata": {"managedFields": rng.choice([[], [{}], _managed(1_000)])}}
        case 2:
            patch = {"status": {"conditions": [{"type": f"{PREFIX}Ready", "status": "True"}]}}
            path = kind.path(namespace, name, "status")
        case 3:
            operations = [
                {"op": "add", "path": f"/metadata/annotations/{key.replace('/', '~1')}", "value": value or ""}
            ]
            return Operation("small patch", "PATCH", path, json.dumps(operations).encode(), OPERATIONS)
        case 4:
            return Operation("deletion", "DELETE", kind.path(namespace), b"")
        case _:
            pass
    return Operation("small patch", "PATCH", path, written(patch), MERGE)
