"""Obligations: what a permit asks of the sidecar, in the two forms of AuthZEN and as Cedar annotations.

Pure. One rule above all: an obligation that is unknown, malformed or contradicts another turns the permit into a deny,
so everything here either reads a value in exactly one way or raises `ObligationError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from sidecar.decision.permit import Obligations
from sidecar.surface.operation import Operation, Purpose

MAX_INTEGER: Final = 2**53 - 1
"""The largest integer that every JSON reader takes exactly (RFC 7493, section 2.2). Beyond it PDP and sidecar could
read two different numbers."""

MAX_OBLIGATIONS: Final = 64
MAX_NAMES: Final = 256
MAX_TEXT_CHARS: Final = 1024
MAX_NOTIFICATION_BYTES: Final = 16 * 1024
"""Of all notifications of one answer together: they stand in the audit record of each use."""

ANNOTATIONS: Final = frozenset({"ttl_seconds", "max_uses", "release", "step_up", "step_up_max_age"})
"""Annotations of a Cedar policy that are obligations."""

_RELEASABLE: Final = frozenset({"kv1.read", "kv1.keys", "kv2.read", "kv2.subkeys"})
"""OpenBao's operations whose answer is a secret's keys, so that `release` can be met."""

_DECIMAL: Final = re.compile(r"[1-9][0-9]{0,15}", re.ASCII)
_ACR: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x5b\x5d-\x7e]{1,256}")
"""An `acr` value that can stand in a challenge (RFC 9470, section 3) and in an annotation: no space, quotation mark,
backslash or comma."""


class ObligationError(ValueError):
    """The obligations cannot be read in exactly one way, or contradict each other. The text is for the operator."""


def parse(value: object) -> Obligations:
    """Reads the obligations of an AuthZEN answer: the object `{"ttl_seconds", "max_uses"}`, or the array of objects
    that hold an `id` and exactly one obligation.

    Raises:
        ObligationError: for anything else.
    """
    if type(value) is dict:
        return _grant_terms(value)
    if type(value) is not list:
        raise ObligationError("obligations are neither an object nor an array")
    if len(value) > MAX_OBLIGATIONS:
        raise ObligationError(f"more than {MAX_OBLIGATIONS} obligations")
    seen: set[str] = set()
    return strictest(_entry(entry, seen) for entry in value)


def from_annotations(annotations: Mapping[str, str | None]) -> Obligations:
    """Reads the obligations among the annotations of one Cedar policy; others are left alone.

    Raises:
        ObligationError: naming the annotation.
    """
    release = _annotation(annotations, "release")
    step_up = _annotation(annotations, "step_up")
    return Obligations(
        ttl_seconds=_decimal(annotations, "ttl_seconds"),
        max_uses=_decimal(annotations, "max_uses"),
        release=None if release is None else frozenset(_names([name.strip() for name in release.split(",")])),
        step_up_acr_values=() if step_up is None else _acr_values(step_up.split()),
        step_up_max_age_seconds=_decimal(annotations, "step_up_max_age"),
    )


def strictest(several: Iterable[Obligations]) -> Obligations:
    """All of several obligations at once: the shortest ttl, the fewest uses, the keys and `acr` values in all of them,
    the shortest time since the caller's own authentication, every notification and every session to end.

    Raises:
        ObligationError: where no key or no `acr` value is in all of them, or the notifications are too large.
    """
    ttls: list[int] = []
    uses: list[int] = []
    ages: list[int] = []
    release: frozenset[str] | None = None
    acr_values: tuple[str, ...] = ()
    notifications: list[Mapping[str, Any]] = []
    subjects: dict[str, None] = {}
    for one in several:
        if one.ttl_seconds is not None:
            ttls.append(one.ttl_seconds)
        if one.max_uses is not None:
            uses.append(one.max_uses)
        if one.release is not None:
            release = one.release if release is None else release & one.release
            if not release:
                raise ObligationError("no key is released by every `release`")
        if one.step_up_acr_values:
            wanted = one.step_up_acr_values
            acr_values = tuple(value for value in acr_values if value in wanted) if acr_values else wanted
            if not acr_values:
                raise ObligationError("no acr value satisfies every `step-up`")
        if one.step_up_max_age_seconds is not None:
            ages.append(one.step_up_max_age_seconds)
        notifications += one.notifications
        subjects.update(dict.fromkeys(one.terminate_sessions))
    if sum(len(orjson.dumps(notification)) for notification in notifications) > MAX_NOTIFICATION_BYTES:
        raise ObligationError("the notifications are too large")
    return Obligations(
        ttl_seconds=min(ttls, default=None),
        max_uses=min(uses, default=None),
        release=release,
        step_up_acr_values=acr_values,
        step_up_max_age_seconds=min(ages, default=None),
        notifications=tuple(notifications),
        terminate_sessions=tuple(subjects),
    )


def unmeetable(obligations: Obligations, operation: Operation, *, publishes_notifications: bool) -> str:
    """Why these obligations cannot be met on this operation, for the operator; empty where they can."""
    if obligations.release is not None:
        if not _gives_keys(operation):
            return f"`release` on {operation.name}, whose answer is not a secret's keys"
        if operation.uri.fragment is not None and operation.uri.fragment not in obligations.release:
            return "`release` does not name the key that is asked for"
    if obligations.notifications and not publishes_notifications:
        return "`notification`: nothing publishes notifications"
    return ""


# -- the array's entries -------------------------------------------------------------------------------------------
def _entry(entry: object, seen: set[str]) -> Obligations:
    if type(entry) is not dict:
        raise ObligationError("an obligation is not an object")
    identifier = _text(entry.get("id"), "an obligation has no usable id")
    if identifier in seen:
        raise ObligationError("two obligations have the same id")
    seen.add(identifier)
    kinds = [name for name in entry if name != "id"]
    if len(kinds) != 1:
        raise ObligationError("an obligation holds not exactly one of those that are known")
    reader = _READERS.get(kinds[0])
    if reader is None:
        raise ObligationError("an obligation of a kind that is not known")
    return reader(_members(entry[kinds[0]]))


def _grant_terms(members: Mapping[str, object]) -> Obligations:
    _only(members, "ttl_seconds", "max_uses")
    return Obligations(ttl_seconds=_integer(members, "ttl_seconds"), max_uses=_integer(members, "max_uses"))


def _usage_grant(members: Mapping[str, object]) -> Obligations:
    if not members:
        raise ObligationError("an empty usage_grant")
    return _grant_terms(members)


def _gives_keys(operation: Operation) -> bool:
    """Of another provider: each read, and the names of the keys."""
    if operation.asks_openbao:
        return operation.name in _RELEASABLE
    return operation.purpose is Purpose.READ or operation.name.endswith(".keys")


def _release(members: Mapping[str, object]) -> Obligations:
    _only(members, "fragments")
    return Obligations(release=frozenset(_names(members.get("fragments"))))


def _step_up(members: Mapping[str, object]) -> Obligations:
    """`acr_values` as a list, or as RFC 9470 writes it: one text with spaces; `max_age` in seconds; at least one."""
    _only(members, "acr_values", "max_age")
    if not members:
        raise ObligationError("a step-up that asks for nothing")
    acr_values: tuple[str, ...] = ()
    if "acr_values" in members:
        values = members["acr_values"]
        acr_values = _acr_values(values.split(" ") if type(values) is str else values)
    return Obligations(step_up_acr_values=acr_values, step_up_max_age_seconds=_integer(members, "max_age"))


def _notification(members: Mapping[str, object]) -> Obligations:
    """Its members are the PDP's own: they are published as they stand."""
    try:
        orjson.dumps(members)
    except (TypeError, ValueError) as error:
        raise ObligationError("a notification that is not JSON") from error
    if not members:
        raise ObligationError("an empty notification")
    return Obligations(notifications=(members,))


