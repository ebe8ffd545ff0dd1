"""KServe's InferenceServices as annotated Deployments. Pure: an object in, an object and notes out.

Every field is copied, translated, or reported in a note: the conversion removes what it reads from a copy of the
object, and reports what remains. Source: KServe 0.20, ``pkg/apis/serving/v1beta1`` (fields, defaults, and the runtimes
of the old form with a field for each framework).
"""

import copy
import posixpath
from dataclasses import dataclass, field
from typing import Any

from kubectl_serve.kserve.inference_service import FRAMEWORKS, GROUP, PREDICTOR, Note, malformed
from serve_core.admission.decide import judge
from serve_core.api import annotations, runtimes, serving_spec
from serve_core.api.annotations import (
    CANARY,
    CONCURRENCY,
    DEPLOYMENT,
    FORMAT,
    METRIC,
    MODE,
    MODEL,
    MOUNT,
    PROTOCOL,
    PROTOCOLS,
    RUNTIME,
    SCALE,
    TARGET,
    TIMEOUT,
    VISIBILITY,
    WINDOW,
)
from serve_core.api.runtimes import Runtime
from serve_core.base.constants import MODEL_MOUNT, MODEL_SUBPATH, MODEL_VOLUME, SERVER_CONTAINER
from serve_core.base.json import JsonObject
from serve_core.base.reasons import Diagnostic
from serve_core.context.cluster import ClusterContext
from serve_core.knative.fields import CONTAINER, POD
from serve_core.syntax import mount_path

_SPEAKS_V2 = frozenset({"triton", "huggingface", "mlflow", "onnx", "openvino", "tensorrt"})
"""Formats whose servers use protocol v2 by default; all others use v1."""
_RUNTIMES = {
    "kserve-sklearnserver": "kserve-sklearnserver",
    "kserve-xgbserver": "kserve-xgbserver",
    "kserve-lgbserver": "kserve-lgbserver",
    "kserve-tensorflow-serving": "tensorflow-serving",
    "kserve-tritonserver": "triton",
    "kserve-torchserve": "torchserve",
    "kserve-openvino": "openvino",
    "kserve-huggingfaceserver": "huggingfaceserver",
    "kserve-vllmserver": "vllm",
}
"""KServe's runtimes to those of this project, for the same server."""
_BY_FORMAT = frozenset({"kserve-mlserver", "kserve-predictiveserver"})
"""KServe's servers for several formats: here, each format has its own runtime."""
_OWN_ARGS = ("--model_name", "--model_dir", "--http_port", "--served-model-name", "--model")
"""Arguments that the runtime already has."""
_DEFAULTS = {("deploymentMode", "Serverless"), ("deploymentMode", "Knative"), ("autoscalerClass", "hpa")}
"""Annotations of KServe with the default behaviour."""
_AUTOSCALING = "autoscaling.knative.dev/"
_KNATIVE_VISIBILITY = "networking.knative.dev/visibility"
_STORAGE_URI = "STORAGE_URI"


@dataclass(frozen=True)
class Converted:
    deployment: JsonObject | None
    """``None`` if there is no model to serve; a note says why."""
    notes: tuple[Note, ...] = ()
    problems: tuple[Diagnostic, ...] = ()
    """Why the webhook would refuse the Deployment."""


def convert(document: JsonObject, context: ClusterContext) -> Converted:
    """The Deployment that serves the model of an InferenceService. The input is not changed."""
    faults = malformed(document)
    if faults:
        return Converted(None, tuple(faults))
    return _Conversion(copy.deepcopy(document), context).result()


