"""What the nodes of a cluster can do, from their reported versions."""

from collections.abc import Iterable

from serve_core.base.json import JsonObject, value_at
from serve_core.syntax import version

IMAGE_VOLUMES = {"kubelet": (1, 35), "containerd": (2, 2), "cri-o": (1, 33)}
"""The first versions with which a folder of an image can be mounted, without a feature gate. From the same version on,
the kubelet gives an image that is on the node only to pods with credentials for it.

Sources: k8s.io/kubernetes 1.35, ``pkg/features/kube_features.go`` (``ImageVolume``,
``KubeletEnsureSecretPulledImages``); containerd 2.2, ``internal/cri/server/container_image_mount.go``: earlier versions
ignore the folder and mount the whole image; CRI-O 1.33.
"""


def without_image_volumes(nodes: Iterable[JsonObject]) -> str:
    """Why a pod cannot have an image as a volume on any of these nodes, as a clause; empty if it can."""
    known = False
    for node in nodes:
        known = True
        info = value_at(node, "status", "nodeInfo")
        runtime, _, runtime_version = str(value_at(info, "containerRuntimeVersion")).partition("://")
        for program, text in (("kubelet", value_at(info, "kubeletVersion")), (runtime, runtime_version)):
            since, found = IMAGE_VOLUMES.get(program), version.parse(text)
            if since is None or found is None or found < since:
                name = value_at(node, "metadata", "name")
                needed = f"image volumes need {program} {since[0]}.{since[1]}" if since else "it has no image volumes"
                return f"node {name} has {program} {text}, and {needed}"
    return "" if known else "no node is known"
