"""The container of a runtime that serves a model: rendered, and recognised field by field.

An annotation, a name and an image prove nothing about what a server does: one variable can point it to another model.
So a pod runs a runtime only if rendering that runtime gives its container. Resources, probes and the settings that the
runtime leaves to its users can differ.
"""

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serve_core.api import hub_on_claim
from serve_core.api.annotations import CUSTOM
from serve_core.api.runtimes import Runtime, RuntimeSettings, Variant
from serve_core.base.constants import MODEL_MOUNT, MODEL_SUBPATH, MODEL_VOLUME, SERVER_CONTAINER
from serve_core.base.json import JsonObject, objects_in, value_at
from serve_core.base.workload import index_of
from serve_core.syntax import image_reference, mount_path, object_name, quantity
from serve_core.workload import arguments, cache_volume, command_line, model_image
from serve_core.workload.loader_container import RESTRICTED, TERMINATION, is_of_the_platform

# What the API server would default inside a probe (k8s.io/kubernetes, pkg/apis/core/v1/defaults.go).
_PROBE_DEFAULTS = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
PROBES = ("readinessProbe", "livenessProbe", "startupProbe")

_NAMED_MOUNT = re.compile(rf"(?:(?<![\w./-])|(?<=file://)){re.escape(MODEL_MOUNT)}(?![\w.-])")
"""The default path of the model, as a runtime names it: alone, with a path below it, or as a URI."""

_FREE = frozenset(
    {"name", "imagePullPolicy", "resizePolicy", "resources", "securityContext", "terminationMessagePolicy", *PROBES}
)
"""Fields that do not change what is served; of probes, only those that run no program."""

PRIVATE_KINDS = ({"name", "emptyDir"}, {"name", "ephemeral"})
"""The fields of a volume that only its own pod has: users can write these kinds for the model's volume."""

SHARED = (
    "hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostAliases", "hostnameOverride", "dnsConfig",
)  # fmt: skip
"""Fields of a pod through which others can reach the server's process or network, or answer in its place."""


@dataclass(frozen=True)
class Known:
    """What serves in a pod, as far as it is recognised."""

    name: str
    """The runtime's name, or ``custom``."""
    based_on: tuple[str, ...] = ()
    """The runtimes whose image the server has, in any version; the most likely one first."""
    path: str = ""
    """The first field that differs from the first of them; empty if none does, or if there is no such runtime."""


def server_container(containers: list[JsonObject]) -> JsonObject | None:
    """The container that serves the model. The first of these rules that leaves one container decides:

    the one named ``model-server``; the one without an image, which waits for a runtime; the only one; the one with
    ports or, if none declares any, the one with a probe of a port; the one that requests an accelerator and has a
    port of its own in a probe or as ``--port``; the one that another one's probe asks. Agents and exporters
    beside a server have ports as well; a front that translates HTTP is asked in place of its engine.
    """
    for candidates in (
        [c for c in containers if c.get("name") == SERVER_CONTAINER],
        [c for c in containers if not c.get("image")],
        containers,
        [c for c in containers if c.get("ports")] or [c for c in containers if _probed_ports(c)],
    ):
        if len(candidates) == 1:
            return candidates[0]
    return _by_probes(containers)


def _by_probes(containers: list[JsonObject]) -> JsonObject | None:
    with_accelerator = [
        c for c in containers if extended_resources(c) and _port_keys(c) & (_probed_ports(c) | _said_ports(c))
    ]
    if len(with_accelerator) == 1:
        return with_accelerator[0]
    probes = Counter(port for c in containers for port in _probed_ports(c))
    of_others = [c for c in containers if any(probes[port] > (port in _probed_ports(c)) for port in _port_keys(c))]
    return of_others[0] if len(of_others) == 1 else None


def front_container(containers: list[JsonObject], annotated: int | None = None) -> JsonObject | None:
    """The user's container that takes the requests in the model server's place; ``None`` if the model server does.

    It has a port, and a container ``model-server`` beside it has none. Ports for metrics do not count: exporters have
    them. ``annotated``: the annotation ``port``, which decides between several containers, and is the port of one that
    declares none.
    """
    server = server_container(containers)
    if server is None or server.get("name") != SERVER_CONTAINER or server.get("ports"):
        return None
    beside = [each for each in containers if each is not server]
    with_ports = [each for each in beside if any(not _is_for_metrics(port) for port in objects_in(each.get("ports")))]
    named = [each for each in with_ports if annotated in declared_ports(each)] if annotated is not None else []
    if not with_ports and annotated is not None and not server.get("image"):
        with_ports = beside
    for candidates in (named, with_ports):
        if len(candidates) == 1:
            return candidates[0]
    return None


