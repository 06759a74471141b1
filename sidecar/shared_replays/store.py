"""What was used once, remembered for all replicas by one Valkey server. Away, slow, full or unfit: it refuses.

One connection, on which the claims that wait go out together. A claim is `SET mark id NX GET PX ttl`: exactly one of
any number of replicas sees the mark absent, and a claim sent again on a new connection finds its own `id`. Behind the
claims of each batch the nonces' secret and the server's clock are asked for: a store that lost its memory, or whose
clock was set, before a claim is found out with that very claim.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import structlog

from sidecar.clock import Clock
from sidecar.config import AntiReplay
from sidecar.errors import Code, Refused
from sidecar.ops import metrics
from sidecar.shared_replays.connection import FAILURES, Connection
from sidecar.shared_replays.generation import KEPT_SECONDS, Generation, Unfit, identity_of, time_of
from sidecar.shared_replays.resp import ProtocolError, Reply, ServerError, encode

OPENING: Final = "opening"
"""A token that opens a grant; beside `proof` and `token`."""

BATCH: Final = 256
ID_CHARS: Final = 24
LOOK_SECONDS: Final = 2.0
"""How often an idle store is looked at."""
AGAIN_SECONDS: Final = 0.25
"""How often one that is away is tried again."""
CLOCK_STEP_SECONDS: Final = 2.0

_RELEASE: Final = "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) end return 0"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A mark that is this sidecar's."""

    mark: bytes
    id: bytes


@dataclass(slots=True, eq=False)
class _Claim:
    mark: bytes
    id: bytes
    ttl_ms: int
    won: asyncio.Future[bool | str]
    """A text is why the store does not say."""


