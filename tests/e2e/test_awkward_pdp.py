"""The recorded answers of a PDP before the whole sidecar: a refusal each, never a 500, and never the end of service."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.decision.awkward import OF_ONE, PERMIT, give
from tests.decision.pdp_server import Exchange, PdpServer
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

STATUS = {"POLICY_DENIED": 403, "OBLIGATION_UNMET": 403, "PDP_UNAVAILABLE": 503}


@pytest.fixture
def pdp() -> Iterator[PdpServer]:
    """Answers as the secret's name says: `permit-…`, or a number of the recorded answers."""

    async def script(exchange: Exchange) -> None:
        if exchange.target.startswith("/.well-known/"):
            await exchange.answer(b"{}", "404 Not Found")
            return
        name = exchange.json["resource"]["id"].rpartition("/")[2]
        await give(OF_ONE[int(name)] if name.isdigit() else PERMIT, exchange)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = PdpServer(script)
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_pdp_01_no_awkward_answer_lets_anyone_in_nor_keeps_everyone_out(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer, pdp: PdpServer
) -> None:
    overrides = {
        "identity": {"binding": "preferred"},
        "authorization": {
            "pdp": "authzen",
            "authzen": {"url": pdp.url, "timeout_ms": 400},
            "attributes": {"fetch": "off"},
        },
    }
    with SidecarProcess(tmp_path / "sidecar", openbao, issuer, overrides) as process:
        for number, answer in enumerate(OF_ONE):
            deadline = time.monotonic() + 30
            while (
                allowed := process.get(f"/v1/secret/data/permit-{number}", issuer.token(sub="app"))
            ).status_code == 503:
                assert time.monotonic() < deadline, f"nobody is let in after {OF_ONE[number - 1]['name']}"
                time.sleep(0.05)  # the PDP asked for a pause by its last answer
            assert allowed.status_code == 404, allowed.text  # permitted, and OpenBao has no such secret
            refused = process.get(f"/v1/secret/data/{number}", issuer.token(sub="app"))
            code = refused.json()["code"]
            assert code in answer["codes"], (answer["name"], refused.text)
            assert refused.status_code == STATUS[code]
            assert ("Retry-After" in refused.headers) is (code == "PDP_UNAVAILABLE")
        assert "internal fault" not in process.log.read_text()
        assert process.terminate() == 0
    asked = [exchange.json["resource"]["id"].rpartition("/")[2] for exchange in pdp.exchanges if exchange.body]
    assert {name for name in asked if name.isdigit()} == {str(number) for number in range(len(OF_ONE))}
    assert all(exchange.target != "/permit" for exchange in pdp.exchanges)
    refusals = [one["code"] for one in process.records() if one.get("effect") in ("deny", "error")]
    assert len(refusals) >= len(OF_ONE)
    assert set(refusals) == set(STATUS)
    assert process.verify() == 0
