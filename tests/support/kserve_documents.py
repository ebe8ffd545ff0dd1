"""InferenceServices of every shape, for property tests.

A compact description of KServe's v1beta1 schema (KServe 0.20, ``pkg/apis/serving/v1beta1``): an object is a dict, a
list has one element, and a leaf is a strategy of values. Pod and container fields are Kubernetes' own.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

from serve_core.base.json import JsonObject

Schema = Any
"""A dict of schemas, a list with one schema, or a strategy."""

TEXT = st.sampled_from(["a", "blue", "x-1"])
NAME = st.sampled_from(["alpha", "beta", "data", "kserve-container", "transformer-container"])
WHOLE = st.integers(1, 5)
FLAG = st.booleans()
QUANTITY = st.sampled_from(["1", "500m", "2Gi"])
TEXTS = {"example.com/key": TEXT, "team": TEXT}
URI = st.sampled_from([
    "s3://models/iris", "gs://models/date=1/iris", "gs://models/a#1", "pvc://claim/path", "hf://acme/tiny:v1", "hf://acme/tiny",
    "https://acme.blob.core.windows.net/models/iris", "oci://acme/iris:1", "https://example.com/iris.joblib",
    "hdfs://models/iris", "s3://models/two words",
])  # fmt: skip
ARGUMENT = st.sampled_from([
    "--model_id=acme/tiny", "--model_revision=abc", "--model_name=iris", "--http_port=5000", "--workers=2",
    "--predictor_host=localhost:8085", "--model=acme/tiny", "--revision", "--max-model-len=512", "positional",
    "--model_dir=s3://models/iris",
])  # fmt: skip
PORT = st.sampled_from([5000, 8080, 8081, 8090, 9000])

RESOURCES = {"requests": {"cpu": QUANTITY, "nvidia.com/gpu": WHOLE}, "limits": {"memory": QUANTITY}}
PROBE = {"httpGet": {"path": st.just("/ready"), "port": PORT}, "periodSeconds": WHOLE}
VARIABLE = {
    "name": st.sampled_from(["A", "STORAGE_URI", "HF_TOKEN", "MODEL_URI"]),
    "value": st.sampled_from(["a", "x-1", "gs://models/iris"]),
}
CONTAINER: JsonObject = {
    "name": NAME,
    "image": st.sampled_from(["registry.example.com/server:1", "docker.io/vllm/vllm-openai:v1"]),
    "command": [TEXT],
    "args": [ARGUMENT],
    "env": [VARIABLE],
    "envFrom": [{"secretRef": {"name": NAME}}],
    "ports": [
        {"name": st.sampled_from(["http1", "h2c", "metrics"]), "containerPort": PORT, "protocol": st.just("TCP")}
    ],
    "resources": RESOURCES,
    "readinessProbe": PROBE,
    "livenessProbe": PROBE,
    "lifecycle": {"preStop": {"sleep": {"seconds": WHOLE}}},
    "securityContext": {"runAsNonRoot": FLAG, "privileged": FLAG},
    "volumeMounts": [{"name": NAME, "mountPath": st.sampled_from(["/data", "/mnt/models"])}],
    "workingDir": TEXT,
    "imagePullPolicy": st.just("Always"),
    "terminationMessagePath": TEXT,
    "stdin": FLAG,
    "tty": FLAG,
}
POD: JsonObject = {
    "volumes": [{"name": NAME, "emptyDir": {"sizeLimit": QUANTITY}}],
    "initContainers": [CONTAINER],
    "containers": [CONTAINER],
    "restartPolicy": st.just("Always"),
    "terminationGracePeriodSeconds": WHOLE,
    "activeDeadlineSeconds": WHOLE,
    "dnsPolicy": st.just("ClusterFirst"),
    "nodeSelector": TEXTS,
    "serviceAccountName": NAME,
    "serviceAccount": NAME,
    "automountServiceAccountToken": FLAG,
    "nodeName": NAME,
    "hostNetwork": FLAG,
    "hostPID": FLAG,
    "hostIPC": FLAG,
    "shareProcessNamespace": FLAG,
    "securityContext": {"fsGroup": WHOLE, "sysctls": [{"name": TEXT, "value": TEXT}]},
    "imagePullSecrets": [{"name": NAME}],
    "hostname": NAME,
    "subdomain": NAME,
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": WHOLE}]}},
    "schedulerName": NAME,
    "tolerations": [{"key": TEXT, "operator": st.just("Exists")}],
    "hostAliases": [{"ip": st.just("10.0.0.1"), "hostnames": [TEXT]}],
    "priorityClassName": NAME,
    "priority": WHOLE,
    "dnsConfig": {"nameservers": [st.just("10.0.0.2")]},
    "readinessGates": [{"conditionType": TEXT}],
    "runtimeClassName": NAME,
    "enableServiceLinks": FLAG,
    "preemptionPolicy": st.just("Never"),
    "overhead": {"cpu": QUANTITY},
    "topologySpreadConstraints": [{"maxSkew": WHOLE, "topologyKey": TEXT}],
    "setHostnameAsFQDN": FLAG,
    "os": {"name": st.just("linux")},
    "hostUsers": FLAG,
    "schedulingGates": [{"name": NAME}],
    "resourceClaims": [{"name": NAME, "resourceClaimName": NAME}],
    "resources": RESOURCES,
    "hostnameOverride": NAME,
    "unknown": TEXT,
}
METRIC = {
    "type": st.sampled_from(["Resource", "External"]),
    "resource": {
        "name": st.sampled_from(["cpu", "memory"]),
        "target": {
            "type": st.sampled_from(["Utilization", "AverageValue"]),
            "averageUtilization": WHOLE,
            "averageValue": QUANTITY,
        },
    },
}
COMPONENT: JsonObject = {
    "minReplicas": st.integers(0, 5),
    "maxReplicas": st.integers(0, 9),
    "scaleTarget": WHOLE,
    "scaleMetric": st.sampled_from(["cpu", "memory", "concurrency", "rps", "qps"]),
    "scaleMetricType": st.sampled_from(["Utilization", "AverageValue"]),
    "autoScaling": {"metrics": [METRIC], "behavior": {"scaleDown": {"stabilizationWindowSeconds": WHOLE}}},
    "containerConcurrency": WHOLE,
    "timeout": st.integers(1, 900),
    "canaryTrafficPercent": st.sampled_from([0, 10, 100]),
    "logger": {"url": TEXT, "mode": st.sampled_from(["all", "request"])},
    "batcher": {"maxBatchSize": WHOLE, "maxLatency": WHOLE},
    "labels": TEXTS,
    "annotations": TEXTS | {"autoscaling.knative.dev/targetBurstCapacity": st.just("0")},
    "deploymentStrategy": {"type": st.just("Recreate")},
}
STORAGE: JsonObject = {
    "path": TEXT,
    "key": TEXT,
    "schemaPath": TEXT,
    "parameters": {"type": st.sampled_from(["s3", "gs", "hdfs"]), "bucket": st.just("models"), "region": TEXT},
}
EXTENSION: JsonObject = {
    **CONTAINER,
    "storageUri": URI,
    "runtimeVersion": st.just("1.2.3"),
    "protocolVersion": st.sampled_from(["v1", "v2", "grpc-v1", "grpc-v2"]),
    "storage": STORAGE,
    "confidential": {"enabled": FLAG, "resourceId": TEXT},
}
FRAMEWORKS = (
    "sklearn", "xgboost", "tensorflow", "pytorch", "triton", "onnx", "huggingface", "pmml", "lightgbm", "paddle",
)  # fmt: skip
FORMATS = st.sampled_from([*FRAMEWORKS, "vLLM", "mlflow", "openvino", "own"])
MODEL: JsonObject = {
    **EXTENSION,
    "modelFormat": {"name": FORMATS, "version": st.sampled_from(["1", "2"])},
    "runtime": st.sampled_from(["kserve-mlserver", "kserve-predictiveserver", "kserve-vllmserver", "my-runtime"]),
}
PREDICTOR: JsonObject = {
    **POD,
    **COMPONENT,
    "name": NAME,
    "storageUris": [{"uri": URI, "mountPath": st.sampled_from(["/mnt/models", "/mnt/models/a", "/data"])}],
    "storageContainerName": NAME,
    "workerSpec": {"pipelineParallelSize": WHOLE, "containers": [CONTAINER]},
}
ANNOTATIONS: JsonObject = {
    "owner": TEXT,
    "example.com/note": TEXT,
    "argocd.argoproj.io/sync-wave": st.just("1"),
    "modelFormat": st.sampled_from(["sklearn", "xgboost"]),
    "serving.kserve.io/deploymentMode": st.sampled_from(["RawDeployment", "Standard", "Serverless", "ModelMesh"]),
    "serving.kserve.io/autoscalerClass": st.sampled_from(["hpa", "keda", "external", "none"]),
    "serving.kserve.io/gke-accelerator": TEXT,
    "serving.kserve.io/storageSecretName": st.sampled_from(["store", "storage-config"]),
    "serving.kserve.io/stop": st.sampled_from(["true", "false"]),
    "serving.kserve.io/enable-tag-routing": st.sampled_from(["true", "false"]),
    "storage.kserve.io/readonly": st.sampled_from(["true", "false"]),
    "prometheus.kserve.io/port": TEXT,
    "security.opendatahub.io/enable-auth": st.just("true"),
    "serving.knative.dev/rollout-duration": st.just("120s"),
    "networking.knative.dev/ingress-class": TEXT,
    "queue.sidecar.serving.knative.dev/resource-percentage": st.just("20"),
    "autoscaling.knative.dev/min-scale": st.just("2"),
    "autoscaling.knative.dev/maxScale": st.just("4"),
    "autoscaling.knative.dev/class": st.just("hpa.autoscaling.knative.dev"),
    "autoscaling.knative.dev/metric": st.sampled_from(["cpu", "rps"]),
    "autoscaling.knative.dev/target": st.just("70"),
    "autoscaling.knative.dev/window": st.just("60s"),
    "autoscaling.knative.dev/initial-scale": st.just("1"),
}
LABELS: JsonObject = {
    "team": TEXT,
    "networking.knative.dev/visibility": st.just("cluster-local"),
    "networking.kserve.io/visibility": st.sampled_from(["cluster-local", "exposed"]),
}
METADATA: JsonObject = {
    "labels": LABELS,
    "annotations": ANNOTATIONS,
    "finalizers": [TEXT],
    "ownerReferences": [{"apiVersion": TEXT, "kind": TEXT, "name": NAME, "uid": TEXT}],
    "generateName": TEXT,
}
SPEC: JsonObject = {
    "explainer": {"art": {"type": TEXT, "config": TEXTS}, "minReplicas": WHOLE},
    "transformer": {**POD, **COMPONENT, "storageUris": [{"uri": URI}]},
    "canary": [{"trafficPercent": WHOLE, "predictor": {"name": NAME}}],
}


def some_of(schema: Schema, most: int = 5) -> st.SearchStrategy[Any]:
    """Values of a schema, each with a few of its fields."""
    if isinstance(schema, list):
        return st.lists(some_of(schema[0]), min_size=1, max_size=2)
    if isinstance(schema, dict):
        chosen = st.lists(st.sampled_from(sorted(schema)), max_size=most, unique=True)
        return chosen.flatmap(lambda keys: st.fixed_dictionaries({key: some_of(schema[key]) for key in keys}))
    return schema  # type: ignore[no-any-return]


KINDS = ("model", "framework", "custom", "image", "anything")
"""What serves the model: ``image`` is one that contains it."""


@st.composite
def inference_services(draw: st.DrawFn, kinds: Sequence[str] = KINDS) -> JsonObject:
    predictor = draw(some_of(PREDICTOR))
    kind = draw(st.sampled_from(kinds))
    if kind == "model":
        predictor["model"] = draw(some_of(MODEL)) | {"modelFormat": draw(some_of(MODEL["modelFormat"]))}
        predictor["model"].setdefault("storageUri", draw(URI))
    elif kind == "framework":
        predictor[draw(st.sampled_from(FRAMEWORKS))] = {"storageUri": draw(URI), **draw(some_of(EXTENSION))}
    elif kind == "custom":
        variable = {"name": "STORAGE_URI", "value": draw(URI)}
        predictor["containers"] = [
            {**draw(some_of(CONTAINER)), "image": "registry.example.com/own:1", "env": [variable]}
        ]
    elif kind == "image":
        fields = {key: value for key, value in CONTAINER.items() if key not in ("args", "env")}
        own = {**draw(some_of(fields)), "name": "kserve-container", "image": "registry.example.com/own:1"}
        beside = {"name": "beside", "image": "registry.example.com/beside:1"}
        predictor = {key: value for key, value in predictor.items() if key != "storageUris"}
        predictor["containers"] = draw(st.sampled_from([[own], [own, beside], [beside, own]]))
    spec = {"predictor": predictor, **draw(some_of(SPEC, 1))}
    if "transformer" in spec:
        spec["transformer"].setdefault("containers", [draw(some_of(CONTAINER))])
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "iris", **draw(some_of(METADATA))},
        "spec": spec,
    }


def leaves(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places of all values, empty objects and empty lists."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*at, key))
    elif value is not None:
        yield at
