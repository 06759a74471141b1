"""How fast a backlog goes to Kafka: bounded, and out of the way of requests, which want the same processor.

Pure: the time is passed in.
"""

from __future__ import annotations

from typing import Final

_HASTE: Final = 2.0
_LEAST_PER_SECOND: Final = 1_000.0


class Pace:
    """At most `per_second` records; while records come in only `_HASTE` times as many as these, so that the backlog
    shrinks as fast as it grew, but never fewer than `_LEAST_PER_SECOND`."""

    def __init__(self, per_second: int, now: float, seq: int) -> None:
        """`now` in seconds of any clock; `seq` of the journal's last record."""
        self._per_second = float(per_second)
        self._now = now
        self._seq = seq

    def rest(self, sent: int, took: float, now: float, seq: int, *, pressed: bool) -> float:
        """Seconds to rest after `sent` records, which took `took` seconds. `pressed`: there is no time to give way."""
        rate, came, seconds = self._per_second, seq - self._seq, now - self._now
        if came and seconds > 0 and not pressed:
            rate = min(rate, max(_LEAST_PER_SECOND, _HASTE * came / seconds))
        self._now, self._seq = now, seq
        return max(0.0, sent / rate - took)
