"""The audit's way to a real Kafka: its CPU per record beside the journal's, and what a draining backlog does to
requests.

Live: the journal's open load with and without the shipper; the difference is Kafka's share. Drain: a backlog as fast as
it goes, beside what reading, parsing and encoding these records cost at least. Latency: the whole sidecar under a
closed load, with its backlog standing still (no broker) and while it drains at the configured rate.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from zlib import crc32

import orjson
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from bench.journal import RATE, RECORD, load
from bench.load import write_requests
from sidecar.audit.journal import Journal
from sidecar.audit.kafka import KafkaShipper
from sidecar.audit.messages import SCHEMA
from sidecar.audit.reader import read_all
from sidecar.clock import SystemClock
from sidecar.config import Kafka
from sidecar.dev.ports import LOOPBACK
from tests.real.kafka import KafkaBroker
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

SECONDS: Final = 3.0
BACKLOG: Final = 100_000
DRAIN_RATE: Final = 10_000
CONNECTIONS: Final = 4
_TOGETHER: Final = 1_000
_UNLIMITED: Final = 10_000_000
_PATH: Final = "/v1/secret/data/bench/db"


@asynccontextmanager
async def _journal(folder: Path) -> AsyncIterator[Journal]:
    journal = await Journal.open(folder, "fsync", 4 * 2**30, SystemClock())
    try:
        yield journal
    finally:
        await journal.close()


async def _topics(broker: KafkaBroker) -> str:
    prefix = f"bench{secrets.token_hex(4)}"
    await broker.create_topics(f"{prefix}.secrets.audit", f"{prefix}.secrets")
    return prefix


async def _caught_up(shipper: KafkaShipper) -> None:
    while shipper.status().backlog_records:  # noqa: ASYNC110 - a figure has no event
        await asyncio.sleep(0.02)


async def live(broker: KafkaBroker, seconds: float = SECONDS) -> dict[str, float]:
    """µs of CPU per record at `RATE` records a second: the journal with its load, and what Kafka adds."""
    with TemporaryDirectory(dir=Path.cwd(), prefix=".bench-kafka-") as name:
        async with _journal(Path(name)) as journal:
            config = Kafka(bootstrap_servers=broker.plaintext, topic_prefix=await _topics(broker))
            without, alone = await load(journal, seconds)
            shipper = KafkaShipper(
                config.model_copy(update={"max_records_per_second": _UNLIMITED}), journal, SystemClock()
            )
            shipper.start()
            await _caught_up(shipper)
            began = time.process_time()
            sent, _ = await load(journal, seconds)
            await _caught_up(shipper)
            together = time.process_time() - began
            await shipper.stop()
    return {"live_us_per_record": round((together / sent - alone / without) * 1e6, 1)}


async def drain(broker: KafkaBroker) -> dict[str, float]:
    """µs of CPU per record of a backlog, and how many a second go at most."""
    with TemporaryDirectory(dir=Path.cwd(), prefix=".bench-kafka-") as name:
        async with _journal(Path(name)) as journal:
            for _ in range(BACKLOG // _TOGETHER):
                await journal.append_many([RECORD] * _TOGETHER)
            await asyncio.sleep(5)  # until the closed segments are compressed
            prefix = await _topics(broker)
            config = Kafka(bootstrap_servers=broker.plaintext, topic_prefix=prefix, max_records_per_second=_UNLIMITED)
            shipper = KafkaShipper(config, journal, SystemClock())
            began, cpu = time.monotonic(), time.process_time()
            shipper.start()
            await _caught_up(shipper)
            took, used = time.monotonic() - began, time.process_time() - cpu
            await shipper.stop()
        floor = _floor([line.record for line in read_all([Path(name)])][:5_000])
    return {
        "drain_us_per_record": round(used / BACKLOG * 1e6, 1),
        "drain_records_per_second": round(BACKLOG / took),
        "floor_us_per_record": floor,
    }


def _floor(records: list[bytes]) -> float:
    """What no way to Kafka can save: the checksum, the JSON once, Kafka's own encoding of each record."""
    key, headers = b"k" * 32, [("schema", SCHEMA), ("resource_ref", b"r" * 43)]
    best = float("inf")
    for _ in range(7):
        builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, 0, 2**30)
        began = time.process_time()
        for offset, record in enumerate(records):
            crc32(record)
            orjson.loads(record)
            builder.append(offset, 1_700_000_000_000, key, record, headers)
        best = min(best, (time.process_time() - began) / len(records))
    return round(best * 1e6, 1)


