"""Carries out what the plan decides: the reconciler's writes, and nothing else."""

import logging
from collections.abc import Iterable, Mapping

from serve_core.base.constants import DEPLOYMENT_LABEL, SERVED_LABEL
from serve_core.base.json import JsonObject, value_at
from serve_core.base.workload import Workload
from serve_kube.client import Client
from serve_kube.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError, UnreadableError
from serve_kube.resources import DEPLOYMENTS, REVISIONS, Resource, key, owned_resource
from serve_webhook.cache.informers import Informer
from serve_webhook.metrics import Metrics
from serve_webhook.reconcile import plan
from serve_webhook.reconcile.actions import Action, Apply, Delete, Merge, SetConditions, SetScaling
from serve_webhook.reconcile.events import Recorder

logger = logging.getLogger(__name__)


class Executor:
    """Writes to the cluster, to the caches of what it writes, and counts the writes.

    Every write has the UID and, where its content depends on what was read, the resource version as a precondition.
    """

    def __init__(
        self,
        api: Client,
        *,
        deployments: Informer,
        owned: Mapping[Resource, Informer],
        recorder: Recorder,
        metrics: Metrics,
    ) -> None:
        self._api = api
        self._deployments = deployments
        self._owned = owned
        self._recorder = recorder
        self._metrics = metrics

    async def apply(self, change: Apply, live: JsonObject | None) -> JsonObject:
        """Apply an object that a Deployment owns; ``live``: the present one. Returns it as it is stored."""
        manifest = change.manifest
        resource = owned_resource(manifest)
        if live is not None:
            patched = await self._api.merge(resource, *key(manifest), plan.replacement_patch(manifest, live))
            # With the version, no write of others in between counts as ours.
            versions = {"uid": change.uid, "resourceVersion": patched["metadata"]["resourceVersion"]}
            manifest = manifest | {"metadata": manifest["metadata"] | versions}
        applied = await self._api.apply(resource, manifest, force=change.uid is not None)
        self._owned[resource].update_cache(applied)
        self._metrics.writes.labels(resource.plural).inc()
        return applied

    async def execute(self, deployment: JsonObject, actions: tuple[Action, ...]) -> JsonObject:
        """Returns the Deployment as it is after the actions. Raises ConflictError where its spec changed meanwhile."""
        watched = self._deployments.get(*key(deployment)) is not None
        for action in actions:
            written = await self._execute_one(action, deployment)
            if written is not None:
                # Conditions are applied without a version. The actions after them depend on what was read.
                generation = written["metadata"]["generation"]
                if isinstance(action, SetConditions) and generation != deployment["metadata"]["generation"]:
                    raise ConflictError("the Deployment has a new generation")
                deployment = written
                if watched and SERVED_LABEL in Workload(written).labels:
                    self._deployments.update_cache(written)
        return deployment

    async def _execute_one(self, action: Action, deployment: JsonObject) -> JsonObject | None:
        """Returns the Deployment if it was written."""
        namespace, name = key(deployment)
        metadata = deployment["metadata"]
        match action:
            case Merge(patch, why):
                self._metrics.writes.labels(why).inc()
                # The version is a precondition: whether the Deployment is served or parked may just have changed.
                version = {key: metadata[key] for key in ("uid", "resourceVersion")}
                change = {**patch, "metadata": {**patch.get("metadata", {}), **version}}
                return await self._api.merge(DEPLOYMENTS, namespace, name, change)
            case SetConditions(entries, events):
                manifest = _head(deployment) | {"status": {"conditions": list(entries)} if entries else {}}
                self._metrics.writes.labels("conditions").inc()
                written = await self._api.apply(DEPLOYMENTS, manifest, subresource="status")
                for condition in events:
                    await self._recorder.record(
                        deployment,
                        warning=condition.status != "True",
                        reason=condition.reason,
                        note=condition.message,
                    )
                return written
            case Delete(manifest):
                self._metrics.writes.labels("delete").inc()
                await self._delete(manifest)
                return None
            case SetScaling(_, revision, annotations):
                await self._set_scaling(namespace, name, revision, annotations)
                return None

    async def _set_scaling(
        self, namespace: str, deployment: str, name: str, annotations: Mapping[str, str | None]
    ) -> None:
        """Annotate a revision, if it is one of this Deployment: a user's pin can name any other."""
        try:
            revision = await self._api.get(REVISIONS, namespace, name)
            metadata = revision["metadata"]
            if value_at(metadata, "labels", DEPLOYMENT_LABEL) != deployment:
                return
            present = metadata.get("annotations") or {}
            if all(present.get(key) == value for key, value in annotations.items()):
                return
            self._metrics.writes.labels(REVISIONS.plural).inc()
            change = {"metadata": {"uid": metadata["uid"], "annotations": dict(annotations)}}
            await self._api.merge(REVISIONS, namespace, name, change)
        except NotFoundError:
            logger.info("Revision %s/%s is already deleted.", namespace, name)
        except (ForbiddenError, InvalidError, UnreadableError) as error:
            # The model is served all the same; a replica too many runs.
            logger.warning("The scale of revision %s/%s stays: %s", namespace, name, error)

    async def collect(self, manifests: Iterable[JsonObject]) -> None:
        """Delete the objects of a Deployment that is gone, before garbage collection does: that deletes about ten
        objects per second of the whole cluster (the controller manager's client makes 40 requests per second).

        Raises ConflictError where an object has changed. A deletion that leaves orphans removes their owner before the
        Deployment is gone: with the version as precondition, an orphan that was read earlier is not deleted.
        """
        for manifest in manifests:
            if "deletionTimestamp" not in manifest["metadata"]:
                self._metrics.writes.labels("collect").inc()
                await self._delete(manifest, version=manifest["metadata"]["resourceVersion"])

    async def _delete(self, manifest: JsonObject, version: str = "") -> None:
        uid = manifest["metadata"]["uid"]
        try:
            await self._api.delete(owned_resource(manifest), *key(manifest), uid=uid, version=version)
        except NotFoundError:
            logger.info("%s %s/%s is already deleted.", manifest["kind"], *key(manifest))


def _head(deployment: JsonObject) -> JsonObject:
    """The head of an apply to this Deployment, and to no other one of its name."""
    head = DEPLOYMENTS.identity(*key(deployment))
    return head | {"metadata": head["metadata"] | {"uid": deployment["metadata"]["uid"]}}
