"""A model server of the catalogue in a user's container: what the user wrote there, beside what the runtime needs.

The user's fields stay. Of the command line, the runtime's part goes in front of the user's arguments; where a user
replaces it, or points the server elsewhere, a warning says so.
"""

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from serve_core.api import models
from serve_core.api.annotations import MOUNT, path_of
from serve_core.api.runtimes import Runtime
from serve_core.base.constants import MODEL_VOLUME
from serve_core.base.findings import Findings
from serve_core.base.json import JsonObject, list_of, objects_in, value_at
from serve_core.base.reasons import Diagnostic, diagnostic, explanation
from serve_core.base.workload import POD
from serve_core.syntax import mount_path
from serve_core.workload import arguments, command_line, model_server
from serve_core.workload.model_server import PRIVATE_KINDS, PROBES, extended_resources, mounted_paths, with_ports

_APPEND = "Leave out command, and write only additional arguments into args: kubectl-serve adds them to the runtime's."
_ONLY_MORE = "Write only additional arguments: kubectl-serve adds them to the runtime's."
_NONE = "Remove args: the image starts the server without arguments."
_REPEAT = "Begin with these words. The entrypoint of the image is not known, so nothing can be added to them."


def complete(runtime: Runtime, rendered: JsonObject, written: JsonObject, path: str, findings: Findings) -> JsonObject:
    """The fields of a ``rendered`` runtime's container for the ``written`` container at ``path``."""
    mount = arguments.mount_of(rendered)
    findings.problems += _mount_problems(runtime, rendered, mount)
    user = {**written, "command": list_of(written.get("command")), "args": list_of(written.get("args"))}
    merged = arguments.merge(runtime, rendered, user)
    given = rendered | merged.fields
    container = {key: given[key] for key in given if key not in ("command", "args") or key in merged.fields}
    container["volumeMounts"] = _mounts(rendered["volumeMounts"], mounted_paths(written))
    name = written.get("name")
    if merged.replaces:
        what = "command" if user["command"] else "args"
        line = shlex.join(arguments.line(runtime, rendered)) or "what the image runs by itself"
        words = {"what": what, "name": name, "runtime": runtime.name, "line": line}
        words["how"] = _advice(runtime, rendered, what)
        findings.warnings.append(diagnostic("RuntimeReplaced", f"{path}.{what}", **words))
    elif user["args"] and merged.fields.get("command", []) != rendered.get("command", []):
        container |= _with_moved_ports(container, merged.dropped, user)
        dropped = shlex.join(word for part in merged.dropped for word in part)
        without = f" without {dropped}" if dropped else ""
        words = {"name": name, "runtime": runtime.name, "without": without}
        findings.explanations.append(explanation("ArgumentsAppended", **words))
        if _loses_the_model(merged.dropped, user, mount):
            how = "Remove the model from args: the runtime's arguments name it."
            words = {"name": name, "mount": mount, "instead": "", "how": how}
            findings.warnings.append(diagnostic("ModelUnseen", f"{path}.args", **words))
    if merged.parallel:
        words = {"option": " ".join(merged.parallel), "name": name}
        findings.explanations.append(explanation("SeveralDevices", **words))
    return container


def volumes(runtime: Runtime, container: JsonObject, pod: JsonObject, findings: Findings) -> list[JsonObject]:
    """The volumes of a completed container's mounts. A user's volume of such a name must be an empty folder: the server
    writes to it."""
    needed = model_server.volumes(runtime, container)
    names = {volume["name"] for volume in needed}
    for index, volume in enumerate(list_of(pod.get("volumes"))):
        if volume.get("name") in names and set(volume) not in PRIVATE_KINDS:
            words = {"what": "volume", "name": volume["name"]}
            findings.problems.append(diagnostic("NameReserved", f"{POD}.volumes[{index}].name", **words))
    return needed


def warn_of_idle_devices(
    runtime: Runtime, others: Iterable[Runtime], container: JsonObject, path: str, findings: Findings
) -> None:
    """Warn of devices that the container requests and the runtime's image cannot use. The user answers for an image of
    the user's own. ``others``: the runtimes that serve the model as well."""
    resources = extended_resources(container)
    claims = [f"claim {claim.get('name')}" for claim in objects_in(value_at(container, "resources", "claims"))]
    if container.get("image") or not (resources or claims) or runtime.has_variant_for(resources):
        return
    able = sorted(each.name for each in others if resources and each.has_variant_for(resources))
    how = f"Runtimes for it: {', '.join(able)}." if able else "Use your own image, or do not request the device."
    words = {"runtime": runtime.name, "wanted": ", ".join([*sorted(resources), *claims]), "how": how}
    findings.warnings.append(diagnostic("RuntimeWithoutVariant", f"{path}.resources", **words))


def _mount_problems(runtime: Runtime, rendered: JsonObject, mount: str) -> list[Diagnostic]:
    """Refuse a path ``mount`` of the model at which its files could take the place of the image's, or of what the
    runtime mounts."""
    own = [
        mount_path.normalized(each["mountPath"]) for each in rendered["volumeMounts"] if each["name"] != MODEL_VOLUME
    ]
    taken = next((path for path in own if mount_path.is_within(path, mount)), None)
    if taken is not None:
        why = f"the runtime mounts a volume at {taken}"
    elif models.has_file_suffix(mount):
        why = "it reads the model's folder, and this is the path of a file"
    elif not mount_path.is_for_data(mount):
        why = "the model's files could take the place of the image's programs"
    else:
        return []
    allowed = ", ".join(mount_path.FOR_DATA)
    words = {"runtime": runtime.name, "mount": mount, "why": why, "allowed": allowed}
    return [diagnostic("MountNotForRuntime", path_of(MOUNT), **words)]


def _advice(runtime: Runtime, rendered: JsonObject, what: str) -> str:
    """What to write instead of the field that replaces the runtime's command line."""
    if what == "command":
        return _APPEND
    if arguments.program(runtime, rendered):
        return _ONLY_MORE
    return _REPEAT if rendered.get("args") else _NONE


def _mounts(own: Sequence[JsonObject], written: dict[str, str]) -> list[JsonObject]:
    """The runtime's mounts, without those at whose path the user mounts another volume."""
    return [
        mount
        for mount in own
        if mount["name"] == MODEL_VOLUME
        or written.get(mount_path.normalized(mount["mountPath"]), mount["name"]) == mount["name"]
    ]


def _with_moved_ports(container: JsonObject, dropped: Sequence[tuple[str, ...]], written: JsonObject) -> JsonObject:
    """The fields that name a port of the runtime, where the user's arguments give another one."""
    ports = {port["containerPort"]: port["containerPort"] for port in container.get("ports", [])}
    ports |= {port: moved for port in ports if (moved := arguments.moved_port(port, dropped, written)) is not None}
    fields: JsonObject = {}
    if container.get("ports"):
        fields["ports"] = [{**port, "containerPort": ports[port["containerPort"]]} for port in container["ports"]]
    for probe in PROBES:
        if probe in container:
            fields[probe] = with_ports(container[probe], ports)
    return fields


def _loses_the_model(dropped: Sequence[tuple[str, ...]], written: dict[str, Any], mount: str) -> bool:
    """Whether the runtime's words that name the model, at ``mount``, are left out, and the user's name something
    else."""
    named = any(mount in word or "$(MODEL_PATH)" in word for part in dropped for word in part)
    args = {"args": [word.replace("$(MODEL_PATH)", mount) for word in written["args"] if isinstance(word, str)]}
    return named and not command_line.read(args).names_path(mount)
