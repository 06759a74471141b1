"""A Secrets API request's way to secrets: the same stages as `enforcement`, once for each operation that it is made of.

guard      what × who
decision   → Permit, several in one question
audit      the intent, before whatever changes something
upstream   the requests that the operation covers, and no other
audit      the outcome
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from sidecar.audit.record import Effect, Event, Phase
from sidecar.caller.identity import Caller
from sidecar.decision.decide import Decider
from sidecar.decision.guard import Guard
from sidecar.decision.permit import Permit
from sidecar.errors import Code, Refused
from sidecar.mount_source import MountSource
from sidecar.ops import metrics, tracing
from sidecar.ops.tracing import Kind
from sidecar.resource_attributes import ResourceAttributes
from sidecar.secrets.desk import Action, Held, T, Want
from sidecar.secrets.providers.port import Conflict, Missing, NotServed, Provider, Reply
from sidecar.surface.json_body import faithful
from sidecar.surface.mounts import MountTable
from sidecar.surface.operation import Named, Operation, UpstreamRequest
from sidecar.surface.secret_uri import SecretUri, parse
from sidecar.surface.secrets.operations import Act, knowing, operation
from sidecar.trail import Stage, Trail
from sidecar.upstream.client import UpstreamClient, UpstreamFailure
from sidecar.upstream.failure import untrustworthy
from sidecar.upstream.release import Release

_CONFLICT: Final = "check-and-set parameter did not match the current version"
_CAS_NEEDED: Final = "check-and-set parameter required for this call"
_LOOKING: Final = frozenset({"GET", "LIST"})


class Recorded(Refused):
    """A refusal that has its record already."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.code, refused.message, headers=refused.headers, wanted=refused.wanted, detail="")


class WriteDown(Protocol):
    """A record of what is known now, durable."""

    async def __call__(self, trail: Trail, event: Event, effect: Effect, phase: Phase, code: str = "") -> None:
        """Raises `Refused`: AUDIT_UNAVAILABLE."""


class WriteOutcome(Protocol):
    """The record of what became of a permitted operation; its use is committed where it was done."""

    async def __call__(self, permit: Permit, status: int, trail: Trail, code: str = "") -> None:
        """Raises `Refused`: AUDIT_UNAVAILABLE."""


@dataclass(frozen=True, slots=True)
class Stages:
    """What carrying out needs of the enforcement: its stages, and its ways to write down. `announce` comes before
    whatever changes something; `record_refusal` returns the refusal to be answered."""

    guard: Guard
    decider: Decider
    upstream: UpstreamClient
    release: Release
    mounts: MountSource
    attributes: ResourceAttributes
    max_body_bytes: int
    announce: Callable[[Operation, Trail], Awaitable[None]]
    write_down: WriteDown
    write_outcome: WriteOutcome
    record_refusal: Callable[[Refused, Trail], Awaitable[Refused]]


