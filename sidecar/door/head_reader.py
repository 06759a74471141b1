"""Puts heads together from bytes as they come. However they are cut, the outcome is the same.

Pure and sans-io.
"""

from __future__ import annotations

from sidecar.door.head import END, Head, check_beginning, parse_head, target_of


class HeadReader:
    """Reads one head after another. After a refusal it is not fed again."""

    def __init__(self, *, max_header_bytes: int, max_uri_bytes: int) -> None:
        self._max_header_bytes = max_header_bytes
        self._max_uri_bytes = max_uri_bytes
        self._held: bytes | bytearray = b""
        self._looked_at = 0

    @property
    def has_begun(self) -> bool:
        """True in the middle of a head."""
        return bool(self._held)

    def feed(self, data: bytes) -> tuple[Head, bytes] | None:
        """Takes the next bytes: gives the head and what came after it, or None where the head is not whole yet.

        Raises:
            Refused: see `parse_head`; as soon as it shows.
        """
        if self._held:
            self._held += data
        else:
            self._held = data
        raw = self._held
        end = raw.find(END, max(0, self._looked_at - len(END))) + len(END)
        if end < len(END) or end > self._max_header_bytes:
            check_beginning(raw, self._looked_at, max_header_bytes=self._max_header_bytes)
            if self._looked_at == 0:
                self._held = bytearray(raw)  # grows in linear time, however small the pieces
            self._looked_at = len(raw)
            return None
        head = parse_head(bytes(raw[:end]), max_header_bytes=self._max_header_bytes, max_uri_bytes=self._max_uri_bytes)
        self._held = b""
        self._looked_at = 0
        return head, bytes(raw[end:])

    def refused_target(self) -> str:
        """The target of what was refused, as far as it can be read: see `target_of`."""
        return target_of(self._held, self._max_uri_bytes)

    def refused_is_head_method(self) -> bool:
        """True where what was refused wanted an answer without a body (RFC 9110, section 9.3.2)."""
        return self._held.startswith(b"HEAD ")
