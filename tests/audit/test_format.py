"""The format page's vectors are what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from sidecar.audit.chain import link
from sidecar.audit.framing import frame
from tests.audit.chains import first_break

PAGE = (Path(__file__).parents[2] / "docs/reference/audit-format.md").read_text(encoding="utf-8")


def vectors() -> list[bytes]:
    block = re.search(r"```jsonl\n(.*?)```", PAGE, re.DOTALL)
    assert block
    return block[1].encode().splitlines()


def test_the_vectors_are_a_whole_chain_with_the_hashes_and_checksums_given() -> None:
    records = vectors()
    assert first_break(records) is None
    given = re.findall(r"\| (\d) \| `([0-9a-f]{64})` \| `([0-9a-f]{8})` \|", PAGE)
    assert given == [
        (str(number), link(record), frame(record)[:8].decode()) for number, record in enumerate(records, 1)
    ]


def test_the_framed_line_is_the_last_vectors() -> None:
    block = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert block
    assert block[1].encode() == frame(vectors()[-1])


def test_what_the_page_says_must_be_found_is_found() -> None:
    one, two, three = vectors()
    changed = first_break([one, two.replace("café".encode(), b"cafe"), three])
    assert changed is not None
    assert changed.seq == 3
    for broken in ([one, three], [one, three, two], [one, two, two, three], [two, three]):
        assert first_break(broken) is not None
