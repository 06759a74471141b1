"""What is dropped as delivered again, and what is not."""

from __future__ import annotations

from sidecar.analytics.repeats import Repeats


def test_a_record_is_there_once_however_often_it_comes() -> None:
    repeats = Repeats()
    assert [repeats.has(record) for record in (b"a", b"b", b"a", b"a", b"c", b"b")] == [
        *(False, False, True, True, False, True)
    ]
    assert repeats.dropped == 3


def test_what_came_again_is_remembered_from_then_on() -> None:
    repeats = Repeats(remembered=2)
    assert [repeats.has(record) for record in (b"a", b"b", b"c", b"d", b"a", b"e", b"a")] == [
        *(False, False, False, False, True, False, True)
    ]
    assert repeats.dropped == 2


def test_what_only_looks_like_a_repeat_is_none() -> None:
    repeats = Repeats()
    assert not repeats.has(b'{"event_id":"1","sub":"app"}')
    assert not repeats.has(b'{"event_id":"1","sub":"App"}')
    assert not repeats.has(b'{"event_id":"1", "sub":"app"}')


def test_as_many_as_promised_are_remembered_and_no_more_than_twice_as_many() -> None:
    repeats = Repeats(remembered=100)
    for number in range(1_000):
        assert not repeats.has(b"%d" % number)
        latest = range(max(0, number - 99), number + 1)
        assert all(repeats.has(b"%d" % each) for each in latest)
        assert len(repeats._latest) + len(repeats._earlier) <= 200
    assert not repeats.has(b"0")