def requests_container(containers: list[JsonObject], annotated: int | None = None) -> JsonObject | None:
    """The container that takes the requests: the user's in front of the model server, or the model server."""
    return front_container(containers, annotated) or server_container(containers)


def _is_for_metrics(port: JsonObject) -> bool:
    return "metrics" in str(port.get("name") or "")


def declared_ports(container: JsonObject) -> list[Any]:
    """The numbers of a container's ports, as written."""
    return [port.get("containerPort") for port in objects_in(container.get("ports"))]


def _port_keys(container: JsonObject) -> frozenset[int | str]:
    """The declared ports of a container, by number and by name."""
    ports = objects_in(container.get("ports"))
    said = (port.get(key) for port in ports for key in ("containerPort", "name"))
    return frozenset(each for each in said if isinstance(each, int | str))


def _probed_ports(container: JsonObject) -> frozenset[int | str]:
    """The ports that the probes of a container ask."""
    said = (value_at(container, probe, kind, "port") for probe in PROBES for kind in ("httpGet", "tcpSocket", "grpc"))
    return frozenset(each for each in said if isinstance(each, int | str))


def _said_ports(container: JsonObject) -> frozenset[int | str]:
    """The port that a container's command line names."""
    port = command_line.port_of(command_line.read(container).flag("--port"))
    return frozenset() if port is None else frozenset({port})


def extended_resources(container: JsonObject | None) -> frozenset[str]:
    """The extended resources of a container, such as GPUs: those with a domain in their names.

    Charts write ``nvidia.com/gpu: 0`` for none.
    """
    asked = (container or {}).get("resources")
    parts = [asked.get(part) for part in ("limits", "requests")] if isinstance(asked, dict) else []
    amounts = [pair for part in parts if isinstance(part, dict) for pair in part.items()]
    return frozenset(name for name, amount in amounts if "/" in name and not quantity.is_zero(amount))


def extended_resources_of(pod: JsonObject) -> frozenset[str]:
    """The extended resources of a pod's model server."""
    return extended_resources(server_container(objects_in(pod.get("containers"))))


def model_mount(pod: JsonObject) -> str:
    """Where the model server of a pod mounts the model as kubectl-serve does it; the default path if it does not."""
    server = server_container(objects_in(pod.get("containers"))) or {}
    found = (str(mount.get("mountPath")) for mount in _model_mounts(server, pod))
    return mount_path.normalized(next(found, MODEL_MOUNT))


def render(runtime: Runtime, variants: Iterable[Variant], model_name: str, path: str, mount: JsonObject) -> JsonObject:
    """A runtime's container for a model, without its name. ``path`` and ``mount``: where the server finds the model.

    Whatever of the runtime names the default path of the model names the mount's instead. The API server's defaults are
    written out, so that the stored container is the rendered one.
    """
    rendered: JsonObject = {
        "imagePullPolicy": "IfNotPresent",
        "securityContext": RESTRICTED,
        **TERMINATION,
        **_moved(runtime.container_of(variants), mount["mountPath"]),
    }
    rendered.pop("name", None)
    for probe in PROBES:
        if probe in rendered:
            rendered[probe] = _probe(rendered[probe], model_name, path)
    if "resources" in rendered:
        rendered["resources"] = {
            part: {name: str(quantity) for name, quantity in quantities.items()}
            for part, quantities in rendered["resources"].items()
        }
    if "ports" in rendered:
        rendered["ports"] = [{"protocol": "TCP", **port} for port in rendered["ports"]]
    rendered["env"] = [
        {"name": "MODEL_NAME", "value": model_name},
        {"name": "MODEL_PATH", "value": path},
        *rendered.get("env", []),
    ]
    rendered["volumeMounts"] = [*hub_on_claim.mounts(mount), *rendered.get("volumeMounts", [])]
    return rendered


def _moved(value: Any, mount: str) -> Any:
    """A part of a container with the model at ``mount``."""
    if mount == MODEL_MOUNT:
        return value
    if isinstance(value, str):
        return _NAMED_MOUNT.sub(lambda _: mount, value)
    if isinstance(value, dict):
        return {key: _moved(inner, mount) for key, inner in value.items()}
    return [_moved(inner, mount) for inner in value] if isinstance(value, list) else value