class RequestDesk:
    """One request's desk: see `secrets.desk.Desk`."""

    def __init__(self, stages: Stages, providers: Mapping[str, Provider], caller: Caller, trail: Trail) -> None:
        """`providers` by engine, or by provider where it has no engines."""
        self._stages = stages
        self._providers = providers
        self._trail = trail
        self.mounts: MountTable = trail.mounts
        self.caller = caller

    def uri(self, text: str) -> SecretUri:
        """See `Desk.uri`."""
        return parse(text, self.mounts)

    async def obtain(self, wants: Sequence[Want]) -> list[Held | Refused]:
        """See `Desk.obtain`."""
        trails = [self._trail.branch() for _ in wants]
        found: list[Held | Refused | None] = [None] * len(wants)
        asked: list[tuple[int, Operation]] = []
        for index, (want, trail) in enumerate(zip(wants, trails, strict=True)):
            try:
                made = trail.operation = operation(want.act, want.uri, self.mounts, want.policy)
                trail.stage = Stage.GUARD
                self._stages.guard.check(made, self.caller)
                trail.stage = Stage.DECISION
                asked.append((index, made))
            except Refused as refused:
                found[index] = Recorded(await self._stages.record_refusal(refused, trail))
        permits = await self._stages.decider.permit_many(
            [made for _, made in asked],
            self.caller,
            correlation_id=self._trail.correlation_id,
            attributes=self._stages.attributes.of,
            trace=self._trail.span.at,
        )
        for (index, made), permit in zip(asked, permits, strict=True):
            trail = trails[index]
            if isinstance(permit, Refused):
                found[index] = Recorded(await self._stages.record_refusal(permit, trail))
            else:
                trail.permit = permit
                trail.decided()
                metrics.PEP_SECONDS.labels("grant" if permit.grant.hit else "first").observe(
                    time.perf_counter() - trail.started
                )
                found[index] = Carrying(self._stages, permit, trail, self._provider(made.uri))
        return [each for each in found if each is not None]

    async def browse(self, folder: SecretUri, action: Action[T]) -> T:
        """See `Desk.browse`."""
        trail = self._trail.branch()
        try:
            made = trail.operation = operation(Act.LIST, folder, self.mounts)
            self._stages.guard.check(made, self.caller)
        except Refused as refused:
            raise Recorded(await self._stages.record_refusal(refused, trail)) from None
        trail.permit = self._stages.decider.look_through(made, self.caller)
        trail.decided()
        return await Carrying(self._stages, trail.permit, trail, self._provider(folder)).use(action)

    async def visible(self, uris: Sequence[SecretUri]) -> list[bool]:
        """See `Desk.visible`."""
        operations = [knowing(uri) for uri in uris]
        return await self._stages.decider.visible(
            operations,
            self.caller,
            correlation_id=self._trail.correlation_id,
            attributes=self._stages.attributes.of,
            trace=self._trail.span.at,
        )

    async def note_unstamped(self, uri: SecretUri) -> None:
        """See `Desk.note_unstamped`."""
        trail = self._trail.branch()
        trail.operation = operation(Act.SET_OWNER, uri, self.mounts)
        trail.forwarded = True
        await self._stages.write_down(trail, Event.SECRET_ERROR, Effect.ERROR, Phase.OUTCOME, Code.UPSTREAM_ERROR)

    async def note_refused(self, refused: Refused) -> Refused:
        """See `Desk.note_refused`."""
        if isinstance(refused, Recorded):
            return refused
        trail = self._trail.branch()
        trail.stage = self._trail.stage
        return Recorded(await self._stages.record_refusal(refused, trail))

    def _provider(self, uri: SecretUri) -> Provider:
        return self._providers[uri.engine or uri.provider]


