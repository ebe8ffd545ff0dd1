"""Objects of any size, each with many values of one kind, as an attacker sends to make reviews slow."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from serve_core.base.constants import PREFIX
from serve_core.base.json import JsonObject

LARGEST = 3 * 2**20 - 4096
"""Bytes: the API server accepts no larger request, and a review has two objects."""
_SERVER: JsonObject = {"name": "server", "image": "example.com/server:1", "ports": [{"containerPort": 8080}]}


def deployment(
    notes: JsonObject | None = None,
    pod: JsonObject | None = None,
    template: JsonObject | None = None,
    metadata: JsonObject | None = None,
    **spec: Any,
) -> JsonObject:
    annotations = {f"{PREFIX}model": "s3://models/a.joblib", **(notes or {})}
    made = {"name": "iris", "namespace": "ml", "annotations": annotations, **(metadata or {})}
    inner = {"metadata": template or {}, "spec": {"containers": [_SERVER]} if pod is None else pod}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": made, "spec": {**spec, "template": inner}}


def server(**more: Any) -> JsonObject:
    return deployment(pod={"containers": [_SERVER | more]})


def containers(*made: JsonObject, **more: Any) -> JsonObject:
    return deployment(pod={"containers": [_SERVER, *made], **more})


def pod_of(made: JsonObject) -> JsonObject:
    """The same as a pod with a container that has the loader's name."""
    spec = made["spec"]["template"]["spec"]
    loader = {"name": "model-loader", "image": "example.com/l:1", "args": ["--", "s3://elsewhere/a"]}
    before = [loader, *(spec.get("initContainers") or [])]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": made["metadata"], "spec": {**spec, "initContainers": before}}


def knative_of(made: JsonObject) -> JsonObject:
    """The same as a Knative Service made by hand."""
    return {**made, "apiVersion": "serving.knative.dev/v1", "kind": "Service"}