def without_user(container: JsonObject) -> JsonObject:
    """A rendered container that leaves its user and group to the platform."""
    context = container.get("securityContext") or {}
    kept = {key: value for key, value in context.items() if key not in ("runAsUser", "runAsGroup")}
    return {**container, "securityContext": kept}


def volumes(runtime: Runtime, container: JsonObject) -> list[JsonObject]:
    """The volumes of a rendered container's mounts, without the model's volume."""
    special = {volume["name"]: volume for volume in runtime.volumes}
    return [
        special.get(mount["name"], {"name": mount["name"], "emptyDir": {}})
        for mount in container["volumeMounts"]
        if mount["name"] != MODEL_VOLUME
    ]


def read(pod: JsonObject, runtimes: Collection[Runtime], *, likely: str = "", name: str = "", path: str = "") -> Known:
    """What serves in a pod. ``likely``: the runtime that it should be. ``name`` and ``path``: the model's name and the
    path of its file, if they must be these."""
    server = server_container(objects_in(pod.get("containers")))
    if server is None:
        return Known(CUSTOM)
    at = f"containers[{index_of(server, pod['containers'])}]"
    candidates = [each for each in runtimes if _is_based_on(server.get("image"), each)]
    candidates.sort(key=lambda each: each.name != likely)
    if not candidates:
        return Known(CUSTOM)
    model = _model(server, pod, name, path)
    found = [(each.name, field) for each in candidates for field in _differences(server, pod, each, model)]
    exact = next((runtime for runtime, field in found if not field), None)
    around = next(_around(pod, server), "")
    if exact is not None:
        return Known(CUSTOM, (exact,), around) if around else Known(exact, (exact,))
    return Known(CUSTOM, tuple(dict.fromkeys(runtime for runtime, _ in found)), f"{at}.{found[0][1]}")


def _is_based_on(image: object, runtime: Runtime) -> bool:
    """Whether an image is one of a runtime's, in any version and with any name of its registry."""
    variants = (variant.container.get("image") for variant in runtime.variants)
    of_runtime = (image_reference.repository(str(each)) for each in (runtime.container["image"], *variants) if each)
    return image_reference.repository(str(image)) in of_runtime


def _model(server: JsonObject, pod: JsonObject, name: str, path: str) -> tuple[str, str, JsonObject] | str:
    """The name, the path and the mount of the model with which a server was rendered, or the field that differs."""
    values = {str(each.get("name")): each.get("value") for each in objects_in(server.get("env"))}
    model, where = values.get("MODEL_NAME"), values.get("MODEL_PATH")
    mount = next(_model_mounts(server, pod), None)
    if not (isinstance(model, str) and object_name.is_subdomain(model)) or model != (name or model):
        return "env[MODEL_NAME]"
    if mount is None or not mount_path.is_for_data(str(mount.get("mountPath"))):
        return f"volumeMounts[{MODEL_VOLUME}]"
    if not (isinstance(where, str) and _is_of_mount(where, mount["mountPath"])) or where != (path or where):
        return "env[MODEL_PATH]"
    return model, where, mount


def _differences(
    server: JsonObject, pod: JsonObject, runtime: Runtime, model: tuple[str, str, JsonObject] | str
) -> Iterator[str]:
    """For each protocol of the runtime the first field that differs; empty if none does."""
    if isinstance(model, str):
        yield model
        return
    resources = extended_resources(server)
    is_behind = front_container(objects_in(pod.get("containers"))) is not None
    for protocol in runtime.protocols:
        wanted = render(runtime, runtime.applying(protocol, resources), *model)
        if is_behind:
            wanted["ports"] = []
        wanted["volumeMounts"] = [_as_mounted(mount, server, pod) for mount in wanted["volumeMounts"]]
        yield _difference(server, wanted, runtime) or _volume_difference(pod, volumes(runtime, wanted))


def _is_of_mount(path: str, mount: str) -> bool:
    """Whether it is the model's folder, or a file directly in it."""
    return path == mount or (posixpath.dirname(path) == mount and posixpath.normpath(path) == path)


