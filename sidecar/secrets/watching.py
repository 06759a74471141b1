"""`GET /api/secrets/events` and `/api/secrets/audit`: what happened lately, to whoever may know of the secret.

Each record is decided by its secret, as an item of a listing is; one that is about no secret is its caller's own. A
stream has no queue: it reads the ring at its own pace, and ends once what it has not read yet is gone. It ends too with
its token, with a revocation of its caller, and when the sidecar drains; each time the last event says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import orjson

from sidecar.audit.record import Record
from sidecar.caller.identity import Caller
from sidecar.clock import Clock
from sidecar.config import Events
from sidecar.errors import Code, Refused
from sidecar.ops import metrics
from sidecar.secrets.desk import Desk, Reply
from sidecar.secrets.happenings import Happening, Happenings
from sidecar.surface.secret_uri import SecretUri
from sidecar.surface.secrets.endpoints import Call

PER_CALLER: Final = 4
"""Streams of one issuer's subject."""
KEEP_ALIVE_SECONDS: Final = 15.0
"""A stream says so often that it is there."""
_BATCH: Final = 200
"""Records decided in one question to the PDP, at most."""

StillGood = Callable[[Caller], Awaitable[None]]
"""Raises `Refused` once the caller's credentials are good no more."""


class _Watcher:
    """One stream's caller, what wakes it, and why it shall end."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.wake = asyncio.Event()
        self.end: tuple[str, str] | None = None

    def finish(self, reason: str, message: str) -> None:
        self.end = (reason, message)
        self.wake.set()


class Watching:
    """The two endpoints, for one process."""

    def __init__(self, settings: Events, clock: Clock, still_good: StillGood) -> None:
        self._clock = clock
        self._still_good = still_good
        self._max_streams = settings.max_streams
        self._watchers: set[_Watcher] = set()
        self._closed = False
        self.happenings = Happenings(settings.kept, clock)

    def note(self, record: Record, uri: SecretUri | None, caller: Caller | None) -> None:
        """Something happened: a record of it is durable."""
        self.happenings.note(record, uri, caller)
        for watcher in self._watchers:
            watcher.wake.set()

    def end(self, subject: str | None, issuer: str | None) -> None:
        """Ends the streams of a caller, where access is taken back; None stands for any."""
        for watcher in self._watchers:
            if subject in (None, watcher.caller.subject) and issuer in (None, watcher.caller.issuer):
                watcher.finish("REVOKED", "access was taken back; ask anew")

    def close(self) -> None:
        """The sidecar drains: no stream stays."""
        self._closed = True
        for watcher in self._watchers:
            watcher.finish("DRAINING", "the sidecar stops")

    async def lately(self, call: Call, desk: Desk) -> Reply:
        """`GET /api/secrets/audit`: the newest first."""
        items: list[Any] = []
        kept = self.happenings.newest()
        for start in range(0, len(kept), _BATCH):
            batch = kept[start : start + _BATCH]
            items += [each.shown for each in await _seen(desk, batch)]
            if len(items) >= call.limit:
                break
        return Reply(200, {"items": items[: call.limit]})

    def stream(self, call: Call, desk: Desk) -> AsyncIterator[bytes]:
        """`GET /api/secrets/events`: from now on, or from what `Last-Event-ID` names. Raises `Refused`: OVERLOADED,
        MALFORMED_REQUEST."""
        if self._is_full(desk.caller):
            raise Refused(Code.OVERLOADED, "too many event streams are open", headers={"Retry-After": "5"})
        if not call.last_event_id:
            return self._events(_Watcher(desk.caller), desk, lambda: self.happenings.last)
        try:
            position = self.happenings.number_of(call.last_event_id)
        except ValueError:
            raise Refused(Code.MALFORMED_REQUEST, "Last-Event-ID is not one that was given out") from None
        return self._events(_Watcher(desk.caller), desk, lambda: position)

    def _is_full(self, caller: Caller) -> bool:
        who = (caller.issuer, caller.subject)
        own = sum((each.caller.issuer, each.caller.subject) == who for each in self._watchers)
        return len(self._watchers) >= self._max_streams or own >= PER_CALLER

    async def _events(self, watcher: _Watcher, desk: Desk, begin: Callable[[], int | None]) -> AsyncIterator[bytes]:
        """From after the number that `begin` gives once the stream is read; where that is None, or gone, some was
        missed, which is said first."""
        if self._closed or self._is_full(watcher.caller):
            refused = await desk.note_refused(Refused(Code.OVERLOADED, "too many event streams are open"))
            yield _event("end", {"reason": refused.code, "message": refused.message})
            return
        self._watchers.add(watcher)
        metrics.EVENT_STREAMS.set(len(self._watchers))
        position = begin()
        try:
            if position is None or self.happenings.after(position) is None:
                position = self.happenings.before_all()
                yield _event("lost", {"message": "older events are not kept any more; see the audit"})
            else:
                yield b": open\n\n"
            while watcher.end is None:
                watcher.wake.clear()
                batch = self.happenings.after(position)
                if batch is None:
                    watcher.finish("TOO_SLOW", "events came faster than they were read; some are lost")
                elif batch:
                    batch = batch[:_BATCH]
                    await self._still_good(watcher.caller)
                    frames = [_event(None, each.shown) for each in await _seen(desk, batch)]
                    position = batch[-1].number
                    if frames:
                        yield b"".join(frames)
                elif not await self._woken(watcher):
                    await self._still_good(watcher.caller)
                    yield b": still here\n\n"
            yield _event("end", {"reason": watcher.end[0], "message": watcher.end[1]})
        except Refused as fallen:
            refused = await desk.note_refused(fallen)
            yield _event("end", {"reason": refused.code, "message": refused.message})
        finally:
            self._watchers.discard(watcher)
            metrics.EVENT_STREAMS.set(len(self._watchers))

    async def _woken(self, watcher: _Watcher) -> bool:
        """Waits until something happened; False where it is time to look at the token or to keep the stream alive."""
        left = watcher.caller.expires_at - self._clock.wall()
        try:
            async with asyncio.timeout(max(0.0, min(KEEP_ALIVE_SECONDS, left))):
                return await watcher.wake.wait()
        except TimeoutError:
            return False


async def _seen(desk: Desk, batch: Sequence[Happening]) -> list[Happening]:
    """Those of them that the caller may know of, in one question for all their secrets."""
    uris: list[SecretUri] = list(dict.fromkeys(each.uri for each in batch if each.uri is not None))
    known = dict(zip(uris, await desk.visible(uris) if uris else [], strict=True))
    own = (desk.caller.issuer, desk.caller.subject)
    return [each for each in batch if (each.owner == own if each.uri is None else known[each.uri])]


def _event(name: str | None, data: Any) -> bytes:
    """One event of the stream (HTML, section 9.2.6); JSON has no bare line breaks."""
    head = f"event: {name}\n" if name else f"id: {data['id']}\n"
    return head.encode() + b"data: " + orjson.dumps(data) + b"\n\n"
