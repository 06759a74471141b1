"""The guard before any PDP: the tenant's mounts, and the scopes of the caller's token."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from sidecar.caller.identity import Caller
from sidecar.config import Config
from sidecar.errors import Code, Refused
from sidecar.surface.operation import SCOPE, Operation, Purpose

_LOOKING: Final = frozenset({Purpose.READ, Purpose.READ_METADATA})


class Guard:
    """What no policy can permit."""

    def __init__(self, config: Config, read_only: Collection[str] = ()) -> None:
        """`read_only` are the schemes of the providers that are not to be changed."""
        self._read_only = frozenset(read_only)
        self._mounts = frozenset(mount.strip("/") for mount in config.tenant.allowed_mounts)
        self._enforces_scopes = config.scopes.enforce
        self._passthrough = config.upstream.auth.mode == "passthrough"

    def check(self, operation: Operation, caller: Caller) -> None:
        """Lets a request on to the decision.

        Raises:
            Refused: TENANT_MOUNT_MISMATCH outside the tenant's mounts; SCOPE_MISSING, with the scope that the challenge
                asks for, where scopes are enforced and the token lacks the purpose's; TOKEN_MISSING
                where the caller's own OpenBao token would be sent and there is none; PROVIDER_READ_ONLY.
        """
        if self._passthrough and operation.asks_openbao:
            caller.brought_token()
        if operation.uri.mount not in self._mounts:
            raise Refused(Code.TENANT_MOUNT_MISMATCH, "This mount is not one of the tenant's.")
        if operation.uri.provider in self._read_only and operation.purpose not in _LOOKING:
            raise Refused(
                Code.PROVIDER_READ_ONLY, "This provider's secrets are changed where environment is dev or test only."
            )
        self.check_scope(operation.purpose, caller)

    def check_scope(self, purpose: Purpose, caller: Caller) -> None:
        """The scopes alone, for what is decided item by item. Raises `Refused`: SCOPE_MISSING."""
        if not self._enforces_scopes:
            return
        scope = SCOPE[purpose]
        if scope not in caller.scopes:
            raise Refused(
                Code.SCOPE_MISSING,
                f"The access token lacks the scope {scope}.",
                wanted={"scope": scope},
            )
