"""Requests and responses of the inference protocols. Pure.

Sources: the Open Inference Protocol (v2), TensorFlow Serving's REST API (v1), OpenAI's API reference (openai).
"""

import json
from dataclasses import dataclass
from typing import Any

from kubectl_serve import PROGRAM
from kubectl_serve.errors import ServeError
from serve_core.base.json import JsonObject

PROTOCOLS = ("v1", "v2", "openai")

_OPENAI_PATHS = {"messages": "chat/completions", "prompt": "completions", "input": "embeddings"}
"""Required fields of OpenAI's requests, with the path of each."""
_MAX_NAMES = 10
"""Names that a message lists."""

_FLOATS = ("FP32", "FP64")
_INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
_ACCEPTED = {"FP64": _FLOATS, "INT64": (*_INTEGERS, *_FLOATS)}
"""Types of tensors by the type of the values in JSON. JSON has no values for FP16 and BF16."""


@dataclass(frozen=True)
class InferenceRequest:
    path: str
    body: JsonObject
    is_text: bool = False
    """Whether it was made from plain text; then the answer is printed as plain text."""
    shape: tuple[int, ...] | None = None
    """Shape of rows that were wrapped as a tensor; None for a whole request, and for other protocols."""
    metadata_path: str = ""
    """Path of the server's metadata with its input shape, if the protocol has it."""

    @property
    def streams(self) -> bool:
        """Whether the answer is streamed."""
        return self.body.get("stream") is True


@dataclass(frozen=True)
class NamesRequest:
    """The request for the names of a server's models."""

    path: str
    body: JsonObject | None = None
    """``None``: a GET."""


def request(text: str, protocol: str, model: str, base_path: str = "/v1", *, whole: bool = False) -> InferenceRequest:
    """The request for ``text``: an object is sent unchanged, anything else is wrapped for the protocol.

    ``model``: its name in the server. ``base_path``: what OpenAI's paths begin with. ``whole``: the answer to a text
    must not be streamed. Raises ServeError.
    """
    if protocol == "openai":
        return _openai(text, model, base_path, whole)
    data = _data(text)
    if protocol == "v1":
        body = data if isinstance(data, dict) else {"instances": data}
        return InferenceRequest(f"/v1/models/{model}:predict", body)
    path = f"/v2/models/{model}"
    if isinstance(data, dict):
        return InferenceRequest(f"{path}/infer", data)
    wrapped = tensor(data)
    return InferenceRequest(f"{path}/infer", {"inputs": [wrapped]}, shape=tuple(wrapped["shape"]), metadata_path=path)


def names_request(protocol: str, base_path: str) -> NamesRequest | None:
    """The request for the names of a server's models; ``None`` where the protocol has none.

    Sources: OpenAI's "List models"; the model repository extension of the Open Inference Protocol.
    """
    requests = {"openai": NamesRequest(f"{base_path}/models"), "v2": NamesRequest("/v2/repository/index", {})}
    return requests.get(protocol)


def name_in(listed: Any, name: str) -> str:
    """The model's name in the server: ``name`` if it is among the ``listed`` ones or none is, otherwise the only one.

    Adapters do not count. Raises ServeError if there are several.
    """
    entries = listed.get("data") if isinstance(listed, dict) else listed
    found = []
    for each in entries if isinstance(entries, list) else []:
        if isinstance(each, dict) and not each.get("parent") and each.get("state", "READY") in ("READY", ""):
            found += [text for text in (each.get("id") or each.get("name"),) if isinstance(text, str)]
    if name in found or not found:
        return name
    if len(set(found)) > 1:
        raise ServeError(
            f"the server has several models: {', '.join(sorted(set(found))[:_MAX_NAMES])}.", "Add --model-name NAME."
        )
    return found[0]


