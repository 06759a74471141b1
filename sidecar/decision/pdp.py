"""The way to the PDP: bounded in number and time, held back while the PDP is away, and measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from sidecar.clock import Clock
from sidecar.decision.breaker import CircuitBreaker
from sidecar.decision.permit import Denied, Pdp, Question, Verdict
from sidecar.decision.turns import Turns
from sidecar.errors import Code, Refused
from sidecar.ops import metrics, tracing
from sidecar.ops.tracing import Kind

MAX_CONCURRENT: Final = 64
MAX_WAITING: Final = 1024

SLOWEST_BATCH: Final = 16
"""A batch may take as long as its questions one after the other, this many at once."""

_log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")


class PdpOutage(Refused):
    """The PDP gives nobody an answer now, so that asking more would only make it worse.

    A PDP that merely dislikes one question is no outage: else one caller could close the way for all.
    """

    def __init__(self, detail: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(
            Code.PDP_UNAVAILABLE,
            "No decision could be made; try again.",
            headers=retry_after(retry_after_seconds),
            detail=detail,
        )
        self.retry_after_seconds = retry_after_seconds


def no_answer(detail: str) -> Refused:
    """PDP_UNAVAILABLE for one question: what came is no trustworthy answer."""
    return Refused(Code.PDP_UNAVAILABLE, "No decision could be made; try again.", headers=retry_after(0), detail=detail)


def retry_after(seconds: float) -> dict[str, str]:
    """The header, in whole seconds of at least 1 (RFC 9110, section 10.2.3)."""
    return {"Retry-After": str(max(1, -int(-seconds // 1)))}


class AllowAll:
    """The PDP where `authorization.enabled` is false: in the development world only."""

    async def evaluate(self, question: Question) -> Verdict:  # noqa: ARG002 - the protocol's shape
        """Permits, with the configured defaults."""
        return Verdict(permit=True, policy_version="authorization-disabled")

    async def evaluate_many(self, questions: Sequence[Question]) -> list[Verdict | Denied]:
        """Permits all."""
        return [await self.evaluate(question) for question in questions]


class PdpAccess:
    """Asks one PDP. `timeout_seconds` bounds a call; waiting for a turn is bounded by as much again."""

    def __init__(self, pdp: Pdp, clock: Clock, timeout_seconds: float) -> None:
        self._pdp = pdp
        self._clock = clock
        self._timeout = timeout_seconds
        self._turns = Turns(MAX_CONCURRENT)
        self._breaker = CircuitBreaker()

    @property
    def available(self) -> bool:
        """False while calls are held back."""
        return not self._breaker.is_open

    async def ask(self, question: Question) -> tuple[Verdict, float]:
        """The verdict, and the elapsed time at which it came.

        Raises:
            Refused: whatever went wrong, as PDP_UNAVAILABLE with `Retry-After`, or a `Denied` of the PDP's own.
        """

        async def call() -> Verdict:
            with tracing.span("sidecar.pdp", question.trace, Kind.CLIENT) as span:
                async with asyncio.timeout(self._timeout):
                    verdict = await self._pdp.evaluate(replace(question, trace=span.at))
                span.note(permit=verdict.permit)
                return verdict

        return await self._in_turn(call, self._timeout)

    async def ask_many(self, questions: Sequence[Question]) -> tuple[list[Verdict | Denied], float]:
        """The verdicts, in the order of the questions, and the elapsed time at which the last of them came. A batch
        takes one turn.

        Raises:
            Refused: PDP_UNAVAILABLE with `Retry-After`, for all of them.
        """
        if not questions:
            return [], self._clock.elapsed()
        limit = self._timeout * (1 + len(questions) / SLOWEST_BATCH)

        async def call() -> list[Verdict | Denied]:
            with tracing.span("sidecar.pdp", questions[0].trace, Kind.CLIENT) as span:
                async with asyncio.timeout(limit):
                    return await self._pdp.evaluate_many([replace(one, trace=span.at) for one in questions])

        answers, answered = await self._in_turn(call, limit)
        if len(answers) != len(questions):
            raise no_answer(f"{len(answers)} verdicts for {len(questions)} questions")
        return answers, answered

    async def _in_turn(self, call: Callable[[], Awaitable[Answer]], limit: float) -> tuple[Answer, float]:
        try:
            await self._take_turn()
            try:
                return await self._call(call, limit)
            finally:
                self._turns.give_back()
        except Refused as refused:
            if refused.code is Code.PDP_UNAVAILABLE:
                metrics.PDP_ERRORS.inc()
            raise

    async def _take_turn(self) -> None:
        pause = self._breaker.held_seconds(self._clock.elapsed())
        if pause:
            raise _held_back(pause)  # nobody waits for a turn that would be refused
        if self._turns.waiting >= MAX_WAITING:
            raise PdpOutage("too many questions wait for the PDP")
        try:
            async with asyncio.timeout(self._timeout):
                await self._turns.take()
        except TimeoutError:
            raise PdpOutage("no turn at the PDP in time") from None

    async def _call(self, call: Callable[[], Awaitable[Answer]], limit: float) -> tuple[Answer, float]:
        asked = self._clock.elapsed()
        pause = self._breaker.wait_seconds(asked)
        if pause:
            raise _held_back(pause)
        started = time.perf_counter()
        try:
            answer = await call()
        except TimeoutError:
            self._failed("no answer in time")
        except PdpOutage as outage:
            self._failed(outage.detail, outage.retry_after_seconds)
        except Refused:
            self._answered()  # it answers, if not as it should
            raise
        except Exception as error:
            # Whatever a PDP's client throws, it is no permit and no traceback.
            self._breaker.abandoned()
            raise no_answer(f"{type(error).__name__} while asking the PDP") from error
        except BaseException:
            self._breaker.abandoned()
            raise
        finally:
            metrics.PDP_SECONDS.observe(time.perf_counter() - started)
        self._answered()
        answered = self._clock.elapsed()
        if answered - asked > limit + 1:
            # The process was suspended in between: the answer may be hours old, and its ttl counts from now.
            raise no_answer("the answer is older than the time limit")
        return answer, answered

    def _answered(self) -> None:
        if self._breaker.is_open:
            _log.info("pdp answers again")
        self._breaker.succeeded()
        self._turns.answered()

    def _failed(self, detail: str, at_least: float = 0.0) -> None:
        was_open = self._breaker.is_open
        now = self._clock.elapsed()
        self._breaker.failed(now, at_least)
        if self._breaker.is_open and not was_open:
            _log.warning("pdp away, calls are held back", detail=detail)
        if self._breaker.is_open:
            self._turns.away()
        raise PdpOutage(detail, at_least)


def _held_back(seconds: float) -> PdpOutage:
    return PdpOutage("the PDP was away: calls are held back", seconds)


def again(refused: Refused) -> Refused:
    """The same refusal for another caller: an exception object is raised once."""
    if isinstance(refused, Denied):
        return Denied(
            refused.code, refused.message, verdict=refused.verdict, wanted=refused.wanted, detail=refused.detail
        )
    return Refused(refused.code, refused.message, headers=refused.headers, detail=refused.detail)
