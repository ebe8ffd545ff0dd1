"""Which objects belong to a Deployment, and what tells them apart."""

from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject, value_at

_ROUTE = "serving.knative.dev/route"
"""Label of the Services that Knative makes."""

Identity = tuple[str, str, str]
"""API version, kind and name: what tells the objects of one namespace apart."""


def identity(manifest: JsonObject) -> Identity:
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def controller(manifest: JsonObject) -> JsonObject | None:
    """The reference to the one owner that controls an object."""
    references = value_at(manifest, "metadata", "ownerReferences")
    found = references if isinstance(references, list) else ()
    return next((reference for reference in found if value_at(reference, "controller") is True), None)


def owns(deployment: JsonObject, manifest: JsonObject) -> bool:
    """Whether the Deployment is the controller of an object; one that is not stored yet has no UID."""
    reference = controller(manifest)
    return reference is not None and reference.get("uid") == deployment["metadata"].get("uid")


def claims(deployment: JsonObject, manifest: JsonObject) -> bool:
    """Whether an object is the Deployment's own, or an orphan that bears its label: such a one it takes back, as
    Kubernetes' own controllers do. ``kubectl delete --cascade=orphan`` leaves orphans."""
    metadata = manifest["metadata"]
    if controller(manifest) is not None:
        return owns(deployment, manifest)
    return bool((metadata.get("labels") or {}).get(DEPLOYMENT_LABEL) == deployment["metadata"]["name"])


def is_leaving(deployment: JsonObject, manifest: JsonObject) -> bool:
    """Whether it is the Service that Knative made of the Deployment's own Knative Service, and goes with that."""
    labels = manifest["metadata"].get("labels") or {}
    return _ROUTE in labels and labels.get(DEPLOYMENT_LABEL) == deployment["metadata"]["name"]
