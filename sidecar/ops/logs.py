"""Structured logs with one masking layer: whatever goes out of the process as text passes `mask`.

Secrets known to the process (the sidecar's own OpenBao token, the tenant's salt) are registered and masked wherever
they stand, in the encodings that libraries quote them in; tokens of others are masked by their shape. Paths and values
never reach a log call in the first place: types that hold them redact themselves, and an exception is told by its type
and its frames. Of libraries only warnings and errors are heard: what they say at debug level quotes what they handle.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import re
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from types import TracebackType
from typing import Any, Final, TextIO, cast
from urllib.parse import quote

import structlog

MASK: Final = "***"

_TOKEN_SHAPES: Final = re.compile(
    r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){1,4}"  # JWS, JWE, DPoP proof (RFC 7515: a header starts with {")
    r"|\b(?:hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}"  # OpenBao service, batch and recovery tokens
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----"
    r"|(?i:\b(?:bearer|dpop)\s+)[A-Za-z0-9._~+/=-]{16,}",
    re.DOTALL,
)
_SECRET_KEYS: Final = frozenset(
    {"token", "authorization", "dpop", "proof", "secret_id", "salt", "password", "value", "body", "x-vault-token"}
)

_SHORTEST: Final = 8

_NEWEST: Final = 4

_known: dict[str, tuple[str, ...]] = {}
"""Each secret with all its forms, the longest first."""
_by_place: Final[dict[str, deque[str]]] = {}
"""The newest that were read from a file."""


def register_secret(value: str, place: object = None) -> str:
    """From now on this text is masked wherever it would be logged; returns it. Shorter than 8 characters is not taken:
    it would mask ordinary words. `place` is the file that it was read from: of what is exchanged there every hour the
    newest are masked, or a year of them would be looked for in each line."""
    if len(value) >= _SHORTEST and value not in _known:
        _known[value] = tuple(sorted(set(_forms(value)), key=len, reverse=True))
        if place is not None:
            kept = _by_place.setdefault(str(place), deque())
            kept.append(value)
            if len(kept) > _NEWEST:
                forget_secret(kept.popleft())
    return value


def _forms(value: str) -> Iterator[str]:
    """The text as it stands, and as a URL, JSON, a Python literal, base64 and hex hold it."""
    raw = value.encode("utf-8", "surrogatepass")
    yield value
    yield quote(raw, safe="")
    yield quote(raw)
    yield json.dumps(value)[1:-1]
    yield repr(value)[1:-1]
    yield raw.hex()
    yield raw.hex().upper()
    for encoded in (base64.b64encode(raw), base64.urlsafe_b64encode(raw)):
        yield encoded.decode().rstrip("=")


def forget_secret(value: str) -> None:
    """The text is no secret of this process any more (a token that was replaced and revoked)."""
    _known.pop(value, None)


def mask(text: str) -> str:
    """The text without any known secret and without anything shaped like a token or a private key."""
    if len(text) < _SHORTEST:
        return text
    for forms in list(_known.values()):  # a thread of a library's may log while another secret is registered
        for form in forms:
            if form in text:
                text = text.replace(form, MASK)
    return _TOKEN_SHAPES.sub(MASK, text)


def mask_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: masks every value, at any depth."""
    return {
        key: MASK if key.lower() in _SECRET_KEYS else mask(value) if key == _FRAMES else _masked(value)
        for key, value in event.items()
    }


def _masked(value: object) -> object:
    if isinstance(value, str):
        # A log line is one line: control characters of an attacker's text would forge others, or drive a terminal.
        return mask(value).translate(_CONTROL)
    if isinstance(value, (int, float, bool)) or value is None:
        return value
    if isinstance(value, BaseException):
        return type(value).__qualname__
    if isinstance(value, dict):
        return {
            mask(str(key)).translate(_CONTROL): MASK if str(key).lower() in _SECRET_KEYS else _masked(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_masked(item) for item in value]
    return mask(str(value)).translate(_CONTROL)


_FRAMES: Final = "exception"
"""Where `_exception_text` puts what it made: the one value that has lines."""

_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


class _Unfailing:
    """A stream whose disk may be full, or whose reader may be gone: what cannot be told is lost, and whoever told it
    goes on. Else a full disk of logs would break what the line was about."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure(level: str, log_format: str, stream: TextIO = sys.stderr) -> None:
    """Sets up structlog and the standard library's logging so that every line goes through the mask. No log call
    raises because the stream does."""
    unfailing = cast("TextIO", _Unfailing(stream))
    shared: list[Callable[..., Any]] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _exception_text,
        mask_event,
    ]
    renderer: Callable[..., Any] = (
        structlog.processors.JSONRenderer(sort_keys=True)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(unfailing),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(unfailing)
    handler.addFilter(_without_quotes)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    sys.excepthook = _uncaught


def _without_quotes(record: logging.LogRecord) -> bool:
    """A library's line: exceptions among its arguments by their types, of asyncio's only what happened, not the
    objects that it happened to, whose texts quote a failed task's exception and a callback's arguments."""
    arguments = record.args
    if isinstance(arguments, tuple):
        record.args = tuple(type(one).__qualname__ if isinstance(one, BaseException) else one for one in arguments)
    if isinstance(record.msg, BaseException):
        record.msg = type(record.msg).__qualname__
    elif record.name == "asyncio":
        record.msg, record.args = re.split(r"[<({\n]", record.getMessage(), maxsplit=1)[0].strip(), ()
    return True


def _exception_text(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Exceptions become text here: their types and frames. Never their messages, which may quote what failed, and
    what failed may be a secret; never local variables."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    if isinstance(info, tuple):
        info = info[1]
    if isinstance(info, BaseException):
        event[_FRAMES] = "".join(_without_messages(info))
    return event


def _without_messages(error: BaseException) -> list[str]:
    """The exceptions that led to this one, oldest first, each with its frames."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = _without_messages(cause) if cause is not None else []
    return [*before, *traceback.format_tb(error.__traceback__), f"{type(error).__qualname__}\n"]


# -- last words ----------------------------------------------------------------------------------------------------
def take_last_words() -> None:
    """What the interpreter itself would print goes through the layer too: warnings, what a thread did not catch, what
    was raised where nobody could catch it. For the process's own entry; a library's user keeps its hooks."""
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable
    warnings.showwarning = _warned


def _uncaught(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    """A crash: where it was, and of what kind. On standard error, whatever became of the logs."""
    sys.stderr.write(mask("".join(_without_messages(error))))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        structlog.get_logger(__name__).error("a thread failed", exc_info=args.exc_value)


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    if args.exc_value is not None:
        structlog.get_logger(__name__).error("an exception that nobody could catch", exc_info=args.exc_value)


def _warned(
    message: Warning | str,  # noqa: ARG001 - it may quote anything
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    structlog.get_logger(__name__).warning("python warns", category=category.__name__, place=f"{filename}:{lineno}")
