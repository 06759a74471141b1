"""What the request headers that OpenBao and its clients know mean here: each decided, in one table.

Nothing of the caller's headers reaches OpenBao: the upstream request has headers of its own. So a header is either read
by a stage, or it is dropped, which is right only where dropping it cannot change what the caller would get, or it is
refused. A further `X-Vault-*` or `X-Bao-*` header is refused, since what it would have meant is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from sidecar.errors import Code, Refused

_NO_WRAPPING: Final = frozenset({"", "0", "0s", "0m", "0h"})


def _read(_value: str) -> None:
    """Read by a stage of its own: the caller stage or `mounts`."""


def _dropped(_value: str) -> None:
    """Without effect on the answer, or with less than the caller would have had."""


def _no_wrapping(value: str) -> None:
    """A wrapped answer is a secret in a token that anybody could unwrap, past every policy."""
    if value not in _NO_WRAPPING:
        raise Refused(
            Code.OPERATION_FORBIDDEN,
            "response wrapping (X-Vault-Wrap-TTL) is not served: it carries secrets past policy",
        )


def _other_method(_value: str) -> None:
    raise Refused(Code.OPERATION_FORBIDDEN, "a header asks for another method than the request's; send that method")


HEADERS: Final[Mapping[str, Callable[[str], None]]] = {
    "x-vault-token": _read,
    "x-vault-namespace": _read,
    "x-vault-request": _read,  # all clients send it; asked for where the pod itself is the caller
    "x-vault-wrap-ttl": _no_wrapping,
    "x-vault-wrap-format": _dropped,  # says how to wrap, and nothing is wrapped
    "x-vault-policy-override": _dropped,  # OpenBao ignores it; elsewhere it overrides soft policies: they then hold
    "x-vault-mfa": _dropped,  # of logins, which are not served
    "x-vault-index": _dropped,  # consistency across a cluster: the sidecar's upstream has its own
    "x-vault-inconsistent": _dropped,
    "x-vault-forward": _dropped,
    "x-vault-no-request-forwarding": _dropped,
    "x-vault-raw-error": _dropped,  # how an error is shown
    # `x-vault-inline-auth-*` would log somebody in first, and is not here.
    "x-http-method-override": _other_method,
    "x-http-method": _other_method,
    "x-method-override": _other_method,
}


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises `Refused`: OPERATION_FORBIDDEN for a header that asks for what is not served."""
    for name in headers:
        decision = HEADERS.get(name)
        if decision is not None:
            decision(headers[name])
        elif name.startswith(("x-vault-", "x-bao-")):
            raise Refused(Code.OPERATION_FORBIDDEN, "an X-Vault- or X-Bao- header that is not known here is not served")
