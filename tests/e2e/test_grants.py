"""Was a use spent? Each case of the contract on the whole chain; and never more uses than a grant has, over crashes."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests

from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer
from tests.support.waiting import wait_until
from tests.upstream.raw_server import Exchange, RawServer

pytestmark = pytest.mark.real

USES = 50
PATIENCE_SECONDS = 30.0
POLICY = f'@ttl_seconds("600") @max_uses("{USES}") permit (principal, action, resource);'
FIVE = '@ttl_seconds("600") @max_uses("5") permit (principal, action, resource);'
READ, READ_DB = "/v1/secret/data/scripted/", "/v1/secret/data/app/db"
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


class Relay:
    """Stands in front of OpenBao, in a thread: answers some paths as a test says, and is OpenBao on all others.

    What asks for `slow` waits for its answer until `go` is set.
    """

    def __init__(self, openbao: OpenBao) -> None:
        self._openbao = openbao
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.server = RawServer(self._script)
        self.arrived, self.go = threading.Event(), threading.Event()

    def __enter__(self) -> Relay:
        self._thread.start()
        self._run(self.server.__aenter__())
        return self

    def __exit__(self, *_exc: object) -> None:
        self._run(self.server.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody listens there, and no connection is left; then again."""
        self._run(self.server.__aexit__())
        try:
            yield
        finally:
            self._run(self._listen_again())

    async def _listen_again(self) -> None:
        self.server._server = await asyncio.start_server(self.server._serve, "127.0.0.1", self.server.port)

    def _run(self, call: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(call, self._loop).result(10)

    async def _script(self, exchange: Exchange) -> None:
        name = exchange.target.decode().rpartition("/")[2]
        if name == "silence":
            await asyncio.sleep(30)
        elif name == "slow":
            self.arrived.set()
            await asyncio.to_thread(self.go.wait, 30)
            await exchange.send(ANSWERS["ok"])
        elif name == "endless":
            await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000000\r\n\r\n")
            await exchange.send(b'{"data":{"data":{"a":"' + b"a" * 500_000)
            await asyncio.sleep(30)
        elif name == "reset":
            exchange.reset()
        elif name in ANSWERS:
            await exchange.send(ANSWERS[name])
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._openbao.port)
            writer.write(exchange.head + b"\r\nConnection: close\r\n\r\n" + exchange.body)
            await exchange.send(await reader.read(-1))
            writer.close()
        exchange.end()


@pytest.fixture(scope="module")
def relay(openbao: OpenBao) -> Iterator[Relay]:
    with openbao.mounted({"transit": "transit"}), Relay(openbao) as running:
        yield running


def behind(
    relay: Relay, folder: Path, openbao: OpenBao, issuer: Issuer, *, seconds: int = 1, **sections: Any
) -> SidecarProcess:
    """A sidecar, not yet started, that takes the relay for OpenBao and gives it so long to answer."""
    overrides = {
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
        "upstream": {"address": relay.server.address, "timeout_seconds": seconds},
        "mounts": [{"path": "secret", "engine": "kv2"}, {"path": "transit", "engine": "transit"}],
        "tenant": {"allowed_mounts": ["secret", "transit"]},
    }
    process = SidecarProcess(folder, openbao, issuer, overrides | sections)
    (process.policies / "policies.cedar").write_text(POLICY)
    return process


@pytest.fixture(scope="module")
def scripted(
    tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer, relay: Relay
) -> Iterator[SidecarProcess]:
    with behind(relay, tmp_path_factory.mktemp("spent"), openbao, issuer) as process:
        yield process


def ask(process: SidecarProcess, subject: str, method: str, name: str) -> requests.Response:
    path, body = {
        "GET": (READ + name, None),
        "POST": (READ + name, {"data": {"a": "1"}}),
        "BATCH": (f"/v1/transit/encrypt/{name}", BATCH),
    }[method]
    headers = {"X-Vault-Token": process.issuer.token(sub=subject)}
    verb = "GET" if method == "GET" else "POST"
    return requests.request(verb, process.url + path, json=body, headers=headers, timeout=30)


def shown(process: SidecarProcess, subject: str) -> dict[str, Any]:
    """The subject's one grant."""
    grants = requests.get(f"http://127.0.0.1:{process.ops_port}/debug/grants", timeout=5).json()["grants"]
    (grant,) = [grant for grant in grants if grant["subject"] == subject]
    return dict(grant)


def uses(process: SidecarProcess, subject: str) -> tuple[int, int]:
    """Spent, and reserved, of the subject's one grant."""
    grant = shown(process, subject)
    return grant["max_uses"] - grant["uses_left"] - grant["uses_reserved"], grant["uses_reserved"]


@pytest.mark.parametrize(("method", "name", "status", "spent"), SPENT)
def test_whether_a_use_was_spent(scripted: SidecarProcess, method: str, name: str, status: int, spent: int) -> None:
    subject = f"{method}-{name}"
    answered = ask(scripted, subject, method, name)
    assert answered.status_code == status, answered.text
    assert uses(scripted, subject) == (spent, 0)


