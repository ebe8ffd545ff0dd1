"""The cluster's policies and exceptions, parsed when they change."""

import logging
from collections.abc import Callable

from serve_core.base.constants import NAMESPACE
from serve_core.base.json import JsonObject
from serve_core.policy.parse import PolicyError, read_exception, stored_policy
from serve_core.policy.v1alpha1 import PolicyException, ServingPolicy
from serve_kube.resources import POLICIES, POLICY_EXCEPTIONS
from serve_webhook.cache.informers import CachedResources, Informer

logger = logging.getLogger(__name__)


class PolicyCache(CachedResources):
    """The source of :attr:`policies` and :attr:`exceptions`; ``changed`` is called when they change."""

    def __init__(self, informer: Callable[..., Informer], changed: Callable[[], None]) -> None:
        self._changed = changed
        policies, exceptions = informer(POLICIES, stubs=True), informer(POLICY_EXCEPTIONS, namespace=NAMESPACE)
        super().__init__(policies, exceptions)
        self._policies: dict[str, ServingPolicy] = {}
        self._exceptions: dict[str, PolicyException] = {}
        policies.subscribe(self._policy_changed)
        exceptions.subscribe(self._exception_changed)

    @property
    def policies(self) -> tuple[ServingPolicy, ...]:
        return tuple(self._policies.values())

    @property
    def exceptions(self) -> tuple[PolicyException, ...]:
        return tuple(self._exceptions.values())

    def _policy_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        if new is not None:
            policy = stored_policy(new)
            self._policies[new["metadata"]["name"]] = policy
            if policy.fault:
                logger.error("Policy %s cannot be read and rejects everything: %s.", policy.name, policy.fault)
        elif old is not None:
            self._policies.pop(old["metadata"]["name"], None)
        self._changed()

    def _exception_changed(self, old: JsonObject | None, new: JsonObject | None) -> None:
        name = ((new or old) or {})["metadata"]["name"]
        self._exceptions.pop(name, None)
        if new is not None:
            try:
                self._exceptions[name] = read_exception(new)
            except PolicyError as error:
                logger.error("Exception %s cannot be read and has no effect: %s", name, error)
        self._changed()
