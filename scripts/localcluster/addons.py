"""The cluster's add-ons: CoreDNS, Traefik and Knative Serving."""

import asyncio
import json
import string
import urllib.error
import urllib.request
from collections.abc import Mapping, Set
from http import HTTPStatus
from pathlib import Path

from localcluster import knative, node, paths, pins, processes
from localcluster.build import Binaries
from localcluster.cluster import Cluster
from localcluster.commands import run
from localcluster.errors import ClusterError

DEPLOYMENTS = {
    "kube-system": ("coredns",),
    "traefik": ("traefik",),
    "knative-serving": ("activator", "autoscaler", "controller", "webhook"),
}
FIELD_MANAGER = "--field-manager=scripts-cluster"

PATIENCE = 300
"""Timeout in seconds, for a busy machine. An idle one needs 15."""


class Kubectl:
    """The cluster's kubectl, with the administrator's credentials."""

    def __init__(self, cluster: Cluster) -> None:
        self._program = cluster.state.bin / "kubectl"
        self._kubeconfig = cluster.state.kubeconfig

    async def __call__(self, *arguments: str | Path, text: str | None = None) -> str:
        # The environment's proxy cannot reach an address of this machine.
        environment = {"NO_PROXY": "*", "no_proxy": "*"}
        return await run(
            self._program, f"--kubeconfig={self._kubeconfig}", *arguments, text=text, environment=environment
        )


async def apply(cluster: Cluster, binaries: Binaries, kubectl: Kubectl) -> None:
    """Apply the manifests, once."""
    if cluster.state.applied.exists():
        return
    product = cluster.state.product
    values = {
        "coredns_image": product.reference(pins.COREDNS),
        "traefik_image": product.reference(pins.TRAEFIK),
        "dns_service": cluster.network.dns_service,
        "control_plane_label": node.CONTROL_PLANE_LABEL,
    }
    parts = [
        string.Template((paths.MANIFESTS / f"{name}.yaml").read_text()).substitute(values)
        for name in ("api-server", "coredns", "traefik")
    ]
    parts.append((await knative.manifest(product, binaries)).read_text())
    manifest = "\n---\n".join(parts)
    balancer = json.dumps({"status": {"loadBalancer": {"ingress": [{"ip": str(cluster.network.node)}]}}})

    async def applied() -> bool:
        try:
            await kubectl("apply", "--server-side", "--force-conflicts", FIELD_MANAGER, "-f", "-", text=manifest)
        except ClusterError as error:
            # After an interrupted `up`, Knative's webhook may be configured for its ConfigMaps before it runs.
            if "failed calling webhook" in str(error):
                return False
            raise
        return True

    await processes.until(applied, "Knative's webhook", PATIENCE)
    await kubectl(
        "patch", "service", "traefik", "-n", "traefik", "--subresource=status", "--type=merge", "-p", balancer
    )
    cluster.state.applied.touch()


async def running_containers(kubectl: Kubectl, nodes: Set[str]) -> set[str]:
    """Return the ids of all running containers of some nodes, by the last reports of their kubelets."""
    pods = json.loads(await kubectl("get", "pods", "--all-namespaces", "-o", "json"))["items"]
    here = [pod["status"] for pod in pods if pod["spec"].get("nodeName") in nodes]
    statuses = [status for pod in here for status in pod.get("containerStatuses", [])]
    return {status["containerID"].removeprefix("containerd://") for status in statuses if "running" in status["state"]}


async def nodes_are_ready(kubectl: Kubectl, nodes: Set[str], dead: Set[str]) -> None:
    """Wait until nodes are ready.

    `dead`: containers that ended with an earlier sandbox. The kubelets must notice that first.
    """

    async def noticed() -> bool:
        return not dead & await running_containers(kubectl, nodes)

    async def are_ready() -> bool:
        found = await report_nodes(kubectl)
        return all(found.get(name) == "" for name in nodes)

    await processes.until(noticed, "the kubelets' report on their pods", PATIENCE)
    await processes.until(are_ready, f"node {', '.join(sorted(nodes))}", PATIENCE)


async def report_nodes(kubectl: Kubectl) -> dict[str, str]:
    """Return the registered nodes, and the reason why each is not ready; empty if it is."""
    nodes = json.loads(await kubectl("get", "nodes", "-o", "json"))["items"]
    return {each["metadata"]["name"]: _unless(each.get("status"), "Ready") for each in nodes}


async def ready(cluster: Cluster, kubectl: Kubectl) -> None:
    """Wait until all add-ons are available, and Knative's webhooks and the ingress respond.

    Raises:
        ClusterError: the timeout is over; the message has the reasons that Kubernetes reports.
    """
    try:
        await asyncio.gather(
            *(
                kubectl("rollout", "status", f"--timeout={PATIENCE}s", "-n", namespace, f"deployment/{name}")
                for namespace, names in DEPLOYMENTS.items()
                for name in names
            )
        )
    except ClusterError as error:
        lines = [f"    {part}: {trouble}" for part, trouble in (await report(kubectl)).items() if trouble]
        raise ClusterError(
            "\n".join([f"not available after {PATIENCE} s:", *lines]), "kubectl describe pod says more."
        ) from error

    # Never created: a dry run shows that Knative's webhooks answer.
    image = f"{cluster.state.product.image_prefix}/probe"
    probe = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "probe", "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
    }

    async def admitted() -> bool:
        try:
            await kubectl("create", "--dry-run=server", "-f", "-", text=json.dumps(probe))
        except ClusterError:
            return False
        return True

    await processes.until(admitted, "Knative's webhook", PATIENCE)
    await processes.until(lambda: asyncio.to_thread(_ingress_answers, cluster), "the ingress", PATIENCE)


def _ingress_answers(cluster: Cluster) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(f"http://{cluster.network.node}/", timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code == HTTPStatus.NOT_FOUND  # Traefik's response for an unknown host
    except OSError:
        return False
    return True


async def report(kubectl: Kubectl, deployments: Mapping[str, tuple[str, ...]] = DEPLOYMENTS) -> dict[str, str]:
    """Return the Deployments, and the reason why each is unavailable; empty if it is available."""
    answer = json.loads(await kubectl("get", "deployments", "--all-namespaces", "-o", "json"))
    found = {(item["metadata"]["namespace"], item["metadata"]["name"]): item["status"] for item in answer["items"]}
    return {
        f"{namespace}/{name}": _missing(found.get((namespace, name)))
        for namespace, names in deployments.items()
        for name in names
    }


def _missing(status: dict[str, list[dict[str, str]]] | None) -> str:
    return "does not exist" if status is None else _unless(status, "Available")


def _unless(status: dict[str, list[dict[str, str]]] | None, kind: str) -> str:
    """Return the message of a condition that is not true; empty if it is true."""
    conditions = {condition["type"]: condition for condition in (status or {}).get("conditions", [])}
    found = conditions.get(kind, {"status": "Unknown", "message": "no status yet"})
    return "" if found["status"] == "True" else found["message"]
