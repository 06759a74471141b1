"""Short ways to a journal and to what stands in its spool."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from sidecar.audit.commands import verify
from sidecar.audit.journal import Journal
from sidecar.audit.reader import read_all
from sidecar.audit.record import Event, Record
from sidecar.clock import SystemClock
from sidecar.errors import Refused

MIB = 2**20


def permit(name: str = "c-1", **more: Any) -> Record:
    return Record(Event.SECRET_PERMIT, {"phase": "outcome", "effect": "permit", "correlation_id": name, **more})


async def opened(spool: Path, **options: Any) -> Journal:
    settings: dict[str, Any] = {"durability": "fsync", "max_spool_bytes": 64 * MIB, "clock": SystemClock()}
    return await Journal.open(spool, **(settings | options))


@asynccontextmanager
async def journal_in(spool: Path, **options: Any) -> AsyncIterator[Journal]:
    journal = await opened(spool, **options)
    try:
        yield journal
    finally:
        await journal.close()


async def append_until_refused(journal: Journal) -> int:
    """How many records the journal takes, named `filling`, before it takes no more."""
    for taken in range(1000):
        try:
            await journal.append(permit("filling"))
        except Refused:
            return taken
    raise AssertionError("the journal never refused")


def records(*paths: Path) -> list[dict[str, Any]]:
    """The records that stand there, whole lines only."""
    return [orjson.loads(line.record) for line in read_all(paths) if not line.fault]


def names(*paths: Path) -> list[str]:
    """The correlation ids of the permits that stand there."""
    return [record["correlation_id"] for record in records(*paths) if record["event"] == "SECRET_PERMIT"]


def events(*paths: Path) -> list[str]:
    return [record["event"] for record in records(*paths)]


def verified(*paths: Path, **options: Any) -> tuple[int, str]:
    """Exit code and output of `audit verify`."""
    out = io.StringIO()
    return verify(paths, out, **options), out.getvalue()


def segments(spool: Path) -> list[Path]:
    """The files of a spool's records, compressed or not."""
    return sorted([*spool.glob("*.segment"), *spool.glob("*.segment.zst")])
