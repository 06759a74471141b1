"""The keys of the issuers: JWKS by URI, by metadata or by file (RFC 7517, section 5), never fetched per request.

A key is looked up under its token's issuer only. A key set that cannot be read again is trusted for a while longer
(STALE_LIMIT_SECONDS), then not at all; a key that a readable set no longer names is revoked at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog

from sidecar.caller import jose, jwk
from sidecar.caller.key_fetch import MAX_JWKS_BYTES, KeyFetcher, Unreadable
from sidecar.clock import Clock
from sidecar.config import Issuer

REFRESH_SECONDS: Final = 600
FLOOR_SECONDS: Final = 10
"""Between the beginnings of two fetches, whatever asks for them: a flood of unknown `kid`s costs one."""
STALE_LIMIT_SECONDS: Final = 3600
FILE_LOOK_SECONDS: Final = 1
MAX_KEYS: Final = 100
MAX_KID_CHARS: Final = 256

_log = structlog.get_logger(__name__)


class KeyNotFound(Exception):  # noqa: N818 - an answer, not an error: the token is refused for it
    """No key, or more than one, could verify this token. The message is for the log."""


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A key of an issuer and the algorithms it may verify. Its identity is all but the key object itself."""

    kid: str | None
    algorithms: frozenset[str]
    thumbprint: str
    public: jwk.PublicKey = field(compare=False)


def read_jwks(document: bytes, algorithms: Collection[str], use: str = "sig") -> tuple[IssuerKey, ...]:
    """The keys of a JWKS document that can verify one of these algorithms, and are for this use.

    A key that cannot (for encryption, symmetric, of an unknown kind, too weak, published with its private part) is
    passed over, as RFC 7517, section 5 asks.

    Raises:
        jose.Malformed: the document is no key set, or one beyond its bounds.
    """
    if len(document) > MAX_JWKS_BYTES:
        raise jose.Malformed("the key set is too large")
    entries = jose.json_object(document).get("keys")
    if type(entries) is not list:
        raise jose.Malformed("the document is no key set")
    if len(entries) > MAX_KEYS:
        raise jose.Malformed("the key set holds too many keys")
    found = (_read_key(entry, algorithms, use) for entry in entries if type(entry) is dict)
    return tuple(key for key in found if key is not None)


def _read_key(entry: Mapping[str, Any], algorithms: Collection[str], use: str) -> IssuerKey | None:
    kid = entry.get("kid")
    if kid is not None and not jose.is_text(kid, MAX_KID_CHARS):
        return None
    try:
        public = jwk.parse(entry)
    except jose.Malformed:
        return None
    fitting = frozenset(
        algorithm
        for algorithm in algorithms
        if jwk.KIND_OF_ALGORITHM.get(algorithm) is public.kind and jwk.restrictions_allow(entry, algorithm, use)
    )
    return IssuerKey(kid, fitting, public.thumbprint, public.key) if fitting else None


class _KeySet:
    """One issuer's keys, as last read."""

    def __init__(self, issuer: Issuer, clock: Clock) -> None:
        self.issuer = issuer.issuer
        self._algorithms = frozenset(issuer.algorithms)
        # SPIFFE Trust Domain and Bundle, section 4.2.2: a bundle's other keys verify certificates.
        self._use = "jwt-svid" if issuer.issuer.startswith("spiffe://") else "sig"
        self._clock = clock
        self._keys: frozenset[IssuerKey] = frozenset()
        self._trusted_until = float("-inf")
        self._problem = "not read yet"

    @property
    def problem(self) -> str:
        """What is wrong with it, empty where nothing is."""
        if not self._trusted:
            return self._problem
        return self._problem or ("" if self._keys else "the key set holds no usable key")

    @property
    def usable(self) -> bool:
        """Whether it can verify anything."""
        return self._trusted and bool(self._keys)

    @property
    def _trusted(self) -> bool:
        return self._clock.elapsed() < self._trusted_until

    def holds(self, key: IssuerKey) -> bool:
        """Whether this key is still the issuer's."""
        self.look()
        return key in self._keys and self._trusted

    def find(self, kid: str | None, algorithm: str) -> IssuerKey:
        """The one key of this `kid` for this algorithm; without a `kid`, the only key for it.

        Raises:
            KeyNotFound: there is none, or not only one.
        """
        self.look()
        if not self._trusted:
            raise KeyNotFound(f"the issuer's keys are not available: {self._problem}")
        fitting = [key for key in self._keys if algorithm in key.algorithms and (kid is None or key.kid == kid)]
        if len(fitting) != 1:
            raise KeyNotFound(f"{len(fitting)} keys of the issuer fit the token")
        return fitting[0]

    def look(self) -> None:
        """Notices a change that costs next to nothing to notice; on the way of each request."""

    async def refresh(self) -> None:
        """Reads the key set again, if it is time to."""

    def _take(self, document: bytes) -> None:
        try:
            self._keys = frozenset(read_jwks(document, self._algorithms, self._use))
        except jose.Malformed as error:
            self._fail(str(error))
            return
        self._confirm()
        _log.info("issuer_keys_read", issuer=self.issuer, keys=len(self._keys))

    def _confirm(self) -> None:
        self._problem = ""
        self._trusted_until = self._clock.elapsed() + STALE_LIMIT_SECONDS

    def _fail(self, reason: str) -> None:
        if reason != self._problem:
            _log.warning("issuer_keys_unreadable", issuer=self.issuer, reason=reason, old_keys_trusted=self._trusted)
        self._problem = reason


