"""A node: containerd, the kubelet and kube-proxy.

They run as root, as on every node: they create containers, mounts and iptables rules.
"""

import json
from pathlib import Path

from localcluster import build, pins, sandbox
from localcluster.build import Binaries
from localcluster.cluster import Cluster, inside
from localcluster.paths import Inside, Machine
from localcluster.sandbox import Sandbox

CNI_PLUGINS = Path("/usr/lib/cni")
"""The machine's plugins. A cluster has links to them, so that another plugin can join them."""
REGISTRY_PORT = 5000

PROCESSES = ("containerd", "kubelet", "kube-proxy")
CONTROL_PLANE_LABEL = "localcluster/control-plane"
"""The first node's label: a kubelet may not give itself those of kubernetes.io."""


def write_config(cluster: Cluster, machine: Machine) -> None:
    """Write the configuration of the three, and of the pods' network."""
    folder = machine.config
    (folder / "cni").mkdir(parents=True, exist_ok=True)
    (folder / "containerd.toml").write_text(_containerd(cluster.state.product.reference(pins.PAUSE)))
    (folder / "kubelet.json").write_text(json.dumps(_kubelet(cluster, machine), indent=2))
    chain = folder / "cni" / "10-ptp.conflist"
    if not chain.exists():  # Istio's node agent extends it.
        chain.write_text(json.dumps(_pod_network(cluster, machine), indent=2))
    machine.cni_plugins.mkdir(exist_ok=True)
    for plugin in CNI_PLUGINS.iterdir():
        link = machine.cni_plugins / plugin.name
        if not link.is_symlink():
            link.symlink_to(plugin)
    registry = f"{cluster.network.registry_service}:{REGISTRY_PORT}"
    (folder / "registries" / registry).mkdir(parents=True, exist_ok=True)
    (folder / "registries" / registry / "hosts.toml").write_text(f'server = "http://{registry}"\n')
    # For pods with dnsPolicy Default. That is CoreDNS, which has no upstream server.
    (folder / "resolv.conf").write_text(f"nameserver {cluster.network.dns_service}\n")


def containerd_command() -> list[str | Path]:
    return [_program("containerd"), f"--config={Inside.CONFIG / 'containerd.toml'}"]


def commands(cluster: Cluster, machine: Machine, binaries: Binaries) -> dict[str, list[str | Path]]:
    """Return the commands of the node's processes that need an API server."""
    # The add-ons run on the first node, so that another one can fail without them.
    labels = [f"--node-labels={CONTROL_PLANE_LABEL}=true"] if machine.number == 1 else []
    return {
        "kubelet": [
            inside(binaries.path("kubernetes", "kubelet")),
            f"--config={Inside.CONFIG / 'kubelet.json'}",
            f"--kubeconfig={Inside.CONFIG / 'kubelet.kubeconfig'}",
            f"--hostname-override={machine.name}",
            f"--node-ip={cluster.network.link(machine.number).node}",
            f"--root-dir={Inside.STATE / 'kubelet'}",
            *labels,
        ],
        "kube-proxy": [
            inside(binaries.path("kubernetes", "kube-proxy")),
            f"--kubeconfig={Inside.CONFIG / 'kube-proxy.kubeconfig'}",
            f"--hostname-override={machine.name}",
            f"--cluster-cidr={cluster.network.pods}",
            "--proxy-mode=iptables",
            # The connection table belongs to the machine: keep its size and timeouts.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
            "--oom-score-adj=0",
            "--bind-address=127.0.0.1",
        ],
    }


def ctr(here: Sandbox, *arguments: str | Path) -> list[str]:
    """Return the command line of containerd's client, for the images that the kubelet sees."""
    return here.enter(_program("ctr"), f"--address={Inside.CONTAINERD}", "--namespace=k8s.io", *arguments)


def _program(name: str) -> Path:
    """Return the path of one of containerd's programs inside the sandbox."""
    return Inside.PROGRAMS / build.folder_name(pins.CONTAINERD) / name


def _containerd(sandbox_image: str) -> str:
    return f"""version = 3
root = "{Inside.STATE}/containerd"
state = "/run/containerd"

[grpc]
  address = "{Inside.CONTAINERD}"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{sandbox_image}"

[plugins."io.containerd.cri.v1.images".registry]
  config_path = "{Inside.CONFIG}/registries"

[plugins."io.containerd.cri.v1.runtime"]
  # A container without CAP_SYS_RESOURCE around it may not lower the score; elsewhere this changes nothing.
  restrict_oom_score_adj = true
  # CoreDNS listens on port 53 without being root.
  enable_unprivileged_ports = true
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    # Otherwise it would be that of PATH, such as Debian's, with which it does not work.
    runtime_path = "{_program("containerd-shim-runc-v2")}"
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{Inside.CNI_PLUGINS}"]
    conf_dir = "{Inside.CONFIG}/cni"
"""


def _pod_network(cluster: Cluster, machine: Machine) -> object:
    # Routed point-to-point links: unlike on a bridge, kube-proxy's rules see packets between two pods without the
    # kernel module br_netfilter. Assigned addresses are lost with the sandbox, as the pods are.
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni",
                    "ranges": [[{"subnet": str(cluster.network.link(machine.number).pods)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _kubelet(cluster: Cluster, machine: Machine) -> object:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{Inside.CONTAINERD}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(Inside.PKI / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(Inside.PKI / "kubelet.crt"),
        "tlsPrivateKeyFile": str(Inside.PKI / "kubelet.key"),
        "clusterDNS": [str(cluster.network.dns_service)],
        "clusterDomain": "cluster.local",
        "resolvConf": str(Inside.CONFIG / "resolv.conf"),
        "volumePluginDir": str(Inside.STATE / "kubelet" / "volume-plugins"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{sandbox.cgroup(machine)}",
        "enforceNodeAllocatable": [],  # required by cgroup v1
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "maxPods": 250,
        # The disk belongs to the user: do not evict pods or delete images because it is more than 85 % full.
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "serverTLSBootstrap": False,
    }
