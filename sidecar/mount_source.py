"""Where the table of mounts comes from, and how it stays true.

Configured mounts hold as they are, as far as OpenBao's agree: requests to a mount about which the two disagree are
refused (AMBIGUOUS_MOUNT). Where no mounts are configured OpenBao's own table is read, and those of
the namespaces that `tenant.allowed_mounts` names.

Either way OpenBao's table is looked at again, so that a mount that was moved, replaced, upgraded or taken away is
noticed before a request is misread (docs/adr/0011):

- what is read is released only where a look that began at most `upstream.mounts_max_age_seconds` before says that the
  mounts are those that the request was named by;
- what changes a secret is forwarded only after a look that began after the request came;
  (where OpenBao does not answer a look at all: on one that is at most half a minute old);
- every half minute in any case, on SIGHUP, and when an answer has the shape of another engine's.

One look serves all who wait for it. The mounts' own ids are compared, so that one that was replaced by its like counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import structlog

from sidecar.clock import Clock, SystemClock
from sidecar.config import Config
from sidecar.errors import Code, Refused
from sidecar.ops import metrics
from sidecar.surface.mounts import Mount, MountTable, merge, names_below
from sidecar.surface.token_calls import TokenCalls
from sidecar.surface.vault_api import VaultApi
from sidecar.upstream.discovery import FoundMount, discover, discover_named
from sidecar.upstream.failure import unavailable
from sidecar.upstream.login import BrokerLogin

FRESH_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 5.0
"""How long a request waits for a look: an OpenBao that is slow is not one that is away."""
RETRY_SECONDS: Final = 2.0

Stores = Mapping[str, Collection[str]]
"""The providers beside OpenBao: URI scheme → what each can do."""

_log = structlog.get_logger(__name__)


class MountSource:
    """Holds the table in force. `problem` says why it may not be what OpenBao has; empty where it is.

    `table` is the same object for as long as OpenBao's mounts are the same.
    """

    def __init__(
        self, config: Config, login: BrokerLogin | None, clock: Clock | None = None, stores: Stores | None = None
    ) -> None:
        """`login` is the sidecar's own; None where there is none, and mounts are configured."""
        self._stores = stores
        self._config = config
        self._login = login
        self._clock = clock or SystemClock()
        self._max_age = config.upstream.mounts_max_age_seconds
        self._configured = configured_mounts(config)
        self._found: list[FoundMount] | None = None
        self._look: asyncio.Task[None] | None = None
        self._began_at = -1.0
        self._seen_at = -1.0
        self._comparable = login is not None
        self._disagreement = ""
        self.table = table_of(config, self._configured or (), stores)
        self.problem = "" if login is not None else "without a login of its own the sidecar compares no mounts"

    @property
    def is_discovered(self) -> bool:
        """Whether OpenBao's table is the only one."""
        return self._configured is None

    @property
    def age(self) -> float:
        """Seconds since the table was last confirmed."""
        return max(0.0, self._clock.elapsed() - self._seen_at)

    # -- looking -----------------------------------------------------------------------------------------------------
    async def refresh(self) -> None:
        """Reads OpenBao's table, where there is a login to do so. Where that fails the table in force stays. Whoever
        asks meanwhile waits for it too."""
        if self._login is not None:
            await self._looked(self._login)

    async def _looked(self, login: BrokerLogin) -> float:
        """Waits for the look under way, or for one begun now; when that one began."""
        if self._look is None or self._look.done():
            self._began_at = self._clock.elapsed()
            self._look = asyncio.create_task(self._read(login, self._began_at), name="openbao-mounts")
        began_at = self._began_at  # of this look: before we wake, another that waited for it may have begun the next
        await asyncio.shield(self._look)  # one caller's cancellation is not the others'
        return began_at

    async def confirm(self, table: MountTable, *, since: float | None = None, changing: bool = False) -> None:
        """Whether OpenBao's mounts are still those of `table`, by a look that began at `since` or later; without it, at
        most `upstream.mounts_max_age_seconds` ago. `since` is in the clock's elapsed seconds.

        For what is `changing`, a look that OpenBao does not answer leaves the last one good for `FRESH_SECONDS`: the
        change will most likely go unanswered as well, and is then recorded as what it is, sent and unknown.

        Raises `UpstreamFailure` (UPSTREAM_UNAVAILABLE) where they are not, or where it cannot be told.
        """
        now = self._clock.elapsed()
        since = now - self._max_age if since is None else since
        if self._seen_at < since and self._comparable and not await self._look_since(since):
            enough = changing and self._seen_at >= now - FRESH_SECONDS
            if not enough:
                raise unavailable("OpenBao's mounts cannot be looked at now", self.problem)
        if self.table is not table:
            raise unavailable("OpenBao's mounts changed while the request was under way; ask again")

    async def _look_since(self, since: float) -> bool:
        """Looks, or waits for a look, that began at `since` or later. Whether there was one that succeeded."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                while self._seen_at < since and self._comparable and self._login is not None:
                    if await self._looked(self._login) >= since > self._seen_at:
                        return not self._comparable
        except TimeoutError:
            self._note_slowness()
            return False
        return True

    def _note_slowness(self) -> None:
        """Stands until the look has ended, as it may."""
        slow = f"a look at them has taken more than {LOOK_SECONDS:g} s: OpenBao hangs, is overloaded, or far away"
        if self.problem != slow:
            _log.warning("OpenBao's mounts cannot be read", reason=slow)
        self.problem = slow

    async def keep_fresh(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await asyncio.sleep(RETRY_SECONDS if self.problem else FRESH_SECONDS)
            await self.refresh()

    async def close(self) -> None:
        """Gives up a look under way."""
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])

    async def _read(self, login: BrokerLogin, began_at: float) -> None:
        configured = self._configured
        try:
            if configured is None:
                found = await discover_named(login, _named(self._config))
            else:
                namespaces = ["", *(mount.namespace for mount in configured)]
                found = await discover(login, namespaces, or_usable=True)
        except Refused as refused:
            self.problem = f"{refused.message} {refused.detail}".strip()
            # A configured table that the token may not compare is the operator's word alone.
            self._comparable = configured is None or refused.code is not Code.UPSTREAM_ERROR
            _log.warning("OpenBao's mounts cannot be read", reason=self.problem)
            return
        self._take(found)
        self._comparable = True
        self._seen_at = began_at

    def _take(self, found: list[FoundMount]) -> None:
        self.problem = self._disagreement
        if found == self._found:
            return
        configured, changed = self._configured, self._found is not None
        discovered = [Mount(mount.path, mount.engine, mount.namespace) for mount in found]
        mounts = discovered if configured is None else merge(configured, discovered)
        disagreeing = sum(mount.ambiguous for mount in mounts)
        self.problem = self._disagreement = (
            f"{disagreeing} configured mounts disagree with OpenBao's" if disagreeing else ""
        )
        self.table = table_of(self._config, mounts, self._stores)
        self._found = found
        if changed:
            metrics.MOUNT_CHANGES.inc()
            _log.warning("OpenBao's mounts changed")
        if disagreeing:
            _log.error("configured mounts disagree with OpenBao's; requests to them are refused", mounts=disagreeing)


def configured_mounts(config: Config) -> list[Mount] | None:
    """The static table; None where there is none."""
    if config.mounts is None:
        return None
    return [Mount(entry.path, entry.engine, entry.namespace) for entry in config.mounts]


def table_of(config: Config, mounts: Iterable[Mount], stores: Stores | None = None) -> MountTable:
    """The table of these mounts, and of the providers beside OpenBao, for the configured tenant. The mounts' namespaces
    are below `upstream.namespace`."""
    upstream = config.upstream
    return MountTable(mounts, config.tenant.allowed_mounts, upstream.provider, upstream.namespace, stores)


def _named(config: Config) -> list[str]:
    return names_below(config.upstream.namespace, config.tenant.allowed_mounts)


def vault_api(config: Config, table: Callable[[], MountTable]) -> VaultApi:
    """The surface over these mounts, as it serves and as `sidecar explain` tells it: one and the same.

    With a client certificate of the sidecar's no login is passed on: OpenBao's `cert` method would take it for the
    caller's.
    """
    upstream = config.upstream
    own = upstream.tls.cert_file is not None
    return VaultApi(table, token_calls=TokenCalls.under(upstream.auth.mode, own_certificate=own))


async def table_for_commands(config: Config) -> MountTable:
    """The table for a command: the static one, without any network; where there is none, OpenBao's.

    Raises `Refused` where OpenBao's cannot be read.
    """
    configured = configured_mounts(config)
    if configured is not None or config.upstream.address is None:
        return table_of(config, configured or ())
    login = BrokerLogin(config.upstream)
    await login.start()
    try:
        return table_of(config, [Mount(*each[:3]) for each in await discover_named(login, _named(config))])
    finally:
        await login.stop()


async def naming_for_commands(config: Config) -> Callable[[str], MountTable]:
    """The table by which a command reads a secret URI, for commands that ask nothing of OpenBao: where its mounts
    cannot be read, those of `tenant.allowed_mounts`, each with the engine that the URI itself names.

    What it returns raises `Refused`, as `table_for_commands` does, for a URI that leaves the engine to the mount.
    """
    try:
        table = await table_for_commands(config)
    except Refused as refused:
        away = refused
    else:
        return lambda _uri: table
    _log.warning("OpenBao's mounts cannot be read; secrets are named by tenant.allowed_mounts", reason=away.message)

    def by_configuration(uri: str) -> MountTable:
        scheme = uri.partition("://")[0].lower()
        provider, _, engine = scheme.partition("+")
        if provider == config.upstream.provider and not engine:
            raise away
        return table_of(config, [Mount(name, engine) for name in _named(config)])

    return by_configuration
