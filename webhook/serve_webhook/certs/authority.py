"""The server's certificates: one authority and one leaf, and when each is renewed. Pure: the clock is passed in.

An authority's certificate is renewed with the same key and name, so that earlier leaves still verify. Its key is
replaced by overlap: first the new authority joins the bundle, then it signs leaves, then the old authority is removed.
"""

import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from serve_core.base.constants import NAMESPACE, SERVICE_ACCOUNT

SERVER_NAMES = (f"{SERVICE_ACCOUNT}.{NAMESPACE}.svc", f"{SERVICE_ACCOUNT}.{NAMESPACE}.svc.cluster.local")
"""The API server calls a webhook's Service by the first."""

AUTHORITY_LIFETIME = timedelta(days=365)
KEY_LIFETIME = timedelta(days=365)
LEAF_LIFETIME = timedelta(days=90)
RENEWAL = 2 / 3
"""The share of its lifetime after which a certificate is renewed."""
OVERLAP = timedelta(hours=1)
"""Duration of each step of a key's replacement, so that every replica and API server has seen it."""
SKEW = timedelta(minutes=5)
"""Maximum difference of a clock that checks a certificate."""

_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_NAME = "kubectl-serve "


@dataclass(frozen=True)
class Signer:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Material:
    """The content of the Secret."""

    authority: Signer
    leaf: Signer
    previous: x509.Certificate | None = None
    """The authority that is being replaced."""

    @property
    def bundle(self) -> bytes:
        """The certificates that callers trust, as PEM."""
        return b"".join(map(_pem, filter(None, (self.authority.certificate, self.previous))))

    @property
    def leaf_is_current(self) -> bool:
        """Whether the present authority signed the leaf, not the previous one."""
        return _signed(self.leaf.certificate, self.authority.certificate)

    def to_files(self) -> dict[str, bytes]:
        """The Secret's data, by file name."""
        files = {
            "ca.crt": _pem(self.authority.certificate),
            "ca.key": _key_pem(self.authority.key),
            "tls.crt": _pem(self.leaf.certificate),
            "tls.key": _key_pem(self.leaf.key),
        }
        return files | ({"ca-previous.crt": _pem(self.previous)} if self.previous else {})

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """The opposite of :meth:`to_files`. Raises ValueError if something is missing, broken or does not fit."""
        missing = sorted({"ca.crt", "ca.key", "tls.crt", "tls.key"} - files.keys())
        if missing:
            raise ValueError(f"{', '.join(missing)} missing")
        authority = _signer(files["ca.crt"], files["ca.key"])
        leaf = _signer(files["tls.crt"], files["tls.key"])
        previous = x509.load_pem_x509_certificate(files["ca-previous.crt"]) if "ca-previous.crt" in files else None
        material = cls(authority, leaf, previous)
        if not trusts(material.bundle, leaf.certificate):
            raise ValueError("tls.crt was not signed by ca.crt")
        return material


def issue(now: datetime) -> Material:
    """A new authority and a leaf signed by it."""
    authority = _new_authority(now)
    return Material(authority, _new_leaf(now, authority))


def replace_key(material: Material, now: datetime) -> Material:
    """Begin the replacement of the authority's key: the new one joins the bundle, the leaf stays."""
    return Material(_new_authority(now), material.leaf, material.authority.certificate)


def advance(material: Material, now: datetime, published: bool) -> Material:
    """The next state; the same one if nothing is due. ``published``: every webhook has the present bundle."""
    authority, leaf = material.authority, material.leaf
    if _share(leaf.certificate, now) >= 1 or _names(leaf.certificate) != SERVER_NAMES:
        return replace(material, leaf=_new_leaf(now, authority))
    if not material.leaf_is_current:
        if published and now >= authority.certificate.not_valid_before_utc + SKEW + OVERLAP:
            return replace(material, leaf=_new_leaf(now, authority))
        return material
    if material.previous is not None:
        if now >= leaf.certificate.not_valid_before_utc + SKEW + OVERLAP:
            return replace(material, previous=None)
        return material
    if now >= _created(authority.certificate) + KEY_LIFETIME:
        return replace_key(material, now)
    if _share(authority.certificate, now) >= RENEWAL:
        return replace(material, authority=_certify(authority.key, authority.certificate.subject, now))
    if _share(leaf.certificate, now) >= RENEWAL:
        return replace(material, leaf=_new_leaf(now, authority))
    return material


def trusts(bundle: bytes, leaf: x509.Certificate) -> bool:
    """Whether a certificate of the bundle (PEM) signed the leaf."""
    try:
        authorities = x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return False
    return any(_signed(leaf, authority) for authority in authorities)


def load(context: ssl.SSLContext, material: Material) -> None:
    """Use the leaf for new connections."""
    files = material.to_files()
    load_chain(context, files["tls.crt"], files["tls.key"])


def load_chain(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Use a certificate, with intermediate ones behind it, and its key (PEM) for new connections. Raises OSError."""
    # OpenSSL reads certificates only from files. This one is deleted at once.
    with tempfile.NamedTemporaryFile() as file:
        file.write(chain + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name)


def _new_authority(now: datetime) -> Signer:
    # The name has the key's creation time and stays with the key, so two keys never share a name.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME + now.astimezone(UTC).strftime(_TIME_FORMAT))])
    return _certify(ec.generate_private_key(ec.SECP256R1()), name, now)


def _certify(key: ec.EllipticCurvePrivateKey, name: x509.Name, now: datetime) -> Signer:
    certificate = (
        _builder(name, name, key, now, AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Signer(certificate, key)


def _new_leaf(now: datetime, authority: Signer) -> Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAMES[0])])
    certificate = (
        _builder(name, authority.certificate.subject, key, now, LEAF_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in SERVER_NAMES]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return Signer(certificate, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _created(authority: x509.Certificate) -> datetime:
    text = str(authority.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value).removeprefix(_NAME)
    return datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC)


def _share(certificate: x509.Certificate, now: datetime) -> float:
    """How much of its lifetime has passed, as a share of 1."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (now - start) / (end - start)


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(names.get_values_for_type(x509.DNSName))


def _signed(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _signer(certificate: bytes, key: bytes) -> Signer:
    loaded = serialization.load_pem_private_key(key, password=None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ValueError("a key is not an elliptic curve's")
    signer = Signer(x509.load_pem_x509_certificate(certificate), loaded)
    if signer.certificate.public_key() != loaded.public_key():
        raise ValueError("a key does not belong to its certificate")
    return signer


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
