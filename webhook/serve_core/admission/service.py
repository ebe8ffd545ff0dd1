"""Rendering a completed Deployment as the Knative Service that serves it."""

import re
from collections.abc import Mapping
from typing import Any

from serve_core.admission.completion.complete import PROGRESS_DEADLINE_DEFAULT
from serve_core.api.annotations import METRIC, SCALE, TARGET, TIMEOUT, VISIBILITY, WINDOW, path_of
from serve_core.api.serving_spec import ServingSpec
from serve_core.api.state import State
from serve_core.base.constants import DEPLOYMENT_LABEL, LOADER_CONTAINER, PREFIX, SERVED_LABEL
from serve_core.base.findings import Findings
from serve_core.base.json import JsonObject, value_at
from serve_core.base.reasons import Diagnostic, capped, diagnostic, quote, step
from serve_core.base.workload import POD, TEMPLATE, Workload
from serve_core.context.cluster import ClusterContext
from serve_core.knative import fields, initial_scale, limits, timeouts
from serve_core.knative.features import FeatureNeed
from serve_core.knative.fields import FieldMapping
from serve_core.knative.name_conflict import service_name
from serve_core.knative.timeouts import Timeouts
from serve_core.knative.traffic import targets
from serve_core.syntax import mount_path
from serve_core.syntax.object_name import is_service_name
from serve_core.workload import serving_port
from serve_core.workload.model_server import PROBES, extended_resources, requests_container
from serve_core.workload.serving_port import ServingPort

_GRACE, _GRACE_DEFAULT = "terminationGracePeriodSeconds", 30
"""The field, and what the API server fills in."""
_PORT_VARIABLE = "PORT"
_PORT_REFERENCE = re.compile(r"\$\$|\$\(PORT\)")

# Defaults of the API server (pkg/apis/apps/v1/defaults.go), and the reasons why other values have no effect.
_STRATEGY_DEFAULT = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}
_IGNORED = {
    "strategy": (_STRATEGY_DEFAULT, "Knative moves traffic to a new revision when the revision is ready"),
    "minReadySeconds": (0, "Knative has no such delay"),
    "revisionHistoryLimit": (10, "Knative's configuration sets how many revisions it keeps"),
}
_PROBE_TIMING = {"periodSeconds": 10, "timeoutSeconds": 1, "failureThreshold": 3}
_UNWRITABLE = ("secret", "configMap", "projected", "image")
_OWN_READ_ONLY = ("persistentVolumeClaim", "csi")
"""Volumes with a field ``readOnly`` of their own."""
_READ_ONLY = ("csi", "hostPath")
"""Volumes that are writable, but not under Knative (Knative Serving 1.23, ``validateVolumeMounts``)."""
_KEPT_FILES = f"mount a claim, or {fields.KEEP_DEPLOYMENT}."
_READ_ONLY_WAY_OUT = f"Set readOnly to true. If the container writes there, {_KEPT_FILES}"
_INIT_WAY_OUT = f"Set readOnly to true. If it writes there, mount an emptyDir or a claim, or {fields.KEEP_DEPLOYMENT}."
_CREATED = "DirectoryOrCreate"
"""The type of a host path whose folder may be empty."""
_DEVICES = "/dev"
_TEMPLATE_METADATA = frozenset({"labels", "annotations", "creationTimestamp"})


