"""Raw requests that OpenBao was asked: the door takes each in one clean reading, or refuses it and closes."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sidecar.door.timeouts import Timeouts
from tests.door.test_head import assert_is_clean
from tests.support.wire import Toy, open_house

CORPUS = Path(__file__).parents[1] / "corpus" / "public.jsonl"
RECORDS: list[dict[str, Any]] = [json.loads(line) for line in CORPUS.read_text().splitlines()]
FRAMES = [record for record in RECORDS if record["group"] == "frame"]
QUICK = Timeouts(head=0.2, idle=0.2, body_idle=0.2, body=0.5, skip=0.2, write=0.5, linger=0.1, sweep=0.02)


def pieces(record: dict[str, Any]) -> list[bytes]:
    """The request as it was sent: in parts of the recorded lengths, or whole."""
    raw = base64.b64decode(record["request_b64"])
    parts = []
    for length in record.get("sent_in_parts", [len(raw)]):
        parts.append(raw[:length])
        raw = raw[length:]
    assert raw == b""
    return parts


@pytest.mark.parametrize("record", FRAMES, ids=[record["id"] for record in FRAMES])
async def test_a_recorded_request_is_read_cleanly_or_refused_and_closed(record: dict[str, Any]) -> None:
    async with open_house(Toy(), timeouts=QUICK) as house:
        wire = await house.connect()
        await wire.send_in_pieces(*pieces(record))
        if record.get("client_half_closed"):
            wire.writer.write_eof()
        answers = await wire.rest()  # ends by a refusal, or because the client says nothing more
        heads = [seen.head for seen in house.toy.seen]
        for head in heads:
            assert_is_clean(head)
        sent = b"".join(pieces(record))
        assert len(heads) <= sent.count(b"HTTP/1.1\r\n")
        assert len(house.toy.refused) <= 1  # nothing is read behind the first refusal
        assert len(heads) + len(house.toy.refused) >= 1
        statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]
        assert [status for status in statuses if status != 100] == [200] * len(heads) + [400] * len(house.toy.refused)


@pytest.mark.parametrize("group", ["plain-kv1", "plain-kv2", "plain-transit", "plain-pki", "plain-misc", "wrapping"])
async def test_what_honest_clients_send_is_taken(group: str) -> None:
    async with open_house() as house:
        records = [record for record in RECORDS if record["group"] == group]
        wire = await house.connect()
        for record in records:
            raw = base64.b64decode(record["request_b64"])
            await wire.send(raw)
            assert (await wire.reply(to_head=raw.startswith(b"HEAD "))).status == 200, record["id"]
        assert len(house.toy.seen) == len(records)