async def latency(broker: KafkaBroker, openbao: OpenBao, folder: Path, seconds: float = 5.0) -> dict[str, float]:
    """p50 and p99 of requests in ms: with a backlog that stands still, and with the same one while it drains."""
    issuer = Issuer()
    prefix = await _topics(broker)
    overrides = {
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
        "ops": {"log_level": "warning"},
        "audit": {
            "max_spool_mib": 4096,
            "kafka": {
                "bootstrap_servers": broker.plaintext,
                "topic_prefix": prefix,
                "max_records_per_second": DRAIN_RATE,
            },
        },
    }
    openbao.put("bench/db", {"value": "bench"})
    process = SidecarProcess(folder / "sidecar", openbao, issuer, overrides)
    async with _journal(process.spool) as journal:
        for _ in range(BACKLOG // _TOGETHER):
            await journal.append_many([RECORD] * _TOGETHER)
    broker.stop()
    figures: dict[str, float] = {}
    with process:
        lines = [
            f"GET {_PATH} HTTP/1.1",
            f"Host: {LOOPBACK}:{process.port}",
            f"X-Vault-Token: {issuer.token(sub='endless')}",
        ]
        write_requests(folder / "requests", [("\r\n".join(lines) + "\r\n\r\n").encode()])
        await _requests(process, folder, 1.0)
        for when in ("standing", "draining"):
            if when == "draining":
                broker.start()
                while _backlog(process) >= BACKLOG:  # noqa: ASYNC110 - another process's figure
                    await asyncio.sleep(0.05)
            before = _backlog(process)
            found = await _requests(process, folder, seconds)
            figures[f"{when}_p50_ms"], figures[f"{when}_p99_ms"] = found["p50_ms"], found["p99_ms"]
            figures[f"{when}_requests_per_second"] = found["rps"]
            figures[f"{when}_records_less"] = before - _backlog(process)
    return figures


def _backlog(process: SidecarProcess) -> int:
    for line in process.metrics().splitlines():
        if line.startswith("sidecar_audit_backlog_records "):
            return int(float(line.rpartition(" ")[2]))
    raise RuntimeError("no such metric")


async def _requests(process: SidecarProcess, folder: Path, seconds: float) -> dict[str, Any]:
    command = (
        "-m",
        "bench.load",
        LOOPBACK,
        str(process.port),
        str(CONNECTIONS),
        str(seconds),
        str(folder / "requests"),
    )
    running = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    out, _ = await running.communicate()
    result: dict[str, Any] = json.loads(out)
    if set(result["statuses"]) != {"200"}:
        raise RuntimeError(f"not every answer was 200: {result['statuses']}")
    return result


async def kafka_bench() -> dict[str, float]:
    """All of it, each with a broker of its own start."""
    with TemporaryDirectory(prefix="sidecar-bench-") as name:
        folder = Path(name)
        (folder / "kafka").mkdir()
        with KafkaBroker(folder / "kafka") as broker, OpenBao(folder / "openbao") as openbao:
            return await live(broker) | await drain(broker) | await latency(broker, openbao, folder)


if __name__ == "__main__":
    import uvloop

    print(f"{RATE:,} records a second live; a backlog of {BACKLOG:,}, at most {DRAIN_RATE:,} a second")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for figure, value in runner.run(kafka_bench()).items():
            print(f"  {figure:32} {value:10.1f}")