def render(
    workload: Workload, spec: ServingSpec, state: State, context: ClusterContext, findings: Findings
) -> tuple[JsonObject, frozenset[FeatureNeed]]:
    """The Knative Service of a completed Deployment, and the feature flags of Knative that it needs."""
    name = service_name(workload.manifest)
    mapping = FieldMapping(context.features)
    if not is_service_name(name):
        mapping.add("InvalidServiceName", "metadata.name", name=quote(name))
    pod = _pod(workload, spec, context, mapping)
    if spec.timeout is not None:
        pod |= _timeouts(spec.timeout, timeouts.read(context.knative_defaults), mapping)
    if spec.concurrency is not None:
        pod["containerConcurrency"] = spec.concurrency
    service: JsonObject = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "labels": _service_labels(workload, spec, mapping),
        },
        "spec": {
            "template": {
                "metadata": {
                    "labels": {**workload.template_labels, DEPLOYMENT_LABEL: workload.name},
                    "annotations": _template_annotations(workload, spec, context, mapping),
                },
                "spec": pod,
            }
        },
    }
    if traffic := targets(spec, state, workload.template_annotations):
        service["spec"]["traffic"] = traffic
    if workload.namespace:
        service["metadata"]["namespace"] = workload.namespace
    limits.check_service_metadata(workload.annotations, workload.labels, mapping)
    if annotations := {key: value for key, value in workload.annotations.items() if limits.is_for_the_service(key)}:
        service["metadata"]["annotations"] = annotations
    if not service["spec"]["template"]["metadata"]["annotations"]:
        del service["spec"]["template"]["metadata"]["annotations"]
    findings.problems += mapping.problems
    findings.warnings += [*_ignored(workload), *mapping.warnings]
    return service, frozenset(mapping.needs)


def _timeouts(seconds: int, cluster: Timeouts, mapping: FieldMapping) -> JsonObject:
    if seconds > cluster.maximum:
        words = {"seconds": seconds, "maximum": cluster.maximum, "key": timeouts.MAXIMUM}
        mapping.add("TimeoutTooLong", path_of(TIMEOUT), **words)
    # A longer timeout must raise the one for the first byte too. Below Knative's own default, only a lower default of
    # the cluster needs that.
    raised = seconds > min(cluster.response_start or seconds, Timeouts().response_start)
    return {"timeoutSeconds": seconds} | ({"responseStartTimeoutSeconds": seconds} if raised else {})


def _service_labels(workload: Workload, spec: ServingSpec, mapping: FieldMapping) -> JsonObject:
    labels = {key: value for key, value in workload.labels.items() if key != SERVED_LABEL}
    labels[DEPLOYMENT_LABEL] = workload.name
    if spec.visibility is None:
        return labels
    written = labels.pop(limits.VISIBILITY_LABEL, None)
    if written is not None and written != spec.visibility:
        _conflict(mapping, VISIBILITY, f"label {limits.VISIBILITY_LABEL}")
    if spec.visibility == "cluster-local":
        labels[limits.VISIBILITY_LABEL] = "cluster-local"
    return labels


def _template_annotations(
    workload: Workload, spec: ServingSpec, context: ClusterContext, mapping: FieldMapping
) -> JsonObject:
    annotations: JsonObject = dict(workload.template_annotations)
    for key in annotations:
        if key.startswith(PREFIX):
            at = f"{TEMPLATE}.metadata.annotations[{step(key)}]"
            mapping.refuse(
                at,
                "kubectl-serve reads this annotation only on the Deployment itself",
                "Move it to metadata.annotations.",
            )
    for source, key, value in _wanted(spec):
        if key in annotations and annotations[key] != value:
            _conflict(mapping, source, f"template annotation {key}")
        annotations[key] = value
    deadline = workload.spec.get("progressDeadlineSeconds")
    if deadline not in (None, PROGRESS_DEADLINE_DEFAULT):
        annotations.setdefault(limits.PROGRESS_DEADLINE, f"{deadline}s")
    allows_zero = initial_scale.allows_zero(context.knative_autoscaler)
    limits.check_template_annotations(annotations, mapping, allows_zero=allows_zero)
    return {key: value for key, value in annotations.items() if not limits.is_for_the_service(key)}