class Carrying:
    """One permit, carried out: `secrets.desk.Held` to the endpoint, `Work` to the provider."""

    def __init__(self, stages: Stages, permit: Permit, trail: Trail, provider: Provider) -> None:
        self._stages = stages
        self._permit = permit
        self._trail = trail
        self._provider = provider
        self.operation = permit.operation

    @property
    def released(self) -> frozenset[str] | None:
        """See `Held.released`."""
        return self._permit.verdict.obligations.release

    async def repeat(self) -> None:
        """See `Held.repeat`. The record names the endpoint, not the operation: that was not done again."""
        trail, done = self._trail, self._permit.operation
        trail.operation, trail.named = None, Named(trail.local, done.purpose, done.uri)
        await self._stages.write_down(trail, Event.SECRET_PERMIT, Effect.PERMIT, Phase.OUTCOME)
        self._permit.reservation.commit()

    def give_back(self) -> None:
        """See `Held.give_back`."""
        self._permit.reservation.refund()

    async def use(self, action: Action[T]) -> T:
        """See `Held.use`."""
        trail, permit, stages = self._trail, self._permit, self._stages
        mutation = permit.operation.mutation
        trail.stage = Stage.UPSTREAM
        try:
            if mutation:
                await stages.announce(permit.operation, trail)
            try:
                done = await action(self, self._provider)
            except Missing:
                raise Refused(Code.NOT_FOUND, "there is no such secret, or it was deleted") from None
            except Conflict:
                raise Refused(Code.VERSION_CONFLICT, "the secret has another version by now") from None
            version = getattr(done, "version", None)
            trail.kv_version = version if type(version) is int else None
            before = getattr(done, "before", None)
            trail.kv_version_before = before if type(before) is int else None
            if not mutation and permit.operation.asks_openbao:
                await stages.mounts.confirm(trail.mounts, since=None)
            trail.stage = Stage.RELEASE
            await stages.write_outcome(permit, trail.upstream_status or 200, trail)
        except UpstreamFailure as failure:
            if mutation and failure.sent and not permit.operation.asks_openbao:
                permit.reservation.commit()  # what OpenBao may have done is counted where it is asked
            raise Recorded(await stages.record_refusal(failure, trail)) from None
        except Refused as refused:
            raise await self._refused(refused) from None
        except asyncio.CancelledError:
            if mutation and not trail.is_closed:
                permit.reservation.commit()
                await stages.write_down(trail, Event.SECRET_ERROR, Effect.ERROR, Phase.OUTCOME, Code.UPSTREAM_TIMEOUT)
            raise
        else:
            return done
        finally:
            permit.reservation.refund()  # counts only where nothing was committed
            stages.attributes.changed(permit.operation)

    async def _refused(self, refused: Refused) -> Refused:
        """What the store answered, permitted as it was, is no denial: its record says permit, and its code."""
        trail = self._trail
        if refused.is_fault or isinstance(refused, Recorded) or refused.code is Code.OBLIGATION_UNMET:
            return (
                refused
                if isinstance(refused, Recorded)
                else Recorded(await self._stages.record_refusal(refused, trail))
            )
        await self._stages.write_outcome(self._permit, refused.status, trail, refused.code)
        return Recorded(refused)

    async def ask(self, request: UpstreamRequest) -> Reply:
        """See `Work.ask`."""
        trail, permit = self._trail, self._permit
        with tracing.span("sidecar.upstream", trail.span.at, Kind.CLIENT) as span:
            try:
                answer = await self._stages.upstream.forward(
                    permit, request=request, traceparent=str(span.at) if span.at else None
                )
            except UpstreamFailure as failure:
                trail.forwarded = trail.forwarded or failure.sent
                if failure.sent and request.method not in _LOOKING:
                    permit.reservation.commit()  # it may have happened
                raise
            span.note(status=answer.status)
        trail.forwarded = True
        trail.upstream_status = answer.status
        trail.upstream_seconds = (trail.upstream_seconds or 0.0) + answer.duration_seconds
        metrics.UPSTREAM_SECONDS.labels(permit.operation.name).observe(answer.duration_seconds)
        if request.method not in _LOOKING and (answer.status < 300 or answer.status >= 500):
            permit.reservation.commit()
        raw = self._stages.release.own(await answer.read(self._stages.max_body_bytes), answer.secrets)
        trail.upstream_request_id = answer.request_id
        return _reply(answer.status, raw)


def _reply(status: int, raw: bytes) -> Reply:
    """OpenBao's answer as JSON, or what its status means here. Its own words of a 400 are about the caller's body."""
    try:
        body: Any = faithful(raw) if raw else {}
    except (ValueError, RecursionError):
        raise untrustworthy("an answer that is no JSON") from None
    if not isinstance(body, dict) or body.get("auth") or body.get("wrap_info"):
        raise untrustworthy("an answer that is none")
    if status < 300:
        return Reply(body)
    data = body.get("data")
    errors = body.get("errors")
    said = " ".join(text for text in errors if isinstance(text, str)) if isinstance(errors, list) else ""
    if status == 404:
        raise Missing(data if isinstance(data, dict) else {})
    if status == 400 and _CONFLICT in said:
        raise Conflict
    if status == 400 and _CAS_NEEDED in said:
        raise Refused(Code.MALFORMED_REQUEST, "this secret is written with the version that it replaces: give `cas`")
    if status == 400:
        raise Refused(Code.MALFORMED_REQUEST, "OpenBao does not take this request")
    if status == 429:
        raise Refused(Code.OVERLOADED, "OpenBao takes no more requests now", headers={"Retry-After": "1"})
    if status in (403, 405):
        raise NotServed(Code.UPSTREAM_ERROR, "OpenBao does not let the sidecar do this", detail=f"status {status}")
    raise Refused(Code.UPSTREAM_ERROR, "OpenBao failed", detail=f"status {status}")


def written(body: Any) -> bytes:
    """An answer's body."""
    return orjson.dumps(body)
