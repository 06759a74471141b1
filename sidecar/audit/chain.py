"""The chain: each record carries the hash of its instance's record before it. Pure: bytes in, findings out.

`seq` counts an instance's records from 1; `prev` is the lower-case hex SHA-256 of the exact bytes of the record with
the `seq` before, 64 zeros for the first. `instance` belongs to the spool, so the chain goes on over restarts.

What the chain alone cannot show: that the last records of a chain were cut off or rewritten as a whole. Signed
checkpoints show the rewriting. For the cut the end of the chain (`Chain.seq`, `Chain.tip`) must be compared with a copy
elsewhere, such as the Kafka topic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import orjson

from sidecar.audit.record import Event

GENESIS: Final = "0" * 64
"""`prev` of an instance's first record."""

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_INSTANCE: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HASH_BYTES: Final = 32


def link(record: bytes) -> str:
    """What the record after this one carries as `prev`."""
    return sha256(record).hexdigest()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record was read: a file's name and its line, from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Break:
    """The first thing that cannot be in an untouched chain. `instance` and `seq` are empty and 0 where unreadable."""

    place: Place
    instance: str
    seq: int
    reason: str

    def __str__(self) -> str:
        whose = f" instance {self.instance} seq {self.seq}" if self.instance else ""
        return f"{self.place}:{whose}: {self.reason}"


@dataclass(slots=True)
class Chain:
    """What was seen of one instance's chain. `crashes` are the last `seq` of runs that have no AUDIT_STOP.

    `signed_seq` is the last signed record, `promised` how many may follow it unsigned, `unsigned` how many do."""

    instance: str
    first: int
    first_place: Place
    first_prev: str
    seq: int = 0
    tip: str = ""
    records: int = 0
    runs: int = 0
    repeats: int = 0
    running: bool = False
    signed_seq: int = 0
    signed_ts: str = ""
    promised: int = 0
    unsigned: int = 0
    checkpoints: int = 0
    crashes: list[int] = field(default_factory=list)
    head_covered: bool = False
    hashes: bytearray = field(default_factory=bytearray)

    def hash_at(self, seq: int) -> str:
        """The hash of a record already seen."""
        start = (seq - self.first) * _HASH_BYTES
        return self.hashes[start : start + _HASH_BYTES].hex()