def _wanted(spec: ServingSpec) -> list[tuple[str, str, str]]:
    """Our annotations, each with Knative's annotation that it sets and the value."""
    wanted: list[tuple[str, str, str | None]] = [
        (METRIC, "metric", spec.metric),
        (TARGET, "target", spec.target),
        (WINDOW, "window", None if spec.window is None else f"{spec.window}s"),
    ]
    if spec.scale is not None:
        wanted += [(SCALE, "min-scale", str(spec.scale.minimum)), (SCALE, "max-scale", str(spec.scale.maximum or 0))]
    return [(source, limits.AUTOSCALING + key, value) for source, key, value in wanted if value is not None]


def _conflict(mapping: FieldMapping, ours: str, other: str) -> None:
    why = "they set the same value differently"
    mapping.add("ConflictingAnnotations", path_of(ours), one=ours, other=other, why=why)


def _ignored(workload: Workload) -> list[Diagnostic]:
    spec = workload.spec
    warnings = [
        diagnostic("FieldIgnored", f"spec.{key}", why=why)
        for key, (default, why) in _IGNORED.items()
        if key in spec and spec[key] != default
    ]
    why = "only the labels and annotations of the template reach the pods"
    warnings += capped(
        diagnostic("FieldIgnored", f"{TEMPLATE}.metadata.{step(key)}", why=why)
        for key, value in (workload.template.get("metadata") or {}).items()
        if key not in _TEMPLATE_METADATA and value
    )
    return warnings


def _pod(workload: Workload, spec: ServingSpec, context: ClusterContext, mapping: FieldMapping) -> JsonObject:
    template, containers, init = workload.pod, workload.containers, workload.init_containers
    server = requests_container(containers, spec.port)
    if value_at(server, "ports") or spec.port is not None:
        serving = serving_port.of(server or {}, context.servers, spec.port)
    else:
        # Completion declares the port. Without one, an earlier version completed it: Knative takes its own, but not
        # where there are several containers.
        serving = ServingPort(limits.DEFAULT_PORT if len(containers) > 1 else None)
    rest = {
        key: value
        for key, value in template.items()
        if key not in ("containers", "initContainers", _GRACE)
        # The API server writes the deprecated name beside the present one.
        and not (key == "serviceAccount" and value == template.get("serviceAccountName"))
    }
    if "serviceAccount" in rest and not rest.get("serviceAccountName"):
        rest["serviceAccountName"] = rest.pop("serviceAccount")  # as the API server does
    written = {volume["name"]: volume for volume in workload.volumes}
    if replaced := _filled_folders(containers, init, written):
        rest["volumes"] = _with_empty_folders(workload.volumes, replaced, mapping)
    volumes = {volume["name"]: volume for volume in rest.get("volumes") or []}
    pod = mapping.carry(rest, fields.POD, POD)
    _check_grace(template.get(_GRACE), spec.timeout, timeouts.read(context.knative_defaults), mapping)
    if len(containers) > 1:
        mapping.require("multi-container", f"{POD}.containers", exact=True)
    pod["containers"] = [
        _container(
            container,
            f"{POD}.containers[{index}]",
            serving if container is server else None,
            volumes,
            mapping,
            is_on_host=template.get("hostNetwork") is True,
        )
        for index, container in enumerate(containers)
    ]
    if init:
        mapping.require("kubernetes.podspec-init-containers", f"{POD}.initContainers", exact=True)
        pod["initContainers"] = [
            _init_container(container, f"{POD}.initContainers[{place}]", volumes, mapping)
            for place, container in _as_written(init)
        ]
    _claims(pod.get("volumes", []), mapping)
    return _without_unmounted(pod, mapping)


def _filled_folders(
    containers: list[JsonObject], init: list[JsonObject], volumes: Mapping[str, JsonObject]
) -> dict[str, str]:
    """The host paths that an init container fills for a container, by volume, with the init container's name.

    Knative mounts host paths read-only. A folder that the kubelet creates where it is missing can be empty on any node,
    so that the init container fills an empty folder as well.
    """
    mounted = {mount["name"] for container in containers for mount in container.get("volumeMounts") or []}
    return {
        mount["name"]: str(container.get("name"))
        for container in init
        for mount in container.get("volumeMounts") or []
        if mount["name"] in mounted
        and not mount.get("readOnly")
        and value_at(volumes.get(mount["name"]), "hostPath", "type") == _CREATED
    }


