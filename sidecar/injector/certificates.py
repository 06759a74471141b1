"""Keeps the injector's own certificates: in a Secret that all replicas share, in the registrations that the API server
trusts them by, in the file that the listener serves.

There is no leader. A change of the Secret is a compare-and-swap on its `resourceVersion`; who comes second reads what
the first one made.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog

from sidecar.injector import metrics
from sidecar.injector.authority import Lives, Stored, renewed
from sidecar.injector.cluster import Cluster, ClusterError
from sidecar.injector.config import SelfMade

LOOK_SECONDS: Final = 60.0
_TRIES: Final = 5
_CONFLICT: Final = 409
_REGISTRATIONS: Final = "/apis/admissionregistration.k8s.io/v1"
_JSON_PATCH: Final = "application/json-patch+json"
_log = structlog.get_logger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class CertificateKeeper:
    """One replica's care for the common certificates. `file` holds key and certificate of the listener, in one file so
    that they always fit; `problem` says why the last look failed, empty where it did not."""

    def __init__(self, cluster: Cluster, made: SelfMade, namespace: str, now: Callable[[], datetime] = _now) -> None:
        self._cluster = cluster
        self._made = made
        self._now = now
        self._path = f"/api/v1/namespaces/{namespace}/secrets/{made.secret}"
        service = f"{made.service}.{namespace}"
        self._names = (f"{service}.svc", service, made.service)
        self._lives = Lives(timedelta(days=made.days), timedelta(days=made.authority_days))
        self.file = made.folder / "tls.pem"
        self.problem = ""

    async def look(self) -> None:
        """Makes what is missing or due, and sees to it that the API server trusts it before it is served.

        Raises:
            ClusterError, OSError: it could not.
        """
        stored = await self._stored()
        for kind, name in (
            ("mutatingwebhookconfigurations", self._made.mutating_webhook),
            ("validatingwebhookconfigurations", self._made.validating_webhook),
        ):
            if name:
                await self._announce(f"{_REGISTRATIONS}/{kind}/{name}", stored["ca.crt"])
        self._write(stored["tls.key"] + stored["tls.crt"])

    async def watch(self) -> None:
        """Looks for ever. The interval varies, so that replicas do not keep step."""
        while True:
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.75, 1.25))  # noqa: S311 - not for secrecy
            try:
                await self.look()
            except (ClusterError, OSError) as error:
                self.problem = f"certificates could not be kept: {error}"
                metrics.CERTIFICATE_ERRORS.inc()
                _log.error("certificates could not be kept", reason=str(error))
            else:
                self.problem = ""

    async def _stored(self) -> Stored:
        for _ in range(_TRIES):
            secret = await self._cluster.call("GET", self._path)
            stored = _decoded(secret.get("data"))
            made = renewed(stored, self._now(), self._names, self._lives)
            if made is None:
                return stored
            secret["data"] = {name: base64.b64encode(value).decode() for name, value in made.items()}
            try:
                await self._cluster.call("PUT", self._path, secret)
            except ClusterError as error:
                if error.status != _CONFLICT:
                    raise
            else:
                _log.info("certificates renewed")
                return made
        raise ClusterError("the Secret of the certificates is changed all the time")

    async def _announce(self, path: str, bundle: bytes) -> None:
        """Writes the bundle into every webhook of a registration, if none else wrote to it meanwhile."""
        text = base64.b64encode(bundle).decode()
        for _ in range(_TRIES):
            registration = await self._cluster.call("GET", path)
            changes: list[dict[str, Any]] = [
                {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": text}
                for index, webhook in enumerate(registration.get("webhooks") or ())
                if webhook["clientConfig"].get("caBundle") != text
            ]
            if not changes:
                return
            version = registration["metadata"]["resourceVersion"]
            unchanged = {"op": "test", "path": "/metadata/resourceVersion", "value": version}
            with contextlib.suppress(_Meanwhile):
                await self._patch(path, [unchanged, *changes])
                return
        raise ClusterError("a registration of the webhook is changed all the time")

    async def _patch(self, path: str, changes: list[dict[str, Any]]) -> None:
        try:
            await self._cluster.call("PATCH", path, changes, _JSON_PATCH)
        except ClusterError as error:
            if error.status in (_CONFLICT, 422):  # 422: the test did not hold
                raise _Meanwhile from None
            raise

    def _write(self, content: bytes) -> None:
        if self.file.exists() and self.file.read_bytes() == content:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        temporary.replace(self.file)


class _Meanwhile(Exception):  # noqa: N818 - a reason to look again
    """Somebody else wrote first."""


def _decoded(data: object) -> Stored:
    """A Secret's data; what is no base64 counts as not there."""
    found: dict[str, bytes] = {}
    for name, text in (data if isinstance(data, dict) else {}).items():
        with contextlib.suppress(binascii.Error, ValueError, TypeError):
            found[name] = base64.b64decode(text, validate=True)
    return found