@pytest.mark.parametrize(("method", "spent"), [("GET", 1), ("POST", 1)])
def test_a_caller_that_goes_away_before_the_answer_comes_has_spent_its_use(
    scripted: SidecarProcess, relay: Relay, method: str, spent: int
) -> None:
    subject = f"impatient-{method}"
    relay.arrived.clear()
    relay.go.clear()
    body = '{"data":{"a":"1"}}' if method == "POST" else ""
    with open_request(scripted, subject, method, "slow", body):
        assert relay.arrived.wait(PATIENCE_SECONDS)
        assert uses(scripted, subject) == (0, 1)
    relay.go.set()
    wait_until(lambda: uses(scripted, subject) == (spent, 0))


def test_a_caller_that_goes_away_in_the_middle_of_an_answer_has_spent_its_use(scripted: SidecarProcess) -> None:
    with open_request(scripted, "leaver", "GET", "endless") as wire:
        assert b" 200 " in wire.recv(100)
    wait_until(lambda: uses(scripted, "leaver") == (1, 0))
    ask(scripted, "leaver", "GET", "ok")


@contextmanager
def open_request(
    process: SidecarProcess, subject: str, method: str, name: str, body: str = ""
) -> Iterator[socket.socket]:
    """A request on a connection that the caller cuts at the end of the block."""
    with socket.create_connection(("127.0.0.1", process.port), timeout=30) as wire:
        token = process.issuer.token(sub=subject)
        head = f"{method} {READ}{name} HTTP/1.1\r\nHost: 127.0.0.1:{process.port}\r\nX-Vault-Token: {token}\r\n"
        typed = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        wire.sendall(f"{head}{typed}\r\n{body}".encode())
        yield wire
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("method", ["GET", "POST", "BATCH"])
def test_where_no_connection_could_be_made_the_use_is_given_back(
    scripted: SidecarProcess, relay: Relay, method: str
) -> None:
    subject = f"unconnected-{method}"
    with relay.away():
        answered = ask(scripted, subject, method, "ok")
    assert (answered.status_code, answered.json()["code"]) == (503, "UPSTREAM_UNAVAILABLE")
    assert uses(scripted, subject) == (0, 0)


def test_where_the_audits_disk_is_full_a_use_is_given_back_unless_it_happened(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer, relay: Relay
) -> None:
    """A read that could not be recorded was not released; a mutation that could not begin did not happen; one that
    was under way when the disk became full did."""
    process = behind(relay, tmp_path, openbao, issuer, seconds=30)
    (process.policies / "policies.cedar").write_text(POLICY.replace(f'"{USES}"', '"100000"'))
    with process:
        for subject in ("reader", "writer"):
            assert ask(process, subject, "GET" if subject == "reader" else "POST", "ok").status_code == 200
        relay.arrived.clear()
        relay.go.clear()
        with ThreadPoolExecutor(1) as other:
            under_way = other.submit(ask, process, "writer-under-way", "POST", "slow")
            assert relay.arrived.wait(PATIENCE_SECONDS)
            fill_disk_of(process)
            relay.go.set()
            assert under_way.result(PATIENCE_SECONDS).json()["code"] == "AUDIT_UNAVAILABLE"
        for method, subject in (("GET", "reader"), ("POST", "writer")):
            answered = ask(process, subject, method, "ok")
            assert (answered.status_code, answered.json()["code"]) == (503, "AUDIT_UNAVAILABLE")
            assert uses(process, subject) == (1, 0)
        assert uses(process, "writer-under-way") == (1, 0)


MOVED_CLOCK = """
import pathlib, sys, time
from sidecar.clock import SystemClock
moved = pathlib.Path(sys.argv.pop(1))
SystemClock.wall = lambda self: time.time() + float(moved.read_text())
from sidecar.__main__ import main
sys.exit(main())
"""


def test_a_wall_clock_set_back_and_forward_an_hour_neither_stretches_nor_ends_a_grant(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    """The sidecar's wall clock is moved in its own process: the machine's is everybody's."""
    moved = tmp_path / "moved"
    moved.write_text("0")
    process = SidecarProcess(tmp_path / "sidecar", openbao, issuer, {"identity": {"binding": "preferred"}})
    process.program = ("-c", MOVED_CLOCK, str(moved))
    now = int(time.time())
    token = issuer.token(sub="endless", iat=now - 7200, exp=now + 7200)
    with process:
        assert process.get(READ_DB, token).status_code == 200
        started, left = time.monotonic(), shown(process, "endless")["expires_in_seconds"]
        for spent, seconds in enumerate(("-3600", "3600", "0"), 2):
            moved.write_text(seconds)
            assert process.get(READ_DB, token).status_code == 200
            grant = shown(process, "endless")
            assert grant["max_uses"] - grant["uses_left"] == spent
            assert abs(left - grant["expires_in_seconds"] - (time.monotonic() - started)) < 5
        moved.write_text("7300")
        assert process.get(READ_DB, token).json()["code"] == "TOKEN_EXPIRED"  # whatever its grant


def fill_disk_of(process: SidecarProcess) -> None:
    """From now on no file of this sidecar grows. Not by records: closed segments are compressed and make room again."""
    assert process.process is not None
    _, hard = resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (0, hard))


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
            process.start(wait=False)
        for process in sidecars:
            process.wait_until_ready()
        mark = openbao.mark()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=90)) as http:
            readers = [asyncio.create_task(read(http, number)) for number in range(1000)]
            while sum(reader.done() for reader in readers) < 200:
                await asyncio.sleep(0.01)
            sidecars[0].kill()
            lives[0] += 1
            await asyncio.gather(*readers)
            sidecars[0].start()
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
