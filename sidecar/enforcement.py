"""The way of one request, top to bottom. Every stage is called once, in this order:

    door       one strict reading of the HTTP head
    surface    head → what is asked
    caller     credentials → who asks
    guard      what × who: the tenant's mounts, scopes
    decision   → Permit: a live grant, or the PDP; a use is reserved
    audit      the intent, durable, before whatever changes something upstream
    upstream   Permit → OpenBao's head; built from the Operation, never from the caller's bytes
    audit      the record, durable: a read's before its first byte goes out, a mutation's outcome
    release    the answer goes out; the use is committed, or given back

A stage that will not go on raises `Refused`; `_refuse` turns it into an answer and a record, here and nowhere else.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Final

import orjson
import structlog

from sidecar.audit.journal import Journal
from sidecar.audit.record import Effect, Event, Phase, Record, ResourceRefs
from sidecar.caller.authenticate import Authenticator
from sidecar.caller.identity import Caller, Unproven
from sidecar.carrying import Recorded, RequestDesk, Stages, written
from sidecar.clock import Clock
from sidecar.decision.decide import Decider
from sidecar.decision.guard import Guard
from sidecar.decision.permit import Denied, Permit
from sidecar.door.answer import Answer, Inbound
from sidecar.door.head import Head
from sidecar.errors import Code, Dialect, Refused, error_body
from sidecar.kept_makers import forward_with_makers
from sidecar.leases.book import LeaseBook
from sidecar.mount_source import MountSource
from sidecar.ops import metrics, tracing
from sidecar.ops.tracing import Kind
from sidecar.resource_attributes import ResourceAttributes
from sidecar.secrets.api import SecretsApi
from sidecar.secrets.providers.port import Provider
from sidecar.secrets.watching import Watching
from sidecar.surface import local_answers
from sidecar.surface.operation import UNAUTHENTICATED, LocalAnswer, LocalAnswerKind, Named, Operation, Purpose
from sidecar.surface.secrets import openapi
from sidecar.surface.secrets.endpoints import ROOT, Call, Endpoint, recognise
from sidecar.surface.shapes import looks_strange
from sidecar.surface.token_calls import REVOKE_SELF, TokenCall
from sidecar.surface.vault_api import VaultApi
from sidecar.trail import Stage, Trail
from sidecar.upstream.client import UpstreamAnswer, UpstreamClient, UpstreamFailure
from sidecar.upstream.lease_tokens import LeaseTokens
from sidecar.upstream.release import Release, shortened

_log = structlog.get_logger(__name__)

WHOLE_BYTES: Final = 256 * 1024
"""A streamable answer up to this size is read whole before it goes out: cheaper than streaming, and never cut."""

# A metric's child is looked up once, not for each request.
_PEP_SECONDS: Final = {True: metrics.PEP_SECONDS.labels("grant"), False: metrics.PEP_SECONDS.labels("first")}
_PERMITS: Final = {purpose: metrics.DECISIONS.labels("permit", purpose) for purpose in Purpose}

_JSON: Final = "application/json"
_BATCH_RESULTS: Final = b'"batch_results"'
_VERSIONED: Final = frozenset({"kv2.read", "kv2.write", "kv2.patch"})


class Enforcement:
    """The policy enforcement point: called with each request that came through the door."""

    def __init__(
        self,
        *,
        api: VaultApi,
        mounts: MountSource,
        authenticator: Authenticator,
        guard: Guard,
        decider: Decider,
        journal: Journal,
        upstream: UpstreamClient,
        leases: LeaseBook,
        lease_tokens: LeaseTokens | None,
        release: Release,
        refs: ResourceRefs,
        tenant_id: str,
        max_body_bytes: int,
        clock: Clock,
        attributes: ResourceAttributes,
        secrets: SecretsApi,
        providers: Mapping[str, Provider],
        watching: Watching | None = None,
        policy_version: Callable[[], str] = lambda: "",
        has_openbao: bool = True,
    ) -> None:
        self._has_openbao = has_openbao
        self._api = api
        self._mounts = mounts
        self._authenticator = authenticator
        self._guard = guard
        self._decider = decider
        self._journal = journal
        self._upstream = upstream
        self._leases = leases
        self._lease_tokens = lease_tokens
        self._release = release
        self._refs = refs
        self._tenant_id = tenant_id
        self._max_body_bytes = max_body_bytes
        self._clock = clock
        self._attributes = attributes
        self._secrets = secrets
        self._providers = providers
        self._watching = watching
        self._stages = Stages(
            guard,
            decider,
            upstream,
            release,
            mounts,
            attributes,
            max_body_bytes,
            announce=self._announce,
            write_down=self._write_down,
            write_outcome=self._write_outcome,
            record_refusal=self._record_refusal,
        )
        self._policy_version = policy_version

    async def __call__(self, inbound: Inbound) -> Answer:
        """Answers one request. Never raises for anything a caller can send."""
        with Trail(in_force=self._policy_version()) as trail:
            return await self._answer(inbound, trail)

    async def _answer(self, inbound: Inbound, trail: Trail) -> Answer:
        try:
            return await self._way(inbound, trail)
        except Refused as refused:
            return await self._refuse(refused, inbound, trail)
        except Exception as error:  # noqa: BLE001 - the last resort of the one place that answers
            # A fault of ours must become neither a traceback for the caller nor a hole in the record.
            _log.exception("internal fault", correlation_id=trail.correlation_id)
            name = type(error).__name__
            fault = Refused(Code.UPSTREAM_ERROR, "the sidecar failed; nothing was released", detail=name)
            return await self._refuse(fault, inbound, trail)

    async def _way(self, inbound: Inbound, trail: Trail) -> Answer:
        head = inbound.head()
        trail.read_correlation(head)
        self._authenticator.check_origin(head)
        trail.stage = Stage.SURFACE
        trail.came_at, trail.mounts = self._clock.elapsed(), self._api.mounts
        if head.path.startswith(ROOT):
            return await self._secrets_api(inbound, head, trail)
        if not self._has_openbao:
            raise Refused(Code.UNSUPPORTED_OPERATION, f"this sidecar has no OpenBao behind it; it serves {ROOT}")
        route = self._api.token_call(head) or self._api.route(head)
        if isinstance(route, LocalAnswer):
            trail.local = f"local.{route.kind}"
            if route.kind in UNAUTHENTICATED:
                return await self._answer_public(route, trail)
        elif isinstance(route, TokenCall):
            trail.local = route.name
        else:
            trail.named = route.named
        trail.stage = Stage.CALLER
        caller = trail.caller = await self._authenticator.authenticate(
            head, inbound.peer, spend=not isinstance(route, LocalAnswer | TokenCall)
        )
        trail.stage = Stage.SURFACE
        body = await inbound.body(self._max_body_bytes) if head.has_body else b""
        if isinstance(route, LocalAnswer):
            return await self._answer_locally(route, caller, trail)
        if isinstance(route, TokenCall):
            return await self._about_token(route, body, caller, trail)
        operation = trail.operation = route.operation(body)
        trail.stage = Stage.GUARD
        if operation.holds:
            trail.lease_ref = self._refs.of_lease(operation.holds)
            operation = trail.operation = await self._leases.claim(operation, caller)
        self._guard.check(operation, caller)
        trail.stage = Stage.DECISION
        permit = trail.permit = await self._decider.permit(
            operation,
            caller,
            correlation_id=trail.correlation_id,
            attributes=self._attributes.of(operation),
            trace=trail.span.at,
        )
        _PEP_SECONDS[permit.grant.hit].observe(time.perf_counter() - trail.started)
        trail.decided()
        trail.stage = Stage.UPSTREAM
        return await self._execute(permit, trail)

    async def _secrets_api(self, inbound: Inbound, head: Head, trail: Trail) -> Answer:
        """A request of the Secrets API is made of operations, each of which goes the same way: see `carrying`."""
        call = recognise(head)
        if call.row.public:  # tells no secret, is asked for by anyone's tools, and is not recorded
            call.check_body(await inbound.body(self._max_body_bytes) if head.has_body else b"")
            return Answer(200, self._headers({}, trail), openapi.written())
        trail.local = f"secrets.{call.endpoint}"
        trail.stage = Stage.CALLER
        caller = trail.caller = await self._authenticator.authenticate(head, inbound.peer)
        trail.stage = Stage.SURFACE
        body = await inbound.body(self._max_body_bytes) if head.has_body else b""
        desk = RequestDesk(self._stages, self._providers, caller, trail)
        if call.endpoint in (Endpoint.EVENTS, Endpoint.AUDIT):
            call.check_body(body)
            return await self._watch(call, desk, trail)
        reply = await self._secrets.answer(call, body, desk)
        return Answer(reply.status, self._headers(reply.headers, trail), written(reply.body))

    async def _watch(self, call: Call, desk: RequestDesk, trail: Trail) -> Answer:
        """What happened lately; that it was looked at is written down first."""
        if self._watching is None:
            raise Refused(
                Code.OPERATION_FORBIDDEN, "this is served where environment is dev, or where events.enabled is true"
            )
        trail.stage, trail.named = Stage.GUARD, Named(trail.local, Purpose.READ_METADATA, None)
        self._guard.check_scope(Purpose.READ_METADATA, desk.caller)
        if call.endpoint is Endpoint.AUDIT:
            reply = await self._watching.lately(call, desk)
            await self._write_down(trail, Event.SECRET_PERMIT, Effect.PERMIT, Phase.OUTCOME)
            return Answer(reply.status, self._headers(reply.headers, trail), written(reply.body))
        events = self._watching.stream(call, desk)
        await self._write_down(trail, Event.SECRET_PERMIT, Effect.PERMIT, Phase.OUTCOME)
        return Answer(200, self._headers({"Content-Type": "text/event-stream"}, trail), events, waits=True)

    # -- execute and release ---------------------------------------------------------------------------------------
    async def _execute(self, permit: Permit, trail: Trail) -> Answer:
        """Forwards what was permitted. Whatever happens, the reservation is committed or refunded exactly once."""
        operation = permit.operation
        try:
            if operation.issues is not None:
                await self._leases.make_room(permit.caller)
            if operation.mutation:
                await self._announce(operation, trail)
            answer = await self._forward(permit, trail)
            try:
                return await self._let_through(permit, answer, trail)
            except BaseException:
                answer.close()
                raise
        except UpstreamFailure as failure:
            # A mutation that may have reached OpenBao has an unknown outcome: its use is spent. So is a batch whose
            # answer could not be read; any other refusal of OpenBao's gives the use back.
            if operation.mutation and failure.sent and (trail.upstream_status is None or operation.uses > 1):
                permit.reservation.commit()
            raise
        except asyncio.CancelledError:
            # Cut in the middle, by a drain that has waited long enough: what OpenBao did is not known, and is said so.
            if operation.mutation and not trail.is_closed:
                permit.reservation.commit()
                await self._write_down(trail, Event.SECRET_ERROR, Effect.ERROR, Phase.OUTCOME, Code.UPSTREAM_TIMEOUT)
            raise
        finally:
            permit.reservation.refund()  # counts only where nothing was committed
            self._attributes.changed(operation)

    async def _announce(self, operation: Operation, trail: Trail) -> None:
        """Before whatever changes something: its mount is still what it was named by, and the intent is durable."""
        # What only computes with a key is held to the bound of reads: it changes nothing that stays.
        if operation.asks_openbao:
            since = None if operation.purpose is Purpose.EXECUTE else trail.came_at
            await self._mounts.confirm(trail.mounts, since=since, changing=True)
        await self._write_down(trail, Event.SECRET_PERMIT, Effect.PERMIT, Phase.INTENT)

    async def _forward(self, permit: Permit, trail: Trail) -> UpstreamAnswer:
        with tracing.span("sidecar.upstream", trail.span.at, Kind.CLIENT) as span:
            try:
                traceparent = str(span.at) if span.at else None
                answer = await forward_with_makers(permit, self._upstream, self._max_body_bytes, traceparent)
            except UpstreamFailure as failure:
                trail.forwarded = failure.sent
                raise
            span.note(status=answer.status)
        trail.forwarded = True
        trail.upstream_status = answer.status
        trail.upstream_seconds = answer.duration_seconds
        metrics.UPSTREAM_SECONDS.labels(permit.operation.name).observe(answer.duration_seconds)
        if permit.operation.mutation and (answer.status < 300 or answer.status >= 500):
            permit.reservation.commit()  # it happened, or may have
        return answer

    async def _let_through(self, permit: Permit, answer: UpstreamAnswer, trail: Trail) -> Answer:
        trail.stage = Stage.RELEASE
        operation = permit.operation
        length = answer.content_length
        whole = not operation.streams or permit.verdict.obligations.release is not None or answer.status >= 400
        if whole or (length is not None and length <= WHOLE_BYTES):
            raw = await answer.read(self._max_body_bytes)
            if not operation.mutation:
                strange = answer.status < 300 and looks_strange(operation, raw)
                await self._mounts.confirm(trail.mounts, since=self._clock.elapsed() if strange else None)
            if operation.uses > 1 and _BATCH_RESULTS in raw:
                permit.reservation.commit()  # whatever the status: some items may have been done, and are in the answer
            body = self._release.body(permit, answer.status, raw, answer.secrets)
            trail.upstream_request_id = answer.request_id
            self._note_version(operation, answer.status, body, trail)
            if answer.status < 300 and (operation.issues is not None or operation.holds):
                body = await self._note_lease(permit, answer, body, trail)
            await self._write_outcome(permit, answer.status, trail)
            return Answer(answer.status, self._headers(answer.headers, trail), body)
        await self._mounts.confirm(trail.mounts, since=self._clock.elapsed())  # its shape cannot be looked at
        await self._write_outcome(permit, answer.status, trail)
        return Answer(answer.status, self._headers(answer.headers, trail), self._release.stream(answer), length)

    async def _note_lease(self, permit: Permit, answer: UpstreamAnswer, body: bytes, trail: Trail) -> bytes:
        """What was handed out gets its holder before it goes out; it is not said to last longer than its token."""
        operation, tokens, seconds = permit.operation, self._lease_tokens, math.inf
        accessor = ""
        if tokens is not None and operation.purpose is Purpose.RENEW:
            seconds = tokens.seconds_left(await self._leases.token_of(operation, permit.caller))
        elif tokens is not None and answer.made_under is not None:
            life = tokens.life(answer.made_under)
            accessor, seconds = life if life is not None else ("", 0.0)
        if seconds != math.inf and b'"lease_id":""' not in body and body:
            body = shortened(body, int(seconds))
        held = await self._leases.note(operation, permit.caller, body, accessor)
        trail.lease_ref = self._refs.of_lease(held) if held else ""
        return body

    @staticmethod
    def _note_version(operation: Operation, status: int, body: bytes, trail: Trail) -> None:
        """The version that was read or made, where OpenBao's answer tells one."""
        if status >= 300 or operation.name not in _VERSIONED:
            return
        try:
            data = orjson.loads(body)["data"]
            version = data.get("metadata", data)["version"]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return
        trail.kv_version = version if type(version) is int else None

    async def _write_outcome(self, permit: Permit, status: int, trail: Trail, code: str = "") -> None:
        operation = permit.operation
        if status >= 500:
            event, effect = Event.SECRET_ERROR, Effect.ERROR
        elif operation.purpose is Purpose.ROTATE and status < 300:
            event, effect = Event.SECRET_ROTATED, Effect.PERMIT
        else:
            event, effect = Event.SECRET_PERMIT, Effect.PERMIT
        trail.is_closed = True
        await self._write_down(trail, event, effect, Phase.OUTCOME, code)
        if status < 300:
            permit.reservation.commit()
        _PERMITS[operation.purpose].inc()

    async def _write_down(self, trail: Trail, event: Event, effect: Effect, phase: Phase, code: str = "") -> None:
        record = trail.record(self._refs, self._tenant_id, event, effect, phase, code)
        uses = trail.operation.uses if trail.operation else 1
        with tracing.span("sidecar.audit", trail.span.at) as span:
            span.note(event=event, phase=phase)
            if uses == 1:
                await self._append(trail, record)
            else:  # a batch is one record per item, and one decision
                further = trail.record(self._refs, self._tenant_id, event, effect, phase, code)
                await self._append(trail, record, *[further] * (uses - 1))

    async def _append(self, trail: Trail, *records: Record) -> None:
        if len(records) == 1:
            await self._journal.append(records[0])
        else:
            await self._journal.append_many(records)
        if self._watching is not None:
            asked = trail.operation or trail.named
            for record in records:
                self._watching.note(record, asked.uri if asked else None, trail.caller)

    # -- answers of the sidecar's own ------------------------------------------------------------------------------
    async def _answer_public(self, route: LocalAnswer, trail: Trail) -> Answer:
        """`sys/health`, `sys/seal-status`, `sys/leader`: OpenBao answers these to anyone, without a token. They touch
        no secret, are polled by probes, and are not recorded (OpenBao's own audit does not either)."""
        if route.upstream is None:
            raise Refused(Code.OPERATION_FORBIDDEN, "this path is not served")
        with tracing.span("sidecar.upstream", trail.span.at, Kind.CLIENT) as span:
            answer = await self._upstream.public(route.upstream, traceparent=str(span.at) if span.at else None)
            span.note(status=answer.status)
        body = self._release.own(await answer.read(WHOLE_BYTES))
        return Answer(answer.status, self._headers(answer.headers, trail), body)

    async def _answer_locally(self, route: LocalAnswer, caller: Caller, trail: Trail) -> Answer:
        status, body = local_answers.answer(route, caller, self._api.mounts, now=self._clock.wall())
        record = trail.record(self._refs, self._tenant_id, Event.SECRET_PERMIT, Effect.PERMIT, Phase.OUTCOME)
        await self._append(trail, record)
        if route.kind is LocalAnswerKind.REVOKE_SELF:
            self._drop(caller)
        return Answer(status, self._headers({}, trail), body)

    async def _about_token(self, call: TokenCall, body: bytes, caller: Caller, trail: Trail) -> Answer:
        """In passthrough mode: OpenBao's answer to a caller about its own token. It is written down as any other call
        is, before where it changes something; the PDP is not asked, since it is about no secret."""
        request = call.request(body)
        trail.stage = Stage.UPSTREAM
        token = caller.brought_token() if call.with_token else None
        if call.mutation:
            await self._write_down(trail, Event.SECRET_PERMIT, Effect.PERMIT, Phase.INTENT)
        try:
            with tracing.span("sidecar.upstream", trail.span.at, Kind.CLIENT) as span:
                traceparent = str(span.at) if span.at else None
                answer = await self._upstream.token_call(request, token, traceparent=traceparent)
                span.note(status=answer.status)
            raw = self._release.own(await answer.read(WHOLE_BYTES))
        except UpstreamFailure as failure:
            trail.forwarded = failure.sent
            raise
        except asyncio.CancelledError:
            if call.mutation:
                await self._write_down(trail, Event.SECRET_ERROR, Effect.ERROR, Phase.OUTCOME, Code.UPSTREAM_TIMEOUT)
            raise
        trail.forwarded, trail.upstream_status = True, answer.status
        trail.upstream_seconds, trail.upstream_request_id = answer.duration_seconds, answer.request_id
        failed = answer.status >= 500
        event, effect = (Event.SECRET_ERROR, Effect.ERROR) if failed else (Event.SECRET_PERMIT, Effect.PERMIT)
        await self._write_down(trail, event, effect, Phase.OUTCOME)
        if call.name == REVOKE_SELF and answer.status < 300:
            self._drop(caller)
        return Answer(answer.status, self._headers(answer.headers, trail), raw)

    def _drop(self, caller: Caller) -> None:
        """The caller gives back what it has."""
        self._decider.drop_subject(caller.issuer, caller.subject)
        if self._watching is not None:
            self._watching.end(caller.subject, caller.issuer)

    async def _record_refusal(self, refused: Refused, trail: Trail) -> Refused:
        """The one place where a refusal becomes a record. Returns the refusal to be answered: the journal's own, where
        the record cannot be written."""
        if trail.permit is None:
            trail.decided()
        effect, event = (Effect.ERROR, Event.SECRET_ERROR) if refused.is_fault else (Effect.DENY, Event.SECRET_DENY)
        if refused.code is Code.AUDIT_UNAVAILABLE:
            trail.stage = Stage.AUDIT
        elif trail.stage is Stage.DECISION and trail.operation is not None and trail.caller is not None:
            remembered = isinstance(refused, Denied) and refused.remembered
            trail.grant_state = (
                "denied" if remembered else self._decider.standing.grant_state(trail.operation, trail.caller)
            )
        if isinstance(refused, Denied):
            trail.denial = refused.verdict
        elif isinstance(refused, Unproven):
            trail.caller = refused.caller
        record: Record = trail.record(self._refs, self._tenant_id, event, effect, Phase.OUTCOME, refused.code)
        try:
            with tracing.span("sidecar.audit", trail.span.at) as span:
                span.note(event=event, phase=Phase.OUTCOME)
                await self._append(trail, record)
        except Refused as unwritable:
            # Nothing is released in either case; the operator must see that the journal is the trouble.
            refused = unwritable
        trail.span.failed = refused.is_fault
        trail.span.note(code=refused.code)
        purpose = str(trail.purpose or "none")
        metrics.DECISIONS.labels(effect, purpose).inc()
        if refused.is_fault:
            metrics.ERRORS.labels(refused.code).inc()
        else:
            metrics.DENIES.labels(refused.code).inc()
            if refused.code is Code.TENANT_MOUNT_MISMATCH:
                metrics.MOUNT_VIOLATIONS.inc()
        _log.info(
            "refused",
            code=refused.code,
            status=refused.status,
            stage=trail.stage,
            purpose=purpose,
            detail=refused.detail,
            policies=trail.denial.policies if trail.denial else (),
            grant_state=trail.grant_state,
            correlation_id=trail.correlation_id,
        )
        return refused

    async def _refuse(self, refused: Refused, inbound: Inbound, trail: Trail) -> Answer:
        """The one place where a refusal becomes an answer."""
        if not isinstance(refused, Recorded):
            refused = await self._record_refusal(refused, trail)
        body = error_body(refused.code, refused.message, trail.correlation_id, Dialect.of(inbound.target))
        challenge = self._authenticator.challenge(refused)
        return Answer(refused.status, self._headers({}, trail) | challenge | dict(refused.headers), body)

    def _headers(self, given: Mapping[str, str], trail: Trail) -> dict[str, str]:
        return {
            "Content-Type": _JSON,
            "Cache-Control": "no-store",
            "X-Correlation-ID": trail.correlation_id,
            **self._authenticator.nonce_headers(),
            **given,
        }
