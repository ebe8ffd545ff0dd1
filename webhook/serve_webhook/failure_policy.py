"""Sets the ``failurePolicy`` of the webhooks that only policies need.

Pods with the loader, and Knative and KServe objects that users create, need no review while no policy can refuse them:
their webhooks then fail open. Once a policy can refuse them, the leader lets their webhooks fail closed. It owns that
field alone, by server-side apply. The manifests do not set it, so the default applies before: fail closed.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

from serve_core.base.json import JsonObject
from serve_core.policy.evaluate import may_refuse
from serve_core.policy.subject import SubjectKind
from serve_core.policy.v1alpha1 import ServingPolicy
from serve_kube.client import Client
from serve_kube.resources import VALIDATING_WEBHOOKS
from serve_webhook.cache.informers import Informer
from serve_webhook.certs.rotation import WEBHOOKS
from serve_webhook.work_queue import run_forever

GUARDED: Mapping[str, tuple[SubjectKind, ...]] = {
    "policies-pods.kubectl-serve.dev": ("Pod",),
    "policies-knative.kubectl-serve.dev": (
        "Service", "Configuration", "Revision", "Route", "DomainMapping",
        "InferenceService", "ServingRuntime", "TrainedModel",
    ),
}  # fmt: skip
"""Kinds that each of these webhooks is called for."""

MANAGER = "failure-policy.kubectl-serve.dev"
"""Field manager. The ``caBundle`` in the same objects has another one."""

logger = logging.getLogger(__name__)


def wanted(policies: Iterable[ServingPolicy]) -> Mapping[str, str]:
    """By webhook: ``Fail`` where a policy with failure policy ``Fail`` may refuse one of its kinds, otherwise
    ``Ignore``."""
    strict = [policy for policy in policies if policy.spec.failure_policy == "Fail"]
    return {
        name: "Fail" if any(may_refuse(policy, kind) for policy in strict for kind in kinds) else "Ignore"
        for name, kinds in GUARDED.items()
    }


class FailurePolicies:
    """Runs on the leader. ``policies`` returns the present ones."""

    def __init__(self, api: Client, webhooks: Informer, policies: Callable[[], Iterable[ServingPolicy]]) -> None:
        self._api = api
        self._webhooks = webhooks
        self._policies = policies
        self._changed = asyncio.Event()
        webhooks.subscribe(lambda _old, _new: self._changed.set())

    def refresh(self) -> None:
        """Check again: policies have changed."""
        self._changed.set()

    async def run(self) -> NoReturn:
        """Set the failure policies until cancelled. The policies must be complete before."""
        await self._webhooks.synced.wait()
        await run_forever("The failurePolicy of the webhooks", self._update, self._changed, logger)

    async def _update(self) -> None:
        configuration = self._webhooks.get("", WEBHOOKS)
        if configuration is None:
            return
        desired = wanted(self._policies())
        live = {webhook["name"]: webhook.get("failurePolicy") for webhook in configuration.get("webhooks") or []}
        known = {name: policy for name, policy in desired.items() if name in live}
        if all(live[name] == policy for name, policy in known.items()):
            return
        manifest: JsonObject = VALIDATING_WEBHOOKS.identity(name=WEBHOOKS)
        manifest["metadata"]["uid"] = configuration["metadata"]["uid"]
        manifest["webhooks"] = [{"name": name, "failurePolicy": policy} for name, policy in known.items()]
        self._webhooks.update_cache(await self._api.apply(VALIDATING_WEBHOOKS, manifest, manager=MANAGER))
        for name, policy in known.items():
            if live[name] != policy:
                logger.info("%s now has failurePolicy %s.", name, policy)
