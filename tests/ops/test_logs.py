"""The masking layer: nothing shaped like a token, and no secret of this process, leaves through a log."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from urllib.parse import quote

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


class FullDisk(io.StringIO):
    """A log on a full disk, or a pipe that nobody reads."""

    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_log_that_cannot_be_written_breaks_nothing() -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    try:
        logs.configure("info", "json", FullDisk())
        structlog.get_logger("test").error("lost")
        logging.getLogger("library").error("lost too")
    finally:
        root.handlers[:], root.level = before
        structlog.reset_defaults()


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


CANARY = 'the "canary" of a bug'


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What goes out, with every hook of the interpreter taken, and given back."""
    for where, name in ((threading, "excepthook"), (sys, "unraisablehook"), (sys, "excepthook")):
        monkeypatch.setattr(where, name, getattr(where, name))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    root = logging.getLogger()
    before, out = (root.handlers[:], root.level), io.StringIO()
    logs.configure("debug", "json", out)
    logs.take_last_words()
    yield out
    root.handlers[:], root.level = before[0], before[1]
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "form",
    [
        CANARY,
        quote(CANARY),
        quote(CANARY, safe=""),
        orjson.dumps(CANARY).decode(),
        repr(CANARY),
        CANARY.encode().hex(),
        base64.b64encode(CANARY.encode()).decode(),
        base64.urlsafe_b64encode(CANARY.encode()).decode(),
    ],
)
def test_a_registered_secret_is_masked_in_the_encodings_that_libraries_quote_it_in(form: str) -> None:
    logs.register_secret(CANARY)
    try:
        masked = logs.mask(f"before {form} after")
    finally:
        logs.forget_secret(CANARY)
    assert "***" in masked
    assert form[:10] not in masked
    assert logs.mask(CANARY) == CANARY, "it is forgotten in all of them"


def test_of_what_is_exchanged_in_a_file_the_newest_are_masked() -> None:
    """A token that is exchanged every hour would else be looked for, in eight forms, for ever."""
    tokens = [f"a token number {number}" for number in range(9)]
    before = len(logs._known)
    for token in tokens:
        logs.register_secret(token, "/run/token")
        logs.register_secret(token, "/run/token")
    try:
        assert logs.mask(tokens[-1]) == logs.mask(tokens[-2]) == logs.MASK
        assert logs.mask(tokens[0]) == tokens[0]
        assert len(logs._known) - before < len(tokens)
    finally:
        for token in tokens:
            logs.forget_secret(token)


def fail() -> None:
    """A bug whose message quotes what it failed on."""
    raise ValueError(CANARY)


class Unraisable:
    """Raises where nobody can catch it."""

    def __repr__(self) -> str:
        return CANARY

    def __del__(self) -> None:
        fail()


def in_a_thread() -> None:
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


def out_of_reach() -> None:
    Unraisable()
    gc.collect()


def in_a_forgotten_task() -> None:
    async def work() -> None:
        fail()

    async def forget() -> None:
        task = asyncio.get_running_loop().create_task(work(), name=CANARY)
        await asyncio.wait([task])
        del task
        gc.collect()

    asyncio.run(forget())


def in_a_callback() -> None:
    def callback(_canary: str) -> None:
        fail()

    async def call() -> None:
        asyncio.get_running_loop().call_soon(callback, CANARY)
        await asyncio.sleep(0)

    asyncio.run(call())


def as_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning(UserWarning(CANARY), UserWarning, "place.py", 3)


def in_a_library() -> None:
    library = logging.getLogger("library")
    library.error("failed: %s", ValueError(CANARY))
    library.error(ValueError(CANARY))
    library.debug("%s", CANARY)
    try:
        raise ExceptionGroup(CANARY, [ValueError(CANARY)])
    except ExceptionGroup:
        library.exception("ValueError and others")


def as_a_value() -> None:
    structlog.get_logger().error("failed", error=ValueError(CANARY), deep=[ValueError(CANARY)])


@pytest.mark.parametrize(
    "happens",
    [
        in_a_thread,
        out_of_reach,
        in_a_forgotten_task,
        in_a_callback,
        as_a_warning,
        in_a_library,
        as_a_value,
    ],
)
def test_a_fault_is_told_without_what_it_quotes(
    happens: object, stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(happens)
    happens()
    printed = capsys.readouterr()
    told = stream.getvalue() + printed.out + printed.err
    assert "canary" not in told
    assert ("UserWarning" if happens is as_a_warning else "ValueError") in told


def test_a_crash_tells_where_and_of_what_kind(stream: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        fail()
    except ValueError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    told = capsys.readouterr().err + stream.getvalue()
    assert "in fail" in told
    assert "ValueError" in told
    assert "canary" not in told


def test_no_line_of_anybodys_forges_another(stream: io.StringIO) -> None:
    structlog.get_logger().info("a\nb", c="d\ne\u2028f", g={"h\ni": "j"})
    assert len(stream.getvalue().splitlines()) == 1
    logs.configure("debug", "console", stream)
    structlog.get_logger().info("a\nb", c="d\ne")
    assert len(stream.getvalue().splitlines()) == 2
