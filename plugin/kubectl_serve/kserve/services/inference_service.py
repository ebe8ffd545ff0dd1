"""An InferenceService as an annotated Deployment. Pure.

Every field is translated, copied, or reported in a note; :mod:`kubectl_serve.kserve.base.accounting` proves it. Source:
KServe 0.20, ``pkg/apis/serving/v1beta1`` (fields, defaults, and the runtimes of the old form with a field for each
framework).
"""

from collections.abc import Sequence
from typing import Any

from kubectl_serve.kserve.base.accounting import Field, Ledger
from kubectl_serve.kserve.base.arguments import Arguments
from kubectl_serve.kserve.base.converted import Converted
from kubectl_serve.kserve.base.converted_runtime import ConvertedRuntime
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.base.names import FRAMEWORKS, SERVER, TRANSFORMER
from kubectl_serve.kserve.runtimes import given_runtime
from kubectl_serve.kserve.services import container as containers
from kubectl_serve.kserve.services import (
    credentials,
    custom,
    metadata,
    model,
    plain,
    pod,
    requests,
    runtime,
    scaling,
    server,
    transformer,
)
from serve_core.admission.decide import judge
from serve_core.api.annotations import FORMAT, MODEL, PORT
from serve_core.base.constants import SERVER_CONTAINER
from serve_core.base.json import JsonObject
from serve_core.context.cluster import ClusterContext

_HUB_FORMAT = "huggingface"


def convert(
    document: JsonObject,
    context: ClusterContext,
    found: Sequence[ConvertedRuntime] = (),
    others: Sequence[JsonObject] = (),
) -> Converted:
    """The Deployment that serves the model of an InferenceService, or plain objects if its image contains the model.

    ``found``: the ServingRuntimes among the same files. ``others``: objects of Kubernetes itself there. The input is
    not changed.
    """
    ledger = Ledger(document)
    root = ledger.root
    draft = Draft(context, str(root.at("metadata", "name").value), found, others)
    for key in ("apiVersion", "kind", "status"):
        root.at(key).use()
    metadata.read_mode(root, draft)
    autoscaling = metadata.read(root, draft)
    spec, predictor = root.at("spec"), root.at("spec", "predictor")
    spec.entries()
    predictor.entries()
    scaling.read(root, autoscaling, draft)
    _refuse_others(spec)
    pod.read(predictor, draft)
    made = _containers(root, draft)
    if made:
        draft.pod["containers"] = made
    requests.read(predictor, draft)
    if not draft.is_plain:
        credentials.read(root, predictor, draft)
        model.read_access(root, draft)
    deployment = ledger.settled(draft.deployment())
    ledger.report()
    if ledger.faults:
        return Converted(None, tuple(ledger.faults))
    notes = tuple(sorted(ledger.notes))
    if ledger.refused or not (MODEL in draft.asked or draft.is_plain):
        return Converted(None, notes)
    if draft.is_plain:
        return plain.convert(deployment, notes, context)
    return Converted(deployment, notes, judge(deployment, context).problems)


def _refuse_others(spec: Field) -> None:
    spec.at("explainer").note("has no equivalent; serve the explainer as a separate Deployment.")
    spec.at("predictor", "workerSpec").refuse(
        "has no equivalent; kubectl-serve does not serve models across several nodes."
    )
    for name in (*FRAMEWORKS, "model"):
        confidential = spec.at("predictor", name, "confidential")
        if confidential.at("enabled").value is True:
            confidential.refuse("has no equivalent; the loader does not decrypt models.")


def _containers(root: Field, draft: Draft) -> list[dict[str, Any]]:
    """All containers of the pod; none if the runtime's alone runs there, unchanged."""
    predictor, separate = root.at("spec", "predictor"), root.at("spec", "transformer")
    framework = next((name for name in FRAMEWORKS if predictor.at(name)), "")
    served = predictor.at(framework or "model")
    model.read_uris(predictor, draft, of_catalogue=bool(served))
    beside = predictor.at("containers").objects()
    given: list[JsonObject] = []
    if served:
        main, behind, given = _model_server(served, framework, root, draft)
        for each in beside:
            containers.check(each)
            if each.at("name").value == SERVER:
                each.refuse("a predictor with a model cannot have this container.")
    else:
        own = custom.read(predictor, draft)
        if own is None:
            return []
        main, behind, beside = own.server, transformer.Server(own.port, own.listening), own.beside
    in_front = [each for each in beside if each.at("name").value == TRANSFORMER]
    others = [custom.container(each, draft) for each in beside if each not in in_front]
    fronts = [transformer.in_front(each, behind, draft) for each in in_front]
    if separate:
        fronts += transformer.component(separate, behind, draft)
    if fronts:
        main = _behind(main)
        if not served:
            draft.asked[PORT] = str(transformer.port_of(fronts[0]))
    made = [main, *others, *given, *fronts]
    return [] if served and made == [{"name": SERVER_CONTAINER}] else made


def _behind(server_container: dict[str, Any]) -> dict[str, Any]:
    """A model server without its ports: the container in front of it has the one that gets the requests."""
    ports = server_container.get("ports")
    if isinstance(ports, Field):
        ports.note("is not declared: the transformer gets the requests.")
    return {key: value for key, value in containers.name_server(server_container).items() if key != "ports"}


def _model_server(
    served: Field, framework: str, root: Field, draft: Draft
) -> tuple[dict[str, Any], transformer.Server, list[JsonObject]]:
    """The container of the model server, its ports, and the containers that its ServingRuntime puts beside it."""
    uri, storage = served.at("storageUri"), served.at("storage")
    if uri:
        model.read_uri(uri, draft)
    if storage:
        storage.entries()
        model.read_storage(storage, root, draft)
    chosen = runtime.read(served, framework, draft)
    annotation = root.at("metadata", "annotations", "modelFormat")
    if annotation.value in (framework, served.at("modelFormat", "name").value):
        annotation.use()
    args = Arguments(served.at("args"))
    if draft.asked.get(FORMAT, "").partition(":")[0] == _HUB_FORMAT:
        model.read_hub_arguments(served, args, draft)
    if MODEL not in draft.asked:
        served.remark("names no model that the loader can load.")
    number = server.port(chosen, served, args, draft)
    made = {"name": SERVER_CONTAINER, **server.read(served, args, chosen, root, draft)}
    behind = transformer.Server(number, server.listening(chosen, served, made, number, draft))
    given = given_runtime.of(served, framework, draft)
    beside = given_runtime.add(given, served, framework, made, root, draft) if given is not None else []
    return made, behind, beside
