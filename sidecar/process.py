"""The process that serves: hardened, told by signals when to reload and when to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import resource
import signal
from typing import Final

import structlog
import uvloop

from sidecar.app import DRAIN_SECONDS, Sidecar
from sidecar.audit.journal import JournalError
from sidecar.config import Config
from sidecar.decision.cedar import PolicyError
from sidecar.footprint import settle
from sidecar.ops.logs import configure as configure_logs

_log = structlog.get_logger(__name__)

_PR_SET_DUMPABLE: Final = 4  # <linux/prctl.h>


def run(config: Config) -> int:
    """Runs the proxy until SIGTERM or SIGINT. Returns the exit status."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    configure_logs(config.ops.log_level, config.ops.log_format)
    harden()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config))


def harden() -> None:
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