def _with_empty_folders(
    volumes: list[JsonObject], filled: Mapping[str, str], mapping: FieldMapping
) -> list[JsonObject]:
    """The volumes with an ``emptyDir`` in place of each host path of :func:`_filled_folders`."""
    found = []
    for index, volume in enumerate(volumes):
        name = volume["name"]
        if name in filled:
            words = {"volume": name, "container": filled[name], "way_out": f"To keep them, {_KEPT_FILES}"}
            mapping.warn("HostPathReplaced", f"{POD}.volumes[{index}].hostPath", **words)
            volume = {"name": name, "emptyDir": {}}  # noqa: PLW2901
        found.append(volume)
    return found


def _check_grace(seconds: Any, requested: int | None, cluster: Timeouts, mapping: FieldMapping) -> None:
    """Knative gives each pod the request timeout as its grace period."""
    if seconds in (None, _GRACE_DEFAULT):
        return
    timeout = requested or cluster.default
    if isinstance(seconds, int) and seconds <= timeout:
        mapping.ignore(f"{POD}.{_GRACE}", f"Knative gives the pod {timeout} seconds, the request timeout")
        return
    way_out = "Remove it."
    if isinstance(seconds, int) and seconds <= cluster.maximum:
        way_out = f"Remove it, and set kubectl-serve.dev/timeout to {seconds}s or more."
    mapping.refuse(f"{POD}.{_GRACE}", f"Knative gives the pod {timeout} seconds, the request timeout", way_out)


def _as_written(init: list[JsonObject]) -> list[tuple[int, JsonObject]]:
    """Init containers with their indexes in the user's document: the loader comes before them."""
    ours = sum(container.get("name") == LOADER_CONTAINER for container in init[:1])
    return [(max(index - ours, 0), container) for index, container in enumerate(init)]


def _init_container(
    container: JsonObject, path: str, volumes: Mapping[str, JsonObject], mapping: FieldMapping
) -> JsonObject:
    limits.check_container(container, path, is_server=False, mapping=mapping)
    return _read_only(mapping.carry(container, fields.INIT_CONTAINER, path), path, volumes, mapping, is_init=True)


def _container(
    container: JsonObject,
    path: str,
    serving: ServingPort | None,
    volumes: Mapping[str, JsonObject],
    mapping: FieldMapping,
    *,
    is_on_host: bool,
) -> JsonObject:
    """``serving``: the port of the container that serves the model; ``None`` for the containers beside it.
    ``is_on_host``: whether the pod uses the node's network."""
    is_server = serving is not None
    if serving is not None:
        container = _without_port_variable(container, path, serving, mapping)
    container = _without_privileges(container, path, volumes, mapping)
    limits.check_container(container, path, is_server=is_server, mapping=mapping)
    carried = mapping.carry(container, fields.CONTAINER if is_server else fields.SIDE_CONTAINER, path)
    ports = container.get("ports") or []
    for probe in PROBES:
        if probe in carried:
            carried[probe] = _numbered(carried[probe], ports, f"{path}.{probe}", mapping)
    if "readinessProbe" in carried:
        carried["readinessProbe"] = _timed(carried["readinessProbe"], eager=is_server)
    if serving is not None:
        if found := _ports(ports, path, serving, mapping, is_on_host=is_on_host):
            carried["ports"] = found
        _check_liveness(carried.get("livenessProbe"), path, serving, mapping)
    return _read_only(carried, path, volumes, mapping)


