"""The process that serves: hardened, told by signals when to reload and when to stop."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal

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
from sidecar.ops.signals import Signals

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
    signals = Signals()
    async with contextlib.AsyncExitStack() as stack:
        try:
            sidecar = await signals.started(stack.enter_async_context(Sidecar(config, on_disk=on_disk)))
        except (PolicyError, JournalError, OSError, ValueError) as error:  # ssl.SSLError is an OSError
            _log.error("cannot start", reason=str(error))
            return 1
        if sidecar is None:
            return 0
        # From here on an exception is a fault of ours, whose words are not told.
        settle()
        await signals.until_stopped(sidecar.reload)
        _log.info("draining", seconds=DRAIN_SECONDS)
    return 0
