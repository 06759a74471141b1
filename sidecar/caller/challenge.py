"""The challenge of a refusal: `WWW-Authenticate` as RFC 9110 (section 11.6.1), RFC 6750, RFC 9449 and RFC 9470 have it.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from sidecar.errors import Code

ERRORS: Final[Mapping[Code, str]] = {
    Code.TOKEN_MISSING: "",  # RFC 6750, section 3.1: no error where no authentication was tried
    Code.TOKEN_INVALID: "invalid_token",
    Code.TOKEN_EXPIRED: "invalid_token",
    Code.AUDIENCE_MISMATCH: "invalid_token",
    Code.BINDING_REQUIRED: "invalid_token",
    Code.BINDING_MISMATCH: "invalid_token",
    Code.PROOF_INVALID: "invalid_dpop_proof",
    Code.PROOF_REPLAYED: "invalid_dpop_proof",
    Code.PROOF_NONCE_REQUIRED: "use_dpop_nonce",
    Code.SCOPE_MISSING: "insufficient_scope",
    Code.STEP_UP_REQUIRED: "insufficient_user_authentication",
}
"""The OAuth error of each code that asks the caller for another credential."""


def www_authenticate(
    code: Code,
    description: str,
    algorithms: Sequence[str],
    *,
    bearer: bool = False,
    wanted: Mapping[str, str] | None = None,
) -> str | None:
    """The value of `WWW-Authenticate`, None for a code that asks for nothing.

    `algorithms` are those taken in a proof. `bearer` adds the Bearer scheme, for tokens that are not bound or bound by
    certificate. `description` and `wanted` are ASCII without quotation marks and backslashes; `wanted` is the `scope`
    that is missing (RFC 6750, section 3), or the `acr_values` and `max_age` that a step-up needs (RFC 9470, section 3).
    """
    error = ERRORS.get(code)
    if error is None:
        return None
    parameters = [
        f'{name}="{value}"'
        for name, value in (
            ("error", error),
            ("error_description", description if error else ""),
            *(wanted or {}).items(),
        )
        if value
    ]
    challenge = ", ".join([*parameters, f'algs="{" ".join(algorithms)}"'])
    if not bearer:
        return f"DPoP {challenge}"
    return f"DPoP {challenge}, Bearer {', '.join(parameters)}".rstrip()
