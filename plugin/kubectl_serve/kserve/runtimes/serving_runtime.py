"""KServe's ServingRuntimes and ClusterServingRuntimes as ModelRuntimes. Pure: an object in, an object and notes out.

A ModelRuntime has one container and empty folders. What else a ServingRuntime gives to its pods goes into the
Deployments that use it: :mod:`kubectl_serve.kserve.runtimes.given_runtime`.

Source: KServe 0.20, ``pkg/apis/serving/v1alpha1/servingruntime_types.go``;
``pkg/apis/serving/v1beta1/inference_service_defaults.go`` (what KServe adds for its own servers);
``pkg/controller/v1beta1/inferenceservice/utils/utils.go`` (placeholders, tags of images).
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kubectl_serve.kserve.base import placeholders
from kubectl_serve.kserve.base.accounting import Field, Ledger, Note
from kubectl_serve.kserve.base.converted_runtime import ConvertedRuntime, SupportedFormat
from kubectl_serve.kserve.base.names import GROUP, PORT, SERVER
from kubectl_serve.kserve.base.placeholders import Placeholder, UnknownPlaceholderError
from kubectl_serve.kserve.runtimes import model_formats
from serve_core.api import runtimes, servers
from serve_core.api.annotations import PROTOCOLS
from serve_core.api.runtimes import Runtime
from serve_core.base.constants import MODEL_MOUNT
from serve_core.base.json import JsonObject, object_at, objects_in, value_at
from serve_core.base.reasons import quote
from serve_core.context.cluster import ClusterContext
from serve_core.knative.fields import CONTAINER, POD
from serve_core.syntax import image_reference
from serve_core.workload import command_line
from serve_core.workload.model_server import PROBES, extended_resources

RUNTIME_VERSION = f"{GROUP}/v1alpha1"
NAMESPACED, CLUSTERS = RUNTIME_KINDS = ("ServingRuntime", "ClusterServingRuntime")

_LOWEST = -1
"""The priority of a runtime that KServe chooses only by name: each runtime of the catalogue comes before it."""
_MODEL_MESH = (
    "replicas", "grpcEndpoint", "grpcDataEndpoint", "httpDataEndpoint", "storageHelper", "builtInAdapter",
)  # fmt: skip
"""Fields that only ModelMesh reads."""
_IN_DEPLOYMENTS = (
    "is not part of a ModelRuntime: the Deployments of the InferenceServices in these files have it. Write it into the "
    "pod templates of others."
)
_GRPC_FLAGS = ("--grpc-port", "--grpc_port")
_GRPC_VARIABLES = ("MLSERVER_GRPC_PORT", "GRPC_PORT")
_OWN_VARIABLES = {"MODEL_NAME": "{{.Name}}", "MODEL_PATH": MODEL_MOUNT}
"""Variables that kubectl-serve sets, with what KServe's placeholders say for the same value."""
_OF_TOOLS = ("kubectl.kubernetes.io/", "meta.helm.sh/", "app.kubernetes.io/managed-by")
"""Labels and annotations that belong to the object that a tool applied, and not to one that is made from it."""
_SERVER_TYPES = {
    "kserve-mlserver": "mlserver",
    "kserve-torchserve": "torchserve",
    "kserve-tensorflow-serving": "tensorflow-serving",
    "kserve-huggingfaceserver": "huggingfaceserver",
    "kserve-vllmserver": "vllmserver",
}
"""KServe's servers by the names of its runtimes, for runtimes without the annotation ``server-type``."""
_ACCELERATORS = "opendatahub.io/recommended-accelerators"
_NVIDIA = "nvidia.com/*"
_GPU_BY_TAG = frozenset({"tensorflow-serving", "torchserve", "huggingfaceserver"})
"""Servers of which KServe uses the image with the tag ``…-gpu`` for a GPU."""


def convert(document: JsonObject, context: ClusterContext, devices: Collection[str] = ()) -> ConvertedRuntime:
    """The ModelRuntime for a ServingRuntime or a ClusterServingRuntime. ``devices``: the extended resources that its
    users request. The input is not changed."""
    ledger = Ledger(document)
    return _Conversion(ledger, context, set(devices)).result(ledger.root)


