"""Whether a model can stay on the node for other pods, as an image or in the node cache, and why not.

An image is pulled by the kubelet, as the node's administrator has configured it. Only the loader can do some things:
verify a digest of files or a signature, select files, and go to the store that a policy or the operator names, with its
endpoint and its certificate authority.
"""

from model_uri import find_store
from serve_core.api import runtimes
from serve_core.api.annotations import DEPLOYMENT, DIGEST, FILES, SIGNATURE_KEY
from serve_core.api.serving_spec import ServingSpec
from serve_core.base.constants import LOADER_CONTAINER, MODEL_VOLUME
from serve_core.base.workload import Workload
from serve_core.context.cluster import ClusterContext
from serve_core.knative.features import CSI_VOLUMES, IMAGE_VOLUMES, FeatureNeed
from serve_core.syntax import image_reference
from serve_core.workload import loader_stores, model_image


def why_not(spec: ServingSpec, context: ClusterContext) -> str:
    """Why the cluster does not keep models in the node cache, as a clause; empty if it does."""
    if not context.node_cache:
        return "this cluster keeps no models on its nodes"
    return _flag_missing(CSI_VOLUMES, spec, context)


def prefers_image(spec: ServingSpec, context: ClusterContext) -> bool:
    """Whether an image is the only way in which the model could stay on the node."""
    return spec.model.scheme == "oci" and not context.node_cache


def why_no_image(workload: Workload, spec: ServingSpec, context: ClusterContext) -> str:
    """Why the model cannot be an image on the node, as a clause; empty if it can. ``workload``: without what admission
    fills in."""
    return _of_deployment(workload) or why_never_image(workload, spec, context)


def why_never_image(workload: Workload, spec: ServingSpec, context: ClusterContext) -> str:
    """As :func:`why_no_image`, by the annotations and the cluster alone."""
    uri = spec.model
    if uri.scheme != "oci":
        return "only models at oci:// are images"
    if len(spec.models) > 1:
        return "several models are not one image"
    for key, value in ((DIGEST, spec.digest), (SIGNATURE_KEY, spec.signature_key), (FILES, runtimes.files_of(spec))):
        if value is not None:
            return f"only the loader applies {key}"
    reference = model_image.volume(uri)["image"]["reference"]
    if image_reference.parse_or_none(reference) is None:
        return f"{reference} is not an image reference"
    labels = context.namespace_labels.get(workload.namespace, {})
    store = find_store(uri, loader_stores.known(context, workload.namespace, labels))
    if store is not None:
        return f"a policy or the operator sets how {store.place} is reached, and only the loader follows that"
    return _flag_missing(IMAGE_VOLUMES, spec, context) or context.without_image_volumes


def _flag_missing(need: FeatureNeed, spec: ServingSpec, context: ClusterContext) -> str:
    if spec.mode == DEPLOYMENT or need.is_met(context.features):
        return ""
    return f"Knative's feature flag {need.flag} is not enabled"


def _of_deployment(workload: Workload) -> str:
    if any(each.get("name") == MODEL_VOLUME for each in workload.volumes):
        return f"the Deployment has its own volume {MODEL_VOLUME}"
    if any(each.get("name") == LOADER_CONTAINER for each in workload.init_containers):
        return f"the Deployment has fields of its own for {LOADER_CONTAINER}"
    return ""
