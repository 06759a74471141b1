"""The caller's own OpenBao token (`auth.mode: passthrough`): brought along with each request, kept nowhere."""

from __future__ import annotations

from sidecar.caller.identity import Credential
from sidecar.decision.permit import Permit
from sidecar.upstream.presented import Presented


class PassthroughLogin:
    """Hands on what the caller brought. A 403 of OpenBao's is the caller's own matter."""

    async def token_for(self, permit: Permit) -> Presented:
        """The caller's token. Raises `Refused` (TOKEN_MISSING) where there is none; the guard has looked already."""
        return Presented(permit.caller.brought_token())

    async def still_good(self, _permit: Permit, _used: Credential) -> bool:
        """Whatever OpenBao said, it said it to the caller."""
        return True
