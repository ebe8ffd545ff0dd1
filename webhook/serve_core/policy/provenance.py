"""Where a model comes from: what the rules on sources, pins and signatures share."""

from collections.abc import Iterator

import model_uri
from model_uri import Store, find_store
from serve_core.base.reasons import Diagnostic, diagnostic
from serve_core.policy import stores
from serve_core.policy.check import finding
from serve_core.policy.subject import Origin, Subject

_IN_CLUSTER = frozenset({"pvc", "file"})
"""Schemes that lead to nothing outside of the cluster."""

SOURCE_UNKNOWN = finding(
    "SourceUnknown",
    "{by} cannot determine where the model comes from: {why}.",
    "Do not change the loader that kubectl-serve adds, and let no other container write to its volume.",
)
SOURCE_NOT_FIXED = finding("SourceNotFixed", "{by} restricts the store of {source}, and {why}.", "{way_out}")


def unknown_findings(subject: Subject, by: str) -> list[Diagnostic]:
    """Origins that the object does not show. While there is one, nothing else is known of the model."""
    unknown = [origin for origin in subject.origins if origin.unknown]
    return [diagnostic(SOURCE_UNKNOWN, origin.path, by=by, why=origin.unknown) for origin in unknown]


def not_fixed_findings(
    origin: Origin, subject: Subject, by: str, own: tuple[Store, ...] = (), always: bool = True
) -> Iterator[Diagnostic]:
    """A finding where anybody but the operator can decide which store a source leads to.

    ``own``: the stores of the rule itself, which come before others. ``always``: also for sources in none of these.
    """
    source = model_uri.parse(origin.text)
    mine = find_store(source, own) is not None
    known = own if mine else subject.stores
    if origin.unknown or not (origin.by_loader or origin.by_node) or source.scheme in _IN_CLUSTER:
        return
    if not (always or mine) or stores.may_lead_anywhere(source, known):
        return
    wanted = stores.store_of(source, known)
    bound = origin.store
    if origin.by_node:
        if find_store(source, known) is None:
            return  # the registry in the URI, as the node's administrator has configured it
        why, way_out = "the node does not follow that", "Let the loader load it: kubectl-serve.dev/cache: none."
    elif wanted is None:
        why, way_out = (
            "the user's Secret determines that store",
            "Ask the author of the policy to name the store under sources.stores.",
        )
    elif bound is None:
        why = "a Secret can redirect its loader to another store"
        way_out = "Apply the object again to bind kubectl-serve's loader to it. For other loaders, allow any endpoint."
    elif not bound.leads_as(wanted):
        why = f"the loader is bound to {bound.endpoint or 'another store'}"
        way_out = f"It must come from {wanted.endpoint or 'the public store'}: apply the object again."
    elif origin.adrift:
        why, way_out = (
            f"{origin.adrift} can redirect the loader to another store",
            f"Remove {origin.adrift} from the pods.",
        )
    else:
        return
    yield diagnostic(SOURCE_NOT_FIXED, origin.path, by=by, source=source, why=why, way_out=way_out)
