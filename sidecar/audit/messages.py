"""What goes to Kafka: the spool's records in their order, each with its time, its headers and its topics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from sidecar.audit.journal import MAX_RECORD_BYTES, Journal
from sidecar.audit.reader import READ_BYTES, Line, SpoolReader
from sidecar.audit.record import tells_of_mutation

SCHEMA: Final = b"openbao-sidecar.audit.v1"
CHUNK_BYTES: Final = 512 * 1024
"""Records are taken so many bytes at a time; a broker takes no batch over 1 MiB by default."""

_LARGEST: Final = MAX_RECORD_BYTES + 1024  # with its stamp and signature; a larger one is none of ours
_SLICE: Final = 64  # records; requests have their turn in between
_SCHEMA_HEADER: Final = ("schema", SCHEMA)
_SCHEMA_ONLY: Final = [_SCHEMA_HEADER]

_log = structlog.get_logger("audit.kafka")


class _Members(msgspec.Struct, gc=False):
    """What decides a record's way. The others are checked to be JSON, and not built: that would be half of the cost."""

    seq: int
    ts: str
    event: str
    phase: str | None = None
    purpose: str | None = None
    operation: str | None = None
    resource_ref: str | None = None
    notifications: Any = None


_decode: Final = msgspec.json.Decoder(_Members).decode


def _members(record: bytes) -> _Members:
    """Raises ValueError (every error of msgspec is one), RecursionError."""
    if len(record) > _LARGEST:
        raise ValueError("larger than any record of ours")
    # What msgspec skips it does not look at closely: whether it is UTF-8, say.
    return _decode(record if record.isascii() else record.decode())


class Message(msgspec.Struct, frozen=True, gc=False):
    """One record for Kafka. `millis` since the epoch; `value` the record's exact bytes."""

    seq: int
    millis: int
    value: bytes
    headers: list[tuple[str, bytes]]


@dataclass(slots=True)
class Outgoing:
    """What goes to one topic, and how much of it is acknowledged: a retry sends only the rest."""

    topic: str
    messages: list[Message] = field(default_factory=list)
    sent: int = 0


class Chunk:
    """Records read and not yet acknowledged by all their topics: the audit's, that of mutations, that of
    notifications."""

    __slots__ = ("audit", "mutations", "notifications", "size")

    def __init__(self, prefix: str) -> None:
        self.audit = Outgoing(f"{prefix}.secrets.audit")
        self.mutations = Outgoing(f"{prefix}.secrets")
        self.notifications = Outgoing(f"{prefix}.secrets.notifications")
        self.size = 0
        """Bytes of the records."""

    @property
    def outgoing(self) -> Iterable[Outgoing]:
        """Per topic, those for which there is anything."""
        return [each for each in (self.audit, self.mutations, self.notifications) if each.messages]

    @property
    def last(self) -> Message:
        """The newest."""
        return self.audit.messages[-1]

    @property
    def oldest_at(self) -> float:
        """When the oldest was written, in seconds since the epoch."""
        return self.audit.messages[0].millis / 1000


class Messages:
    """Follows the spool. `missing` says what it could not read; `damaged`, that it is kept as evidence."""

    def __init__(self, journal: Journal, prefix: str) -> None:
        self._journal = journal
        self._prefix = prefix
        self._reader = SpoolReader(journal.directory)
        self._lines: Iterator[Line] = iter(())
        self._read_seq = 0
        self._begun = False
        self._faulty: Path | None = None
        self._second = ""
        self._second_millis = 0
        self.missing = ""
        self.damaged = False

    def begin_after(self, seq: int) -> None:
        """The next record is the one behind this."""
        self.close()
        self._reader = SpoolReader(self._journal.directory, seq)
        self._lines = iter(())
        self._read_seq, self._begun = seq, False

    def close(self) -> None:
        """Closes the spool's file."""
        self._reader.close()

    async def next_chunk(self) -> Chunk | None:
        """The next records, of about `CHUNK_BYTES`; None where there are none."""
        chunk = Chunk(self._prefix)
        while chunk.size < CHUNK_BYTES:
            lines = list(islice(self._lines, _SLICE))
            if lines:
                self._take(lines, chunk)
                await asyncio.sleep(0)
            elif self._read_seq >= self._journal.durable.seq:
                break
            else:
                read = await asyncio.to_thread(self._read_lines)
                if not read:
                    break
                self._lines = iter(read)
        return chunk if chunk.audit.messages else None

    def _read_lines(self) -> list[Line]:
        """What is there to fill a chunk: handing over to a thread and back costs more than reading does."""
        lines: list[Line] = []
        for _ in range(CHUNK_BYTES // READ_BYTES):
            more = self._reader.read(self._journal.extent)
            lines += more
            if not more:
                break
        return lines

    def _take(self, lines: Iterable[Line], chunk: Chunk) -> None:
        """Adds these to the chunk. One already sent is left out, and a damaged one, which is said
        and whose gap the chain shows: waiting for it would only lose the records behind it too.

        A wrong seq withholds no other record: none is believed that was not given yet, and one that falls back behind
        another is sent as it stands.
        """
        newest = self._journal.durable.seq
        audit, mutations, notifications = (
            each.messages for each in (chunk.audit, chunk.mutations, chunk.notifications)
        )
        for line in lines:
            record = line.record
            try:
                members = _members(record)
                seq, ts, ref = members.seq, members.ts, members.resource_ref
                millis = int(ts[20:23]) + (self._second_millis if ts[:19] == self._second else self._begin_second(ts))
                ours = 0 < seq <= newest
            except (ValueError, RecursionError):
                ours = False
            if not ours:
                if line.path != self._faulty:  # whose other lines `audit verify` tells: there may be millions
                    self._faulty = line.path
                    self._say_missing(f"{line.path.name} line {line.number} cannot be read")
                continue
            if seq <= self._read_seq and not self._begun:
                continue
            if seq <= self._read_seq:
                self._say_missing(f"record {seq} stands behind record {self._read_seq}")
            elif seq != self._read_seq + 1:
                self._say_missing(f"records {self._read_seq + 1} to {seq - 1} are not in the spool")
            self._read_seq, self._begun = seq, True
            headers = [_SCHEMA_HEADER, ("resource_ref", ref.encode())] if ref else _SCHEMA_ONLY
            message = Message(seq, millis, record, headers)
            audit.append(message)
            if tells_of_mutation(members.event, members.phase, members.purpose, members.operation):
                mutations.append(message)
            if members.notifications:
                notifications.append(message)
            chunk.size += len(record)

    def _begin_second(self, ts: str) -> int:
        """Milliseconds since the epoch of a time's second, which is remembered: neighbours share it."""
        self._second_millis = int(datetime.fromisoformat(f"{ts[:19]}Z").timestamp()) * 1000
        self._second = ts[:19]
        return self._second_millis

    def _say_missing(self, what: str) -> None:
        self.damaged = True
        _log.error("records are missing for kafka; run `audit verify`", what=what)
        self.missing = f"{what}; run `sidecar audit verify`"
