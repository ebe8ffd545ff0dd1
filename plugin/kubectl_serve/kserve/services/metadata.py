"""Metadata of an InferenceService: its labels and annotations, each in the place where it has the same effect. Pure.

Source: KServe 0.20, ``pkg/constants/constants.go`` and ``pkg/controller/v1beta1/inferenceservice``.
"""

import re

from kubectl_serve.kserve.base.accounting import Field
from kubectl_serve.kserve.base.draft import Draft
from kubectl_serve.kserve.base.names import FORMER_GROUP, GROUP, READ_ONLY, STORAGE_SECRETS
from serve_core.api.annotations import DEPLOYMENT, MODE, VISIBILITY
from serve_core.knative.limits import AUTOSCALING, VISIBILITY_LABEL, is_for_the_service

_VISIBILITY_WITHOUT_KNATIVE = "networking.kserve.io/visibility"
_CLUSTER_LOCAL = "cluster-local"
_STORED = (
    "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "generation", "managedFields",
    "resourceVersion", "selfLink", "uid",
)  # fmt: skip
"""Fields that the API server sets."""
_FINALIZER = "inferenceservice.finalizers"
_INTERNAL = f"internal.{GROUP}/"
"""Prefix of what KServe itself writes."""
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_OF_KNATIVE = "knative.dev"
"""End of the domains of Knative's annotations."""
_OWN = (f"{GROUP}/", f"{FORMER_GROUP}/", "storage.kserve.io/", "prometheus.kserve.io/", "networking.kserve.io/")
_MODEL_FORMAT = "modelFormat"
_PASSTHROUGH = "serving.knative.openshift.io/enablePassthrough"
_OF_THE_OBJECT = (
    "argocd.argoproj.io/", "argocd-image-updater.argoproj.io/", "config.kubernetes.io/", "fluxcd.io/", "helm.sh/",
    "helm.toolkit.fluxcd.io/", "internal.config.kubernetes.io/", "kapp.k14s.io/", "keel.sh/", "kubernetes.io/",
    "kustomize.toolkit.fluxcd.io/", "meta.helm.sh/", "openshift.io/", "reloader.stakater.com/",
)  # fmt: skip
"""Prefixes of annotations that GitOps and other tools read on the object that they apply, not on its pods."""
_WITHOUT_KNATIVE, _WITH_KNATIVE = ("RawDeployment", "Standard"), ("Serverless", "Knative")
_DEFAULTS = {
    ("enable-metric-aggregation", "false"), ("enable-prometheus-scraping", "false"), ("enable-tag-routing", "false"),
    ("stop", "false"),
}  # fmt: skip
"""Annotations of KServe with the default behaviour."""
_WHY_NOT = {
    "stop": "has no equivalent: the model runs as soon as the Deployment is applied.",
}
_GATED = {
    "security.opendatahub.io/enable-auth": "does not protect the model here; set kubectl-serve.dev/auth.",
    _PASSTHROUGH: "has no equivalent; kubectl-serve does not write it on the Knative Service.",
}
"""Annotations of others that would lose their effect on the pods."""


def read_mode(document: Field, draft: Draft) -> None:
    """The deployment mode. KServe records the one in use in the status, and keeps it when the annotation changes."""
    written = document.at("metadata", "annotations", f"{GROUP}/deploymentMode")
    mode = document.at("status", "deploymentMode").value or written.value
    if mode in _WITHOUT_KNATIVE:
        draft.asked[MODE] = DEPLOYMENT
    if written.value in (*_WITHOUT_KNATIVE, *_WITH_KNATIVE):
        written.use()
    elif written.value == "ModelMesh":
        written.refuse("has no equivalent; serve each model with its own Deployment.")


def read(document: Field, draft: Draft) -> dict[str, Field]:
    """Name, labels and annotations. Returns those for Knative's autoscaler, by name in Knative's present spelling."""
    metadata, predictor = document.at("metadata"), document.at("spec", "predictor")
    for key, each in metadata.entries().items():
        if key in ("name", "namespace"):
            draft.metadata[key] = each
        elif key in _STORED:
            each.use()
        elif key == "finalizers":
            _finalizers(each)
    _labels(metadata.at("labels").entries(), predictor.at("labels").entries(), draft)
    return _annotations(metadata.at("annotations").entries(), predictor.at("annotations").entries(), draft)


def _finalizers(finalizers: Field) -> None:
    for each in finalizers.elements():
        if each.value == _FINALIZER:
            each.use()


def _labels(own: dict[str, Field], of_pods: dict[str, Field], draft: Draft) -> None:
    for key, each in (own | of_pods).items():
        if not each.is_text():
            continue
        if key in (VISIBILITY_LABEL, _VISIBILITY_WITHOUT_KNATIVE):
            _visibility(key, each, draft)
        elif key.startswith(_INTERNAL):
            each.use()
        else:
            if key in own:
                draft.labels[key] = own[key]
            draft.template_labels[key] = each


def _visibility(key: str, label: Field, draft: Draft) -> None:
    if draft.without_knative:
        label.note("has no effect in mode deployment: clients outside the cluster reach it only if you add an Ingress.")
    elif key == VISIBILITY_LABEL:
        draft.asked[VISIBILITY] = str(label.use())
    elif label.value == _CLUSTER_LOCAL:
        # With Knative, KServe reads Knative's label.
        draft.asked.setdefault(VISIBILITY, _CLUSTER_LOCAL)
        label.use()
    else:
        label.note("has no equivalent.")


def _annotations(own: dict[str, Field], of_pods: dict[str, Field], draft: Draft) -> dict[str, Field]:
    autoscaling: dict[str, Field] = {}
    for key, each in own.items():
        other = of_pods.get(key, each)
        if other.value != each.value:
            each.note(f"is overridden by {other.path}.")
        elif other is not each:
            each.use()
    for key, each in (own | of_pods).items():
        if not each.is_text():
            continue
        if key == _LAST_APPLIED or key.startswith(_INTERNAL):
            each.use()  # written by kubectl and by KServe
        elif key.startswith(AUTOSCALING):
            autoscaling[hyphenated(key.removeprefix(AUTOSCALING))] = each
        elif key == _MODEL_FORMAT or key.startswith(_OWN):
            _of_kserve(key, each, draft)
        elif key in _GATED:
            each.note(_GATED[key])
        elif draft.without_knative and key.partition("/")[0].endswith(_OF_KNATIVE):
            each.note("has no effect in mode deployment: only Knative reads it.")
        elif is_for_the_service(key) or (key in own and _is_of_the_object(key)):
            draft.annotations[key] = each
        else:
            draft.template_annotations[key] = each
    return autoscaling


def hyphenated(name: str) -> str:
    """Knative's present spelling of a name that it also reads in camel case."""
    return re.sub("[A-Z]", lambda letter: f"-{letter[0].lower()}", name)


def _is_of_the_object(key: str) -> bool:
    return "/" not in key or key.startswith(_OF_THE_OBJECT)


def _of_kserve(key: str, annotation: Field, draft: Draft) -> None:
    name = key.removeprefix(f"{GROUP}/")
    if name in ("deploymentMode", "autoscalerClass", _MODEL_FORMAT, READ_ONLY) or key in STORAGE_SECRETS:
        return  # read elsewhere
    if name == "gke-accelerator":
        draft.pod["nodeSelector"] = {"cloud.google.com/gke-accelerator": annotation}
    elif (name, annotation.value) in _DEFAULTS:
        annotation.use()
    else:
        annotation.note(_WHY_NOT.get(name, "has no equivalent."))
