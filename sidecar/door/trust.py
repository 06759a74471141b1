"""Whether a client certificate that let a connection in is still good: looked at again before each request.

A handshake is verified once and a connection lives for hours. Meanwhile an authority is replaced, a certificate revoked
or out of date. What OpenSSL verified is not verified anew: it is only narrowed. Pure but for `Standing`'s wall clock.
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Sequence
from pathlib import Path
from time import time as wall_time
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sidecar.errors import Code, Refused

_NEVER: Final = float("-inf")
_BEGIN_CRL: Final = b"-----BEGIN X509 CRL-----"


class ClientTrust:
    """The authorities and revocation lists (RFC 5280) of one state of the files. `crl_file` is None where nothing is
    looked up; with it each certificate of a chain needs a list of its issuer that is up to date."""

    def __init__(self, ca_file: Path, crl_file: Path | None) -> None:
        """Raises OSError or ValueError where a file cannot be read."""
        self._anchors = frozenset(_identity(ca) for ca in x509.load_pem_x509_certificates(ca_file.read_bytes()))
        self._lists = None if crl_file is None else _read_lists(crl_file.read_bytes())

    def good_until(self, chain: Sequence[bytes]) -> float:
        """Until when, in seconds since the epoch, a chain that was verified stays good; the distant past where it is
        not. `chain` is DER, the client's certificate first, the authority's last."""
        certificates = [x509.load_der_x509_certificate(der) for der in chain]
        # The same authority under a renewed certificate is the same: by name and key.
        if not certificates or _identity(certificates[-1]) not in self._anchors:
            return _NEVER
        until = min(certificate.not_valid_after_utc.timestamp() for certificate in certificates)
        if self._lists is None:
            return until
        for certificate, issuer in itertools.pairwise(certificates):
            until = min(until, self._not_revoked_until(certificate, issuer))
        return until

    def _not_revoked_until(self, certificate: x509.Certificate, issuer: x509.Certificate) -> float:
        for each in self._lists or ():
            # The signature says whose list it is, whatever its name says.
            if each.issuer != certificate.issuer or not each.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type] # whatever key it is, a wrong kind is not valid
                continue
            if each.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
                return _NEVER
            return _NEVER if each.next_update_utc is None else each.next_update_utc.timestamp()
        return _NEVER


class TrustSource(Protocol):
    """Where the present state of the files is."""

    @property
    def trust(self) -> ClientTrust | None:
        """What counts now; None where no client certificates are asked for."""


class Standing:
    """One connection's client certificate."""

    __slots__ = ("_chain", "_looked_at", "_source", "_until")

    def __init__(self, source: TrustSource, chain: Sequence[bytes]) -> None:
        self._source = source
        self._chain = chain
        self._looked_at: ClientTrust | None = None
        self._until = _NEVER

    def refusal(self) -> Refused | None:
        """Why the certificate is not good any more, None where it is. The connection ends with that answer: the
        client may have a better one by now."""
        trust = self._source.trust
        if trust is not self._looked_at:
            self._until = _NEVER if trust is None else trust.good_until(self._chain)
            self._looked_at = trust
        if wall_time() <= self._until:
            return None
        return Refused(Code.BINDING_MISMATCH, "the client certificate is not trusted any more, or has expired")


def verified_chain(tls: Any) -> tuple[bytes, ...]:
    """The chain of a handshake as OpenSSL verified it, DER, the client's certificate first; empty without one."""
    if not tls.getpeercert(binary_form=True):
        return ()
    if hasattr(tls, "get_verified_chain"):  # Python 3.13
        return tuple(tls.get_verified_chain())
    found = tls._sslobj.get_verified_chain()  # noqa: SLF001 - before 3.13 only the object underneath has it
    return tuple(ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in found)


def _identity(certificate: x509.Certificate) -> tuple[bytes, bytes]:
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certificate.subject.public_bytes(), key


def _read_lists(pem: bytes) -> tuple[x509.CertificateRevocationList, ...]:
    parts = pem.split(_BEGIN_CRL)[1:]
    if not parts:
        raise ValueError("the file holds no certificate revocation list")
    return tuple(x509.load_pem_x509_crl(_BEGIN_CRL + part) for part in parts)