def _model_mounts(server: JsonObject, pod: JsonObject) -> Iterator[JsonObject]:
    """The mounts that have what the loader loads, or a claim. The origin of either is checked elsewhere."""
    held = [each for each in objects_in(pod.get("volumes")) if each.get("name") == MODEL_VOLUME]
    kinds = held[0].keys() - {"name"} if len(held) == 1 else set()
    for mount in objects_in(server.get("volumeMounts")):
        if mount.get("name") != MODEL_VOLUME:
            continue
        # A server can write to a claim on its user's request. Nothing verifies a claim's content in any case.
        if mount.get("readOnly") is not True and kinds != {"persistentVolumeClaim"}:
            continue
        if not mount.keys() <= {"name", "mountPath", "readOnly", "subPath"}:
            continue
        if kinds == {"persistentVolumeClaim"} or (len(kinds) == 1 and mount.get("subPath") == _folder(held[0])):
            yield mount


def _folder(volume: JsonObject) -> str:
    """The model's folder in its volume, by the volume's kind. Of any other volume, no folder has this name."""
    if "image" in volume:
        return model_image.FOLDER
    return MODEL_SUBPATH if "emptyDir" in volume or cache_volume.is_ours(volume) else "/"


def _difference(found: JsonObject, wanted: JsonObject, runtime: Runtime) -> str:
    found = {**found, "ports": _ports(found.get("ports"))}
    wanted = {**wanted, "ports": _ports(wanted.get("ports"))}
    found.setdefault("terminationMessagePath", TERMINATION["terminationMessagePath"])
    found = {key: value for key, value in found.items() if value not in (None, [], {}, "")}
    wanted = {key: value for key, value in wanted.items() if value not in (None, [], {}, "")}
    for key in sorted((found.keys() | wanted.keys()) - _FREE - {"env", "command", "args", "volumeMounts"}):
        if found.get(key) != wanted.get(key):
            return key
    for probe in PROBES:
        if value_at(found, probe, "exec") not in (None, value_at(wanted, probe, "exec")):
            return f"{probe}.exec"
    return (
        _strange_variable(found.get("env"), wanted["env"], runtime.settings)
        or _line_difference(found.get("command") or [], found.get("args") or [], wanted, runtime)
        or _strange_mount(found.get("volumeMounts"), wanted["volumeMounts"])
    )


def _ports(ports: Any) -> list[Any]:
    """Ports without their names: Knative and Istio choose protocols by name, and the server is the same."""
    return [
        {"protocol": "TCP", **{key: value for key, value in port.items() if key != "name"}}
        if isinstance(port, dict)
        else port
        for port in (ports if isinstance(ports, list) else [ports] if ports else [])
    ]


def _strange_variable(found: Any, wanted: list[JsonObject], settings: RuntimeSettings) -> str:
    """The first variable that is neither the runtime's, nor a setting of its users, nor the platform's."""
    ours = {variable["name"] for variable in wanted}
    order = [variable["name"] for variable in wanted if not settings.has_variable(variable["name"])]
    kept, seen = [], set()
    for variable in found if isinstance(found, list) else []:
        name = str(value_at(variable, "name"))
        free = settings.has_variable(name)
        if name in seen or not (free or variable in wanted or (name not in ours and is_of_the_platform(variable))):
            return f"env[{name}]"
        seen.add(name)
        if name in ours and not free:
            kept.append(name)
    if kept != order:
        return next((f"env[{name}]" for name in order if name not in seen), "env")
    return ""


def _line_difference(command: Any, args: Any, wanted: JsonObject, runtime: Runtime) -> str:
    """The field that differs from a runtime's command line, followed by what its users can add."""
    if not isinstance(command, list) or not isinstance(args, list):
        return "args" if isinstance(command, list) else "command"
    own = wanted.get("args", [])
    if command == wanted.get("command", []):
        more = args[len(own) :]
        if more and arguments.is_number_of_devices(runtime, more[0]):
            more = more[1:]
        return "" if args[: len(own)] == own and _are_allowed(more, runtime.settings) else "args"
    if not arguments.is_merged(runtime, wanted, command, args):
        return "command"
    return "" if _are_allowed(args, runtime.settings) else "args"


def _are_allowed(words: list[Any], settings: RuntimeSettings) -> bool:
    """Whether a runtime's users can add these arguments to its own."""
    takes_value = False
    for word in words:
        if not isinstance(word, str) or "$(" in word:
            return False
        if word.startswith("-"):
            name, separator, _ = word.partition("=")
            takes_value = not separator and f"{name}=" in settings.args
            if not (f"{name}=" in settings.args or (not separator and name in settings.args)):
                return False
        elif takes_value:
            takes_value = False
        else:
            return False  # some servers take a positional argument for a model
    return True


