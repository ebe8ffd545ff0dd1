"""Knative's feature flags that ``install`` enables, and that ``uninstall`` reverts.

An annotation of the ConfigMap that has the flags keeps what each was before. So the record changes in the same write as
the flags, and it outlives our own namespace.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from kubectl_serve.cli import options
from kubectl_serve.cli.streams import Streams
from kubectl_serve.cluster import Cluster
from kubectl_serve.errors import ServeError, UsageError
from kubectl_serve.install import platform
from serve_core.admission.decide import render_stored
from serve_core.base.constants import PREFIX
from serve_core.base.json import JsonObject, value_at
from serve_core.knative import features
from serve_core.knative.features import ENABLED, UnknownFeatureError
from serve_kube import errors
from serve_kube.resources import CONFIG_MAPS

NAMESPACE = "knative-serving"
CONFIG_MAP = "config-features"
RECORD = f"{PREFIX}enabled-features"
"""The annotation: a JSON object of the flags that ``install`` enabled, each with its value before, or null."""


@dataclass(frozen=True)
class FlagChange:
    """``None``: the key is not there."""

    flag: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        before, after = ("not set" if value is None else value for value in (self.before, self.after))
        return f"configmap/{CONFIG_MAP} {self.flag}: {before} -> {after}"


def asked(text: str) -> tuple[str, ...]:
    """The flags that ``--knative-features`` names. Raises UsageError."""
    try:
        return features.resolve(name for name in (each.strip() for each in text.split(",")) if name)
    except UnknownFeatureError as error:
        raise UsageError(error.sentence, error.hint) from error


def data_of(config_map: JsonObject) -> Mapping[str, str]:
    return config_map.get("data") or {}


def to_enable(config_map: JsonObject, flags: Iterable[str]) -> list[FlagChange]:
    """The flags that are not enabled yet."""
    data = data_of(config_map)
    return [FlagChange(flag, data.get(flag), ENABLED) for flag in flags if features.state(data, flag) != ENABLED]


def to_revert(config_map: JsonObject, needed: Collection[str] = ()) -> list[FlagChange]:
    """The flags that ``install`` enabled, that have this value still, and that no served model needs."""
    recorded = sorted(_unchanged(config_map).items())
    return [FlagChange(flag, ENABLED, before) for flag, before in recorded if flag not in needed]


def enabling(config_map: JsonObject, changes: Iterable[FlagChange]) -> JsonObject:
    """The merge patch that makes the changes, and records them beside what is recorded and was not changed since."""
    changes = list(changes)
    return _patch(config_map, changes, _unchanged(config_map) | {change.flag: change.before for change in changes})


def reverting(config_map: JsonObject, changes: Iterable[FlagChange], needed: Collection[str] = ()) -> JsonObject:
    """The merge patch that reverts the flags, and leaves only those in the record that are needed still."""
    kept = {flag: before for flag, before in _unchanged(config_map).items() if flag in needed}
    return _patch(config_map, changes, kept)


def is_recorded(config_map: JsonObject) -> bool:
    return value_at(config_map, "metadata", "annotations", RECORD) is not None


def _patch(config_map: JsonObject, changes: Iterable[FlagChange], record: Mapping[str, str | None]) -> JsonObject:
    metadata: JsonObject = {"annotations": {RECORD: json.dumps(record, sort_keys=True) if record else None}}
    if version := value_at(config_map, "metadata", "resourceVersion"):
        metadata["resourceVersion"] = version  # a change in between is a conflict
    return {"metadata": metadata, "data": {change.flag: change.after for change in changes}}


def _unchanged(config_map: JsonObject) -> dict[str, str | None]:
    """The record, without the flags that have another value now, and without what is no flag: users write it too."""
    try:
        found = json.loads(value_at(config_map, "metadata", "annotations", RECORD) or "{}")
    except (ValueError, TypeError, RecursionError):
        return {}
    data = data_of(config_map)
    return {
        flag: before
        for flag, before in (found.items() if isinstance(found, dict) else ())
        if flag in features.FIELD_FLAGS and data.get(flag) == ENABLED and (before is None or isinstance(before, str))
    }


async def read(cluster: Cluster) -> JsonObject:
    """The ConfigMap; empty where there is none."""
    try:
        return await cluster.get(CONFIG_MAPS, NAMESPACE, CONFIG_MAP)
    except errors.NotFoundError:
        return {}


async def enable(
    cluster: Cluster, config_map: JsonObject, flags: Iterable[str], streams: Streams, *, dry_run: str
) -> None:
    """Enable flags, after saying which. Raises ServeError where there is no ConfigMap."""
    changes = to_enable(config_map, flags)
    if changes and not config_map:
        raise ServeError(
            f"there is no ConfigMap {CONFIG_MAP} in namespace {NAMESPACE}, which has Knative's feature flags.",
            "Install Knative Serving again, or leave --knative-features out.",
        )
    for change in changes:
        streams.out(f"{change}{options.DRY[dry_run]}")
    streams.stdout.flush()
    if changes:
        patch = enabling(config_map, changes)
        await cluster.merge(CONFIG_MAPS, NAMESPACE, CONFIG_MAP, patch, dry_run=dry_run == "server")


async def revert(cluster: Cluster, served: Iterable[JsonObject], streams: Streams, *, dry_run: str) -> None:
    """Revert what :func:`enable` did, without the flags that were changed since and those that ``served``, the
    Deployments that go on being served, need: without its flag, a Knative Service cannot be changed any more."""
    try:
        config_map = await read(cluster)
    except errors.ForbiddenError:
        streams.note(
            f"You cannot see ConfigMap {CONFIG_MAP}: flags of Knative that `install` enabled stay as they are."
        )
        return
    if not is_recorded(config_map):
        return
    needed = await _needed(cluster, served)
    changes = to_revert(config_map, needed)
    kept = sorted({change.flag for change in to_revert(config_map)} - {change.flag for change in changes})
    for change in changes:
        streams.out(f"{change}{options.DRY[dry_run]}")
    if kept:
        streams.note(
            f"Warning: served Deployments need these feature flags of Knative, which stay enabled: {', '.join(kept)}. "
            "`uninstall` reverts them when these Deployments are gone."
        )
    if dry_run != "client":
        patch = reverting(config_map, changes, needed)
        await cluster.merge(CONFIG_MAPS, NAMESPACE, CONFIG_MAP, patch, dry_run=dry_run == "server")


async def _needed(cluster: Cluster, served: Iterable[JsonObject]) -> set[str]:
    """The flags that Knative Services of served Deployments need; every flag if one of them cannot be rendered."""
    context = await platform.context_to_render(cluster, asks_istio=False)
    verdicts = [render_stored(deployment, context) for deployment in served]
    if any(verdict.refused for verdict in verdicts):
        return set(features.FIELD_FLAGS)
    return {need.flag for verdict in verdicts for need in verdict.feature_needs}
