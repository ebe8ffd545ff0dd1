"""The container that serves a model as a runtime has it: rendered, and known again field for field.

An annotation, a name and an image say nothing of what a server does: one variable points it elsewhere. So a pod runs a
runtime only if rendering that runtime gives its container. What may differ is how much it may use, how it is probed,
and what the runtime itself says its users may set.
"""

import posixpath
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from serve_core.api.annotations import CUSTOM
from serve_core.api.runtimes import Runtime, RuntimeSettings, Variant
from serve_core.base.constants import MODEL_MOUNT, MODEL_SUBPATH, MODEL_VOLUME, SERVER_CONTAINER
from serve_core.base.json import JsonObject, value_at
from serve_core.syntax import image_reference, object_name
from serve_core.workload.loader_container import RESTRICTED, TERMINATION, is_of_the_platform

# What the API server would default inside a probe (k8s.io/kubernetes, pkg/apis/core/v1/defaults.go).
_PROBE_DEFAULTS = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
PROBES = ("readinessProbe", "livenessProbe", "startupProbe")

_FREE = frozenset(
    {"name", "imagePullPolicy", "resizePolicy", "resources", "securityContext", "terminationMessagePolicy", *PROBES}
)
"""Fields that change nothing of what is served. Of probes, only the sorts that run no program."""

SHARED = (
    "hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostAliases", "hostnameOverride", "dnsConfig",
)  # fmt: skip
"""Fields of a pod by which others reach into the server, or answer in its place."""


@dataclass(frozen=True)
class Known:
    """What serves in a pod."""

    name: str
    """Of the runtime, or ``custom``."""
    based_on: tuple[str, ...] = ()
    """The runtimes whose image it has, in any version. The one that it is, or seems to be, is the first."""
    path: str = ""
    """The first field that is not as the first of them has it; empty where there is none, or no such runtime."""


def server_container(containers: list[JsonObject]) -> JsonObject | None:
    """The container that serves the model: named so, or the only one, or the only one with a port, in this order.

    One without an image is waiting for a runtime, so it comes before one with.
    """
    for candidates in (
        [c for c in containers if c.get("name") == SERVER_CONTAINER],
        [c for c in containers if not c.get("image")],
        containers,
        [c for c in containers if c.get("ports")],
    ):
        if len(candidates) == 1:
            return candidates[0]
    return None


def extended_resources(container: JsonObject | None) -> frozenset[str]:
    """What a container asks for beside CPU, memory and the like: all that has a domain in its name."""
    asked = (container or {}).get("resources")
    parts = [asked.get(part) for part in ("limits", "requests")] if isinstance(asked, dict) else []
    names = {name for part in parts if isinstance(part, dict) for name in part}
    return frozenset(name for name in names if "/" in name)


def extended_resources_of(pod: JsonObject) -> frozenset[str]:
    """What the container that serves asks for."""
    return extended_resources(server_container(_elements(pod.get("containers"))))


def model_path(file_name: str | None) -> str:
    """Where the server finds the model. ``file_name``: of the one file that it is, if it is one."""
    return MODEL_MOUNT if file_name is None else f"{MODEL_MOUNT}/{file_name}"


def render(runtime: Runtime, variants: Iterable[Variant], model_name: str, path: str, mount: JsonObject) -> JsonObject:
    """A runtime's container for a model, but for its name. ``path`` and ``mount``: where the server finds the model.

    What the API server would default in it is spelt out: what is stored shall be what was filled in.
    """
    spelled: JsonObject = {
        "imagePullPolicy": "IfNotPresent",
        "securityContext": RESTRICTED,
        **TERMINATION,
        **runtime.container_of(variants),
    }
    spelled.pop("name", None)
    for probe in PROBES:
        if probe in spelled:
            spelled[probe] = _probe(spelled[probe], model_name, path)
    if "resources" in spelled:
        spelled["resources"] = {
            part: {name: str(quantity) for name, quantity in quantities.items()}
            for part, quantities in spelled["resources"].items()
        }
    if "ports" in spelled:
        spelled["ports"] = [{"protocol": "TCP", **port} for port in spelled["ports"]]
    spelled["env"] = [
        {"name": "MODEL_NAME", "value": model_name},
        {"name": "MODEL_PATH", "value": path},
        *spelled.get("env", []),
    ]
    spelled["volumeMounts"] = [mount, *spelled.get("volumeMounts", [])]
    return spelled


