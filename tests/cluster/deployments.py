"""Random Deployments from the API server's OpenAPI document: every field of the schema can occur.

The schema gives the fields and their types. The tables below give useful values: the API server would refuse most
random texts before they have any effect.
"""

import copy
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from cluster.support import PREFIX, Json
from serve_core.base.constants import SERVER_CONTAINER

_ROOT = "io.k8s.api.apps.v1.Deployment"
_REFERENCE = "#/components/schemas/"

_ONE_OF = frozenset(
    {"Volume", "VolumeProjection", "Probe", "LifecycleHandler", "EnvVarSource", "EnvFromSource"},
)
"""Objects of which exactly one of the fields that are objects may be set."""

_MOST = {"PodSpec": 2, "Container": 3, "SecurityContext": 2, "ObjectMeta": 2}
"""How many optional fields occur at once; 2 where nothing is said, so that the documents stay readable."""

_ALWAYS = {"Deployment": ("spec",), "PodTemplateSpec": ("spec",)}
"""Optional fields that lead to where most of the schema is."""

_NAMED = frozenset({"volumes", "resourceClaims"})

RUNTIME_CLASS = "kubectl-serve-property"
"""Has to exist: Knative's webhook has the API server try the pod."""

_VOLUMES = ("data", "cache", "config")
_NAME = st.sampled_from(["a", "b-c", "data"])
_TEXT = st.sampled_from(["", "a", "some text", "$(A)"])
_PATH = st.sampled_from(["a", "a/b", "/a"])
_PORT = st.sampled_from([80, 8080, 9000, 8012, 8013, 8022, 9090])
_PORT_OR_NAME = st.sampled_from([8080, 9000, "8080", "http", "http1", "grpc"])
_LABELS = st.dictionaries(
    st.sampled_from(["team", "app", "app.kubernetes.io/name", "networking.knative.dev/visibility"]),
    st.sampled_from(["a", "b-2", "", "cluster-local"]),
    max_size=2,
)
_QUANTITY = st.sampled_from(["1", "100m", "64Mi", "1Gi", "0"])

_AUTOSCALING = "autoscaling.knative.dev/"
_ANNOTATIONS = st.dictionaries(
    st.sampled_from(
        [
            "note",
            "example.com/note",
            *(
                _AUTOSCALING + name
                for name in (
                    "class", "metric", "target", "min-scale", "max-scale", "initial-scale", "activation-scale",
                    "window", "scale-down-delay", "target-utilization-percentage", "target-burst-capacity", "minScale",
                    "panic-threshold-percentage", "panic-window-percentage", "scale-to-zero-pod-retention-period",
                    "unheard-of",
                )
            ),
            "serving.knative.dev/progress-deadline",
            "serving.knative.dev/rollout-duration",
            "serving.knative.dev/creator",
            "serving.knative.dev/unheard-of",
            "queue.sidecar.serving.knative.dev/cpu-resource-request",
            "networking.knative.dev/http-protocol",
            "sidecar.istio.io/inject",
        ]
    ),
    st.sampled_from(
        ["1", "10", "0", "-1", "30s", "1m", "0s", "150", "rps", "cpu", "true", "kpa.autoscaling.knative.dev", ""]
    ),
    max_size=2,
)  # fmt: skip

_OURS: dict[str, list[str]] = {
    "digest": ["sha256:" + "0" * 64],
    "size": ["140Gi", "1Mi"],
    "runtime": ["mlserver-sklearn", "triton", "vllm", "custom"],
    "format": ["sklearn", "onnx", "tensorflow:2", "huggingface"],
    "protocol": ["v1", "v2", "grpc-v2"],
    "scale": ["0..", "1..5", "3", "0..1"],
    "target": ["10", "0.5"],
    "metric": ["concurrency", "rps"],
    "concurrency": ["0", "5", "1000"],
    "window": ["6s", "1m", "1h"],
    "timeout": ["1s", "90s", "10m"],
    "credentials": ["store"],
    "visibility": ["public", "cluster-local"],
}

