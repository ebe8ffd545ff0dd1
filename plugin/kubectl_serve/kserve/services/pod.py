"""The pod of a predictor: every field beside its containers. Pure."""

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.draft import Draft
from serve_core.knative import fields

_FIELDS = frozenset({*fields.POD, "initContainers", "terminationGracePeriodSeconds"})
"""Fields of a pod in Kubernetes. Knative takes some of them; admission says which it does not."""


def read(predictor: Field, draft: Draft) -> None:
    for key, each in predictor.entries().items():
        if key == "nodeSelector":
            draft.pod[key] = draft.pod.get(key, {}) | dict(each.entries())
        elif key == "serviceAccount" and predictor.at("serviceAccountName").value in (None, each.value):
            draft.pod["serviceAccountName"] = each
        elif key in _FIELDS:
            draft.pod[key] = each
    for key in ("initContainers", "volumes", "imagePullSecrets"):
        predictor.at(key).objects()
