"""Copy and move under `kill -9`, and the writers of two sidecars on one secret: nothing is lost.

A proxy before a real OpenBao holds each transfer at another of its requests, on the way there or on the way back. Once
all of them are held the sidecar is killed, so that one death cuts every transfer at its own step.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import requests
from hvac.exceptions import InvalidPath

from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.crooked_openbao import CrookedOpenBao, Held
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

POLICIES: Final = '@ttl_seconds("60") @max_uses("1000000")\npermit (principal, action, resource);\n'
OVERRIDES: Final = {"identity": {"binding": "preferred"}, "anti_replay": {"unbound_token": "off"}}
SECONDS: Final = 30
STEPS: Final = {"copy": 7, "move": 9}
"""One more than a transfer has requests, so that the last is never held and a whole one is among them."""
VALUE: Final = {"k": "held", "n": 1234567890123}


class Gate(CrookedOpenBao):
    """Holds the nth request of each transfer, `before` or `after` OpenBao saw it; a transfer is known by its names."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.is_open = False
        self.held: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._name = re.compile(r"/crash/(?:from|to)-((?:copy|move)-(before|after)-(\d+)-\w+-\w+)").search

    def arrived(self, method: str, path: str) -> None:
        self._pass(path, "before", count=True)

    def answered(self, method: str, path: str) -> None:
        self._pass(path, "after", count=False)

    def _pass(self, path: str, side: str, *, count: bool) -> None:
        found = self._name(path)
        if found is None or self.is_open:
            return
        with self._lock:
            self._counts[found[1]] += count
            holds = self._counts[found[1]] == int(found[3]) and found[2] == side
            if holds:
                self.held.add(found[1])
        if holds:
            self._released.wait(SECONDS)
            raise Held

    def release(self) -> None:
        """Lets everything through from now on; what was held is cut."""
        self.is_open = True
        self._released.set()


class Transfer:
    """One transfer, of a whole secret or of one key, with an Idempotency-Key or without, cut at one step."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.endpoint, _, self.step, what, how = name.split("-")
        self.fragment = "#k" if what == "fragment" else ""
        self.is_keyed = how == "keyed"
        self.wanted: Any = VALUE["k"] if self.fragment else VALUE

    def uri(self, side: str) -> str:
        return f"openbao+kv2://secret/crash/{side}-{self.name}{self.fragment}"

    def send(self, process: SidecarProcess, key: str = "") -> requests.Response:
        key = key or (self.name if self.is_keyed else "")
        token = process.issuer.token(sub="mover")
        headers = {"Authorization": f"Bearer {token}"} | ({"Idempotency-Key": key} if key else {})
        body = {"fromUri": self.uri("from"), "toUri": self.uri("to")}
        url = f"{process.url}/api/secrets/{self.endpoint}"
        return requests.post(url, json=body, headers=headers, timeout=SECONDS)

    def places(self, openbao: OpenBao) -> tuple[Any, Any]:
        """What OpenBao itself has at the source and at the target."""
        return self._at(openbao, "from"), self._at(openbao, "to")

    def _at(self, openbao: OpenBao, side: str) -> Any:
        try:
            read = openbao.root().secrets.kv.v2.read_secret_version(
                f"crash/{side}-{self.name}", mount_point="secret", raise_on_deleted_version=True
            )
        except InvalidPath:
            return None
        values = read["data"]["data"]
        return values.get("k") if self.fragment else values


TRANSFERS: Final = [
    Transfer(f"{endpoint}-{side}-{step}-{what}")
    for endpoint in ("copy", "move")
    for side in ("before", "after")
    for step in range(1, STEPS[endpoint] + 1)
    for what in ("whole-keyed", "fragment-unkeyed")
    if endpoint == "move" or what == "whole-keyed"
]


@pytest.fixture
def gate(openbao: OpenBao) -> Iterator[Gate]:
    with Gate(openbao.address) as gate:
        yield gate
        gate.release()


def test_wherever_the_process_is_killed_the_secret_is_somewhere_and_a_retry_finishes(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer, gate: Gate
) -> None:
    """With an Idempotency-Key a retry finishes, or says that the source is gone; without one it says that the target is
    there, and the secret is then in both places."""
    for each in TRANSFERS:
        openbao.put(f"crash/from-{each.name}", VALUE)
    upstream = {"upstream": {"address": gate.address, "timeout_seconds": SECONDS}}
    process = SidecarProcess(tmp_path, openbao, issuer, OVERRIDES | upstream)
    (process.policies / "policies.cedar").write_text(POLICIES)
    process.start()
    answered: list[str] = []

    def begin(each: Transfer) -> None:
        try:
            if each.send(process).ok:
                answered.append(each.name)
        except requests.ConnectionError:
            pass  # the process was killed

    with ThreadPoolExecutor(len(TRANSFERS)) as pool:
        sent = [pool.submit(begin, each) for each in TRANSFERS]
        deadline = time.monotonic() + SECONDS
        while len(gate.held) + len(answered) < len(TRANSFERS):
            assert time.monotonic() < deadline, (gate.held, answered)
            time.sleep(0.02)
        process.kill()
        gate.release()
        for one in sent:
            one.result()
    held = {(each.endpoint, int(each.step)) for each in TRANSFERS if each.name in gate.held}
    assert held == {(name, step) for name, most in STEPS.items() for step in range(1, most)}, (
        "as many steps as there are"
    )

    before = {each.name: each.places(openbao) for each in TRANSFERS}
    for each in TRANSFERS:
        assert each.wanted in before[each.name], each.name
        assert each.endpoint == "move" or before[each.name][0] == each.wanted, each.name
    process.start()
    for each in TRANSFERS:
        source, target = before[each.name]
        finished = (None if each.endpoint == "move" else each.wanted, each.wanted)
        answer = each.send(process)
        said = (answer.status_code, answer.json().get("code"), each.places(openbao))
        if source is None:
            assert said == (404, "NOT_FOUND", finished), each.name
        elif target is None or each.is_keyed:
            assert said == (200, None, finished), each.name
        else:
            assert said == (409, "TARGET_EXISTS", (source, target)), each.name
            assert each.send(process, f"late-{each.name}").ok
            assert each.places(openbao) == finished, each.name
    assert process.terminate() == 0
    assert process.verify() == 0


async def test_the_writers_of_two_sidecars_lose_no_write(tmp_path: Path, openbao: OpenBao, issuer: Issuer) -> None:
    """A hundred keys of one secret by each, all at once: only `cas` is between them."""
    two = [SidecarProcess(tmp_path / name, openbao, issuer, OVERRIDES) for name in ("one", "two")]
    for process in two:
        (process.policies / "policies.cedar").write_text(POLICIES)
    with two[0], two[1]:
        headers = {"Authorization": f"Bearer {issuer.token(sub='writer')}"}
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:

            async def write(number: int) -> int:
                body = {"uri": f"openbao+kv2://secret/crash/raced#k{number}", "value": number}
                async with session.post(f"{two[number % 2].url}/api/secrets", json=body) as answer:
                    return answer.status

            statuses = await asyncio.gather(*(write(number) for number in range(200)))
    assert set(statuses) == {200, 201}
    kv = openbao.root().secrets.kv.v2
    read = kv.read_secret_version("crash/raced", mount_point="secret", raise_on_deleted_version=True)["data"]
    assert read["data"] == {f"k{number}": number for number in range(200)}
    assert read["metadata"]["version"] == 200
