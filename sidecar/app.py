"""Wiring only: builds the parts from the configuration, starts them, drains and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import structlog
from aiohttp import web

from sidecar.audit.checkpoint import Checkpoints
from sidecar.audit.journal import Journal
from sidecar.audit.record import ResourceRefs, live_grants
from sidecar.caller.authenticate import Authenticator
from sidecar.clock import Clock, SystemClock
from sidecar.config import Checkpoint, Config, salts_of, split_address
from sidecar.config.tree import Authzen
from sidecar.config_on_disk import ConfigOnDisk
from sidecar.decision.authzen import AuthzenPdp
from sidecar.decision.candidate import Candidate
from sidecar.decision.cedar import CedarPdp, PolicyError
from sidecar.decision.decide import Decider
from sidecar.decision.flight import Attributes
from sidecar.decision.guard import Guard
from sidecar.decision.observed import Difference
from sidecar.decision.permit import Pdp
from sidecar.decision.recording import Recorder
from sidecar.decision.revocation import EVERYTHING
from sidecar.decision.revocation import parse as parse_revocation
from sidecar.difference import difference_record
from sidecar.door.server import Door
from sidecar.door.tls import ListenerTls
from sidecar.enforcement import Enforcement
from sidecar.errors import Refused
from sidecar.leases.book import LeaseBook
from sidecar.leases.ledger import Ledger
from sidecar.mount_source import MountSource, vault_api
from sidecar.ops import metrics, tracing
from sidecar.ops.debug import add_debug
from sidecar.ops.health import operations_app
from sidecar.ops.logs import register_secret
from sidecar.ops.revalidate import add_revalidate
from sidecar.readiness import Readiness
from sidecar.resource_attributes import ResourceAttributes
from sidecar.revocations import Revocations
from sidecar.secrets.api import SecretsApi
from sidecar.secrets.cursors import Cursors
from sidecar.secrets.providers import engines, stores
from sidecar.secrets.providers.port import Provider
from sidecar.secrets.watching import Watching
from sidecar.shared_replays.store import SharedReplays
from sidecar.surface.json_body import read_object
from sidecar.surface.operation import Operation
from sidecar.upstream.client import UpstreamClient
from sidecar.upstream.files import watch
from sidecar.upstream.health import UpstreamHealth
from sidecar.upstream.lease_tokens import LeaseTokens
from sidecar.upstream.logins import Logins
from sidecar.upstream.pool import exact_session
from sidecar.upstream.release import Release

if TYPE_CHECKING:  # whoever has no Kafka does not load its client: 6 MiB, a tenth of a second
    from sidecar.audit.kafka import KafkaShipper
    from sidecar.revocation_feed import RevocationFeed

_log = structlog.get_logger(__name__)

DRAIN_SECONDS: Final = 25.0
"""Below Kubernetes' default grace period of 30 s, so that the audit is flushed before the kill."""
END_SECONDS: Final = 28.0
"""From the drain's beginning until Kafka is given no more time, or `_LEAST_SHIPPING_SECONDS` where that has passed."""
SHIPPING_SECONDS: Final = 5.0
_LEAST_SHIPPING_SECONDS: Final = 1.0


