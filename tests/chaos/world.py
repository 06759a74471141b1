"""What goes wrong, and what must be true afterwards: zero lost, zero out of order, zero unrecorded releases."""

from __future__ import annotations

import asyncio
import random
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from sidecar.analytics.consumer import Consumer
from sidecar.audit.record import ResourceRefs
from sidecar.config import Kafka
from sidecar.surface.secret_uri import SecretUri
from tests.audit.disks import SmallDisk
from tests.audit.spools import verified
from tests.chaos.clients import Clients, Kept
from tests.chaos.network import Network
from tests.real.kafka import KafkaBroker
from tests.real.openbao import OpenBao
from tests.real.sidecar import SALT, SidecarProcess
from tests.support.tokens import Issuer

DRAIN_SECONDS = 120.0
SPOOL_MIB = 8


@dataclass(slots=True)
class Report:
    """What was done and found."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    kept: Kept = field(default_factory=Kept)
    seconds: float = 0.0
    records: int = 0
    redelivered: int = 0
    runs: int = 0
    crashes: int = 0
    writes_executed: int = 0
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        faults = ", ".join(f"{count} × {what}" for what, count in sorted(self.faults.items()))
        return [
            f"seed {self.seed}, {self.seconds:.0f} s: {faults}",
            f"{len(self.kept.reads)} secrets and {len(self.kept.writes)} acknowledged writes in hand",
            f"answers {dict(sorted(self.kept.statuses.items()))}, {self.kept.broken} requests without one",
            f"{self.records} records in Kafka, {self.redelivered} sent again, {self.runs} runs, {self.crashes} crashes",
            f"{self.writes_executed} writes that OpenBao executed",
            *(f"WRONG: {what}" for what in self.wrong),
            "nothing lost, nothing out of order, nothing unrecorded" if not self.wrong else "FAILED",
        ]


class Chaos:
    """One sidecar between real parts, and everything that may happen to it."""

    def __init__(self, folder: Path, disk: SmallDisk, openbao: OpenBao, kafka: KafkaBroker, seed: int) -> None:
        self._openbao, self._kafka, self._disk = openbao, kafka, disk
        self._chance = random.Random(seed)
        self._prefix = f"chaos{time.monotonic_ns()}"
        self._folder = folder
        self._since = openbao.mark()
        self.report = Report(seed)
        self._network = Network(kafka.proxied, kafka.behind_proxy)
        self._broker_lock = asyncio.Lock()  # one thing at a time happens to the broker
        self._full = False
        issuer = Issuer()
        self._token = issuer.token(sub="endless", exp=int(time.time()) + 7200)
        self._sidecar = SidecarProcess(
            folder / "sidecar",
            openbao,
            issuer,
            {
                "identity": {"binding": "preferred"},
                "anti_replay": {"unbound_token": "off"},
                "ops": {"log_level": "warning"},
                "audit": {
                    "spool_dir": str(disk.path / "spool"),
                    "max_spool_mib": SPOOL_MIB,
                    "kafka": {"bootstrap_servers": kafka.proxied, "topic_prefix": self._prefix},
                },
            },
        )

    async def run(self, rounds: int, seconds: float, *, kinds: int = 1) -> Report:
        """`rounds` of kill -9 under load, then everything in an order the seed gives.

        For so many seconds, and longer where a slow machine has not yet come to so many kinds of fault.
        """
        started = time.monotonic()
        await self._kafka.create_topics(f"{self._prefix}.secrets.audit", f"{self._prefix}.secrets")
        self._openbao.put("kept/db", {"value": "kept"})  # what others read from this OpenBao stays as it is
        async with self._network:
            await self._start()
            async with Clients(self._sidecar.url, self._token, self._chance) as clients:
                self.report.kept = clients.kept
                for _ in range(rounds):
                    await self._in_service()
                    await asyncio.sleep(self._chance.uniform(0.0, 0.8))
                    await self._kill_9()
                await self._everything(seconds, kinds)
            await self._settle()
        self.report.seconds = time.monotonic() - started
        await self._judge()
        return self.report

    # -- what goes wrong ---------------------------------------------------------------------------------------------
    async def _everything(self, seconds: float, kinds: int) -> None:
        faults: list[Callable[[], Awaitable[None]]] = [
            self._kill_9,
            self._broker_stopped,
            self._broker_killed,
            self._broker_hangs,
            self._network_dropped,
            self._network_cut,
            self._disk_filled,
        ]
        pending: list[Callable[[], Awaitable[None]]] = []
        until = time.monotonic() + seconds
        while time.monotonic() < until or len(self.report.faults) < kinds:
            if not pending:  # each comes once before any comes again
                pending = self._chance.sample(faults, len(faults))
            await asyncio.gather(*(pending.pop()() for _ in range(min(len(pending), self._chance.choice((1, 1, 2))))))
            await asyncio.sleep(self._chance.uniform(0.0, 1.0))

    async def _for_a_while(self) -> None:
        await asyncio.sleep(self._chance.uniform(0.2, 4.0))

    async def _kill_9(self) -> None:
        self.report.faults["kill -9"] += 1
        await asyncio.to_thread(self._sidecar.kill)
        await self._start()

    async def _broker_stopped(self) -> None:
        await self._broker_away("broker stopped", self._kafka.stop)

    async def _broker_killed(self) -> None:
        await self._broker_away("broker killed", self._kafka.kill)

    async def _broker_away(self, what: str, end: Callable[[], None]) -> None:
        async with self._broker_lock:
            self.report.faults[what] += 1
            await asyncio.to_thread(end)
            await self._for_a_while()
            await asyncio.to_thread(self._kafka.start)

    async def _broker_hangs(self) -> None:
        async with self._broker_lock:
            self.report.faults["broker hangs"] += 1
            self._kafka.pause()
            await self._for_a_while()
            self._kafka.resume()

    async def _network_dropped(self) -> None:
        self.report.faults["network dropped"] += 1
        self._network.drop()
        await self._for_a_while()
        self._network.restore()

    async def _network_cut(self) -> None:
        self.report.faults["connections cut"] += 1
        self._network.cut()

    async def _disk_filled(self) -> None:
        self.report.faults["disk filled"] += 1
        self._full = True
        self._limit_files()
        await asyncio.to_thread(self._disk.fill)
        await self._for_a_while()
        await asyncio.to_thread(self._disk.free)
        self._full = False
        self._limit_files()

    # -- the sidecar -------------------------------------------------------------------------------------------------
    async def _start(self) -> None:
        await asyncio.to_thread(self._sidecar.start, wait=False)
        self._limit_files()

    def _limit_files(self) -> None:
        """Where no disk can be mounted, a limit on the process's files stands in for a full one."""
        process = self._sidecar.process
        if not self._disk.mounted and process is not None:
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0 if self._full else hard, hard))

    async def _in_service(self) -> None:
        """Waits until a client has got something from this run."""
        before, deadline = len(self.report.kept.reads), time.monotonic() + 60
        while len(self.report.kept.reads) == before:
            self._still_runs()
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing was served for a minute\n{self._sidecar.log_tail()}")
            await asyncio.sleep(0.01)

    def _still_runs(self) -> None:
        process = self._sidecar.process
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the sidecar ended by itself: {process.returncode}\n{self._sidecar.log_tail()}")

    async def _settle(self) -> None:
        """All is well again: everything drains, and the sidecar ends in an orderly way."""
        await asyncio.to_thread(self._sidecar.wait_until_ready)
        deadline = time.monotonic() + DRAIN_SECONDS
        while b"sidecar_audit_backlog_records 0.0" not in (await asyncio.to_thread(self._sidecar.metrics)).encode():
            self._still_runs()
            if time.monotonic() > deadline:
                self.report.wrong.append("the backlog did not drain")
                break
            await asyncio.sleep(0.2)
        if await asyncio.to_thread(self._sidecar.terminate) != 0:
            self.report.wrong.append("the sidecar did not end in an orderly way")

    # -- what must be true -------------------------------------------------------------------------------------------
    async def _judge(self) -> None:
        report, wrong = self.report, self.report.wrong
        values = [message.value for message in await self._kafka.messages(f"{self._prefix}.secrets.audit")]
        consumer = Consumer(Kafka(bootstrap_servers=self._kafka.plaintext, topic_prefix=self._prefix))
        delivered = [each async for each in consumer.read(follow=False) if each is not None]
        dump = self._folder / "topic.jsonl"
        dump.write_bytes(b"\n".join(values))
        for name, paths, options in (("topic", [dump], {"allow_repeats": True}), ("spool", [self._spool], {})):
            code, said = verified(*paths, **options)
            if code != 0:
                wrong.append(f"the {name} does not verify: {said}")
        records = [orjson.loads(each.record) for each in delivered if not each.fault]
        report.records, report.redelivered = len(records), consumer.repeats.dropped
        if len({record["event_id"] for record in records}) + report.redelivered != len(values):
            wrong.append("the consumer did not read each record once")
        if [record["seq"] for record in records] != list(range(1, len(records) + 1)):
            wrong.append("records are missing or out of order")
        if not records or records[-1]["event"] != "AUDIT_STOP":
            wrong.append("the last record is not the orderly end")
        starts = [record for record in records if record["event"] == "AUDIT_START"]
        report.runs, report.crashes = len(starts), sum(start["previous_run"] == "crashed" for start in starts)
        outcomes = {
            record["correlation_id"]
            for record in records
            if record["event"] == "SECRET_PERMIT" and record["phase"] == "outcome"
        }
        if unrecorded := (report.kept.reads | report.kept.writes) - outcomes:
            wrong.append(f"{len(unrecorded)} answers were released without their record: {sorted(unrecorded)[:3]}")
        self._judge_writes({record.get("resource_ref") for record in records if record.get("phase") == "intent"})

    def _judge_writes(self, intended: set[str | None]) -> None:
        """OpenBao's own audit is the witness: whatever it executed was announced."""
        refs = ResourceRefs("acme", SALT.encode())
        executed = {
            request["path"].removeprefix("secret/data/")
            for request in self._openbao.requests(self._since)
            if request["operation"] in ("create", "update") and request["path"].startswith("secret/data/chaos/")
        }
        self.report.writes_executed = len(executed)
        for path in sorted(executed):
            uri = SecretUri("openbao", "kv2", "secret", tuple(path.split("/")))
            if refs.of(uri).resource_ref not in intended:
                self.report.wrong.append(f"{path} was written without an intent")

    @property
    def _spool(self) -> Path:
        return self._disk.path / "spool"
