"""How the journal is, for those who watch it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """For `/readyz`. `message` says why it is not healthy, `warning` what will make it so."""

    healthy: bool
    message: str
    warning: str
    spool_bytes: int
    max_spool_bytes: int
    last_seq: int
    records: int
    batches: int
