"""`make soak`: load for SECONDS (3600), of an order that SEED (the time) gives; memory and descriptors stay flat."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.real.kafka import KafkaBroker
from tests.real.openbao import OpenBao
from tests.soak.soak import soak


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="make soak")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    chosen = parser.parse_args()
    print(f"==> soak: {chosen.seconds:g} seconds, seed {chosen.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sidecar-soak-") as name:
        folder = Path(name)
        (folder / "kafka").mkdir()
        with KafkaBroker(folder / "kafka") as kafka, OpenBao(folder / "openbao") as openbao:
            say = partial(print, flush=True)
            report = asyncio.run(soak(folder, openbao, kafka, chosen.seconds, chosen.seed, say))
    print("\n".join(report.lines()), flush=True)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
