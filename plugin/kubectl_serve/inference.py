"""What is sent to a model, and what comes back, in the protocols' own forms. Pure.

Sources: the Open Inference Protocol (v2), TensorFlow Serving's REST API (v1).
"""

import json
from typing import Any

from kubectl_serve.errors import ServeError
from kubectl_serve.verbs import PROGRAM
from serve_core.json import JsonObject

PROTOCOLS = ("v1", "v2")


def path(protocol: str, model: str) -> str:
    return f"/v1/models/{model}:predict" if protocol == "v1" else f"/v2/models/{model}/infer"


def body(text: str, protocol: str) -> JsonObject:
    """The request of ``text``: an object is sent as it is, an array is wrapped as the protocol wants it.

    Raises ServeError.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ServeError(
            f"the data is not JSON{where}.", "Write rows of numbers, for example '[[5.1, 3.5, 1.4, 0.2]]'."
        ) from error
    if isinstance(data, dict):
        return data
    if not isinstance(data, list) or not data:
        raise ServeError(
            "the data is neither a JSON array with rows nor a JSON object.",
            "Write rows, for example '[[5.1, 3.5, 1.4, 0.2]]', or a whole request as an object.",
        )
    if protocol == "v1":
        return {"instances": data}
    return {"inputs": [tensor(data)]}


def tensor(data: list[Any]) -> JsonObject:
    """An array as a tensor of the Open Inference Protocol: its shape, its type, and its values in one row.

    A single row of numbers is one row with that many columns. Raises ServeError where rows differ in length or type.
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
        f"the data holds {json.dumps(value)}, which is no value of a tensor.", "Numbers, texts and booleans are."
    )


def fault(status: int, answer: str) -> str:
    """What the model server, or what stands before it, says went wrong."""
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        for key in ("error", "detail", "message"):
            if document.get(key):
                return str(document[key])
    return answer.strip()[:2000] or f"an empty answer with status {status}"


def hint(status: int, name: str) -> str:
    """What to do about a status. ``name``: the model, with the flags that commands about it need."""
    if status == 404:
        return (
            "Is it the right protocol? --protocol v1|v2 chooses it, --path names another path. "
            "Right after a model became ready, some ingresses have no route to it for a few seconds."
        )
    if status in (400, 415, 422):
        return "The model server refuses the data: check its shape and types. An object is sent as it is."
    if status in (401, 403):
        return "Something before the model asks for credentials."
    if status in (502, 503, 504):
        return f"The model could not be started or did not answer in time: `{PROGRAM} describe {name}` shows why."
    return f"`{PROGRAM} logs {name}` shows what the model server says."
