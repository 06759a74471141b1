"""A candidate: a second PDP that is asked what the one in force was asked, and never obeyed.

It is asked after the decision, off the request's way, by a few workers with a bounded queue: a candidate that is slow,
hangs, throws or answers nonsense costs its own workers' time and nothing else. A grant hit asks nobody, so that
decisions are compared, not requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import structlog

from sidecar.config.tree import Candidate as CandidateConfig
from sidecar.decision.authzen import AuthzenPdp
from sidecar.decision.cedar import CedarPdp, PolicyError
from sidecar.decision.flight import Attributes, fetched
from sidecar.decision.observed import Decision, Difference, compare
from sidecar.decision.permit import Denied, Pdp
from sidecar.decision.question import informed
from sidecar.decision.terms import Terms
from sidecar.errors import Refused
from sidecar.ops import metrics
from sidecar.surface.operation import Operation

RETRY_SECONDS: Final = 10.0

_log = structlog.get_logger(__name__)


class Candidate:
    """Compares one candidate. `build` makes its PDP and may fail; it is tried again then."""

    def __init__(
        self,
        config: CandidateConfig,
        build: Callable[[], Awaitable[Pdp]],
        terms: Terms,
        on_difference: Callable[[Difference], Awaitable[None]],
        attributes: Callable[[Operation], Attributes | None] = lambda _operation: None,
    ) -> None:
        """`attributes` fetches what a secret's metadata say, for a candidate that alone looks at them."""
        self._attributes = attributes
        self._config = config
        self._build = build
        self._terms = terms
        self._on_difference = on_difference
        self._waiting: asyncio.Queue[Decision] = asyncio.Queue(config.max_waiting)
        self._pdp: Pdp | None = None
        self.problem = ""
        """Why it cannot be asked; empty where it can."""

    def offer(self, decision: Decision) -> None:
        """Takes a decision to compare, if there is room. Never waits and never raises."""
        try:
            self._waiting.put_nowait(decision)
        except asyncio.QueueFull:
            metrics.CANDIDATE.labels("dropped").inc()

    async def run(self) -> None:
        """Compares, until cancelled."""
        workers = [asyncio.create_task(self._work()) for _ in range(self._config.max_concurrent)]
        watch: asyncio.Task[None] | None = None
        try:
            self._pdp = await self._built()
            if isinstance(self._pdp, CedarPdp):
                watch = asyncio.create_task(self._pdp.watch())
            await asyncio.gather(*workers)
        finally:
            for task in (*workers, *((watch,) if watch else ())):
                task.cancel()

    async def reload(self) -> None:
        """SIGHUP. Raises what its PDP's `reload` does; what was in force stays."""
        if isinstance(self._pdp, (CedarPdp, AuthzenPdp)):
            await self._pdp.reload()

    @property
    def warning(self) -> str:
        """For readiness."""
        own = self._pdp.problem if isinstance(self._pdp, CedarPdp) else ""
        return f"candidate: {self.problem or own}" if self.problem or own else ""

    @property
    def reads_metadata(self) -> bool:
        """Whether it looks at what a secret's metadata says; a remote one may."""
        return self._pdp.reads_metadata if isinstance(self._pdp, CedarPdp) else self._pdp is not None

    async def _built(self) -> Pdp:
        while True:
            try:
                pdp = await self._build()
            except PolicyError as error:
                self.problem = f"its policies are refused: {error}"[:1000]
                _log.warning("the candidate cannot be asked", problems=list(error.problems))
            except Exception as error:  # noqa: BLE001 - whatever ails the candidate, the PDP in force decides on
                self.problem = type(error).__name__
                _log.warning("the candidate cannot be asked", error=type(error).__name__)
            else:
                self.problem = ""
                return pdp
            await asyncio.sleep(RETRY_SECONDS)

    async def _work(self) -> None:
        while True:
            decision = await self._waiting.get()
            try:
                metrics.CANDIDATE.labels(await self._compare(decision)).inc()
            except Exception as error:  # noqa: BLE001 - a candidate's fault is counted and has no effect
                metrics.CANDIDATE.labels("error").inc()
                _log.info("the candidate gave no answer", error=type(error).__name__)

    async def _compare(self, decision: Decision) -> str:
        """The metric's label. Raises whatever the candidate throws."""
        if self._pdp is None:
            return "error"
        if self.reads_metadata and not decision.informed:
            fetching = self._attributes(decision.operation)
            if fetching is not None:
                decision = replace(decision, question=informed(decision.question, await fetched(fetching)))
        found = await difference(self._pdp, self._terms, decision, self._config.timeout_ms / 1000)
        if found is None:
            return "same"
        await self._on_difference(found)
        return found.kind


async def difference(pdp: Pdp, terms: Terms, decision: Decision, timeout_seconds: float) -> Difference | None:
    """What a PDP would decide otherwise. Raises TimeoutError, and whatever the PDP throws in place of a decision."""
    refused: Refused | None = None
    async with asyncio.timeout(timeout_seconds):
        try:
            verdict = await pdp.evaluate(decision.question)
        except Denied as denied:
            verdict, refused = denied.verdict, denied
    if refused is None:
        refused = terms.refusal(verdict, decision.operation, decision.caller, decision.wall)
    return compare(
        decision,
        terms.effective(decision.verdict.obligations),
        verdict,
        str(refused.code) if refused is not None else "",
        terms.effective(verdict.obligations),
    )
