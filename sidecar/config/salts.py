"""The tenant's salts: the one that makes references now, and those before it, so that old ones are still found.

A `salt_file` holds one salt a line, the current one first. A file that is not printable ASCII is one salt as it stands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sidecar.config.tree import Tenant

MIN_BYTES: Final = 16
MAX_SALTS: Final = 32


def salts_of(tenant: Tenant) -> list[bytes]:
    """All salts, the current one first. Raises OSError, and ValueError where there is none or one is not fit."""
    if tenant.salt is not None:
        return _fit([tenant.salt.get_secret_value().encode()])
    if tenant.salt_file is None:
        raise ValueError("tenant.salt is not configured")
    return salts_in(tenant.salt_file)


def salts_in(file: Path) -> list[bytes]:
    """The salts of a file. Raises OSError and ValueError; no message tells a salt."""
    content = file.read_bytes().strip()
    text = content.decode("ascii", "replace")
    if not text.replace("\r", "").replace("\n", "").isprintable() or not text.isascii():
        return _fit([content])
    return _fit([line.strip().encode() for line in text.splitlines() if line.strip()])


def _fit(salts: list[bytes]) -> list[bytes]:
    for number, salt in enumerate(salts, 1):
        if len(salt) < MIN_BYTES:
            raise ValueError(f"salt {number} holds less than {MIN_BYTES} bytes")
    if not salts:
        raise ValueError("holds no salt")
    if len(set(salts)) != len(salts):
        raise ValueError("holds the same salt twice")
    if len(salts) > MAX_SALTS:
        raise ValueError(f"holds more than {MAX_SALTS} salts")
    return salts
