"""The stores that the loader of a Deployment is bound to, by the policies and the operator.

A URI names an organisation or a bucket; the user's Secret could name the hub or the store. So if a rule depends on
where a model comes from, the loader's arguments bind each URI to one store, and the rule requires exactly that.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from model_uri import ModelURI, Store, find_store
from serve_core.base.workload import Workload
from serve_core.context.cluster import ClusterContext
from serve_core.policy.matching import about_namespace, selects
from serve_core.policy.stores import of_rule, store_of

if TYPE_CHECKING:
    from serve_core.policy.rules import Rule
    from serve_core.policy.v1alpha1 import Match

_ELSEWHERE = frozenset({"InferenceService", "Route", "DomainMapping"})
"""Kinds that a Deployment never becomes."""


def known(context: ClusterContext, namespace: str, labels: Mapping[str, str]) -> tuple[Store, ...]:
    """The stores that are known in a namespace: those of the policies about it, by name, then the operator's."""
    found = [
        store
        for policy in about_namespace(context.policies, namespace, labels)
        for rule in policy.spec.rules
        if rule.sources is not None
        for store in of_rule(rule.sources)
    ]
    return (*found, *context.stores)


def of_loader(workload: Workload, uris: Iterable[ModelURI], context: ClusterContext) -> tuple[Store, ...]:
    """The stores that the loader of a Deployment is bound to; empty if no rule asks for it or it cannot be bound."""
    namespace = workload.namespace
    labels = context.namespace_labels.get(namespace, {})
    stores = known(context, namespace, labels)
    uris = [uri for uri in uris if uri.scheme != "pvc"]
    named = any(find_store(uri, stores) for uri in uris)
    if not named and not _rests_on_places(workload, context, labels):
        return ()
    bound = [store_of(uri, stores) for uri in uris]
    return tuple(dict.fromkeys(store for store in bound if store)) if all(bound) else ()


def _rests_on_places(workload: Workload, context: ClusterContext, namespace_labels: Mapping[str, str]) -> bool:
    """Whether a rule about the Deployment, or about what it becomes, depends on where its model comes from."""
    return any(
        any(map(_is_about_places, policy.spec.rules))
        and (not policy.spec.match.kinds or not _ELSEWHERE.issuperset(policy.spec.match.kinds))
        and _selects(policy.spec.match, (workload.labels, workload.template_labels))
        for policy in about_namespace(context.policies, workload.namespace, namespace_labels)
    )


def _is_about_places(rule: "Rule") -> bool:
    return bool(rule.sources and rule.sources.allow) or (rule.pinned is not None and "revision" in rule.pinned.by)


def _selects(match: "Match", labels: Iterable[Mapping[str, str]]) -> bool:
    """Whether a policy is about an object with one of these sets of labels."""
    selector = match.object_selector
    return selector is None or any(selects(selector, each) for each in labels)