def volumes(runtime: Runtime | None, container: JsonObject) -> list[JsonObject]:
    """The volumes of a rendered container's mounts, without the model's."""
    special = {volume["name"]: volume for volume in (runtime.volumes if runtime else ())}
    return [
        special.get(mount["name"], {"name": mount["name"], "emptyDir": {}})
        for mount in container["volumeMounts"]
        if mount["name"] != MODEL_VOLUME
    ]


def read(pod: JsonObject, runtimes: Collection[Runtime], *, likely: str = "", name: str = "", path: str = "") -> Known:
    """What serves in a pod. ``likely``: the runtime that it should be; ``name`` and ``path``: the model's and its
    file's, where it is known what they have to be."""
    containers = _elements(pod.get("containers"))
    server = server_container(containers)
    if server is None:
        return Known(CUSTOM)
    at = f"containers[{next(i for i, each in enumerate(pod['containers']) if each is server)}]"
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
    """Whether an image is one of a runtime's, in any version and by any name of its registry."""
    variants = (variant.container.get("image") for variant in runtime.variants)
    return _repository(str(image)) in {
        _repository(str(each)) for each in (runtime.container["image"], *variants) if each
    }


@lru_cache(maxsize=256)
def _repository(image: str) -> tuple[str, ...]:
    parsed = image_reference.parse_or_none(image)
    return (image,) if parsed is None else (parsed.registry, *parsed.path)


def _model(server: JsonObject, pod: JsonObject, name: str, path: str) -> tuple[str, str, JsonObject] | str:
    """The name, the path and the mount of the model by which a server was rendered, or the field that says no such."""
    said = {str(each.get("name")): each.get("value") for each in _elements(server.get("env"))}
    model, where = said.get("MODEL_NAME"), said.get("MODEL_PATH")
    mount = next((each for each in _elements(server.get("volumeMounts")) if each.get("mountPath") == MODEL_MOUNT), {})
    if not (isinstance(model, str) and object_name.is_subdomain(model)) or model != (name or model):
        return "env[MODEL_NAME]"
    if not (isinstance(where, str) and _is_below_the_mount(where)) or where != (path or where):
        return "env[MODEL_PATH]"
    return (model, where, mount) if _holds_the_model(mount, pod) else f"volumeMounts[{MODEL_MOUNT}]"


def _differences(
    server: JsonObject, pod: JsonObject, runtime: Runtime, model: tuple[str, str, JsonObject] | str
) -> Iterator[str]:
    """For each protocol of the runtime the first field that is another; empty where there is none."""
    if isinstance(model, str):
        yield model
        return
    resources = extended_resources(server)
    for protocol in runtime.protocols:
        wanted = render(runtime, runtime.applying(protocol, resources), *model)
        yield _difference(server, wanted, runtime.settings) or _volume_difference(pod, volumes(runtime, wanted))


def _is_below_the_mount(path: str) -> bool:
    """Whether it is the model's folder, or a file right in it."""
    return path == MODEL_MOUNT or (posixpath.dirname(path) == MODEL_MOUNT and posixpath.normpath(path) == path)


def _holds_the_model(mount: JsonObject, pod: JsonObject) -> bool:
    """Whether what is mounted is what the loader loads, or a claim: where that comes from is another question."""
    held = [each for each in _elements(pod.get("volumes")) if each.get("name") == MODEL_VOLUME]
    if len(held) != 1 or mount.get("name") != MODEL_VOLUME or mount.get("readOnly") is not True:
        return False
    if not mount.keys() <= {"name", "mountPath", "readOnly", "subPath"}:
        return False
    kinds = held[0].keys() - {"name"}
    return (kinds == {"emptyDir"} and mount.get("subPath") == MODEL_SUBPATH) or kinds == {"persistentVolumeClaim"}


