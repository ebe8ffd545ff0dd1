"""The arguments of a runtime and those of its users, as one command line.

A container's ``args`` are the user's: tools that compare the Deployment with its source would put them back. So what
the runtime says goes into the ``command`` that the user left empty: the program of the image, and the runtime's own
arguments. The user's follow them. A flag that the user repeats is left out of the runtime's.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_core.api.runtimes import Parallelism, Runtime
from serve_core.base.constants import MODEL_MOUNT, MODEL_VOLUME
from serve_core.base.json import JsonObject, value_at
from serve_core.syntax import quantity
from serve_core.workload import command_line
from serve_core.workload.command_line import flag_name, is_flag

_MODEL_FLAG = "--model"
"""vLLM takes the model as an argument of its own or of this flag, but not of both."""
_MAX_DEVICES = 1024


@dataclass(frozen=True)
class Merged:
    """The command line of a runtime's container."""

    fields: JsonObject = field(default_factory=dict)
    """``command`` and ``args``, as far as the container lacks them."""
    replaces: bool = False
    """Whether the user's words take the place of the runtime's."""
    dropped: tuple[tuple[str, ...], ...] = ()
    """The runtime's arguments that the user's replace one by one, each a word or a flag with its value."""
    parallel: tuple[str, ...] = ()
    """The option for several devices, if it is added."""


def merge(runtime: Runtime, rendered: JsonObject, written: JsonObject) -> Merged:
    """The command line for a container that its user has ``written`` in part. ``rendered``: the runtime's container."""
    own = rendered.get("args") or []
    command, args = written.get("command"), written.get("args")
    whole = [*program(runtime, rendered), *own]
    if command:
        said = [*command, *(args or ())]
        return Merged(replaces=said[: len(whole)] != whole)
    fields = {"command": rendered["command"]} if rendered.get("command") else {}
    parallel = _parallel(runtime.parallelism, written)
    if not args:
        # Without arguments, the image's own program and arguments run.
        return Merged(fields | ({"args": [*own, *parallel]} if own else {}), parallel=tuple(parallel))
    if own and args[: len(own)] == own:
        return Merged(fields)
    base = program(runtime, rendered)
    if not base or _is_whole(own, args):
        return Merged(fields, replaces=True)
    kept, dropped = _kept(runtime, own, args, mount_of(rendered))
    return Merged({"command": [*base, *kept, *parallel]}, dropped=tuple(dropped), parallel=tuple(parallel))


def mount_of(rendered: JsonObject) -> str:
    """Where a runtime's rendered container mounts the model."""
    mounts = rendered.get("volumeMounts", ())
    return next((str(mount["mountPath"]) for mount in mounts if mount["name"] == MODEL_VOLUME), MODEL_MOUNT)


def line(runtime: Runtime, rendered: JsonObject) -> list[str]:
    """A runtime's whole command line."""
    return [*program(runtime, rendered), *(rendered.get("args") or ())]


def program(runtime: Runtime, rendered: JsonObject) -> list[str]:
    """What starts the server: the runtime's command, or else its image's entrypoint, where that is known."""
    return list(rendered.get("command") or runtime.entrypoint)


def is_merged(runtime: Runtime, rendered: JsonObject, command: list[Any], args: list[Any]) -> bool:
    """Whether :func:`merge` gave the ``command`` for a user's ``args``, for any number of devices."""
    own, base = rendered.get("args") or [], program(runtime, rendered)
    if not base or _is_whole(own, args):
        return False
    kept, dropped = _kept(runtime, own, args, mount_of(rendered))
    if not all(_may_be_dropped(part[0], runtime) for part in dropped):
        return False
    expected = [*base, *kept]
    return command == expected or (command[:-1] == expected and is_number_of_devices(runtime, command[-1]))


def moved_port(port: int, dropped: Iterable[tuple[str, ...]], written: JsonObject) -> int | None:
    """The port that a user gives instead of a runtime's ``port``; ``None`` if the flag for it is not repeated."""
    line = command_line.read(written)
    for part in dropped:
        if str(port) == (part[1] if len(part) > 1 else part[0].partition("=")[2]):
            flags = filter(is_flag, line.words)
            same = {word.partition("=")[0] for word in flags if flag_name(word) == flag_name(part[0])}
            return command_line.port_of(line.flag(*same))
    return None


def _is_whole(own: Sequence[str], args: Sequence[Any]) -> bool:
    """Whether a user's arguments begin as the runtime's do, with a word such as ``serve``, and so are all of them."""
    return bool(own) and not is_flag(own[0]) and args[:1] == list(own[:1])


def _may_be_dropped(word: str, runtime: Runtime) -> bool:
    """Whether users may set this flag of the runtime. A flag in another spelling is not the same for every server."""
    name = word.partition("=")[0]
    return name in runtime.settings.args or f"{name}=" in runtime.settings.args


def is_number_of_devices(runtime: Runtime, word: object) -> bool:
    """Whether a word is the option for several devices, as :func:`merge` adds it."""
    option, _, number = str(word).partition("=")
    expected = runtime.parallelism.argument if runtime.parallelism is not None else None
    return option == expected and number.isascii() and number.isdecimal() and len(number) <= len(str(_MAX_DEVICES))


def _kept(
    runtime: Runtime, own: Sequence[str], args: Sequence[Any], mount: str
) -> tuple[list[str], list[tuple[str, ...]]]:
    """The runtime's words that stay beside a user's, and the arguments that do not. ``mount``: of the model."""
    flags = {flag_name(word) for word in args if is_flag(word)}
    has_model = bool(args and not is_flag(args[0])) or _MODEL_FLAG in flags
    kept: list[str] = []
    dropped: list[tuple[str, ...]] = []
    for part in _parts(own, runtime.settings.args):
        word = part[0]
        repeated = flag_name(word) in flags if is_flag(word) else has_model and word in (mount, "$(MODEL_PATH)")
        if repeated:
            dropped.append(part)
        else:
            kept.extend(part)
    return kept, dropped


def _parts(words: Sequence[str], settings: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Words one by one, a flag with its value."""
    at = 0
    while at < len(words):
        word, behind = words[at], words[at + 1 : at + 2]
        has_value = is_flag(word) and "=" not in word and word not in settings and bool(behind)
        end = at + (2 if has_value and not is_flag(behind[0]) else 1)
        yield tuple(words[at:end])
        at = end


def _parallel(parallelism: Parallelism | None, written: JsonObject) -> list[str]:
    """The option for several devices, unless the user says how the model is spread over them."""
    if parallelism is None:
        return []
    said = {flag_name(word) for word in written.get("args") or () if is_flag(word)}
    number = devices(written, parallelism.resources)
    if number < 2 or said & {flag_name(each) for each in (parallelism.argument, *parallelism.unless)}:
        return []
    return [f"{parallelism.argument}={number}"]


def devices(container: JsonObject, resources: Sequence[str]) -> int:
    """How many whole devices of these ``resources`` a container requests."""
    for name in resources:
        for part in ("limits", "requests"):
            asked = value_at(container, "resources", part, name)
            if asked is None:
                continue
            try:
                number = quantity.parse(asked)
            except ValueError:
                return 0
            return int(number) if number.denominator == 1 and 0 < number <= _MAX_DEVICES else 0
    return 0
