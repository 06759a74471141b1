"""What the sidecar would answer: guard and decision of one request, by the code that decides in the proxy.

Each question is asked of a decider of its own, so that no grant and no remembered denial answers in the PDP's place.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sidecar.caller.identity import Binding, BindingKind, Caller
from sidecar.clock import SystemClock
from sidecar.config import Config
from sidecar.config.tree import Authzen, Cedar
from sidecar.decision.authzen import AuthzenPdp
from sidecar.decision.cedar import CedarPdp
from sidecar.decision.decide import Decider
from sidecar.decision.guard import Guard
from sidecar.decision.permit import Denied, Obligations, Pdp, Verdict
from sidecar.errors import Code, Refused
from sidecar.secrets.providers import read_only
from sidecar.surface.engines import ENGINES
from sidecar.surface.operation import Operation, Purpose, UpstreamRequest
from sidecar.surface.secret_uri import SecretUri
from sidecar.surface.secrets.operations import PURPOSES, Act
from sidecar.upstream.pool import exact_session

_LIFE_SECONDS: Final = 3600
_NOWHERE: Final = UpstreamRequest("GET", "/")
_BY_BODY: Final = {("kv2", Purpose.OWNER_UPDATE): "kv2.metadata_write"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request would meet. `code` is empty for a permit; `verdict` is the PDP's answer, None where it was not
    asked or gave none."""

    code: str
    verdict: Verdict | None
    detail: str = ""

    @property
    def effect(self) -> str:
        """`permit`, `deny`, or `error` where no decision could be made."""
        if not self.code:
            return "permit"
        return "error" if Refused(Code(self.code), "").is_fault else "deny"

    @property
    def obligations(self) -> dict[str, Any]:
        """Those that the PDP gave, as JSON values."""
        return shown(self.verdict.obligations) if self.verdict is not None else {}


def shown(obligations: Obligations) -> dict[str, Any]:
    """Obligations as JSON values, those that are given."""
    return {
        name: sorted(value) if isinstance(value, frozenset) else list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(obligations).items()
        if value not in (None, (), frozenset())
    }


@contextlib.asynccontextmanager
async def open_pdp(kind: str, cedar: Cedar, authzen: Authzen) -> AsyncIterator[Pdp]:
    """The PDP that these sections name. Raises PolicyError."""
    async with exact_session() as http:
        if kind == "cedar":
            yield CedarPdp(cedar)
        else:
            remote = AuthzenPdp(authzen, http)
            await remote.discover()
            yield remote


async def ask(
    config: Config, pdp: Pdp, operation: Operation, caller: Caller, attributes: Mapping[str, str] | None = None
) -> Outcome:
    """One request before guard and PDP. `attributes` are the secret's, as they would be fetched."""

    async def fetched() -> Mapping[str, str]:
        return attributes or {}

    decider = Decider(config, pdp, SystemClock(), publishes_notifications=bool(config.audit.kafka.bootstrap_servers))
    try:
        Guard(config, read_only(config)).check(operation, caller)
        permit = await decider.permit(operation, caller, correlation_id="policy-test", attributes=fetched)
        permit.reservation.refund()
        return Outcome("", permit.verdict)
    except Refused as refused:
        verdict = refused.verdict if isinstance(refused, Denied) else None
        return Outcome(refused.code, verdict, refused.detail or refused.message)
    finally:
        await decider.close()


def caller_of(
    config: Config,
    subject: str,
    binding: BindingKind = BindingKind.DPOP,
    authenticated_seconds_ago: int | None = None,
    **known: Any,
) -> Caller:
    """A caller with a fresh token of the first configured issuer, unless `known` says otherwise."""
    now = int(SystemClock().wall())
    issuers = config.identity.issuers
    fields: dict[str, Any] = {
        "issuer": issuers[0].issuer if issuers else "",
        "audience": (config.identity.audience,),
        "token_jti": "policy-test",
        "issued_at": now,
        "expires_at": now + _LIFE_SECONDS,
        "auth_time": None if authenticated_seconds_ago is None else now - authenticated_seconds_ago,
        "binding": Binding(binding, "" if binding is BindingKind.NONE else "policy-test"),
    }
    return Caller(subject, **(fields | known))


def operation_of(uri: SecretUri, purpose: str, name: str = "", uses: int = 1) -> Operation:
    """The operation of a purpose; by the first name that the engine's table has for it where none is given.

    Raises ValueError where the purpose is none.
    """
    wanted = Purpose(purpose)
    return Operation(name or _usual_name(uri, wanted), wanted, uri, _NOWHERE, uses=uses)


def _usual_name(uri: SecretUri, purpose: Purpose) -> str:
    if not uri.engine:
        acts = [act for act, purposed in PURPOSES.items() if purposed is purpose and (act is Act.LIST) is uri.folder]
        return f"{uri.provider}.{acts[0]}" if acts else ""
    table = ENGINES.get(uri.engine)
    rows = [row for row in table.rows if row.purpose is purpose] if table is not None else []
    if not rows:
        return _BY_BODY.get((uri.engine, purpose), "")
    for row in rows:
        if uri.folder and row.operation.endswith(".list"):
            return row.operation
        # `creds/r` and `static-creds/r` are two operations of one purpose.
        if not row.uri and uri.path and any(shape.startswith(f"{uri.path[0]}/") for shape in row.shapes):
            return row.operation
    return rows[0].operation
