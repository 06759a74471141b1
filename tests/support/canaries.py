"""Unique texts that are planted where secrets are, and a search that finds them in whatever form they were copied."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator, Mapping

SHORTEST = 8
"""A shorter part (a JSON number, the `t` of a claim) would be found by chance."""


class Canaries:
    """What was planted, by its name. `plant` makes one; `add` takes what others made: a token, a password."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._any_case: _Index = {}
        self._exact: _Index = {}

    @property
    def names(self) -> frozenset[str]:
        """Of all that is planted."""
        return frozenset(self._names)

    def plant(self, name: str) -> str:
        """A text that stands nowhere else: lower-case letters and digits, so that it is good in any place."""
        return self.add(name, f"cnry{secrets.token_hex(10)}")

    def add(self, name: str, value: str | bytes) -> str:
        """Takes a text as a canary."""
        raw = value.encode() if isinstance(value, str) else value
        assert len(raw) >= SHORTEST, name
        self._names.add(name)
        for index, forms in ((self._any_case, _any_case(raw)), (self._exact, _exact(raw))):
            for form in set(forms):
                index.setdefault(form[:SHORTEST], set()).add((form, name))
        return value if isinstance(value, str) else value.decode("latin-1")

    def add_jwt(self, name: str, token: str) -> str:
        """Takes a compact JWS: as a whole, its payload, and its signature. Its header names only key and algorithm."""
        _, payload, signature = token.split(".")
        for part in (token, payload, signature):
            self.add(name, part)
        return token

    def add_pem(self, name: str, pem: str) -> None:
        """Takes each line of a private key."""
        for line in pem.splitlines():
            if not line.startswith("-----") and len(line) >= 16:
                self.add(name, line)

    def found_in(self, places: Mapping[str, bytes], *, but: frozenset[str] = frozenset()) -> list[str]:
        """`canary in place` for each that is found; `but` names canaries that may stand there."""
        return sorted(
            f"{name} in {place}"
            for place, content in places.items()
            for name in (_names_in(content.lower(), self._any_case) | _names_in(content, self._exact)) - but
        )


_Index = dict[bytes, set[tuple[bytes, str]]]
"""What is looked for, with its name, by its first bytes."""


def _names_in(text: bytes, index: _Index) -> set[str]:
    """One walk, however many are looked for: thousands of texts in megabytes."""
    found = set()
    for place in range(len(text) - SHORTEST + 1):
        for form, name in index.get(text[place : place + SHORTEST], ()):
            if text.startswith(form, place):
                found.add(name)
    return found


def _any_case(raw: bytes) -> Iterator[bytes]:
    """Forms that are looked for whatever their case: as it stands, every byte percent-encoded, JSON-escaped, hex."""
    yield raw.lower()
    yield b"".join(b"%%%02x" % byte for byte in raw)
    yield b"".join(b"\\u%04x" % byte for byte in raw)
    yield b"".join(b"\\x%02x" % byte for byte in raw)
    yield raw.hex().encode()
    yield raw[::-1].lower()


def _exact(raw: bytes) -> Iterator[bytes]:
    """Base64 and base64url at each of the three places that a text may have in what was encoded."""
    for offset in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(b"\0" * offset + raw)
            part = encoded[4 if offset else 0 : len(encoded) - 4]
            if len(part) >= SHORTEST:
                yield part
