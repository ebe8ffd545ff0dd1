"""Objects in memory, and how an API server finds them: the base of the server's and the plugin's fake."""

import copy
from collections.abc import Iterable, Mapping

from serve_core.base.json import JsonObject, value_at
from serve_kube.errors import NotFoundError
from serve_kube.resources import Resource, key


class FakeKube:
    def stored(self, resource: Resource) -> Iterable[JsonObject]:
        """The objects themselves, of all namespaces."""
        raise NotImplementedError

    def live(self, resource: Resource, namespace: str | None, name: str) -> JsonObject:
        """The object itself. Raises NotFoundError."""
        for each in self.stored(resource):
            if is_selected(each, namespace) and each["metadata"]["name"] == name:
                return each
        raise NotFoundError(f'{resource.plural} "{name}" not found', 404)

    def selected(
        self, resource: Resource, namespace: str | None, selectors: Mapping[str, str] | None = None
    ) -> list[JsonObject]:
        """Copies of the objects that a list with these selectors has."""
        return [copy.deepcopy(each) for each in self.stored(resource) if is_selected(each, namespace, selectors)]


def is_selected(manifest: JsonObject, namespace: str | None, selectors: Mapping[str, str] | None = None) -> bool:
    """Whether a list or a watch has this object."""
    if namespace and key(manifest)[0] not in ("", namespace):
        return False
    labels = manifest["metadata"].get("labels") or {}
    for term in filter(None, (selectors or {}).get("labelSelector", "").split(",")):
        label, separator, value = term.removeprefix("!").partition("=")
        if (label in labels) is term.startswith("!") or (separator and labels[label] != value):
            return False
    fields = (term.partition("=") for term in (selectors or {}).get("fieldSelector", "").split(",") if term)
    return all(value_at(manifest, *path.split(".")) == value for path, _, value in fields)
