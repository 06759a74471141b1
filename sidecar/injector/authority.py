"""The injector's own certificates as a Secret holds them: authorities, the oldest first, and what the newest of them in
use has signed for the listener. Pure: the time comes in, what is to be stored comes out.

An authority is announced (its certificate is in the bundle that the API server trusts) a day before anything is
signed by it, and stays announced until it expires. So replicas need no leader and no common step: whichever of their
certificates the API server meets, it trusts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ANNOUNCED: Final = timedelta(days=1)
"""How long an authority is known before it signs."""
_BACKDATED: Final = timedelta(minutes=5)
_NAME: Final = "openbao-sidecar injector"
_KEY_END: Final = b"-----END PRIVATE KEY-----"

Stored = Mapping[str, bytes]
"""A Secret's data: `ca.crt` and `ca.key` (PEM, one after the other), `tls.crt`, `tls.key`."""


@dataclass(frozen=True, slots=True)
class Lives:
    """How long each lasts."""

    certificate: timedelta
    authority: timedelta


@dataclass(frozen=True, slots=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def age(self, now: datetime) -> timedelta:
        return now - self.certificate.not_valid_before_utc

    def share_of_life(self, now: datetime) -> float:
        life = self.certificate.not_valid_after_utc - self.certificate.not_valid_before_utc
        return self.age(now) / life


def renewed(stored: Stored, now: datetime, names: Sequence[str], lives: Lives) -> dict[str, bytes] | None:
    """What is to be stored in place of `stored`; None where it may stay. What cannot be read is made anew."""
    authorities = [one for one in _authorities(stored) if one.certificate.not_valid_after_utc > now]
    kept = len(authorities)
    if not authorities or authorities[-1].share_of_life(now) >= 1 / 2:
        authorities.append(_authority(now, lives.authority))
    signer = next((one for one in reversed(authorities) if one.age(now) >= ANNOUNCED), authorities[0])
    listeners = _listeners(stored)
    if listeners is None or not _serves(listeners, signer, now, names):
        listeners = _signed(signer, now, names, lives.certificate)
    elif len(authorities) == kept and _bundle(authorities) == stored.get("ca.crt"):
        return None
    return {
        "ca.crt": _bundle(authorities),
        "ca.key": b"".join(_key_pem(one.key) for one in authorities),
        "tls.crt": listeners.certificate.public_bytes(Encoding.PEM),
        "tls.key": _key_pem(listeners.key),
    }


def _serves(listeners: _Pair, signer: _Pair, now: datetime, names: Sequence[str]) -> bool:
    try:
        listeners.certificate.verify_directly_issued_by(signer.certificate)
        alternative = listeners.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    named = alternative.get_values_for_type(x509.DNSName)
    return listeners.share_of_life(now) < 2 / 3 and named == list(names)


# -- reading ---------------------------------------------------------------------------------------------------------
def _authorities(stored: Stored) -> list[_Pair]:
    try:
        certificates = x509.load_pem_x509_certificates(stored.get("ca.crt", b""))
        keys = [_key(text + _KEY_END) for text in stored.get("ca.key", b"").split(_KEY_END)[:-1]]
        pairs = [_pair(certificate, key) for certificate, key in zip(certificates, keys, strict=True)]
    except (ValueError, TypeError):
        return []
    in_order = all(
        one.certificate.not_valid_before_utc <= two.certificate.not_valid_before_utc for one, two in pairwise(pairs)
    )
    return pairs if in_order else []


def _listeners(stored: Stored) -> _Pair | None:
    try:
        return _pair(x509.load_pem_x509_certificate(stored.get("tls.crt", b"")), _key(stored.get("tls.key", b"")))
    except (ValueError, TypeError):
        return None


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("a key of another kind")
    return key


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> _Pair:
    if certificate.public_key() != key.public_key():
        raise ValueError("the key is another certificate's")
    return _Pair(certificate, key)


# -- making ----------------------------------------------------------------------------------------------------------
def _authority(now: datetime, life: timedelta) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # A name for each: the API server's library tries authorities by name.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{_NAME} {serial % 2**32:08x}")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key, now, now + life)
        .serial_number(serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certifies=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Pair(certificate, key)


def _signed(signer: _Pair, now: datetime, names: Sequence[str], life: timedelta) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    until = min(now + life, signer.certificate.not_valid_after_utc)
    alternative = x509.SubjectAlternativeName([x509.DNSName(one) for one in names])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
    certificate = (
        _builder(name, signer.certificate.subject, key, now, until)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certifies=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(alternative, critical=False)
        .add_extension(authority, critical=False)
        .sign(signer.key, hashes.SHA256())
    )
    return _Pair(certificate, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, since: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .not_valid_before(since - _BACKDATED)
        .not_valid_after(until)
    )


def _usage(*, certifies: bool) -> x509.KeyUsage:
    return x509.KeyUsage(not certifies, False, False, False, False, certifies, certifies, False, False)


def _bundle(authorities: Sequence[_Pair]) -> bytes:
    return b"".join(one.certificate.public_bytes(Encoding.PEM) for one in authorities)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
