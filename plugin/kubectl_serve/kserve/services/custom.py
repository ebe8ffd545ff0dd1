"""A predictor of containers alone: one of them is the user's own model server. Pure."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.base.names import PORT, SERVER, STORAGE_URI, TRANSFORMER
from kubectl_serve.kserve.services import container as containers
from kubectl_serve.kserve.services import model
from serve_core.api import servers
from serve_core.api.annotations import CUSTOM, MODEL, MOUNT, RUNTIME
from serve_core.api.annotations import PORT as PORT_ANNOTATION
from serve_core.base.constants import MODEL_MOUNT
from serve_core.workload import command_line, serving_port

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REPOSITORY_FLAGS = (
    "--model_id", "--model-id", "--hf_model_id", "--hf-model-id", "--model_name_or_path", "--model-name-or-path",
    "--model",
)  # fmt: skip
_REPOSITORY_VARIABLES = ("MODEL_ID", "HF_MODEL_ID", "MODEL_NAME_OR_PATH")
"""Where servers that are not known usually read the repository of a hub."""
_NAMED_BY_KNATIVE = ("http1", "h2c")
"""The names of a port in a Knative Service."""
_STORED = re.compile(r"(?:s3|gs|hf)://[^\s,;]+", re.ASCII)
"""The URI of a model in a store that many servers read themselves."""
_OF_A_MODEL = re.compile(r"MODEL|STORAGE", re.ASCII | re.IGNORECASE)
"""Part of the name of a flag or variable that has such a URI."""
_DOWNLOADS = (
    "If the server downloads a model, write its URI into the variable STORAGE_URI, and convert it again: it becomes "
    f"{MODEL}."
)
_PLAIN = (
    "name no model to load, so the image contains it: this becomes a plain {kind}, which kubectl-serve does not "
    f"change, and policies on models do not see. {_DOWNLOADS}"
)


@dataclass
class Custom:
    """The containers of a predictor."""

    server: dict[str, Any]
    port: int
    """Of the requests."""
    listening: tuple[int, ...]
    """All ports on which the server listens."""
    beside: list[Field]
    """The other containers."""


def read(predictor: Field, draft: Draft) -> Custom | None:
    """The containers; ``None``, with a note, if there are none. If none names a model, the draft becomes plain."""
    elements = predictor.at("containers").objects()
    if not elements:
        predictor.remark("names no model to load.")
        return None
    draft.asked[RUNTIME] = CUSTOM
    server = min(elements, key=lambda each: (each.at("name").value != SERVER, each.at("name").value == TRANSFORMER))
    for each in elements:
        containers.check(each)
        for variable in each.at("env").objects():
            if variable.at("name").value == STORAGE_URI:
                model.read_uri(variable.at("value"), draft)
    if MODEL not in draft.asked:
        _read_own_download(server, draft)
    stored = [] if MODEL in draft.asked else _stored(server, draft)
    if MODEL not in draft.asked:
        _become_plain(predictor, draft)
    made = container(server, draft) | _with_path(server, stored, draft)
    beside = [each for each in elements if each is not server]
    if beside or not server.at("name"):
        made = containers.name_server(made)
    if not any(each.at("ports") for each in elements):
        made["ports"] = [{"containerPort": PORT}]
    port = containers.port_of(server)
    if len(server.at("ports").objects()) > 1:
        draft.asked[PORT_ANNOTATION] = str(port)  # of several, KServe takes the first
    if (chosen := _note_ports(server, port, draft)) is not None:
        made["ports"] = [chosen]
    return Custom(made, port, _listening(server, port), beside)


def _listening(server: Field, port: int) -> tuple[int, ...]:
    """All ports of a server that gets its requests on ``port``."""
    with_http = any(containers.is_for_grpc(each) for each in server.at("ports").objects())
    # KServe's servers for gRPC listen on the default port for HTTP too.
    return (port, *serving_port.listening(server.value, {}), *((PORT,) if with_http else ()))


def _become_plain(predictor: Field, draft: Draft) -> None:
    draft.is_plain = True
    kind = "Deployment with a Service" if draft.without_knative else "Knative Service"
    predictor.at("containers").remark(_PLAIN.format(kind=kind))


def _note_ports(server: Field, port: int, draft: Draft) -> Field | None:
    """Report what becomes of the ports of a server that listens on ``port``. Returns the only one that is kept, where
    the server becomes a plain Knative Service and declares it."""
    ports = server.at("ports").objects()
    if draft.without_knative or not draft.is_plain:
        if len(ports) > 1:
            containers.note_further_ports(server)
        return None
    chosen = next((each for each in ports if len(ports) == 1 or each.at("containerPort").value == port), None)
    for each in ports:
        if each is not chosen:
            each.note(f"has no effect: Knative sends requests to one port, and that is {port}.")
    if chosen is not None and (name := chosen.at("name")).value not in (None, *_NAMED_BY_KNATIVE):
        name.note("Knative takes only the names http1 and h2c: grpc becomes h2c, and others are left out.")
    return chosen


def container(written: Field, draft: Draft) -> dict[str, Any]:
    """A container, with the path of the loaded model."""
    made = containers.read(written)
    if "env" in made:
        made["env"] = [_variable(each, draft) for each in written.at("env").objects()]
    return made


def _variable(variable: Field, draft: Draft) -> Any:
    """A variable. KServe replaces the model's URI by the path of the loaded model."""
    if variable.at("name").value != STORAGE_URI or not variable.at("value"):
        return variable
    variable.at("name").use()
    return {"name": STORAGE_URI, "value": draft.asked.get(MOUNT, MODEL_MOUNT)}