class Verifier:
    """Checks records of any number of instances, mixed, each instance's in its own order.

    `allow_repeats`: a byte-identical record seen again is counted, not a break; Kafka delivers at least once.
    `allow_later_start`: a chain may begin in the middle; a topic's retention may have dropped its head.
    `signed`: says what is wrong with a signed record, or nothing; every chain must then be signed to its end.
    """

    def __init__(
        self,
        *,
        allow_repeats: bool = False,
        allow_later_start: bool = False,
        signed: Callable[[Mapping[str, Any]], str] | None = None,
    ) -> None:
        self._signed = signed
        self._allow_repeats = allow_repeats
        self._allow_later_start = allow_later_start
        self.chains: dict[str, Chain] = {}

    def feed(self, record: bytes, place: Place) -> Break | None:
        """Takes the next record; says what is wrong with it. After a break nothing more is to be fed."""
        parsed = _parse(record)
        if isinstance(parsed, str):
            return Break(place, "", 0, parsed)
        instance, seq, prev = parsed["instance"], parsed["seq"], parsed["prev"]
        chain = self.chains.get(instance)
        if chain is None:
            if seq == 1 and prev != GENESIS:
                return Break(place, instance, seq, "the first record's prev is not 64 zeros")
            chain = self.chains[instance] = Chain(instance, seq, place, prev, seq - 1, prev, head_covered=seq == 1)
        if seq <= chain.seq:
            if seq >= chain.first and chain.hash_at(seq) == link(record):
                chain.repeats += 1
                return None if self._allow_repeats else Break(place, instance, seq, "this record stands here twice")
            return Break(place, instance, seq, f"another record than the one seen with this seq, after seq {chain.seq}")
        if seq > chain.seq + 1:
            missing = f"record {seq - 1} is" if seq == chain.seq + 2 else f"records {chain.seq + 1} to {seq - 1} are"
            return Break(place, instance, seq, f"{missing} missing")
        if prev != chain.tip:
            return Break(
                place, instance, seq, f"prev is not the hash of record {chain.seq}: one of the two was changed"
            )
        reason = _take(chain, parsed, record) or self._check_signature(chain, parsed)
        return Break(place, instance, seq, reason) if reason else None

    def finish(self) -> Break | None:
        """What only the end can tell: a chain never signed, a head missing without an AUDIT_TRUNCATED covering it."""
        if self._signed is not None:
            for chain in self.chains.values():
                if not chain.promised:
                    return Break(chain.first_place, chain.instance, chain.seq, "nothing in this chain is signed")
        if self._allow_later_start:
            return None
        for chain in self.chains.values():
            if not chain.head_covered:
                missing = "record 1 is" if chain.first == 2 else f"records 1 to {chain.first - 1} are"
                reason = f"{missing} missing and no AUDIT_TRUNCATED covers them"
                return Break(chain.first_place, chain.instance, chain.first, reason)
        return None

    def _check_signature(self, chain: Chain, parsed: Mapping[str, Any]) -> str:
        event = parsed.get("event")
        if event == Event.AUDIT_CHECKPOINT or (event == Event.AUDIT_STOP and "signature" in parsed):
            chain.checkpoints += 1
            if self._signed is not None:
                if fault := self._signed(parsed):
                    return fault
                chain.signed_seq, chain.signed_ts = chain.seq, parsed["ts"]
                chain.promised, chain.unsigned = parsed["every_records"], 0
        elif event != Event.AUDIT_START:
            chain.unsigned += 1
            if chain.promised and chain.unsigned > chain.promised:
                return f"{chain.unsigned} records follow the checkpoint at seq {chain.signed_seq} without another one"
        return ""


def verify(records: Iterable[tuple[bytes, Place]]) -> Break | None:
    """The first break in these records; None where there is none."""
    verifier = Verifier()
    for record, place in records:
        found = verifier.feed(record, place)
        if found is not None:
            return found
    return verifier.finish()


def _parse(record: bytes) -> dict[str, Any] | str:
    """The record's members, or why it is not one."""
    try:
        parsed = orjson.loads(record)
    except orjson.JSONDecodeError:
        return "not a JSON object"
    if not isinstance(parsed, dict):
        return "not a JSON object"
    instance, seq, prev = parsed.get("instance"), parsed.get("seq"), parsed.get("prev")
    if not isinstance(instance, str) or not _INSTANCE.fullmatch(instance):
        return "instance is missing or not an identifier"
    if type(seq) is not int or seq < 1:
        return "seq is missing or not a positive integer"
    if not isinstance(prev, str) or not _HASH.fullmatch(prev):
        return "prev is missing or not a SHA-256"
    return parsed


def _take(chain: Chain, parsed: dict[str, Any], record: bytes) -> str:
    """Notes a record that fits its chain; why its event does not fit the runs, else an empty text."""
    event = parsed.get("event")
    if event == Event.AUDIT_START:
        if chain.running:
            chain.crashes.append(chain.seq)
        chain.running = True
        chain.runs += 1
    elif not chain.running and (chain.records or chain.first == 1):
        return "a record outside a run: after AUDIT_STOP comes AUDIT_START"
    elif event == Event.AUDIT_STOP:
        chain.running = False
    else:
        chain.running = True
    if event == Event.AUDIT_TRUNCATED and not chain.head_covered:
        through, through_hash = parsed.get("through_seq"), parsed.get("through_hash")
        if type(through) is int and (
            through >= chain.first or (through == chain.first - 1 and through_hash == chain.first_prev)
        ):
            chain.head_covered = True
    digest = sha256(record)
    chain.seq += 1
    chain.tip = digest.hexdigest()
    chain.hashes += digest.digest()
    chain.records += 1
    return ""
