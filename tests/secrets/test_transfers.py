"""Copy and move: in both places for a moment, in neither never."""

from __future__ import annotations

import pytest

from sidecar.errors import Code, Refused
from sidecar.secrets.transfers import Transfers
from sidecar.surface.secrets.bodies import Transfer
from sidecar.surface.secrets.operations import Act
from tests.secrets.memory import Memory, MemoryDesk, changes

FROM, TO = "openbao+kv2://secret/from", "openbao+kv2://secret/to"


async def move(desk: MemoryDesk, source: str = FROM, target: str = TO, *, resumed: bool = False) -> None:
    body = Transfer(fromUri=source, toUri=target)
    await Transfers(changes()).transfer(desk, body, move=True, resumed=resumed)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("source", [FROM, f"{FROM}#k"])
@pytest.mark.parametrize("step", ["read", "write", "delete"])
@pytest.mark.parametrize("nth", range(1, 5))
async def test_wherever_it_is_cut_the_secret_is_somewhere_and_a_retry_finishes(
    step: str, nth: int, source: str
) -> None:
    store = Memory(kept={"from": [{"k": "v"}]})
    met = 0

    async def cut(at: str) -> None:
        nonlocal met
        met += at == step
        if at == step and met == nth:
            raise Killed

    store.pause = cut
    target = TO if source == FROM else f"{TO}#k"
    try:
        await move(MemoryDesk(store), source, target, resumed=True)
    except Killed:
        found = [(store.now(place) or {}).get("k") for place in ("from", "to")]
        assert "v" in found
        store.pause = Memory().pause
        if found != [None, "v"]:
            await move(MemoryDesk(store), source, target, resumed=True)
    assert not store.now("from")
    assert store.now("to") == {"k": "v"}


async def test_without_a_key_a_retry_finds_the_target_and_says_so() -> None:
    store = Memory(kept={"from": [{"k": "v"}], "to": [{"k": "v"}]})
    with pytest.raises(Refused) as caught:
        await move(MemoryDesk(store))
    assert caught.value.code is Code.TARGET_EXISTS
    assert store.now("from") == {"k": "v"}


@pytest.mark.parametrize(("source", "target"), [(FROM, TO), (f"{FROM}#k", f"{TO}#k")])
@pytest.mark.parametrize("guess", ["right", "wrong"])
async def test_a_retry_tells_nobody_what_a_target_holds_that_may_not_be_read(
    source: str, target: str, guess: str
) -> None:
    store = Memory(kept={"from": [{"k": guess}], "to": [{"k": "right"}]})
    desk = MemoryDesk(store, denied={Act.READ: Refused(Code.POLICY_DENIED, "no")}, except_for={FROM, f"{FROM}#k"})
    for overwrite in (False, True):
        body = Transfer(fromUri=source, toUri=target, overwrite=overwrite)
        transfer = Transfers(changes()).transfer(desk, body, move=False, resumed=True)
        if overwrite:
            assert (await transfer).body["version"] == 2
        else:
            with pytest.raises(Refused) as caught:
                await transfer
            assert caught.value.code is Code.TARGET_EXISTS
        assert desk.wanted == [Act.READ, Act.WRITE, Act.READ]
        desk.wanted.clear()


@pytest.mark.parametrize("source", [FROM, f"{FROM}#k"])
async def test_what_was_written_to_the_source_meanwhile_stays(source: str) -> None:
    store = Memory(kept={"from": [{"k": "v"}]})

    async def change(step: str) -> None:
        if step == "write" and len(store.kept["from"]) == 1:
            store.kept["from"].append({"k": "newer"})

    store.pause = change
    with pytest.raises(Refused) as caught:
        await move(MemoryDesk(store), source, TO if source == FROM else f"{TO}#k")
    assert caught.value.code is Code.VERSION_CONFLICT
    assert store.now("from") == {"k": "newer"}
    assert store.now("to") == {"k": "v"}


async def test_what_is_written_to_the_source_as_it_is_deleted_stays() -> None:
    """By another sidecar, which shares no lock: the version that was copied is deleted, and no other."""
    store = Memory(kept={"from": [{"k": "v"}]})

    async def change(step: str) -> None:
        if step == "delete":
            store.kept["from"].append({"k": "newer"})

    store.pause = change
    await move(MemoryDesk(store))
    assert store.kept["from"] == [None, {"k": "newer"}]
    assert store.now("to") == {"k": "v"}


@pytest.mark.parametrize("act", [Act.READ, Act.WRITE, Act.DELETE])
async def test_a_move_that_is_half_forbidden_does_nothing(act: Act) -> None:
    store = Memory(kept={"from": [{"k": "v"}]})
    desk = MemoryDesk(store, denied={act: Refused(Code.POLICY_DENIED, "no")})
    with pytest.raises(Refused) as caught:
        await move(desk)
    assert caught.value.code is Code.POLICY_DENIED
    assert store.kept == {"from": [{"k": "v"}]}


@pytest.mark.parametrize(
    ("source", "target"), [(FROM, FROM), (FROM, f"{TO}#k"), (f"{FROM}#k", TO), (FROM, f"{TO}?version=1")]
)
async def test_what_cannot_be_moved_is_refused(source: str, target: str) -> None:
    desk = MemoryDesk(Memory(kept={"from": [{"k": "v"}]}))
    with pytest.raises(Refused) as caught:
        await move(desk, source, target)
    assert (caught.value.code, desk.wanted) == (Code.INVALID_URI, [])
