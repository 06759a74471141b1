"""The control plane's way to OpenBao: hvac in worker threads, with the same trust as the data plane.

hvac and requests look into the environment (VAULT_TOKEN, VAULT_CACERT, VAULT_CLIENT_CERT, proxies, ~/.netrc) and bring
a bundle of public CAs of their own; all of that is shut off here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

import hvac
import requests
from hvac.exceptions import Forbidden, InternalServerError, InvalidPath, InvalidRequest, Unauthorized, VaultError
from requests.adapters import HTTPAdapter

from sidecar.caller.identity import Credential
from sidecar.config import Upstream
from sidecar.upstream.target import MAX_REDIRECTS, base_url, nodes_of, redirected
from sidecar.upstream.tls import client_context
from sidecar.upstream.workers import Workers

CALL_SECONDS: Final = 10.0
"""The longest that one call of the control plane may take; less where `upstream.timeout_seconds` is less."""
_WORKERS: Final = 2

Result = TypeVar("Result")


class ControlError(Exception):
    """A call of the control plane failed. The text is for the operator; it holds no token."""


class DeniedError(ControlError):
    """OpenBao answered, and does not take the credential or does not allow the call."""


class AbsentError(DeniedError):
    """OpenBao answered that what was asked for is not there."""


class FaultError(ControlError):
    """OpenBao answered 500. It says so of a token past its max ttl, and of storage in trouble."""


class AwayError(ControlError):
    """No usable answer: OpenBao is unreachable, sealed, starting, overloaded, or something else speaks there."""


class _Adapter(HTTPAdapter):
    """Trusts what `client_context` trusts, and nothing of requests' own; asks the node that a standby names."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._nodes = nodes_of(upstream)
        super().__init__(max_retries=0)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        response = super().send(request, *args, **kwargs)
        for _ in range(MAX_REDIRECTS if self._nodes else 0):
            path, _, query = request.path_url.partition("?")
            node = redirected(self._nodes, response.status_code, response.headers.get("Location"), path, query)
            if node is None:
                break
            response.close()
            again = request.copy()
            again.url = f"{node}{request.path_url}"
            response = super().send(again, *args, **kwargs)
        return response

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["ssl_context"] = client_context(self._upstream.tls)
        if self._upstream.tls.server_name is not None:
            kwargs["server_hostname"] = self._upstream.tls.server_name
        return super().init_poolmanager(*args, **kwargs)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """requests would add its own CA bundle here; the context verifies already."""


class ControlPlane:
    """Calls hvac functions in worker threads. Raises `OSError` and `ssl.SSLError` where a TLS file is unusable."""

    def __init__(self, upstream: Upstream, workers: int = _WORKERS) -> None:
        self._upstream = upstream
        self._url = base_url(upstream)
        self._namespace = upstream.namespace.strip("/")
        self._timeout = min(CALL_SECONDS, upstream.timeout_seconds)
        self._session = _session(upstream)
        self._workers = Workers(workers, "openbao-control")

    async def call(
        self, function: Callable[[Any], Result], token: Credential | None = None, namespace: str = ""
    ) -> Result:
        """`function` with an hvac client, in a worker thread. `namespace` is one below `upstream.namespace`. Raises
        `ControlError`."""
        full = "/".join(filter(None, (self._namespace, namespace.strip("/"))))
        return await asyncio.get_running_loop().run_in_executor(self._workers, self._call, function, token, full)

    def reload(self) -> None:
        """Reads the TLS files again; calls under way end as they began. Raises `OSError`, `ssl.SSLError`, and keeps
        what is in force, where they are unusable."""
        before, self._session = self._session, _session(self._upstream)
        before.close()

    def close(self) -> None:
        """Ends the workers; a call under way ends by itself within its time limit."""
        self._workers.shutdown()
        self._session.close()

    def _call(self, function: Callable[[Any], Result], token: Credential | None, namespace: str) -> Result:
        client = hvac.Client(
            url=self._url,
            token=token.reveal() if token else "",  # None would be looked up in VAULT_TOKEN and ~/.vault-token
            verify=True,
            cert=(),  # None would be looked up in VAULT_CLIENT_CERT; ours is in the TLS context
            timeout=self._timeout,
            allow_redirects=False,
            session=self._session,
            namespace=namespace or None,
        )
        try:
            return function(client)
        except ControlError:
            raise
        except InvalidPath as error:
            raise AbsentError(_text(error)) from None
        except (Forbidden, Unauthorized, InvalidRequest) as error:
            raise DeniedError(_text(error)) from None  # the chain would hold the request
        except InternalServerError as error:
            raise FaultError(_text(error)) from None
        except VaultError as error:
            raise AwayError(_text(error)) from None
        except requests.RequestException as error:
            # Its own text may quote what was sent, the token included.
            what = str(error) if isinstance(error, requests.ConnectionError | requests.Timeout) else "not sent"
            raise AwayError(f"{type(error).__name__}: {what}") from None
        except Exception as error:  # noqa: BLE001 - whatever a strange answer does to hvac must not end the upkeep
            raise AwayError(f"an answer that is not OpenBao's: {type(error).__name__}") from None


def _session(upstream: Upstream) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    adapter = _Adapter(upstream)  # one, since its context holds what this machine trusts: a megabyte
    for scheme in ("https://", "http://"):
        session.mount(scheme, adapter)
    return session


def _text(error: VaultError) -> str:
    """What OpenBao said, without the URL that hvac adds."""
    said = " ".join(str(each).strip() for each in error.errors or [] if each) or type(error).__name__
    return " ".join(said.split())[:500]
