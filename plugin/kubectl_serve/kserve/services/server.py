"""The container of a model server of the catalogue: what a user adds to it or changes in it. Pure."""

from typing import Any

from kubectl_serve.kserve.base import placeholders
from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.arguments import Arguments
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.base.names import PORT
from kubectl_serve.kserve.services import container as containers
from kubectl_serve.kserve.services import runtime as runtimes
from serve_core.api import models
from serve_core.api.annotations import MODEL, RUNTIME
from serve_core.api.runtimes import Runtime
from serve_core.base.constants import GROUP, MODEL_MOUNT
from serve_core.base.json import canonical, list_of
from serve_core.workload import arguments, command_line, hub_access, serving_port
from serve_core.workload.command_line import is_flag
from serve_core.workload.model_server import PROBES

_NAMES = ("--model_name", "--served-model-name")
_MODEL_NAME = "$(MODEL_NAME)"
_SUBCOMMAND = "serve"
_VLLM = ("--port=8080", f"--served-model-name={_MODEL_NAME}", f"--model={MODEL_MOUNT}")
"""KServe's arguments for vLLM."""
_OWN_REGISTRY = f"{GROUP.partition('.')[0]}/"


def read(server: Field, args: Arguments, runtime: Runtime | None, document: Field, draft: Draft) -> dict[str, Any]:
    """The user's changes of the container. ``args``: its arguments, without those about the model."""
    made = containers.read(server, "name", "args", "image")
    image, tag = server.at("image"), server.at("runtimeVersion")
    containers.note_name(server.at("name"))
    containers.note_further_ports(server)
    if image:
        made["image"] = image
    elif tag and tag.is_text() and runtime is not None:
        _tag(made, tag, runtime)
    if "image" in made and runtime is not None:
        draft.asked[RUNTIME] = runtime.name
    own = _own_arguments(runtime)
    if own[:1] == [_SUBCOMMAND] and server.at("command"):
        own = list(_VLLM)  # the user's command has the subcommand, or none
    _read_name(server, args, runtime, document, draft)
    _drop_repeated(own, args, draft)
    words = [_word(each, document) for each in args.words]
    if words:
        is_added = runtime is None or (
            (runtime.entrypoint or runtime.container.get("command")) and not server.at("command")
        )
        if own and not is_added:
            server.at("args").remark("follow those of the runtime, which are repeated: they are one list.")
        made["args"] = [*([] if is_added else own), *words]
    elif own and server.at("command"):
        made["args"] = own
    _note_hub(server, args, draft)
    return made


def _read_name(server: Field, args: Arguments, runtime: Runtime | None, document: Field, draft: Draft) -> None:
    """The model's name, where an argument gives another one than the Deployment's. It stays if the runtime's probes do
    not need the name."""
    served = args.find(*_NAMES)
    if served is None:
        return
    called = _expanded(served.value, document)
    probes = [] if runtime is None else [runtime.container.get(probe) for probe in PROBES]
    if called == draft.name and len(served.words) <= 2:
        args.take(*_NAMES)
    elif runtime is None or _MODEL_NAME in canonical(probes):
        args.take(*_NAMES)
        draft.former_names.add(called)
        sentence = f"requests must use the model name {draft.name}, as the Deployment, instead of {called}."
        server.at("args").remark(sentence)


def port(runtime: Runtime | None, server: Field, args: Arguments, draft: Draft) -> int:
    """The port on which the server listens, as the user's arguments change it."""
    number = runtimes.port(runtime, server, draft) if runtime is not None else None
    if runtime is None or number is None:
        return PORT
    for word in _own_arguments(runtime):
        flag, _, value = word.partition("=")
        if is_flag(flag) and value == str(number) and (moved := args.find(flag)) is not None:
            return command_line.port_of(moved.value) or number
    return number


def listening(
    runtime: Runtime | None, server: Field, made: dict[str, Any], number: int, draft: Draft
) -> tuple[int, ...]:
    """All ports on which the ``made`` container listens when it is completed: ``number``, and those for other
    protocols."""
    if runtime is None:
        return (number,)
    written = server.value if isinstance(server.value, dict) else {}
    words = [each.value if isinstance(each, Field) else each for each in made.get("args", ())]
    written = {"env": written.get("env"), "command": list_of(written.get("command")), "args": words}
    own = runtimes.container_of(runtime, server, draft)
    merged = arguments.merge(runtime, own, written).fields
    given = {"env": own.get("env"), "ports": [{"containerPort": number}], **merged}
    return serving_port.listening(written, given)


def _tag(made: dict[str, Any], tag: Field, runtime: Runtime) -> None:
    repository = str(runtime.container["image"]).rpartition(":")[0]
    if _OWN_REGISTRY in repository:
        tag.note(f"has no equivalent: runtime {runtime.name} has one version.")
        return
    made["image"] = image = f"{repository}:{tag.text()}"
    tag.remark(f"is the tag of image {image}; runtime {runtime.name} uses its own image.")


def _own_arguments(runtime: Runtime | None) -> list[str]:
    return [] if runtime is None else list(runtime.container.get("args") or [])


def _drop_repeated(own: list[str], args: Arguments, draft: Draft) -> None:
    """Take out the options that the runtime has with the same value."""
    for index, word in enumerate(own):
        if not is_flag(word):
            continue
        flag, equals, value = word.partition("=")
        said = value if equals else next(iter(own[index + 1 : index + 2]), "")
        said = said.replace(_MODEL_NAME, draft.name).replace("$(MODEL_PATH)", MODEL_MOUNT)
        option = args.find(flag)
        if option is not None and option.value == said:
            args.take(flag)


def _word(word: Any, document: Field) -> Any:
    if not isinstance(word, Field) or not isinstance(word.value, str) or "{{" not in word.value:
        return word
    return _expanded(str(word.use()), document)


def _expanded(text: str, document: Field) -> str:
    """A text with the metadata that KServe puts into it; unchanged if it has another expression."""
    try:
        return str(placeholders.replace(text, lambda each: each.value(document.at("metadata").value)))
    except placeholders.UnknownPlaceholderError:
        return text


def _note_hub(server: Field, args: Arguments, draft: Draft) -> None:
    """Say what the server cannot take from the hub itself. The loader takes a token from the Secret that the server
    names, but not from plain text."""
    loaded, _ = models.parse_all(draft.asked.get(MODEL, ""), "")
    uris = [each.uri for each in loaded]
    line = command_line.read({"args": [word.value for word in args.words if isinstance(word, Field)]})
    flag = hub_access.other_repository(line, uris)
    if flag is not None and (option := args.find(flag)) is not None:
        option.words[0].remark(f"names a repository, but the server is offline; add its URI with a folder to {MODEL}.")
    for each in server.at("env").objects():
        if each.at("name").value in hub_access.TOKENS and each.at("value") and any(uri.scheme == "hf" for uri in uris):
            each.remark("the loader does not read it; write the token into a Secret, and name it with secretKeyRef.")
