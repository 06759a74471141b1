"""Structured logs with one masking layer: whatever goes out of the process as text passes `mask`.

Secrets known to the process (the sidecar's own OpenBao token, the tenant's salt) are registered and masked wherever
they stand; tokens of others are masked by their shape. Paths and values never reach a log call in the first place:
types that hold them redact themselves.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import Any, Final, TextIO

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

_known: set[str] = set()


def register_secret(value: str) -> None:
    """From now on this text is masked wherever it would be logged. Shorter than 8 characters is not taken: it would
    mask ordinary words."""
    if len(value) >= 8:
        _known.add(value)


def forget_secret(value: str) -> None:
    """The text is no secret of this process any more (a token that was replaced and revoked)."""
    _known.discard(value)


def mask(text: str) -> str:
    """The text without any known secret and without anything shaped like a token or a private key."""
    for secret in _known:
        if secret in text:
            text = text.replace(secret, MASK)
    return _TOKEN_SHAPES.sub(MASK, text)


def mask_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: masks every value, at any depth."""
    return {key: MASK if key.lower() in _SECRET_KEYS else _masked(value) for key, value in event.items()}


def _masked(value: object) -> object:
    if isinstance(value, str):
        # A log line is one line: control characters of an attacker's text would forge others, or drive a terminal.
        return mask(value).translate(_CONTROL)
    if isinstance(value, (int, float, bool)) or value is None:
        return value
    if isinstance(value, dict):
        return {str(key): MASK if str(key).lower() in _SECRET_KEYS else _masked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_masked(item) for item in value]
    return mask(str(value)).translate(_CONTROL)


_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 10}


def configure(level: str, log_format: str, stream: TextIO = sys.stderr) -> None:
    """Sets up structlog and the standard library's logging so that every line goes through the mask."""
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
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("aiohttp.access", "aiokafka", "kafka", "asyncio", "urllib3", "hvac"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    sys.excepthook = _mask_uncaught


def _exception_text(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Exceptions become text here: their types and frames. Never their messages, which may quote what failed, and
    what failed may be a secret; never local variables."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    if isinstance(info, tuple):
        info = info[1]
    if isinstance(info, BaseException):
        event["exception"] = "".join(_without_messages(info))
    return event


def _without_messages(error: BaseException) -> list[str]:
    """The exceptions that led to this one, oldest first, each with its frames."""
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    before = _without_messages(cause) if cause is not None else []
    return [*before, *traceback.format_tb(error.__traceback__), f"{type(error).__qualname__}\n"]


def _mask_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The last words of a crash are masked too."""
    sys.stderr.write(mask("".join(traceback.format_exception(kind, error, trace))))