_VALUES: dict[str, SearchStrategy[Any]] = {
    "Container.image": st.just("example.com/app:1"),
    "Container.workingDir": st.sampled_from(["/", "/work"]),
    "Container.terminationMessagePath": st.sampled_from(["/dev/termination-log", "/tmp/end"]),
    "Container.restartPolicy": st.sampled_from(["Always"]),
    "ContainerPort.name": st.sampled_from(["http", "http1", "h2c", "grpc", "web", "user-port"]),
    "ContainerPort.hostPort": st.sampled_from([0, 8080]),
    "ContainerPort.hostIP": st.just("10.0.0.1"),
    "EnvVar.name": st.sampled_from(["A", "MODEL_NAME", "PORT", "K_SERVICE", "K_REVISION", "LOG_LEVEL"]),
    "EnvVar.value": _TEXT,
    "ObjectFieldSelector.fieldPath": st.sampled_from(["metadata.name", "status.podIP", "spec.nodeName"]),
    "ObjectFieldSelector.apiVersion": st.just("v1"),
    "ResourceFieldSelector.resource": st.sampled_from(["limits.cpu", "requests.memory"]),
    "ResourceFieldSelector.containerName": st.just("app"),
    "ResourceFieldSelector.divisor": st.sampled_from(["1", "1Mi"]),
    "Volume.name": st.sampled_from(_VOLUMES),
    "VolumeMount.name": st.sampled_from(_VOLUMES),
    "VolumeMount.mountPath": st.sampled_from(["/data", "/mnt/models", "/tmp", "/dev/shm", "/dev/log", "/", "relative"]),
    "VolumeMount.recursiveReadOnly": st.sampled_from(["Disabled", "IfPossible"]),
    "VolumeDevice.name": st.sampled_from(_VOLUMES),
    "HTTPGetAction.path": st.sampled_from(["/", "/ready", "ready"]),
    "HTTPGetAction.host": st.sampled_from(["localhost", "example.com"]),
    "HTTPHeader.name": st.sampled_from(["Accept", "X-A"]),
    "PodSpec.nodeName": st.just("node-1"),
    "PodSpec.hostname": st.just("host"),
    "PodSpec.subdomain": st.just("sub"),
    "PodSpec.runtimeClassName": st.just(RUNTIME_CLASS),
    "PodSpec.priorityClassName": st.sampled_from(["", "system-cluster-critical"]),
    "PodSpec.serviceAccountName": st.just("default"),
    "PodSpec.serviceAccount": st.just("default"),
    "PodSpec.schedulerName": st.sampled_from(["default-scheduler", "mine"]),
    "PodSpec.preemptionPolicy": st.just("PreemptLowerPriority"),
    "PodSpec.priority": st.just(0),
    "PodSpec.overhead": st.just({"cpu": "10m"}),
    "PodSpec.nodeSelector": st.dictionaries(st.sampled_from(["disk", "kubernetes.io/arch"]), _NAME, max_size=2),
    "PodSpec.restartPolicy": st.sampled_from(["Always", "Never"]),
    "PodSpec.terminationGracePeriodSeconds": st.sampled_from([30, 60, 0]),
    "PodOS.name": st.sampled_from(["linux", "windows"]),
    "HostAlias.ip": st.just("10.1.2.3"),
    "PodDNSConfig.nameservers": st.lists(st.just("10.0.0.10"), max_size=1),
    "PodReadinessGate.conditionType": st.just("example.com/ready"),
    "Sysctl.name": st.just("net.ipv4.ip_unprivileged_port_start"),
    "Sysctl.value": st.just("0"),
    "Capabilities.add": st.lists(st.sampled_from(["NET_BIND_SERVICE", "SYS_ADMIN"]), max_size=1),
    "Capabilities.drop": st.lists(st.sampled_from(["ALL", "KILL"]), max_size=1),
    "SecurityContext.runAsUser": st.sampled_from([0, 1000]),
    "PodSecurityContext.runAsUser": st.sampled_from([0, 1000]),
    "ResourceRequirements.limits": st.dictionaries(
        st.sampled_from(["cpu", "memory", "ephemeral-storage", "nvidia.com/gpu"]),
        st.sampled_from(["1", "2"]),
        max_size=2,
    ),
    "ResourceRequirements.requests": st.dictionaries(
        st.sampled_from(["cpu", "memory", "ephemeral-storage"]), st.sampled_from(["1", "100m"]), max_size=2
    ),
    "ResourceClaim.name": st.just("gpu"),
    "PodResourceClaim.name": st.just("gpu"),
    "PodResourceClaim.resourceClaimName": st.just("claim"),
    "EmptyDirVolumeSource.medium": st.sampled_from(["", "Memory"]),
    "HostPathVolumeSource.path": st.sampled_from(["/var/data"]),
    "HostPathVolumeSource.type": st.sampled_from(["", "Directory"]),
    "ImageVolumeSource.reference": st.just("example.com/model:1"),
    "CSIVolumeSource.driver": st.just("csi.example.com"),
    "PersistentVolumeClaimSpec.accessModes": st.just(["ReadWriteOnce"]),
    "PersistentVolumeClaimSpec.resources": st.just({"requests": {"storage": "1Gi"}}),
    "ObjectMeta.labels": _LABELS,
    "ObjectMeta.annotations": _ANNOTATIONS,
    "LabelSelector.matchLabels": _LABELS,
    "Toleration.key": st.sampled_from(["a", "nvidia.com/gpu"]),
    "TopologySpreadConstraint.topologyKey": st.just("kubernetes.io/hostname"),
    "PodAffinityTerm.topologyKey": st.just("kubernetes.io/hostname"),
    "NodeSelectorRequirement.key": st.just("disk"),
    "NodeSelectorRequirement.operator": st.sampled_from(["Exists", "DoesNotExist"]),
    "NodeSelectorRequirement.values": st.just([]),
    "LabelSelectorRequirement.operator": st.sampled_from(["Exists", "DoesNotExist"]),
    "LabelSelectorRequirement.values": st.just([]),
    "ServiceAccountTokenProjection.expirationSeconds": st.just(3600),
    "DeploymentSpec.replicas": st.sampled_from([0, 1, 3]),
    "DeploymentSpec.progressDeadlineSeconds": st.sampled_from([600, 1200]),
}  # fmt: skip

