"""The journal at an open 10,000 records a second with fsync: records per fsync, CPU per record.

The same load is run against a journal that writes nothing, and its CPU taken off: what is left is the journal's own.
And against one that only serialises, hashes and sums the record up, which no journal with a chain can do without: what
that costs tells how fast the machine is just then.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson

from sidecar.audit.journal import Journal
from sidecar.audit.record import Event, Record
from sidecar.clock import SystemClock
from sidecar.footprint import settle

RATE: Final = 10_000
SECONDS: Final = 3.0
_TICK_SECONDS: Final = 0.001
RECORD: Final = Record(
    Event.SECRET_PERMIT,
    {
        "phase": "outcome",
        "effect": "permit",
        "purpose": "read",
        "operation": "kv2.read",
        "subject": {"sub": "app", "iss": "https://idp.example", "client_id": "app"},
        "tenant_id": "acme",
        "resource_ref": "r" * 43,
        "parent_ref": "r" * 43,
        "ref_key_id": "0" * 16,
        "resource_arn": "auth:v1:resource:secret:acme:" + "r" * 43,
        "binding": {"kind": "dpop", "thumbprint": "t" * 43},
        "token_jti": "j" * 22,
        "proof_jti": "j" * 22,
        "correlation_id": "c" * 32,
        "upstream": {"status": 200, "duration_ms": 1.2},
    },
)
_STAMP: Final = b"x" * 240


class _Nothing:
    async def append(self, record: Record) -> None:
        """Writes nothing."""


class _Sums:
    async def append(self, record: Record) -> None:
        """JSON, SHA-256 and CRC-32 of a record that is as long as if it were stamped."""
        text = orjson.dumps(record.fields) + _STAMP
        hashlib.sha256(text).hexdigest()
        zlib.crc32(text)


async def load(journal: Journal | _Nothing | _Sums, seconds: float) -> tuple[int, float]:
    """So many records for so long, each by a task of its own. Returns how many, and the CPU seconds they took."""
    began, cpu, sent, waiting = time.monotonic(), time.process_time(), 0, set[asyncio.Task[None]]()
    while (now := time.monotonic() - began) < seconds:
        for _ in range(int(now * RATE) - sent):
            task = asyncio.ensure_future(journal.append(RECORD))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            sent += 1
        await asyncio.sleep(_TICK_SECONDS)
    await asyncio.gather(*waiting)
    return sent, time.process_time() - cpu


async def journal_bench(seconds: float = SECONDS) -> dict[str, Any]:
    """Figures of one run, for the table and the results' file."""
    with TemporaryDirectory(dir=Path.cwd(), prefix=".bench-journal-") as folder:
        journal = await Journal.open(Path(folder), "fsync", 4 * 2**30, SystemClock())
        try:
            settle()
            empty, base = await load(_Nothing(), seconds)
            summed, sums = await load(_Sums(), seconds)
            before = journal.status()
            began = time.monotonic()
            sent, used = await load(journal, seconds)
            took = time.monotonic() - began
            after = journal.status()
        finally:
            await journal.close()
    return {
        "records_per_second": round(sent / took),
        "records_per_fsync": round((after.records - before.records) / max(1, after.batches - before.batches), 1),
        "cpu_us_per_record": round((used / sent - base / empty) * 1e6, 1),
        "of_json_hash_and_checksum_us": round((sums / summed - base / empty) * 1e6, 1),
        "of_the_load_itself_us": round(base / empty * 1e6, 1),
    }


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(journal_bench()))
