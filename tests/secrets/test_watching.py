"""Streams of what happened: bounded, and ended for a reason that is said."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from sidecar.audit.record import Event, Record
from sidecar.caller.identity import Caller
from sidecar.config import Config, Environment, Events
from sidecar.errors import Code, Refused
from sidecar.secrets.watching import PER_CALLER, Watching
from sidecar.surface.secret_uri import SecretUri, parse
from sidecar.surface.secrets.endpoints import ROWS, Call, Endpoint
from tests.decision.making import caller, clock
from tests.secrets.memory import TABLE, Memory, MemoryDesk

SECRET = parse("openbao+kv2://secret/app/db", TABLE)
EVENTS = Call(next(row for row in ROWS if row.endpoint is Endpoint.EVENTS))


class Desk(MemoryDesk):
    """Knows of all but `hidden`; counts the questions. `away` is a PDP that gives no answer."""

    hidden: frozenset[SecretUri] = frozenset()
    away = False
    asked = 0

    async def visible(self, uris: Sequence[SecretUri]) -> list[bool]:
        self.asked += 1
        if self.away:
            raise Refused(Code.PDP_UNAVAILABLE, "away")
        return [uri not in self.hidden for uri in uris]


class World:
    """One process's streams, with a token that can be taken back."""

    def __init__(self, **settings: Any) -> None:
        self.clock = clock()
        self.fallen: Refused | None = None
        self.watching = Watching(Events(**settings), self.clock, self._still_good)

    async def _still_good(self, _caller: Caller) -> None:
        if self.fallen is not None:
            raise self.fallen

    def happens(self, times: int = 1, uri: SecretUri | None = SECRET, who: Caller | None = None) -> None:
        for _ in range(times):
            record = Record(Event.SECRET_PERMIT, {"resource_ref": "ref", "token_jti": "canary", "subject": None})
            self.watching.note(record, uri, who)

    def open(self, desk: MemoryDesk, last: str = "") -> AsyncIterator[bytes]:
        return self.watching.stream(Call(EVENTS.row, last_event_id=last), desk)


def read(chunk: bytes) -> list[dict[str, Any]]:
    """The data of each event, with the event's name where it has one."""
    found = []
    for block in chunk.decode().strip().split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in block.split("\n"))
        found.append({"name": fields.get("event", "")} | json.loads(fields["data"]))
    return found


async def test_who_reads_too_slowly_is_told_and_dropped() -> None:
    """No queue grows: what is kept is kept once for all."""
    world = World(kept=10)
    stream = world.open(Desk(Memory()))
    assert await anext(stream) == b": open\n\n"
    world.happens(11)
    (end,) = read(await anext(stream))
    assert (end["name"], end["reason"]) == ("end", "TOO_SLOW")
    assert await anext(stream, None) is None
    assert len(world.watching.happenings.newest()) == 10


async def test_who_keeps_up_misses_nothing() -> None:
    world = World(kept=10)
    stream = world.open(Desk(Memory()))
    await anext(stream)
    numbers: list[str] = []
    for _ in range(5):
        world.happens(10)
        numbers += [event["id"].partition("-")[2] for event in read(await anext(stream))]
    assert numbers == [str(number) for number in range(1, 51)]


async def test_one_question_decides_all_records_of_one_secret() -> None:
    world = World()
    desk = Desk(Memory())
    stream = world.open(desk)
    await anext(stream)
    world.happens(50)
    assert len(read(await anext(stream))) == 50
    assert desk.asked == 1


async def test_what_is_hidden_moves_the_stream_on_all_the_same() -> None:
    """And what is about no secret is its caller's own."""
    world, mine = World(), caller("app")
    desk = Desk(Memory(), mine)
    desk.hidden = frozenset({SECRET})
    stream = world.open(desk)
    await anext(stream)
    world.happens(3)
    world.happens(1, None, caller("other"))
    world.happens(1, None, None)
    world.happens(1, None, mine)
    (event,) = read(await anext(stream))
    assert event["id"].endswith("-6")
    assert "canary" not in json.dumps(event)


