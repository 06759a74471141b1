"""DPoP for `requests`, and for hvac, which sends its requests through it.

    key = DPoPKey.load_or_generate("dpop.pem")
    client = hvac.Client(url="http://127.0.0.1:8200", token=access_token)
    client.session.auth = DPoPAuth(key)

The proof is for the request's own `X-Vault-Token`, as hvac sends it. Without hvac the token is given once:
`session.auth = DPoPAuth(key, access_token)`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from requests import PreparedRequest, Response
from requests.auth import AuthBase

from sidecar.client.key import DPoPKey
from sidecar.client.signer import Signer, Token, origin


class DPoPAuth(AuthBase):
    """Signs each request; where the server asks for its nonce, sends it once more."""

    def __init__(self, key: DPoPKey, token: Token | None = None) -> None:
        self._signer = Signer(key, token)

    def __call__(self, r: PreparedRequest) -> PreparedRequest:
        """Signs the request, whatever its method."""
        self._sign(r)
        answered = partial(self._answered, origin(r.url or ""), _position(r.body))
        r.register_hook("response", answered)  # type: ignore[no-untyped-call] # its stub has no types
        return r

    def _sign(self, request: PreparedRequest) -> None:
        request.headers.update(self._signer.sign(request.method or "", request.url or "", request.headers))

    def _answered(self, signed_for: str, position: int | None, response: Response, **kwargs: Any) -> Response:
        request = response.request
        url = request.url or ""
        self._signer.learn(url, response.headers)
        if not self._signer.is_nonce_challenge(response.status_code, response.headers):
            return response
        # A redirect may have led to another server: the token is not for that one.
        if origin(url) != signed_for or not _rewound(request.body, position):
            return response
        _ = response.content  # reads the rest of it, so that the connection can be used again
        response.close()
        again = request.copy()
        self._sign(again)
        # Past the session, so past its hooks: there is no third time.
        second: Response = response.connection.send(again, **kwargs)
        second.history.append(response)
        second.request = again
        self._signer.learn(url, second.headers)
        return second


def _position(body: object) -> int | None:
    tell = getattr(body, "tell", None)
    try:
        return tell() if tell is not None else None
    except OSError:
        return None


def _rewound(body: object, position: int | None) -> bool:
    """Whether the body can be sent again, from where it began."""
    if body is None or isinstance(body, bytes | str):
        return True
    seek = getattr(body, "seek", None)
    if seek is None or position is None:
        return False
    try:
        seek(position)
    except OSError:
        return False
    return True