_BY_PROPERTY: dict[str, SearchStrategy[Any]] = {
    "port": _PORT_OR_NAME,
    "containerPort": _PORT,
    "defaultMode": st.sampled_from([0o644, 0o400]),
    "mode": st.sampled_from([0o644, 0o400]),
    "weight": st.sampled_from([1, 100]),
    "path": _PATH,
    "subPath": _PATH,
    "devicePath": st.just("/dev/block"),
    "fieldPath": st.just("metadata.name"),
}

_NUMBERS = st.sampled_from([1, 2, 10, 0])


class Schema:
    """The strategies of an OpenAPI document, as ``/openapi/v3/apis/apps/v1`` serves it."""

    def __init__(self, document: Json) -> None:
        self._schemas: Json = document["components"]["schemas"]
        self._made: dict[str, SearchStrategy[Any]] = {}

    def deployments(self) -> SearchStrategy[Json]:
        """Deployments with a model, from nothing but their name to any field of the schema."""
        bare = _seldom(False, True)
        return st.builds(_assembled, self._object(_ROOT), _labels_and_selector(), _asked(), _template(), bare)

    def _object(self, name: str) -> SearchStrategy[Json]:
        if name not in self._made:
            self._made[name] = _members(name.rpartition(".")[2], self._schemas[name], self._value)
        return self._made[name]

    def _value(self, owner: str, key: str, schema: Json) -> SearchStrategy[Any]:
        found = _VALUES.get(f"{owner}.{key}")
        if found is not None:
            return found
        reference = schema.get("$ref") or next((part.get("$ref") for part in schema.get("allOf", [])), None)
        if key in _BY_PROPERTY and schema.get("type") != "object":
            return _BY_PROPERTY[key]
        if reference:
            return self._referred(owner, key, reference.removeprefix(_REFERENCE))
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        if schema.get("type") == "array":
            by_name = key in _NAMED
            least = 1 if owner == "PodSpec" and key == "containers" else 0
            return st.lists(
                self._value(owner, f"{key}[]", schema["items"]),
                min_size=least,
                max_size=2,
                unique_by=(lambda each: each["name"]) if by_name else None,
            )
        if schema.get("type") == "object":
            inner = schema.get("additionalProperties")
            values = _NAME if inner is None else self._value(owner, f"{key}{{}}", inner)
            return st.dictionaries(_NAME, values, max_size=1)
        return {"string": _NAME, "boolean": st.booleans(), "integer": _NUMBERS, "number": _NUMBERS}[schema["type"]]

    def _referred(self, owner: str, key: str, name: str) -> SearchStrategy[Any]:
        short = name.rpartition(".")[2]
        if short == "Quantity":
            return _QUANTITY
        if short == "IntOrString":
            return _PORT_OR_NAME
        if short in ("Time", "MicroTime"):
            return st.just("2026-01-01T00:00:00Z")
        if short == "FieldsV1":
            return st.just({})
        return self._object(name)


def _members(short: str, schema: Json, value: Any) -> SearchStrategy[Json]:
    properties = {key: each for key, each in schema.get("properties", {}).items() if f"{short}.{key}" not in _LEFT_OUT}
    required = [key for key in (*schema.get("required", ()), *_ALWAYS.get(short, ())) if key in properties]
    strategies: dict[str, SearchStrategy[Any]] = {}

    def strategy(key: str) -> SearchStrategy[Any]:
        if key not in strategies:  # made only when drawn: the schema is large
            strategies[key] = value(short, key, properties[key])
        return strategies[key]

    alternatives = [key for key, each in properties.items() if "allOf" in each or "$ref" in each]
    optional = [key for key in properties if key not in required]
    if short in _ONE_OF:
        optional = [key for key in optional if key not in alternatives]

    @st.composite
    def members(draw: DrawFn) -> Json:
        chosen = list(required)
        if short in _ONE_OF:
            chosen.append(draw(st.sampled_from(alternatives)))
        if optional:
            chosen += draw(st.lists(st.sampled_from(optional), unique=True, max_size=_MOST.get(short, 2)))
        return {key: draw(strategy(key)) for key in chosen}

    return members()


