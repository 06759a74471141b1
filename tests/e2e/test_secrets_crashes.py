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
import yaml
from hvac.exceptions import InvalidPath

from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.secrets.yaml_file.making import private
from tests.support.crooked_openbao import CrookedOpenBao, Held
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

POLICIES: Final = '@ttl_seconds("60") @max_uses("1000000")\npermit (principal, action, resource);\n'
OVERRIDES: Final = {"identity": {"binding": "preferred"}, "anti_replay": {"unbound_token": "off"}}
SECONDS: Final = 30
PLACES: Final = {
    "kv2": "openbao+kv2://secret/",
    "other": "openbao+kv2://team/kv/",
    "kv1": "openbao+kv1://kv1/",
    "file": "yaml://secret/",
}
STEPS: Final = {
    ("copy", "kv2", "kv2"): 7,
    ("move", "kv2", "kv2"): 8,
    ("move", "kv2", "other"): 9,
    ("move", "kv2", "kv1"): 7,
    ("move", "kv1", "kv2"): 9,
    ("move", "kv2", "file"): 4,
    ("move", "file", "kv2"): 6,
}
"""Of each way, one more than it has requests to OpenBao, so that the last is never held and one is whole."""
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
        self._name = re.compile(r"/crash/(?:from|to)-((?:copy|move)-(before|after)-(\d+)(?:-\w+){4})").search

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
    """One transfer, of a whole secret or of one key, with an Idempotency-Key or without, from one place to another, cut
    at one step."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.endpoint, _, self.step, what, how, source, target = name.split("-")
        self.place = {"from": source, "to": target}
        self.way = (self.endpoint, source, target)
        self.fragment = "#k" if what == "fragment" else ""
        self.is_keyed = how == "keyed"
        self.wanted: Any = VALUE["k"] if self.fragment else VALUE

    def uri(self, side: str) -> str:
        return f"{PLACES[self.place[side]]}crash/{side}-{self.name}{self.fragment}"

    def send(self, process: SidecarProcess, key: str = "") -> requests.Response:
        key = key or (self.name if self.is_keyed else "")
        token = process.issuer.token(sub="mover")
        headers = {"Authorization": f"Bearer {token}"} | ({"Idempotency-Key": key} if key else {})
        body = {"fromUri": self.uri("from"), "toUri": self.uri("to")}
        url = f"{process.url}/api/secrets/{self.endpoint}"
        return requests.post(url, json=body, headers=headers, timeout=SECONDS)

    def places(self, openbao: OpenBao, file: Path) -> tuple[Any, Any]:
        """What OpenBao itself, or the file, has at the source and at the target."""
        return self._at("from", openbao, file), self._at("to", openbao, file)

    def _at(self, side: str, openbao: OpenBao, file: Path) -> Any:
        place, path = self.place[side], f"crash/{side}-{self.name}"
        values: dict[str, Any] | None
        if place == "file":
            values = yaml.safe_load(file.read_text())["secret"].get("crash", {}).get(f"{side}-{self.name}")
        else:
            mount = PLACES[place].partition("://")[2].rstrip("/")
            kv = openbao.root().secrets.kv
            try:
                if place == "kv1":
                    values = kv.v1.read_secret(path, mount_point=mount)["data"]
                else:
                    read = kv.v2.read_secret_version(path, mount_point=mount, raise_on_deleted_version=True)
                    values = read["data"]["data"]
            except InvalidPath:
                return None
        return values.get("k") if self.fragment and values is not None else values


TRANSFERS: Final = [
    Transfer(f"{endpoint}-{side}-{step}-{what}-{source}-{target}")
    for (endpoint, source, target), steps in STEPS.items()
    for side in ("before", "after")
    for step in range(1, steps + 1)
    for what in ("whole-keyed", "fragment-unkeyed")
    if (what == "whole-keyed") is (endpoint == "copy") or source != target
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
    there, and the secret is then in both places. In a mount, across mounts, between OpenBao and the YAML file."""
    root = openbao.root()
    for path, version in (("kv1", "1"), ("team/kv", "2")):
        if f"{path}/" not in root.sys.list_mounted_secrets_engines()["data"]:
            root.sys.enable_secrets_engine("kv", path=path, options={"version": version})
    in_file = {}
    for each in TRANSFERS:
        name = f"from-{each.name}"
        if each.place["from"] == "file":
            in_file[name] = dict(VALUE)
        elif each.place["from"] == "kv1":
            root.secrets.kv.v1.create_or_update_secret(f"crash/{name}", VALUE, mount_point="kv1")
        else:
            openbao.put(f"crash/{name}", VALUE)
    file = private(tmp_path / "secrets.yaml", yaml.safe_dump({"secret": {"crash": in_file}}))
    places = {
        "upstream": {"address": gate.address, "timeout_seconds": SECONDS},
        "mounts": [
            {"path": "secret", "engine": "kv2"},
            {"path": "team/kv", "engine": "kv2"},
            {"path": "kv1", "engine": "kv1"},
        ],
        "tenant": {"allowed_mounts": ["secret", "team/kv", "kv1"]},
        "yaml_provider": {"path": str(file)},
    }
    process = SidecarProcess(tmp_path, openbao, issuer, OVERRIDES | places)
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
    held = {(each.way, int(each.step)) for each in TRANSFERS if each.name in gate.held}
    assert held == {(way, step) for way, most in STEPS.items() for step in range(1, most)}, "as many steps as there are"

    before = {each.name: each.places(openbao, file) for each in TRANSFERS}
    for each in TRANSFERS:
        assert each.wanted in before[each.name], each.name
        assert each.endpoint == "move" or before[each.name][0] == each.wanted, each.name
    process.start()

    def finish(each: Transfer) -> None:
        source, target = before[each.name]
        finished = (None if each.endpoint == "move" else each.wanted, each.wanted)
        answer = each.send(process)
        said = (answer.status_code, answer.json().get("code"), each.places(openbao, file))
        if source is None:
            assert said == (404, "NOT_FOUND", finished), each.name
        elif target is None or each.is_keyed:
            assert said == (200, None, finished), each.name
        else:
            assert said == (409, "TARGET_EXISTS", (source, target)), each.name
            assert each.send(process, f"late-{each.name}").ok
            assert each.places(openbao, file) == finished, each.name

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(finish, TRANSFERS))
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