def _without_port_variable(container: JsonObject, path: str, serving: ServingPort, mapping: FieldMapping) -> JsonObject:
    """Knative sets ``PORT`` to the serving port: a variable that says the same is left out."""
    variables = container.get("env") or []
    said = [each for each in variables if each.get("name") == _PORT_VARIABLE]
    if not said or any(each.get("value") != str(serving.number) for each in said):
        return container
    mapping.ignore(f"{path}.env[{_PORT_VARIABLE}]", f"Knative sets {_PORT_VARIABLE} to {serving.number} itself")
    first = variables.index(said[0])
    others = [
        # The kubelet replaces a variable only in those behind it, and Knative's own comes last.
        _with_port(each, str(serving.number)) if place > first else each
        for place, each in enumerate(variables)
        if each.get("name") != _PORT_VARIABLE
    ]
    return {**container, "env": others}


def _with_port(variable: JsonObject, number: str) -> JsonObject:
    """A variable with ``$(PORT)`` replaced in its value, as the kubelet does it: ``$$`` is a dollar sign."""
    value = variable.get("value")
    if not isinstance(value, str) or f"$({_PORT_VARIABLE})" not in value:
        return variable
    return {**variable, "value": _PORT_REFERENCE.sub(lambda found: found[0] if found[0] == "$$" else number, value)}


def _without_privileges(
    container: JsonObject, path: str, volumes: Mapping[str, JsonObject], mapping: FieldMapping
) -> JsonObject:
    """A container that requests devices without its privileges, which Knative refuses: its device plugin opens the
    devices for it. Without such a request, or for a device that it mounts from the node, it needs them."""
    devices = extended_resources(container)
    if not devices or value_at(container, "securityContext", "privileged") is not True:
        return container
    mounted = (volumes.get(mount["name"]) for mount in container.get("volumeMounts") or [])
    paths = (str(value_at(volume, "hostPath", "path") or "") for volume in mounted)
    if any(mount_path.is_within(mount_path.normalized(each), _DEVICES) for each in paths if each.startswith("/")):
        return container
    words = {"name": container.get("name"), "devices": ", ".join(sorted(devices))}
    mapping.warn("PrivilegesDropped", f"{path}.securityContext.privileged", **words)
    context = {key: value for key, value in container["securityContext"].items() if key != "privileged"}
    return {**container, "securityContext": context}


def _check_liveness(probe: Any, path: str, serving: ServingPort, mapping: FieldMapping) -> None:
    """Knative moves a liveness probe to the serving port (``deploy.go``, ``rewriteUserLivenessProbe``)."""
    for handler in ("httpGet", "tcpSocket") if serving.number is not None else ():
        if value_at(probe, handler, "port") not in (None, serving.number, str(serving.number)):
            mapping.require("multi-container-probing", f"{path}.livenessProbe.{handler}.port", exact=True)


def _ports(
    ports: list[JsonObject], path: str, serving: ServingPort, mapping: FieldMapping, *, is_on_host: bool
) -> list[JsonObject]:
    """The one port that Knative takes; the others stay open in the pod, but no request comes through them.

    On the node's network, the node has every port of the container: the host port only repeats its number.
    """
    if serving.number is None:
        return []
    if serving.index is None:
        ports = [*ports, {"containerPort": serving.number}]
    carried = []
    for index, port in enumerate(ports):
        at = f"{path}.ports[{index}]"
        if index in serving.others:
            mapping.ignore(at, f"Knative sends requests to one port, and {serving.number} serves the model")
            continue
        if port.get("hostPort") and not (is_on_host and port["hostPort"] == port.get("containerPort")):
            mapping.refuse(f"{at}.hostPort", "Knative routes to the pod, not to the node")
        if port.get("hostIP"):
            mapping.refuse(f"{at}.hostIP", "Knative routes to the pod, not to the node")
        if port.get("protocol", "TCP") != "TCP":
            mapping.refuse(f"{at}.protocol", "Knative speaks HTTP over TCP")
        carried.append({"containerPort": port.get("containerPort"), **_port_name(port)})
    return carried


