"""Was a use spent? Each case of the contract on the whole chain; and never more uses than a grant has, over crashes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests

from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer
from tests.upstream.raw_server import Exchange, RawServer

pytestmark = pytest.mark.real

USES = 50
POLICY = f'@ttl_seconds("600") @max_uses("{USES}") permit (principal, action, resource);'
FIVE = '@ttl_seconds("600") @max_uses("5") permit (principal, action, resource);'
READ = "/v1/secret/data/scripted/"
BATCH = {"batch_input": [{"plaintext": "YQ=="}] * 3}


def answer(status: str, body: Any) -> bytes:
    raw = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw


DATA = {"request_id": "r", "data": {"data": {"a": "1"}, "metadata": {"version": 1}}, "auth": None, "wrap_info": None}
RESULTS = {"request_id": "r", "data": {"batch_results": [{"ciphertext": "c"}, {"error": "e"}, {"ciphertext": "c"}]}}
ANSWERS = {
    "ok": answer("200 OK", DATA),
    "refused": answer("403 Forbidden", {"errors": ["permission denied"]}),
    "missing": answer("404 Not Found", {"errors": []}),
    "failed": answer("500 Internal Server Error", {"errors": ["boom"]}),
    "sealed": answer("503 Service Unavailable", {"errors": ["sealed"]}),
    "login": answer("200 OK", {"data": None, "auth": {"client_token": "s.x"}, "wrap_info": None}),
    "batch": answer("200 OK", RESULTS),
    "partly": answer("400 Bad Request", RESULTS),
    "bad": answer("400 Bad Request", {"errors": ["no such key"]}),
}
SPENT = [
    ("GET", "ok", 200, 1),
    ("GET", "refused", 403, 0),
    ("GET", "missing", 404, 0),
    ("GET", "failed", 500, 0),
    ("GET", "reset", 502, 0),
    ("GET", "silence", 504, 0),
    ("GET", "login", 502, 0),
    ("POST", "ok", 200, 1),
    ("POST", "refused", 403, 0),
    ("POST", "missing", 404, 0),
    ("POST", "failed", 500, 1),
    ("POST", "sealed", 503, 1),
    ("POST", "reset", 502, 1),
    ("POST", "silence", 504, 1),
    ("BATCH", "batch", 200, 3),
    ("BATCH", "partly", 400, 3),
    ("BATCH", "bad", 400, 0),
    ("BATCH", "reset", 502, 3),
]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[SidecarProcess]:
    """A sidecar whose OpenBao answers some paths as a test says, and is itself on all others."""

    async def script(exchange: Exchange) -> None:
        name = exchange.target.decode().rpartition("/")[2]
        if name == "silence":
            await asyncio.sleep(30)
        elif name == "reset":
            exchange.reset()
        elif name in ANSWERS:
            await exchange.send(ANSWERS[name])
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", openbao.port)
            writer.write(exchange.head + b"\r\nConnection: close\r\n\r\n" + exchange.body)
            await exchange.send(await reader.read(-1))
            writer.close()
        exchange.end()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    relay = RawServer(script)
    asyncio.run_coroutine_threadsafe(relay.__aenter__(), loop).result(10)
    overrides = {
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
        "upstream": {"address": relay.address, "timeout_seconds": 1},
        "mounts": [{"path": "secret", "engine": "kv2"}, {"path": "transit", "engine": "transit"}],
        "tenant": {"allowed_mounts": ["secret", "transit"]},
    }
    if "transit/" not in openbao.root().sys.list_mounted_secrets_engines()["data"]:
        openbao.root().sys.enable_secrets_engine("transit")
    process = SidecarProcess(tmp_path_factory.mktemp("spent"), openbao, issuer, overrides)
    (process.policies / "policies.cedar").write_text(POLICY)
    try:
        with process:
            yield process
    finally:
        asyncio.run_coroutine_threadsafe(relay.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.parametrize(("method", "name", "status", "spent"), SPENT)
def test_whether_a_use_was_spent(scripted: SidecarProcess, method: str, name: str, status: int, spent: int) -> None:
    subject = f"{method}-{name}"
    path, body = {
        "GET": (READ + name, None),
        "POST": (READ + name, {"data": {"a": "1"}}),
        "BATCH": (f"/v1/transit/encrypt/{name}", BATCH),
    }[method]
    headers = {"X-Vault-Token": scripted.issuer.token(sub=subject)}
    answered = requests.request(
        "GET" if method == "GET" else "POST", scripted.url + path, json=body, headers=headers, timeout=30
    )
    assert answered.status_code == status, answered.text
    shown = requests.get(f"http://127.0.0.1:{scripted.ops_port}/debug/grants", timeout=5).json()["grants"]
    (grant,) = [grant for grant in shown if grant["subject"] == subject]
    assert (grant["uses_left"], grant["uses_reserved"]) == (USES - spent, 0)


async def test_five_uses_and_a_thousand_readers_on_three_sidecars_with_crashes_are_never_more_than_five_each(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    """Some readers go away in the middle: what OpenBao was asked counts, not what they saw."""
    sidecars = []
    for number in range(3):
        process = SidecarProcess(tmp_path / str(number), openbao, issuer, {"identity": {"binding": "preferred"}})
        (process.policies / "policies.cedar").write_text(FIVE)
        sidecars.append(process)
    token = issuer.token(sub="many", exp=int(time.time()) + 3000)
    released: Counter[tuple[int, int]] = Counter()
    lives = [0, 0, 0]

    async def read(http: aiohttp.ClientSession, number: int) -> None:
        which, life = number % 3, lives[number % 3]
        leaves = number % 7 == 0
        with suppress(aiohttp.ClientError, TimeoutError):
            request = http.get(
                sidecars[which].url + "/v1/secret/data/app/db",
                headers={"X-Vault-Token": token},
                timeout=aiohttp.ClientTimeout(0.02 if leaves else 60),
            )
            async with request as got:
                await got.read()
                released[which, life] += got.status == 200

    try:
        for process in sidecars:
            await asyncio.to_thread(process.start)
        mark = openbao.mark()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=90)) as http:
            readers = [asyncio.create_task(read(http, number)) for number in range(1000)]
            while sum(reader.done() for reader in readers) < 200:
                await asyncio.sleep(0.01)
            sidecars[0].kill()
            lives[0] += 1
            await asyncio.gather(*readers)
            await asyncio.to_thread(sidecars[0].start)
            lives[0] += 1
            await asyncio.gather(*(read(http, number) for number in range(99)))
        assert all(count <= 5 for count in released.values()), released
        assert released[0, 2] <= 5  # a life of its own
        asked = [request for request in openbao.requests(since=mark) if request["path"].startswith("secret/data/")]
        assert 10 < len(asked) <= 4 * 5  # three lives at first, and one more
        for process in sidecars[1:]:
            permitted = [record for record in process.records() if record["event"] == "SECRET_PERMIT"]
            assert len(permitted) == 5
    finally:
        for process in sidecars:
            process.kill()
