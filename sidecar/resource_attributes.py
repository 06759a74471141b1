"""What a secret's own metadata says of it, for policies: owner, created_by, created_at, and custom metadata.

Read from KV version 2 with the sidecar's own login: the request is made of the secret's URI alone, and what comes back
goes to the PDP and to nobody else. Remembered for seconds. A change through this sidecar is seen at once, one made
elsewhere after `authorization.attributes.ttl_seconds`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

import orjson
import structlog
from cachetools import TTLCache

from sidecar.clock import Clock
from sidecar.config.tree import Attributes
from sidecar.errors import Code, Refused
from sidecar.ops import metrics
from sidecar.surface.encoding import encode_path
from sidecar.surface.mounts import MountTable
from sidecar.surface.operation import Operation, UpstreamRequest
from sidecar.surface.secret_uri import SecretUri
from sidecar.upstream.client import UpstreamClient
from sidecar.upstream.login import BrokerLogin

FETCH_SECONDS: Final = 1.0
AT_ONCE: Final = 32
"""Reads of metadata under way at once; more wait their turn within `FETCH_SECONDS`."""

_ENGINE: Final = "kv2"
_CREATED_AT: Final = "created_at"

Found = Mapping[str, str]
_log = structlog.get_logger(__name__)


class ResourceAttributes:
    """Fetches and remembers. `needed` says whether the policies in force look at any of it."""

    def __init__(
        self,
        config: Attributes,
        upstream: UpstreamClient,
        login: BrokerLogin | None,
        mounts: Callable[[], MountTable],
        needed: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._upstream = upstream
        self._login = login
        self._mounts = mounts
        self._needed = needed
        self._cache: TTLCache[SecretUri, Found] = TTLCache(config.max_entries, config.ttl_seconds, clock.elapsed)
        self._under_way: dict[SecretUri, asyncio.Task[Found]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._failing = False

    def __len__(self) -> int:
        return len(self._cache)

    def of(self, operation: Operation) -> Callable[[], Awaitable[Found]] | None:
        """What fetches the attributes of an operation's secret; None where there are none, or nobody asks."""
        return self.fetching(operation) if self._needed() else None

    def fetching(self, operation: Operation) -> Callable[[], Awaitable[Found]] | None:
        """The same, whoever asks."""
        uri = operation.uri
        return None if uri.engine != _ENGINE or uri.folder else partial(self.fetch, uri)

    async def fetch(self, uri: SecretUri) -> Found:
        """The attributes by name; none where the secret has no metadata. One read, however many ask.

        Raises:
            Refused: where they cannot be fetched.
        """
        secret = uri.without_version().without_fragment()
        known = self._cache.get(secret)
        if known is not None:
            _COUNT["hit"].inc()
            return known
        task = self._under_way.get(secret)
        if task is None:
            task = self._under_way[secret] = asyncio.create_task(self._read(secret))
            task.add_done_callback(partial(self._landed, secret))
        return await asyncio.shield(task)

    def changed(self, operation: Operation) -> None:
        """An operation changed its secret, or may have: what is known of it, or being read, is not remembered."""
        if operation.mutation and operation.uri.engine == _ENGINE:
            secret = operation.uri.without_version().without_fragment()
            self._cache.pop(secret, None)
            self._under_way.pop(secret, None)

    async def close(self) -> None:
        """Ends reads under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _landed(self, secret: SecretUri, task: asyncio.Task[Found]) -> None:
        still_true = self._under_way.get(secret) is task
        if still_true:
            del self._under_way[secret]
        if task.cancelled() or task.exception() is not None:
            return
        if still_true:
            self._cache[secret] = task.result()

    async def _read(self, secret: SecretUri) -> Found:
        try:
            if self._login is None:
                raise _unavailable("the sidecar has no login of its own")
            async with asyncio.timeout(FETCH_SECONDS), self._turns:
                status, raw = await self._upstream.metadata(self._request(secret), self._login.token())
            if status == 404:
                found: Found = {}
            elif status == 200:
                found = read_metadata(raw)
            else:
                raise _unavailable(f"OpenBao answered {status}")
        except TimeoutError as error:
            self._note_failure("no answer in time")
            raise _unavailable("no answer in time") from error
        except Refused as refused:
            self._note_failure(refused.detail or refused.message)
            raise
        self._failing = False
        _COUNT["fetched" if found else "none"].inc()
        return found

    def _request(self, secret: SecretUri) -> UpstreamRequest:
        place = self._mounts().place_of(secret.mount)
        if place is None:
            raise _unavailable("the mount is not there any more")
        return UpstreamRequest("GET", f"{place.target}metadata/{encode_path(secret.path)}", namespace=place.namespace)

    def _note_failure(self, reason: str) -> None:
        """Said once until it works again: the way may be closed to the sidecar's login for good."""
        _COUNT["failed"].inc()
        if not self._failing:
            self._failing = True
            _log.warning("resource attributes cannot be fetched, policies decide without them", reason=reason)


_COUNT: Final = {result: metrics.ATTRIBUTES.labels(result) for result in ("hit", "fetched", "none", "failed")}


def read_metadata(raw: bytes) -> Found:
    """The attributes in OpenBao's answer. Custom metadata are texts; `created_at` is when the secret was made where
    they do not say.

    Raises:
        Refused: where this is no answer of that kind.
    """
    try:
        data = orjson.loads(raw)["data"]
        custom: Any = data["custom_metadata"] or {}
        created = data["created_time"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise _unavailable("the answer is not a secret's metadata") from error
    if type(custom) is not dict or not all(type(value) is str for value in custom.values()):
        raise _unavailable("the answer's custom_metadata are not texts")
    found: dict[str, str] = dict(custom)
    if type(created) is str and created:
        found.setdefault(_CREATED_AT, created)
    return found


def _unavailable(detail: str) -> Refused:
    return Refused(Code.UPSTREAM_UNAVAILABLE, "The secret's metadata cannot be read now.", detail=detail)
