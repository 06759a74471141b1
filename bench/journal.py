"""The journal at an open 10,000 records a second with fsync: records per fsync, CPU per record, and whose it is.

The same load is run against stand-ins, each of which does a part of what a journal must: one that returns at once (the
load's own cost, taken off everywhere); one that makes its callers wait and wakes them in the next turn of the loop
(what waiting costs in asyncio, whoever is waited for); one that serialises, hashes and sums the record up (what no
journal with a chain can do without, and how fast the machine is just then). Compressing is measured by itself: a
segment closes every so many records, so that a short load would have none of it, or that of others too.
"""

from __future__ import annotations

import asyncio
import hashlib
import statistics
import time
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import orjson

from sidecar.audit.journal import Journal
from sidecar.audit.record import Event, Record
from sidecar.audit.segments import pack, segment_paths
from sidecar.clock import SystemClock
from sidecar.footprint import settle

RATE: Final = 10_000
SECONDS: Final = 2.0
ROUNDS: Final = 3
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


class _Waits:
    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def append(self, _record: Record) -> None:
        """Waits until the next turn of the loop."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._wake)
        self._waiting.append(future := loop.create_future())
        await future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            future.set_result(None)


class _Sums:
    async def append(self, record: Record) -> None:
        """JSON, SHA-256 and CRC-32 of a record that is as long as if it were stamped."""
        text = orjson.dumps(record.fields) + _STAMP
        hashlib.sha256(text).hexdigest()
        zlib.crc32(text)


async def load(journal: Journal | _Nothing | _Waits | _Sums, seconds: float) -> tuple[int, float]:
    """So many records for so long, each by a task of its own. Returns how many, and the CPU seconds they took.

    Raises Refused where one of them was: the disk then did not keep up, and there is no figure."""
    refused: list[BaseException] = []

    def done(task: asyncio.Task[None]) -> None:
        waiting.discard(task)
        if (error := task.exception()) is not None:
            refused.append(error)

    began, cpu, sent, waiting = time.monotonic(), time.process_time(), 0, set[asyncio.Task[None]]()
    while (now := time.monotonic() - began) < seconds:
        for _ in range(int(now * RATE) - sent):
            task = asyncio.ensure_future(journal.append(RECORD))
            waiting.add(task)
            task.add_done_callback(done)
            sent += 1
        await asyncio.sleep(_TICK_SECONDS)
    if waiting:
        await asyncio.wait(waiting)
    if refused:
        raise refused[0]
    return sent, time.process_time() - cpu


async def journal_bench() -> dict[str, float]:
    """The median of each figure, for the table and the results' file."""
    rounds = [await _round(SECONDS) for _ in range(ROUNDS)]
    return {figure: statistics.median(each[figure] for each in rounds) for figure in rounds[0]}


async def _round(seconds: float) -> dict[str, float]:
    with TemporaryDirectory(dir=Path.cwd(), prefix=".bench-journal-") as folder:
        journal = await Journal.open(Path(folder), "fsync", 4 * 2**30, SystemClock(), segment_bytes=2**30)
        try:
            settle()
            base = await _microseconds(_Nothing(), seconds)
            waits, sums = await _microseconds(_Waits(), seconds), await _microseconds(_Sums(), seconds)
            before = journal.status()
            began = time.monotonic()
            sent, used = await load(journal, seconds)
            took = time.monotonic() - began
            after = journal.status()
        finally:
            await journal.close()
        [(first_seq, path)] = segment_paths(Path(folder))
        began_cpu = time.process_time()
        pack(Path(folder), first_seq, path.stat().st_size)
        compressing = (time.process_time() - began_cpu) / journal.durable.seq * 1e6
    return {
        "records_per_second": round(sent / took),
        "records_per_fsync": round((after.records - before.records) / max(1, after.batches - before.batches), 1),
        "cpu_us_per_record": round(used / sent * 1e6 - base, 1),
        "of_it_json_hash_and_checksum_us": round(sums - base, 1),
        "of_it_callers_waiting_us": round(waits - base, 1),
        "beside_it_the_load_itself_us": round(base, 1),
        "later_compressing_a_closed_segment_us": round(compressing, 1),
    }


async def _microseconds(stand_in: _Nothing | _Waits | _Sums, seconds: float) -> float:
    """CPU per record."""
    sent, used = await load(stand_in, seconds)
    return used / sent * 1e6


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(journal_bench()))