def _port_name(port: JsonObject) -> JsonObject:
    """The port's name for Knative, which knows two; others, such as ``grpc-predict``, are read as by Istio."""
    name = str(port.get("name") or "")
    if name in ("http1", "h2c"):
        return {"name": name}
    return {"name": "h2c"} if name.partition("-")[0] in ("grpc", "http2") else {}


def _numbered(probe: Any, ports: list[JsonObject], path: str, mapping: FieldMapping) -> Any:
    """A probe with its named port resolved: Knative renames the pod's port."""
    if not isinstance(probe, dict):
        return probe
    numbers = {str(port.get("name")): port["containerPort"] for port in ports}
    resolved = dict(probe)
    for handler in ("httpGet", "tcpSocket"):
        target = probe.get(handler)
        if not isinstance(target, dict):
            continue
        port = target.get("port")
        if isinstance(port, str) and not port.isdigit():
            if port not in numbers:
                mapping.refuse(f"{path}.{handler}.port", f"no port is named {quote(port)}", "Use the port's number.")
            resolved[handler] = {**target, "port": numbers.get(port)}
    return resolved


def _timed(probe: Any, *, eager: bool) -> Any:
    """A readiness probe with its timing written out: Knative reads a missing period as 0.

    With 0, Knative probes many times a second until the container is ready. An ``eager`` probe, the model server's,
    gets that instead of Kubernetes' default timing.
    """
    if not isinstance(probe, dict):
        return probe
    if eager and all(probe.get(key, value) == value for key, value in _PROBE_TIMING.items()):
        return {key: value for key, value in probe.items() if key not in _PROBE_TIMING}
    return _PROBE_TIMING | probe


def _read_only(
    container: JsonObject,
    path: str,
    volumes: Mapping[str, JsonObject],
    mapping: FieldMapping,
    *,
    is_init: bool = False,
) -> JsonObject:
    """Set ``readOnly`` on mounts of read-only volumes: Knative requires it, and defaults it only in containers.

    Knative silently mounts some writable volumes read-only in containers. That is a warning, because most servers only
    read there. Init containers exist to write, so theirs are refused.
    """
    if "volumeMounts" not in container:
        return container
    mounts = []
    for index, mount in enumerate(container["volumeMounts"]):
        volume = volumes.get(mount["name"], {})
        if any(kind in volume for kind in _UNWRITABLE) or any(value_at(volume, k, "readOnly") for k in _OWN_READ_ONLY):
            mounts.append({**mount, "readOnly": True})
            continue
        if any(kind in volume for kind in _READ_ONLY) and not mount.get("readOnly"):
            at = f"{path}.volumeMounts[{index}].readOnly"
            if is_init:
                mapping.refuse(at, "Knative mounts volumes of this type read-only", _INIT_WAY_OUT)
            else:
                mapping.warn("MountReadOnly", at, volume=mount["name"], way_out=_READ_ONLY_WAY_OUT)
            mounts.append({**mount, "readOnly": True})
            continue
        mounts.append(mount)
    return {**container, "volumeMounts": mounts}


def _claims(volumes: list[JsonObject], mapping: FieldMapping) -> None:
    for index, volume in enumerate(volumes):
        if "persistentVolumeClaim" in volume and not value_at(volume, "persistentVolumeClaim", "readOnly"):
            at = f"{POD}.volumes[{index}].persistentVolumeClaim.readOnly"
            mapping.require("kubernetes.podspec-persistent-volume-write", at, exact=True)


def _without_unmounted(pod: JsonObject, mapping: FieldMapping) -> JsonObject:
    """Knative refuses a volume that no container mounts; it changes nothing, so that it is left out."""
    mounted = {
        mount["name"]
        for container in [*pod["containers"], *pod.get("initContainers", [])]
        for mount in container.get("volumeMounts", [])
    }
    for index, volume in enumerate(pod.get("volumes", [])):
        if volume["name"] not in mounted:
            mapping.ignore(f"{POD}.volumes[{index}]", "no container mounts it")
    if "volumes" in pod:
        pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] in mounted]
    return pod
