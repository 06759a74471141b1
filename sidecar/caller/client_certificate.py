"""The caller's client certificate as proof of possession (RFC 8705, section 3).

The handshake has verified the chain; a connection outlives it, so the dates are looked at again for each request.
Only the transport's own certificate counts: no header that claims one is ever read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache
from cryptography import x509

from sidecar.caller import jose
from sidecar.errors import Code, Refused

MAX_REMEMBERED_CERTIFICATES: Final = 1024


@dataclass(frozen=True, slots=True)
class _Certificate:
    thumbprint: str
    not_before: float
    not_after: float


class ClientCertificates:
    """Reads certificates; remembers what it read by the certificate's hash."""

    def __init__(self) -> None:
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
        digest = hashlib.sha256(der).digest()
        certificate = self._read.get(digest)
        if certificate is None:
            certificate = self._read[digest] = _read(der, digest)
        if certificate.thumbprint != thumbprint:
            raise Refused(Code.BINDING_MISMATCH, "the client certificate is not the one that the token is bound to")
        if not certificate.not_before <= wall <= certificate.not_after:
            raise Refused(Code.BINDING_MISMATCH, "the client certificate has expired, or is not valid yet")


def _read(der: bytes, digest: bytes) -> _Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError:
        raise Refused(Code.BINDING_MISMATCH, "the client certificate cannot be read") from None
    return _Certificate(jose.encode(digest).decode(), not_before.timestamp(), not_after.timestamp())
