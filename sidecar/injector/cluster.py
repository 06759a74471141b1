"""The Kubernetes API as the injector's own service account may use it: the server's version, one Secret, the webhook's
registrations."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import aiohttp

from sidecar.injector.config import ApiServer

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
_MINOR: Final = re.compile(r"\d+")
FIRST_WITH_NATIVE_SIDECARS: Final = (1, 29)


class ClusterError(Exception):
    """The API server did not do what it was asked; `status` is its answer's, 0 where there was none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Cluster:
    """A connection to the API server under the pod's own account."""

    def __init__(self, address: str, ca_file: Path, token_file: Path) -> None:
        """Raises OSError or ssl.SSLError where the certificate cannot be used."""
        self._address = address
        self._token_file = token_file
        self._tls = ssl.create_default_context(cafile=str(ca_file))
        self._http: aiohttp.ClientSession | None = None

    @classmethod
    def configured(cls, api: ApiServer) -> Cluster:
        """Where the configuration says, else where every pod finds it. Raises ClusterError outside of a cluster."""
        if api.address and api.ca_file is not None and api.token_file is not None:
            return cls(api.address, api.ca_file, api.token_file)
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host or not (_ACCOUNT / "token").exists():
            raise ClusterError("this is no pod of a cluster, or it has no service-account token")
        host = f"[{host}]" if ":" in host else host
        return cls(f"https://{host}:{port}", _ACCOUNT / "ca.crt", _ACCOUNT / "token")

    async def __aenter__(self) -> Cluster:
        connector = aiohttp.TCPConnector(ssl=self._tls)
        self._http = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT, trust_env=False)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """One call. Raises ClusterError for anything but a 2xx."""
        assert self._http is not None, "not entered"  # noqa: S101
        token = self._token_file.read_text(encoding="ascii").strip()  # the kubelet renews it
        headers = {"Authorization": f"Bearer {token}", "Content-Type": content_type}
        try:
            async with self._http.request(
                method, f"{self._address}{path}", json=body, headers=headers, allow_redirects=False
            ) as answer:
                if not answer.ok or answer.status >= 300:
                    raise ClusterError(f"{method} {path}: {answer.status}", answer.status)
                return await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ClusterError(f"{method} {path}: {type(error).__name__}") from None

    async def has_native_sidecars(self) -> bool:
        """Whether the API server is of a version in which init containers may stay. Its nodes may be older."""
        version = await self.call("GET", "/version")
        numbers = [_MINOR.match(str(version.get(key, ""))) for key in ("major", "minor")]
        if not all(numbers):
            raise ClusterError("GET /version: says no version")
        major, minor = (int(number[0]) for number in numbers if number)
        return (major, minor) >= FIRST_WITH_NATIVE_SIDECARS


def own_namespace() -> str:
    """The namespace of the pod's account; empty where there is none."""
    try:
        return (_ACCOUNT / "namespace").read_text(encoding="ascii").strip()
    except OSError:
        return ""
