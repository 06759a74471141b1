"""How a request is made, and how it ends. What an impostor may do is in tests/attack/test_cli.py."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

from sidecar.client import DPoPKey
from sidecar.terminal.connection import Connection
from sidecar.terminal.exits import Exit
from tests.support.impostor import TOKEN, ended, http, server
from tests.support.tokens import b64


async def test_openbao_s_own_token_stands_beside_the_callers(tmp_path: Path) -> None:
    """For a sidecar in passthrough mode; the proof is for the access token."""
    key, own = tmp_path / "key.pem", tmp_path / "own"
    DPoPKey.generate().save(key)
    own.write_text("s.canary-openbao\n")
    own.chmod(0o600)
    ath = f'"ath":"{b64(hashlib.sha256(TOKEN.encode()).digest())}"'
    async with server(http("200 OK", b'{"a": 1}')) as (address, heads):
        for given in (Connection(address, TOKEN, openbao_token_file=own), Connection(address, TOKEN, key_file=key)):
            await replace(given, openbao_token_file=own).ask("GET", "/value")
        assert heads.pop(1).startswith(b"GET /api/secrets/openapi.json")
        assert b"canary" not in heads[-1].replace(b"s.canary-openbao", b"").replace(TOKEN.encode(), b"")
        assert all(b"X-Vault-Token: s.canary-openbao\r\n" in head for head in heads)
        assert f"Authorization: Bearer {TOKEN}\r\n".encode() in heads[0]
        assert f"Authorization: DPoP {TOKEN}\r\n".encode() in heads[1]
        proof = re.search(rb"DPoP: [^.\s]+\.([^.\s]+)\.", heads[1])
        assert proof is not None
        assert ath in base64.urlsafe_b64decode(proof[1] + b"==").decode().replace(" ", "")
        own.chmod(0o644)
        assert "chmod 600" in (await ended(Connection(address, TOKEN, openbao_token_file=own))).message
    assert len(heads) == 2


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
