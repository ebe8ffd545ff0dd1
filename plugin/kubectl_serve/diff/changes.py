"""What an apply would change in the rendered objects: each object as it is, and as the API server would store it.

Everything is a dry run: the real webhook completes the Deployment, and the API server merges the rendered objects and
sets their defaults as for the reconciler, with the reconciler's field manager.
"""

import asyncio
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from kubectl_serve.cluster import Cluster, visible
from kubectl_serve.diff import threeway
from kubectl_serve.errors import ServeError
from kubectl_serve.install import platform
from kubectl_serve.io import documents
from kubectl_serve.status import lookup, model
from serve_core.admission import neighbours as admission_neighbours
from serve_core.admission.decide import Verdict, concerns, is_served, render_stored
from serve_core.api import annotations
from serve_core.base.constants import DEPLOYMENT_LABEL, FIELD_MANAGER, GROUP
from serve_core.base.json import JsonObject, canonical, value_at
from serve_core.base.ownership import Identity, claims, identity, is_leaving, owns
from serve_core.context import neighbours, services
from serve_core.context.cluster import ClusterContext
from serve_core.context.neighbours import Neighbours
from serve_core.context.services import Services
from serve_core.workload.prefetch import is_prefetch
from serve_kube import errors
from serve_kube.resources import (
    AUTOSCALERS,
    DAEMON_SETS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    OWNED,
    SCALED_OBJECTS,
    SERVICES,
    STATEFUL_SETS,
    Resource,
)

_BOOKKEEPING = frozenset(
    {"creationTimestamp", "finalizers", "generation", "managedFields", "ownerReferences", "resourceVersion", "uid"}
)
"""Fields of the metadata that the API server and controllers set."""
_NOTES = frozenset(
    {
        threeway.LAST_APPLIED,
        "serving.knative.dev/creator",
        "serving.knative.dev/lastModifier",
        *(each.key for each in annotations.STATE),
        *annotations.EARLIER_STATE,
    }
)
"""Annotations that kubectl, Knative and kubectl-serve set."""


_COMPARED = tuple(resource for resource in OWNED if resource not in (STATEFUL_SETS, DAEMON_SETS))
"""What loads a model in advance is temporary, and no change of the model."""
_ABOUT_NEIGHBOURS = admission_neighbours.CODES | {"PastKnative", "PortByName"}


@dataclass(frozen=True)
class Change:
    """An object before and after; ``None`` where it does not exist. Both may be equal."""

    live: JsonObject | None
    merged: JsonObject | None

    @property
    def title(self) -> str:
        """The name of its files, as in ``kubectl diff``: ``apps.v1.Deployment.default.iris``."""
        thing = self.live or self.merged or {}
        metadata = thing["metadata"]
        parts = (thing["apiVersion"], thing["kind"], metadata.get("namespace", ""), metadata["name"])
        return ".".join(parts).replace("/", ".")

    @property
    def texts(self) -> tuple[str, str]:
        """Both as YAML; empty where there is no object."""
        return _text(self.live), _text(self.merged)


@dataclass(frozen=True)
class ServerSide:
    """The flags of ``kubectl apply --server-side``."""

    manager: str
    force: bool


@dataclass(frozen=True)
class _Made:
    """The rendered objects of a namespace's Deployments."""

    objects: Mapping[Identity, JsonObject]
    unseen: Collection[Resource]
    """Kinds that this user may not list."""


