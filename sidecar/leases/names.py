"""How the ledger names and seals under one salt: it tells nothing to who reads it without that salt."""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV

Holder = tuple[str, ...]
"""Who holds: tenant, issuer, subject."""

_NONCE_BYTES: Final = 12


class Names:
    """HMACs of what is held and of holders, and the seal (AES-256-GCM) of what issued it, under one salt's keys."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._seal = AESGCM(hmac.digest(salt, b"openbao-sidecar ledger seal", "sha256"))
        self._hide = AESSIV(hmac.digest(salt, b"openbao-sidecar ledger accessors", "sha512"))

    def holder(self, holder: Holder) -> bytes:
        """The name of a holder."""
        return self._mac("holder", *holder)

    def held(self, held: str) -> bytes:
        """The name of what is held."""
        return self._mac("held", held)

    def seal(self, text: str, bound_to: bytes) -> bytes:
        """The text sealed, bound to the rest of its row."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._seal.encrypt(nonce, text.encode(), bound_to)

    def unseal(self, sealed: bytes, bound_to: bytes) -> str | None:
        """The text again; None where the row is not as it was written."""
        try:
            return self._seal.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to).decode()
        except (InvalidTag, ValueError):
            return None

    def hide(self, accessor: str) -> bytes:
        """A token's accessor sealed, the same one always alike (AES-SIV, RFC 5297): rows are grouped by it."""
        return self._hide.encrypt(accessor.encode(), None) if accessor else b""

    def shown(self, hidden: object) -> str | None:
        """The accessor again; None where it was not hidden under this salt, or is none of ours at all."""
        if not isinstance(hidden, bytes):
            return None
        if not hidden:
            return ""
        try:
            return self._hide.decrypt(hidden, None).decode()
        except (InvalidTag, ValueError):
            return None

    def _mac(self, kind: str, *parts: str) -> bytes:
        message = hashlib.sha256(f"openbao-sidecar ledger {kind}".encode())
        for part in parts:
            message.update(hashlib.sha256(part.encode()).digest())
        return hmac.digest(self._salt, message.digest(), "sha256")
