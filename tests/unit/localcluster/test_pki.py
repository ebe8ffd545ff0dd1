"""The cluster's certificates."""

import base64
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from localcluster import pki


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    await pki.make(tmp_path / "pki", pki.leaves("node", "10.9.0.2", "10.9.64.1"), issuer="product")
    return tmp_path / "pki"


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


async def test_the_api_server_is_trusted_under_each_of_its_names(folder: Path) -> None:
    policy = PolicyBuilder().store(Store([certificate(folder, "ca")]))
    for name in ("kubernetes.default.svc", "localhost"):
        policy.build_server_verifier(x509.DNSName(name)).verify(certificate(folder, "apiserver"), [])


async def test_every_leaf_is_signed_by_its_authority_alone(folder: Path) -> None:
    for leaf in pki.leaves("node", "10.9.0.2", "10.9.64.1"):
        certificate(folder, leaf.name).verify_directly_issued_by(certificate(folder, leaf.authority))
        assert leaf.name == "etcd" or not (folder / f"{leaf.name}.key").stat().st_mode & 0o077


async def test_the_kubelet_has_the_names_of_the_node_authorizer(folder: Path) -> None:
    names = {name.rfc4514_attribute_name: name.value for name in certificate(folder, "kubelet").subject}
    assert names == {"O": "system:nodes", "CN": "system:node:node"}


async def test_another_node_has_its_own_certificate_and_no_key_of_an_authority(folder: Path, tmp_path: Path) -> None:
    await pki.issue(pki.kubelet("second", "10.9.0.6"), folder, tmp_path / "second")
    assert {file.name for file in (tmp_path / "second").iterdir()} == {
        "ca.crt",
        "kubelet.crt",
        "kubelet.key",
        "openssl.cnf",
    }
    issued = certificate(tmp_path / "second", "kubelet")
    issued.verify_directly_issued_by(certificate(folder, "ca"))
    policy = PolicyBuilder().store(Store([certificate(folder, "ca")]))
    policy.build_server_verifier(x509.DNSName("second")).verify(issued, [])


async def test_existing_certificates_are_kept(folder: Path) -> None:
    before = (folder / "ca.crt").read_bytes()
    await pki.make(folder, (), issuer="product")
    assert (folder / "ca.crt").read_bytes() == before


async def test_a_kubeconfig_embeds_its_certificate_and_is_private(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "kubeconfig"
    pki.write_kubeconfig(target, folder, "admin", "https://10.9.0.2:6443", cluster="here")

    content = json.loads(target.read_text())
    user = content["users"][0]["user"]
    assert base64.b64decode(user["client-certificate-data"]) == (folder / "admin.crt").read_bytes()
    assert content["contexts"] == [{"name": "here", "context": {"cluster": "here", "user": "here-admin"}}]
    assert content["current-context"] == "here"
    assert target.stat().st_mode & 0o777 == 0o600
