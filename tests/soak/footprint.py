"""Whether memory and descriptors stay flat: the beginning, after a warm-up, held against the end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

MEBIBYTE: Final = 2**20
WARM_UP: Final = 1 / 3
"""The part of the run in which tables, pools and the allocator come to their size."""
GROWTH_MIB: Final = 6.0
"""Between beginning and end of what follows. A leak of 100 bytes a request is more than this after a minute of load."""
GROWTH_DESCRIPTORS: Final = 8.0
REST_MIB: Final = 80.0
LIMIT_MIB: Final = 256.0
"""Of the chart's `sidecar.resources`; a test holds them together."""


class Sample(NamedTuple):
    """What a process tells of itself at one moment."""

    resident_mib: float
    descriptors: float


def value_of(metrics: str, name: str) -> float:
    """One that stands in the text of `/metrics` without labels."""
    found = re.search(rf"^{name} (\S+)$", metrics, re.MULTILINE)
    assert found is not None, f"there is no {name}"
    return float(found[1])


def read(metrics: str) -> Sample:
    """From the text of `/metrics`."""
    memory = value_of(metrics, "process_resident_memory_bytes")
    return Sample(memory / MEBIBYTE, value_of(metrics, "process_open_fds"))


def growth(samples: Sequence[float]) -> float:
    """The median of the last quarter above that of the first, the warm-up left out: outliers and a collector's waves
    do not count."""
    steady = samples[int(len(samples) * WARM_UP) :]
    quarter = max(1, len(steady) // 4)
    return median(steady[-quarter:]) - median(steady[:quarter])


def problems(at_rest: Sample, under_load: Sequence[Sample]) -> list[str]:
    """What is not as it must be."""
    found = []
    if at_rest.resident_mib > REST_MIB:
        found.append(f"{at_rest.resident_mib:.1f} MiB at rest")
    if (most := max(sample.resident_mib for sample in under_load)) > LIMIT_MIB:
        found.append(f"{most:.1f} MiB under load")
    if (grown := growth([sample.resident_mib for sample in under_load])) > GROWTH_MIB:
        found.append(f"memory grew by {grown:.1f} MiB after the warm-up")
    if (grown := growth([sample.descriptors for sample in under_load])) > GROWTH_DESCRIPTORS:
        found.append(f"{grown:.0f} descriptors more than after the warm-up")
    return found