class SharedReplays:
    """The shared store of one tenant. Use within one event loop."""

    def __init__(self, config: AntiReplay, tenant_id: str, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._timeout = config.store_timeout_ms / 1000
        self._prefix = f"openbao-sidecar:{tenant_id}:"
        self._connection: Connection | None = None
        self._name = b""
        self._generation: Generation | None = None
        self._ahead: float | None = None
        self._pending: deque[_Claim] = deque()
        self._releases: deque[Claimed] = deque(maxlen=10_000)
        self._look_asked: asyncio.Future[None] | None = None
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")
        self.problem = "not reached yet"
        """Why the store cannot be used now; empty where it can."""
        self.losses = 0
        """Counts up whenever what the store was told before may be forgotten."""

    async def start(self) -> None:
        """Tries once, then goes on trying: a store that is away is a matter of readiness."""
        await self._turn()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Refuses whoever waits."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._refuse_all("the sidecar stops")
        self._drop()

    # -- the secret of the nonces ------------------------------------------------------------------------------------
    @property
    def generation(self) -> Generation | None:
        """The nonces' secret; None while it is not known."""
        return self._generation

    def server_time(self, elapsed: float) -> float:
        """The server's clock, in seconds since the epoch, as far as it is known: the replicas' own may differ."""
        return elapsed + (self._ahead or 0.0)

    async def look(self) -> None:
        """Learns the nonces' secret as it is now, before a caller is told that his nonce is another. All who ask at
        once look once; where the store does not say, nothing changes."""
        if self.problem:
            return
        if self._look_asked is None:
            self._look_asked = asyncio.get_running_loop().create_future()
            self._work.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await asyncio.shield(self._look_asked)

    # -- claims ------------------------------------------------------------------------------------------------------
    async def claim(self, kind: str, key: str, ttl: float) -> Claimed | None:
        """The mark where nobody has claimed it within the last `ttl` seconds (of the server's clock), else None.

        Whoever is cancelled meanwhile may have claimed it: the mark stays, and nobody else gets it.

        Raises:
            Refused: UPSTREAM_UNAVAILABLE where the store does not say.
        """
        if self.problem:
            raise self.unavailable()
        digest = sha256(f"{kind}\0{key}".encode()).hexdigest()
        claim = _Claim(
            f"{self._prefix}{kind}:{digest}".encode(),
            secrets.token_hex(ID_CHARS // 2).encode(),
            max(1, int(ttl * 1000)),
            asyncio.get_running_loop().create_future(),
        )
        self._pending.append(claim)
        self._work.set()
        try:
            async with asyncio.timeout(self._timeout):
                won = await claim.won
        except TimeoutError:
            self._looked_at = float("-inf")
            self._work.set()
            raise self.unavailable("no answer in time") from None
        finally:
            claim.won.cancel()
        if isinstance(won, str):
            raise self.unavailable(won)
        return Claimed(claim.mark, claim.id) if won else None

    def release(self, claimed: Claimed) -> None:
        """Gives a mark back, some time soon. Where that fails it stays until its time is over."""
        self._releases.append(claimed)
        self._work.set()

    def unavailable(self, why: str = "") -> Refused:
        """What is raised where the store does not say."""
        metrics.REPLAY_STORE_ERRORS.inc()
        return Refused(
            Code.UPSTREAM_UNAVAILABLE,
            "the replay store is not available; try again later",
            headers={"Retry-After": "1"},
            detail=f"the replay store: {why or self.problem}",
        )

    # -- the one who speaks with the server --------------------------------------------------------------------------
    async def _run(self) -> None:
        while True:
            wait = AGAIN_SECONDS if self.problem else LOOK_SECONDS
            try:
                async with asyncio.timeout(wait):
                    await self._work.wait()
            except TimeoutError:
                self._looked_at = float("-inf")
            self._work.clear()
            await self._turn()

    async def _turn(self) -> None:
        """All that waits, and a look at the server where one is due. Never raises."""
        while True:
            batch = self._taken()
            asked, self._look_asked = self._look_asked, None
            problem = ""
            for _attempt in (1, 2):  # the second on a new connection: an idle one may have ended unseen
                fresh = self._connection is None
                try:
                    async with asyncio.timeout(self._timeout):
                        await self._ask(batch)
                except (*FAILURES, Unfit) as error:
                    problem = _said(error)
                    self._drop()
                    if fresh or isinstance(error, TimeoutError):
                        break
                except Exception as error:  # noqa: BLE001 - whatever a server can make us stumble over refuses
                    _log.exception("internal fault with the replay store")
                    problem = type(error).__name__
                    self._drop()
                    break
                else:
                    problem = ""
                    break
            if problem:
                for claim in batch:
                    _settle(claim, problem)
                self._refuse_all(problem)
            self._tell(problem)
            if asked is not None:
                asked.set_result(None)
            if not self._pending and self._look_asked is None:
                return

    def _taken(self) -> list[_Claim]:
        batch: list[_Claim] = []
        while self._pending and len(batch) < BATCH:
            claim = self._pending.popleft()
            if not claim.won.done():
                batch.append(claim)
        return batch

    async def _ask(self, batch: list[_Claim]) -> None:
        """One batch there and back. Raises one of `FAILURES`, `Unfit`."""
        connection = self._connection
        if connection is None:
            connection = self._connection = await Connection.open(self._config)
            self._looked_at = float("-inf")
        now = self._clock.elapsed()
        if now - self._looked_at >= LOOK_SECONDS:
            await self._look(connection)
            self._looked_at = now
        commands = [encode("SET", c.mark, c.id, "NX", "GET", "PX", c.ttl_ms) for c in batch]
        releases = [self._releases.popleft() for _ in range(min(len(self._releases), BATCH))]
        commands += [encode("EVAL", _RELEASE, 1, claimed.mark, claimed.id) for claimed in releases]
        replies = await connection.exchange([*commands, encode("GET", self._name), encode("TIME")])
        await self._check_memory(connection, *replies[-2:])
        for claim, reply in zip(batch, replies, strict=False):
            _settle(claim, _outcome(claim, reply))

    async def _look(self, connection: Connection) -> None:
        """Whether the server is what it must be, takes writes, and is the same as before."""
        info, probe = await connection.exchange(
            [encode("INFO"), encode("SET", f"{self._prefix}probe", 1, "PX", 10_000)]
        )
        if not isinstance(info, bytes):
            raise info if isinstance(info, ServerError) else ProtocolError("no answer to INFO")
        name = f"{self._prefix}nonces:{identity_of(info)}".encode()
        if probe != b"OK":
            raise probe if isinstance(probe, ServerError) else ProtocolError("no answer to SET")
        if name != self._name:
            self._name = name
            self._adopt(None)
        stored, _, time = await connection.exchange(
            [encode("GET", name), encode("EXPIRE", name, KEPT_SECONDS), encode("TIME")]
        )
        await self._check_memory(connection, stored, time)

    async def _check_memory(self, connection: Connection, stored: Reply, time: Reply) -> None:
        """Whether the nonces' secret is the one that is known, and the server's clock went on as ours did."""
        server_time = time_of(time)
        ahead, before = server_time - self._clock.elapsed(), self._ahead
        self._ahead = ahead
        if before is not None and abs(ahead - before) > CLOCK_STEP_SECONDS:
            # Marks have ended early, or nonces of long ago would be taken again.
            _log.warning("replay_store_clock_was_set", seconds=round(ahead - before, 3))
            self.losses += 1
            if isinstance(stored, bytes) and self._generation == Generation.read(stored):
                self._adopt(None)
                new = Generation.new(server_time)
                stored, set_ = await connection.exchange(
                    [encode("GET", self._name), encode("SET", self._name, new.stored(), "EX", KEPT_SECONDS)]
                )
                if set_ != b"OK":
                    raise set_ if isinstance(set_, ServerError) else ProtocolError("no answer to SET")
                stored = new.stored()
        if stored is None:
            self._adopt(None)
            new = Generation.new(server_time)
            (stored,) = await connection.exchange(
                [encode("SET", self._name, new.stored(), "NX", "GET", "EX", KEPT_SECONDS)]
            )
            stored = new.stored() if stored is None else stored
        if not isinstance(stored, bytes):
            raise stored if isinstance(stored, ServerError) else ProtocolError("no answer to GET")
        self._adopt(Generation.read(stored))

    def _adopt(self, generation: Generation | None) -> None:
        if generation != self._generation:
            self._generation = generation
            self.losses += 1

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _refuse_all(self, problem: str) -> None:
        while self._pending:
            _settle(self._pending.popleft(), problem)

    def _tell(self, problem: str) -> None:
        if problem and not self.problem:
            _log.warning("replay_store_unavailable", reason=problem)
        elif self.problem and not problem:
            _log.info("replay_store_available")
        self.problem = problem


def _settle(claim: _Claim, won: bool | str) -> None:
    if not claim.won.done():
        claim.won.set_result(won)


def _outcome(claim: _Claim, reply: Reply) -> bool | str:
    if reply is None or reply == claim.id:
        return True
    if isinstance(reply, bytes):
        return False if len(reply) == ID_CHARS else "something else is stored under the name of a mark"
    if isinstance(reply, ServerError):
        return _said(reply)
    raise ProtocolError("no answer to a claim")


def _said(error: BaseException) -> str:
    if isinstance(error, ServerError) and error.kind == "OOM":
        return "it is full"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
