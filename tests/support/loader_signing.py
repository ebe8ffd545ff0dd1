"""Keys, certificates, and signatures, made with the library of the signing tool."""

import datetime
from pathlib import Path

import model_signing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from model_loader.verify import signatures


class Key:
    """A key pair: `private` and `public` are PEM files in a separate folder."""

    def __init__(self, folder: Path, curve: ec.EllipticCurve | None = None) -> None:
        folder.mkdir()
        self.pair = ec.generate_private_key(curve or ec.SECP256R1())
        self.private, self.public = folder / "private.pem", folder / "public.pem"
        self.private.write_bytes(
            self.pair.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.public.write_bytes(
            self.pair.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def sign(
        self, model: Path, signature: Path | None = None, hashing: model_signing.hashing.Config | None = None
    ) -> None:
        """Sign a folder or file. Without `signature`, write it into the folder, as `model_signing sign key` does."""
        signature = signature or model / signatures.NAME
        hashing = hashing or model_signing.hashing.Config()
        if signature.is_relative_to(model):
            hashing.add_ignored_paths(model_path=model, paths=[signature.relative_to(model)])
        config = model_signing.signing.Config().use_elliptic_key_signer(private_key=self.private)
        config.set_hashing_config(hashing).sign(model, signature)


class Authority:
    """A certificate authority: `certificate` is its PEM file."""

    def __init__(self, folder: Path) -> None:
        self.key = Key(folder)
        self.signer = Key(folder / "signer")
        self.certificate = folder / "authority.pem"
        authority = _certificate("authority", self.key, "authority", self.key, authority=True)
        self.certificate.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        self._leaf = folder / "leaf.pem"
        leaf = _certificate("signer", self.signer, "authority", self.key, authority=False)
        self._leaf.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))

    def sign(self, model: Path) -> None:
        """Sign a folder with a certificate of this authority."""
        hashing = model_signing.hashing.Config()
        hashing.add_ignored_paths(model_path=model, paths=[signatures.NAME])
        config = model_signing.signing.Config().use_certificate_signer(
            private_key=self.signer.private, signing_certificate=self._leaf, certificate_chain=[self.certificate]
        )
        config.set_hashing_config(hashing).sign(model, model / signatures.NAME)


def _certificate(name: str, key: Key, issuer: str, by: Key, *, authority: bool) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.pair.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **usage),
            critical=True,
        )
        .sign(by.pair, hashes.SHA256())
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
