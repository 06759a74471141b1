"""How long the door waits, in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timeouts:
    """`head` counts from the first byte of a head to its end, `idle` between requests. `body_idle` counts between two
    bytes of a body that is waited for, `body` the whole of it. `skip` is for the rest of a body that nobody read.
    `write` is how long a full send buffer may take to empty: a reader slower than that is cut. `linger` is how long
    an answer that ends a connection is left to be read. `surplus` replaces `idle` and `head` beyond
    `max_connections`. `handshake` is for TLS.
    """

    head: float = 10.0
    idle: float = 75.0
    body_idle: float = 10.0
    body: float = 120.0
    skip: float = 2.0
    write: float = 30.0
    linger: float = 1.0
    surplus: float = 2.0
    handshake: float = 10.0
    sweep: float = 0.5
    """How often the deadlines are looked at: what they are late by, at most."""
