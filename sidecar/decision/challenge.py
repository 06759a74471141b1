"""The challenges that a decision answers with: `WWW-Authenticate` of RFC 6750 (section 3) and RFC 9470 (section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sidecar.caller.identity import BindingKind, Caller

_BY_PROOF = frozenset({BindingKind.DPOP, BindingKind.DPOP_MTLS})


def challenge(caller: Caller, algorithms: Sequence[str], error: str, **parameters: str) -> Mapping[str, str]:
    """The header, in the scheme that the caller's token was taken under.

    `algorithms` are those taken in a DPoP proof (RFC 9449, section 7.1). The parameters' values hold neither quotation
    marks nor backslashes: scopes are our own, `acr` values are checked where obligations are read.
    """
    values = {"error": error, **parameters}
    by_proof = caller.binding.kind in _BY_PROOF
    if by_proof:
        values["algs"] = " ".join(algorithms)
    listed = ", ".join(f'{name}="{value}"' for name, value in values.items())
    return {"WWW-Authenticate": f"{'DPoP' if by_proof else 'Bearer'} {listed}"}