def _strange_mount(found: Any, wanted: list[JsonObject]) -> str:
    left = list(wanted)
    for mount in found if isinstance(found, list) else []:
        if mount not in left:
            return f"volumeMounts[{value_at(mount, 'mountPath')}]"
        left.remove(mount)
    return f"volumeMounts[{left[0]['mountPath']}]" if left else ""


def _as_mounted(mount: JsonObject, server: JsonObject, pod: JsonObject) -> JsonObject:
    """A runtime's mount of an empty folder, with the volume that the user mounts there if it is empty as well."""
    if mount["name"] == MODEL_VOLUME:
        return mount
    for each in objects_in(server.get("volumeMounts")):
        if each.get("mountPath") != mount["mountPath"] or each.keys() != {"name", "mountPath"}:
            continue
        volumes = [volume for volume in objects_in(pod.get("volumes")) if volume.get("name") == each["name"]]
        if each["name"] != MODEL_VOLUME and len(volumes) == 1 and volumes[0].keys() == {"name", "emptyDir"}:
            return each
    return mount


def with_ports(probe: JsonObject, ports: Mapping[int | str, int]) -> JsonObject:
    """A probe with other ports. ``ports``: the number for each port that changes, by its number or name."""
    return {
        key: {**value, "port": ports.get(value["port"], value["port"])}
        if isinstance(value, dict) and "port" in value
        else value
        for key, value in probe.items()
    }


def mounted_paths(container: JsonObject) -> dict[str, str]:
    """Where a container mounts which volume."""
    return {
        mount_path.normalized(mount["mountPath"]): str(mount.get("name"))
        for mount in objects_in(container.get("volumeMounts"))
        if isinstance(mount.get("mountPath"), str)
    }


def _volume_difference(pod: JsonObject, wanted: list[JsonObject]) -> str:
    """The mount of the first volume that differs. An ``emptyDir`` can have another size and medium."""
    present = objects_in(pod.get("volumes"))
    for volume in wanted:
        there = [each for each in present if each.get("name") == volume["name"]]
        if len(there) != 1 or {key for key, value in there[0].items() if value is not None} != {"name", "emptyDir"}:
            return f"volumeMounts[{volume['name']}]"
    return ""


def _around(pod: JsonObject, server: JsonObject) -> Iterator[str]:
    """Fields through which other containers reach the server's files, or can answer in its place."""
    for field in SHARED:
        if pod.get(field):
            yield field
    for index, container in enumerate(objects_in(pod.get("containers"))):
        if container is not server:
            yield f"containers[{index}]"
    mounted = {str(mount.get("name")) for mount in objects_in(server.get("volumeMounts"))} - {MODEL_VOLUME}
    for index, container in enumerate(objects_in(pod.get("initContainers"))):
        if container.get("restartPolicy"):
            yield f"initContainers[{index}]"
        for mount in objects_in(container.get("volumeMounts")):
            if str(mount.get("name")) in mounted and mount.get("readOnly") is not True:
                yield f"initContainers[{index}].volumeMounts[{mount.get('mountPath')}]"
    for index, _ in enumerate(objects_in(pod.get("ephemeralContainers"))):
        yield f"ephemeralContainers[{index}]"


def with_defaults(probe: JsonObject) -> JsonObject:
    """A probe with the API server's defaults written out."""
    rendered = {**_PROBE_DEFAULTS, **probe}
    if "grpc" in rendered:
        rendered["grpc"] = {"service": "", **rendered["grpc"]}
    if "httpGet" in rendered:
        rendered["httpGet"] = {"path": "/", "scheme": "HTTP", **rendered["httpGet"]}
    return rendered


def _probe(probe: JsonObject, model_name: str, path: str) -> JsonObject:
    """A probe with ``$(NAME)`` expanded: the kubelet expands it in ``args`` and ``env``, but not in probes."""
    rendered = with_defaults(probe)
    if "httpGet" in rendered:
        get = rendered["httpGet"]
        asked = get["path"].replace("$(MODEL_NAME)", model_name).replace("$(MODEL_PATH)", path)
        rendered["httpGet"] = {**get, "path": asked}
    return rendered
