"""Signed checkpoints: records that sign where the chain stands, so that its end cannot be rewritten unseen.

`AUDIT_CHECKPOINT` and `AUDIT_STOP` carry `key_id`, `every_records` and `signature`: Ed25519 (RFC 8032) over the text
of `message`. Each promises that at most `every_records` records (`AUDIT_START` not counted) follow before the next
signed one; a chain that breaks the promise was rewritten by somebody without the key.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from sidecar.audit.record import Event
from sidecar.audit.stamping import Body, body
from sidecar.clock import Clock

_DOMAIN: Final = "openbao-sidecar.audit.checkpoint.v1"
_SIGNATURE_BYTES: Final = 64


class CheckpointKeyError(ValueError):
    """A key file does not hold what it must."""


def message(instance: str, seq: int, prev: str, event: str, ts: str, every_records: int) -> bytes:
    """What is signed: the record's own place and promise, one per line, without a newline at the end."""
    return "\n".join((_DOMAIN, instance, str(seq), prev, event, ts, str(every_records))).encode()


def key_id(public: Ed25519PublicKey) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the 32 bytes of the public key."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


class Checkpoints:
    """Signs, and says when. Used by the journal's writer only."""

    def __init__(self, key_file: Path, every_records: int, every_seconds: float, clock: Clock) -> None:
        """Raises OSError, or CheckpointKeyError where the file holds no Ed25519 private key (PEM, PKCS #8)."""
        self._key = _private_key(key_file)
        self.key_id = key_id(self._key.public_key())
        self._every_records = every_records
        self._every_seconds = every_seconds
        self._clock = clock
        self._unsigned = 0
        self._signed_at = clock.elapsed()

    def members(self, event: Event, instance: str, seq: int, prev: str, ts: str) -> bytes:
        """The members of a record that is signed, as JSON without the braces; empty for any other."""
        if event not in (Event.AUDIT_CHECKPOINT, Event.AUDIT_STOP):
            return b""
        signature = self._key.sign(message(instance, seq, prev, event, ts, self._every_records))
        text = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
        return f'"key_id":"{self.key_id}","every_records":{self._every_records},"signature":"{text}"'.encode()

    def woven(self, bodies: Sequence[Body]) -> Sequence[Body]:
        """These records with checkpoints where one is due: after each start, and after so many others."""
        if self._unsigned + len(bodies) < self._every_records and bodies[0][0] is not Event.AUDIT_START:
            return bodies
        unsigned, woven = self._unsigned, list[Body]()
        for each in bodies:
            woven.append(each)
            unsigned = self._after(unsigned, each[0])
            if unsigned >= self._every_records or each[0] is Event.AUDIT_START:
                woven.append(self.body())
                unsigned = 0
        return woven

    def written(self, bodies: Iterable[Body]) -> None:
        """These have become durable."""
        for event, _, _ in bodies:
            self._unsigned = self._after(self._unsigned, event)
            if self._unsigned == 0:
                self._signed_at = self._clock.elapsed()

    def wait_seconds(self) -> float | None:
        """How long until a checkpoint is due for the time that has passed; None where there is nothing to sign."""
        if self._unsigned == 0:
            return None
        return max(0.0, self._signed_at + self._every_seconds - self._clock.elapsed())

    def body(self) -> Body:
        """A checkpoint before it is signed."""
        return body(Event.AUDIT_CHECKPOINT, self._clock.wall())

    @staticmethod
    def _after(unsigned: int, event: Event) -> int:
        if event in (Event.AUDIT_CHECKPOINT, Event.AUDIT_STOP):
            return 0
        return unsigned if event is Event.AUDIT_START else unsigned + 1


class PublicKeys:
    """The keys a verifier trusts: of several the one that a record names."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Raises OSError, or CheckpointKeyError where a file holds no Ed25519 public key (PEM)."""
        self._keys = {key_id(key): key for key in map(_public_key, files)}

    def fault(self, record: Mapping[str, Any]) -> str:
        """Why a signed record is not one of these keys', else an empty text."""
        key = self._keys.get(str(record.get("key_id")))
        if key is None:
            return "a checkpoint signed with a key that was not given"
        ts, event, every, text = (record.get(name) for name in ("ts", "event", "every_records", "signature"))
        if not isinstance(ts, str) or type(every) is not int or every < 1 or not isinstance(text, str):
            return "a checkpoint without its members"
        try:
            signature = base64.b64decode(text + "==", altchars=b"-_", validate=True)
            if len(signature) != _SIGNATURE_BYTES:
                return "the checkpoint's signature has not 64 bytes"
            place = message(record["instance"], record["seq"], record["prev"], str(event), ts, every)
            key.verify(signature, place)
        except (ValueError, InvalidSignature):
            return "the checkpoint's signature is wrong: what stands before it was changed, or it was forged"
        return ""


def _private_key(file: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except (ValueError, TypeError):
        raise CheckpointKeyError(f"{file} holds no private key (PEM, not encrypted)") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise CheckpointKeyError(f"{file} holds no Ed25519 key: openssl genpkey -algorithm ed25519 -out {file}")
    return key


def _public_key(file: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(file.read_bytes())
    except ValueError:
        raise CheckpointKeyError(f"{file} holds no public key (PEM): openssl pkey -in KEY -pubout") from None
    if not isinstance(key, Ed25519PublicKey):
        raise CheckpointKeyError(f"{file} holds no Ed25519 public key")
    return key
