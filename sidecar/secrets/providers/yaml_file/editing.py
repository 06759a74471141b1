"""Changing one secret in the text of the file: all that is not of the secret stays as it stands, to the byte.

Comments, order, quotes and indentation are people's work. So the text is not written anew from a tree: a value's own
span is replaced, a key's own lines are added or taken out. What comes of it is read again and compared, so that an edit
that would change anything else is none.

In a map that is written in braces, keys are not added or taken out one by one: the whole map is written anew, and a
comment between its braces goes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from sidecar.config import MAX_YAML_BYTES
from sidecar.secrets.providers.yaml_file.document import (
    MAX_DEPTH,
    Branch,
    DocumentError,
    Leaf,
    Member,
    at,
    check_name,
    read,
)

_INDENT: Final = 2
_plain: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*").fullmatch
_RESERVED: Final = frozenset({"y", "yes", "n", "no", "on", "off", "true", "false", "null"})
_block_header: Final = re.compile(r"[|>][^\n#]*( #[^\n]*)?\n").match


class EditError(ValueError):
    """What the file cannot hold; the text says why, without a name or a value."""


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: str


Edits = list[_Edit]


def edited(text: str, root: Branch, path: tuple[str, ...], values: Mapping[str, Any] | None) -> tuple[str, Branch]:
    """The text, which reads as `root`, in which the secret at this path has these keys, and no others; None: there is
    no such secret. And what it reads as then.

    Raises `EditError`.
    """
    for name in path:
        _check(check_name(name, folder=True))
    for name, value in (values or {}).items():
        _check(check_name(name, folder=False))
        _check("a map cannot be the value of a key in a YAML file: it would be a folder" * isinstance(value, dict))
    _check(f"nested deeper than {MAX_DEPTH}" * (len(path) >= MAX_DEPTH))
    known = at(root, path)
    if values is None and (known is None or not known.is_secret):
        return text, root
    wanted = _tree(root)
    _put(wanted, path, values)
    made = _apply(text, _edits(text, root, path, values))
    if len(made.encode()) > MAX_YAML_BYTES:
        raise EditError(f"the YAML file would be larger than {MAX_YAML_BYTES} bytes")
    try:
        after = read(made)
    except DocumentError:
        after = None
    if after is None or _canonical(_tree(after)) != _canonical(wanted):
        raise EditError("the YAML file is written in a way that cannot be changed here; change it by hand")
    return made, after


# -- what is wanted ------------------------------------------------------------------------------------------------
class _Folder(dict[str, Any]):
    """A map of the file; a value that is a map (in a list) is a plain `dict`."""


def _tree(branch: Branch) -> _Folder:
    return _Folder(
        (name, _tree(each.node) if isinstance(each.node, Branch) else each.node.value)
        for name, each in branch.members.items()
    )


def _canonical(value: Any) -> Any:
    """Compares by name and to the digit; a map of the file is not a value."""
    if isinstance(value, _Folder):
        return {name: _canonical(each) for name, each in value.items()}
    return orjson.dumps(value)


def _put(tree: _Folder, path: tuple[str, ...], values: Mapping[str, Any] | None) -> None:
    """Changes the tree as the text shall be. Raises `EditError` where a name is taken by something of another kind."""
    node, above = tree, []
    for name in path:
        above.append((node, name))
        below = node.get(name)
        if below is None and name not in node:
            below = node[name] = _Folder()
        if not isinstance(below, _Folder):
            raise EditError("a key of this name lies where the secret's folder would be; a map holds a name once")
        node = below
    if any(isinstance(node.get(name), _Folder) for name in values or ()):
        raise EditError("a folder of this name lies where the key would be; a map holds a name once")
    had_keys = any(not isinstance(each, _Folder) for each in node.values())
    for name in [name for name, each in node.items() if not isinstance(each, _Folder)]:
        del node[name]
    node.update(values or {})
    if values is None:
        while above and not node:
            node, name = above.pop()
            del node[name]
    elif not values and node and not had_keys:
        raise EditError("a secret without keys cannot be where others lie below")


# -- what to do for it ---------------------------------------------------------------------------------------------
def _edits(text: str, root: Branch, path: tuple[str, ...], values: Mapping[str, Any] | None) -> Edits:
    """The edits, from those maps on that the path has already."""
    chain: list[tuple[Branch, Member | None]] = [(root, None)]
    for name in path:
        member = chain[-1][0].members.get(name)
        if member is None or not isinstance(member.node, Branch):
            break
        chain.append((member.node, member))
    missing = path[len(chain) - 1 :]
    if values is None:
        return _removal(text, chain, path) if not missing else []
    flow = next((index for index, (branch, _) in enumerate(chain) if branch.flow and branch.members), None)
    if flow is not None:  # in braces, from here on down
        branch = chain[flow][0]
        tree = _tree(branch)
        _put(tree, path[flow:], values)
        return [_Edit(branch.start, branch.end, _in_braces(tree))]
    branch, member = chain[-1]
    if missing:
        tree = _Folder()
        _put(tree, missing, values)
        return _addition(text, branch, member, tree)
    kept: Edits = []
    gone = [each for name, each in branch.members.items() if isinstance(each.node, Leaf) and name not in values]
    for name, value in values.items():
        known = branch.members.get(name)
        if known is not None and isinstance(known.node, Leaf) and orjson.dumps(known.node.value) != orjson.dumps(value):
            kept += _replacement(text, known, known.node, _in_braces(value))
    new = {name: value for name, value in values.items() if name not in branch.members}
    edits = [*kept, *(_lines_of(text, each) for each in gone)]
    if new:
        edits += _addition(text, branch, member, _Folder(new))
    elif len(gone) == len(branch.members) and gone and member is not None:
        edits.append(_behind_colon(text, member, " {}"))
    return edits


def _removal(text: str, chain: list[tuple[Branch, Member | None]], path: tuple[str, ...]) -> Edits:
    """Takes out the keys, and every map that is empty then."""
    flow = next((index for index, (branch, _) in enumerate(chain) if branch.flow and branch.members), None)
    depth = len(chain) - 1
    branch = chain[depth][0]
    if branch.branches():
        if flow is None:
            return [_lines_of(text, each) for each in branch.members.values() if isinstance(each.node, Leaf)]
    else:
        while depth > 1 and len(chain[depth - 1][0].members) == 1:
            depth -= 1
        member = chain[depth][1]
        if member is not None and (flow is None or depth <= flow):
            return [_lines_of(text, member)]
    if flow is None:
        return []
    top = chain[flow][0]
    tree = _tree(top)
    _put(tree, path[flow:], None)
    return [_Edit(top.start, top.end, _in_braces(tree))]


def _lines_of(text: str, member: Member) -> _Edit:
    """A member's own lines, with what stands behind it on the last of them."""
    start = text.rfind("\n", 0, member.start) + 1
    end = text.find("\n", max(member.end, member.node.end) - 1)
    return _Edit(start, len(text) if end < 0 else end + 1, "")