class Preview:
    """Tries applies in one cluster. ``warn`` is called with what cannot be compared in full, and why."""

    def __init__(
        self,
        cluster: Cluster,
        server_side: ServerSide | None,
        warn: Callable[[str], None],
        files: Sequence[JsonObject] = (),
    ) -> None:
        """``files``: all objects that would be applied together, each with its namespace."""
        self._files = files
        self._cluster = cluster
        self._server_side = server_side
        self._warn = warn
        self._warned: set[tuple[str, Resource]] = set()
        self._made_in: dict[str, _Made] = {}
        self._context: dict[bool, ClusterContext] = {}
        """By whether the Deployment needs objects of Istio."""
        self._around: dict[str, tuple[Services, dict[str, Neighbours]]] = {}

    async def changes(self, manifest: JsonObject) -> list[Change] | None:
        """What applying a Deployment would change; ``None`` if it is not a served one.

        Raises DeniedError if admission refuses the Deployment, and another ServeError if the result is unknown.
        """
        metadata = manifest["metadata"]
        live = await self._find(DEPLOYMENTS, metadata["namespace"], metadata["name"])
        was_served = live is not None and is_served(live)
        if not was_served and not concerns(manifest):
            return None
        merged = await self._applied(manifest, live)
        if not was_served and not is_served(merged):
            return None
        verdict = await self._becomes(merged)
        if verdict.refused:
            raise ServeError(
                f"the result is unknown: {verdict.problems[0]}",
                "You may lack permission to read Istio's configuration: ask a cluster administrator.",
            )
        await self._warn_of_neighbours(merged)
        before = await self._becomes(live) if live is not None else Verdict()
        # If the Deployment itself runs the pods, it is compared as well.
        changed = [Change(live, merged)] if verdict.service is None else []
        return [*changed, *await self._beside(merged if live is None else live, before, verdict, metadata["namespace"])]

    async def _applied(self, manifest: JsonObject, live: JsonObject | None) -> JsonObject:
        """The Deployment as the API server would store it."""
        metadata = manifest["metadata"]
        try:
            if self._server_side is not None:
                way = self._server_side
                applied = await self._cluster.apply(
                    DEPLOYMENTS, manifest, manager=way.manager, force=way.force, dry_run=True
                )
            elif live is None:
                applied = await self._cluster.create(DEPLOYMENTS, manifest, dry_run=True)
            else:
                patch = threeway.patch(manifest, live)
                applied = await self._cluster.merge(
                    DEPLOYMENTS, metadata["namespace"], metadata["name"], patch, dry_run=True, strategic=True
                )
        except errors.AlreadyExistsError:
            raise
        except errors.ConflictError as error:
            raise ServeError(error.message, "--force-conflicts takes ownership of these fields.") from error
        except errors.InvalidError as error:
            raise lookup.not_installed() if lookup.is_uncompleted(error) else error from error
        if is_served(applied) and not model.is_served(applied):
            raise lookup.not_installed()
        return applied

    async def _becomes(self, deployment: JsonObject) -> Verdict:
        """What the reconciler renders from a stored Deployment."""
        if not is_served(deployment):
            return Verdict()
        return render_stored(deployment, await self._context_for(deployment))

    async def _context_for(self, deployment: JsonObject) -> ClusterContext:
        asks_istio = platform.asks_istio(deployment)
        if asks_istio not in self._context:
            self._context[asks_istio] = await platform.context_to_render(self._cluster, asks_istio=asks_istio)
        return self._context[asks_istio]

    async def _warn_of_neighbours(self, merged: JsonObject) -> None:
        """Warn of what admission does not see: autoscalers and disruption budgets, and new Services of the files."""
        namespace, name = merged["metadata"]["namespace"], merged["metadata"]["name"]
        if namespace not in self._around:
            kinds = (AUTOSCALERS, SCALED_OBJECTS, DISRUPTION_BUDGETS, SERVICES)
            *others, live = await asyncio.gather(*(visible(self._cluster, kind, namespace) for kind in kinds))
            known = {model.name_of(each) for each in live}
            new = [each for each in self._files if value_at(each, "metadata", "name") not in known]
            objects = [*self._files, *(each for listed in others for each in listed)]
            self._around[namespace] = services.read_all(new), neighbours.read(objects)
        in_files, around = self._around[namespace]
        context = replace(await self._context_for(merged), services=in_files, neighbours=around)
        for warning in render_stored(merged, context).warnings:
            if warning.code in _ABOUT_NEIGHBOURS:
                self._warn(f"deployment.apps/{name}: {warning}")

    async def _beside(self, deployment: JsonObject, before: Verdict, after: Verdict, namespace: str) -> list[Change]:
        """The changes of the objects that the Deployment owns, in the order of their application."""
        made = await self._made(namespace)
        rendered = {identity(each): each for each in before.objects if not is_prefetch(each)}
        wanted = {identity(each): each for each in after.objects if not is_prefetch(each)}
        changes = []
        for at, manifest in wanted.items():
            resource = _resource(manifest)
            try:
                live = made.objects.get(at)
                if live is not None and is_leaving(deployment, live):
                    changes.append(
                        Change(rendered.get(at), manifest)
                    )  # already wanted: the reconciler will create it without this apply
                else:
                    changes.append(await self._tried(resource, manifest, live, deployment))
            except errors.ForbiddenError as error:
                self._warn_untried(resource, namespace, error.message)
                changes.append(Change(rendered.get(at), manifest))
        # Objects that the present Deployment does not want will be deleted without this apply.
        owned = (at for at, each in made.objects.items() if owns(deployment, each))
        present = {at: made.objects[at] for at in owned if before.refused or at in rendered}
        present |= {at: each for at, each in rendered.items() if _resource(each) in made.unseen}
        return [*changes, *(Change(live, None) for at, live in present.items() if at not in wanted)]

    async def _tried(
        self, resource: Resource, manifest: JsonObject, live: JsonObject | None, deployment: JsonObject
    ) -> Change:
        """The change of the reconciler's apply. Raises ForbiddenError if the user may not try it."""
        metadata = manifest["metadata"]
        if live is None:
            live = await self._find(resource, metadata["namespace"], metadata["name"])
        if live is not None and not claims(deployment, live):
            raise ServeError(
                f"{resource.title} {metadata['name']} exists already, and kubectl-serve does not own it.",
                "Rename the Deployment, or delete that object.",
            )
        try:
            merged = await self._cluster.apply(resource, manifest, manager=FIELD_MANAGER, dry_run=True)
        except errors.DeniedError as error:
            if error.webhook.endswith(f".{GROUP}"):
                # Policies judge objects that users apply. The reconciler's were judged with their Deployment.
                raise errors.ForbiddenError(error.denial) from error
            why = " ".join(error.denial.split())
            raise ServeError(f"{resource.title} {metadata['name']} would be refused: {why}") from error
        except errors.NotFoundError as error:
            raise ServeError(f"the cluster does not have {resource.title}: {error.message}") from error
        # Of a new object, values that the API server chooses, such as addresses, are not part of the change.
        return Change(live, manifest if live is None else merged)

    def _warn_untried(self, resource: Resource, namespace: str, why: str) -> None:
        if (namespace, resource) not in self._warned:
            self._warned.add((namespace, resource))
            self._warn(
                f"Cannot dry-run {resource.title} in namespace {namespace}: {why.rstrip('.')}. The "
                "comparison shows what kubectl-serve makes of the Deployment, without the cluster's defaults."
            )

    async def _made(self, namespace: str) -> _Made:
        if namespace not in self._made_in:
            found = await asyncio.gather(*(self._listed(resource, namespace) for resource in _COMPARED))
            objects = {identity(each): each for listed in found for each in listed or ()}
            unseen = [resource for resource, listed in zip(_COMPARED, found, strict=True) if listed is None]
            self._made_in[namespace] = _Made(objects, unseen)
        return self._made_in[namespace]

    async def _listed(self, resource: Resource, namespace: str) -> list[JsonObject] | None:
        """The rendered objects of one kind; ``None`` if the user may not list them."""
        try:
            return (await self._cluster.list(resource, namespace, labels=DEPLOYMENT_LABEL))[0]
        except errors.NotFoundError:  # the kind does not exist in the cluster
            return []
        except errors.ForbiddenError:
            return None

    async def _find(self, resource: Resource, namespace: str, name: str) -> JsonObject | None:
        try:
            return await self._cluster.get(resource, namespace, name)
        except errors.NotFoundError:
            return None


def _resource(manifest: JsonObject) -> Resource:
    kind = manifest["apiVersion"], manifest["kind"]
    return next(resource for resource in OWNED if (resource.api_version, resource.kind) == kind)


def _text(thing: JsonObject | None) -> str:
    """An object as YAML, without status and bookkeeping."""
    if thing is None:
        return ""
    metadata = {key: value for key, value in thing["metadata"].items() if key not in _BOOKKEEPING}
    notes = {key: value for key, value in (metadata.pop("annotations", None) or {}).items() if key not in _NOTES}
    if notes:
        metadata["annotations"] = notes
    shown = {key: value for key, value in thing.items() if key != "status"} | {"metadata": metadata}
    return documents.to_yaml([json.loads(canonical(shown))])