@dataclass
class _Conversion:
    document: JsonObject
    context: ClusterContext
    name: str = ""
    asked: dict[str, str] = field(default_factory=dict)
    """Our annotations."""
    pod: JsonObject = field(default_factory=dict)
    template_annotations: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    def result(self) -> Converted:
        metadata, spec = _object(self.document, "metadata"), _object(self.document, "spec")
        self.name = str(metadata.get("name"))
        self._refuse_others(spec)
        predictor = _object(spec, "predictor")
        labels, kept = self._metadata(metadata)
        self._component(predictor)
        self._scaling(predictor)
        self._server(predictor)
        self._rest(spec, "spec")
        if MODEL not in self.asked:
            return Converted(None, tuple(sorted(self.notes)))
        asked = {each.key: self.asked[each.key] for each in annotations.USER if each.key in self.asked}
        template: JsonObject = {}
        if labels or self.template_annotations:
            template["metadata"] = {"labels": dict(labels)} if labels else {}
            if self.template_annotations:
                template["metadata"]["annotations"] = self.template_annotations
        if self.pod:
            template["spec"] = self.pod
        made: JsonObject = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {**metadata, **({"labels": labels} if labels else {}), "annotations": kept | asked},
        }
        if template:
            made["spec"] = {"template": template}
        return Converted(made, tuple(sorted(self.notes)), judge(made, self.context).problems)

    def note(self, path: str, sentence: str) -> None:
        self.notes.append(Note(path, sentence))

    def _rest(self, owner: JsonObject, path: str) -> None:
        for key in owner:
            self.note(f"{path}.{key}", "has no equivalent.")

    def _refuse_others(self, spec: JsonObject) -> None:
        self.document.pop("status", None)
        for key, why in (
            ("transformer", "put the transformation into a second container, or serve it as a separate Deployment"),
            ("explainer", "serve the explainer as a separate Deployment"),
        ):
            if spec.pop(key, None) is not None:
                self.note(f"spec.{key}", f"has no equivalent; {why}.")

    def _metadata(self, metadata: JsonObject) -> tuple[dict[str, str], dict[str, str]]:
        """Labels and annotations to keep. Only name and namespace remain in ``metadata``."""
        labels, notes = metadata.pop("labels", None) or {}, metadata.pop("annotations", None) or {}
        for key in [key for key in metadata if key not in ("name", "namespace")]:
            del metadata[key]  # set by the API server
        visibility = labels.pop(_KNATIVE_VISIBILITY, None)
        if visibility is not None:
            self.asked[VISIBILITY] = visibility
        kept = {}
        for key, value in notes.items():
            path = f"metadata.annotations[{key}]"
            if key.startswith(f"{GROUP}/"):
                self._own_annotation(key, value, path)
            elif key.startswith(_AUTOSCALING):
                self._autoscaling(key.removeprefix(_AUTOSCALING), value)
            elif "/" in key and not key.startswith("kubectl.kubernetes.io/"):
                self.template_annotations[key] = value  # KServe copies them to the pods
            elif not key.startswith("kubectl.kubernetes.io/"):
                kept[key] = value
        return labels, kept

    def _own_annotation(self, key: str, value: str, path: str) -> None:
        name = key.removeprefix(f"{GROUP}/")
        if name == "deploymentMode" and value in ("RawDeployment", "Standard"):
            self.asked[MODE] = DEPLOYMENT
        elif (name, value) in _DEFAULTS:
            pass
        elif name == "gke-accelerator":
            self.pod["nodeSelector"] = {"cloud.google.com/gke-accelerator": value}
        else:
            self.note(path, "has no equivalent.")

    def _autoscaling(self, name: str, value: str) -> None:
        same = {"target": TARGET, "window": WINDOW}
        if name in same:
            self.asked[same[name]] = value
        elif name == "metric" and value in ("concurrency", "rps"):
            self.asked[METRIC] = value
        else:
            self.template_annotations[_AUTOSCALING + name] = value

    def _component(self, predictor: JsonObject) -> None:
        """The fields of every component, except scaling."""
        for key, why in (
            ("batcher", "batch in the model server"),
            ("logger", "use the logs of the model server or of the mesh"),
            ("workerSpec", "kubectl-serve does not serve models across several nodes"),
        ):
            if predictor.pop(key, None) is not None:
                self.note(f"{PREDICTOR}.{key}", f"has no equivalent; {why}.")
        timeout = predictor.pop("timeout", None)
        if timeout is not None:
            self.asked[TIMEOUT] = f"{timeout}s"
        concurrency = predictor.pop("containerConcurrency", None)
        if concurrency is not None:
            self.asked[CONCURRENCY] = str(concurrency)
        percent = predictor.pop("canaryTrafficPercent", None)
        if percent == 0:
            self.note(
                f"{PREDICTOR}.canaryTrafficPercent",
                "0 keeps all traffic on the previous revision; set kubectl-serve.dev/pin to its name.",
            )
        elif percent not in (None, 100):
            self.asked[CANARY] = f"{percent}%"
        self.template_annotations |= predictor.pop("annotations", None) or {}

    def _scaling(self, predictor: JsonObject) -> None:
        minimum, maximum = predictor.pop("minReplicas", None), predictor.pop("maxReplicas", None)
        minimum = 1 if minimum is None else minimum  # KServe's default
        if self.asked.get(MODE) == DEPLOYMENT:
            minimum = minimum or 1  # KServe's minimum without Knative
            maximum = maximum or minimum
        self.asked[SCALE] = str(minimum) if maximum and maximum == minimum else f"{minimum}..{maximum or ''}"
        metric, target = predictor.pop("scaleMetric", None), predictor.pop("scaleTarget", None)
        if metric in (None, "concurrency", "rps"):
            if metric is not None:
                self.asked[METRIC] = metric
            if target is not None:
                self.asked[TARGET] = str(target)
        else:
            why = "has no equivalent; the metrics are concurrency and rps."
            self.note(f"{PREDICTOR}.scaleMetric", why)
        predictor.pop("scaleMetricType", None)

    def _server(self, predictor: JsonObject) -> None:
        """The model, its server's container and the rest of the pod."""
        self._several_models(predictor)
        server, path = self._model_spec(predictor)
        containers = predictor.pop("containers", None) or []
        for key in [key for key in predictor if key in POD]:
            self.pod[key] = predictor.pop(key)
        account = self.pod.pop("serviceAccount", None)
        if account is not None:
            self.pod.setdefault("serviceAccountName", account)
        self._rest(predictor, PREDICTOR)
        if server is None:
            self._custom(containers)
            return
        container = self._container(server, path)
        if container:
            containers = [{"name": SERVER_CONTAINER, **container}, *containers]
        if containers:
            self.pod["containers"] = containers
        if "serviceAccountName" in self.pod:
            self.note(
                f"{PREDICTOR}.serviceAccountName",
                "the loader does not read its Secrets; set kubectl-serve.dev/credentials if the store needs them.",
            )

    def _model_spec(self, predictor: JsonObject) -> tuple[JsonObject | None, str]:
        """KServe's ``model``, or the field of a framework in the old form."""
        name = next((name for name in FRAMEWORKS if isinstance(predictor.get(name), dict)), None)
        if name is not None:
            server, path = predictor.pop(name), f"{PREDICTOR}.{name}"
            wanted = {"name": name}
        elif isinstance(predictor.get("model"), dict):
            server, path = predictor.pop("model"), f"{PREDICTOR}.model"
            wanted = server.pop("modelFormat", None) or {}
        else:
            return None, ""
        self._model(server, path)
        self._runtime(server, wanted, path)
        return server, path

    def _several_models(self, predictor: JsonObject) -> None:
        """KServe's ``storageUris``: a URI and a mount path each."""
        places = predictor.pop("storageUris", None) or []
        if not places:
            return
        paths = [mount_path.normalized(place.get("mountPath") or MODEL_MOUNT) for place in places]
        mount = _common_mount(paths, of_catalogue=any(name in predictor for name in ("model", *FRAMEWORKS)))
        if mount != MODEL_MOUNT:
            self.asked[MOUNT] = mount
        found = []
        for index, (place, path) in enumerate(zip(places, paths, strict=True)):
            inside = mount_path.is_within(path, mount)
            folder = (path.removeprefix(mount) if inside else path).strip("/")
            if not inside:
                why = f"kubectl-serve mounts models below {mount}: this one at {mount}/{folder}."
                self.note(f"{PREDICTOR}.storageUris[{index}].mountPath", why)
            found.append(f"{place.get('uri')}={folder}" if folder else str(place.get("uri")))
        self.asked[MODEL] = " ".join(found)

    def _model(self, server: JsonObject, path: str) -> None:
        uri, storage = server.pop("storageUri", None), server.pop("storage", None)
        model_id = _argument(server, "--model_id")
        if uri is not None:
            self.asked[MODEL] = str(uri)
        elif isinstance(storage, dict):
            self._storage(storage, f"{path}.storage")
        elif model_id is not None:
            self.asked[MODEL] = f"hf://{model_id}"
            self.note(f"{path}.args", "the loader downloads the model instead of the server.")
        elif MODEL not in self.asked:
            self.note(path, "names no model that the loader can load.")

    def _storage(self, storage: JsonObject, path: str) -> None:
        parameters = storage.pop("parameters", None) or {}
        location, key = str(storage.pop("path", None) or "").strip("/"), storage.pop("key", None)
        kind, bucket = parameters.get("type", "s3"), parameters.get("bucket")
        if kind != "s3":
            self.note(f"{path}.parameters.type", f"{kind} has no equivalent.")
        elif bucket is None:
            self.asked[MODEL] = f"s3://BUCKET/{location}"
            self.note(f"{path}.parameters", f"names no bucket; add the bucket from Secret storage-config to {MODEL}.")
        else:
            self.asked[MODEL] = f"s3://{bucket}/{location}"
        if key is not None:
            self.note(
                f"{path}.key",
                "the entry of Secret storage-config is not read; create a Secret with AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL, and set kubectl-serve.dev/credentials to its name.",
            )
        for name in storage:
            self.note(f"{path}.{name}", "has no equivalent.")

    def _runtime(self, server: JsonObject, wanted: JsonObject, path: str) -> None:
        kind, version = str(wanted.get("name", "")), wanted.get("version")
        named, protocol = server.pop("runtime", None), server.pop("protocolVersion", None)
        if kind.lower() == "vllm":
            kind, version, named = "huggingface", None, named or "kserve-vllmserver"
        if kind:
            self.asked[FORMAT] = kind.lower() if version is None else f"{kind.lower()}:{version}"
        if named in _RUNTIMES:
            self.asked[RUNTIME] = _RUNTIMES[named]
        elif named is not None and named not in _BY_FORMAT:
            self.asked[RUNTIME] = str(named)
            self.note(f"{path}.runtime", f"create a ModelRuntime {named} from KServe's ServingRuntime with that name.")
        ports = server.get("ports") or []
        if protocol is None and any(port.get("name") == "h2c" for port in ports) and kind == "triton":
            protocol = "grpc-v2"
            del server["ports"]
        if protocol in PROTOCOLS:
            self.asked[PROTOCOL] = protocol
        elif protocol is not None:
            self.note(f"{path}.protocolVersion", f"{protocol} has no equivalent.")
        elif named is None and kind and kind.lower() not in _SPEAKS_V2:
            self.asked[PROTOCOL] = "v1"  # KServe's default

    def _container(self, server: JsonObject, path: str) -> JsonObject:
        """The user's changes of the model server's container."""
        runtime = self._chosen(server)
        tag, image = server.pop("runtimeVersion", None), server.pop("image", None)
        if tag is not None and image is None and runtime is not None:
            image = f"{runtime.container['image'].rpartition(':')[0]}:{tag}"
            self.note(
                f"{path}.runtimeVersion", f"is the tag of image {image}; runtime {runtime.name} uses its own image."
            )
        container = {key: server.pop(key) for key in list(server) if key in CONTAINER}
        container.pop("name", None)
        self._rest(server, path)
        if image is not None:
            container["image"] = image
            if runtime is not None:
                self.asked[RUNTIME] = runtime.name
        arguments: dict[str, str] = {}
        for name in _OWN_ARGS:
            while (value := _argument(container, name)) is not None:
                arguments[name] = value
        called = arguments.get("--model_name") or arguments.get("--served-model-name") or self.name
        if called != self.name:
            self.note(
                f"{path}.args", f"requests must use the model name {self.name}, as the Deployment, instead of {called}."
            )
        args = container.pop("args", None)
        if args:
            # Admission adds the runtime's arguments where it knows the program that they are for.
            is_added = runtime is None or runtime.entrypoint or runtime.container.get("command")
            own = [] if runtime is None or is_added else runtime.container.get("args", [])
            container["args"] = [*own, *args]
            if own:
                self.note(f"{path}.args", "follow those of the runtime, which are repeated: they are one list.")
        return container

    def _chosen(self, server: JsonObject) -> Runtime | None:
        """The runtime that the webhook would choose. It does not depend on the model's URI."""
        spec, _ = serving_spec.read({**self.asked, MODEL: "s3://bucket/model"})
        asked = server.get("resources") or {}
        resources = {name for part in ("limits", "requests") for name in asked.get(part) or {} if "/" in name}
        return None if spec is None else runtimes.choose(spec, self.context.runtimes, resources)

    def _custom(self, containers: list[JsonObject]) -> None:
        """A predictor with only containers: one of them has the model's URI in its environment."""
        self.asked[RUNTIME] = annotations.CUSTOM
        loading = None
        for container in containers:
            for entry in container.get("env") or []:
                if entry.get("name") == _STORAGE_URI and "value" in entry:
                    loading, self.asked[MODEL] = container, entry["value"]
            env = [entry for entry in container.get("env") or [] if entry.get("name") != _STORAGE_URI]
            container.pop("env", None)
            if env:
                container["env"] = env
        if loading is None and MODEL in self.asked and containers:
            loading = containers[0]
        if loading is None:
            self.note(
                f"{PREDICTOR}.containers",
                "name no model to load (environment variable STORAGE_URI); use a plain Knative Service.",
            )
            return
        if len(containers) == 1:
            loading.setdefault("name", SERVER_CONTAINER)
        elif not loading.get("ports"):
            path, mounts = self.asked.get(MOUNT, MODEL_MOUNT), loading.setdefault("volumeMounts", [])
            if not any(mount.get("mountPath") == path for mount in mounts):
                mounts.append({"name": MODEL_VOLUME, "mountPath": path, "subPath": MODEL_SUBPATH, "readOnly": True})
        self.pod["containers"] = containers


def _common_mount(paths: list[str], *, of_catalogue: bool) -> str:
    """The folder for models at ``paths``: the default one if it has all of them, or if no other can have them.
    ``of_catalogue``: whether the server is one of the catalogue, which does not read a model everywhere."""
    common = posixpath.commonpath(paths)
    is_allowed = mount_path.is_for_data(common) if of_catalogue else mount_path.fault(common) is None
    return common if is_allowed and not mount_path.is_within(common, MODEL_MOUNT) else MODEL_MOUNT


def _object(owner: JsonObject, key: str) -> JsonObject:
    value: Any = owner.pop(key, None)
    return value if isinstance(value, dict) else {}


def _argument(server: JsonObject, name: str) -> str | None:
    """Remove and return an argument of a container: ``--name=value``, or ``--name`` and its value in the next."""
    args = server.get("args") or []
    for index, arg in enumerate(args):
        found, separator, value = str(arg).partition("=")
        if found == name and (separator or index + 1 < len(args)):
            value = value if separator else str(args[index + 1])
            del args[index : index + (1 if separator else 2)]
            return value
    return None
