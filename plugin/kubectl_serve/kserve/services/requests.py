"""How requests reach a predictor: timeout, concurrency, canary, and what KServe puts in front of it. Pure.

Called after the containers are read: only kubectl-serve knows the previous revision of a canary.
"""

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.draft import Draft
from serve_core.api.annotations import CANARY, CONCURRENCY, PIN, TIMEOUT

_ONLY_KNATIVE = "has no effect in mode deployment: only Knative implements it."
_NO_SHARE = "has no equivalent: write spec.traffic of the Knative Service, with the name of its previous revision."
_WITHOUT_EQUIVALENT = {
    "batcher": "batch in the model server",
    "logger": "use the logs of the model server or of the mesh",
}


def read(predictor: Field, draft: Draft) -> None:
    for key, instead in _WITHOUT_EQUIVALENT.items():
        predictor.at(key).note(f"has no equivalent; {instead}.")
    timeout, concurrency = predictor.at("timeout"), predictor.at("containerConcurrency")
    percent, strategy = predictor.at("canaryTrafficPercent"), predictor.at("deploymentStrategy")
    if draft.without_knative:
        for each in (timeout, concurrency, percent):
            each.note(_ONLY_KNATIVE)
        if strategy:
            draft.spec["strategy"] = strategy
        return
    strategy.note("has no effect: Knative moves the traffic to a new revision when that is ready.")
    if (seconds := timeout.number()) is not None:
        draft.asked[TIMEOUT] = f"{seconds}s"
    if (number := concurrency.number()) is not None:
        draft.asked[CONCURRENCY] = str(number)
    if draft.is_plain and percent.value != 100:
        percent.note(_NO_SHARE)
    elif percent.value == 0:
        percent.note(f"0 keeps all traffic on the previous revision; set {PIN} to its name.")
    elif (share := percent.number()) not in (None, 100):
        draft.asked[CANARY] = f"{share}%"