@pytest.mark.parametrize("code", [Code.TOKEN_EXPIRED, Code.TOKEN_INVALID])
async def test_a_token_that_is_good_no_more_gets_no_further_event(code: Code) -> None:
    """It is looked at before whatever is told, however soon that comes."""
    world, desk = World(), Desk(Memory())
    stream = world.open(desk)
    await anext(stream)
    world.happens()
    world.fallen = Refused(code, "gone")
    (end,) = read(await anext(stream))
    assert (end["name"], end["reason"], desk.noted) == ("end", code, [f"refused {code}"])
    assert await anext(stream, None) is None


async def test_a_pdp_that_is_away_ends_the_stream() -> None:
    """Unknown means refused."""
    world = World()
    desk = Desk(Memory())
    stream = world.open(desk)
    await anext(stream)
    desk.away = True
    world.happens()
    (end,) = read(await anext(stream))
    assert (end["reason"], desk.noted) == (Code.PDP_UNAVAILABLE, ["refused PDP_UNAVAILABLE"])


@pytest.mark.parametrize(
    ("subject", "issuer", "ends"), [("app", None, True), (None, None, True), ("other", None, False)]
)
async def test_access_taken_back_ends_the_streams_it_fits(subject: str | None, issuer: str | None, ends: bool) -> None:
    world = World()
    stream = world.open(Desk(Memory(), caller("app")))
    await anext(stream)
    world.watching.end(subject, issuer)
    world.happens()
    (event,) = read(await anext(stream))
    assert (event["name"] == "end") is ends


async def test_streams_are_bounded_for_each_caller_and_in_all_and_a_closed_one_makes_room() -> None:
    world = World(max_streams=PER_CALLER + 1)
    desk, other = Desk(Memory(), caller("app")), Desk(Memory(), caller("other"))
    streams = [world.open(desk) for _ in range(PER_CALLER + 1)]  # all were let in before the first was read
    firsts = [await anext(stream) for stream in streams]
    assert firsts[:-1] == [b": open\n\n"] * PER_CALLER
    assert read(firsts[-1])[0]["reason"] == Code.OVERLOADED
    with pytest.raises(Refused) as caught:
        world.open(desk)
    assert caught.value.code is Code.OVERLOADED
    await anext(world.open(other))
    with pytest.raises(Refused):
        world.open(Desk(Memory(), caller("third")))
    await streams[0].aclose()  # type: ignore[attr-defined] # a generator
    assert await anext(world.open(desk)) == b": open\n\n"


async def test_after_the_drain_began_no_stream_opens() -> None:
    world = World()
    stream = world.open(Desk(Memory()))
    world.watching.close()
    (end,) = read(await anext(stream))
    assert end["name"] == "end"


async def test_an_id_of_what_was_never_told_is_no_position() -> None:
    world = World(kept=10)
    world.happens(30)
    newest = world.watching.happenings.newest()[0].shown["id"]
    process = newest.partition("-")[0]
    kept = world.open(Desk(Memory()), f"{process}-20")
    assert await anext(kept) == b": open\n\n"
    assert read(await anext(kept))[0]["id"] == f"{process}-21"
    gone = world.open(Desk(Memory()), f"{process}-19")
    assert read(await anext(gone))[0]["name"] == "lost"
    assert read(await anext(gone))[0]["id"] == f"{process}-21"
    for last in (f"{process}-99", "ffffffff-1"):
        assert read(await anext(world.open(Desk(Memory()), last)))[0]["name"] == "lost"


@pytest.mark.parametrize(
    ("environment", "enabled", "served"),
    [("dev", None, True), ("test", None, False), ("prod", None, False), ("prod", True, True), ("dev", False, False)],
)
def test_where_they_are_served(environment: str, enabled: bool | None, served: bool) -> None:
    config = Config(environment=Environment(environment), events=Events(enabled=enabled))
    assert config.serves_events is served
