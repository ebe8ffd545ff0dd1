"""etcd, the API server, the controller manager and the scheduler: unprivileged processes in the sandbox."""

import json
import os
import ssl
import urllib.error
import urllib.request
from asyncio import to_thread
from collections.abc import Mapping
from pathlib import Path

from localcluster.build import Binaries
from localcluster.cluster import API_PORT, Cluster, inside
from localcluster.paths import Inside

USER = 64123
"""An unused user id: Debian assigns 100-999 and 1000-59999."""

UNPRIVILEGED = (
    "setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs", "--inh-caps=-all",
    "--bounding-set=-all",
)  # fmt: skip

PROCESSES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")

PKI = Inside.PKI
CONFIG = Inside.CONFIG


def hand_over(cluster: Cluster) -> None:
    """Give the unprivileged user the files that it needs, and no others."""
    data = cluster.state.folder / "etcd"
    data.mkdir(mode=0o700, exist_ok=True)
    own = [
        data,
        *(
            cluster.state.pki / f"{name}.key"
            for name in (
                "etcd",
                "apiserver",
                "apiserver-etcd-client",
                "apiserver-kubelet-client",
                "front-proxy-client",
                "service-account",
                "ca",  # for signing certificate requests
            )
        ),
        *(cluster.state.config / f"{name}.kubeconfig" for name in ("controller-manager", "scheduler", "webhooks")),
    ]
    for path in own:
        os.chown(path, USER, USER)


def write_config(cluster: Cluster) -> None:
    """Configure the client certificate that the API server presents to webhooks."""
    webhooks = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "WebhookAdmissionConfiguration",
        "kubeConfigFile": str(CONFIG / "webhooks.kubeconfig"),
    }
    admission = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [
            {"name": name, "configuration": webhooks}
            for name in ("MutatingAdmissionWebhook", "ValidatingAdmissionWebhook")
        ],
    }
    (cluster.state.config / "admission.json").write_text(json.dumps(admission))


def commands(cluster: Cluster, binaries: Binaries) -> dict[str, list[str | Path]]:
    """Return the commands to run in the sandbox, by name, in the order of starting."""
    flags: dict[str, Mapping[str, object]] = {
        "etcd": {
            "name": "default",
            "data-dir": Inside.STATE / "etcd",
            "listen-client-urls": "https://127.0.0.1:2379",
            "advertise-client-urls": "https://127.0.0.1:2379",
            "listen-peer-urls": "https://127.0.0.1:2380",
            "initial-advertise-peer-urls": "https://127.0.0.1:2380",
            "initial-cluster": "default=https://127.0.0.1:2380",
            "cert-file": PKI / "etcd.crt",
            "key-file": PKI / "etcd.key",
            "client-cert-auth": "true",
            "trusted-ca-file": PKI / "etcd-ca.crt",
            "peer-cert-file": PKI / "etcd.crt",
            "peer-key-file": PKI / "etcd.key",
            "peer-client-cert-auth": "true",
            "peer-trusted-ca-file": PKI / "etcd-ca.crt",
            # `up` recreates what a power failure destroys, so do not wait for the disk.
            "unsafe-no-fsync": "true",
            "log-level": "warn",
        },
        "kube-apiserver": {
            "advertise-address": cluster.network.node,
            "secure-port": API_PORT,
            "tls-cert-file": PKI / "apiserver.crt",
            "tls-private-key-file": PKI / "apiserver.key",
            "client-ca-file": PKI / "ca.crt",
            "etcd-servers": "https://127.0.0.1:2379",
            "etcd-cafile": PKI / "etcd-ca.crt",
            "etcd-certfile": PKI / "apiserver-etcd-client.crt",
            "etcd-keyfile": PKI / "apiserver-etcd-client.key",
            "kubelet-certificate-authority": PKI / "ca.crt",
            "kubelet-client-certificate": PKI / "apiserver-kubelet-client.crt",
            "kubelet-client-key": PKI / "apiserver-kubelet-client.key",
            "kubelet-preferred-address-types": "InternalIP",
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-account-key-file": PKI / "service-account.pub",
            "service-account-signing-key-file": PKI / "service-account.key",
            "service-cluster-ip-range": cluster.network.services,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "admission-control-config-file": CONFIG / "admission.json",
            "allow-privileged": "true",
            "requestheader-client-ca-file": PKI / "front-proxy-ca.crt",
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": PKI / "front-proxy-client.crt",
            "proxy-client-key-file": PKI / "front-proxy-client.key",
            "profiling": "false",
        },
        "kube-controller-manager": {
            "kubeconfig": CONFIG / "controller-manager.kubeconfig",
            "authentication-kubeconfig": CONFIG / "controller-manager.kubeconfig",
            "authorization-kubeconfig": CONFIG / "controller-manager.kubeconfig",
            "bind-address": "127.0.0.1",
            "use-service-account-credentials": "true",
            "service-account-private-key-file": PKI / "service-account.key",
            "root-ca-file": PKI / "ca.crt",
            "cluster-signing-cert-file": PKI / "ca.crt",
            "cluster-signing-key-file": PKI / "ca.key",
            "client-ca-file": PKI / "ca.crt",
            "requestheader-client-ca-file": PKI / "front-proxy-ca.crt",
            "allocate-node-cidrs": "false",
            # The only instance needs no election, and does not wait for the lease of an earlier run.
            "leader-elect": "false",
            "profiling": "false",
        },
        "kube-scheduler": {
            "kubeconfig": CONFIG / "scheduler.kubeconfig",
            "authentication-kubeconfig": CONFIG / "scheduler.kubeconfig",
            "authorization-kubeconfig": CONFIG / "scheduler.kubeconfig",
            "bind-address": "127.0.0.1",
            "client-ca-file": PKI / "ca.crt",
            "leader-elect": "false",
            "profiling": "false",
        },
    }
    return {
        name: [
            *UNPRIVILEGED,
            inside(binaries.path("etcd" if name == "etcd" else "kubernetes", name)),
            *(f"--{flag}={value}" for flag, value in options.items()),
        ]
        for name, options in flags.items()
    }


async def api_is_ready(cluster: Cluster) -> bool:
    """Return whether the API server is ready, by /readyz."""
    pki = cluster.state.pki
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    # The environment's proxy cannot reach an address of this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))

    def ask() -> bool:
        try:
            with opener.open(f"{cluster.server}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    return await to_thread(ask)
