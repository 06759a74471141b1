"""One sidecar between the real OpenBao and the real Kafka, under load until the time is over."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from tests.audit.spools import verified
from tests.real.kafka import KafkaBroker
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.soak.callers import POLICY, Asked, Callers
from tests.soak.footprint import MEBIBYTE, Sample, growth, problems, read, value_of
from tests.support.tokens import Issuer

SAMPLES: Final = 60
"""Looks at the process, over the whole run."""
MOST_SAID: Final = 20
TELL_SECONDS: Final = 20.0
ENOUGH_WRONG: Final = 500
"""Answers; what comes after them tells nothing more."""


@dataclass(slots=True)
class Report:
    """What was measured and found."""

    seed: int
    seconds: float = 0.0
    at_rest: Sample = field(default_factory=lambda: Sample(0.0, 0.0))
    under_load: Sequence[Sample] = ()
    asked: Asked = field(default_factory=Asked)
    most_bytes: float = 0.0
    """That waited in the spool for Kafka at any look."""
    said: dict[str, float] = field(default_factory=dict)
    """What `/readyz` complained of, and after how many seconds it first did."""
    records: int = 0
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        memory = [sample.resident_mib for sample in self.under_load]
        descriptors = [sample.descriptors for sample in self.under_load]
        rest = self.at_rest
        return [
            f"seed {self.seed}, {self.seconds:.0f} s, answers {dict(sorted(self.asked.answers.items()))}",
            f"memory in MiB: {rest.resident_mib:.1f} at rest, {_span(memory)}",
            f"descriptors: {rest.descriptors:.0f} at rest, {_span(descriptors)}",
            f"{self.records} records, {len(self.asked.permitted)} answers that each must have one",
            f"spool: at most {self.most_bytes / MEBIBYTE:.1f} MiB",
            *(f"/readyz after {passed:.0f} s: {what}" for what, passed in self.said.items()),
            *(f"WRONG: {what}" for what in self.wrong),
            "FAILED" if self.wrong else "flat, nothing lost",
        ]


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f} under load, {growth(values):+.1f} after the warm-up"


async def soak(
    folder: Path,
    openbao: OpenBao,
    kafka: KafkaBroker,
    seconds: float,
    seed: int,
    say: Callable[[str], None] = lambda _line: None,
) -> Report:
    """Runs it. What is remembered for minutes in production is remembered for seconds here, so that a short run sees
    every table fill and empty again."""
    report, prefix, issuer = Report(seed), f"soak{time.monotonic_ns()}", Issuer()
    await kafka.create_topics(f"{prefix}.secrets.audit", f"{prefix}.secrets")
    openbao.put("soak/db", {"value": "soaked"})
    sidecar = SidecarProcess(
        folder / "sidecar",
        openbao,
        issuer,
        {
            "identity": {"clock_skew_seconds": 1},
            "anti_replay": {"window_seconds": 3, "proof_max_age_seconds": 2},
            "grants": {"negative_ttl_seconds": 1},
            "ops": {"log_level": "warning"},
            "audit": {"kafka": {"bootstrap_servers": kafka.plaintext, "topic_prefix": prefix}},
        },
    )
    (sidecar.policies / "soak.cedar").write_text(POLICY)
    await asyncio.to_thread(sidecar.start)
    started = time.monotonic()
    try:
        report.at_rest = await _look(sidecar, report, 0)
        async with Callers(sidecar.url, issuer, random.Random(seed)) as callers:
            report.asked = callers.asked
            samples, told = [], 0.0
            while (passed := time.monotonic() - started) < seconds and len(callers.asked.wrong) < ENOUGH_WRONG:
                samples.append(await _look(sidecar, report, passed))
                if passed >= told + TELL_SECONDS:
                    told, many, wrong = passed, sum(callers.asked.answers.values()), len(callers.asked.wrong)
                    say(f"  {passed:5.0f} s: {many:8} answers, {wrong} wrong, {samples[-1].resident_mib:.1f} MiB")
                await asyncio.sleep(min(seconds / SAMPLES, seconds - passed))
            report.under_load = samples
    finally:
        status = await asyncio.to_thread(sidecar.terminate)
    report.seconds = time.monotonic() - started
    report.wrong = [*report.asked.wrong[:10], *problems(report.at_rest, samples)]
    for name, server in (("OpenBao", openbao), ("Kafka", kafka)):
        if not server.is_running:  # then what went wrong is no fault of the sidecar's
            report.wrong.append(f"{name} is gone, ended by itself or by somebody else:\n{server.log_tail()}")
    if status != 0:
        report.wrong.append(f"it ended with {status}")
    if report.wrong:
        report.wrong.append(f"the sidecar's log ends with:\n{sidecar.log_tail()}")
    if kafka.is_running:
        messages = await kafka.messages(f"{prefix}.secrets.audit")
        await _judge_records(report, folder, [message.value for message in messages])
    return report


async def _look(sidecar: SidecarProcess, report: Report, passed: float) -> Sample:
    """The process's size; and what is not well with it, so that a failed soak tells which limit was reached."""
    metrics = await asyncio.to_thread(sidecar.metrics)
    report.most_bytes = max(report.most_bytes, value_of(metrics, "sidecar_audit_backlog_bytes"))
    checks = orjson.loads(await asyncio.to_thread(sidecar.ready_text))["checks"]
    for name, check in sorted(checks.items()):
        if check.keys() > {"ready"} and len(report.said) < MOST_SAID:
            report.said.setdefault(f"{name}: {check.get('message') or check.get('warning')}", passed)
    return read(metrics)


async def _judge_records(report: Report, folder: Path, values: Sequence[bytes]) -> None:
    """The topic has them all: the drain at the end lost none."""
    report.records = len(values)
    dump = folder / "topic.jsonl"
    dump.write_bytes(b"\n".join(values))
    code, said = verified(dump)
    if code != 0:
        report.wrong.append(f"the topic does not verify: {said}")
    told = {
        record["correlation_id"] for record in map(orjson.loads, values) if record["event"].startswith("SECRET_PERMIT")
    }
    if missing := report.asked.permitted - told:
        report.wrong.append(f"{len(missing)} answers without a record")
