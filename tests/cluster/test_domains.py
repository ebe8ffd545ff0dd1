"""Where a model's URL is reachable: under its own host name with HTTPS, outside the cluster, or only inside."""

import base64
import json
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cluster.support import READY, Ingress, Json, Namespace, Trained, condition, deployment
from serve_core.api import state

IRIS = "s3://models/iris/model.joblib"
DOMAIN = "iris.models.example.com"


@dataclass(frozen=True)
class Certificate:
    """A certificate that signs itself, for one host name, and its key; both in PEM."""

    certificate: bytes
    key: bytes

    def secret(self, name: str) -> Json:
        files = {"tls.crt": self.certificate, "tls.key": self.key}
        data = {key: base64.b64encode(value).decode() for key, value in files.items()}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": name},
            "data": data,
        }

    @property
    def trust(self) -> ssl.SSLContext:
        """Trusts this certificate, and no other."""
        return ssl.create_default_context(cadata=self.certificate.decode())


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, DOMAIN)])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(DOMAIN)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Certificate(signed.public_bytes(serialization.Encoding.PEM), pem)


def claim(namespace: Namespace) -> Json:
    """What an administrator writes to let the namespace have the host name."""
    head = {"apiVersion": "networking.internal.knative.dev/v1alpha1", "kind": "ClusterDomainClaim"}
    return head | {"metadata": {"name": DOMAIN}, "spec": {"namespace": namespace.name}}


def test_a_model_answers_by_https_under_its_own_host_name(
    namespace: Namespace, ingress: Ingress, iris: Trained, certificate: Certificate, tmp_path: Path
) -> None:
    namespace.apply(certificate.secret("own-name"))
    namespace.apply(deployment("iris", IRIS, credentials="store", domain=DOMAIN, tls="own-name"))
    unclaimed = namespace.watch(
        "deployment", "iris", lambda found: condition(found, READY).get("reason") == "DomainNotClaimed", 120
    )
    assert "ClusterDomainClaim" in condition(unclaimed, READY)["message"]

    try:
        namespace.apply(claim(namespace))
        served = namespace.wait_ready("iris")

        url = state.read(served).url
        assert url == f"https://{DOMAIN}"
        assert url in condition(served, READY)["message"]
        assert namespace.kubectl("serve", "get", "iris", "-o", "url") == f"{url}\n"
        assert ingress.certificate(DOMAIN) == ssl.PEM_cert_to_DER_cert(certificate.certificate.decode())
        assert ingress.predict(served, iris.rows, trust=certificate.trust).predicted == iris.answers
        with pytest.raises(ssl.SSLCertVerificationError):
            ingress.predict(served, iris.rows, trust=ssl.create_default_context())

        (tmp_path / "ca.pem").write_bytes(certificate.certificate)
        trusting = ["env", f"SSL_CERT_FILE={tmp_path / 'ca.pem'}"]
        said = namespace.run(*trusting, "kubectl", "serve", "predict", "iris", json.dumps(iris.rows)).stdout
        assert json.loads(said)["outputs"][0]["data"] == iris.answers
    finally:
        namespace.kubectl("delete", "clusterdomainclaim", DOMAIN, "--ignore-not-found")


def test_visibility_says_who_reaches_a_model(namespace: Namespace, ingress: Ingress, iris: Trained) -> None:
    namespace.apply(deployment("open", IRIS, credentials="store", visibility="public"))
    namespace.apply(deployment("inner", IRIS, credentials="store", visibility="cluster-local"))
    public, inner = namespace.wait_ready("open"), namespace.wait_ready("inner")

    outside = urlsplit(state.read(public).url).hostname or ""
    assert not outside.endswith(".svc.cluster.local")
    assert ingress.predict(public, iris.rows).predicted == iris.answers

    name = f"inner.{namespace.name}.svc.cluster.local"
    assert state.read(inner).url == f"http://{name}"
    for host in (name, outside.replace("open", "inner", 1)):
        assert ingress.request(f"http://{host}", "/v2/models/inner/ready").status == 404, host
    # The plugin goes in by the API server.
    answer = namespace.kubectl("serve", "predict", "inner", json.dumps(iris.rows))
    assert json.loads(answer)["outputs"][0]["data"] == iris.answers
