"""The model's volume where it is an image: the node pulls it once, and mounts it for every pod.

The pod has the files that the loader would load, at the same path: of a container image, the loader unpacks one folder.
"""

from model_uri import ModelURI
from serve_core.base.constants import MODEL_VOLUME
from serve_core.base.json import JsonObject

FOLDER = "models"
"""The folder of an image that has the model, as KServe's modelcars have it."""


def volume(uri: ModelURI) -> JsonObject:
    """The volume of a model at ``oci://``.

    As with the loader, a pod gets what a tag means when it starts. The kubelet then asks the registry with the pod's
    credentials; of what a digest names, it pulls nothing twice.
    """
    reference = str(uri).removeprefix("oci://")
    return {
        "name": MODEL_VOLUME,
        "image": {"reference": reference, "pullPolicy": "IfNotPresent" if uri.digest else "Always"},
    }


def reference_in(pod: JsonObject) -> str:
    """The image of the model's volume in a pod; empty if the volume is none."""
    for each in pod.get("volumes") or ():
        if each.get("name") == MODEL_VOLUME:
            return str((each.get("image") or {}).get("reference") or "")
    return ""