class FileKeySet(_KeySet):
    """Keys from a file, read again when it changed, also by another file behind the same path (a mounted volume)."""

    def __init__(self, issuer: Issuer, path: Path, clock: Clock) -> None:
        super().__init__(issuer, clock)
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._next_look = float("-inf")

    def look(self) -> None:
        """Once a second."""
        now = self._clock.elapsed()
        if now >= self._next_look:
            self._next_look = now + FILE_LOOK_SECONDS
            self._look_now()

    async def refresh(self) -> None:
        """At once: a look costs microseconds."""
        self._look_now()

    def _look_now(self) -> None:
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                with self._path.open("rb") as file:
                    document = file.read(MAX_JWKS_BYTES + 1)
                self._seen = seen
                self._take(document)
            elif not self._problem:
                self._confirm()
        except OSError as error:
            self._seen = None
            self._fail(f"the file cannot be read: {error.strerror}")


class UriKeySet(_KeySet):
    """Keys from the issuer's `jwks_uri`: fetched at the start, every ten minutes, and for an unknown `kid`. Where it is
    not configured the issuer's metadata are read each time, so that a new one is followed."""

    def __init__(self, issuer: Issuer, session: aiohttp.ClientSession, clock: Clock) -> None:
        super().__init__(issuer, clock)
        self._fetcher = KeyFetcher(issuer, session)
        self._not_before = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Fetches, at most once per floor interval; whoever asks meanwhile waits for the same fetch."""
        if self._fetching is None:
            now = self._clock.elapsed()
            if now < self._not_before:
                return
            self._not_before = now + FLOOR_SECONDS
            self._fetching = asyncio.create_task(self._fetch_and_take())
        # One caller who goes away does not take the fetch from the others.
        await asyncio.shield(self._fetching)

    async def keep_fresh(self) -> None:
        """Refreshes for ever: with jitter, so that a deployment's pods do not come all at once."""
        while True:
            pause = FLOOR_SECONDS if self._problem else REFRESH_SECONDS
            await asyncio.sleep(pause * random.uniform(1.0, 1.2))  # noqa: S311 - jitter, not a secret
            await self.refresh()

    async def stop(self) -> None:
        """Ends a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    async def _fetch_and_take(self) -> None:
        try:
            document = await self._fetcher.fetch()
        except Unreadable as error:
            self._fail(str(error))
        else:
            self._take(document)
        finally:
            self._fetching = None


class IssuerKeys:
    """The keys of all configured issuers. `session` fetches those that come by URI."""

    def __init__(self, issuers: Sequence[Issuer], session: aiohttp.ClientSession, clock: Clock) -> None:
        self._sets: dict[str, _KeySet] = {}
        self._tasks: list[asyncio.Task[None]] = []
        for issuer in issuers:
            if issuer.jwks_file is not None:
                self._sets[issuer.issuer] = FileKeySet(issuer, issuer.jwks_file, clock)
            else:
                self._sets[issuer.issuer] = UriKeySet(issuer, session, clock)

    async def start(self) -> None:
        """Reads all key sets once, whether that works or not, and keeps those by URI fresh from then on."""
        await self.refresh()
        self._tasks = [
            asyncio.create_task(keys.keep_fresh()) for keys in self._sets.values() if isinstance(keys, UriKeySet)
        ]

    async def refresh(self) -> None:
        """Reads all key sets again, where it is time to."""
        await asyncio.gather(*(keys.refresh() for keys in self._sets.values()))

    async def close(self) -> None:
        """Ends the fetching."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for keys in self._sets.values():
            if isinstance(keys, UriKeySet):
                await keys.stop()

    @property
    def usable(self) -> bool:
        """Whether the tokens of at least one issuer can be verified, or there is none to verify."""
        return not self._sets or any(keys.usable for keys in self._sets.values())

    @property
    def problems(self) -> Mapping[str, str]:
        """What is wrong, by issuer."""
        return {issuer: keys.problem for issuer, keys in self._sets.items() if keys.problem}

    def holds(self, issuer: str, key: IssuerKey) -> bool:
        """Whether the issuer still names this key."""
        return self._sets[issuer].holds(key)

    async def find(self, issuer: str, kid: str | None, algorithm: str) -> IssuerKey:
        """The issuer's key for a token; where it has none, its key set is read again, if it is time to.

        Raises:
            KeyNotFound: the issuer is not configured, or has not exactly one such key.
        """
        keys = self._sets.get(issuer)
        if keys is None:
            raise KeyNotFound("the issuer is not configured")
        try:
            return keys.find(kid, algorithm)
        except KeyNotFound:
            await keys.refresh()
            return keys.find(kid, algorithm)
