"""Taking back: ends grants, and writes down that it did. Four ways lead here: the operations listener, a Kafka topic,
SIGHUP, and a change of policies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import structlog

from sidecar.audit.journal import Journal
from sidecar.audit.record import Event, Record, ResourceRefs
from sidecar.decision.decide import Decider
from sidecar.decision.revocation import EVERYTHING, Revocation
from sidecar.errors import Refused
from sidecar.ops import metrics

Source = Literal["ops", "kafka", "signal", "policy"]

MAX_AT_ONCE: Final = 100
"""More revocations than this at once are taken as one of everything: each looks at the whole table."""

_log = structlog.get_logger(__name__)


class Revocations:
    """Applies revocations to one process. What is asked for happens first, and whatever becomes of its record."""

    def __init__(self, decider: Decider, journal: Journal, refs: ResourceRefs, tenant_id: str) -> None:
        self._decider = decider
        self._journal = journal
        self._refs = refs
        self._tenant_id = tenant_id
        self._recording: set[asyncio.Task[None]] = set()

        self.on_drop: list[Callable[[Revocation], None]] = []
        """Called with each revocation as it is applied. They neither wait nor raise."""

    async def apply(self, revocations: Sequence[Revocation], source: Source) -> int:
        """Ends what fits any of them; returns how many grants ended, once that is written down.

        Raises:
            Refused: AUDIT_UNAVAILABLE. The grants have ended all the same.
        """
        ended = self._drop(revocations, source)
        await self._record(revocations, source, ended)
        return ended

    def policies_changed(self) -> None:
        """Another policy set is in force: at once, and recorded as soon as may be."""
        ended = self._drop((EVERYTHING,), "policy")
        task = asyncio.create_task(self._record_if_possible((EVERYTHING,), "policy", ended))
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)

    async def settle(self) -> None:
        """Waits for the records under way."""
        await asyncio.gather(*self._recording)

    def _drop(self, revocations: Sequence[Revocation], source: Source) -> int:
        if len(revocations) > MAX_AT_ONCE or any(each.is_all for each in revocations):
            ended = self._decider.drop_all()
        else:
            ended = self._decider.revoke(lambda claim: any(each.fits(claim) for each in revocations))
        for told in self.on_drop:
            for each in revocations:
                told(each)
        metrics.REVOCATIONS.labels(source).inc(len(revocations))
        metrics.GRANTS_REVOKED.inc(ended)
        _log.info("grants revoked", source=source, revocations=len(revocations), ended=ended)
        return ended

    async def _record(self, revocations: Sequence[Revocation], source: Source, ended: int) -> None:
        fields: dict[str, Any] = {
            "tenant_id": self._tenant_id,
            "ref_key_id": self._refs.key_id,
            "source": source,
            "grants_ended": ended,
            "revocations": [self._shown(each) for each in revocations[:MAX_AT_ONCE]],
            "revocations_count": len(revocations),
        }
        await self._journal.append(Record(Event.GRANTS_REVOKED, fields))

    async def _record_if_possible(self, revocations: Sequence[Revocation], source: Source, ended: int) -> None:
        try:
            await self._record(revocations, source, ended)
        except Refused as refusal:
            _log.error("a revocation could not be recorded", reason=refusal.detail)

    def _shown(self, revocation: Revocation) -> dict[str, Any]:
        """As the audit may tell it: a prefix holds a path, and is shown by its reference."""
        if revocation.is_all:
            return {"all": True}
        prefix = revocation.uri_prefix
        shown = {
            "subject": revocation.subject,
            "issuer": revocation.issuer,
            "prefix_ref": None if prefix is None else self._refs.of_text(prefix),
        }
        return {name: value for name, value in shown.items() if value is not None}
