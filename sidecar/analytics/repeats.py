"""Drops what Kafka delivers again. Pure."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

REMEMBERED: Final = 500_000
"""Of the latest records at least, at most twice as many; about 90 bytes each."""
_DIGEST_BYTES: Final = 16


class Repeats:
    """Knows the records that came of late.

    Delivery is at least once: after a crash a sidecar sends again what Kafka may not have acknowledged, byte for byte
    and so with the same `event_id`. What only looks like a repeat is none (another record with the same id, or one
    from further back than is remembered): dropping what may be new would be a gap that nobody sees.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._latest: set[bytes] = set()
        self._earlier: set[bytes] = set()
        self.dropped = 0
        """How many were repeats."""

    def has(self, record: bytes) -> bool:
        """Whether this record came before; from now on it has."""
        digest = blake2b(record, digest_size=_DIGEST_BYTES).digest()
        known = digest in self._latest or digest in self._earlier
        if digest not in self._latest:
            if len(self._latest) >= self._remembered:
                self._earlier, self._latest = self._latest, set()
            self._latest.add(digest)
        self.dropped += known
        return known
