"""Wiring only: builds the parts from the configuration, starts them, drains and stops them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import resource
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import structlog
import uvloop
from aiohttp import web

from sidecar.audit.checkpoint import Checkpoints
from sidecar.audit.journal import Journal, JournalError
from sidecar.audit.record import ResourceRefs, live_grants
from sidecar.caller.authenticate import Authenticator
from sidecar.clock import Clock, SystemClock
from sidecar.config import Checkpoint, Config, salts_of, split_address
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
from sidecar.footprint import settle
from sidecar.leases.book import LeaseBook
from sidecar.leases.ledger import Ledger
from sidecar.mount_source import MountSource, vault_api
from sidecar.ops import metrics, tracing
from sidecar.ops.debug import add_debug
from sidecar.ops.health import Check, operations_app
from sidecar.ops.logs import configure as configure_logs
from sidecar.ops.logs import register_secret
from sidecar.ops.revalidate import add_revalidate
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

_PR_SET_DUMPABLE: Final = 4  # <linux/prctl.h>

DRAIN_SECONDS: Final = 25.0
"""Below Kubernetes' default grace period of 30 s, so that the audit is flushed before the kill."""


def run(config: Config) -> int:
    """Runs the proxy until SIGTERM or SIGINT. Returns the exit status."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    configure_logs(config.ops.log_level, config.ops.log_format)
    _harden()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config))


def _harden() -> None:
    """No core files: a crash dump would hold secrets. The limit alone does not keep the kernel from piping one to a
    handler (core(5)); not being dumpable does, and keeps processes of the same user from reading memory and
    environment. As many descriptors as we may have: `max_connections` callers and their connections to OpenBao do not
    fit into the usual soft limit of 1,024."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the process cannot be made undumpable")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(config: Config) -> int:
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    async with contextlib.AsyncExitStack() as stack:
        try:
            sidecar = await stack.enter_async_context(Sidecar(config))
        except (PolicyError, JournalError, OSError, ValueError) as error:  # ssl.SSLError is an OSError
            _log.error("cannot start", reason=str(error))
            return 1
        # From here on an exception is a fault of ours, whose words are not told.
        settle()
        while not stop.is_set():
            waiters = [asyncio.ensure_future(event.wait()) for event in (stop, reload)]
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
            for waiter in waiters:
                waiter.cancel()
            if reload.is_set():
                reload.clear()
                await sidecar.reload()
        _log.info("draining", seconds=DRAIN_SECONDS)
    return 0