def convert_all(
    documents: Sequence[JsonObject], context: ClusterContext, devices: Mapping[str, Collection[str]] | None = None
) -> list[ConvertedRuntime]:
    """The ModelRuntimes for the ServingRuntimes of some files, in their order. ``devices``: the extended resources that
    the users of each runtime request, by its name.

    ModelRuntimes have no namespace. Equal ones of several namespaces become one; of different ones with the same name,
    all but the first, or the ClusterServingRuntime, get their namespace into the name. So do those with the name of a
    runtime of kubectl-serve, which they would replace in the whole cluster.
    """
    users = devices or {}
    found = [convert(each, context, users.get(str(value_at(each, "metadata", "name")), ())) for each in documents]
    catalogue = {each.name for each in context.runtimes}
    taken: dict[str, JsonObject] = {}
    for each in sorted(found, key=lambda each: each.namespace is not None):
        if each.spec and not (each.namespace is not None and each.name in catalogue):
            taken.setdefault(each.name, each.spec)
    return [each if each.spec in ({}, taken.get(each.name)) else _renamed(each) for each in found]


def _renamed(converted: ConvertedRuntime) -> ConvertedRuntime:
    if converted.document is None or converted.runtime is None:
        return converted
    name = f"{converted.namespace or 'kserve'}-{converted.name}"
    document = {**converted.document, "metadata": {**converted.document["metadata"], "name": name}}
    why = Note("metadata.name", f"is the name of another runtime: the ModelRuntime is {name}.")
    runtime = replace(converted.runtime, name=name)
    return replace(converted, document=document, runtime=runtime, notes=(*converted.notes, why))


