"""CLI: `sidecar secret` in the hands of an impostor, of others on the machine, and of what secrets hold."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import pytest
import requests
from typer.testing import CliRunner

from sidecar.cli import app
from sidecar.client import DPoPKey
from sidecar.client.requests import DPoPAuth
from sidecar.config.private_file import NotPrivateError, check_private
from sidecar.errors import STATUS
from sidecar.terminal import connection as module
from sidecar.terminal.connection import Connection
from sidecar.terminal.exits import Exit
from sidecar.terminal.stream import MAX_EVENT_BYTES
from tests.kubelet.volumes import File, swap
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.impostor import TOKEN, ended, http, server
from tests.support.terminal import Person, on_a_terminal
from tests.support.tokens import Issuer

POLICIES: Final = """
@ttl_seconds("300") @max_uses("1000000")
permit (principal == Workload::"person", action, resource);
"""
CANARY: Final = "canary-value-hunter2"
DRIVING: Final = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m\r\x08"
SHOWN: Final = r"\x1b]0;owned\x07\x1b[2J\u202e\x9b31m\x0d\x08"
RECORD: Final = dict.fromkeys(("id", "ts", "event", "phase", "code", "purpose", "operation", "resource_ref"), "x")
RECORD_EVENT: Final = b"id: 1\ndata: " + json.dumps(RECORD | {"subject": {"sub": "\x1b[2J"}}).encode() + b"\n\n"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_cli_01_a_redirect_takes_the_token_nowhere(status: str, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "address",
    [
        *("http://openbao.example:8200", "http://10.0.0.1:8200", "http://127.0.0.1.example:8200", "http://[::2]:8200"),
        *("ftp://127.0.0.1", "127.0.0.1:8200", "http://user:word@127.0.0.1:8200", "http://127.0.0.1:8200/path", ""),
        *("http://127.0.0.1:99999", "http://[", "http://127.0.0.1?x=1", "unix://relative"),
    ],
)
async def test_cli_01_no_token_goes_to_another_machine_in_plain_http(address: str) -> None:
    assert (await ended(Connection(address, TOKEN))).status is Exit.USAGE


async def test_cli_01_a_proxy_of_the_environment_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(http("200 OK")) as (proxy, through), server(http("200 OK", b'{"a": 1}')) as (address, heads):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        assert await Connection(address, TOKEN).ask("GET", "/value") == {"a": 1}
    assert (len(heads), through) == (1, [])


async def test_cli_02_a_server_that_always_wants_another_nonce_is_left(tmp_path: Path) -> None:
    """A server that always wants another gets two for its nonce, two with it, and no more."""
    key = tmp_path / "key.pem"
    DPoPKey.generate().save(key)
    challenge = http("401 No", b'{"code": "X"}', 'WWW-Authenticate: DPoP error="use_dpop_nonce"', "DPoP-Nonce: n")
    async with server(challenge) as (address, heads):
        assert (await ended(Connection(address, TOKEN, key_file=key))).status is Exit.UNAUTHENTICATED
    assert len(heads) == 4


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_cli_02_a_cut_connection_is_not_tried_again(method: str) -> None:
    """What was asked for may be done."""
    async with server(b"") as (address, heads):
        assert (await ended(Connection(address, TOKEN), method)).status is Exit.FAILED
    assert len(heads) == 1


async def test_cli_02_an_endless_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever length it announces, or none."""
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 2**20)

    async def endless(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with server(endless) as (address, _):
        assert "larger" in (await ended(Connection(address, TOKEN))).message


async def test_cli_02_a_server_that_never_answers_is_left() -> None:
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
async def test_cli_02_what_is_no_answer_of_a_sidecars_is_said_so(answer: bytes) -> None:
    async with server(answer) as (address, _):
        assert (await ended(Connection(address, TOKEN))).status is Exit.FAILED


@pytest.mark.parametrize("body", [b"[]", b"null", b'{"code": {"a": 1}, "message": [1]}', b'{"code": "\\u001b[31m"}'])
async def test_cli_02_an_error_may_hold_anything(body: bytes) -> None:
    async with server(http("403 Forbidden", body)) as (address, _):
        assert (await ended(Connection(address, TOKEN))).status is Exit.DENIED


@pytest.mark.parametrize(
    ("sent", "status", "lines"),
    [
        (b'event: end\ndata: {"reason": "TOKEN_EXPIRED", "message": "m"}\n\n', Exit.UNAUTHENTICATED, 1),
        (b'event: end\ndata: {"reason": "REVOKED", "message": "m"}\n\n', Exit.DENIED, 1),
        (b'event: end\ndata: {"reason": "DRAINING", "message": "m"}\n\n', Exit.UNAVAILABLE, 1),
        (b'event: end\ndata: {"reason": "TOO_SLOW", "message": "m"}\n\n', Exit.UNAVAILABLE, 1),
        (b'event: end\ndata: {"reason": "PDP_UNAVAILABLE", "message": "m"}\n\n', Exit.UNAVAILABLE, 1),
        (b'event: end\ndata: {"reason": "\\u001b[31m", "message": "m"}\n\n', Exit.FAILED, 1),
        (b"event: end\ndata: []\n\n", Exit.FAILED, 1),
        (b'event: lost\ndata: {"message": "older"}\n\n' + RECORD_EVENT, Exit.FAILED, 2),
        (b"", Exit.FAILED, 1),
        (RECORD_EVENT[:-1], Exit.FAILED, 1),
        (b"data: {}\n\n", Exit.FAILED, 1),
        (b"data: nonsense\n\n", Exit.FAILED, 1),
        (b": still here\n\n", Exit.FAILED, 1),
        (b"data: " + b"x" * (MAX_EVENT_BYTES + 1), Exit.FAILED, 1),
    ],
    ids=range(14),
)
async def test_cli_02_a_stream_that_breaks_or_is_none_is_left(sent: bytes, status: Exit, lines: int) -> None:
    """What came whole before is shown, and drives nothing."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    async with server(head + b": open\n\n" + RECORD_EVENT + sent) as (address, _):
        words = ["secret", "--address", address, "events"]
        done = await asyncio.to_thread(CliRunner().invoke, app, words, env={"SIDECAR_TOKEN": TOKEN})
    assert (done.exit_code, done.stdout.splitlines()) == (status, ["x  x  x  x  x  x  \\x1b[2J  x"] * lines), (
        done.output
    )
    assert "\x1b" not in done.stderr
    assert done.stderr.startswith("sidecar secret: ")


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
async def test_cli_02_a_listing_that_is_none_or_comes_to_no_end_is_left(pages: bytes) -> None:
    async with server(http("200 OK", pages)) as (address, _):
        words = ["secret", "--address", address, "ls", "yaml://secret/"]
        done = await asyncio.to_thread(CliRunner().invoke, app, words, env={"SIDECAR_TOKEN": TOKEN})
    assert (done.exit_code, done.stdout) == (Exit.FAILED, ""), done.output
    assert done.stderr.startswith("sidecar secret: ")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
async def test_cli_03_a_token_or_key_open_to_others_is_not_used(tmp_path: Path, mode: int) -> None:
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


@pytest.mark.parametrize(
    ("mode", "path", "refused"),
    [
        (0o644, "token", ""),
        (0o640, "token", ""),
        (0o400, "token", ""),
        (0o644, "deep/token", ""),
        (0o664, "token", "changed by others"),
        (0o646, "deep/token", "changed by others"),
    ],
)
async def test_cli_03_a_projected_token_is_taken_unless_others_can_write_it(
    tmp_path: Path, mode: int, path: str, refused: str
) -> None:
    """It is 0644 and cannot be changed; a key in the same place is not taken, nor a file that a link of another name
    leads to."""
    key = tmp_path / "made.pem"
    DPoPKey.generate().save(key)
    swap(tmp_path / "v", {path: File(TOKEN.encode(), mode), "key.pem": File(key.read_bytes(), mode)})
    token, key = tmp_path / "v" / path, tmp_path / "v" / "key.pem"
    async with server(http("200 OK", b'{"a": 1}')) as (address, heads):
        if refused:
            assert refused in (await ended(Connection(address, token_file=token))).message
            assert heads == []
            return
        assert await Connection(address, token_file=token).ask("GET", "/value") == {"a": 1}
        link = tmp_path / "link"
        link.symlink_to(token.resolve())
        if mode != 0o400:
            assert "chmod 600" in (await ended(Connection(address, token_file=token, key_file=key))).message
            assert "chmod 600" in (await ended(Connection(address, token_file=link))).message
    assert len(heads) == 1


@pytest.mark.parametrize(
    ("mode", "owner", "refused"),
    [
        (0o644, 0, ""),
        (0o440, 0, ""),
        (0o664, 0, "changed by others"),
        (0o644, 1000, "chmod 600"),
        (0o600, 1001, "another user"),
        (0o644, 1001, "another user"),
    ],
)
def test_cli_03_a_mounted_file_is_roots_and_never_another_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int, owner: int, refused: str
) -> None:
    """Root's, who mounted it for a user that cannot change it; never another user's."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    seen = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))
    with pytest.raises(NotPrivateError, match=refused) if refused else nullcontext():
        check_private(tmp_path / "token", seen, mounted=True)


@pytest.mark.parametrize("token", ["two words", "line\nend", "é", "\x1b[31m"])
async def test_cli_03_what_is_no_token_is_not_sent(token: str) -> None:
    assert (await ended(Connection("http://127.0.0.1:1", token))).status is Exit.USAGE


# -- against a real sidecar ----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[Person]:
    folder = tmp_path_factory.mktemp("cli")
    made = SidecarProcess(folder, openbao, issuer, {"events": {"enabled": True}})
    (made.policies / "policies.cedar").write_text(POLICIES)
    with made as running:
        yield Person(running, folder)


def uri(path: str) -> str:
    return f"openbao+kv2://secret/cli/{path}"


@pytest.mark.real
@pytest.mark.parametrize("words", [("put",), ("rotate",), ("rotate", "--generate", "20"), ("bulk",)])
@pytest.mark.parametrize(
    "typed", [(CANARY,), (f"password={CANARY}",), ("--value", CANARY), (f"--value={CANARY}",), ("--password", CANARY)]
)
def test_cli_04_a_value_on_the_command_line_is_refused(
    person: Person, words: tuple[str, ...], typed: tuple[str, ...]
) -> None:
    """Before anything is sent, and without being said again."""
    name, *options = words
    before = len(person.process.records())
    named = () if name == "bulk" else (f"{uri('typed')}#k",)
    said = person.run(name, *named, *options, *typed, given="piped", status=Exit.USAGE)
    assert "never taken from the command line" in said
    assert CANARY not in said
    assert len(person.process.records()) == before


@pytest.mark.real
def test_cli_05_nothing_of_a_secret_or_a_server_drives_the_terminal(person: Person, openbao: OpenBao) -> None:
    """Values, names of keys, messages: each is written out, in tables and lines and errors alike. In a pipe a value is
    what it is. (OpenBao takes no such label.)"""
    one = uri("driving")
    openbao.put("cli/driving", {"k": f"{DRIVING}value", f"{DRIVING}key": "v"})
    tried: list[tuple[tuple[str, ...], Exit, str]] = [
        (("get", f"{one}#k"), Exit.OK, f"{SHOWN}value"),
        (("get", one), Exit.OK, "\\u001b]0;owned"),
        (("get", one, "--json"), Exit.OK, "\\u001b]0;owned"),
        (("keys", one), Exit.OK, f"{SHOWN}key"),
        (("get", f"{one}{DRIVING}"), Exit.USAGE, "ILLEGAL_ENCODING"),
        (("ls", f"{one}{DRIVING}/"), Exit.USAGE, "ILLEGAL_ENCODING"),
        (("audit", "--limit", "3"), Exit.OK, "SECRET_"),
        (("rm", f"{one}{DRIVING}", "--destroy"), Exit.USAGE, f"Destroy all of {one}{SHOWN}, for good?"),
    ]
    for words, status, shown in tried:
        found, screen = on_a_terminal(person.command(*words), person.environment, ("n",))
        assert (found, shown in screen) == (status, True), (words, screen)
        assert all(char.isprintable() or char in "\r\n" for char in screen), words
    assert person.run("get", f"{one}#k") == f"{DRIVING}value"


@pytest.mark.real
def test_cli_06_json_is_the_api_s_answer_and_nothing_else(person: Person, openbao: OpenBao) -> None:
    """One document on standard output, equal to what HTTP gives, to the digit; a refusal's on standard error, and
    standard output is empty."""
    raw = '{"big": 123456789012345678901234567890, "small": 1.10, "text": "\\ud83d\\ude00\\u0000", "a": [null]}'
    person.run("put", uri("exact"), given=raw)
    for words, path, query in (
        (("get", uri("exact")), "value", {"uri": uri("exact")}),
        (("get", f"{uri('exact')}#big"), "value", {"uri": f"{uri('exact')}#big"}),
        (("keys", uri("exact")), "keys", {"uri": uri("exact")}),
        (("info", uri("exact")), "metadata/detail", {"uri": uri("exact")}),
        (("versions", uri("exact")), "versions", {"uri": uri("exact")}),
        (("ls", uri("")), "metadata", {"prefix": uri("")}),
        (("search", "exact"), "search", {"q": "exact"}),
    ):
        done = CliRunner().invoke(app, ["secret", *words, "--json"], env=person.environment)
        assert (done.exit_code, done.stderr) == (Exit.OK, ""), words
        token = person.environment["SIDECAR_TOKEN"]
        url = f"{person.process.url}/api/secrets/{path}"
        told = requests.get(url, query, auth=DPoPAuth(DPoPKey.load(person.key), token), timeout=30)
        exact = [json.loads(text, parse_float=str, parse_int=str) for text in (done.stdout, told.text)]
        assert exact[0] == exact[1], words
    refused = CliRunner().invoke(app, ["secret", "get", uri("never"), "--json"], env=person.environment)
    assert (refused.exit_code, refused.stdout) == (Exit.NOT_FOUND, "")
    assert json.loads(refused.stderr).keys() == {"error", "code", "message", "correlation_id"}


CLASSES: Final = {
    Exit.USAGE: {400, 405, 413, 422, 431},
    Exit.UNAUTHENTICATED: {401},
    Exit.DENIED: {403},
    Exit.NOT_FOUND: {404},
    Exit.CONFLICT: {409},
    Exit.UNSUPPORTED: {501},
    Exit.UNAVAILABLE: {429, 502, 503, 504},
}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.name)
async def test_cli_07_every_refusal_that_there_is_ends_by_its_class(kind: Exit) -> None:
    """Whatever its words are; all codes together are in these classes."""
    assert set().union(*CLASSES.values()) == set(STATUS.values())
    for code, status in STATUS.items():
        if status in CLASSES[kind]:
            body = json.dumps({"code": code, "message": "done, exit 0", "error": "", "correlation_id": ""})
            async with server(http(f"{status} OK", body.encode())) as (address, _):
                assert (await ended(Connection(address, TOKEN), "POST")).status is kind, code
