"""Callers with JWTs of their own, and an OpenBao that takes them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from sidecar.caller.identity import Caller, Credential
from sidecar.clock import Clock
from sidecar.config import Upstream
from sidecar.decision.permit import Permit
from sidecar.upstream.client import UpstreamClient
from sidecar.upstream.exchange import ExchangeLogin
from tests.real.openbao import OpenBao
from tests.support.tokens import Issuer
from tests.upstream.raw_server import permit

MOUNT = "callers"
RULES = """
path "secret/data/*"          { capabilities = ["read", "update", "create"] }
path "secret/data/forbidden"  { capabilities = ["deny"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self"  { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
"""


def take_callers(server: OpenBao, issuer: Issuer, **options: Any) -> None:
    """Makes OpenBao log in whoever brings a token of the issuer."""
    server.policy("callers", RULES)
    server.jwt_auth(issuer.public_pem, MOUNT)
    server.jwt_role("caller", "callers", mount=MOUNT, **options)


def upstream(address: str, **options: Any) -> Upstream:
    """The configuration of an exchange."""
    auth = {"mode": "exchange", "role": "caller", "mount": MOUNT}
    return Upstream.model_validate({"address": address, "auth": auth} | options)


def caller(issuer: Issuer, subject: str = "app", **claims: Any) -> Caller:
    """An authenticated caller with a fresh JWT."""
    token = issuer.token(sub=subject, **claims)
    expires_at = claims.get("exp", int(issuer.now()) + 300)
    return Caller(subject, issuer.url, expires_at=expires_at, token=Credential(token))


def asks(who: Caller, path: str = "app/db", **options: Any) -> Permit:
    """A permit of theirs."""
    return replace(permit(f"/v1/secret/data/{path}", **options), caller=who)


@contextlib.asynccontextmanager
async def exchanging(
    server: OpenBao | str, clock: Clock | None = None, *, max_sessions: int = 10_000, **options: Any
) -> AsyncIterator[tuple[ExchangeLogin, UpstreamClient]]:
    """A login for each caller, and a client that goes by it."""
    configured = upstream(server if isinstance(server, str) else server.address, **options)
    login = ExchangeLogin(configured, clock, max_sessions=max_sessions)
    await login.start()
    client = UpstreamClient(configured, login)
    try:
        yield login, client
    finally:
        await client.close()
        await login.stop()
