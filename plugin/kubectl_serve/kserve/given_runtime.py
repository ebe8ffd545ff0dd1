"""A predictor's ServingRuntime among the same files: its ModelRuntime, and what it gives to the Deployment. Pure.

Source: KServe 0.20, ``MergePodSpec`` and ``MergeRuntimeContainers`` in
``pkg/controller/v1beta1/inferenceservice/utils/utils.go``: the InferenceService comes last.
"""

from collections.abc import Iterable
from typing import Any

from kubectl_serve.kserve import serving_runtime
from kubectl_serve.kserve.accounting import Field
from kubectl_serve.kserve.draft import Draft
from kubectl_serve.kserve.serving_runtime import ConvertedRuntime
from serve_core.base.json import JsonObject

_BY_NAME = ("volumes", "imagePullSecrets", "resourceClaims")
"""Lists of a pod that are merged by name."""


def of(server: Field, framework: str, draft: Draft) -> ConvertedRuntime | None:
    """The ServingRuntime that KServe uses for the model of a predictor."""
    named, protocol = server.at("runtime").value, server.at("protocolVersion").value
    name, version = server.at("modelFormat", "name").value, server.at("modelFormat", "version").value
    namespace = draft.metadata.get("namespace")
    return serving_runtime.choose(
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
    added = serving_runtime.additions(chosen, metadata, framework or str(name), str(protocol) if protocol else None)
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
        elif key == "nodeSelector":
            draft.pod[key] = {**value, **(dict(present.entries()) if isinstance(present, Field) else present)}
    draft.template_labels = {**added.labels, **draft.template_labels}
    draft.template_annotations = {**added.annotations, **draft.template_annotations}
    return beside


def _joined(present: Any, added: Iterable[JsonObject], key: str) -> list[Any]:
    """The elements of both lists; of two with one key, the present one stays."""
    own: list[Any] = present.objects() if isinstance(present, Field) else list(present or [])
    names = {each.at(key).value if isinstance(each, Field) else each.get(key) for each in own}
    return [*(each for each in added if each.get(key) not in names), *own]
