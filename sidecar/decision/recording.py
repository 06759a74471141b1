"""Recordings of decisions, to be replayed against other policies by `sidecar policy diff`: off unless configured.

They hold what the audit never does: canonical URIs, and the attributes of secrets. Hence a file of its own, for its
owner alone, of bounded size; tokens, proofs and values are not in it. What cannot be written is dropped and counted.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from sidecar.decision.observed import Decision
from sidecar.ops import metrics

MAX_WAITING: Final = 4096
_WRITTEN: Final = metrics.RECORDINGS.labels("written")
_DROPPED: Final = metrics.RECORDINGS.labels("dropped")

_log = structlog.get_logger(__name__)


class Recorder:
    """Appends decisions to `path`; where that holds half of `max_bytes`, it becomes `path.1`."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._half = max_bytes // 2
        self._waiting: asyncio.Queue[Decision] = asyncio.Queue(MAX_WAITING)
        self.problem = ""
        """Why decisions are not recorded; empty where they are."""

    def offer(self, decision: Decision) -> None:
        """Takes a decision to write, if there is room. Never waits and never raises."""
        try:
            self._waiting.put_nowait(decision)
        except asyncio.QueueFull:
            _DROPPED.inc()

    async def run(self) -> None:
        """Writes, until cancelled; what waits then is still written."""
        try:
            while True:
                await self._write([await self._waiting.get(), *self._taken()])
        finally:
            if rest := self._taken():
                self._append(rest)

    def _taken(self) -> list[Decision]:
        return [self._waiting.get_nowait() for _ in range(self._waiting.qsize())]

    async def _write(self, decisions: list[Decision]) -> None:
        writing = asyncio.ensure_future(asyncio.to_thread(self._append, decisions))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])  # else the rest would be written beside it, into the middle of an exchange
            raise

    def _append(self, decisions: list[Decision]) -> None:
        try:
            data = b"".join(orjson.dumps(line(decision)) + b"\n" for decision in decisions)
            descriptor = self._open()
            try:
                if os.fstat(descriptor).st_size + len(data) > self._half:
                    self._path.replace(f"{self._path}.1")
                    os.close(descriptor)
                    descriptor = self._open()
                os.write(descriptor, data)
            finally:
                os.close(descriptor)
        except (OSError, TypeError, ValueError) as error:
            _DROPPED.inc(len(decisions))
            problem = f"decisions are not recorded: {error.strerror if isinstance(error, OSError) else error}"
            if problem != self.problem:
                _log.error(problem)
            self.problem = problem
        else:
            _WRITTEN.inc(len(decisions))
            self.problem = ""

    def _open(self) -> int:
        """Through no link, and into nothing that others may read."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_mode & 0o077 or state.st_uid != os.geteuid():
            os.close(descriptor)
            raise ValueError("the file is not regular, not ours, or others may read it")
        return descriptor


def line(decision: Decision) -> Mapping[str, Any]:
    """One decision as JSON. Without the token's `jti`: it belongs to a credential."""
    question, verdict = decision.question, decision.verdict
    return {
        "recording": 1,
        "at": decision.wall,
        "correlation_id": decision.correlation_id,
        "subject": question.subject,
        "action": question.action,
        "resource": question.resource,
        "context": {name: value for name, value in question.context.items() if name != "token_jti"},
        "code": decision.code,
        "obligations": {
            "ttl_seconds": verdict.obligations.ttl_seconds,
            "max_uses": verdict.obligations.max_uses,
            "release": None if verdict.obligations.release is None else sorted(verdict.obligations.release),
            "step_up_acr_values": verdict.obligations.step_up_acr_values,
            "step_up_max_age_seconds": verdict.obligations.step_up_max_age_seconds,
            "notifications": verdict.obligations.notifications,
            "terminate_sessions": verdict.obligations.terminate_sessions,
        },
        "policies": verdict.policies,
        "policy_version": verdict.policy_version,
    }
