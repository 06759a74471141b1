"""The short chaos: the same as `make chaos`, for a fraction of a minute."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit.disks import small_disk
from tests.chaos.world import Chaos
from tests.real.kafka import KafkaBroker
from tests.real.openbao import OpenBao

pytestmark = pytest.mark.real

ROUNDS, SECONDS, KINDS, SEED = 1, 8, 4, 8


async def test_whatever_happens_nothing_is_lost_out_of_order_or_unrecorded(
    tmp_path: Path, openbao: OpenBao, kafka: KafkaBroker
) -> None:
    try:
        with small_disk(tmp_path / "disk", "size=64m") as disk:
            report = await Chaos(tmp_path, disk, openbao, kafka, SEED).run(ROUNDS, SECONDS, kinds=KINDS)
    finally:
        # Chaos starts the shared broker in a worker thread, and with that thread it would end.
        kafka.stop()
        kafka.start()
    assert not report.wrong, "\n".join(report.lines())
    assert report.crashes >= ROUNDS
    assert len(report.faults) >= KINDS
    assert report.kept.reads
    assert report.writes_executed
