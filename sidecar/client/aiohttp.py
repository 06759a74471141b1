"""DPoP for `aiohttp` (3.12 and later), as a client middleware.

    key = DPoPKey.load_or_generate("dpop.pem")
    session = aiohttp.ClientSession("http://127.0.0.1:8200", middlewares=[DPoPMiddleware(key, access_token)])
    answer = await session.get("/v1/secret/data/app/db")

The proof is for the request's own `X-Vault-Token`, where it has one.
"""

from __future__ import annotations

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

from sidecar.client.key import DPoPKey
from sidecar.client.signer import Signer, Token


class DPoPMiddleware:
    """Signs each request; where the server asks for its nonce, sends it once more.

    It signs for one origin, that of its first request: aiohttp calls it for each hop of a redirect, and the token is
    not for another server.
    """

    def __init__(self, key: DPoPKey, token: Token | None = None) -> None:
        self._signer = Signer(key, token)
        self._origin: object = None

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Called by aiohttp for each request."""
        if self._origin is None:
            self._origin = request.url.origin()
        elif request.url.origin() != self._origin:
            return await handler(request)
        response = await self._send(request, handler)
        consumed = getattr(request.body, "consumed", False)  # a body from an iterator is gone once it was sent
        if consumed or not self._signer.is_nonce_challenge(response.status, response.headers):
            return response
        await response.read()
        response.release()
        return await self._send(request, handler)

    async def _send(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        request.headers.update(self._signer.sign(request.method, str(request.url), request.headers))
        response = await handler(request)
        self._signer.learn(str(request.url), response.headers)
        return response
