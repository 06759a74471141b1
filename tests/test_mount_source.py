"""When OpenBao's mounts are looked at: often enough that no request is misread, and not once more.

The login is a stand-in, whose looks end when the test says so; tests/e2e/test_mounts.py does it on a real OpenBao.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from sidecar import mount_source
from sidecar.config import load
from sidecar.errors import Code, Refused
from sidecar.mount_source import MountSource
from sidecar.upstream.control import AbsentError
from sidecar.upstream.login import BrokerLogin
from tests.support.clock import FakeClock
from tests.test_config import minimal, with_, written

MAX_AGE = 1.0


class Looks:
    """OpenBao's mounts as this login sees them. A look sees what is mounted when it begins, and waits for `gate`."""

    def __init__(self) -> None:
        self.count, self.version = 0, "2"
        self.namespaces: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()

    async def call(self, _read: Any, namespace: str = "") -> dict[str, Any]:
        self.namespaces.append(namespace)
        if namespace:
            if namespace != "ns1":
                raise AbsentError("namespace not found")
            return {"secret/": {"type": "transit"}, "deep/kv/": {"type": "kv"}}
        self.count += 1
        seen = {"secret/": {"type": "kv", "options": {"version": self.version}, "uuid": self.version}}
        self.begun.set()
        await self.gate.wait()
        return seen


@pytest.fixture
def looks() -> Looks:
    return Looks()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def source(tmp_path: Path, looks: Looks, clock: FakeClock) -> AsyncIterator[MountSource]:
    tree = minimal(tmp_path)
    del tree["mounts"]
    with_(tree, "upstream.mounts_max_age_seconds", MAX_AGE)
    made = MountSource(load(written(tmp_path, tree), {}), cast("BrokerLogin", looks), clock)
    await made.refresh()
    yield made
    await made.close()


async def test_mounts_are_found_in_the_namespaces_that_the_tenants_mounts_name(tmp_path: Path, looks: Looks) -> None:
    tree = minimal(tmp_path)
    del tree["mounts"]
    allowed = ["secret", "ns1/secret", "ns1/deep/kv", "gone/secret", "ns1/../ns2/secret"]
    with_(tree, "tenant.allowed_mounts", allowed)
    source = MountSource(load(written(tmp_path, tree), {}), cast("BrokerLogin", looks))
    await source.refresh()
    assert {place.full: place.mount.engine for place in source.table.allowed()} == {
        "secret": "kv2",
        "ns1/secret": "transit",
        "ns1/deep/kv": "kv1",
    }
    assert source.problem == ""
    assert looks.namespaces == ["", "gone", "ns1", "ns1/deep"]


async def test_reads_cost_one_look_in_each_span_of_the_maximal_age(
    source: MountSource, looks: Looks, clock: FakeClock
) -> None:
    table = source.table
    for span in range(1, 4):
        for _ in range(1000):
            await source.confirm(table)
        assert looks.count == span
        clock.advance(MAX_AGE * 1.01)
    assert source.table is table


async def test_all_who_wait_share_one_look(source: MountSource, looks: Looks, clock: FakeClock) -> None:
    clock.advance(MAX_AGE * 2)
    await asyncio.gather(*(source.confirm(source.table) for _ in range(100)))
    assert looks.count == 2


async def test_a_look_that_began_before_a_change_was_asked_for_is_not_enough(
    source: MountSource, looks: Looks, clock: FakeClock
) -> None:
    """The mount changes after the look under way has read it, and before the request comes."""
    table = source.table
    looks.gate.clear()
    looks.begun.clear()
    clock.advance(1)
    under_way = asyncio.create_task(source.refresh())
    await looks.begun.wait()
    looks.version = "1"
    clock.advance(1)
    looks.begun.clear()
    change = asyncio.create_task(source.confirm(table, since=clock.elapsed(), changing=True))
    looks.gate.set()
    with pytest.raises(Refused, match="mounts changed"):
        await change
    await under_way
    assert looks.count == 3
    assert source.table is not table


async def test_of_several_changes_that_waited_for_an_older_look_none_goes_on_before_the_next_one_has_ended(
    source: MountSource, looks: Looks, clock: FakeClock
) -> None:
    """The first of them begins the next look. The others wait for that one too; it has not failed."""
    table, older = source.table, looks.gate
    older.clear()
    looks.begun.clear()
    clock.advance(1)
    under_way = asyncio.create_task(source.refresh())
    await looks.begun.wait()
    looks.version = "1"
    clock.advance(1)
    confirmations = (source.confirm(table, since=clock.elapsed(), changing=True) for _ in range(3))
    changes = [asyncio.create_task(each) for each in confirmations]
    await asyncio.sleep(0)
    looks.gate = asyncio.Event()
    looks.begun.clear()
    older.set()
    await under_way
    await looks.begun.wait()
    await asyncio.wait(changes, timeout=0.05)
    assert not any(change.done() for change in changes)
    looks.gate.set()
    for change in changes:
        with pytest.raises(Refused, match="mounts changed"):
            await change
    assert looks.count == 3


async def test_all_who_waited_for_a_look_that_took_too_long_are_served_by_the_next(
    source: MountSource, looks: Looks, clock: FakeClock
) -> None:
    looks.gate.clear()
    looks.begun.clear()
    clock.advance(MAX_AGE * 2)
    under_way = asyncio.create_task(source.refresh())
    await looks.begun.wait()
    clock.advance(MAX_AGE * 2)
    reads = [asyncio.create_task(source.confirm(source.table)) for _ in range(3)]
    await asyncio.sleep(0)
    looks.gate.set()
    await asyncio.gather(under_way, *reads)
    assert looks.count == 3


async def test_a_look_that_is_not_answered_in_time_is_said_until_it_ends(
    source: MountSource, looks: Looks, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mount_source, "LOOK_SECONDS", 0.01)
    looks.gate.clear()
    clock.advance(MAX_AGE * 2)
    with pytest.raises(Refused) as refused:
        await source.confirm(source.table)
    assert refused.value.code is Code.UPSTREAM_UNAVAILABLE
    assert source.problem == refused.value.detail
    assert "more than 0.01 s: OpenBao hangs" in source.problem
    looks.gate.set()
    await source.refresh()
    assert source.problem == ""


async def test_a_change_is_never_confirmed_by_a_look_from_before_the_request(
    source: MountSource, looks: Looks, clock: FakeClock
) -> None:
    table = source.table
    for number in range(2, 5):
        clock.advance(0.01)  # well within the age that is enough for reads
        await source.confirm(table, since=clock.elapsed(), changing=True)
        assert looks.count == number
    looks.version = "1"
    clock.advance(0.01)
    await source.confirm(table)
    with pytest.raises(Refused, match="mounts changed"):
        await source.confirm(table, since=clock.elapsed(), changing=True)
    with pytest.raises(Refused, match="mounts changed"):
        await source.confirm(table)  # and what is read now is no longer named by the old table either


async def test_a_request_that_is_given_up_ends_nobody_elses_look(
    source: MountSource, looks: Looks, clock: FakeClock
) -> None:
    looks.gate.clear()
    looks.begun.clear()
    clock.advance(MAX_AGE * 2)
    waiting = [asyncio.create_task(source.confirm(source.table)) for _ in range(3)]
    await looks.begun.wait()
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    looks.gate.set()
    await asyncio.gather(*waiting[1:])
    assert looks.count == 2
