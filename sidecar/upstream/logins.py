"""The logins that the configuration asks for: the one that requests go by, and the sidecar's own for everything else.

As broker both are the same. In the other modes the sidecar's own serves to read OpenBao's mounts, and may be left out
where mounts are configured.
"""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.clock import Clock
from sidecar.config import Upstream
from sidecar.upstream.exchange import ExchangeLogin
from sidecar.upstream.login import BrokerLogin
from sidecar.upstream.passthrough import PassthroughLogin
from sidecar.upstream.presented import Login, OwnSecrets


class Logins:
    """`own` is the sidecar's own login, None where there is none; `requests` is what requests go by."""

    def __init__(self, upstream: Upstream, clock: Clock | None = None) -> None:
        """Raises `OSError`, `ssl.SSLError`, `ValueError` where the configuration cannot be used."""
        self.own = BrokerLogin(upstream, clock) if upstream.has_own_login else None
        exchanges = upstream.auth.mode == "exchange" and upstream.address is not None
        self._exchange = ExchangeLogin(upstream, clock) if exchanges else None
        self._kept: list[BrokerLogin | ExchangeLogin] = [
            login for login in (self.own, self._exchange) if login is not None
        ]
        self.requests: Login = self.own or PassthroughLogin()
        if upstream.auth.mode == "passthrough":
            self.requests = PassthroughLogin()
        elif self._exchange is not None:
            self.requests = self._exchange

    @property
    def own_secrets(self) -> tuple[bytes, ...]:
        """What must leave in no answer, whoever's it is."""
        return self.own.own_secrets if self.own is not None else OwnSecrets()

    async def start(self) -> None:
        """Logs in, where the sidecar does so itself, and begins the upkeep."""
        for login in self._kept:
            await login.start()

    async def stop(self) -> None:
        """Ends the upkeep; revokes nothing."""
        for login in reversed(self._kept):
            await login.stop()

    def reload(self) -> None:
        """Reads the TLS files again. Raises `OSError`, `ssl.SSLError` where they are unusable."""
        for login in self._kept:
            login.reload()

    @property
    def ready(self) -> bool:
        """Whether requests can be logged in, as far as that is the sidecar's own matter."""
        return self.own is None or self.own.ready

    @property
    def problem(self) -> str:
        """What is wrong, for the operator; empty where nothing is."""
        return "; ".join(login.problem for login in self._kept if login.problem)

    def cache_sizes(self) -> Mapping[str, int]:
        """Entries of each bounded table, by the name of its metric's label."""
        return {} if self._exchange is None else {"exchanged_logins": len(self._exchange)}
