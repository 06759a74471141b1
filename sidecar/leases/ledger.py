"""The ledger: a small SQLite file beside the journal that says who holds what, for as long as it lasts.

It tells nothing to who reads it: leases, certificates and holders stand in it as HMACs under the tenant's salt, and
what issued them is sealed (AES-256-GCM under a key made from the salt), each row bound to all of its parts, so that a
row that somebody else wrote, moved or changed is nobody's. A row stands durably before its lease is released. Rows are
written under the current salt and found under those before it too, so that its rotation takes nobody's leases.

All calls block; they belong on one thread. `sqlite3.Error` and `OSError` say that the disk refuses.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import sqlite3
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import structlog

from sidecar.leases.names import Holder, Names

NAME: Final = "leases.db"
GRACE_SECONDS: Final = 300.0
"""A row stays this much longer than its lease: OpenBao's clock and ours need not agree to the second."""

_SUFFIXES: Final = ("", "-wal", "-shm", "-journal")
_SCHEMA: Final = """
CREATE TABLE held (
  ref BLOB PRIMARY KEY,
  holder BLOB NOT NULL,
  sealed BLOB NOT NULL,
  token BLOB NOT NULL,
  expires REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX held_by_expiry ON held (expires);
CREATE INDEX held_by_holder ON held (holder);
PRAGMA user_version = 1;
"""

_log = structlog.get_logger("leases")


@dataclass(frozen=True, slots=True)
class Held:
    """A row as its holder may see it. `uri` is the canonical URI of what issued it, `token` the accessor of the token
    that it was made under (empty where its end does not matter), `expires` seconds since the epoch."""

    uri: str
    token: str
    expires: float


class Ledger:
    """One tenant's ledger. `damaged` says what was found at start and moved away; empty where all was well."""

    def __init__(self, directory: Path, salts: Sequence[bytes], max_entries: int) -> None:
        """`salts`: the current one first."""
        self._path = directory / NAME
        self._max_entries = max_entries
        self.use(salts)
        self._db: sqlite3.Connection | None = None
        self.damaged = ""

    # -- its life --------------------------------------------------------------------------------------------------
    def open(self, now: float) -> None:
        """Opens it, or begins a new one where there is none. One that cannot be read is moved away and kept: what it
        held is nobody's from then on. Raises `OSError`, `sqlite3.Error`."""
        fresh = self._make()
        try:
            self._db = self._connected(fresh)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # locked, read-only, no space: nothing says that it is damaged
            self._move_away(now, str(error))
            self._make()
            self._db = self._connected(True)
        self.drop_ended(now)

    def close(self) -> None:
        """Closes it."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _make(self) -> bool:
        """Makes the file, for its owner only, where it is not there. Whether it was made."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            fresh = True
        except FileExistsError:
            descriptor = os.open(self._path, flags)
            fresh = False
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
                raise OSError(f"{self._path} is not a plain file of its own; remove it")
            if stat.S_IMODE(state.st_mode) != 0o600:
                os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
        return fresh

    def _connected(self, fresh: bool) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, timeout=1.0, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            if fresh:
                db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            if db.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("quick_check found it damaged")
            if db.execute("PRAGMA user_version").fetchone() != (1,):
                raise sqlite3.DatabaseError("it holds no ledger of this version")
        except BaseException:
            db.close()
            raise
        if fresh:
            _sync(self._path.parent)
        return db

    def _move_away(self, now: float, why: str) -> None:
        to = f"{NAME}.damaged-{int(now)}"
        for suffix in _SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(NAME + suffix).rename(self._path.with_name(to + suffix))
        self.damaged = f"the ledger of leases was damaged and stands aside as {to}; what it held cannot be renewed"
        _log.error("the ledger of leases is damaged", reason=why, moved_to=to)

    def use(self, salts: Sequence[bytes]) -> None:
        """Other salts from now on, the current one first."""
        self._names, *self._earlier = map(Names, salts)

    # -- rows -------------------------------------------------------------------------------------------------------
    def has_room(self, holder: Holder, now: float) -> bool:
        """Whether one more fits. No single holder gets more than half, so that nobody fills it for all others."""
        self.drop_ended(now)
        (all_rows,) = self._row("SELECT count(*) FROM held")
        own = 0
        for names in (self._names, *self._earlier):
            (found,) = self._row("SELECT count(*) FROM held WHERE holder = ?", names.holder(holder))
            own += cast("int", found)
        return cast("int", all_rows) < self._max_entries and own < max(self._max_entries // 2, 1)

    def add(self, held: str, holder: Holder, entry: Held) -> None:
        """Writes a row, in the place of the one that there was; returns when it is durable."""
        names, db = self._names, self._open_db()
        ref, own = names.held(held), names.holder(holder)
        token = names.hide(entry.token)
        sealed = names.seal(entry.uri, ref + own + token)
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?)", (ref, own, sealed, token, entry.expires))
            for earlier in self._earlier:
                db.execute("DELETE FROM held WHERE ref = ?", (earlier.held(held),))
            db.execute("COMMIT")
        except sqlite3.Error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def find(self, held: str, holder: Holder, now: float) -> Held | None:
        """What this holder holds by that name; None where it was never there, has ended, or is somebody else's."""
        for names in (self._names, *self._earlier):
            ref, own = names.held(held), names.holder(holder)
            row = (
                self._open_db()
                .execute("SELECT holder, sealed, token, expires FROM held WHERE ref = ?", (ref,))
                .fetchone()
            )
            if row is None:
                continue
            found, sealed, hidden, expires = row
            if not hmac.compare_digest(found, own) or expires + GRACE_SECONDS <= now:
                return None
            token = names.shown(hidden)
            uri = None if token is None else names.unseal(sealed, ref + own + hidden)
            if token is None or uri is None:
                _log.error("a row of the ledger of leases was changed by somebody else; it is nobody's")
                return None
            return Held(uri, token, expires)
        return None

    def tokens(self, now: float) -> dict[str, float]:
        """The accessors of tokens that something still lives under, and when the last of it ends."""
        rows = self._open_db().execute(
            "SELECT token, max(expires) FROM held WHERE length(token) > 0 AND expires > ? GROUP BY token", (now,)
        )
        found: dict[str, float] = {}
        for hidden, expires in rows.fetchall():
            for names in (self._names, *self._earlier):
                accessor = names.shown(hidden)
                if accessor is not None:
                    found[accessor] = max(expires, found.get(accessor, 0.0))
                    break
        return found

    def drop_ended(self, now: float) -> None:
        """Removes what has ended."""
        self._open_db().execute("DELETE FROM held WHERE expires <= ?", (now - GRACE_SECONDS,))

    def __len__(self) -> int:
        (count,) = self._row("SELECT count(*) FROM held")
        return cast("int", count)

    def _row(self, query: str, *values: object) -> tuple[object, ...]:
        return cast("tuple[object, ...]", self._open_db().execute(query, values).fetchone())

    def _open_db(self) -> sqlite3.Connection:
        if self._db is None:
            raise sqlite3.ProgrammingError("the ledger is not open")
        return self._db


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
