"""`Idempotency-Key`: the same request sent again is carried out once, and answered as the first time.

Kept by this process for a day at most and a bounded number of answers; what a restart forgets, rotate refuses or makes
another version of, copy and move finish (see `transfers`). An answer holds URIs and versions, never a value.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from cachetools import TTLCache

from sidecar.caller.identity import Caller
from sidecar.clock import Clock
from sidecar.errors import Code, Refused
from sidecar.secrets.desk import Reply
from sidecar.surface.secrets.endpoints import Call

REMEMBERED: Final = 4096
SECONDS: Final = 24 * 3600

Key = tuple[str, str, str, str]


@dataclass(slots=True)
class _Seen:
    """One key's first request: what it was, and what became of it."""

    digest: bytes
    answer: asyncio.Future[Reply]


class Idempotency:
    """Answers by caller, endpoint and key."""

    def __init__(self, clock: Clock) -> None:
        self._seen: TTLCache[Key, _Seen] = TTLCache(REMEMBERED, SECONDS, timer=clock.elapsed)

    async def once(
        self,
        call: Call,
        caller: Caller,
        body: bytes,
        carry_out: Callable[[], Awaitable[Reply]],
        note_repeated: Callable[[], Awaitable[None]],
    ) -> Reply:
        """The answer of the first request with this key; `note_repeated` records that it is given again. One that
        failed is tried again.

        Raises `Refused`: MALFORMED_REQUEST where the key was another request's; what the first was refused with, to who
        waited for it, to be recorded anew.
        """
        if not call.idempotency_key:
            return await carry_out()
        key = (caller.issuer, caller.subject, call.endpoint, call.idempotency_key)
        digest = hashlib.sha256(f"{call.cas}\n".encode() + body).digest()
        seen = self._seen.get(key)
        if seen is not None:
            if seen.digest != digest:
                raise Refused(Code.MALFORMED_REQUEST, "this Idempotency-Key was sent with another request")
            try:
                reply = await asyncio.shield(seen.answer)
            except Refused as refused:
                raise Refused(refused.code, refused.message, headers=refused.headers, wanted=refused.wanted) from None
            await note_repeated()
            return reply
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait for it
        self._seen[key] = _Seen(digest, answer)
        try:
            reply = await carry_out()
        except BaseException as error:
            self._seen.pop(key, None)
            again = (
                error
                if isinstance(error, Refused)
                else Refused(Code.OVERLOADED, "the first request was cut; try again")
            )
            answer.set_exception(again)
            raise
        answer.set_result(reply)
        return reply
