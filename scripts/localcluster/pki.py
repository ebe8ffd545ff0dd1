"""The cluster's certificates, made with the openssl program.

The layout is kubeadm's: one certificate authority each for the cluster, etcd and the front proxy.
"""

import asyncio
import base64
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from localcluster.commands import run

DAYS = "3650"
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")


@dataclass(frozen=True)
class Leaf:
    """A certificate: `name`.crt and `name`.key in the folder, signed by `authority`."""

    name: str
    authority: str
    common_name: str
    organization: str = ""
    alternative_names: tuple[str, ...] = ()
    """`DNS:...` and `IP:...`; without any, the certificate is for clients only."""


AUTHORITIES = ("ca", "etcd-ca", "front-proxy-ca")


def leaves(node: str, node_address: str, api_service: str) -> tuple[Leaf, ...]:
    """Return all certificates of the cluster, with the names that RBAC and the Node authorizer expect."""
    cluster = "cluster.local"
    api_names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{cluster}")
    return (
        Leaf("etcd", "etcd-ca", "etcd", alternative_names=("DNS:localhost", "IP:127.0.0.1")),
        Leaf("apiserver-etcd-client", "etcd-ca", "kube-apiserver"),
        Leaf(
            "apiserver",
            "ca",
            "kube-apiserver",
            alternative_names=(
                *(f"DNS:{name}" for name in (*api_names, "localhost")),
                *(f"IP:{address}" for address in (node_address, api_service, "127.0.0.1")),
            ),
        ),
        Leaf("apiserver-kubelet-client", "ca", "kube-apiserver-kubelet-client"),
        Leaf("front-proxy-client", "front-proxy-ca", "front-proxy-client"),
        Leaf("controller-manager", "ca", "system:kube-controller-manager"),
        Leaf("scheduler", "ca", "system:kube-scheduler"),
        Leaf("kube-proxy", "ca", "system:kube-proxy"),
        kubelet(node, node_address),
        Leaf("admin", "ca", "kubernetes-admin", "system:masters"),
    )


def kubelet(node: str, address: str) -> Leaf:
    """Return the certificate of a node's kubelet."""
    return Leaf("kubelet", "ca", f"system:node:{node}", "system:nodes", (f"DNS:{node}", f"IP:{address}"))


async def make(folder: Path, certificates: tuple[Leaf, ...], *, issuer: str) -> None:
    """Make all certificates, once: a finished folder stays as it is. `issuer`: prefix of the authorities' names."""
    unfinished = _unfinished(folder)
    if unfinished is None:
        return
    await asyncio.gather(*(_authority(unfinished, name, issuer) for name in AUTHORITIES), _token_keys(unfinished))
    await asyncio.gather(*(_leaf(unfinished, leaf, unfinished) for leaf in certificates))
    unfinished.rename(folder)


async def issue(leaf: Leaf, authorities: Path, folder: Path) -> None:
    """Make a folder with one certificate and that of its authority, once. `authorities`: the folder of `make`."""
    unfinished = _unfinished(folder)
    if unfinished is None:
        return
    await _leaf(unfinished, leaf, authorities)
    shutil.copy(authorities / f"{leaf.authority}.crt", unfinished)
    unfinished.rename(folder)


def _unfinished(folder: Path) -> Path | None:
    """Return a new folder next to `folder` to work in, or None if there is nothing to do."""
    if folder.is_dir():
        return None
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    # The machine's openssl.cnf may add extensions; this one adds none.
    (unfinished / "openssl.cnf").write_text("[req]\ndistinguished_name=subject\n[subject]\n")
    return unfinished


async def _authority(folder: Path, name: str, issuer: str) -> None:
    await run(
        "openssl", "req", "-config", folder / "openssl.cnf", "-x509", *KEY, "-days", DAYS,
        "-subj", f"/CN={issuer} {name}",
        "-addext", "basicConstraints=critical,CA:TRUE",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
        "-addext", "subjectKeyIdentifier=hash",
        "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt",
    )  # fmt: skip


async def _leaf(folder: Path, leaf: Leaf, authorities: Path) -> None:
    organization = f"/O={leaf.organization}" if leaf.organization else ""
    usage = "clientAuth,serverAuth" if leaf.alternative_names else "clientAuth"
    names = ("-addext", f"subjectAltName={','.join(leaf.alternative_names)}") if leaf.alternative_names else ()
    await run(
        "openssl", "req", "-config", folder / "openssl.cnf", "-x509", *KEY, "-days", DAYS,
        "-subj", f"{organization}/CN={leaf.common_name}",
        "-CA", authorities / f"{leaf.authority}.crt", "-CAkey", authorities / f"{leaf.authority}.key",
        "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "keyUsage=critical,digitalSignature",
        "-addext", f"extendedKeyUsage={usage}", *names,
        # Python 3.13 requires it.
        "-addext", "authorityKeyIdentifier=keyid",
        "-keyout", folder / f"{leaf.name}.key", "-out", folder / f"{leaf.name}.crt",
    )  # fmt: skip


async def _token_keys(folder: Path) -> None:
    """Make the key pair for the tokens of service accounts."""
    private = folder / "service-account.key"
    await run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", private)
    await run("openssl", "pkey", "-in", private, "-pubout", "-out", folder / "service-account.pub")


def write_kubeconfig(target: Path, pki: Path, name: str, server: str, *, cluster: str, user: str = "") -> None:
    """Write a kubeconfig with certificate `name` embedded, readable only by its owner.

    `user`: the user's name in it.
    """
    user = user or f"{cluster}-{name}"

    def embedded(file: str) -> str:
        return base64.b64encode((pki / file).read_bytes()).decode()

    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": cluster, "cluster": {"server": server, "certificate-authority-data": embedded("ca.crt")}}
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": embedded(f"{name}.crt"),
                    "client-key-data": embedded(f"{name}.key"),
                },
            }
        ],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, indent=2)
    unfinished.replace(target)
