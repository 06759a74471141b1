"""What an impostor answers, and where the token may go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sidecar.cli import app
from sidecar.client import DPoPKey
from sidecar.terminal import connection as module
from sidecar.terminal.connection import Connection
from sidecar.terminal.exits import Ended, Exit, of_status

TOKEN = "canary.token.presented"
Answering = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(answer: bytes | Answering) -> AsyncIterator[tuple[str, list[bytes]]]:
    """An HTTP server that answers every request so; its address, and the heads that came."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(heads[-1], writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has seen enough
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", heads
    finally:
        listening.close()
        await listening.wait_closed()


def http(status: str, body: bytes = b"{}", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


async def ended(connection: Connection, method: str = "GET") -> Ended:
    with pytest.raises(Ended) as raised:
        await connection.ask(method, "/value", {"uri": "yaml://secret/a#b"})
    assert TOKEN not in raised.value.message
    return raised.value


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a_redirect_takes_the_token_nowhere(status: str, tmp_path: Path) -> None:
    """Nor a proof: neither to another host nor to the same."""
    key = tmp_path / "key.pem"
    DPoPKey.generate().save(key)
    async with server(http("200 OK")) as (elsewhere, stolen):
        for location in (f"{elsewhere}/api/secrets/value", "/elsewhere"):
            async with server(http(status, b"{}", f"Location: {location}")) as (address, heads):
                for connection in (Connection(address, TOKEN), Connection(address, TOKEN, key_file=key)):
                    assert (await ended(connection)).status is Exit.FAILED
                assert len(heads) == 3  # with a key, one for the nonce
    assert stolen == []


async def test_a_nonce_is_asked_for_once(tmp_path: Path) -> None:
    """A server that always wants another gets two for its nonce, two with it, and no more."""
    key = tmp_path / "key.pem"
    DPoPKey.generate().save(key)
    challenge = http("401 No", b'{"code": "X"}', 'WWW-Authenticate: DPoP error="use_dpop_nonce"', "DPoP-Nonce: n")
    async with server(challenge) as (address, heads):
        assert (await ended(Connection(address, TOKEN, key_file=key))).status is Exit.UNAUTHENTICATED
    assert len(heads) == 4


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_a_cut_connection_is_not_tried_again(method: str) -> None:
    """What was asked for may be done."""
    async with server(b"") as (address, heads):
        assert (await ended(Connection(address, TOKEN), method)).status is Exit.FAILED
    assert len(heads) == 1


async def test_an_endless_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever length it announces, or none."""
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 2**20)

    async def endless(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with server(endless) as (address, _):
        assert "larger" in (await ended(Connection(address, TOKEN))).message


async def test_a_server_that_never_answers_is_left() -> None:
    async def silent(_head: bytes, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with server(silent) as (address, _):
        assert (await ended(Connection(address, TOKEN, timeout_seconds=0.2))).status is Exit.UNAVAILABLE


@pytest.mark.parametrize(
    "answer",
    [
        http("200 OK", b"<html>"),
        http("200 OK", b'{"a": NaN') + b"}",
        http("200 OK", b"[" * 100_000),
        http("200 OK", b"\xff"),
        http("200 OK", b"{}", "Content-Encoding: gzip"),
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        http("200 OK", b"{}", f"X: {'y' * 100_000}"),
        http("200 OK", b"{}", *[f"X{number}: y" for number in range(100_000)]),
    ],
    ids=range(9),
)
async def test_what_is_no_answer_of_a_sidecars_is_said_so(answer: bytes) -> None:
    async with server(answer) as (address, _):
        assert (await ended(Connection(address, TOKEN))).status is Exit.FAILED


@pytest.mark.parametrize("body", [b"[]", b"null", b'{"code": {"a": 1}, "message": [1]}', b'{"code": "\\u001b[31m"}'])
async def test_an_error_may_hold_anything(body: bytes) -> None:
    async with server(http("403 Forbidden", body)) as (address, _):
        assert (await ended(Connection(address, TOKEN))).status is Exit.DENIED


@pytest.mark.parametrize(
    "address",
    [
        *("http://openbao.example:8200", "http://10.0.0.1:8200", "http://127.0.0.1.example:8200", "http://[::2]:8200"),
        *("ftp://127.0.0.1", "127.0.0.1:8200", "http://user:word@127.0.0.1:8200", "http://127.0.0.1:8200/path", ""),
        *("http://127.0.0.1:99999", "http://[", "http://127.0.0.1?x=1", "unix://relative"),
    ],
)
async def test_where_no_token_is_sent(address: str) -> None:
    assert (await ended(Connection(address, TOKEN))).status is Exit.USAGE


async def test_a_proxy_of_the_environment_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(http("200 OK")) as (proxy, through), server(http("200 OK", b'{"a": 1}')) as (address, heads):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        assert await Connection(address, TOKEN).ask("GET", "/value") == {"a": 1}
    assert (len(heads), through) == (1, [])


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
async def test_files_open_to_others_are_not_used(tmp_path: Path, mode: int) -> None:
    """Neither a token nor a key; nothing is sent."""
    token, key = tmp_path / "token", tmp_path / "key.pem"
    token.write_text(f"{TOKEN}\n")
    DPoPKey.generate().save(key)
    async with server(http("200 OK", b'{"a": 1}')) as (address, heads):
        for file in (token, key):
            token.chmod(0o600)
            key.chmod(0o600)
            file.chmod(mode)
            refused = await ended(Connection(address, token_file=token, key_file=key))
            assert refused.status is Exit.USAGE
            assert "chmod 600" in refused.message
        assert heads == []
        token.chmod(0o600)
        assert await Connection(address, token_file=token).ask("GET", "/value") == {"a": 1}
        assert f"Authorization: Bearer {TOKEN}".encode() in heads[0]


@pytest.mark.parametrize("token", ["two words", "line\nend", "é", "\x1b[31m"])
async def test_what_is_no_token_is_not_sent(token: str) -> None:
    assert (await ended(Connection("http://127.0.0.1:1", token))).status is Exit.USAGE


async def test_each_request_has_a_proof_of_its_own_and_the_query_is_encoded(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    DPoPKey.generate().save(key)
    async with server(http("200 OK", b'{"n": 1.10}')) as (address, heads):
        connection = Connection(address, TOKEN, key_file=key)
        for _ in range(2):
            await connection.ask("GET", "/value", {"uri": "openbao+kv2://secret/a b#c&d=e"})
    target = b"GET /api/secrets/value?uri=openbao%2Bkv2%3A%2F%2Fsecret%2Fa%20b%23c%26d%3De HTTP/1.1"
    asked = [head for head in heads if head.startswith(target)]
    assert [b"openapi.json" in head for head in heads] == [True, False, True, False]
    proofs = {line for head in asked for line in head.split(b"\r\n") if line.startswith(b"DPoP:")}
    assert len(proofs) == 2
    assert all(f"Authorization: DPoP {TOKEN}".encode() in head for head in asked)


async def test_a_unix_socket_is_spoken_to(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(http("200 OK", json.dumps({"host": b"Host: localhost\r\n" in head}).encode()))
        writer.close()

    listening = await asyncio.start_unix_server(serve, tmp_path / "s")
    assert await Connection(f"unix://{tmp_path / 's'}").ask("GET", "/value") == {"host": True}
    listening.close()
    await listening.wait_closed()
    assert (await ended(Connection(f"unix://{tmp_path / 'none'}"))).status is Exit.UNAVAILABLE


def test_every_status_of_the_api_has_its_exit() -> None:
    from sidecar.errors import STATUS

    kinds: dict[Any, set[int]] = {}
    for status in STATUS.values():
        kinds.setdefault(of_status(status), set()).add(status)
    assert Exit.FAILED not in kinds
    assert kinds[Exit.DENIED] == {403}
    assert kinds[Exit.UNAVAILABLE] == {429, 502, 503, 504}


@pytest.mark.parametrize(
    "pages",
    [
        b'{"items": [], "next": "again"}',
        b'{"items": [], "next": 5}',
        b'{"items": "text", "next": null}',
        b'{"items": [{"no": "uri"}], "next": null}',
        b'{"items": [5], "next": null}',
        b'{"next": null}',
        b"[]",
        b'{"items": [%s], "next": null}' % b",".join([b'{"uri": "u"}'] * 1001),
    ],
    ids=range(8),
)
async def test_a_listing_that_is_none_or_comes_to_no_end_is_left(pages: bytes) -> None:
    async with server(http("200 OK", pages)) as (address, _):
        words = ["secret", "--address", address, "ls", "yaml://secret/"]
        done = await asyncio.to_thread(CliRunner().invoke, app, words, env={"SIDECAR_TOKEN": TOKEN})
    assert (done.exit_code, done.stdout) == (Exit.FAILED, ""), done.output
    assert done.stderr.startswith("sidecar secret: ")