def _replacement(text: str, member: Member, leaf: Leaf, value: str) -> Edits:
    if leaf.start == leaf.end:  # nothing stands there
        return [_behind_colon(text, member, f" {value}")]
    if "\n" not in text[member.end : leaf.start]:
        header = _block_header(text, leaf.start)
        comment = (header[1] or "") if header is not None else ""
        return [_Edit(leaf.start, leaf.end, value + comment)]
    # On lines of its own: a list, or a text that was wrapped.
    line = text.rfind("\n", 0, leaf.start) + 1
    end = text.find("\n", leaf.end - 1)
    return [
        _behind_colon(text, member, f" {value}"),
        _Edit(line, len(text) if end < 0 else end + 1, ""),
    ]


def _addition(text: str, branch: Branch, member: Member | None, tree: _Folder) -> Edits:
    """New lines behind the last of a map that is not in braces; `{}` gives way to them."""
    edits: Edits = []
    if branch.members:
        place, column = _line_end(text, branch.tail), branch.column
    elif member is None:
        place, column = len(text), 0
        if branch.flow:  # the whole document is `{}`
            edits.append(_Edit(branch.start, branch.end, ""))
    else:
        place = _line_end(text, branch.end)
        column = member.start - text.rfind("\n", 0, member.start) - 1 + _INDENT
        edits.append(_Edit(len(text[: branch.start].rstrip(" ")), branch.end, ""))
    begun = "" if place == 0 or text[place - 1] == "\n" else "\n"
    return [*edits, _Edit(place, place, begun + _as_lines(tree, column))]


def _line_end(text: str, place: int) -> int:
    """Behind the line in which something ends."""
    if place and text[place - 1] == "\n":
        return place
    end = text.find("\n", place)
    return len(text) if end < 0 else end + 1


def _behind_colon(text: str, member: Member, value: str) -> _Edit:
    place = text.index(":", member.end) + 1
    return _Edit(place, place, value)


def _apply(text: str, edits: Edits) -> str:
    """From the last to the first; of two at one place the later given comes behind."""
    for _, edit in sorted(enumerate(edits), key=lambda each: (each[1].start, each[1].end, each[0]), reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


# -- how it is written ---------------------------------------------------------------------------------------------
def _as_lines(tree: _Folder, column: int) -> str:
    lines = []
    for name, value in tree.items():
        shown = _name(name)
        if isinstance(value, _Folder) and value:
            lines.append(f"{' ' * column}{shown}:\n{_as_lines(value, column + _INDENT)}")
        else:
            lines.append(f"{' ' * column}{shown}: {_in_braces(value)}\n")
    return "".join(lines)


def _name(name: str) -> str:
    return name if _plain(name) and name.lower() not in _RESERVED else _quoted(name)


def _in_braces(value: Any) -> str:
    """As JSON, which is YAML too (YAML 1.2, section 1.3)."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(name)}: {_in_braces(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_in_braces, value)) + "]"
    return _quoted(value) if isinstance(value, str) else orjson.dumps(value).decode()


def _quoted(text: str) -> str:
    """In double quotes; what YAML does not take as it is, is escaped."""
    return "".join(
        char if char.isprintable() or char == " " else _escaped(char) for char in orjson.dumps(text).decode()
    )


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _check(problem: str) -> None:
    if problem:
        raise EditError(problem)
