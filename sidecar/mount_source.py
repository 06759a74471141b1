"""Where the table of mounts comes from, and how it stays true.

Configured mounts hold as they are; what OpenBao has is compared with them when the sidecar starts and on SIGHUP, as
far as its token may read that, and requests to a mount about which the two disagree are refused (AMBIGUOUS_MOUNT).
Where no mounts are configured OpenBao's own table is read, and read again every half minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from sidecar.config import Config
from sidecar.errors import Refused
from sidecar.surface.mounts import Mount, MountTable, merge
from sidecar.upstream.discovery import discover
from sidecar.upstream.login import BrokerLogin

FRESH_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 2.0

_log = structlog.get_logger(__name__)


class MountSource:
    """Holds the table in force. `problem` says why it may not be what OpenBao has; empty where it is."""

    def __init__(self, config: Config, login: BrokerLogin | None) -> None:
        """`login` is the sidecar's own; None where there is none, and mounts are configured."""
        self._config = config
        self._login = login
        self._configured = configured_mounts(config)
        self.table = table_of(config, self._configured or ())
        self.problem = ""

    @property
    def is_discovered(self) -> bool:
        """Whether OpenBao's table is the only one."""
        return self._configured is None

    async def refresh(self) -> None:
        """Reads OpenBao's table, where there is a login to do so. Where that fails the table in force stays."""
        configured = self._configured
        if self._login is None:
            return
        namespaces = ["", *(mount.namespace for mount in configured or ())]
        try:
            found = [Mount(*each) for each in await discover(self._login, namespaces)]
        except Refused as refused:
            if configured is not None:
                _log.info("configured mounts not compared with OpenBao's", reason=refused.detail or refused.message)
                return
            self.problem = f"{refused.message} {refused.detail}".strip()
            _log.warning("mounts not discovered", reason=self.problem)
            return
        mounts = found if configured is None else merge(configured, found)
        disagreeing = sum(mount.ambiguous for mount in mounts)
        if disagreeing:
            _log.error("configured mounts disagree with OpenBao's; requests to them are refused", mounts=disagreeing)
        self.problem = f"{disagreeing} configured mounts disagree with OpenBao's" if disagreeing else ""
        self.table = table_of(self._config, mounts)

    async def keep_fresh(self) -> None:
        """Reads a discovered table again and again, until cancelled."""
        while True:
            await asyncio.sleep(RETRY_SECONDS if self.problem else FRESH_SECONDS)
            await self.refresh()


def configured_mounts(config: Config) -> list[Mount] | None:
    """The static table; None where there is none."""
    if config.mounts is None:
        return None
    return [Mount(entry.path, entry.engine, entry.namespace) for entry in config.mounts]


def table_of(config: Config, mounts: Iterable[Mount]) -> MountTable:
    """The table of these mounts for the configured tenant. Their namespaces are below `upstream.namespace`."""
    upstream = config.upstream
    return MountTable(mounts, config.tenant.allowed_mounts, upstream.provider, upstream.namespace)


async def table_for_commands(config: Config) -> MountTable:
    """The table for a command: the static one, without any network; where there is none, OpenBao's.

    Raises `Refused` where OpenBao's cannot be read.
    """
    configured = configured_mounts(config)
    if configured is not None:
        return table_of(config, configured)
    login = BrokerLogin(config.upstream)
    await login.start()
    try:
        return table_of(config, [Mount(*each) for each in await discover(login)])
    finally:
        await login.stop()
