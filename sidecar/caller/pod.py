"""The pod itself as the caller: a request without credentials, from inside, under the pod's own projected token."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sidecar.caller.access_token import MAX_TOKEN_CHARS, AccessToken
from sidecar.caller.identity import Binding, BindingKind
from sidecar.clock import Clock
from sidecar.door.head import Head, Peer
from sidecar.errors import Code, Refused

LOOK_SECONDS: Final = 1

_FORWARDED: Final = frozenset({"forwarded", "via", "x-forwarded-for", "x-forwarded-client-cert", "x-real-ip"})
"""What a proxy adds to requests that it passes on. A mesh's proxy hands requests of other pods to loopback."""


def why_not_the_pod(head: Head, peer: Peer) -> str:
    """Why a request is not the pod's own, in words for the caller; empty where it is.

    It carries no credential of any kind, not even a client certificate, and no trace of a proxy; it says
    `X-Vault-Request: true`, which no web page can send unasked (it takes a preflight that is refused);
    both ends of its connection are in this network namespace's loopback, or it came by the Unix socket.
    """
    headers = head.headers
    if "x-vault-token" in headers or "authorization" in headers or "dpop" in headers or peer.certificate is not None:
        return "this request needs an access token"
    if not peer.is_local:
        return "this request needs an access token: it does not come from inside the pod"
    if not _FORWARDED.isdisjoint(headers):
        return "this request needs an access token: it was passed on by a proxy"
    if headers.get("x-vault-request") != "true":
        return "this request needs an access token, or X-Vault-Request: true to be the pod's own"
    return ""


def pod_binding(peer: Peer) -> Binding:
    """The binding of the pod's own requests; by Unix socket it says who in the pod, as the kernel knows it."""
    return Binding(BindingKind.POD, "" if peer.uid is None else f"uid:{peer.uid}", names_subject=True)


class PodToken:
    """The projected token in a file, read again when the file changed, also by another file behind the same path: the
    kubelet renews it long before it expires."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._seen: tuple[int, ...] | None = None
        self._next_look = float("-inf")
        self._token = ""
        self._problem = "not read yet"
        self._verified: AccessToken | None = None

    def read(self) -> str:
        """The token as it stands in the file.

        Raises:
            Refused: TOKEN_MISSING where there is none to be read.
        """
        now = self._clock.elapsed()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._look()
        if not self._token:
            raise Refused(Code.TOKEN_MISSING, "the pod's own token cannot be read", detail=self._problem)
        return self._token

    def verified(self, outcome: AccessToken | Refused) -> None:
        """Notes what verifying it came to, for `problem`."""
        if isinstance(outcome, Refused):
            self._verified, self._problem = None, outcome.message
        else:
            self._verified, self._problem = outcome, ""

    @property
    def problem(self) -> str:
        """What is wrong with it, empty where nothing is."""
        if self._verified is not None and self._clock.wall() >= self._verified.expires_at:
            return "the token has expired and was not renewed"
        return self._problem

    def _look(self) -> None:
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen == self._seen:
                return
            with self._path.open("rb") as file:
                token = file.read(MAX_TOKEN_CHARS + 2).decode("ascii").strip()
            self._seen = seen
        except OSError as error:
            self._lose(f"the file cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            self._lose("the file holds no token")
        else:
            if not token:
                self._lose("the file is empty")
            else:
                self._token, self._problem, self._verified = token, "", None

    def _lose(self, reason: str) -> None:
        """A token that was taken away is not used on."""
        self._seen, self._token, self._verified, self._problem = None, "", None, reason
