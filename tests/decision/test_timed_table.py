"""A full table refuses; nobody's entry makes room for another's."""

from __future__ import annotations

from sidecar.decision.timed_table import PURGE_STEPS, TimedTable


def test_an_entry_ends_at_its_time() -> None:
    table: TimedTable[str, int, str] = TimedTable(10)
    assert table.put("a", 1, 100.0, "me", 50.0)
    assert table.get("a", 99.9) == 1
    assert table.get("a", 100.0) is None


def test_a_full_table_refuses_new_entries_and_keeps_the_old() -> None:
    table: TimedTable[int, int, int] = TimedTable(4)
    assert all(table.put(key, key, 100.0, key, 0.0) for key in range(4))
    assert not table.put(9, 9, 100.0, 9, 0.0)
    assert [table.get(key, 1.0) for key in range(4)] == [0, 1, 2, 3]


def test_an_owner_holds_at_most_three_quarters() -> None:
    table: TimedTable[int, int, str] = TimedTable(8)
    assert [table.put(key, key, 100.0, "greedy", 0.0) for key in range(8)] == [True] * 6 + [False] * 2
    assert table.put(100, 1, 100.0, "honest", 0.0)


def test_replacing_an_entry_needs_no_room() -> None:
    table: TimedTable[int, str, str] = TimedTable(1)
    assert table.put(1, "old", 100.0, "me", 0.0)
    assert table.put(1, "new", 200.0, "me", 0.0)
    assert table.get(1, 150.0) == "new"
    assert len(table) == 1


def test_expired_entries_go_in_small_steps_and_tell_of_it() -> None:
    gone: list[int] = []
    table: TimedTable[int, int, int] = TimedTable(1000, gone.append)
    for key in range(100):
        table.put(key, key, 10.0, key, 0.0)
    table.put(1000, 1000, 100.0, 1000, 20.0)
    assert len(gone) == PURGE_STEPS
    table.purge(20.0, steps=1000)
    assert sorted(gone) == list(range(100))
    assert len(table) == 1
    assert table.owners() == (1000,)


def test_expired_entries_make_room() -> None:
    table: TimedTable[int, int, int] = TimedTable(2)
    table.put(1, 1, 10.0, 1, 0.0)
    table.put(2, 2, 10.0, 2, 0.0)
    assert table.put(3, 3, 30.0, 3, 11.0)


def test_what_an_owner_holds_is_known_until_it_goes() -> None:
    table: TimedTable[int, int, str] = TimedTable(8)
    for key in range(3):
        table.put(key, key, 100.0, "me", 0.0)
    table.discard(1)
    table.discard(1)
    assert set(table.owned_by("me")) == {0, 2}
    assert table.owned_by("nobody") == ()
    table.clear()
    assert not len(table)
    assert table.owned_by("me") == ()
