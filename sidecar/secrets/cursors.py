"""Cursors: where a listing goes on, sealed.

A position names the last secret that was looked at, which its caller may not be allowed to know of. So a cursor is
encrypted (AES-256-GCM, padded so that its length tells little), under a key derived from the tenant's salt (HKDF,
RFC 5869): it outlives a restart and is read by every replica, and is good for the caller and the question it was given
to.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sidecar.caller.identity import Caller
from sidecar.errors import Code, Refused

_NONCE_BYTES: Final = 12
_PADDED: Final = 128
MAX_CURSOR_CHARS: Final = 16_384


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the walk through folders. `root` is where it began, `names` lead from there, a folder's with a slash;
    `enters` where the last of them is a folder that was not looked into yet, else all up to it was looked at."""

    root: str
    names: tuple[str, ...] = ()
    enters: bool = False


class Cursors:
    """Seals and opens positions."""

    def __init__(self, salt: bytes) -> None:
        key = HKDF(SHA256(), 32, salt=None, info=b"openbao-sidecar listing cursors").derive(salt)
        self._aead = AESGCM(key)

    def seal(self, position: Position, caller: Caller, question: Sequence[str]) -> str:
        """The cursor that stands for a position, for this caller and question."""
        plain = orjson.dumps([position.root, position.names, position.enters])
        plain += b" " * (-len(plain) % _PADDED)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return (
            base64.urlsafe_b64encode(nonce + self._aead.encrypt(nonce, plain, _bound(caller, question)))
            .decode()
            .rstrip("=")
        )

    def open(self, cursor: str, caller: Caller, question: Sequence[str]) -> Position:
        """The position that a cursor stands for. Raises `Refused`: MALFORMED_REQUEST."""
        try:
            if len(cursor) > MAX_CURSOR_CHARS:
                raise ValueError("too long")
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            plain = self._aead.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _bound(caller, question))
        except (binascii.Error, ValueError, InvalidTag):
            raise Refused(
                Code.MALFORMED_REQUEST, "the cursor is not one that was given out for this listing; begin anew"
            ) from None
        found: Any = orjson.loads(plain)
        return Position(found[0], tuple(found[1]), found[2])


def _bound(caller: Caller, question: Sequence[str]) -> bytes:
    return orjson.dumps([caller.issuer, caller.subject, *question])