_IMAGES = (
    "app",
    "x",
    "example.com/x:1",
    "Example/app",
    "Example.com/app",
    "example.com/app:",
    "example.com/app@latest",
    "localhost:5000/app",
    "localhost/app:1_2",
    "exa_mple.com/team/app",
    f"example.com:5000/team/app:1@sha256:{64 * 'a'}",
    f"app@sha256:{64 * 'A'}",
)
"""References that one may write, and some that only look like one."""


def _seldom(usually: Any, seldom: Any) -> SearchStrategy[Any]:
    """One value nearly always, the other one time in twenty."""
    return st.integers(0, 19).map(lambda n: seldom if n == 19 else usually)


_LEFT_OUT = frozenset(
    {"Deployment.apiVersion", "Deployment.kind", "Deployment.metadata", "Deployment.status", "Container.name"}
)
"""What is drawn elsewhere, or is no user's to write."""


def _labels_and_selector() -> SearchStrategy[dict[str, str] | None]:
    return st.one_of(st.none(), st.just({"app": "a"}), st.just({"app": "a", "team": "b"}))


@st.composite
def _asked(draw: DrawFn) -> dict[str, str]:
    keys = draw(st.lists(st.sampled_from(sorted(_OURS)), unique=True, max_size=2))
    model = draw(
        st.sampled_from(
            ["s3://models/iris/model.joblib", "s3://models/net.onnx", "pvc://claim/iris", "https://a.example/m.gguf"]
        )
    )
    return {"model": model} | {key: draw(st.sampled_from(_OURS[key])) for key in keys}


@st.composite
def _template(draw: DrawFn) -> Json:
    """Names of containers; whether each volume is mounted, and the server has a port: it almost always has to."""
    return {
        "names": draw(st.permutations(["app", "model-server", "side", draw(_seldom("extra", "queue-proxy"))])),
        "image": draw(st.sampled_from(40 * ("example.com/app:1",) + ("", *_IMAGES))),
        "mounted": draw(_seldom(True, False)),
        "port": draw(_seldom(True, False)),
        "name": draw(_seldom("iris", "a.b")),
        "annotations": draw(_ANNOTATIONS),
        "labels": draw(_LABELS),
    }


def _assembled(drawn: Json, labels: dict[str, str] | None, asked: Json, extra: Json, bare: bool) -> Json:
    notes = {PREFIX + key: value for key, value in asked.items()} | extra["annotations"]
    metadata: Json = {"name": extra["name"], "annotations": notes}
    if extra["labels"]:
        metadata["labels"] = extra["labels"]
    made: Json = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    spec: Json = copy.deepcopy(drawn["spec"])
    if bare:
        return made
    spec.pop("selector", None)
    template = spec.setdefault("template", {})
    if labels is not None:
        spec["selector"] = {"matchLabels": labels}
        template.setdefault("metadata", {})["labels"] = {**template.get("metadata", {}).get("labels", {}), **labels}
    pod = template.get("spec")
    if pod is not None:
        _make_plausible(pod, extra)
    return made | {"spec": spec}


def _make_plausible(pod: Json, extra: Json) -> None:
    """Names that are unique and lead somewhere."""
    everything = [*pod.get("containers", []), *pod.get("initContainers", []), *pod.get("ephemeralContainers", [])]
    for name, container in zip([*extra["names"], *(f"more-{n}" for n in range(9))], everything, strict=False):
        container["name"] = name
        if extra["image"] and (name != SERVER_CONTAINER or container not in pod["containers"]):
            container.setdefault("image", extra["image"])
    if extra["port"] and len(pod.get("containers", [])) == 1:
        pod["containers"][0].setdefault("ports", [{"containerPort": 8080}])
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    mounted = set()
    for container in everything:
        mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts", []) if mount["name"] in volumes}
        if "volumeMounts" in container:
            container["volumeMounts"] = list(mounts.values())
        mounted |= {mount["name"] for mount in mounts.values()}
    if extra["mounted"]:
        missing = [{"name": name, "mountPath": f"/vol/{name}"} for name in sorted(volumes - mounted)]
        if missing:
            pod["containers"][0].setdefault("volumeMounts", []).extend(missing)