def check_shape(shape: tuple[int, ...], metadata: Any) -> None:
    """Compare the shape of rows with the only input in a server's metadata (v2).

    Raises ServeError if they certainly differ. Metadata of another form is ignored, and a dimension of -1 is any
    number. A server without a dimension for rows accepts one row.
    """
    wanted = _only_input(metadata).get("shape")
    if not isinstance(wanted, list) or not wanted or not all(isinstance(each, int) for each in wanted):
        return
    if _fits(shape, wanted) or (len(shape) == 2 and shape[0] == 1 and _fits(shape[1:], wanted)):
        return
    raise ServeError(
        f"the data has shape {list(shape)}, and the model takes {wanted}.",
        ("-1 is any number. " if -1 in wanted else "")
        + "Nothing was sent. Correct the data, or write a whole request as a JSON object, which is sent unchanged.",
    )


def as_named(body: JsonObject, metadata: Any) -> JsonObject:
    """The body of wrapped rows, with the name and the numeric type of the only input in a server's metadata (v2).

    Triton and OpenVINO Model Server refuse other names and types.
    """
    only, (rows,) = _only_input(metadata), body["inputs"]
    name, datatype = only.get("name"), only.get("datatype")
    known: JsonObject = {}
    if name and isinstance(name, str):
        known["name"] = name
    if datatype in _ACCEPTED.get(rows["datatype"], ()):
        known["datatype"] = datatype
    return {**body, "inputs": [rows | known]}


def _only_input(metadata: Any) -> JsonObject:
    """The only input in a server's metadata; empty if there are several, or none."""
    inputs = metadata.get("inputs") if isinstance(metadata, dict) else None
    only = inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else None
    return only if isinstance(only, dict) else {}


def _fits(shape: tuple[int, ...], wanted: list[int]) -> bool:
    return len(shape) == len(wanted) and all(most in (-1, each) for each, most in zip(shape, wanted, strict=True))


def _openai(text: str, model: str, base_path: str, whole: bool) -> InferenceRequest:
    """A text becomes a user's chat message; an object gets the model's name if it has none."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if isinstance(data, dict):
        path = next((path for key, path in _OPENAI_PATHS.items() if key in data), _OPENAI_PATHS["messages"])
        return InferenceRequest(f"{base_path}/{path}", {"model": model, **data})
    if isinstance(data, list) and data and all(isinstance(each, dict) and "role" in each for each in data):
        messages = data
    elif text.strip():
        messages = [{"role": "user", "content": text.rstrip("\n")}]
    else:
        raise ServeError("the text is empty.", f"{PROGRAM} predict {model} 'Why is the sky blue?'")
    body = {"model": model, "messages": messages} | ({} if whole else {"stream": True})
    return InferenceRequest(f"{base_path}/{_OPENAI_PATHS['messages']}", body, is_text=True)


def _data(text: str) -> JsonObject | list[Any]:
    """An object, or a non-empty array. Raises ServeError."""
    if not text.strip():
        raise ServeError("there is no data.", "Write rows of numbers, for example '[[5.1, 3.5, 1.4, 0.2]]'.")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ServeError(
            f"the data is not JSON{where}.",
            "Write rows of numbers, for example '[[5.1, 3.5, 1.4, 0.2]]'. Plain text is for --protocol openai.",
        ) from error
    if isinstance(data, dict):
        return data
    if not isinstance(data, list) or not data:
        raise ServeError(
            "the data is neither a JSON array with rows nor a JSON object.",
            "Write rows, for example '[[5.1, 3.5, 1.4, 0.2]]', or a whole request as an object.",
        )
    return data


def tensor(data: list[Any]) -> JsonObject:
    """An array as a tensor of the Open Inference Protocol: shape, type, and flat values.

    A flat array of numbers is one row. Raises ServeError if rows differ in length or type.
    """
    rows = data if isinstance(data[0], list) else [data]
    values: list[Any] = []
    shape = _shape(rows)
    _flatten(rows, shape, values)
    kinds = {_datatype(value) for value in values}
    if kinds == {"INT64", "FP64"}:
        kinds = {"FP64"}
    if len(kinds) != 1:
        raise ServeError(
            f"the data mixes {' and '.join(sorted(kinds))}." if kinds else "the data has no values.",
            "A tensor has one type. Write a whole request as a JSON object to send several.",
        )
    datatype = kinds.pop()
    if datatype == "FP64":
        values = [float(value) for value in values]
    return {"name": "input-0", "shape": shape, "datatype": datatype, "data": values}


def _shape(rows: list[Any]) -> list[int]:
    shape = []
    node: Any = rows
    while isinstance(node, list):
        shape.append(len(node))
        node = node[0] if node else None
    return shape


def _flatten(node: list[Any], shape: list[int], values: list[Any]) -> None:
    if len(node) != shape[0] or any(isinstance(each, list) != (len(shape) > 1) for each in node):
        raise ServeError("the rows of the data differ in length.", "Every row needs the same number of values.")
    for each in node:
        if len(shape) > 1:
            _flatten(each, shape[1:], values)
        else:
            values.append(each)


def _datatype(value: object) -> str:
    if isinstance(value, bool):
        return "BOOL"
    if isinstance(value, int):
        return "INT64"
    if isinstance(value, float):
        return "FP64"
    if isinstance(value, str):
        return "BYTES"
    raise ServeError(
        f"the data contains {json.dumps(value)}, which cannot be a value of a tensor.",
        "Use numbers, strings and booleans.",
    )


@dataclass(frozen=True)
class Piece:
    """The content of one event of a streamed answer."""

    text: str = ""
    finish: str | None = None
    """Why the model stopped: ``stop``, ``length``, ..."""
    fault: str | None = None
    """An error during the answer."""
    last: bool = False


def piece(line: str) -> Piece:
    """The content of one line of server-sent events. Lines in another form than OpenAI's have none."""
    field, _, value = line.partition(":")
    if field != "data":
        return Piece()
    if value.strip() == "[DONE]":
        return Piece(last=True)
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        return Piece()
    if isinstance(document, dict) and document.get("error"):
        return Piece(fault=_error_text(document["error"]))
    return _first(document)


