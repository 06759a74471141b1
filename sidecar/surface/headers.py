"""What the request headers that OpenBao and its clients know mean here: each decided, in one table.

Nothing of the caller's headers reaches OpenBao: the upstream request has headers of its own. So a header is either read
by a stage, or it is dropped, which is right only where dropping it cannot change what the caller would get, or it is
refused. A further `X-Vault-*` or `X-Bao-*` header is refused, since what it would have meant is not known: the
`X-Vault-Inline-Auth-*` ones among them, which would log somebody in first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from sidecar.errors import Code, Refused


class Decision(NamedTuple):
    """What becomes of a header: `done` in a word, `why` for the reference; `check` refuses its values."""

    done: str
    why: str
    check: Callable[[str], None] | None = None


_NO_WRAPPING: Final = frozenset({"", "0", "0s", "0m", "0h"})


def _no_wrapping(value: str) -> None:
    if value not in _NO_WRAPPING:
        raise Refused(
            Code.OPERATION_FORBIDDEN,
            "response wrapping (X-Vault-Wrap-TTL) is not served: it carries secrets past policy",
        )


def _other_method(_value: str) -> None:
    raise Refused(Code.OPERATION_FORBIDDEN, "a header asks for another method than the request's; send that method")


_METHOD: Final = Decision("refused", "another method than the request's, for whoever believes it", _other_method)

HEADERS: Final[Mapping[str, Decision]] = {
    "x-vault-token": Decision("read", "the caller's credential; a second one is `AMBIGUOUS_CREDENTIALS`"),
    "x-vault-namespace": Decision(
        "read",
        "one form for each namespace; OpenBao gets what was read; the Secrets API, whose URIs name it, takes none",
    ),
    "x-vault-request": Decision("read", "all clients send it; asked for where the pod itself is the caller"),
    "x-vault-wrap-ttl": Decision(
        "refused unless zero", "a wrapped answer is a secret in a token that anybody could unwrap", _no_wrapping
    ),
    "x-vault-wrap-format": Decision("dropped", "says how to wrap, and nothing is wrapped"),
    "x-vault-policy-override": Decision("dropped", "OpenBao ignores it; elsewhere soft policies then hold"),
    "x-vault-mfa": Decision("dropped", "a second factor of OpenBao's logins; the sidecar's own login has none"),
    "x-vault-index": Decision("dropped", "consistency across a cluster: the sidecar's upstream has its own"),
    "x-vault-inconsistent": Decision("dropped", "what a node does that lags behind: the same"),
    "x-vault-forward": Decision("dropped", "which node answers: the same"),
    "x-vault-no-request-forwarding": Decision("dropped", "which node answers: the same"),
    "x-vault-raw-error": Decision("dropped", "how an error is shown"),
    "x-http-method-override": _METHOD,
    "x-http-method": _METHOD,
    "x-method-override": _METHOD,
}
"""Names in lower case, as the door gives them."""

UNKNOWN: Final = ("x-vault-", "x-bao-")
"""Names that begin so and are not in the table are refused."""

EXTENSION: Final = "x-"
"""How all of these begin. Most headers of a request are of no such name: one look at their beginning is enough."""


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises `Refused`: OPERATION_FORBIDDEN for a header that asks for what is not served."""
    for name in headers:
        if not name.startswith(EXTENSION):
            continue
        decision = HEADERS.get(name)
        if decision is not None:
            if decision.check is not None:
                decision.check(headers[name])
        elif name.startswith(UNKNOWN):
            raise Refused(Code.OPERATION_FORBIDDEN, "an X-Vault- or X-Bao- header that is not known here is not served")