def kserve_of(made: JsonObject) -> JsonObject:
    """The same as an InferenceService."""
    predictor = {**made["spec"]["template"]["spec"], "model": {"storageUri": "s3://models/a"}}
    spec = {"predictor": predictor}
    return {**made, "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "spec": spec}


def changed(made: JsonObject) -> JsonObject:
    """The object before a small change."""
    return {**made, "metadata": {**made["metadata"], "labels": {"before": "this"}}}


def sent(new: JsonObject, old: JsonObject | None = None) -> bytes:
    """A review of it, in the API server's format."""
    request = {
        "uid": "u", "operation": "UPDATE" if old else "CREATE", "namespace": "ml", "name": "iris",
        "userInfo": {"username": "alice", "groups": []}, "object": new, "oldObject": old,
    }  # fmt: skip
    review = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
    written = json.dumps(review, separators=(",", ":"), ensure_ascii=False) + "\n"
    return written.replace(f'"{_DEEP}"', '{"f:a":' * 5000 + "{}" + "}" * 5000).encode()


_DEEP = "5,000 levels"
"""JSON that Python does not write."""


def many(size: int, width: int, made: Callable[[int], Any]) -> list[Any]:
    return [made(index) for index in range(size // width)]


def keyed(size: int, width: int, made: Callable[[int], str], value: Any = "") -> JsonObject:
    return {made(index): value for index in range(size // width)}


Shape = Callable[[int], JsonObject]


def _notes(**texts: Callable[[int], str]) -> Shape:
    return lambda n: deployment({PREFIX + key.replace("_", "-"): made(n) for key, made in texts.items()})


_OF_ANNOTATIONS: dict[str, Shape] = {
    "a model without a scheme": _notes(model=lambda n: "x" * n),
    "a model of @": _notes(model=lambda n: "a@" * (n // 2)),
    "a model of spaces": _notes(model=lambda n: "x" + " " * n + "x"),
    "models": _notes(model=lambda n: "s3://a " * (n // 7)),
    "a model of encoded letters": _notes(model=lambda n: "https://a/" + "%41" * (n // 3)),
    "a model of folders": _notes(model=lambda n: "https://a/" + "a/" * (n // 2)),
    "a model of a registry": _notes(model=lambda n: "oci://ghcr.io/" + "a-" * (n // 2)),
    **{
        f"{key} of digits": _notes(**{key: lambda n: "9" * n})
        for key in ("window", "scale", "size", "target", "canary", "concurrency", "replicas", "model_size")
    },
    "unknown annotations": lambda n: deployment(keyed(n, 30, lambda i: f"{PREFIX}u{i}")),
    "annotations almost right": lambda n: deployment(keyed(n, 36, lambda i: f"{PREFIX}concurrenc{i}")),
    "an unknown annotation": lambda n: deployment({PREFIX + "m" * n: ""}),
    "unknown long annotations": lambda n: deployment(keyed(n, 1030, lambda i: f"{PREFIX}{'model' * 200}{i}")),
    "annotations without a model": lambda n: deployment(
        metadata={"annotations": keyed(n, 30, lambda i: f"{PREFIX}u{i}")}
    ),
    "claims": _notes(auth=lambda n: "jwt", auth_claims=lambda n: ",".join(many(n, 10, lambda i: f"a{i}=b"))),
    "callers": _notes(auth=lambda n: "mtls", auth_callers=lambda n: ",".join(many(n, 10, lambda i: f"a/b{i}"))),
    "telemetry": _notes(telemetry=lambda n: "access-log," * (n // 11)),
    "a long issuer": _notes(auth=lambda n: "jwt", auth_issuer=lambda n: "https://" + "a." * (n // 2)),
    "a record": _notes(filled=lambda n: json.dumps(keyed(n, 50, lambda i: f"/spec/template/x{i}", "0" * 12))),
    "a record of one deep path": _notes(filled=lambda n: json.dumps({"/a" * (n // 2): "0" * 12})),
    "a record that is none": _notes(filled=lambda n: "[" * n),
    "what it was completed with": _notes(completed_with=lambda n: '{"asked":["' + "a" * n + '"]}'),
    "what it was completed with, that is nothing": _notes(completed_with=lambda n: "[" * n),
}  # fmt: skip

_KNATIVE = "autoscaling.knative.dev/"
_OF_METADATA: dict[str, Shape] = {
    "labels": lambda n: deployment(metadata={"labels": keyed(n, 15, lambda i: f"a{i}")}),
    "a long label": lambda n: deployment(metadata={"labels": {"a": "b" * n}}),
    "a long name": lambda n: deployment(metadata={"name": "a" * n}),
    "a long kind": lambda n: {**deployment(), "kind": "a" * n},
    "owners": lambda n: deployment(metadata={"ownerReferences": many(n, 40, lambda i: {"kind": "a", "uid": str(i)})}),
    "a selector": lambda n: deployment(selector={"matchLabels": keyed(n, 15, lambda i: f"a{i}")}),
    "labels of the template": lambda n: deployment(template={"labels": keyed(n, 15, lambda i: f"a{i}")}),
    "Knative's annotations": lambda n: deployment(template={"annotations": keyed(n, 40, lambda i: f"{_KNATIVE}a{i}")}),
    "our annotations on the template": lambda n: deployment(
        template={"annotations": keyed(n, 30, lambda i: f"{PREFIX}{i}")}
    ),
    "Istio's annotations": lambda n: deployment(
        {f"{PREFIX}mesh": "istio"}, template={"annotations": keyed(n, 40, lambda i: f"sidecar.istio.io/a{i}")}
    ),
    "a duration of hours": lambda n: deployment(template={"annotations": {f"{_KNATIVE}window": "1h" * (n // 2)}}),
    "a duration of digits": lambda n: deployment(template={"annotations": {f"{_KNATIVE}window": "9" * n + "s"}}),
    "a target of digits": lambda n: deployment(template={"annotations": {f"{_KNATIVE}target": "9" * n}}),
    "a scale of digits": lambda n: deployment(template={"annotations": {f"{_KNATIVE}min-scale": "9" * n}}),
    "an old spelling": lambda n: deployment(template={"annotations": {_KNATIVE + "aA" * (n // 2): ""}}),
    "managed fields": lambda n: deployment(
        metadata={"managedFields": [{"manager": "m", "fieldsV1": keyed(n, 14, lambda i: f"f:{i}", {})}]}
    ),
    "deep managed fields": lambda n: deployment(
        metadata={"managedFields": many(n, 35_100, lambda i: {"manager": "m", "fieldsV1": _DEEP})}
    ),
}

_TWO_PORTS = [{"containerPort": 80}, {"containerPort": 81}]
_OF_CONTAINERS: dict[str, Shape] = {
    "a command line of words": lambda n: server(args=["--port 81 " + "a " * (n // 2)], ports=_TWO_PORTS),
    "a command line of variables": lambda n: server(
        args=["--port 81 " + ("$(A)" * 8 + " ") * 1000 + "a " * (n // 2)],
        env=[{"name": "A", "value": "/mnt/modelsx" * 42}],
        ports=_TWO_PORTS,
    ),
    "a command line of open brackets": lambda n: server(args=["--port 81 " + "$(" * (n // 2)], ports=_TWO_PORTS),
    "variables": lambda n: server(env=many(n, 30, lambda i: {"name": f"A{i}", "value": "v"})),
    "a variable many times": lambda n: server(env=many(n, 34, lambda i: {"name": "A", "value": f"v{i}"})),
    "variables of each other": lambda n: server(
        env=many(n, 42, lambda i: {"name": f"A{i}", "value": f"$(A{i - 1})"})
    ),
    "brackets in a variable": lambda n: server(env=[{"name": "A", "value": "$(" * (n // 4) + "${" * (n // 4)}]),
    "undefined variables": lambda n: server(
        envFrom=[{"secretRef": {"name": "s"}}],
        env=[{"name": "A", "value": "$(" + ")$(".join(many(n, 10, lambda i: f"x{i}")) + ")"}],
    ),
    "variables with unknown fields": lambda n: server(env=many(n, 30, lambda i: {"name": f"A{i}", "x": 1})),
    "a variable of a long name with unknown fields": lambda n: server(
        env=[{"name": "A" * (n // 2), **keyed(n // 2, 12, lambda i: f"x{i}")}]
    ),
    "variables of Secrets": lambda n: server(
        env=many(n, 84, lambda i: {"name": f"A{i}", "valueFrom": {"secretKeyRef": {"name": f"s{i}", "key": "k"}}})
    ),
    "Secrets of variables": lambda n: server(envFrom=many(n, 34, lambda i: {"secretRef": {"name": f"s{i}"}})),
    "words": lambda n: server(args=[" ".join(many(n, 8, lambda i: f"--a{i}"))]),
    "arguments": lambda n: server(args=["s3://a"] * (n // 9)),
    "mounts": lambda n: server(volumeMounts=many(n, 40, lambda i: {"name": "v", "mountPath": f"/m{i}"})),
    "a long path": lambda n: server(volumeMounts=[{"name": "v", "mountPath": "/" + "a/../" * (n // 5)}]),
    "mounts where the model is": lambda n: containers(
        {"name": "b", "image": "b", "volumeMounts": many(
            n, 140, lambda i: {"name": f"v{i}", "mountPath": "/mnt/models", "subPath": str(i)})},
        volumes=many(n, 140, lambda i: {"name": f"v{i}", "hostPath": {"path": f"/{i}"}}),
    ),
    "parts of volumes of one name": lambda n: containers(
        {"name": "b", "image": "b", "volumeMounts": many(
            n, 120, lambda i: {"name": "v", "mountPath": f"/mnt/models/{i}", "subPath": str(i)})},
        volumes=many(n, 120, lambda i: {"name": "v", "hostPath": {"path": f"/{i}"}}),
    ),
    "volumes": lambda n: containers(volumes=many(n, 34, lambda i: {"name": f"v{i}", "emptyDir": {}})),
    "a volume of Secrets": lambda n: containers(
        volumes=[{"name": "v", "projected": {"sources": many(n, 34, lambda i: {"secret": {"name": f"s{i}"}})}}]
    ),
    "images of volumes": lambda n: containers(
        volumes=many(n, 60, lambda i: {"name": f"v{i}", "image": {"reference": f"example.com/i{i}"}})
    ),
    "ports": lambda n: server(ports=many(n, 40, lambda i: {"containerPort": i, "name": f"p{i}"})),
    "containers": lambda n: containers(*many(n, 50, lambda i: {"name": f"c{i}", "image": f"example.com/c{i}:1"})),
    "containers beside the server": lambda n: containers(
        {"name": "model-server", "image": "example.com/s:1"},
        *many(n, 50, lambda i: {"name": f"c{i}", "image": f"evil.com/c{i}:1"}),
    ),
    "containers without an image": lambda n: containers(*many(n, 20, lambda i: {"name": f"c{i}"})),
    "containers before": lambda n: containers(
        initContainers=many(n, 50, lambda i: {"name": f"c{i}", "image": f"example.com/c{i}:1"})
    ),
    "loaders": lambda n: containers(
        initContainers=many(n, 140, lambda i: {
            "name": "model-loader", "image": "example.com/l:1", "args": ["--signature-key", "a", "--", f"s3://a/{i}"]}),
        volumes=many(n, 140, lambda i: {"name": f"v{i}", "emptyDir": {}}),
    ),
    "a long image": lambda n: containers({"name": "s", "image": "a" * n}),
    "an image of hyphens": lambda n: containers({"name": "s", "image": "a-" * (n // 2)}),
    "an image of hosts": lambda n: containers({"name": "s", "image": "a." * (n // 2) + "/a"}),
    "resources": lambda n: server(resources={"limits": keyed(n, 18, lambda i: f"a{i}/b", "1")}),
    "parts of GPUs": lambda n: server(resources={"limits": keyed(n, 26, lambda i: f"nvidia.com/mig-{i}", "1")}),
    "memory of digits": lambda n: server(resources={"limits": {"memory": "9" * n}}),
    "memory of an exponent": lambda n: server(resources={"limits": {"memory": "1e" + "9" * n}}),
    "tolerations": lambda n: containers(tolerations=many(n, 20, lambda i: {"key": f"k{i}"})),
    "unknown fields": lambda n: containers(**keyed(n, 14, lambda i: f"u{i}", 1)),
    "pull secrets": lambda n: containers(imagePullSecrets=many(n, 20, lambda i: {"name": f"k{i}"})),
}  # fmt: skip


def _nested(levels: int) -> Any:
    made: Any = 1
    for _ in range(levels):
        made = {"a": made}
    return made


_OF_ANYTHING: dict[str, Shape] = {
    "60 levels": lambda n: containers(affinity=many(n, 6 * 58, lambda i: _nested(56))),
    "lists of lists": lambda n: containers(affinity=many(n, 12, lambda i: [[[i]]])),
    "objects": lambda n: deployment(x=many(n, 3, lambda i: {})),
    "lists": lambda n: deployment(x=many(n, 3, lambda i: [])),
    "numbers": lambda n: deployment(x=[1] * (n // 2)),
    "fractions": lambda n: deployment(x=[1.5] * (n // 4)),
    "texts": lambda n: deployment(x=["ab"] * (n // 5)),
    "names": lambda n: deployment(x=keyed(n, 10, lambda i: f"{i:x}", 1)),
    "escapes": lambda n: deployment(x="\x01" * (n // 6)),
    "wide letters": lambda n: deployment(x="é" * (n // 2)),
    "commas": lambda n: deployment(x="," * n),
    "brackets": lambda n: deployment(x="[{" * (n // 2)),
    "what managed fields begin with": lambda n: deployment(x=[{"managedFields": []}] * (n // 20)),
}

SHAPES = _OF_ANNOTATIONS | _OF_METADATA | _OF_CONTAINERS | _OF_ANYTHING


def bodies(name: str, size: int, *wanted: str) -> Iterator[tuple[str, bytes]]:
    """Reviews of a shape with about ``size`` bytes, of each kind of object, created and updated, or as ``wanted``."""
    made = SHAPES[name](size)
    kinds = {"Deployment": made, "Pod": pod_of(made), "Service": knative_of(made), "InferenceService": kserve_of(made)}
    for kind, each in kinds.items():
        for what, old in (("made", None), ("changed", changed(each))):
            if not wanted or f"{kind} {what}" in wanted:
                yield f"{kind} {what}", sent(each, old)