@dataclass
class _Conversion:
    ledger: Ledger
    context: ClusterContext
    devices: set[str]
    is_namespaced: bool = False
    formats: list[SupportedFormat] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)
    server_type: str = ""
    container: dict[str, list[Any]] = field(default_factory=dict)
    pod: JsonObject = field(default_factory=dict)
    labels: JsonObject = field(default_factory=dict)
    annotations: JsonObject = field(default_factory=dict)

    def result(self, root: Field) -> ConvertedRuntime:
        for key in ("apiVersion", "status"):
            root.at(key).use()
        kind, spec = root.at("kind").use(), root.at("spec")
        self.is_namespaced = kind == NAMESPACED
        metadata = self._metadata(root.at("metadata"))
        self._refuse(spec)
        is_offered = not self.ledger.refused
        made: JsonObject | None = None
        runtime = None
        if is_offered:
            made, runtime = self._model_runtime(metadata, spec)
        if made is None:
            spec.use()  # the refusal stands for all of it
        elif self.is_namespaced:
            root.at("kind").remark("becomes a ModelRuntime of the whole cluster, which only its administrators write.")
        self.ledger.report()
        return ConvertedRuntime(
            str(metadata["name"]),
            None if kind == CLUSTERS else str(root.at("metadata", "namespace").value or ""),
            made,
            runtime,
            tuple(self.formats),
            tuple(self.protocols),
            self.server_type,
            is_offered,
            self.ledger.settled(self.container),
            self.ledger.settled(self.pod),
            self.ledger.settled(self.labels),
            self.ledger.settled(self.annotations),
            tuple(sorted({*self.ledger.notes, *self.ledger.faults})),
        )

    def _model_runtime(self, metadata: JsonObject, spec: Field) -> tuple[JsonObject | None, Runtime | None]:
        try:
            made = {
                "apiVersion": runtimes.API_VERSION,
                "kind": runtimes.KIND,
                "metadata": metadata,
                "spec": self._spec(spec),
            }
            if self.ledger.refused or self.ledger.faults:
                return None, None
            settled: JsonObject = self.ledger.settled(made)
            return settled, runtimes.parse(settled)
        except UnknownPlaceholderError as error:
            spec.at("containers").refuse(f"refused: the expression {quote(error)} cannot be evaluated here.")
        except ValueError as error:
            self._lack(spec, str(error))
        return None, None

    def _metadata(self, metadata: Field) -> JsonObject:
        """The metadata of the ModelRuntime, which has no namespace."""
        name = metadata.at("name").text() or ""
        self.server_type = str(metadata.at("annotations", f"{GROUP}/server-type").use() or _SERVER_TYPES.get(name, ""))
        self.devices |= _recommended(metadata.at("annotations", _ACCELERATORS))
        kept = {key: _kept(metadata.at(key)) for key in ("labels", "annotations")}
        for key, each in metadata.entries().items():
            if key not in ("labels", "annotations"):
                each.use()  # the namespace, and what the API server sets
        if not self.is_namespaced and any(each.name == name for each in self.context.runtimes):
            why = "is also a runtime of kubectl-serve: this ModelRuntime replaces it in the whole cluster"
            metadata.at("name").note(f"{why}. Use another name to keep both.")
        return {"name": name} | {key: value for key, value in kept.items() if value}

    def _refuse(self, spec: Field) -> None:
        """Refuse what KServe itself does not serve, or only with several models or nodes."""
        for key, why in (
            ("disabled", "refused: the runtime is disabled."),
            ("multiModel", "refused: a model server of kubectl-serve serves one model."),
        ):
            if spec.at(key).use() is True:
                spec.at(key).refuse(why)
        spec.at("workerSpec").refuse("refused: kubectl-serve does not serve a model across several nodes.")

    def _spec(self, spec: Field) -> JsonObject:
        for key in _MODEL_MESH:
            spec.at(key).note("has no equivalent: only ModelMesh reads it.")
        formats, priority = self._formats(spec.at("supportedModelFormats"))
        server = self._server(spec.at("containers"))
        if server is None or self.ledger.refused:
            return {}
        volumes = {str(each.at("name").value): each for each in spec.at("volumes").objects()}
        container = self._container(server, volumes)
        listed = spec.at("protocolVersions")
        protocols = self._protocols(listed, container)
        self.devices |= extended_resources(object_at({"server": server.value}, "server"))
        variants = [*self._grpc_variant(listed, container, protocols), *self._device_variants(container)]
        entrypoint = self._entrypoint(container)
        self._of_pods(spec, volumes)
        mounted = {each["name"] for each in container.get("volumeMounts", [])}
        scratch = [volume for name, volume in volumes.items() if name in mounted]
        made: JsonObject = {"formats": formats, "protocols": protocols}
        made |= {"priority": priority} if priority else {}
        made |= {"entrypoint": entrypoint} if entrypoint else {}
        made |= {"container": container}
        made |= {"variants": variants} if variants else {}
        return made | ({"volumes": scratch} if scratch else {})

    def _lack(self, field: Field, why: str) -> None:
        """Refuse the ServingRuntime for a field that is missing, or for all of them."""
        self.ledger.notes.append(Note(field.path, f"refused: {why}."))
        self.ledger.refused = True

    def _formats(self, listed: Field) -> tuple[list[JsonObject], int]:
        """The formats here, and the one priority of all of them."""
        found: list[JsonObject] = []
        for each in listed.objects():
            name, version = each.at("name").text(), each.at("version").use()
            selected, priority = each.at("autoSelect").use() is True, each.at("priority").number()
            if name is None:
                continue
            one = SupportedFormat(name, None if version is None else str(version), selected, priority)
            self.formats.append(one)
            converted, number = model_formats.converted(one.name, one.version)
            made = {"name": converted} | ({"version": number} if number is not None else {})
            if made not in found:
                found.append(made)
        return found, self._priority(listed)

    def _priority(self, listed: Field) -> int:
        """The one priority of all formats. A runtime of one namespace is behind those of the cluster: KServe chooses it
        only there. So is one without a priority."""
        priorities = {each.priority or _LOWEST for each in self.formats if each.is_selected}
        priority = _LOWEST if self.is_namespaced else min(priorities, default=_LOWEST)
        by_name = ", ".join(dict.fromkeys(each.name for each in self.formats if not each.is_selected))
        if self.formats and not priorities:
            listed.remark(f"autoSelect is not set: the ModelRuntime comes behind those of kubectl-serve ({priority}).")
        elif by_name:
            listed.remark(f"the ModelRuntime can also be chosen for {by_name}, without being named.")
        if len(priorities) > 1 or (self.is_namespaced and priorities - {_LOWEST}):
            listed.remark(f"a ModelRuntime has one priority for all formats, in the whole cluster: {priority}.")
        return priority

    def _server(self, containers: Field) -> Field | None:
        """The model server's container. The others go into the Deployments."""
        found = containers.objects()
        server = next((each for each in found if each.at("name").value == SERVER), None)
        if server is None and len(found) == 1:
            server = found[0]
            server.at("name").note(f"is not {SERVER}; the only container becomes the model server.")
        if server is None:
            self._lack(containers, f"no container is named {SERVER}")
            return None
        server.at("name").use()
        for each in found:
            if each is not server:
                each.note(_IN_DEPLOYMENTS)
                self.pod.setdefault("containers", []).append(each.value)
        if not server.at("image").is_text():
            self._lack(server.at("image"), "it is missing")
        return server

    def _container(self, server: Field, volumes: dict[str, Field]) -> JsonObject:
        made: JsonObject = {"image": server.at("image").text()}
        for key in ("command", "args"):
            if words := self._words(server.at(key)):
                made[key] = words
        if env := self._env(server.at("env")):
            made["env"] = env
        made["ports"] = [dict(each.use()) for each in server.at("ports").objects()] or [
            {"name": "http1", "containerPort": PORT}
        ]
        if mounts := self._mounts(server.at("volumeMounts"), volumes):
            made["volumeMounts"] = mounts
        for key, each in server.entries().items():
            if key in PROBES:
                made[key] = _probe(each)
            elif key in CONTAINER and key not in (*made, "name", "command", "args", "env", "volumeMounts"):
                made[key] = each
            if key not in ("command", "args", "env") and placeholders.has_any(
                made[key] if key in PROBES else each.value
            ):
                each.refuse("refused: {{…}} is evaluated only in command, args, env and the paths of probes.")
        # Without one, it would get the strictest, with which not every image runs.
        made.setdefault("securityContext", {})
        return made

    def _env(self, variables: Field) -> list[Any]:
        """The runtime's variables. Those that depend on the InferenceService go into the Deployments."""
        made: list[Any] = []
        for each in variables.objects():
            name, value = each.at("name").value, each.at("value").value
            found = placeholders.find(value) if isinstance(value, str) else []
            if name in _OWN_VARIABLES and value == _OWN_VARIABLES[name]:
                each.use()
            elif name in _OWN_VARIABLES:
                each.refuse(f"refused: kubectl-serve itself sets {name} in each model server.")
            elif all(one.is_name for one in found):
                made.append(placeholders.replace(each.use(), _reference))
            else:
                each.note(_dependence(found, "set it"))
                self.container.setdefault("env", []).append(each.value)
        if self.server_type == "mlserver":
            present = {each.get("name") for each in made}
            added = {"MLSERVER_MODEL_NAME": "$(MODEL_NAME)", "MLSERVER_MODEL_URI": MODEL_MOUNT}
            made += [{"name": name, "value": value} for name, value in added.items() if name not in present]
        return made

    def _words(self, line: Field) -> list[Any]:
        """A command line. What depends on the InferenceService becomes a variable that its Deployment sets."""
        words = []
        for word in line.elements():
            text = word.text() or ""
            found = [each for each in placeholders.find(text) if not each.is_name]
            if found:
                names = ", ".join(dict.fromkeys(each.variable for each in found))
                word.note(_dependence(found, f"set the variable {names}"))
            for each in found:
                entry = {"name": each.variable, "value": each.expression}
                if entry not in (env := self.container.setdefault("env", [])):
                    env.append(entry)
            words.append(placeholders.replace(text, _reference))
        return words

    def _mounts(self, mounts: Field, volumes: dict[str, Field]) -> list[Any]:
        """The mounts of empty folders. The others go into the Deployments, with their volumes."""
        kept: list[Any] = []
        for each in mounts.objects():
            volume = volumes.get(str(each.at("name").value))
            if volume is not None and volume.at("emptyDir"):
                kept.append(each.use())
            else:
                each.note(_IN_DEPLOYMENTS)
                self.container.setdefault("volumeMounts", []).append(each.value)
        return kept

    def _of_pods(self, spec: Field, volumes: dict[str, Field]) -> None:
        """What goes into the Deployments."""
        if spec.at("hostIPC").value is True:
            spec.at("hostIPC").note("has no effect in KServe either.")
        spec.at("hostIPC").use()
        mounts = objects_in(spec.at("containers").value)
        used = {str(mount.get("name")) for each in mounts for mount in objects_in(each.get("volumeMounts"))}
        for name, volume in volumes.items():
            if not volume.at("emptyDir") or name not in used:
                volume.note(_IN_DEPLOYMENTS)
                self.pod.setdefault("volumes", []).append(volume.value)
        for key, kept in (("labels", self.labels), ("annotations", self.annotations)):
            for name, each in spec.at(key).entries().items():
                if name.startswith("prometheus.kserve.io/"):
                    each.note("has no equivalent: only KServe's queue proxy reads it.")
                else:
                    kept[name] = each.use()
            if kept:
                spec.at(key).remark(_IN_DEPLOYMENTS)
        for key, each in spec.entries().items():
            if key in POD and key not in ("containers", "volumes", "hostIPC"):
                each.note(_IN_DEPLOYMENTS)
                self.pod[key] = each.value

    def _protocols(self, listed: Field, container: JsonObject) -> list[str]:
        """The protocols here, in the order in which KServe prefers them."""
        self.protocols = [each.text() or "" for each in listed.elements()]
        for each in listed.elements():
            if each.value not in PROTOCOLS:
                each.note(f"{each.value} has no equivalent.")
        if known := [each for each in PROTOCOLS if each in self.protocols]:
            return known
        server = servers.recognize(container["image"], command_line.read(container).words, self.context.servers)
        return [server.protocol if server is not None and server.protocol else "v1"]  # v1 is KServe's default

    def _grpc_variant(self, listed: Field, container: JsonObject, protocols: list[str]) -> list[JsonObject]:
        """The change of the ports for gRPC. Without a known port, the protocol is left out."""
        if "grpc-v2" not in protocols:
            return []
        if len(protocols) == 1:
            container["ports"][0]["name"] = "h2c"
            return []
        port, container["ports"] = _grpc_port(container)
        if port is None:
            protocols.remove("grpc-v2")
            listed.remark("no port is known for gRPC: the ModelRuntime does not have protocol grpc-v2.")
            return []
        ports = [{"name": "h2c", "containerPort": port}]
        return [{"when": {"protocol": "grpc-v2"}, "container": {"ports": ports}}]

    def _device_variants(self, container: JsonObject) -> list[JsonObject]:
        """The images for devices: the one that KServe uses for NVIDIA's GPUs, and the runtime's own for others."""
        image = container["image"]
        name, colon, tag = image.rpartition(":")
        is_tagged = bool(colon) and "/" not in tag and "@" not in image
        for_gpu = None
        if is_tagged and self.server_type == "vllmserver" and not name.endswith("-cpu"):
            container["image"], for_gpu = f"{name}-cpu:{tag}", image
        elif is_tagged and self.server_type in _GPU_BY_TAG and not tag.endswith("-gpu"):
            for_gpu = f"{image}-gpu"
        images = {_NVIDIA: for_gpu} if for_gpu is not None else {}
        images |= {each: image for each in sorted(self.devices) if not (for_gpu and each.startswith(_NVIDIA[:-1]))}
        return [{"when": {"resource": each}, "container": {"image": used}} for each, used in images.items()]

    def _entrypoint(self, container: JsonObject) -> list[str]:
        """The entrypoint of an image that a runtime of the catalogue has in another version."""
        image = image_reference.parse_or_none(container["image"])
        for each in self.context.runtimes if image is not None and not container.get("command") else ():
            known = image_reference.parse_or_none(each.container["image"])
            if known is not None and image is not None and (known.registry, known.path) == (image.registry, image.path):
                return list(each.entrypoint)
        return []


