"""How the sidecar gets a token of its own: one class for each `upstream.auth.method`.

Every method ends in a look-up of its token, so that a token that OpenBao does not take, or whose policy lacks what the
sidecar needs of it, is noticed at once. The policy must allow, as OpenBao's `default` does:

    path "auth/token/lookup-self" { capabilities = ["read"] }
    path "auth/token/renew-self"  { capabilities = ["update"] }

Prefer periodic tokens (`token_period` of a role, `period` of a token): they are renewed for as long as the sidecar
lives, and leases made under them live on. A token with a `max_ttl` has to be replaced when it is reached, and what was
leased under it ends with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

from hvac.exceptions import Forbidden

from sidecar.caller.identity import Credential
from sidecar.config import Upstream
from sidecar.ops.logs import register_secret
from sidecar.upstream.control import AwayError, DeniedError
from sidecar.upstream.files import signature

_MAX_FILE_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class Session:
    """A token as OpenBao knows it. `ttl` is what it had left, in seconds, when it was looked up; None: for ever."""

    credential: Credential
    accessor: str = field(repr=False)
    ttl: float | None
    renewable: bool
    periodic: bool = False
    """Whether it can be renewed for ever."""


class Method(Protocol):
    """A way to log in."""

    def log_in(self, client: Any) -> Session:
        """Logs in, in a worker thread. Raises what hvac raises, or `ControlError`."""

    def signature(self) -> object:
        """Changes whenever a file does that makes another login necessary; None for ever where none does."""


def method_of(upstream: Upstream) -> Method:
    """The configured method. Raises `ValueError` where a key it needs is missing."""
    auth = upstream.auth
    # Beside `exchange` the role and the mount are those of the callers' login, which a JWT of the sidecar's own shares.
    mount = auth.mount if auth.mode != "exchange" else None
    if auth.method == "token" and auth.token is not None:
        return TokenMethod(Credential(auth.token.get_secret_value()))
    if auth.method == "token_file" and auth.token_file is not None:
        return TokenFileMethod(auth.token_file)
    if auth.method == "approle" and auth.role_id is not None and auth.secret_id_file is not None:
        return AppRoleMethod(auth.role_id, auth.secret_id_file, mount or "approle")
    if auth.method in ("kubernetes", "jwt") and auth.role is not None and auth.jwt_file is not None:
        return JwtMethod(auth.role, auth.jwt_file, auth.mount or auth.method)
    if auth.method == "cert" and upstream.tls.cert_file is not None:
        return CertMethod(auth.role, mount or "cert")
    raise ValueError(f"upstream.auth.method {auth.method} lacks a key that it needs")


class TokenMethod:
    """A token from the configuration. Once it has ended, only a new configuration brings another."""

    def __init__(self, token: Credential) -> None:
        self._token = token

    def log_in(self, client: Any) -> Session:
        return look_up(client, self._token)

    def signature(self) -> object:
        return None


class TokenFileMethod:
    """A token that somebody else keeps in a file, read again whenever the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def log_in(self, client: Any) -> Session:
        return look_up(client, Credential(_read(self._path)))

    def signature(self) -> object:
        return signature(self._path)


class AppRoleMethod:
    """OpenBao's AppRole. The secret id is read from its file at each login, so that it can be rotated."""

    def __init__(self, role_id: str, secret_id_file: Path, mount: str) -> None:
        self._role_id = role_id
        self._secret_id_file = secret_id_file
        self._mount = mount

    def log_in(self, client: Any) -> Session:
        params = {"role_id": self._role_id, "secret_id": _read(self._secret_id_file)}
        return log_in_at(client, self._mount, params)

    def signature(self) -> object:
        return signature(self._secret_id_file)


class JwtMethod:
    """A JWT from a file, taken by OpenBao's `kubernetes` or `jwt` method: a pod's projected token as a rule.

    It is read at each login. That it was replaced, as the kubelet does every hour, is no reason for another one.
    """

    def __init__(self, role: str, jwt_file: Path, mount: str) -> None:
        self._role = role
        self._jwt_file = jwt_file
        self._mount = mount

    def log_in(self, client: Any) -> Session:
        return log_in_at(client, self._mount, {"role": self._role, "jwt": _read(self._jwt_file)})

    def signature(self) -> object:
        return None


class CertMethod:
    """The client certificate of the connection itself (`upstream.tls.cert_file`), read again with the rest of TLS.

    OpenBao renews such a token only to the certificate that it was made for, so another one needs another login.
    """

    def __init__(self, role: str | None, mount: str) -> None:
        self._role = role
        self._mount = mount

    def log_in(self, client: Any) -> Session:
        return log_in_at(client, self._mount, {"name": self._role} if self._role else {})

    def signature(self) -> object:
        return None


def log_in_at(client: Any, mount: str, params: dict[str, str]) -> Session:
    """A new token from the auth method at a mount."""
    client.token = ""
    answer = client.adapter.login(f"/v1/auth/{quote(mount.strip('/'))}/login", use_token=False, json=params)
    return look_up(client, Credential(_text(answer["auth"]["client_token"])))


def look_up(client: Any, token: Credential) -> Session:
    """The token as OpenBao knows it now."""
    client.token = token.reveal()
    try:
        data = client.auth.token.lookup_self()["data"]
    except Forbidden:
        raise DeniedError("the token is not valid, or its policies do not allow auth/token/lookup-self") from None
    if data.get("num_uses"):
        raise DeniedError("the token has a limited number of uses, which looking after it would spend")
    ttl = _seconds(data["ttl"])
    endless = data["expire_time"] is None and ttl == 0
    periodic = bool(data.get("period")) and not data.get("explicit_max_ttl")
    accessor = _text(data.get("accessor") or "")
    return Session(token, accessor, None if endless else ttl, data.get("renewable") is True, periodic)


def renew(client: Any, session: Session) -> Session:
    """The same token with a new ttl."""
    client.token = session.credential.reveal()
    auth = client.auth.token.renew_self()["auth"]
    return replace(session, ttl=_seconds(auth["lease_duration"]), renewable=auth.get("renewable") is True)


def revoke(client: Any, token: Credential) -> None:
    """Ends a token, and every lease that was made under it."""
    client.token = token.reveal()
    client.auth.token.revoke_self()


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError("a ttl that is not a number of seconds")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isascii() or (value and not value.isprintable()):
        raise TypeError("not printable text")
    return value


def _read(path: Path) -> str:
    """The one line of a credential's file. What is unreadable now (it may be being written) is tried again."""
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise AwayError(f"{path}: {error.strerror}") from None
    text = content.decode("ascii", "replace").strip()
    if not text or not text.isascii() or not text.isprintable() or len(content) > _MAX_FILE_BYTES:
        raise AwayError(f"{path} does not hold one line of printable text")
    return register_secret(text, path)
