"""KServe's InferenceService of v1beta1: its names, and whether a document has its shape. Pure.

Source: KServe 0.20, ``pkg/apis/serving/v1beta1``.
"""

from dataclasses import dataclass
from types import NoneType
from typing import Any

from serve_core.base.json import JsonObject

GROUP = "serving.kserve.io"
VERSION = f"{GROUP}/v1beta1"
KIND = "InferenceService"

FRAMEWORKS = (
    "sklearn", "xgboost", "lightgbm", "tensorflow", "pytorch", "onnx", "triton", "huggingface", "pmml", "paddle",
)  # fmt: skip
"""Fields of a predictor in the old form, one for each framework."""
PREDICTOR = "spec.predictor"


@dataclass(frozen=True, order=True)
class Note:
    """A field without equivalent, or with another meaning than before."""

    path: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.path}: {self.sentence}"


_SHAPES: dict[str, type] = {"an object": dict, "a list": list, "a string; put it into quotes": str}


def malformed(document: JsonObject) -> list[Note]:
    """The fields that have another type than the conversion needs."""
    found: list[Note] = []

    def expect(owner: JsonObject, path: str, what: str, *keys: str) -> None:
        found.extend(
            Note(f"{path}.{key}".lstrip("."), f"is not {what}.")
            for key in keys
            if not isinstance(owner.get(key), (_SHAPES[what], NoneType))
        )

    def container(each: Any, path: str) -> None:
        if not isinstance(each, dict):
            found.append(Note(path, "is not an object."))
            return
        expect(each, path, "a list", "env", "args", "ports", "volumeMounts")
        expect(each, path, "an object", "resources", "modelFormat", "storage")
        expect(each, path, "a string; put it into quotes", "runtime", "protocolVersion", "storageUri", "image")
        found.extend(
            Note(f"{path}.{key}[{index}]", "is not an object.")
            for key in ("env", "ports", "volumeMounts")
            for index, entry in enumerate(_list(each, key))
            if not isinstance(entry, dict)
        )
        expect(_dict(each, "resources"), f"{path}.resources", "an object", "limits", "requests")
        expect(_dict(each, "storage"), f"{path}.storage", "an object", "parameters")

    expect(document, "", "an object", "metadata", "spec")
    metadata, predictor = _dict(document, "metadata"), _dict(_dict(document, "spec"), "predictor")
    expect(_dict(document, "spec"), "spec", "an object", "predictor")
    expect(metadata, "metadata", "an object", "labels", "annotations")
    expect(predictor, PREDICTOR, "an object", "annotations", "model")
    expect(predictor, PREDICTOR, "a list", "containers", "storageUris")
    for index, each in enumerate(_list(predictor, "storageUris")):
        if not isinstance(each, dict):
            found.append(Note(f"{PREDICTOR}.storageUris[{index}]", "is not an object."))
            continue
        expect(each, f"{PREDICTOR}.storageUris[{index}]", "a string; put it into quotes", "uri", "mountPath")
    for key in ("labels", "annotations"):
        texts = _dict(metadata, key)
        expect(texts, f"metadata.{key}", "a string; put it into quotes", *texts)
    for name in (*FRAMEWORKS, "model"):
        if isinstance(predictor.get(name), dict):
            container(predictor[name], f"{PREDICTOR}.{name}")
    for index, each in enumerate(_list(predictor, "containers")):
        container(each, f"{PREDICTOR}.containers[{index}]")
    return found


def _dict(owner: JsonObject, key: str) -> JsonObject:
    value: Any = owner.get(key)
    return value if isinstance(value, dict) else {}


def _list(owner: JsonObject, key: str) -> list[Any]:
    value: Any = owner.get(key)
    return value if isinstance(value, list) else []
