"""Where a value comes from: standard input, or a prompt that shows nothing. Never the command line, which stays in the
shell's history and is seen by every process of the machine."""

from __future__ import annotations

import getpass
import json
import sys
from typing import Final

import orjson

from sidecar.terminal.exits import Ended, Exit

MAX_VALUE_BYTES: Final = 32 * 2**20
ON_THE_COMMAND_LINE: Final = (
    "a value is never taken from the command line: it stays in the shell's history, and every process sees it.\n"
    "Pipe it in (… < file), or leave it out and be asked. What was typed now is in the history already."
)


def read_value(*, of_key: bool, as_json: bool, exact: bool) -> bytes:
    """The value as JSON: of one key a text, of a whole secret its map. Raises `Ended`.

    The line end behind a single line is not part of it: `echo` put it there. With `exact`, or in several lines, it is.
    """
    if sys.stdin is None:
        raise Ended(Exit.USAGE, "standard input is closed")
    if sys.stdin.isatty():
        if not of_key:
            raise Ended(Exit.USAGE, "pipe in the secret as a JSON object, or name a key to be asked for: …/path#key")
        text = _asked()
    else:
        text = _piped()
    if as_json or not of_key:
        return _checked(text, of_key=of_key)
    if not exact and text.endswith("\n") and text.count("\n") == 1:
        text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise Ended(Exit.USAGE, 'no value came in; an empty one is said with --as-json and ""')
    return orjson.dumps(text)


def read_operations() -> bytes:
    """The operations of a bulk request, a JSON list, as it was written. Raises `Ended`."""
    if sys.stdin is None or sys.stdin.isatty():
        raise Ended(Exit.USAGE, 'pipe in a JSON list of operations: [{"op": "set", "uri": "…", "value": …}, …]')
    text = _piped()
    if not isinstance(_document(text), list):
        raise Ended(Exit.USAGE, "what came in is not a JSON list of operations")
    return text.encode()


def _asked() -> str:
    try:
        first = getpass.getpass("Value: ")
        again = getpass.getpass("Again: ")
    except (EOFError, KeyboardInterrupt):
        raise Ended(Exit.USAGE, "no value was given") from None
    if first != again:
        raise Ended(Exit.USAGE, "the two are not the same; nothing was sent")
    try:
        first.encode()
    except UnicodeEncodeError:
        raise Ended(Exit.USAGE, "the value is not UTF-8") from None
    return first


def _piped() -> str:
    raw = sys.stdin.buffer.read(MAX_VALUE_BYTES + 1)
    if len(raw) > MAX_VALUE_BYTES:
        raise Ended(Exit.USAGE, f"the value is larger than {MAX_VALUE_BYTES // 2**20} MiB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Ended(Exit.USAGE, "the value is not UTF-8; encode it (base64) and store that") from None


def _checked(text: str, *, of_key: bool) -> bytes:
    """One JSON document, passed on as it was written."""
    if not isinstance(_document(text), dict) and not of_key:
        raise Ended(Exit.USAGE, "a whole secret is a JSON object of its keys; name a key to write one: …/path#key")
    return text.encode()


def _document(text: str) -> object:
    try:
        text.encode()
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Ended(Exit.USAGE, "what came in is not one JSON document") from None
