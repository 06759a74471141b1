"""Certificates of the development world: a CA that forgets its key, a server, two clients. ECDSA P-256, 30 days."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sidecar.dev.files import write_private

_LIFETIME: Final = timedelta(days=30)
_BACKDATED: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """Where everything lies. `other_client` is of the same CA and belongs to somebody else."""

    ca: Path
    server: KeyPair
    client: KeyPair
    other_client: KeyPair

    @classmethod
    def in_folder(cls, folder: Path) -> Certificates:
        """The paths, whether or not the files are there."""

        def pair(name: str) -> KeyPair:
            return KeyPair(folder / f"{name}.pem", folder / f"{name}-key.pem")

        return cls(folder / "ca.pem", pair("server"), pair("client"), pair("other-client"))


def make_certificates(folder: Path) -> Certificates:
    """Makes all anew. The CA's key is never written: nobody can issue another certificate of it."""
    made = Certificates.in_folder(folder)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("openbao-sidecar development CA")
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    write_private(made.ca, ca.public_bytes(serialization.Encoding.PEM))

    server_names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    for pair, common_name, usage, names in (
        (made.server, "localhost", ExtendedKeyUsageOID.SERVER_AUTH, server_names),
        (made.client, "app", ExtendedKeyUsageOID.CLIENT_AUTH, [x509.DNSName("app.dev.internal")]),
        (made.other_client, "thief", ExtendedKeyUsageOID.CLIENT_AUTH, [x509.DNSName("thief.dev.internal")]),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(common_name), ca_name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        write_private(pair.cert, certificate.public_bytes(serialization.Encoding.PEM))
        write_private(pair.key, private_pem(key))
    return made


def thumbprint(cert: Path) -> str:
    """`x5t#S256` of a PEM certificate: base64url SHA-256 of its DER form, without padding (RFC 8705, section 3.1)."""
    der = x509.load_pem_x509_certificate(cert.read_bytes()).public_bytes(serialization.Encoding.DER)
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS #8."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _LIFETIME)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
