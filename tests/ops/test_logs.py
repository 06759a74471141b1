"""The masking layer: nothing shaped like a token, and no secret of this process, leaves through a log."""

from __future__ import annotations

import io
import logging

import orjson
import pytest
import structlog

from sidecar.ops import logs

JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text",
    [
        JWT,
        f"Authorization: DPoP {JWT}",
        "Bearer abcdefghijklmnopqrstuvwxyz0123456789",
        "hvs.CAESIABCDEFGHIJKLMNOPQRSTUV",
        "s.ABCDEFGHIJKLMNOPQRSTUVWX",
        "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----",
    ],
)
def test_what_is_shaped_like_a_token_is_masked(text: str) -> None:
    masked = logs.mask(f"before {text} after")
    assert "***" in masked
    for part in (JWT, "CAESIABCDEF", "ABCDEFGHIJKLMNOPQRSTUVWX", "MIGH", "abcdefghijklmnopqrstuvwxyz0123456789"):
        assert part not in masked


def test_ordinary_words_are_left_alone() -> None:
    text = "GET took 3 ms, status 200, correlation 4f2a, https://idp.example/jwks"
    assert logs.mask(text) == text


def test_a_registered_secret_is_masked_in_any_text() -> None:
    logs.register_secret("canary-of-the-broker")
    try:
        assert "canary" not in logs.mask("x=canary-of-the-broker;")
    finally:
        logs.forget_secret("canary-of-the-broker")


def test_structured_and_foreign_lines_are_masked_exceptions_included() -> None:
    quoted = "the-password-itself"  # as a message; the line of source that raises it is shown
    stream = io.StringIO()
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    try:
        logs.configure("debug", "json", stream)
        log = structlog.get_logger("test")
        log.info("event", nested={"deep": [JWT]}, token="short", line="a\x1b[31mb")
        logging.getLogger("foreign").warning("%s", JWT)
        try:
            raise ValueError(quoted) from KeyError(JWT)
        except ValueError:
            log.exception("failed")
            logging.getLogger("foreign").exception("failed too")
        text = stream.getvalue()
    finally:
        root.handlers[:], root.level = before
        structlog.reset_defaults()
    assert JWT not in text
    assert quoted not in text
    assert "\x1b" not in text
    lines = [orjson.loads(line) for line in text.splitlines()]
    assert len(lines) == 4
    assert lines[0]["token"] == "***"
    assert "ValueError" in lines[2]["exception"]
