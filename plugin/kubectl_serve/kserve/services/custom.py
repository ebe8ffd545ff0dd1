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
from serve_core.workload import command_line

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass
class Custom:
    """The containers of a predictor."""

    server: dict[str, Any]
    port: int
    """The server's."""
    beside: list[Field]
    """The other containers."""


def read(predictor: Field, draft: Draft) -> Custom | None:
    """The containers; ``None``, with a note, if none of them names a model."""
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
    if MODEL not in draft.asked:
        predictor.at("containers").note(
            "name no model to load (environment variable STORAGE_URI); use a plain Knative Service."
        )
        return None
    made = container(server, draft)
    beside = [each for each in elements if each is not server]
    if beside or not server.at("name"):
        made = containers.name_server(made)
    if not any(each.at("ports") for each in elements):
        made["ports"] = [{"containerPort": PORT}]
    port = containers.port_of(server)
    if len(server.at("ports").objects()) > 1:
        draft.asked[PORT_ANNOTATION] = str(port)  # of several, KServe takes the first
        containers.note_further_ports(server)
    return Custom(made, port, beside)


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
    if known is None or not known.hub_cache:
        return
    said = (
        line.flag(*known.model_flags),
        *(line.variables.get(name) for name in known.model_variables),
        *(word for before, word in pairwise(line.words) if before == "serve"),  # vllm serve MODEL
    )
    named = next((each for each in said if each is not None and _REPOSITORY.fullmatch(each)), None)
    if named is not None:
        draft.asked[MODEL] = model.of_hub(named, line.flag("--revision"))
        server.remark("the loader downloads the model instead of the server.")
