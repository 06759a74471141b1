"""What `sidecar audit …` does, as plain functions that write to a stream and return the exit code."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Protocol, TextIO

import orjson

from sidecar.audit.chain import Break, Chain, Place, Verifier
from sidecar.audit.checkpoint import CheckpointKeyError, PublicKeys
from sidecar.audit.reader import FileReader, Line, SpoolReader, read_all, readers
from sidecar.audit.record import ResourceRefs
from sidecar.surface.secret_uri import SecretUri

_FOLLOW_SECONDS: Final = 0.2
# C1 controls, DEL, line and paragraph separators, bidirectional overrides: JSON lets them stand as they are, and they
# would drive the terminal of whoever reads the record. As escapes they are the same JSON. C0 controls stand in no
# record, but may in a file that somebody made.
_UNSAFE_ON_TERMINAL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Read(Protocol):
    """What was read of a file or a topic: a record's exact bytes, or what is wrong at this place."""

    @property
    def place(self) -> str: ...
    @property
    def record(self) -> bytes: ...
    @property
    def fault(self) -> str: ...


class UnprintableError(Exception):
    """What was read cannot be printed: not to be taken for what it is read from, nor to be tried again. What is lost in
    between would be a gap."""

    def __init__(self, cause: OSError) -> None:
        self.cause = cause


def verify(
    paths: Sequence[Path],
    out: TextIO,
    *,
    allow_repeats: bool = False,
    allow_later_start: bool = False,
    checkpoint_keys: Sequence[Path] = (),
) -> int:
    """Checks the chains in these spools and files; prints the first break, or what each chain holds. Exit 0 or 1.

    With `checkpoint_keys` (public, PEM) every chain must be signed by them as often as it promises, to its end.
    """
    try:
        signed = PublicKeys(checkpoint_keys).fault if checkpoint_keys else None
    except CheckpointKeyError as error:
        out.write(f"{error}\n")
        return 1
    except OSError as error:
        return _unreadable(error, out)
    verifier = Verifier(allow_repeats=allow_repeats, allow_later_start=allow_later_start, signed=signed)
    try:
        found = _first_break(verifier, paths)
    except OSError as error:
        return _unreadable(error, out)
    if found is not None:
        out.write(f"BROKEN {found}\n")
    for chain in verifier.chains.values():
        _print_chain(chain, out, checked=signed is not None)
    if found is not None:
        return 1
    if not verifier.chains:
        out.write("BROKEN no record found\n")
        return 1
    total = sum(chain.records for chain in verifier.chains.values())
    out.write(f"OK {total} records, {len(verifier.chains)} instance{'s' if len(verifier.chains) > 1 else ''}\n")
    return 0


def cat(
    paths: Sequence[Path],
    out: TextIO,
    *,
    follow: bool = False,
    errors: TextIO | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Prints the records as JSON lines, oldest first; with `follow` goes on as they are written, until `stopped`.

    The exact bytes, except on a terminal, where control characters that JSON lets stand are escaped. Exit 1 where a
    line could not be read or printed.
    """
    faulty = False
    errors = errors or sys.stderr
    try:
        for line in _follow(readers(paths), stopped) if follow else read_all(paths):
            faulty = print_read(line, out, errors) or faulty
        print_read(None, out, errors)
    except UnprintableError as error:
        return unprinted(error, out, errors)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        return _unreadable(error, errors)
    return 1 if faulty else 0


def ref(uri: SecretUri, refs: ResourceRefs, out: TextIO) -> int:
    """Prints how the audit names a secret, so that it can be looked up there; under earlier salts too."""
    current, *previous = map(dataclasses.asdict, refs.all_of(uri))
    shown = {"uri": str(uri), **current, "previous": previous}
    out.write(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode() + "\n")
    return 0


def _first_break(verifier: Verifier, paths: Sequence[Path]) -> Break | None:
    for line in read_all(paths):
        place = Place(str(line.path), line.number)
        found = Break(place, "", 0, line.fault) if line.fault else verifier.feed(line.record, place)
        if found is not None:
            return found
    return verifier.finish()


def _print_chain(chain: Chain, out: TextIO, *, checked: bool) -> None:
    last = f"record {chain.first}" if chain.first == chain.seq else f"records {chain.first} to {chain.seq}"
    out.write(f"instance {chain.instance}: {last}, {chain.runs} run{'' if chain.runs == 1 else 's'}, tip {chain.tip}\n")
    if chain.first > 1:
        out.write(f"  begins at seq {chain.first}: what came before was dropped\n")
    if chain.signed_seq:
        out.write(f"  signed through seq {chain.signed_seq} ({chain.signed_ts}); {chain.unsigned} records follow it\n")
    elif chain.checkpoints and not checked:
        out.write(f"  {chain.checkpoints} signed checkpoints, not checked: give --checkpoint-key\n")
    if chain.repeats:
        out.write(f"  {chain.repeats} records stand more than once, byte for byte\n")
    out.writelines(f"  run ended without AUDIT_STOP after seq {seq}: a crash\n" for seq in chain.crashes)
    if chain.running:
        out.write(f"  last run has no AUDIT_STOP: still running, or crashed after seq {chain.seq}\n")


def print_read(read: Read | None, out: TextIO, errors: TextIO) -> bool:
    """Prints a record, or tells what is wrong at its place; returns whether anything is. With nothing read, what was
    printed is sent on its way. Raises `UnprintableError`."""
    if read is not None and read.fault:
        errors.write(f"{read.place}: {read.fault}\n")
        return True
    try:
        if read is None:
            out.flush()
        else:
            _print_record(read.record, out)
    except OSError as error:
        raise UnprintableError(error) from None
    return False


def _print_record(record: bytes, out: TextIO) -> None:
    """One line: the exact bytes, except on a terminal, where control characters that JSON lets stand are escaped."""
    sink: BinaryIO | None = getattr(out, "buffer", None)
    if sink is not None and not out.isatty():
        sink.write(record + b"\n")
        return
    text = record.decode("utf-8", "backslashreplace")
    out.write(_UNSAFE_ON_TERMINAL.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def unprinted(error: UnprintableError, out: TextIO, errors: TextIO) -> int:
    """The exit code after it: 0 where `| head` has seen enough, else 1, and it is said."""
    with suppress(OSError):  # a stream in memory has no descriptor
        descriptor = out.fileno()
        with Path(os.devnull).open("wb") as null:  # else Python offers it again as it ends, complains, and exits 120
            os.dup2(null.fileno(), descriptor)
    if isinstance(error.cause, BrokenPipeError):
        return 0
    errors.write(f"cannot be printed: {os.strerror(error.cause.errno or 0)}\n")
    return 1


def _follow(sources: Sequence[FileReader | SpoolReader], stopped: Callable[[], bool]) -> Iterator[Line | None]:
    """Lines as they come; None whenever there are no more for the moment."""
    try:
        while True:
            last_look = stopped()
            for source in sources:
                while lines := source.read():
                    yield from lines
            yield None
            if last_look:
                return
            time.sleep(_FOLLOW_SECONDS)
    finally:
        for source in sources:
            source.close()


def _unreadable(error: OSError, out: TextIO) -> int:
    out.write(f"{error.filename or ''}: {error.strerror or error}\n")
    return 1