def _difference(found: JsonObject, wanted: JsonObject, settings: RuntimeSettings) -> str:
    found = {**found, "ports": _ports(found.get("ports"))}
    wanted = {**wanted, "ports": _ports(wanted.get("ports"))}
    found.setdefault("terminationMessagePath", TERMINATION["terminationMessagePath"])
    found = {key: value for key, value in found.items() if value not in (None, [], {}, "")}
    wanted = {key: value for key, value in wanted.items() if value not in (None, [], {}, "")}
    for key in sorted((found.keys() | wanted.keys()) - _FREE - {"env", "args", "volumeMounts"}):
        if found.get(key) != wanted.get(key):
            return key
    for probe in PROBES:
        if value_at(found, probe, "exec") not in (None, value_at(wanted, probe, "exec")):
            return f"{probe}.exec"
    return (
        _strange_variable(found.get("env"), wanted["env"], settings)
        or ("" if _may_say(found.get("args") or [], wanted.get("args", []), settings) else "args")
        or _strange_mount(found.get("volumeMounts"), wanted["volumeMounts"])
    )


def _ports(ports: Any) -> list[Any]:
    """Ports by their numbers: Knative and Istio go by names, and serve the same on them."""
    return [
        {"protocol": "TCP", **{key: value for key, value in port.items() if key != "name"}}
        if isinstance(port, dict)
        else port
        for port in (ports if isinstance(ports, list) else [ports] if ports else [])
    ]


def _strange_variable(found: Any, wanted: list[JsonObject], settings: RuntimeSettings) -> str:
    """The first variable that is neither the runtime's, nor its user's to set, nor the platform's."""
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


def _may_say(found: Any, wanted: list[str], settings: RuntimeSettings) -> bool:
    """Whether arguments are the runtime's, followed by those that its users may add."""
    if not isinstance(found, list) or found[: len(wanted)] != wanted:
        return False
    takes_value = False
    for word in found[len(wanted) :]:
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
            return False  # a word by itself, which some servers take for a model
    return True


def _strange_mount(found: Any, wanted: list[JsonObject]) -> str:
    left = list(wanted)
    for mount in found if isinstance(found, list) else []:
        if mount not in left:
            return f"volumeMounts[{value_at(mount, 'mountPath')}]"
        left.remove(mount)
    return f"volumeMounts[{left[0]['mountPath']}]" if left else ""


def _volume_difference(pod: JsonObject, wanted: list[JsonObject]) -> str:
    """An ``emptyDir`` may be of another size and medium, and is for the server alone."""
    present = _elements(pod.get("volumes"))
    for volume in wanted:
        there = [each for each in present if each.get("name") == volume["name"]]
        if len(there) != 1 or {key for key, value in there[0].items() if value is not None} != {"name", "emptyDir"}:
            return f"volumeMounts[{volume['name']}]"
    return ""


def _around(pod: JsonObject, server: JsonObject) -> Iterator[str]:
    """Where others reach into the server's files, or can answer in its place."""
    for field in SHARED:
        if pod.get(field):
            yield field
    for index, container in enumerate(_elements(pod.get("containers"))):
        if container is not server:
            yield f"containers[{index}]"
    mounted = {str(mount.get("name")) for mount in _elements(server.get("volumeMounts"))} - {MODEL_VOLUME}
    for index, container in enumerate(_elements(pod.get("initContainers"))):
        if container.get("restartPolicy"):
            yield f"initContainers[{index}]"
        for mount in _elements(container.get("volumeMounts")):
            if str(mount.get("name")) in mounted and mount.get("readOnly") is not True:
                yield f"initContainers[{index}].volumeMounts[{mount.get('mountPath')}]"
    for index, _ in enumerate(_elements(pod.get("ephemeralContainers"))):
        yield f"ephemeralContainers[{index}]"


def _probe(probe: JsonObject, model_name: str, path: str) -> JsonObject:
    """The kubelet expands ``$(NAME)`` in ``args`` and ``env`` but not in a probe, so it is done here."""
    spelled = {**_PROBE_DEFAULTS, **probe}
    if "grpc" in spelled:
        spelled["grpc"] = {"service": "", **spelled["grpc"]}
    if "httpGet" in spelled:
        get = {"path": "/", "scheme": "HTTP", **spelled["httpGet"]}
        asked = get["path"].replace("$(MODEL_NAME)", model_name).replace("$(MODEL_PATH)", path)
        spelled["httpGet"] = {**get, "path": asked}
    return spelled


def _elements(node: Any) -> list[JsonObject]:
    return [each for each in node if isinstance(each, dict)] if isinstance(node, list) else []
