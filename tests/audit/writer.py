"""A process that writes to a spool as fast as it can and says which records it was told are durable.

`python -m tests.audit.writer SPOOL ROUND [SEGMENT_BYTES [RETENTION_BYTES]]`: one name per line on standard
output, after `append` returned, until it is killed. Half of the callers write batches.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import structlog

from sidecar.audit import packing
from sidecar.audit.journal import Journal, JournalError
from sidecar.clock import SystemClock
from tests.audit.spools import MIB, permit

CALLERS = 32


async def main(spool: Path, run: str, segment_bytes: int = 256 * 1024, retention_bytes: int = 0) -> None:
    """Writes until killed."""
    packing._SETTLE_SECONDS = 0.0  # type: ignore[misc] # compressing is to be killed too
    journal = await Journal.open(
        spool, "fsync", 64 * MIB, SystemClock(), segment_bytes=segment_bytes, retention_bytes=retention_bytes
    )

    async def caller(number: int) -> None:
        for turn in range(1_000_000):
            names = [f"{run}-{number}-{turn}-{part}" for part in range(3 if number % 2 else 1)]
            await journal.append_many([permit(name, filler="x" * 500) for name in names])
            os.write(1, "".join(f"{name}\n" for name in names).encode())  # one write, no buffer: whole lines

    await asyncio.gather(*(caller(number) for number in range(CALLERS)))


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # standard output is for the names
    try:
        asyncio.run(main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])))
    except JournalError as error:
        sys.exit(str(error))
