"""The one reading of a YAML file of secrets.

A map is a folder, and a secret: what lies in it that is no map are the secret's keys, what is a map lies below. So
each value has one URI, whatever it is reached by:

    secret:            the mount
      app:             yaml://secret/app/…
        db:            yaml://secret/app/db
          password: x  yaml://secret/app/db#password

Built from the parser's events, so that no tag is resolved, no alias expanded and no object made. What two readers of
YAML may read in two ways (`0123`, `yes`, a repeated name) is refused, with its line. No error quotes the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)

MAX_DEPTH: Final = 32
MAX_NODES: Final = 50_000
"""Names, values, and borders of maps and lists: some two seconds of reading."""
LONGEST_NAME: Final = 512
"""Characters; YAML itself takes no plain name beyond 1024."""

# YAML 1.2, section 10.3 (the core schema), as far as JSON has the same.
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_json_number: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?").fullmatch
# What readers of YAML 1.1 or 1.2 take for a number or a truth value in some other way. Not `y` and `n`: the letter of
# 1.1 has them, its readers do not.
_ambiguous: Final = re.compile(
    r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"
    r"|[-+]?0[xob][0-9A-Fa-f_]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
    r"|[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)?"
).fullmatch
_date: Final = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ].*)?").fullmatch
_PLAIN_DIGITS: Final = 18
"""Integers up to this length are `int`; longer ones, and fractions, keep the text they were written with."""


class DocumentError(ValueError):
    """The file is not one that can be read in one way. `line` is from 1, 0 where it is none's."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line


@dataclass(slots=True)
class Leaf:
    """A key's value, and where in the text it stands: `end` is behind its last character, `tail` behind all that
    belongs to it."""

    value: Any
    start: int
    end: int
    tail: int


@dataclass(slots=True)
class Member:
    """A name in a map, its own place, and what it names."""

    start: int
    end: int
    node: Leaf | Branch


@dataclass(slots=True)
class Branch:
    """A map. `flow` where it is written in braces; `column` is that of its names."""

    start: int
    end: int
    tail: int
    flow: bool
    column: int = 0
    members: dict[str, Member] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """The keys of the secret that this map is."""
        return {name: each.node.value for name, each in self.members.items() if isinstance(each.node, Leaf)}

    def branches(self) -> dict[str, Branch]:
        """What lies below it."""
        return {name: each.node for name, each in self.members.items() if isinstance(each.node, Branch)}

    @property
    def is_secret(self) -> bool:
        """Whether there is a secret here: one with keys, or an empty map, which is a secret without any."""
        return not self.members or any(isinstance(each.node, Leaf) for each in self.members.values())


def read(text: str) -> Branch:
    """The map of mounts that the file is; empty for an empty file. Raises `DocumentError`."""
    if text.startswith("\ufeff"):
        raise DocumentError("begins with a byte-order mark; save it without", 1)
    try:
        return _Reader(text).document()
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise DocumentError("is not YAML", mark.line + 1 if mark else 0) from None
    except (RecursionError, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, DocumentError):
            raise
        raise DocumentError("is not YAML") from None  # ruamel's scanner at escapes that are none