def answer_text(document: Any) -> str | None:
    """The text of a whole answer of OpenAI's API; None if it is not such an answer."""
    found = _first(document)
    return found.text if found.text or found.finish else None


def _first(document: Any) -> Piece:
    """The text of the first choice of an answer (``message``), of an event (``delta``), or of a completion
    (``text``)."""
    choices = document.get("choices") if isinstance(document, dict) else None
    listed = [each for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []
    first = next((each for each in listed if each.get("index", 0) == 0), {})
    said: JsonObject = next((first[key] for key in ("delta", "message") if isinstance(first.get(key), dict)), {})
    texts = [text for text in (said.get("content"), first.get("text")) if isinstance(text, str)]
    finish = first.get("finish_reason")
    return Piece("".join(texts), finish if isinstance(finish, str) else None)


def fault(status: int, answer: str) -> str:
    """The error message of the model server, or of a proxy in front of it."""
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        for key in ("error", "detail", "message"):
            if document.get(key):
                return _error_text(document[key])
    return answer.strip()[:2000] or f"an empty answer with status {status}"


def _error_text(error: Any) -> str:
    """OpenAI's errors are objects with a message; others are texts."""
    return str(error["message"]) if isinstance(error, dict) and error.get("message") else str(error)


def hint(status: int, name: str, asked: InferenceRequest) -> str:
    """A hint for an HTTP status. ``name``: the model, with the flags that commands about it need."""
    if status == 404:
        return (
            f"Check the protocol: --protocol {'|'.join(PROTOCOLS)} sets it, --path sets another path, --model-name the "
            "model's name in the server. "
            "Some ingresses have no route to a model in the first seconds after it becomes ready."
        )
    if status == 400 and asked.is_text:
        return """Text is sent as a chat. Without a chat template, send a completion: '{"prompt": "Once upon a"}'."""
    if status in (400, 415, 422):
        return "The model server rejects the data: check its shape and types. An object is sent unchanged."
    if status in (401, 403):
        return "The model, or a proxy in front of it, requires credentials."
    if status in (502, 503, 504):
        return f"The model did not start, or did not respond in time: `{PROGRAM} describe {name}` shows why."
    return f"`{PROGRAM} logs {name}` shows the log of the model server."
