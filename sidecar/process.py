"""The process that serves: hardened, told by signals when to reload and when to stop."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
from typing import Any

import structlog
import uvloop

from sidecar.app import DRAIN_SECONDS, Sidecar
from sidecar.audit.journal import JournalError
from sidecar.config import Config
from sidecar.config_on_disk import ConfigOnDisk
from sidecar.decision.cedar import PolicyError
from sidecar.footprint import settle
from sidecar.ops.hardening import keep_memory
from sidecar.ops.logs import configure as configure_logs

_log = structlog.get_logger(__name__)


def run(config: Config, on_disk: ConfigOnDisk | None = None) -> int:
    """Runs the proxy until SIGTERM or SIGINT. Returns the exit status. `on_disk` is where the configuration was read
    from."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    configure_logs(config.ops.log_level, config.ops.log_format)
    harden()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, on_disk))


def harden() -> None:
    """Nobody gets an image of its memory. As many descriptors as we may have: `max_connections` callers and their
    connections to OpenBao do not fit into the usual soft limit of 1,024."""
    keep_memory()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(config: Config, on_disk: ConfigOnDisk | None) -> int:
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    async with contextlib.AsyncExitStack() as stack:
        starting = asyncio.create_task(stack.enter_async_context(Sidecar(config, on_disk=on_disk)))
        await _until(stop, starting)
        try:
            sidecar = await starting
        except asyncio.CancelledError:
            _log.info("told to stop before it served")
            return 0
        except (PolicyError, JournalError, OSError, ValueError) as error:  # ssl.SSLError is an OSError
            _log.error("cannot start", reason=str(error))
            return 1
        # From here on an exception is a fault of ours, whose words are not told.
        settle()
        reloading = asyncio.create_task(_reloads(sidecar, reload))
        await _until(stop, reloading)
        with contextlib.suppress(asyncio.CancelledError):
            await reloading
        _log.info("draining", seconds=DRAIN_SECONDS)
    return 0


async def _until(stop: asyncio.Event, work: asyncio.Task[Any]) -> None:
    """Waits until the work is done. Where it is to stop, the work is cancelled: it may wait for a dependency, for as
    long as the grace period."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, work], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    work.cancel()  # of no effect where it is done


async def _reloads(sidecar: Sidecar, reload: asyncio.Event) -> None:
    """Reloads as often as it is told to, until cancelled."""
    while True:
        await reload.wait()
        reload.clear()
        await sidecar.reload()