def decode(raw: bytes) -> str:
    """Raises `DocumentError`."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise DocumentError("is not UTF-8") from None


def at(root: Branch, path: tuple[str, ...]) -> Branch | None:
    """The map at a path, mount included; None where there is none."""
    node = root
    for name in path:
        member = node.members.get(name)
        if member is None or not isinstance(member.node, Branch):
            return None
        node = member.node
    return node


def check_name(name: str, *, folder: bool) -> str:
    """What is wrong with a name, so that no URI could have it; empty where nothing is."""
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        return "a name is empty, too long, or holds what cannot be printed"
    if folder and (name in (".", "..", "*") or "/" in name):
        return "the name of a map is `.`, `..`, `*` or holds a slash"
    return ""


class _Reader:
    """One pass over the events."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._nodes = 0
        self._end = 0
        """Behind what was read last."""
        self._events: Iterator[Event] = iter(YAML(typ="safe", pure=True).parse(text))

    def document(self) -> Branch:
        event = self._next(StreamStartEvent)
        event = self._next(DocumentStartEvent, StreamEndEvent)
        if isinstance(event, StreamEndEvent):
            return _nothing(len(self._text))
        if event.version is not None or event.tags:
            raise DocumentError("a directive (%); remove it", _line(event))
        event = self._next(MappingStartEvent, ScalarEvent)
        if isinstance(event, ScalarEvent):
            if event.style or event.value not in _NULL or event.start_mark.index != event.end_mark.index:
                raise DocumentError("the file is not a map of mounts", _line(event))
            root = _nothing(len(self._text))
        else:
            root = self._branch(event, (), 1)
        event = self._next(DocumentEndEvent)
        if event.explicit:
            raise DocumentError("a mark of the document's end (...); remove it", _line(event))
        event = self._next(StreamEndEvent, DocumentStartEvent)
        if isinstance(event, DocumentStartEvent):
            raise DocumentError("a second document", _line(event))
        return root

    def _next(self, *kinds: type[Event]) -> Any:
        event = next(self._events)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise DocumentError("more names and values than are read", _line(event))
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None) is not None:
            raise DocumentError("an anchor or an alias; write it out", _line(event))
        if getattr(event, "ctag", None) is not None or getattr(event, "tag", None) is not None:
            raise DocumentError("a tag; remove it", _line(event))
        if kinds and not isinstance(event, kinds):
            raise DocumentError("the file is not a map of mounts", _line(event))
        return event

    def _branch(self, event: Any, path: tuple[str, ...], depth: int) -> Branch:
        self._check_depth(event, depth)
        start = event.start_mark.index
        branch = Branch(start, start, start, bool(event.flow_style), event.start_mark.column)
        for key, after in self._pairs(branch.members, block=not branch.flow):
            line = _line(key)
            name = key.value
            if isinstance(after, MappingStartEvent):
                self._check(check_name(name, folder=True), line)
                node: Leaf | Branch = self._branch(after, (*path, name), depth + 1)
            else:
                self._check(check_name(name, folder=False), line)
                if len(path) < 2:
                    raise DocumentError("a value that no URI names; a key lies in secret: {app: {key: …}}", line)
                node = self._leaf(key, after, depth + 1)
            branch.members[name] = Member(key.start_mark.index, key.end_mark.index, node)
            branch.end = max(branch.end, node.end, key.end_mark.index)
            branch.tail = max(branch.tail, node.tail, key.end_mark.index)
        if branch.flow:
            branch.end = branch.tail = self._end
        return branch

    def _leaf(self, key: Any, after: Any, depth: int) -> Leaf:
        value = self._value(after, depth)
        start, end = after.start_mark.index, self._end
        if isinstance(after, ScalarEvent) and not after.style and not after.value:
            start = end = self._text.index(":", key.end_mark.index) + 1  # the parser says where the next thing is
        return Leaf(value, start, start + len(self._text[start:end].rstrip()), end)

    def _pairs(self, seen: Any, *, block: bool) -> Iterator[tuple[Any, Any]]:
        """The names of a map with the events that follow them; each name is checked."""
        while not isinstance(key := self._next(), MappingEndEvent):
            line = _line(key)
            if not isinstance(key, ScalarEvent):
                raise DocumentError("a name that is no text", line)
            if not key.style and (_is_special(key.value) or _date(key.value) or key.value in ("<<", "=")):
                raise DocumentError("a name that YAML may read as something else than text; quote it", line)
            if key.value in seen:
                raise DocumentError("a name that stands twice in its map", line)
            before = self._text[self._text.rfind("\n", 0, key.start_mark.index) + 1 : key.start_mark.index]
            if (block and before.strip(" -")) or before.rstrip().endswith("?"):
                raise DocumentError("a name that does not begin its line, or follows a `?`", line)
            yield key, self._next()
        self._end = key.end_mark.index

    def _value(self, event: Any, depth: int) -> Any:
        if isinstance(event, ScalarEvent):
            if event.style or event.value:
                self._end = event.end_mark.index
            return _scalar(event)
        self._end = event.end_mark.index
        self._check_depth(event, depth)
        if isinstance(event, SequenceStartEvent):
            items: list[Any] = []
            last = self._end
            while not isinstance(item := self._next(), SequenceEndEvent):
                items.append(self._value(item, depth + 1))
                last = self._end
            self._end = item.end_mark.index if event.flow_style else last
            return items
        if not isinstance(event, MappingStartEvent):
            raise DocumentError("the file is not a map of mounts", _line(event))
        values: dict[str, Any] = {}
        last = self._end
        for key, after in self._pairs(values, block=not event.flow_style):
            values[key.value] = self._value(after, depth + 1)
            last = max(self._end, key.end_mark.index)
        self._end = self._end if event.flow_style else last
        return values

    @staticmethod
    def _check(problem: str, line: int) -> None:
        if problem:
            raise DocumentError(problem, line)

    @staticmethod
    def _check_depth(event: Any, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise DocumentError(f"nested deeper than {MAX_DEPTH}", _line(event))


def _scalar(event: Any) -> Any:
    """A value as JSON has it."""
    text: str = event.value
    if event.style:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DocumentError("a text that is not Unicode (a lone surrogate)", _line(event)) from None
        return text
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _json_number(text):
        return int(text) if len(text) <= _PLAIN_DIGITS and _is_whole(text) else orjson.Fragment(text)
    if _ambiguous(text):
        raise DocumentError("a value that YAML reads in several ways; quote it where it is text", _line(event))
    return text


def _is_whole(text: str) -> bool:
    return text.lstrip("-").isdigit() and text != "-0"


def _is_special(text: str) -> bool:
    """Whether a plain scalar is, to some reader, no text."""
    return text in _NULL or text in _BOOL or bool(_json_number(text)) or bool(_ambiguous(text))


def _nothing(end: int) -> Branch:
    return Branch(end, end, end, flow=False)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
