"""A predictor's ServingRuntime among the same files: which one it is, and what it gives to the Deployment. Pure.

Source: KServe 0.20, ``pkg/apis/serving/v1beta1``: ``predictor_model.go`` (the choice),
``inference_service_defaults.go`` (what KServe adds for its own servers);
``pkg/controller/v1beta1/inferenceservice/utils/utils.go`` (``MergePodSpec``, ``MergeRuntimeContainers``: the
InferenceService comes last).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kubectl_serve.kserve.base import placeholders
from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.converted_runtime import ConvertedRuntime
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.base.names import TRANSFORMER
from kubectl_serve.kserve.base.placeholders import UnknownPlaceholderError
from serve_core.base.json import JsonObject, object_at

_BY_NAME = ("volumes", "imagePullSecrets", "resourceClaims")
"""Lists of a pod that are merged by name."""
_BY_KEY = ("nodeSelector", "affinity")
"""Objects of a pod that are merged by key. Of all other fields, those of the InferenceService stay."""
_CLASSES = {
    "xgboost": "mlserver_xgboost.XGBoostModel",
    "lightgbm": "mlserver_lightgbm.LightGBMModel",
    "mlflow": "mlserver_mlflow.MLflowRuntime",
}


@dataclass(frozen=True)
class Additions:
    """What the Deployment of an InferenceService needs beside its ModelRuntime."""

    container: JsonObject
    """Fields of the model server's container."""
    pod: JsonObject
    labels: JsonObject
    annotations: JsonObject
    """Of the pods."""


def of(server: Field, framework: str, draft: Draft) -> ConvertedRuntime | None:
    """The ServingRuntime that KServe uses for the model of a predictor."""
    named, protocol = server.at("runtime").value, server.at("protocolVersion").value
    name, version = server.at("modelFormat", "name").value, server.at("modelFormat", "version").value
    namespace = draft.metadata.get("namespace")
    return choose(
        draft.runtimes,
        str(namespace.value) if isinstance(namespace, Field) and namespace.value else "",
        str(named) if named else None,
        (framework or str(name), None if version is None else str(version)),
        str(protocol) if protocol else None,
    )


def add(
    chosen: ConvertedRuntime, server: Field, framework: str, made: dict[str, Any], root: Field, draft: Draft
) -> list[JsonObject]:
    """Add what the Deployment needs beside the ModelRuntime to the ``made`` container and to the draft; return the
    containers beside it."""
    written = root.at("metadata").value
    metadata: JsonObject = written if isinstance(written, dict) else {}
    name, protocol = server.at("modelFormat", "name").value, server.at("protocolVersion").value
    added = additions(chosen, metadata, framework or str(name), str(protocol) if protocol else None)
    for key, element_key in (("env", "name"), ("volumeMounts", "mountPath")):
        if new := added.container.get(key):
            made[key] = _joined(made.get(key), new, element_key)
    pod = dict(added.pod)
    beside: list[JsonObject] = pod.pop("containers", [])
    for key, value in pod.items():
        present = draft.pod.get(key)
        if present is None:
            draft.pod[key] = value
        elif key in _BY_NAME:
            draft.pod[key] = _joined(present, value, "name")
        elif key in _BY_KEY:
            draft.pod[key] = {**value, **(dict(present.entries()) if isinstance(present, Field) else present)}
    draft.template_labels = {**added.labels, **draft.template_labels}
    draft.template_annotations = {**added.annotations, **draft.template_annotations}
    return beside


def _joined(present: Any, added: Iterable[JsonObject], key: str) -> list[Any]:
    """The elements of both lists; of two with one key, the present one stays."""
    own: list[Any] = present.objects() if isinstance(present, Field) else list(present or [])
    names = {each.at(key).value if isinstance(each, Field) else each.get(key) for each in own}
    return [*(each for each in added if each.get(key) not in names), *own]


def choose(
    found: Sequence[ConvertedRuntime],
    namespace: str,
    named: str | None,
    wanted: tuple[str, str | None],
    protocol: str | None,
) -> ConvertedRuntime | None:
    """The runtime among ``found`` that KServe uses for a model.

    ``named``: the InferenceService's runtime. ``wanted``: name and version of the model's format, in KServe's words.
    """
    # Of two objects, one of which names no namespace, both are taken to be in the same one.
    here = [each for each in found if each.namespace is not None and namespace in ("", each.namespace or namespace)]
    for candidates in (here, [each for each in found if each.namespace is None]):
        able = [
            each
            for each in candidates
            if (each.name == named if named is not None else _selects(each, wanted, protocol or "v1"))
        ]
        if able:
            return min(able, key=lambda each: _rank(each, wanted[0]))
    return None


def _selects(candidate: ConvertedRuntime, wanted: tuple[str, str | None], protocol: str) -> bool:
    name, version = wanted
    return (
        candidate.is_offered
        and (not candidate.protocols or protocol in candidate.protocols)
        and any(
            each.is_selected and each.name == name and (version is None or each.version == version)
            for each in candidate.formats
        )
    )


def _rank(candidate: ConvertedRuntime, name: str) -> tuple[bool, int, str]:
    """The highest priority comes first, then the name. A runtime without a priority comes last."""
    priority = next((each.priority for each in candidate.formats if each.name == name), None)
    return priority is None, -(priority or 0), candidate.name


def additions(chosen: ConvertedRuntime, metadata: JsonObject, wanted: str, protocol: str | None) -> Additions:
    """What the Deployment of an InferenceService with this metadata needs. ``wanted``: the name of its model's format,
    in KServe's words."""
    labels, annotations = dict(object_at(metadata, "labels")), dict(object_at(metadata, "annotations"))
    spoken = protocol or "v1"
    added: list[JsonObject] = []
    if chosen.server_type == "mlserver":
        labels["modelClass"] = _CLASSES.get(wanted, "mlserver_sklearn.SKLearnModel")
    elif chosen.server_type == "torchserve":
        labels["serviceEnvelope"] = "kservev2" if spoken in ("v2", "grpc-v2") else "kserve"
        added = [{"name": "PROTOCOL_VERSION", "value": spoken}]
    elif chosen.server_type == "predictiveserver":
        annotations.setdefault("modelFormat", wanted)
    known = {**metadata, "labels": labels, "annotations": annotations}
    container = placeholders.replace(chosen.container, lambda each: each.value(known))
    if added:
        container["env"] = [*container.get("env", []), *added]
    beside = [_filled(each, known) for each in chosen.pod.get("containers", [])]
    pod = {**chosen.pod, "containers": beside} if beside else chosen.pod
    return Additions(container, pod, chosen.labels, chosen.annotations)


def _filled(container: JsonObject, metadata: JsonObject) -> JsonObject:
    """A container beside the server. KServe fills placeholders only into a transformer."""
    if container.get("name") != TRANSFORMER:
        return container
    try:
        filled: JsonObject = placeholders.replace(container, lambda each: each.value(metadata))
    except UnknownPlaceholderError:
        return container
    return filled
