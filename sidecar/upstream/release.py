"""What leaves: OpenBao's answer, less what belongs to the sidecar's own login, cut down to what may be released.

Pure: bytes in, bytes out. An answer that holds the sidecar's token or its accessor anywhere, or that hands out a token
(`auth`) or a wrapped answer (`wrap_info`), is refused whole: OpenBao was asked for none of these.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final, NamedTuple, NoReturn, Protocol

from sidecar.decision.permit import Permit
from sidecar.errors import Code, Refused
from sidecar.upstream.failure import untrustworthy

_KEYS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "kv2.read": ("data", "data"),
    "kv2.subkeys": ("data", "subkeys"),
    "kv1.read": ("data",),
}
"""Where the keys of a secret stand in the answer, for each operation that a `release` obligation can be met on."""

_LOGIN_MEMBERS: Final = ("auth", "wrap_info")
_NAMED_AND_NULL: Final = [(f'"{name}"'.encode(), f'"{name}":null'.encode()) for name in _LOGIN_MEMBERS]


class Own(Protocol):
    """The sidecar's own login, as far as it must be kept in."""

    @property
    def own_secrets(self) -> tuple[bytes, ...]:
        """Bytes that never leave: recent tokens and their accessors."""


class Streamable(Protocol):
    """An answer that can be streamed."""

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """Bytes of the caller's own login, which the sidecar made and keeps."""

    def stream(self) -> AsyncGenerator[bytes, None]:
        """Its body as it comes."""


class Release:
    """Lets answers out."""

    def __init__(self, own: Own) -> None:
        self._own = own

    def body(self, permit: Permit, status: int, raw: bytes, secrets: tuple[bytes, ...] = ()) -> bytes:
        """A permitted operation's answer: unchanged, or with the released keys only. `secrets` are those of the answer
        that the body is of. Raises `Refused`."""
        self.own(raw, secrets)
        _refuse_login(raw)
        released = permit.verdict.obligations.release
        if released is None:
            return raw
        return _only(released, permit.operation.name, status, raw)

    def own(self, raw: bytes, secrets: tuple[bytes, ...] = ()) -> bytes:
        """A body that holds nothing of the sidecar's logins. Raises `Refused` where it does."""
        for secret in (*self._own.own_secrets, *secrets):
            if secret in raw:
                raise _held_back()
        return raw

    async def stream(self, answer: Streamable) -> AsyncGenerator[bytes, None]:
        """The same, for a body passed on as it comes: what could be the beginning of a secret is held back until it is
        known not to be one. Raises `Refused` in the middle, which cuts the caller's answer."""
        overlap = max((len(secret) for secret in (*self._own.own_secrets, *answer.secrets)), default=1) - 1
        held = b""
        async with aclosing(answer.stream()) as chunks:
            async for chunk in chunks:
                held = self.own(held + chunk, answer.secrets)
                if len(held) > overlap:
                    yield held[: len(held) - overlap]
                    held = held[len(held) - overlap :]
        if held:
            yield held


def shortened(raw: bytes, seconds: int) -> bytes:
    """An answer with a lease, told to last no longer than this. All else keeps its exact bytes. Raises `Refused`."""
    try:
        text = raw.decode()
        lasts = _the_only(_top(text), "lease_duration")
        if int(text[lasts.value : lasts.end]) <= seconds:
            return raw
    except (ValueError, RecursionError):
        raise untrustworthy("an answer whose lease cannot be told") from None
    return f"{text[: lasts.value]}{seconds}{text[lasts.end :]}".encode()


def _held_back() -> Refused:
    return untrustworthy("the answer holds something of the sidecar's own login; it was held back")


def _refuse_login(raw: bytes) -> None:
    """Refuses an answer whose own `auth` or `wrap_info` is not null.

    OpenBao writes both, without spaces, into every answer that is not an error. Where nothing but null follows these
    names nothing need be parsed; else they may still be keys of the secret.
    """
    for named, null in _NAMED_AND_NULL:
        if raw.count(named) != raw.count(null):
            break
    else:
        return
    try:
        text = raw.decode()
        for member in _top(text):
            if member.name in _LOGIN_MEMBERS and text[member.value : member.end] != "null":
                raise untrustworthy("an answer with a login or a wrapped answer in it")
    except (ValueError, RecursionError):
        raise untrustworthy("an answer that names `auth` or `wrap_info` and is no JSON object") from None


# -- the `release` obligation --------------------------------------------------------------------------------------
def _only(released: frozenset[str], operation: str, status: int, raw: bytes) -> bytes:
    """The answer with only the released keys of the secret. What stays keeps its exact bytes: a number that was
    parsed and written again might be another number."""
    way = _KEYS_OF.get(operation)
    if way is None:
        raise Refused(Code.OBLIGATION_UNMET, "only a KV secret can be released by its keys")
    if status >= 400 and not raw:
        return raw
    try:
        text = raw.decode()
        members = _top(text)
        if status >= 400 and all(member.name != way[0] for member in members):
            return raw  # an error says why, and nothing of the secret
        secret = _the_only(members, way[0])
        for name in way[1:]:
            secret = _the_only(_members(text, secret.value)[0], name)
        if text[secret.value : secret.end] == "null":  # a deleted version: its metadata is all there is
            return raw
        members, end = _members(text, secret.value)
        kept = [text[member.start : member.end] for member in members if member.name in released]
        if len({member.name for member in members}) != len(members):
            raise ValueError("a key that stands twice")
    except (ValueError, RecursionError):
        raise untrustworthy("an answer whose keys cannot be told, with a release obligation on it") from None
    return f"{text[: secret.value]}{{{','.join(kept)}}}{text[end:]}".encode()


class _Member(NamedTuple):
    """A member of a JSON object: its name, where it starts, where its value starts, where both end."""

    name: str
    start: int
    value: int
    end: int


def _top(text: str) -> list[_Member]:
    """The members of the one object that the text is. Raises `ValueError`."""
    members, end = _members(text, _skip(text, 0))
    if _skip(text, end) != len(text):
        raise ValueError("something behind the object")
    return members


def _the_only(members: list[_Member], name: str) -> _Member:
    (found,) = [member for member in members if member.name == name]
    return found


def _members(text: str, at: int) -> tuple[list[_Member], int]:
    """The members of the object that starts at `at`, and where it ends. Raises `ValueError`, `RecursionError`."""
    members: list[_Member] = []
    at = _skip(text, _expect(text, at, "{"))
    if text[at : at + 1] == "}":
        return members, at + 1
    while True:
        start = at
        if text[start : start + 1] != '"':
            raise ValueError("a name was expected")
        name, at = _decoder.raw_decode(text, start)
        value = _skip(text, _expect(text, _skip(text, at), ":"))
        end = _decoder.raw_decode(text, value)[1]
        members.append(_Member(name, start, value, end))
        at = _skip(text, end)
        if text[at : at + 1] == "}":
            return members, at + 1
        at = _skip(text, _expect(text, at, ","))


def _expect(text: str, at: int, letter: str) -> int:
    if text[at : at + 1] != letter:
        raise ValueError(f"{letter} was expected")
    return at + 1


def _skip(text: str, at: int) -> int:
    """Past the white space of JSON (RFC 8259, section 2)."""
    while text[at : at + 1] in (" ", "\t", "\n", "\r"):
        at += 1
    return at


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Numbers are not read, only passed over: they may be longer than Python likes to convert.
_decoder: Final = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_no_constant)
