"""`Idempotency-Key`: the same request sent again is carried out once, and answered as the first time.

A key belongs to one caller (subject, client, key in hand), one endpoint and one body. Who sends it again is known,
in scope and permitted anew, as any request is: an answer tells URIs and versions, and the caller may have lost its
right to them since. It never holds a value.

Kept by this process for a day at most, so many answers of so many bytes; what a restart forgets, rotate makes another
version of, copy and move finish (see `transfers`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import orjson

from sidecar.caller.identity import BindingKind, Caller
from sidecar.clock import Clock
from sidecar.errors import Code, Refused
from sidecar.secrets.desk import Reply
from sidecar.surface.secrets.endpoints import Call

REMEMBERED: Final = 4096
BYTES: Final = 8 * 2**20
"""Of all remembered answers together: one to a bulk request repeats a hundred URIs, whoever may do what in it."""
SECONDS: Final = 24 * 3600

Owner = tuple[str, str, str, BindingKind, str]
Key = tuple[str, str]


@dataclass(slots=True)
class _Seen:
    """One key's first request: what it was, and what became of it."""

    digest: bytes
    expires: float
    answer: asyncio.Future[Reply]
    size: int = 0
    """Of the answer, in bytes; 0 while there is none."""


class Idempotency:
    """Answers by caller, endpoint and key. Where there are too many, whoever has most loses its oldest."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[Owner, dict[Key, _Seen]] = {}
        self._count = 0
        self._bytes = 0

    async def once(
        self,
        call: Call,
        caller: Caller,
        body: bytes,
        carry_out: Callable[[], Awaitable[Reply]],
        again: Callable[[Reply], Awaitable[Reply]],
    ) -> Reply:
        """The answer of the first request with this key, let through by `again`. One that failed is tried again.

        Raises `Refused`: IDEMPOTENCY_KEY_REUSED where the key was another request's; what the first was refused with,
        to who waited for it, to be recorded anew; what `again` raises.
        """
        if not call.idempotency_key:
            return await carry_out()
        owner, key = _owner(caller), (str(call.endpoint), call.idempotency_key)
        digest = hashlib.sha256(f"{call.cas}\n".encode() + body).digest()
        seen = self._find(owner, key)
        if seen is not None:
            if seen.digest != digest:
                raise Refused(Code.IDEMPOTENCY_KEY_REUSED, "this Idempotency-Key was sent with another request")
            try:
                reply = await asyncio.shield(seen.answer)
            except Refused as refused:
                raise Refused(refused.code, refused.message, headers=refused.headers, wanted=refused.wanted) from None
            return await again(reply)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait for it
        first = _Seen(digest, self._clock.elapsed() + SECONDS, answer)
        self._keep(owner, key, first)
        try:
            reply = await carry_out()
        except BaseException as error:
            if self._find(owner, key) is first:
                self._drop(owner, key)
            answer.set_exception(
                error
                if isinstance(error, Refused)
                else Refused(Code.OVERLOADED, "the first request was cut; try again")
            )
            raise
        answer.set_result(reply)
        if self._find(owner, key) is first:
            self._measure(first, reply)
        return reply

    def _find(self, owner: Owner, key: Key) -> _Seen | None:
        seen = self._seen.get(owner, {}).get(key)
        if seen is not None and seen.expires <= self._clock.elapsed():
            self._drop(owner, key)
            return None
        return seen

    def _keep(self, owner: Owner, key: Key, seen: _Seen) -> None:
        if self._count >= REMEMBERED:
            most = max(self._seen, key=lambda each: len(self._seen[each]))
            self._drop(most, next(iter(self._seen[most])))
        self._seen.setdefault(owner, {})[key] = seen
        self._count += 1

    def _measure(self, seen: _Seen, reply: Reply) -> None:
        seen.size = len(orjson.dumps(reply.body))
        self._bytes += seen.size
        while self._bytes > BYTES:
            most = max(self._seen, key=lambda each: sum(one.size for one in self._seen[each].values()))
            self._drop(most, next(key for key, one in self._seen[most].items() if one.size))

    def _drop(self, owner: Owner, key: Key) -> None:
        mine = self._seen[owner]
        self._bytes -= mine.pop(key).size
        self._count -= 1
        if not mine:
            del self._seen[owner]


def _owner(caller: Caller) -> Owner:
    """Another key in hand is another caller; a certificate that is the caller itself may be renewed."""
    binding = caller.binding
    thumbprint = "" if binding.names_subject else binding.thumbprint
    return caller.issuer, caller.subject, caller.client_id, binding.kind, thumbprint
