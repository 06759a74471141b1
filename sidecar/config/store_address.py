"""The address of a shared replay store: `valkey://[user@]host[:port][/database]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

_TLS: Final = {"valkey": False, "redis": False, "valkeys": True, "rediss": True}


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where the store is and how it is spoken to."""

    host: str
    port: int
    tls: bool
    username: str
    database: int


def store_address(store: str) -> StoreAddress:
    """The parts of a store's URL; `redis` and `rediss` are other names of `valkey` and `valkeys`.

    Raises:
        ValueError: with a text that holds nothing of what was given: that may hold a password.
    """
    try:
        parts = urlsplit(store)
        host, port, path = parts.hostname, parts.port, parts.path.removeprefix("/")
    except ValueError:
        raise ValueError("is not a store") from None
    if parts.password is not None:
        raise ValueError("holds a password")
    if parts.scheme not in _TLS or not host or parts.query or parts.fragment:
        raise ValueError("is not a store")
    if path and not (path.isascii() and path.isdigit() and len(path) <= 4):
        raise ValueError("is not a store")
    return StoreAddress(host, port or 6379, _TLS[parts.scheme], unquote(parts.username or ""), int(path or 0))
