"""The page docs/reference/differences.md, row by row: the same bytes to OpenBao itself and through the sidecar."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from sidecar.errors import STATUS, Code
from tests.clients.places import Both
from tests.clients.test_clients import DIFFERENT
from tests.differential.desk import rawhttp

PAGE: Final = (Path(__file__).parents[2] / "docs" / "reference" / "differences.md").read_text(encoding="utf-8")
_ROW: Final = re.compile(
    r"^\| \*\*(?P<name>.+?)\*\* \| `(?P<request>[A-Z]+ [^`]+)`(?: `(?P<body>\{[^`]*\})`)?(?: with `(?P<header>[^`]+)`)?"
    r" \| (?P<directly>\d{3}) \| (?P<status>\d{3}) `(?P<code>[A-Z_]+)` \|",
    re.MULTILINE,
)


class Row(NamedTuple):
    """One row: the request in parts, OpenBao's status, the sidecar's code."""

    name: str
    method: str
    target: str
    version: str
    body: str
    header: str
    directly: int
    status: int
    code: Code


def rows() -> list[Row]:
    """The second table."""
    found = []
    for match in _ROW.finditer(PAGE):
        method, target, *version = match["request"].split(" ")
        raw_target = target.encode().decode("unicode_escape")
        found.append(
            Row(
                match["name"],
                method,
                raw_target,
                version[0] if version else "HTTP/1.1",
                match["body"] or "",
                match["header"] or "",
                int(match["directly"]),
                int(match["status"]),
                Code(match["code"]),
            )
        )
    return found


def ask(row: Row, port: int, token: str) -> dict[str, Any]:
    """The answer to exactly these bytes."""
    lines = {"Host": f"127.0.0.1:{port}", "X-Vault-Token": token}
    if row.body:
        lines |= {"Content-Type": "application/json", "Content-Length": str(len(row.body))}
    if row.header:
        name, _, value = row.header.partition(": ")
        lines[name] = value
    head = [f"{row.method} {row.target} {row.version}", *(f"{name}: {value}" for name, value in lines.items())]
    raw = "\r\n".join([*head, "", row.body]).encode("latin-1")
    answer: dict[str, Any] = rawhttp.exchange("127.0.0.1", port, raw, methods=[row.method])["responses"][0]
    return answer


@pytest.mark.real
@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_a_row_says_what_openbao_and_what_the_sidecar_answers(both: Both, row: Row) -> None:
    directly = ask(row, both.alone.port, both.alone.root_token)
    assert directly["status"] == row.directly, directly
    through = ask(row, both.sidecar.port, both.through.token())
    assert through["status"] == row.status == STATUS[row.code]
    if row.method != "HEAD":
        assert json.loads(through["body"])["code"] == row.code


def test_every_row_is_read() -> None:
    written = re.findall(r"^\| \*\*(.+?)\*\* \|", PAGE, re.MULTILINE)
    assert [row.name for row in rows()] == written
    assert len(set(written)) == len(written) > 20


def test_the_page_names_each_step_that_differs() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == DIFFERENT.keys()
