"""Traces: W3C Trace Context in and out, and spans to an OpenTelemetry collector where one is configured.

A span carries names and codes (operation, purpose, status), never a path, a subject, a token or a value: what belongs
to one caller is found in the audit by the trace's id, which its records hold. Without a collector nothing of
OpenTelemetry is imported, no span is made, and a caller's context is handed on as it came; one that is none is
replaced.
"""

from __future__ import annotations

import random
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Final

_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 1


@dataclass(frozen=True, slots=True)
class TraceParent:
    """One position in a trace: lower-case hex ids of 16 and 8 bytes."""

    trace_id: str
    span_id: str
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-0{int(self.sampled)}"


def parse(text: str) -> TraceParent | None:
    """A `traceparent` header (W3C Trace Context, section 3.2); None where it is malformed, which begins a new trace.

    Of a version after 00 the first four fields are read, as the standard wants; ff is no version.
    """
    found = _TRACEPARENT.fullmatch(text)
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    return TraceParent(found[2], found[3], bool(int(found[4], 16) & _SAMPLED))


class Kind(Enum):
    """Which side of a call a span is."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


Attribute = str | int | bool


@dataclass(slots=True)
class Span:
    """A piece of work under way, ended by `with`. `at` is its own position, to be handed on; `parent` whose part it is.
    Times are nanoseconds since the epoch."""

    name: str
    kind: Kind
    at: TraceParent
    parent: TraceParent | None
    started: int = field(default_factory=time.time_ns)
    ended: int = 0
    failed: bool = False
    attributes: dict[str, Attribute] = field(default_factory=dict)

    def starts_with(self, other: Span | Untraced) -> None:
        """The work began when the other did."""
        if isinstance(other, Span):
            self.started = other.started

    def note(self, **attributes: Attribute | None) -> None:
        """Adds what is known of the work; None is left out."""
        self.attributes |= {f"sidecar.{name}": value for name, value in attributes.items() if value is not None}

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.failed = self.failed or kind is not None
        self.ended = time.time_ns()
        if _export is not None:
            _export(self)


class Untraced:
    """In a span's place where there is none. `at` is the caller's own position, if it gave one, or what stands in the
    place of one that was none: it is handed on."""

    __slots__ = ("at", "failed")

    def __init__(self, at: TraceParent | None) -> None:
        self.at = at
        self.failed = False

    def starts_with(self, other: Span | Untraced) -> None:
        """Nothing is kept."""

    def note(self, **attributes: Attribute | None) -> None:
        """Nothing is kept."""

    def __enter__(self) -> Untraced:
        return self

    def __exit__(self, *_exc: object) -> None:
        return None


_export: Callable[[Span], None] | None = None
_ratio: float = 0.0
_random: Final = random.SystemRandom()


def begin(name: str, parent: TraceParent | None, *, anew: bool = False) -> Span | Untraced:
    """The span of a whole request: the caller's trace goes on, else one begins. Whether it is kept is the caller's
    word (its `sampled` flag), and where it gave none, chance. `anew`: what the caller gave is no position in a trace,
    so that one of ours goes on in its place (W3C Trace Context, section 3.2), kept or not."""
    if parent is None:
        if _export is not None and _random.random() < _ratio:
            return Span(name, Kind.SERVER, _somewhere(sampled=True), None)
        return Untraced(_somewhere(sampled=False) if anew else None)
    if _export is None or not parent.sampled:
        return Untraced(parent)
    return Span(name, Kind.SERVER, _below(parent), parent)


def span(name: str, parent: TraceParent | None, kind: Kind = Kind.INTERNAL) -> Span | Untraced:
    """A part of a request's work; nothing where the request is not traced."""
    if _export is None or parent is None or not parent.sampled:
        return Untraced(parent)
    return Span(name, kind, _below(parent), parent)


def _somewhere(*, sampled: bool) -> TraceParent:
    return TraceParent(secrets.token_hex(16), secrets.token_hex(8), sampled)


def _below(parent: TraceParent) -> TraceParent:
    return TraceParent(parent.trace_id, secrets.token_hex(8), parent.sampled)


def install(export: Callable[[Span], None] | None, ratio: float = 1.0) -> None:
    """Makes spans and gives the ended ones to `export`, which must not block; None ends it.

    `ratio` is the share, 0 to 1, of the requests without a caller's trace that begin one. One process has one
    collector, as it has one registry of metrics and one log.
    """
    global _export, _ratio
    _export, _ratio = export, ratio
