"""The caller's client certificate: as proof of possession (RFC 8705, section 3), and as who it is (X.509-SVID).

The handshake has verified the chain; a connection outlives it, so the dates are looked at again for each request.
Only the transport's own certificate counts: no header that claims one is ever read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache
from cryptography import x509

from sidecar.caller import jose, spiffe
from sidecar.caller.identity import Binding, BindingKind, Caller
from sidecar.errors import Code, Refused

MAX_REMEMBERED_CERTIFICATES: Final = 1024


@dataclass(frozen=True, slots=True)
class _Certificate:
    """`names` are its URIs; `problem` says why it is no X.509-SVID, whatever it is named."""

    thumbprint: str
    not_before: float
    not_after: float
    names: tuple[str, ...]
    problem: str


class ClientCertificates:
    """Reads certificates; remembers what it read by the certificate's hash. With a trust domain its X.509-SVIDs name
    callers."""

    def __init__(self, trust_domain: str | None = None) -> None:
        self._trust_domain = trust_domain
        self._read: LRUCache[bytes, _Certificate] = LRUCache(MAX_REMEMBERED_CERTIFICATES)

    @property
    def remembered(self) -> int:
        """How many certificates are remembered."""
        return len(self._read)

    def check(self, der: bytes | None, thumbprint: str, wall: float) -> None:
        """Passes where the connection's certificate is the one of this `x5t#S256`, and valid now.

        Raises:
            Refused: BINDING_MISMATCH.
        """
        if der is None:
            raise Refused(Code.BINDING_MISMATCH, "the token is bound to a client certificate, and there is none")
        certificate = self._certificate(der)
        if certificate.thumbprint != thumbprint:
            raise Refused(Code.BINDING_MISMATCH, "the client certificate is not the one that the token is bound to")
        if not certificate.not_before <= wall <= certificate.not_after:
            raise Refused(Code.BINDING_MISMATCH, "the client certificate has expired, or is not valid yet")

    def spiffe_id(self, der: bytes | None) -> str:
        """The SPIFFE ID of a certificate that is an X.509-SVID of the trust domain; empty for every other one."""
        if der is None or self._trust_domain is None:
            return ""
        certificate = self._certificate(der)
        return "" if self._svid_problem(certificate) else certificate.names[0]

    def caller(self, der: bytes, wall: float) -> Caller | None:
        """The caller that a certificate is; None where it names nobody, so that a token is needed.

        Raises:
            Refused: TOKEN_INVALID where it names somebody and is no X.509-SVID of the trust domain; TOKEN_EXPIRED.
        """
        if self._trust_domain is None:
            return None
        certificate = self._certificate(der)
        if not certificate.names:
            return None
        problem = self._svid_problem(certificate)
        if problem:
            raise Refused(Code.TOKEN_INVALID, f"the client certificate is not one of the trust domain's: {problem}")
        if wall > certificate.not_after:
            raise Refused(Code.TOKEN_EXPIRED, "the client certificate has expired")
        if wall < certificate.not_before:
            raise Refused(Code.TOKEN_INVALID, "the client certificate is not valid yet")
        return Caller(
            subject=certificate.names[0],
            issuer=f"spiffe://{self._trust_domain}",
            issued_at=int(certificate.not_before),
            expires_at=int(certificate.not_after),
            binding=Binding(BindingKind.MTLS, certificate.thumbprint, names_subject=True),
        )

    def _svid_problem(self, certificate: _Certificate) -> str:
        if len(certificate.names) != 1:
            return "it has not exactly one URI"  # X.509-SVID, section 2
        if spiffe.trust_domain_of(certificate.names[0]) != self._trust_domain:
            return "its URI is not a SPIFFE ID there"
        return certificate.problem

    def _certificate(self, der: bytes) -> _Certificate:
        digest = hashlib.sha256(der).digest()
        certificate = self._read.get(digest)
        if certificate is None:
            certificate = self._read[digest] = _read(der, digest)
        return certificate


def _read(der: bytes, digest: bytes) -> _Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        names, problem = _uris(certificate), _leaf_problem(certificate)
    except ValueError:
        raise Refused(Code.BINDING_MISMATCH, "the client certificate cannot be read") from None
    return _Certificate(jose.encode(digest).decode(), not_before.timestamp(), not_after.timestamp(), names, problem)


def _uris(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.get_values_for_type(x509.UniformResourceIdentifier))


def _leaf_problem(certificate: x509.Certificate) -> str:
    """Why a certificate is not a workload's (X.509-SVID, sections 4.1, 4.3 and 5.2); empty where it is."""
    try:
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return "it is an authority's"
    except x509.ExtensionNotFound:
        pass
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return "it does not say what its key is for"
    if usage.key_cert_sign or usage.crl_sign or not usage.digital_signature:
        return "its key is not for signatures alone"
    return ""
