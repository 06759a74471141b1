"""Kubernetes quantities (`50m`, `128Mi`, `1e3`) of processor and memory. Pure."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_FORM: Final = re.compile(r"(?P<number>[0-9]{1,15}(?:\.[0-9]{1,9})?)(?P<suffix>[numkMGTPE]|[KMGTPE]i|[eE][0-9]{1,2})?")
_SUFFIXES: Final = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", start=1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
}
LEAST_MEMORY: Final = Decimal(64 * 1024 * 1024)
"""Bytes below which the sidecar does not start: `128m` is an eighth of a byte, and a usual mistake."""
_FINEST_CPU: Final = Decimal("0.001")


def parse_quantity(text: str) -> Decimal:
    """The number that a quantity stands for: cores, or bytes.

    Raises:
        ValueError: it is none, or not positive. A sign is not taken.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError("is not a quantity such as 100m or 256Mi")
    suffix = match["suffix"] or ""
    factor = Decimal(10) ** int(suffix[1:]) if suffix[:1] in ("e", "E") and suffix[1:].isdigit() else _SUFFIXES[suffix]
    number = Decimal(match["number"]) * factor
    if number <= 0:
        raise ValueError("is not a quantity above zero")
    return number


def parse_cpu(text: str) -> Decimal:
    """Cores, not finer than Kubernetes counts them. Raises ValueError."""
    cores = parse_quantity(text)
    if cores % _FINEST_CPU:
        raise ValueError("is finer than 1m, which Kubernetes does not count")
    return cores


def parse_memory(text: str) -> Decimal:
    """Bytes, as many as the sidecar needs to start. Raises ValueError."""
    size = parse_quantity(text)
    if size < LEAST_MEMORY:
        raise ValueError("is less than 64Mi, with which the sidecar does not start")
    return size
