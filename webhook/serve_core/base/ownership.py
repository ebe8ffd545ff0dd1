"""Which objects belong to a Deployment, and their identity."""

from serve_core.base.constants import DEPLOYMENT_LABEL
from serve_core.base.json import JsonObject, value_at

_ROUTE = "serving.knative.dev/route"
"""Label of the Services that Knative creates."""

Identity = tuple[str, str, str]
"""API version, kind and name: unique in a namespace."""


def identity(manifest: JsonObject) -> Identity:
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def controller(manifest: JsonObject) -> JsonObject | None:
    """The reference to the controller of an object."""
    references = value_at(manifest, "metadata", "ownerReferences")
    found = references if isinstance(references, list) else ()
    return next((reference for reference in found if value_at(reference, "controller") is True), None)


def owns(deployment: JsonObject, manifest: JsonObject) -> bool:
    """Whether the Deployment controls an object. A Deployment that is not stored yet has no UID."""
    reference = controller(manifest)
    return reference is not None and reference.get("uid") == deployment["metadata"].get("uid")


def claims(deployment: JsonObject, manifest: JsonObject) -> bool:
    """Whether the Deployment controls an object, or the object is an orphan with its label.

    We adopt orphans, as Kubernetes' controllers do. ``kubectl delete --cascade=orphan`` leaves orphans.
    """
    metadata = manifest["metadata"]
    if controller(manifest) is not None:
        return owns(deployment, manifest)
    return bool((metadata.get("labels") or {}).get(DEPLOYMENT_LABEL) == deployment["metadata"]["name"])


def belongs_to(deployment: str, manifest: JsonObject) -> bool:
    """Whether the Deployment of that name controls an object, whatever its UID is."""
    reference = controller(manifest) or {}
    return (reference.get("apiVersion"), reference.get("kind"), reference.get("name")) == (
        "apps/v1",
        "Deployment",
        deployment,
    )


def is_sole_owner(deployment: str, manifest: JsonObject) -> bool:
    """Whether garbage collection deletes an object once the Deployment of that name is gone."""
    return belongs_to(deployment, manifest) and len(manifest["metadata"]["ownerReferences"]) == 1


def is_leaving(deployment: JsonObject, manifest: JsonObject) -> bool:
    """Whether an object is the Service that Knative creates and deletes with the Deployment's Knative Service."""
    labels = manifest["metadata"].get("labels") or {}
    return _ROUTE in labels and labels.get(DEPLOYMENT_LABEL) == deployment["metadata"]["name"]