def _kept(part: Field) -> JsonObject:
    """The labels or annotations that the ModelRuntime keeps. The report names those that it does not."""
    kept: JsonObject = {}
    for key, each in part.entries().items():
        if key.startswith(_OF_TOOLS):
            each.use()
        elif not key.startswith((f"{GROUP}/", "opendatahub.io/")) and each.is_text():
            kept[key] = each.use()
    return kept


def _recommended(accelerators: Field) -> set[str]:
    """The extended resources in OpenShift AI's annotation: a list as JSON text."""
    try:
        listed = json.loads(accelerators.value) if isinstance(accelerators.value, str) else None
    except (ValueError, RecursionError):
        return set()
    if not isinstance(listed, list) or not all(isinstance(each, str) and "/" in each for each in listed):
        return set()
    accelerators.use()
    return set(listed)


def _probe(probe: Field) -> Any:
    """A probe: kubectl-serve expands the model's name in the path of an HTTP request."""
    path = probe.at("httpGet", "path").value
    if isinstance(path, str) and "{{" in path:
        written = probe.use()
        return {**written, "httpGet": {**written["httpGet"], "path": placeholders.replace(path, _reference)}}
    return probe.use()


def _dependence(found: Sequence[Placeholder], how: str) -> str:
    what = " and the ".join(dict.fromkeys(str(each) for each in found if not each.is_name))
    return f"depends on the {what} of the InferenceService: the Deployments of those in these files {how}."


def _reference(placeholder: Placeholder) -> str:
    """The variable that the kubelet expands in place of a placeholder."""
    return "$(MODEL_NAME)" if placeholder.is_name else f"$({placeholder.variable})"


def _grpc_port(container: JsonObject) -> tuple[int | None, list[JsonObject]]:
    """The port for gRPC, and the declared ports without it."""
    declared = objects_in(container["ports"])
    named = [each for each in declared if str(each.get("name", "")).startswith(("h2c", "grpc"))]
    if named and len(named) < len(declared):
        number = named[0].get("containerPort")
        return (number if isinstance(number, int) else None), [each for each in declared if each not in named]
    line = command_line.read(container)
    flags = (*_GRPC_FLAGS, *(("--port",) if line.flag("--rest_port", "--rest_api_port") is not None else ()))
    said = [line.flag(*flags), *(line.variables.get(name) for name in _GRPC_VARIABLES)]
    return next((port for each in said if (port := command_line.port_of(each)) is not None), None), declared
