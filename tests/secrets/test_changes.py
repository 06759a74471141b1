"""Changes that race, and the stamp of who made a secret."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.errors import Code, Refused
from sidecar.secrets.providers.port import Provider
from sidecar.surface.secrets.operations import Act
from tests.decision.making import caller
from tests.secrets.memory import Memory, MemoryDesk, changes

NAME = "openbao+kv2://secret/raced"


async def test_two_sidecars_that_write_two_keys_both_win() -> None:
    """They share no lock: only `cas` is between them."""
    store = Memory()
    desk = MemoryDesk(store)
    two = (changes(), changes())
    await asyncio.gather(
        *(two[n % 2].write(desk, desk.uri(f"{NAME}#k{n}"), n, None) for n in range(40)),
    )
    assert store.now("raced") == {f"k{n}": n for n in range(40)}


async def test_a_callers_own_cas_is_tried_once() -> None:
    store = Memory(kept={"raced": [{"a": 1}, {"a": 2}]})
    desk = MemoryDesk(store)
    with pytest.raises(Refused) as caught:
        await changes().write(desk, desk.uri(f"{NAME}#a"), 3, 1)
    assert caught.value.code is Code.VERSION_CONFLICT
    assert store.now("raced") == {"a": 2}


async def test_a_writer_who_never_wins_is_told_so() -> None:
    """Another writes between each read and write: after a bounded number of tries it is a conflict, and nothing is
    lost."""
    store = Memory(kept={"raced": [{"a": 1}]})
    tries = 0

    async def interfere(step: str) -> None:
        nonlocal tries
        if step == "write":
            tries += 1
            store.kept["raced"].append({"a": tries})

    store.pause = interfere
    desk = MemoryDesk(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidecar.secrets.changes.ATTEMPTS", 5)
        with pytest.raises(Refused) as caught:
            await changes().write(desk, desk.uri(f"{NAME}#b"), 1, None)
    assert (caught.value.code, tries) == (Code.VERSION_CONFLICT, 5)
    assert store.now("raced") == {"a": 5}


async def test_the_maker_is_stamped_once_and_other_labels_stay() -> None:
    store = Memory(labels={"raced": {"team": "blue", "owner": "ops"}})
    one = changes()
    await one.write(MemoryDesk(store), MemoryDesk(store).uri(NAME), {"a": 1}, None)
    second = MemoryDesk(store, caller("second"))
    await one.write(second, second.uri(NAME), {"a": 2}, None)
    labels = store.labels["raced"]
    assert (labels["team"], labels["owner"], labels["created_by"]) == ("blue", "ops", "app")


async def test_a_secret_made_anew_has_its_new_maker() -> None:
    """Destroyed with its metadata, by whomever, and written again: the first version is stamped, whatever is
    remembered."""
    store = Memory()
    one = changes()
    await one.write(MemoryDesk(store), MemoryDesk(store).uri(NAME), {"a": 1}, None)
    store.kept.clear()
    store.labels.clear()
    second = MemoryDesk(store, caller("second"))
    await one.write(second, second.uri(NAME), {"a": 1}, None)
    assert store.labels["raced"]["created_by"] == "second"


async def test_a_stamp_that_fails_is_recorded_and_the_write_stands() -> None:
    store = Memory()

    async def fail(step: str) -> None:
        if step == "label":
            raise Refused(Code.UPSTREAM_ERROR, "no")

    store.pause = fail
    desk = MemoryDesk(store)
    answer = await changes().write(desk, desk.uri(f"{NAME}#a"), 1, None)
    assert (answer.status, store.now("raced")) == (201, {"a": 1})
    assert desk.noted == [f"unstamped {NAME}"]


async def test_what_a_provider_does_not_do_is_501() -> None:
    """The base class refuses what a new provider leaves out."""

    class Nothing(Provider):
        can = frozenset({Act.READ})

    desk = MemoryDesk(Nothing())
    for attempt in (
        changes().write(desk, desk.uri(NAME), {}, None),
        changes().delete(desk, desk.uri(NAME), destroy=True),
        changes().undelete(desk, desk.uri(NAME), [1]),
        changes().destroy(desk, desk.uri(NAME), [1]),
        changes().set_owner(desk, desk.uri(NAME), "x"),
    ):
        with pytest.raises(Refused) as caught:
            await attempt
        assert caught.value.code is Code.UNSUPPORTED_OPERATION