def _session_termination(members: Mapping[str, object]) -> Obligations:
    _only(members, "subject")
    subject = _text(members.get("subject"), "a session_termination without a usable subject")
    return Obligations(terminate_sessions=(subject,))


_READERS: Final[Mapping[str, Callable[[Mapping[str, object]], Obligations]]] = {
    "usage_grant": _usage_grant,
    "release": _release,
    "step-up": _step_up,
    "notification": _notification,
    "session_termination": _session_termination,
}


# -- values --------------------------------------------------------------------------------------------------------
def _members(value: object) -> Mapping[str, object]:
    if type(value) is not dict:
        raise ObligationError("an obligation's value is not an object")
    return value


def _only(members: Mapping[str, object], *names: str) -> None:
    if not members.keys() <= set(names):
        raise ObligationError(f"an unknown member beside {' and '.join(names)}")


def _integer(members: Mapping[str, object], name: str) -> int | None:
    """`type`, not `isinstance`: JSON's true is no number, 60.0 is no integer."""
    if name not in members:
        return None
    value = members[name]
    if type(value) is not int or not 1 <= value <= MAX_INTEGER:
        raise ObligationError(f"{name} is not an integer of at least 1")
    return value


def _names(value: object) -> Sequence[str]:
    if type(value) is not list or not 1 <= len(value) <= MAX_NAMES:
        raise ObligationError("`release` names no keys, or too many")
    for name in value:
        if type(name) is not str or not 1 <= len(name) <= MAX_TEXT_CHARS:
            raise ObligationError("`release` holds something that is not a key's name")
    return value


def _acr_values(value: object) -> tuple[str, ...]:
    if type(value) is not list or not 1 <= len(value) <= MAX_NAMES:
        raise ObligationError("step-up names no acr values, or too many")
    for one in value:
        if type(one) is not str or not _ACR.fullmatch(one):
            raise ObligationError("step-up holds something that is not an acr value")
    return tuple(dict.fromkeys(value))


def _text(value: object, complaint: str) -> str:
    if type(value) is not str or not 1 <= len(value) <= MAX_TEXT_CHARS or not value.isprintable():
        raise ObligationError(complaint)
    return value


def _annotation(annotations: Mapping[str, str | None], name: str) -> str | None:
    """An annotation's text; None where it is absent. One without a value (`@release`) says nothing and is refused."""
    if name not in annotations:
        return None
    value = annotations[name]
    if not value:
        raise ObligationError(f"@{name} has no value")
    return value


def _decimal(annotations: Mapping[str, str | None], name: str) -> int | None:
    value = _annotation(annotations, name)
    if value is None:
        return None
    if not _DECIMAL.fullmatch(value) or int(value) > MAX_INTEGER:
        raise ObligationError(f'@{name}("{value[:32]}") is not a decimal integer of at least 1')
    return int(value)
