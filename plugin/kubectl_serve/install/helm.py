"""Installations of Helm's: what another program changes in them is lost in the next upgrade."""

from dataclasses import dataclass

from kubectl_serve.cluster import Cluster
from kubectl_serve.errors import ServeError
from serve_core.base.constants import NAMESPACE
from serve_core.base.json import JsonObject
from serve_kube import errors
from serve_kube.resources import DEPLOYMENTS


@dataclass(frozen=True)
class Release:
    """A release of the chart."""

    name: str
    namespace: str

    @property
    def upgrade(self) -> str:
        return f"helm upgrade {self.name} CHART -n {self.namespace} --reset-then-reuse-values"

    @property
    def uninstall(self) -> str:
        return f"helm uninstall {self.name} -n {self.namespace}"


def release_of(manifest: JsonObject | None) -> Release | None:
    """The release that an object belongs to. Helm sets these annotations on all objects of a release."""
    annotations = ((manifest or {}).get("metadata") or {}).get("annotations") or {}
    name, namespace = (annotations.get(f"meta.helm.sh/release-{part}") for part in ("name", "namespace"))
    return Release(name, namespace) if name and namespace else None


async def find(cluster: Cluster, deployment: str) -> Release | None:
    """The release of the installed server."""
    try:
        return release_of(await cluster.get(DEPLOYMENTS, NAMESPACE, deployment))
    except errors.NotFoundError:
        return None


def refusal(release: Release, command: str) -> ServeError:
    """``command``: what to run instead."""
    said = f"Helm manages kubectl-serve in this cluster: release {release.name} in namespace {release.namespace}."
    return ServeError(said, f"Use Helm: {command}")