class Sidecar:
    """The assembled proxy, as an async context manager: listening inside, drained and closed after."""

    def __init__(self, config: Config, clock: Clock | None = None, further: Sequence[Provider] = ()) -> None:
        """`further` are providers beside those that the configuration names."""
        self._config = config
        self._clock = clock or SystemClock()
        self._stores = {store.scheme: store for store in (*stores(config), *further)}
        self._stack = contextlib.AsyncExitStack()
        self._is_serving = False
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
        self._parts: dict[str, Callable[[], Check]] = {}
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
        config, clock, stack = self._config, self._clock, self._stack
        if config.upstream.auth.token is not None:
            register_secret(config.upstream.auth.token.get_secret_value())
            register_secret(config.upstream.auth.token.get_secret_value().strip())
        self._refs = ResourceRefs(config.tenant.id or "", *self._salts())
        await self._start_tracing()
        http = await stack.enter_async_context(exact_session())

        with_kafka = config.audit.kafka.bootstrap_servers is not None
        journal = self._journal = await Journal.open(
            config.audit.spool_dir,
            config.audit.durability,
            config.audit.max_spool_mib * 2**20,
            clock,
            retention_bytes=0 if with_kafka else config.audit.retention_mib * 2**20,
            checkpoints=_checkpoints(config.audit.checkpoint, clock),
        )
        stack.push_async_callback(journal.close)
        if with_kafka:
            from sidecar.audit.kafka import KafkaShipper

            self._shipper = KafkaShipper(config.audit.kafka, journal, clock)
            self._shipper.start()
            stack.push_async_callback(self._shipper.stop)
        stack.push_async_callback(journal.stop)  # AUDIT_STOP goes to Kafka too, so it comes before the shipper's end

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
        for store in self._stores.values():
            await store.start()
            self._background(store.watch())
        can = {scheme: store.can for scheme, store in self._stores.items()}
        mounts = self._mounts = MountSource(config, logins.own, clock, can)
        stack.push_async_callback(mounts.close)
        await mounts.refresh()
        self._background(mounts.keep_fresh())

        if config.anti_replay.store != "memory":
            self._shared = SharedReplays(config.anti_replay, config.tenant.id or "", clock)
            await self._shared.start()
            stack.push_async_callback(self._shared.stop)
        authenticator = self._authenticator = Authenticator(config, clock, http, self._shared)
        await authenticator.start()
        stack.push_async_callback(authenticator.stop)
        # They go the audit's way to Kafka. Without Kafka nobody publishes them, and a permit with one is a deny.
        self._decider = Decider(
            config, self._build_pdp(http), clock, publishes_notifications=with_kafka, shared=self._shared
        )
        stack.push_async_callback(self._decider.close)
        self._revocations = Revocations(self._decider, journal, self._refs, config.tenant.id or "")
        stack.push_async_callback(self._revocations.settle)
        if config.revocations.topic:
            from sidecar.revocation_feed import RevocationFeed

            self._feed = RevocationFeed(config.revocations, config.audit.kafka, self._revocations, clock)
            self._background(self._feed.run())
        if self._authzen is not None:
            await self._authzen.discover()
            self._background(self._authzen.keep_fresh())
        if self._cedar is not None:
            self._cedar.on_change = self._revocations.policies_changed
            self._background(self._cedar.watch())
        await self._start_observers()

        self._attributes = ResourceAttributes(
            config.authorization.attributes,
            upstream,
            logins.own,
            lambda: mounts.table,
            self._needs_attributes,
            clock,
        )
        stack.push_async_callback(self._attributes.close)
        if config.serves_events:
            watching = self._watching = Watching(config.events, clock, authenticator.still_good)
            self._revocations.on_drop.append(lambda each: watching.end(each.subject, each.issuer))
            self._decider.on_session_end.append(lambda subject: watching.end(subject, None))
        enforcement = Enforcement(
            api=vault_api(config, lambda: mounts.table),
            mounts=mounts,
            authenticator=authenticator,
            guard=Guard(config, [scheme for scheme, store in self._stores.items() if store.read_only]),
            decider=self._decider,
            journal=journal,
            upstream=upstream,
            leases=leases,
            lease_tokens=tokens,
            release=Release(logins),
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
        await self._start_ops()  # before the door, so that it ends after it: a drain can be watched
        door = Door(enforcement, config.limits)
        stack.push_async_callback(self._drain, door)
        if config.listen.tls.cert_file is None:
            await door.listen(config.listen.address)
        else:
            self._tls = ListenerTls(config.listen.tls)
            self._background(self._tls.watch())
            await door.listen(config.listen.address, self._tls.context, self._tls)
        self.addresses = list(door.addresses)
        authenticator.listens_on(self.addresses)
        self._is_serving = True
        _log.info("serving", addresses=self.addresses, operations=self.ops_address)

    async def _drain(self, door: Door) -> None:
        self._is_serving = False
        if self._watching is not None:
            self._watching.close()
        await door.drain(DRAIN_SECONDS)

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
            await remote.discover()
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
    async def _start_ops(self) -> None:
        host, port = split_address(self._config.ops.address)
        self._parts = self._checks()
        app = operations_app(self._parts, metrics.REGISTRY, self._refresh_gauges)
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

    def _checks(self) -> dict[str, Callable[[], Check]]:
        def audit() -> Check:
            status = self._journal.status()
            warning = self._shipper.status().warning if self._shipper else ""
            return Check(status.healthy, status.message, "; ".join(filter(None, (status.warning, warning))))

        def upstream() -> Check:
            away = self._health.problem if self._health is not None else ""
            ready, problem = self._logins.ready and not away, self._logins.problem
            return Check(ready, "" if ready else "; ".join(filter(None, (away, problem))), problem if ready else "")

        def keys() -> Check:
            problems = "; ".join(f"{issuer}: {what}" for issuer, what in self._authenticator.problems.items())
            ready = self._authenticator.ready
            return Check(ready, "" if ready else problems or "no keys", problems if ready else "")

        def mounts() -> Check:
            known, problem = len(self._mounts.table) > 0, self._mounts.problem
            return Check(known, "" if known else problem, problem if known else "")

        def pdp() -> Check:
            # Live grants go on without it: a pod whose PDP is away is still worth its traffic.
            # So is one whose newest policies were refused: the set in force stays.
            warnings = ["" if self._decider.available else "the PDP does not answer"]
            if self._cedar is not None:
                warnings.append(self._cedar.problem)
            warnings.append(self._candidate.warning if self._candidate is not None else "")
            warnings.append(self._recorder.problem if self._recorder is not None else "")
            return Check(True, warning="; ".join(filter(None, warnings)))

        def leases() -> Check:
            problem = self._lease_tokens.problem if self._lease_tokens else ""
            return Check(True, warning="; ".join(filter(None, (self._leases.warning, problem))))

        def listener() -> Check:
            warning = self._tls.problem if self._tls is not None else ""
            return Check(self._is_serving, "" if self._is_serving else "not serving yet, or draining", warning)

        checks: dict[str, Callable[[], Check]] = {
            "listener": listener,
            "audit": audit,
            "keys": keys,
            "leases": leases,
            "pdp": pdp,
        }
        if self._config.upstream.address is not None:
            checks |= {"upstream": upstream, "mounts": mounts}
        for scheme, store in self._stores.items():
            checks[f"provider {scheme}"] = partial(_provider_check, store)
        if self._shared is not None:
            shared = self._shared
            checks["replay store"] = lambda: Check(not shared.problem, shared.problem)
        if self._feed is not None:
            feed = self._feed
            checks["revocations"] = lambda: Check(True, warning=feed.warning)
        return checks

    def _refresh_gauges(self) -> None:
        for name, look in self._parts.items():
            found = look()
            metrics.PART_READY.labels(name).set(found.ready)
            metrics.PART_WARNING.labels(name).set(bool(found.warning))
        metrics.POLICIES_REFUSED.set(bool(self._cedar and self._cedar.problem))
        metrics.MOUNTS_AGE_SECONDS.set(self._mounts.age)
        metrics.CACHE_ENTRIES.labels("leases").set(len(self._leases))
        metrics.CACHE_ENTRIES.labels("attributes").set(len(self._attributes))
        for part in (self._authenticator, self._decider.standing, self._logins):
            for cache, size in part.cache_sizes().items():
                metrics.CACHE_ENTRIES.labels(cache).set(size)


def _checkpoints(config: Checkpoint, clock: Clock) -> Checkpoints | None:
    if config.key_file is None:
        return None
    return Checkpoints(config.key_file, config.every_records, config.every_seconds, clock)


def _provider_check(store: Provider) -> Check:
    return Check(not store.problem, store.problem)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])  # not `await task`: its cancellation and our own could not be told apart


# -- parts that commands use without a running proxy ----------------------------------------------------------------
def resource_refs(config: Config) -> ResourceRefs:
    """The tenant's references, from its salt or salt file."""
    return ResourceRefs(config.tenant.id or "", *salts_of(config.tenant))
