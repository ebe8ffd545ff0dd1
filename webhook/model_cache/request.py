"""What a volume requests: the loader's own arguments, from the attributes of the volume."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from model_loader import sources
from model_loader.http.network import Network
from model_loader.outcomes import Code, LoadError
from model_loader.plan import options as command_line
from model_loader.plan.options import LoaderOptions

ARGUMENTS = "arguments"
"""The attribute with the loader's arguments, as a JSON list of strings."""
_NAMESPACE = "csi.storage.k8s.io/pod.namespace"
"""The attribute that the kubelet sets, whatever the volume says (`podInfoOnMount`)."""
_VOLUME = Path("/volume")
_MAX_BYTES = 256 << 10
_ON_THE_NODE = ("file", "pvc")
"""Schemes of models that are mounted. In the driver they would name files of the node."""


class Request(NamedTuple):
    """A model that a pod mounts. `secret`: the pod's own credentials, by key. `namespace`: of the pod."""

    arguments: tuple[str, ...]
    secret: Mapping[str, str]
    namespace: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """The URIs of the models."""
        return tuple(load.uri for load in checked(self.arguments).loads)


def read(attributes: Mapping[str, str], secret: Mapping[str, str]) -> Request:
    """Return the request of a volume. Raises LoadError for attributes that the loader or the driver refuses."""
    text = attributes.get(ARGUMENTS, "")
    try:
        found = json.loads(text) if len(text) <= _MAX_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise LoadError(Code.INVALID_SOURCE, f"the volume's attribute {ARGUMENTS} is not a JSON list of strings")
    arguments = tuple(map(str, found))
    checked(arguments)
    return Request(arguments, secret, attributes.get(_NAMESPACE, ""))


def checked(arguments: tuple[str, ...]) -> LoaderOptions:
    """Return the parsed arguments. Raises LoadError for what only the driver decides, whatever its spelling."""
    try:
        options = command_line.parse(["--volume", str(_VOLUME), *arguments], {})
    except SystemExit:
        raise LoadError(Code.INVALID_SOURCE, "the volume's arguments request the help") from None
    own = options.volume != _VOLUME or options.shared or options.credentials or options.signature_key
    if own or options.network != Network.of([]) or options.patience != command_line.PATIENCE:
        raise LoadError(
            Code.REFUSED, "the volume's arguments set a volume, credentials, a signature, networks or a patience"
        )
    for load in options.loads:
        uri = sources.parse(load.uri)
        if uri.scheme in _ON_THE_NODE:
            raise LoadError(Code.REFUSED, f"the cache has no models of the scheme {uri.scheme}")
    return options
