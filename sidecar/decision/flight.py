"""One question under way, and those who wait for its answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from sidecar.caller.identity import Caller
from sidecar.decision.grants import Claim, GrantKey, Owner
from sidecar.decision.permit import Permit, Question
from sidecar.decision.together import Together
from sidecar.ops.tracing import TraceParent
from sidecar.shared_replays.store import Claimed
from sidecar.surface.operation import Operation, Purpose
from sidecar.surface.secret_uri import SecretUri

Attributes = Callable[[], Awaitable[Mapping[str, str]]]
"""Fetches a resource's attributes (owner, created_by, created_at, custom metadata); called where the PDP is asked."""

ATTRIBUTES_TIMEOUT_SECONDS: Final = 1.0

Mark = tuple[str, str, Purpose, SecretUri]
"""What a token may open once: issuer, jti, purpose, URI."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Waiter:
    """One request that waits for a decision."""

    key: GrantKey
    operation: Operation
    caller: Caller
    correlation_id: str
    attributes: Attributes | None
    per_grant: bool
    trace: TraceParent | None = None
    together: Together | None = None
    """Whom it asks together with, where it is one of several."""
    question: Question | None = None
    answer: asyncio.Future[Permit] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def claim(self) -> Claim:
        return (self.caller.issuer, self.caller.subject, self.operation.purpose, self.operation.uri)

    @property
    def mark(self) -> Mark:
        return (self.caller.issuer, self.caller.token_jti, self.operation.purpose, self.operation.uri)


@dataclass(slots=True, eq=False)
class Flight:
    """One question under way, and who waits for it."""

    owner: Owner
    together: Together | None = None
    waiters: deque[Waiter] = field(default_factory=deque)
    outdated: bool = False
    blind: bool = False
    """The resource's attributes could not be fetched for the question under way."""
    task: asyncio.Task[None] | None = None
    openings: dict[Mark, Claimed] = field(default_factory=dict)
    """Marks claimed among the replicas, for a grant that is not open yet."""

    def next_waiter(self) -> Waiter | None:
        """The first who still waits."""
        while self.waiters and self.waiters[0].answer.done():
            self.waiters.popleft()
        return self.waiters[0] if self.waiters else None


async def fetched(attributes: Attributes | None) -> Mapping[str, str] | None:
    """The resource's attributes; None where they cannot be fetched: then they are absent, not guessed."""
    if attributes is None:
        return {}
    try:
        async with asyncio.timeout(ATTRIBUTES_TIMEOUT_SECONDS):
            return await attributes()
    except Exception as error:  # noqa: BLE001 - whatever the source throws, the question goes out without them
        _log.debug("attributes could not be fetched", error=type(error).__name__)
        return None
