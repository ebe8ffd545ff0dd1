"""Which objects belong to a Deployment, and what tells them apart."""

from serve_core.json import JsonObject

Identity = tuple[str, str, str]
"""API version, kind and name: what tells the objects of one namespace apart."""


def identity(manifest: JsonObject) -> Identity:
    return manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"]


def owns(deployment: JsonObject, manifest: JsonObject) -> bool:
    """Whether the Deployment is the controller of an object."""
    return any(
        reference.get("controller") and reference.get("uid") == deployment["metadata"]["uid"]
        for reference in manifest["metadata"].get("ownerReferences") or []
    )
