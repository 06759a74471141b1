"""What an answer of OpenBao hands out: a lease, a certificate, both or neither. Pure."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import orjson

from sidecar.surface.operation import Issue, Operation, certificate_of, lease_of

_serial: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){0,63}").fullmatch


class Issued(NamedTuple):
    """One thing that was handed out: its name among what callers hold, and for how many seconds it lasts."""

    held: str
    seconds: float


def read(raw: bytes) -> dict[str, Any]:
    """The answer's object. Raises `ValueError` where it is none."""
    answer = orjson.loads(raw)
    if not isinstance(answer, dict):
        raise ValueError("an answer that is no object")
    return answer


def issued(operation: Operation, answer: dict[str, Any], now: float) -> list[Issued]:
    """What the answer to this operation hands out; a lease comes first. `now` is wall time, in seconds.

    Raises `ValueError` where it cannot be told: what is not known cannot be held by anybody.
    """
    found: list[Issued] = []
    lease_id = answer.get("lease_id", "")
    if not isinstance(lease_id, str):
        raise ValueError("a lease id that is no text")
    if lease_id:
        found.append(Issued(lease_of(lease_id), duration(answer)))
    if operation.issues is Issue.CERTIFICATE:
        data = answer.get("data")
        serial = data.get("serial_number") if isinstance(data, dict) else None
        expiration = data.get("expiration") if isinstance(data, dict) else None
        if not isinstance(serial, str) or not _serial(serial.lower().replace("-", ":")):
            raise ValueError("a certificate without its serial number")
        if type(expiration) is not int:
            raise ValueError("a certificate without its end")
        name = certificate_of(operation.uri.mount, serial.lower().replace("-", ":"))
        found.append(Issued(name, max(0.0, expiration - now)))
    return found


def duration(answer: dict[str, Any]) -> float:
    """`lease_duration` in seconds. Raises `ValueError`."""
    seconds = answer.get("lease_duration")
    if type(seconds) is not int or seconds < 0:
        raise ValueError("a lease without its duration")
    return float(seconds)