class Sidecar:
    """The assembled proxy, as an async context manager: listening inside, drained and closed after."""

    def __init__(
        self,
        config: Config,
        clock: Clock | None = None,
        further: Sequence[Provider] = (),
        on_disk: ConfigOnDisk | None = None,
    ) -> None:
        """`further` are providers beside those that the configuration names; `on_disk` is where it was read from."""
        self._config = config
        self._on_disk = on_disk
        self._clock = clock or SystemClock()
        self._stores = {store.scheme: store for store in (*stores(config), *further)}
        self._stack = contextlib.AsyncExitStack()
        self._is_serving = False
        self._ends_at = math.inf  # in the loop's seconds, once it drains
        self._shipper: KafkaShipper | None = None
        self._tls: ListenerTls | None = None
        self._candidate: Candidate | None = None
        self._recorder: Recorder | None = None
        self._cedar: CedarPdp | None = None
        self._authzen: AuthzenPdp | None = None
        self._feed: RevocationFeed | None = None
        self._shared: SharedReplays | None = None
        self._health: UpstreamHealth | None = None
        self._watching: Watching | None = None
        self.addresses: list[str] = []
        self.ops_address = ""

    async def __aenter__(self) -> Sidecar:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        """Starts the parts in the order in which they need each other; the stack stops them in reverse."""
        config = self._config
        if config.upstream.auth.token is not None:
            register_secret(config.upstream.auth.token.get_secret_value())
            register_secret(config.upstream.auth.token.get_secret_value().strip())
        self._refs = ResourceRefs(config.tenant.id or "", *self._salts())
        await self._start_tracing()
        http = await self._stack.enter_async_context(exact_session())
        await self._start_audit()
        await self._start_upstream()
        await self._start_mounts()
        await self._start_caller(http)
        await self._start_decision(http)
        await self._start_observers()
        enforcement = self._enforcement()
        if config.listen.tls.cert_file is not None:
            self._tls = ListenerTls(config.listen.tls)
            self._background(self._tls.watch())
        if self._on_disk is not None:
            self._background(self._on_disk.watch())
        await self._start_ops()  # before the door, so that it ends after it: a drain can be watched
        await self._open_door(enforcement)

    async def _start_audit(self) -> None:
        config, clock, stack = self._config.audit, self._clock, self._stack
        with_kafka = config.kafka.bootstrap_servers is not None
        journal = self._journal = await Journal.open(
            config.spool_dir,
            config.durability,
            config.max_spool_mib * 2**20,
            clock,
            retention_bytes=0 if with_kafka else config.retention_mib * 2**20,
            checkpoints=_checkpoints(config.checkpoint, clock),
        )
        stack.push_async_callback(journal.close)
        if with_kafka:
            from sidecar.audit.kafka import KafkaShipper

            self._shipper = KafkaShipper(config.kafka, journal, clock)
            self._shipper.start()
            stack.push_async_callback(self._stop_shipping, self._shipper)
        stack.push_async_callback(journal.stop)  # AUDIT_STOP goes to Kafka too, so it comes before the shipper's end

    async def _start_upstream(self) -> None:
        """OpenBao's side: who logs in there, the leases that are held there, and the client that forwards."""
        config, clock, stack = self._config, self._clock, self._stack
        logins = self._logins = Logins(config.upstream)
        await logins.start()
        stack.push_async_callback(logins.stop)
        ledger = Ledger(config.audit.spool_dir, self._salts(), config.limits.max_leases)
        leases = self._leases = LeaseBook(ledger, config.tenant.id or "", lambda: self._mounts.table, clock)
        await leases.open()
        stack.push_async_callback(leases.close)
        tokens: LeaseTokens | None = None
        if logins.own is not None and config.upstream.auth.mode == "broker":
            tokens = LeaseTokens(logins.own, config.upstream.auth.lease_role, clock, leases.in_use)
            stack.push_async_callback(tokens.hand_over)
            self._background(tokens.keep())
        self._lease_tokens = tokens
        upstream = self._upstream = UpstreamClient(config.upstream, tokens or logins.requests)
        stack.push_async_callback(upstream.close)
        tls = config.upstream.tls
        if config.upstream.address is not None:
            self._health = UpstreamHealth(upstream)
            self._background(self._health.run())
        files = [path for path in (tls.ca_file, tls.cert_file, tls.key_file) if path is not None]
        self._background(watch(files, self._reload_upstream))

    async def _start_mounts(self) -> None:
        """What may be asked for: the stores beside OpenBao, and OpenBao's mounts."""
        for store in self._stores.values():
            await store.start()
            self._background(store.watch())
        can = {scheme: store.can for scheme, store in self._stores.items()}
        mounts = self._mounts = MountSource(self._config, self._logins.own, self._clock, can)
        self._stack.push_async_callback(mounts.close)
        await mounts.refresh()
        self._background(mounts.keep_fresh())

    async def _start_caller(self, http: aiohttp.ClientSession) -> None:
        config, clock, stack = self._config, self._clock, self._stack
        if config.anti_replay.store != "memory":
            self._shared = SharedReplays(config.anti_replay, config.tenant.id or "", clock)
            await self._shared.start()
            stack.push_async_callback(self._shared.stop)
        self._authenticator = Authenticator(config, clock, http, self._shared)
        await self._authenticator.start()
        stack.push_async_callback(self._authenticator.stop)

    async def _start_decision(self, http: aiohttp.ClientSession) -> None:
        """The PDP, the grants it gives, and what takes them back."""
        config, clock, stack = self._config, self._clock, self._stack
        # They go the audit's way to Kafka. Without Kafka nobody publishes them, and a permit with one is a deny.
        publishes = self._shipper is not None
        self._decider = Decider(
            config, self._build_pdp(http), clock, publishes_notifications=publishes, shared=self._shared
        )
        stack.push_async_callback(self._decider.close)
        self._revocations = Revocations(self._decider, self._journal, self._refs, config.tenant.id or "")
        stack.push_async_callback(self._revocations.settle)
        if config.revocations.topic:
            from sidecar.revocation_feed import RevocationFeed

            self._feed = RevocationFeed(config.revocations, config.audit.kafka, self._revocations, clock)
            self._background(self._feed.run())
        if self._authzen is not None:
            await self._keep_asking(self._authzen, config.authorization.authzen)
        if self._cedar is not None:
            self._cedar.on_change = self._revocations.policies_changed
            self._background(self._cedar.watch())

    def _enforcement(self) -> Enforcement:
        """The way of a request, through everything started before."""
        config, clock, mounts, authenticator = self._config, self._clock, self._mounts, self._authenticator
        self._attributes = ResourceAttributes(
            config.authorization.attributes,
            self._upstream,
            self._logins.own,
            lambda: mounts.table,
            self._needs_attributes,
            clock,
        )
        self._stack.push_async_callback(self._attributes.close)
        if config.serves_events:
            watching = self._watching = Watching(config.events, clock, authenticator.still_good)
            self._revocations.on_drop.append(lambda each: watching.end(each.subject, each.issuer))
            self._decider.on_session_end.append(lambda subject: watching.end(subject, None))
        return Enforcement(
            api=vault_api(config, lambda: mounts.table),
            mounts=mounts,
            authenticator=authenticator,
            guard=Guard(config, [scheme for scheme, store in self._stores.items() if store.read_only]),
            decider=self._decider,
            journal=self._journal,
            upstream=self._upstream,
            leases=self._leases,
            lease_tokens=self._lease_tokens,
            release=Release(self._logins),
            refs=self._refs,
            tenant_id=config.tenant.id or "",
            max_body_bytes=config.limits.max_body_mib * 2**20,
            clock=clock,
            attributes=self._attributes,
            secrets=SecretsApi(clock, Cursors(self._salts()[0])),
            providers={**engines(lambda: mounts.table), **self._stores},
            has_openbao=config.upstream.address is not None,
            watching=self._watching,
            policy_version=self._policy_version,
        )

    async def _open_door(self, enforcement: Enforcement) -> None:
        door = Door(enforcement, self._config.limits)
        self._stack.push_async_callback(self._drain, door)
        if self._tls is None:
            await door.listen(self._config.listen.address)
        else:
            await door.listen(self._config.listen.address, self._tls.context, self._tls)
        self.addresses = list(door.addresses)
        self._authenticator.listens_on(self.addresses)
        self._is_serving = True
        _log.info("serving", addresses=self.addresses, operations=self.ops_address)

    async def _drain(self, door: Door) -> None:
        self._is_serving = False
        self._ends_at = asyncio.get_running_loop().time() + END_SECONDS
        if self._watching is not None:
            self._watching.close()
        await door.drain(DRAIN_SECONDS)

    async def _stop_shipping(self, shipper: KafkaShipper) -> None:
        """Kafka is given what is left of the time to end. What it has not taken stays in the spool; a connection that
        does not end by itself ends with the process."""
        left = self._ends_at - asyncio.get_running_loop().time()
        seconds = min(max(left, _LEAST_SHIPPING_SECONDS), SHIPPING_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds + _LEAST_SHIPPING_SECONDS):
                await shipper.stop(seconds)

    # -- parts with a life of their own ------------------------------------------------------------------------------
    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that goes on until the sidecar stops."""
        self._stack.push_async_callback(_cancelled, asyncio.create_task(work))

    def _build_pdp(self, http: aiohttp.ClientSession) -> Pdp | None:
        authorization = self._config.authorization
        if not authorization.enabled:
            _log.warning("authorization is off: every authenticated caller may do everything")
            return None
        if authorization.pdp == "authzen":
            self._authzen = AuthzenPdp(authorization.authzen, http, self._clock)
            return self._authzen
        self._cedar = CedarPdp(authorization.cedar)
        return self._cedar

    async def _keep_asking(self, pdp: AuthzenPdp, remote: Authzen) -> None:
        """Where to ask a remote PDP and by which certificates, as it tells now and whenever that changes."""
        await pdp.discover()
        self._background(pdp.keep_fresh())
        files = [each for each in (remote.ca_file, remote.client_cert_file, remote.client_key_file) if each]
        self._background(watch(files, pdp.reload))

    def _policy_version(self) -> str:
        """Of the set in force; a remote PDP tells its own with each answer."""
        return self._cedar.policy_version if self._cedar is not None else ""

    def _salts(self) -> list[bytes]:
        salts = salts_of(self._config.tenant)
        for salt in salts:
            register_secret(salt.decode("utf-8", "replace"))
            register_secret(salt.decode("utf-8", "replace").strip())
        return salts

    async def _reload_salts(self) -> None:
        salts = self._salts()
        self._refs.use(salts)
        await self._leases.use(salts)

    def _needs_attributes(self) -> bool:
        """Whether the PDP looks at what a secret's metadata says, or whoever is told of its decisions. A remote one is
        told, since nobody knows."""
        if self._config.authorization.attributes.fetch == "off":
            return False
        if self._authzen is not None or (self._cedar is not None and self._cedar.reads_metadata):
            return True
        return self._recorder is not None  # a candidate fetches for itself, off the request's way

    async def _start_observers(self) -> None:
        """Whoever looks on: a candidate with connections of its own, a recording."""
        config, candidate = self._config, self._config.authorization.candidate
        if config.authorization.recordings.file is not None:
            recordings = config.authorization.recordings
            self._recorder = Recorder(config.authorization.recordings.file, recordings.max_mib * 2**20)
            self._decider.on_decision.append(self._recorder.offer)
            self._background(self._recorder.run())
        if candidate.pdp is None:
            return
        http = await self._stack.enter_async_context(exact_session())

        async def build() -> Pdp:
            if candidate.pdp == "cedar":
                return await asyncio.to_thread(CedarPdp, candidate.cedar, is_candidate=True)
            remote = AuthzenPdp(candidate.authzen, http, self._clock)
            await self._keep_asking(remote, candidate.authzen)
            return remote

        async def record(difference: Difference) -> None:
            status = self._journal.status()
            if status.spool_bytes < status.max_spool_bytes // 2:  # room in the journal is for what happened
                await self._journal.append(difference_record(difference, self._refs, config.tenant.id or ""))

        def fetching(operation: Operation) -> Attributes | None:
            return self._attributes.fetching(operation) if config.authorization.attributes.fetch != "off" else None

        self._candidate = Candidate(candidate, build, self._decider.terms, record, fetching)
        self._decider.on_decision.append(self._candidate.offer)
        self._background(self._candidate.run())

    async def reload(self) -> None:
        """SIGHUP: policies, issuers' keys, certificates, salts. What cannot be read leaves the old in force."""
        steps: dict[str, Callable[[], Awaitable[object]]] = {
            "keys": self._authenticator.reload,
            "OpenBao's TLS": self._reload_upstream,
            "mounts": self._mounts.refresh,
            "salts": self._reload_salts,
        }
        if self._candidate is not None:
            steps["candidate"] = self._candidate.reload
        if self._authzen is not None:
            steps["PDP certificates"] = self._authzen.reload
        if self._tls is not None:
            steps["listener certificates"] = partial(asyncio.to_thread, self._tls.reload)
        if self._cedar is not None:
            steps["policies"] = self._cedar.reload  # last: another set ends all grants by itself
        changed: object = False
        for what, step in steps.items():
            changed = False
            try:
                changed = await step()
            except (PolicyError, OSError, ValueError) as error:  # ssl.SSLError is an OSError
                _log.error("not reloaded, the old stays in force", what=what, reason=str(error))
        if self._cedar is None or changed is not True:
            await self._take_everything_back()
        if self._on_disk is not None:
            await self._on_disk.look(repeat=True)  # whoever says so may have changed it, and think it counts now
        _log.info("reloaded")

    async def _reload_upstream(self) -> None:
        """Both sides of the way to OpenBao trust the same. Raises `OSError`, `ssl.SSLError`."""
        self._upstream.reload()
        self._logins.reload()

    async def _take_everything_back(self) -> None:
        try:
            await self._revocations.apply((EVERYTHING,), "signal")
        except Refused as refused:
            _log.error("a revocation could not be recorded", reason=refused.detail)

    async def _revalidate(self, body: bytes) -> int:
        """For `POST /revalidate`."""
        try:
            revocation = parse_revocation(read_object(body))
        except Refused as refused:
            raise ValueError(refused.message) from None
        return await self._revocations.apply((revocation,), "ops")

    async def _start_tracing(self) -> None:
        ops = self._config.ops
        if not ops.otlp_endpoint:
            return
        from sidecar.ops.otlp import Collector  # a second of imports and 10 MiB, for those who want it

        attributes = {"deployment.environment.name": str(self._config.environment)}
        collector = Collector(ops.otlp_endpoint, attributes)
        tracing.install(collector.export, ops.trace_ratio)

        async def stop() -> None:
            tracing.install(None)
            await asyncio.to_thread(collector.close)

        self._stack.push_async_callback(stop)

    # -- operations --------------------------------------------------------------------------------------------------
    def _readiness(self) -> Readiness:
        return Readiness(
            is_serving=lambda: self._is_serving,
            journal=self._journal,
            logins=self._logins,
            authenticator=self._authenticator,
            mounts=self._mounts,
            decider=self._decider,
            leases=self._leases,
            attributes=self._attributes,
            stores=self._stores,
            has_openbao=self._config.upstream.address is not None,
            lease_tokens=self._lease_tokens,
            health=self._health,
            tls=self._tls,
            shipper=self._shipper,
            cedar=self._cedar,
            candidate=self._candidate,
            recorder=self._recorder,
            shared=self._shared,
            feed=self._feed,
            on_disk=self._on_disk,
        )

    async def _start_ops(self) -> None:
        host, port = split_address(self._config.ops.address)
        readiness = self._readiness()
        app = operations_app(readiness.checks, metrics.REGISTRY, readiness.refresh_gauges)
        if self._config.ops.debug:
            add_debug(app, lambda limit: live_grants(self._decider.standing.snapshot(limit), self._refs))
        add_revalidate(app, self._revalidate, self._config.ops.token_file)
        # Nobody who dawdles on this listener holds up the end of the process.
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, host, port)
        await site.start()
        self.ops_address = self._config.ops.address


def _checkpoints(config: Checkpoint, clock: Clock) -> Checkpoints | None:
    if config.key_file is None:
        return None
    return Checkpoints(config.key_file, config.every_records, config.every_seconds, clock)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])  # not `await task`: its cancellation and our own could not be told apart


# -- parts that commands use without a running proxy ----------------------------------------------------------------
def resource_refs(config: Config) -> ResourceRefs:
    """The tenant's references, from its salt or salt file."""
    return ResourceRefs(config.tenant.id or "", *salts_of(config.tenant))
