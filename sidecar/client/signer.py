"""What the adapters have in common: whose token, which nonce, when to try again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from sidecar.client.key import DPoPKey

Token = str | Callable[[], str]
"""An access token, or a function that gives the one to use now."""


class Signer:
    """Signs requests with one key and remembers each server's last nonce (RFC 9449, section 8.2).

    The token is the request's own `X-Vault-Token` or `Authorization: DPoP`, else the one given here, which then goes
    into `Authorization`. Of a request with both, the token is in `Authorization`: beside it stands OpenBao's own, for a
    sidecar in passthrough mode.
    """

    def __init__(self, key: DPoPKey, token: Token | None = None) -> None:
        self._key = key
        self._token = token
        self._nonces: dict[str, str] = {}

    def sign(self, method: str, url: str, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers to set on a request: a fresh proof, and the token where the request has none.

        `headers` are the request's, by names whose case does not count.

        Raises:
            ValueError: there is no token.
        """
        added: dict[str, str] = {}
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if "X-Vault-Token" in headers and scheme.lower() != "dpop":
            token = headers["X-Vault-Token"]
        elif self._token is not None:
            token = self._token if isinstance(self._token, str) else self._token()
            added["Authorization"] = f"DPoP {token}"
        elif scheme.lower() != "dpop":
            raise ValueError("there is no token to sign for: give one, or send it as X-Vault-Token")
        added["DPoP"] = self._key.proof(method, url, token, self._nonces.get(origin(url)))
        return added

    def learn(self, url: str, headers: Mapping[str, str]) -> None:
        """Takes the nonce of an answer from this URL; any answer may bring one."""
        nonce = headers.get("DPoP-Nonce")
        if nonce:
            self._nonces[origin(url)] = nonce

    @staticmethod
    def is_nonce_challenge(status: int, headers: Mapping[str, str]) -> bool:
        """Whether the answer asks for the same request with the nonce it brings (RFC 9449, section 9)."""
        return (
            status == 401
            and 'error="use_dpop_nonce"' in headers.get("WWW-Authenticate", "")
            and bool(headers.get("DPoP-Nonce"))
        )


def origin(url: str) -> str:
    """`scheme://host[:port]` of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
