"""Metadata of an LLMInferenceService. Pure.

Source: KServe 0.20, ``pkg/controller/v1alpha2/llmisvc/workload_single_node.go``: which of it the pods get.
"""

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.base.names import GROUP

_OF_PODS = ("k8s.v1.cni.cncf.io/", "kueue.x-k8s.io/", "prometheus.io/")
"""Annotations and labels that KServe copies to the pods."""
_STORED = (
    "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generation",
    "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid",
)  # fmt: skip
"""Fields that the API server and controllers set."""
_OF_KSERVE = (f"{GROUP}/", "opendatahub.io/")
_WITHOUT_EQUIVALENT = {
    f"{GROUP}/stop": "has no equivalent: the model runs as soon as the Deployment is applied.",
    "security.opendatahub.io/enable-auth": "does not protect the model here; set kubectl-serve.dev/auth.",
}


def read(metadata: Field, spec: Field, draft: Draft) -> None:
    """Name, labels and annotations of the service, and those that its ``spec`` gives to the pods."""
    for key, each in metadata.entries().items():
        if key in ("name", "namespace"):
            draft.metadata[key] = each
        elif key in _STORED:
            each.use()
    draft.labels |= metadata.at("labels").entries()
    draft.template_labels |= {key: each for key, each in draft.labels.items() if key.startswith(_OF_PODS)}
    draft.template_labels |= spec.at("labels").entries()
    for key, each in metadata.at("annotations").entries().items():
        _annotation(key, each, draft)
    for key, each in spec.at("annotations").entries().items():
        if not key.startswith(_OF_KSERVE):
            draft.template_annotations[key] = each


def _annotation(key: str, annotation: Field, draft: Draft) -> None:
    if key == "kubectl.kubernetes.io/last-applied-configuration" or (key, annotation.value) == (
        f"{GROUP}/stop",
        "false",
    ):
        annotation.use()
    elif key in _WITHOUT_EQUIVALENT:
        annotation.note(_WITHOUT_EQUIVALENT[key])
    elif key.startswith(_OF_PODS):
        draft.template_annotations[key] = annotation
    elif not key.startswith(_OF_KSERVE):
        draft.annotations[key] = annotation
