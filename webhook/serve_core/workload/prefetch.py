"""The pods that load a model on nodes before its own pods need it, and what makes them.

A StatefulSet for a number of nodes, one pod on each; a DaemonSet for all. They are ready once the nodes have the model,
and are deleted then. The pods have the model's volume, with its Secret, and the model's node selection. So the kubelet
passes the pod's own credentials, as for the model's pods, and every quota and policy applies.
"""

from collections.abc import Iterable
from typing import Any

from serve_core.api.annotation_values import Nodes
from serve_core.base import overlay
from serve_core.base.constants import DEPLOYMENT_LABEL, MODEL_MOUNT, MODEL_VOLUME, PREFETCH_LABEL
from serve_core.base.json import JsonObject, value_at
from serve_core.base.workload import Workload
from serve_core.context.cluster import LoaderConfig
from serve_core.workload import cache_volume, loader_container, model_image

CONTAINER = "model-prefetch"
_WAIT = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); signal.pause()"
"""A program for the loader's image that only waits. As the first process of its container, it must handle SIGTERM."""
_KINDS = ("StatefulSet", "DaemonSet")
_AT_ONCE = {"podManagementPolicy": "Parallel"}
_LONGEST_HEAD = 30
"""Characters of the Deployment's name in the names: Kubernetes makes labels and host names of them."""
_KEPT = ("nodeSelector", "tolerations", "runtimeClassName", "schedulerName", "imagePullSecrets")
"""Fields of the model's pods that decide where they run, and with which credentials the node pulls images."""
_MESH = "istio.io/"
"""In labels and annotations: the pods are in the mesh if the model's are, as a policy can require it."""


def volume(workload: Workload) -> JsonObject | None:
    """The model's volume, if nodes keep what it has: of the node cache, or an image."""
    found = next((each for each in workload.volumes if each.get("name") == MODEL_VOLUME), None)
    if found is None or not (cache_volume.is_ours(found) or model_image.reference_in(workload.pod)):
        return None
    return found


def digest(workload: Workload, nodes: Nodes) -> str:
    """Identifies what is loaded and on how many nodes; empty if nodes cannot keep the model."""
    found = volume(workload)
    return "" if found is None else overlay.digest([workload.name, found, str(nodes)])[:10]


def render(workload: Workload, nodes: Nodes, loader: LoaderConfig) -> JsonObject | None:
    """The StatefulSet or DaemonSet for a completed Deployment; ``None`` if nodes cannot keep its model."""
    model = volume(workload)
    if model is None:
        return None
    name = digest(workload, nodes)
    title = f"{_head(workload.name)}-prefetch-{name}"
    labels = {PREFETCH_LABEL: workload.name}
    own: JsonObject = {
        "name": title,
        "labels": {DEPLOYMENT_LABEL: workload.name, **labels},
    }
    if workload.namespace:
        own["namespace"] = workload.namespace
    selected = {**labels, f"{PREFETCH_LABEL}-id": name}
    pod: JsonObject = {key: workload.pod[key] for key in _KEPT if workload.pod.get(key)}
    affinity = {key: value for key, value in (workload.pod.get("affinity") or {}).items() if key == "nodeAffinity"}
    if nodes.count is not None:
        term = {"labelSelector": {"matchLabels": dict(selected)}, "topologyKey": "kubernetes.io/hostname"}
        affinity["podAntiAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    if affinity:
        pod["affinity"] = affinity
    pod |= {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "containers": [container(loader.image)],
        "volumes": [model],
    }
    metadata: JsonObject = {"labels": selected | _of_mesh(workload.template_labels)}
    if notes := _of_mesh(workload.template_annotations):
        metadata["annotations"] = notes
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet" if nodes.count is None else "StatefulSet",
        "metadata": own,
        "spec": {
            **({} if nodes.count is None else {"replicas": nodes.count, **_AT_ONCE, "serviceName": title}),
            "selector": {"matchLabels": dict(selected)},
            "template": {"metadata": metadata, "spec": pod},
        },
    }


def _head(name: str) -> str:
    return name[:_LONGEST_HEAD].replace(".", "-").rstrip("-")


def _of_mesh(texts: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in texts.items() if _MESH in key}


def container(image: str) -> JsonObject:
    """The container that holds the volume and does nothing."""
    return {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/opt/model-loader/bin/python", "-I", "-c", _WAIT],
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": dict(loader_container.RESTRICTED),
        **loader_container.TERMINATION,
        "volumeMounts": [{"name": MODEL_VOLUME, "mountPath": MODEL_MOUNT, "readOnly": True}],
    }


def is_container(found: JsonObject, pod: JsonObject, loaders: Iterable[LoaderConfig]) -> bool:
    """Whether a container of a pod is one that :func:`container` gives, with whatever resources: it does nothing."""
    images = {image for each in loaders for image in each.images}
    if found.get("name") != CONTAINER or found.get("image") not in images:
        return False
    wanted = container(str(found["image"]))
    user = value_at(found, "securityContext", "runAsUser")
    if isinstance(user, int) and not isinstance(user, bool) and user > 0:  # OpenShift sets one
        wanted["securityContext"] |= {"runAsUser": user}
    return not loader_container.container_difference(found, pod, wanted)


def is_prefetch(manifest: JsonObject) -> bool:
    """Whether an object makes such pods for a Deployment."""
    metadata = manifest["metadata"]
    labels: Any = metadata.get("labels") or {}
    prefix = f"{_head(str(labels.get(DEPLOYMENT_LABEL)))}-prefetch-"
    return manifest["kind"] in _KINDS and PREFETCH_LABEL in labels and str(metadata["name"]).startswith(prefix)


def is_of_others(manifest: JsonObject) -> bool:
    """Whether an object is a StatefulSet or DaemonSet that does not load a model in advance."""
    return manifest["kind"] in _KINDS and not is_prefetch(manifest)
