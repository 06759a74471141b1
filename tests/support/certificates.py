"""A certificate authority in miniature, for TLS in tests."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.proofs import thumbprint_of

DAY = datetime.timedelta(days=1)


def key_usage(*, signs: bool = True, certifies: bool = False, revokes: bool = False) -> x509.KeyUsage:
    """What a key is for."""
    return x509.KeyUsage(signs, False, False, False, False, certifies, revokes, False, False)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        """As the transport hands it on."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def thumbprint(self) -> str:
        """RFC 8705: `x5t#S256`."""
        return thumbprint_of(self.der)

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """PEM files of the certificate and its key."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, key

    def client_context(self, folder: Path, ca: Authority) -> ssl.SSLContext:
        """A client that shows this certificate and trusts the authority."""
        context = ca.trusting_context(folder)
        context.load_cert_chain(*self.write(folder, f"client-{self.thumbprint[:8]}"))
        return context


class Authority:
    """Issues certificates."""

    def __init__(self, name: str = "Test CA") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._build(
            self.name,
            self.key,
            [(x509.BasicConstraints(ca=True, path_length=0), True)],
            starts_in=-DAY,
            ends_in=10 * DAY,
        )

    def _build(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
        starts_in: datetime.timedelta,
        ends_in: datetime.timedelta,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + starts_in)
            .not_valid_after(now + ends_in)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def issue(
        self,
        name: str = "app",
        *,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
        names: Sequence[x509.GeneralName] = (),
        more: Sequence[x509.ExtensionType] = (),
        starts_in: datetime.timedelta = -DAY,
        ends_in: datetime.timedelta = DAY,
    ) -> Certificate:
        """A certificate for a client, unless `usage` says otherwise; with `more` extensions."""
        key = ec.generate_private_key(ec.SECP256R1())
        extensions: list[tuple[x509.ExtensionType, bool]] = [(x509.ExtendedKeyUsage([usage]), False)]
        extensions += [(extension, True) for extension in more]
        if names:
            extensions.append((x509.SubjectAlternativeName(names), False))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return Certificate(self._build(subject, key, extensions, starts_in, ends_in), key)

    def issue_svid(self, *spiffe_ids: str, **more: Any) -> Certificate:
        """An X.509-SVID as SPIRE writes it."""
        names = [x509.UniformResourceIdentifier(spiffe_id) for spiffe_id in spiffe_ids]
        extensions = [x509.BasicConstraints(ca=False, path_length=None), key_usage()]
        given: dict[str, Any] = {"names": names, "more": extensions} | more
        return self.issue("svid", **given)

    def issue_server(self) -> Certificate:
        """A certificate for a server on loopback."""
        return self.issue(
            "localhost",
            usage=ExtendedKeyUsageOID.SERVER_AUTH,
            names=[x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))],
        )

    def write(self, folder: Path, name: str = "ca") -> Path:
        """The authority's own certificate as a PEM file."""
        path = folder / f"{name}.pem"
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path

    def trusting_context(self, folder: Path) -> ssl.SSLContext:
        """A client that trusts this authority."""
        return ssl.create_default_context(cafile=self.write(folder, "trusted"))
