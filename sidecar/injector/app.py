"""The injector, assembled: listens, keeps its certificate fresh, drains and stops."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any, Final

import structlog
import uvloop
from aiohttp import web
from cryptography import x509

from sidecar.config import ListenTls, split_address
from sidecar.door.tls import ListenerTls
from sidecar.injector import metrics
from sidecar.injector.admit import Rules
from sidecar.injector.certificates import CertificateKeeper
from sidecar.injector.cluster import Cluster, ClusterError, own_namespace
from sidecar.injector.config import InjectorConfig
from sidecar.injector.server import webhook_app
from sidecar.ops.hardening import keep_memory
from sidecar.ops.health import Check, operations_app
from sidecar.ops.logs import configure as configure_logs
from sidecar.ops.signals import Signals

DRAIN_SECONDS: Final = 20.0
_log = structlog.get_logger(__name__)


def run(config: InjectorConfig) -> int:
    """Runs the webhook until SIGTERM or SIGINT. Returns the exit status."""
    configure_logs(config.ops.log_level, config.ops.log_format)
    keep_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config))


async def _serve(config: InjectorConfig) -> int:
    signals = Signals()
    async with contextlib.AsyncExitStack() as stack:
        try:
            injector = await signals.started(stack.enter_async_context(Injector(config)))
        except (ClusterError, OSError, ValueError) as error:  # ssl.SSLError is an OSError
            _log.error("cannot start", reason=str(error))
            return 1
        if injector is None:
            return 0
        await signals.until_stopped(injector.reload)
        _log.info("draining", seconds=DRAIN_SECONDS)
    return 0


class Injector:
    """The assembled webhook, as an async context manager: listening inside, drained and closed after."""

    def __init__(self, config: InjectorConfig) -> None:
        self._config = config
        self._cluster: Cluster | None = None
        self._stack = contextlib.AsyncExitStack()
        self._serving = False
        self._keeper: CertificateKeeper | None = None

    async def __aenter__(self) -> Injector:
        async with contextlib.AsyncExitStack() as stack:
            self._stack = stack
            await self._start()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._serving = False
        await self._stack.aclose()

    async def reload(self) -> None:
        """Takes up the certificate's files at once."""
        try:
            self._tls.reload()
        except (OSError, ValueError) as error:
            _log.error("certificate not reloaded, the old stays in force", reason=type(error).__name__)

    async def _start(self) -> None:
        config = self._config
        namespace = config.namespace or own_namespace()
        rules = Rules(config, namespace, await self._native())
        self._files = await self._certificate(namespace)
        self._tls = ListenerTls(self._files)
        self._background(self._tls.watch())
        await self._listen(web.AppRunner(self._operations(), access_log=None, shutdown_timeout=1.0), config.ops.address)
        app = webhook_app(rules, config.listen.max_body_mib * 1024 * 1024)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_SECONDS)
        await self._listen(runner, config.listen.address, self._tls)
        self._serving = True
        _log.info("serving", address=config.listen.address, operations=config.ops.address, native=rules.native)

    async def _native(self) -> bool:
        if self._config.native_sidecars == "auto":
            return await (await self._connected()).has_native_sidecars()
        return self._config.native_sidecars == "always"

    async def _certificate(self, namespace: str) -> ListenTls:
        """The listener's files: given, or made and kept here."""
        listen, made = self._config.listen, self._config.self_made
        if not made.secret:
            return listen.tls
        self._keeper = CertificateKeeper(await self._connected(), made, namespace)
        await self._keeper.look()
        self._background(self._keeper.watch())
        return listen.tls.model_copy(update={"cert_file": self._keeper.file, "key_file": self._keeper.file})

    async def _connected(self) -> Cluster:
        if self._cluster is None:
            self._cluster = await self._stack.enter_async_context(Cluster.configured(self._config.api_server))
        return self._cluster

    async def _listen(self, runner: web.AppRunner, address: str, tls: ListenerTls | None = None) -> None:
        host, port = split_address(address)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, host, port, ssl_context=tls.context if tls else None).start()

    def _operations(self) -> web.Application:
        def listener() -> Check:
            return Check(self._serving, "" if self._serving else "not serving")

        def certificate() -> Check:
            expired = self._expires is not None and self._expires <= time.time()
            warning = self._tls.problem or (self._keeper.problem if self._keeper else "")
            return Check(not expired, "it has expired" if expired else "", warning)

        return operations_app({"listener": listener, "certificate": certificate}, metrics.REGISTRY, self._refresh)

    def _refresh(self) -> None:
        metrics.CERTIFICATE_EXPIRES.set(self._expires or 0)

    @property
    def _expires(self) -> float | None:
        """When the certificate in the file expires, as a Unix time."""
        file = self._files.cert_file
        with contextlib.suppress(OSError, ValueError):
            if file is not None:
                return x509.load_pem_x509_certificates(file.read_bytes())[0].not_valid_after_utc.timestamp()
        return None

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that goes on until the injector stops."""
        self._stack.push_async_callback(_cancelled, asyncio.create_task(work))


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
