"""`make chaos`: kill -9 under load, then the broker, the network and the disk in random order.

ROUNDS (200) of kill -9, SECONDS (600) of everything, SEED (the time) for the order of both.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from tests.audit.disks import small_disk
from tests.chaos.world import Chaos, Report
from tests.real.kafka import KafkaBroker
from tests.real.openbao import OpenBao

TELL_SECONDS: Final = 20.0


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    chosen = parser.parse_args()
    print(f"==> chaos: {chosen.rounds} rounds of kill -9, {chosen.seconds:g} seconds, seed {chosen.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sidecar-chaos-") as name:
        folder = Path(name)
        (folder / "kafka").mkdir()
        with (
            small_disk(folder / "disk", "size=64m") as disk,
            KafkaBroker(folder / "kafka") as kafka,
            OpenBao(folder / "openbao") as openbao,
        ):
            chaos = Chaos(folder, disk, openbao, kafka, chosen.seed)
            report = asyncio.run(_telling(chaos, chaos.run(chosen.rounds, chosen.seconds)))
    print("\n".join(report.lines()), flush=True)
    return 1 if report.wrong else 0


async def _telling(chaos: Chaos, run: Coroutine[Any, Any, Report]) -> Report:
    """Says now and then how far it is."""
    task = asyncio.ensure_future(run)
    while not task.done():
        await asyncio.wait([task], timeout=TELL_SECONDS)
        report = chaos.report
        print(f"  {len(report.kept.reads):7} secrets in hand after {report.faults.total()} faults", flush=True)
    return task.result()


if __name__ == "__main__":
    raise SystemExit(main())
