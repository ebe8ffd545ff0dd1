"""The stores that rules name, and the one store to which a model's URI leads."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from model_uri import ANYWHERE, ModelURI, Store, find_store, parse_place
from model_uri.schemes import scheme_of

if TYPE_CHECKING:
    from serve_core.policy.rules.sources import SourcesCheck


def of_rule(sources: "SourcesCheck") -> Iterator[Store]:
    """The stores that a rule names; a host that it allows by plain http is one as well."""
    yield from (each.store for each in sources.stores)
    for text in sources.allow:
        place = parse_place(text)
        if place.uri.scheme == "http" and not place.wild:
            yield Store(text)


def store_of(uri: ModelURI, stores: Iterable[Store]) -> Store | None:
    """The one store that a URI leads to, whatever the credentials say; ``None`` where the credentials decide."""
    found = find_store(uri, stores)
    if found is None and uri.scheme != "http" and scheme_of(uri.scheme).public:
        found = Store(f"{uri.scheme}://{uri.authority}")
    return found if found is not None and found.is_fixed else None


def names_of(uri: ModelURI, stores: Iterable[Store]) -> Iterator[ModelURI]:
    """A URI, and its other names in the known stores: by their schemes, and by their addresses."""
    yield uri
    for store in stores:
        if store.endpoint not in ("", ANYWHERE):
            yield from store.names_of(uri)


def may_lead_anywhere(uri: ModelURI, stores: Iterable[Store]) -> bool:
    """Whether the operator lets the credentials decide where a URI leads."""
    found = find_store(uri, stores)
    return found is not None and found.endpoint == ANYWHERE