def _read_own_download(server: Field, draft: Draft) -> None:
    """The repository that a known server downloads itself. It finds the loaded model by that name."""
    line = command_line.read(server.value)
    known = servers.recognize(str(server.at("image").value or ""), line.words, draft.context.servers)
    if known is not None and not known.hub_cache:
        return
    flags = _REPOSITORY_FLAGS if known is None else known.model_flags
    variables = _REPOSITORY_VARIABLES if known is None else known.model_variables
    said = (
        line.flag(*flags),
        *(line.variables.get(name) for name in variables),
        *(word for before, word in pairwise(line.words) if before == "serve"),  # vllm serve MODEL
    )
    named = next((each for each in said if each is not None and _REPOSITORY.fullmatch(each)), None)
    if named is not None:
        draft.asked[MODEL] = model.of_hub(named, line.flag("--revision"))
        if known is None:
            server.remark(f"{named} is read as a repository of a hub; the loader downloads it instead of the server.")
        else:
            server.remark("the loader downloads the model instead of the server.")


def _stored(server: Field, draft: Draft) -> list[Field]:
    """The arguments and values of variables with the one URI that the server reads itself; none if there are
    several."""
    found: list[Field] = []
    flag = ""
    for word in server.at("args").elements():
        text = str(word.value)
        name, _, value = text.partition("=") if text.startswith("-") else (flag, "", text)
        if _OF_A_MODEL.search(name) and _STORED.fullmatch(value):
            found.append(word)
        flag = text if text.startswith("-") else ""
    for variable in server.at("env").objects():
        given = variable.at("value")
        if _OF_A_MODEL.search(str(variable.at("name").value)) and _STORED.fullmatch(str(given.value)):
            found.append(given)
    uris = {_uri_in(each) for each in found}
    if len(uris) != 1:
        return []
    draft.asked[MODEL] = model.source(uris.pop()).uri
    return found


def _with_path(server: Field, stored: list[Field], draft: Draft) -> dict[str, Any]:
    """The fields of the container that name its model, with the path of the loaded one."""
    path = draft.asked.get(MOUNT, MODEL_MOUNT)
    texts = {}
    for each in stored:
        texts[each.steps] = str(each.use()).replace(_uri_in(each), path)
        each.remark(f"is the path {path} here: the loader downloads the model instead of the server.")
    made: dict[str, Any] = {}
    if any(each.steps in texts for each in server.at("args").elements()):
        made["args"] = [texts.get(each.steps, each) for each in server.at("args").elements()]
    if any(each.at("value").steps in texts for each in server.at("env").objects()):
        made["env"] = [
            {**each.entries(), "value": texts[each.at("value").steps]} if each.at("value").steps in texts else each
            for each in server.at("env").objects()
        ]
    return made


def _uri_in(field: Field) -> str:
    text = str(field.value)
    return text.partition("=")[2] if text.startswith("-") else text
