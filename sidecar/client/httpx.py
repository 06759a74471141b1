"""DPoP for `httpx`, with `httpx.Client` and `httpx.AsyncClient` alike.

    key = DPoPKey.load_or_generate("dpop.pem")
    client = httpx.Client(base_url="http://127.0.0.1:8200", auth=DPoPAuth(key, access_token))
    secret = client.get("/v1/secret/data/app/db").json()["data"]["data"]

The proof is for the request's own `X-Vault-Token`, where it has one.
"""

from __future__ import annotations

from collections.abc import Generator

import httpx

from sidecar.client.key import DPoPKey
from sidecar.client.signer import Signer, Token


class DPoPAuth(httpx.Auth):
    """Signs each request; where the server asks for its nonce, sends it once more."""

    def __init__(self, key: DPoPKey, token: Token | None = None) -> None:
        self._signer = Signer(key, token)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Called by httpx for each request."""
        # A body that comes from an iterator is gone once it was sent.
        repeatable = isinstance(request.stream, httpx.ByteStream)
        for last in (not repeatable, True):
            self._sign(request)
            response = yield request
            self._signer.learn(str(response.url), response.headers)
            if last or not self._signer.is_nonce_challenge(response.status_code, response.headers):
                return

    def _sign(self, request: httpx.Request) -> None:
        request.headers.update(self._signer.sign(request.method, str(request.url), request.headers))
