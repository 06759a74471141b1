"""How long the journal rests between two syncs, so that more records share one.

A sync, and waking everybody who waited for it with cold caches, costs as much CPU as a hundred records. So the journal
rests about as long as the requests took that it wrote for: the processor is busy with the next ones meanwhile, and as
many of them come together again. Pure: the time is passed in.
"""

from __future__ import annotations

from typing import Final

_LEAST_SECONDS: Final = 0.0005  # for each record: also where records come without requests, as in a flood of them
_MOST_SECONDS: Final = 0.001
_LONGEST_SECONDS: Final = 0.02
_WEIGHT: Final = 0.05  # of the last batch in the mean


class Rest:
    """Knows what a record's request costs the process."""

    def __init__(self, cpu: float) -> None:
        """`cpu`: the process's CPU seconds until now, as in `after`."""
        self._cpu = cpu
        self._each = _LEAST_SECONDS

    def after(self, count: int, cpu: float) -> float:
        """Seconds from the handing over of so many records to that of the next ones. Who writes alone is not kept
        waiting."""
        if count:
            each = min(max((cpu - self._cpu) / count, _LEAST_SECONDS), _MOST_SECONDS)
            self._each += (each - self._each) * _WEIGHT
            self._cpu = cpu
        return min(count * self._each, _LONGEST_SECONDS) if count > 1 else 0.0
