"""The recorded requests: what OpenBao did with each, and what reaches the surface of it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from sidecar.config import Limits
from sidecar.door.framing import framing_of
from sidecar.door.head import END, Head, parse_head
from sidecar.errors import Refused

CORPUS: Final = Path(__file__).parents[1] / "corpus" / "public.jsonl"
_LIMITS: Final = Limits()


@dataclass(frozen=True)
class Case:
    """One recorded request and OpenBao's first audit entry for it; None where it was answered before the audit."""

    id: str
    raw: bytes
    request: dict[str, Any] | None

    def read(self) -> tuple[Head, bytes] | None:
        """Head and body as the door hands them on; None where it refuses them."""
        head_bytes, _, rest = self.raw.partition(END)
        try:
            head = parse_head(
                head_bytes + END,
                max_header_bytes=_LIMITS.max_header_kib * 1024,
                max_uri_bytes=_LIMITS.max_uri_bytes,
            )
            framing = framing_of(head)
            if framing is None:
                return head, b""
            body, _ = framing.feed(rest)
        except Refused:
            return None
        return (head, body) if framing.complete else None

    def split(self) -> tuple[Head, bytes] | None:
        """The same read without any care, to show the surface what the door would not: header values with controls,
        names in capitals, absolute targets. None where there is no head at all."""
        head_bytes, blank, body = self.raw.partition(END)
        words = head_bytes.split(b"\r\n")[0].decode("latin-1").split(" ")
        if not blank or len(words) < 2:
            return None
        path, mark, query = words[1].partition("?")
        headers: dict[str, str] = {}
        for line in head_bytes.split(b"\r\n")[1:]:
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return Head(words[0], path, query if mark else None, headers, len(body)), body


def _case(line: bytes) -> Case:
    record = orjson.loads(line)
    requests = [entry for entry in record["audit"] if entry["type"] == "request"]
    return Case(record["id"], base64.b64decode(record["request_b64"]), requests[0] if requests else None)


CASES: Final = [_case(line) for line in CORPUS.read_bytes().splitlines()]
