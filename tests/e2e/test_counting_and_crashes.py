"""Exactly as many releases as uses under load; how a sidecar ends, and a second one on its spool."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest

from tests.real.openbao import SEEDS, OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore:The raise_on_deleted_version parameter:DeprecationWarning"),
]

PATH = "/v1/secret/data/app/db"


async def test_two_thousand_readers_on_one_grant_of_a_hundred_uses_get_a_hundred(
    unbound_sidecar: SidecarProcess, openbao: OpenBao
) -> None:
    token = unbound_sidecar.issuer.token(sub="bulk")
    mark = openbao.mark()
    seen: dict[tuple[int, str], int] = {}
    connector = aiohttp.TCPConnector(limit=100)

    async def read(session: aiohttp.ClientSession) -> None:
        async with session.get(unbound_sidecar.url + PATH, headers={"X-Vault-Token": token}) as answer:
            body = await answer.json()
            if answer.status == 200:
                assert body["data"]["data"] == SEEDS["app/db"]
            key = (answer.status, body.get("code", ""))
            seen[key] = seen.get(key, 0) + 1

    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(read(session) for _ in range(2000)))
    assert seen == {(200, ""): 100, (403, "TOKEN_REPLAYED"): 1900}
    assert len(openbao.requests(since=mark)) == 100


def test_sigterm_drains_and_exits_zero_with_the_audit_stopped(tmp_path: Path, openbao: OpenBao, issuer: Issuer) -> None:
    process = SidecarProcess(tmp_path, openbao, issuer)
    process.start()
    try:
        process.hvac().secrets.kv.v2.read_secret_version(path="app/db")
        assert process.terminate() == 0
    finally:
        process.kill()
    events = [record["event"] for record in process.records()]
    assert events[0] == "AUDIT_START"
    assert events[-1] == "AUDIT_STOP"
    assert process.verify() == 0


def test_a_second_sidecar_on_the_same_spool_refuses_to_start(tmp_path: Path, openbao: OpenBao, issuer: Issuer) -> None:
    with SidecarProcess(tmp_path / "a", openbao, issuer) as first:
        second = SidecarProcess(tmp_path / "b", openbao, issuer, {"audit": {"spool_dir": str(first.spool)}})
        second.start(wait=False)
        try:
            assert second.process is not None
            assert second.process.wait(30) == 1
        finally:
            second.kill()
        assert "cannot start" in second.log.read_text()
        assert json.loads(second.log.read_text().splitlines()[-1])["event"] == "cannot start"
