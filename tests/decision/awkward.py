"""The recorded answers that no PDP should give, and that one must survive: `awkward_answers.jsonl`, one a line.

A line has a `name` and what goes over the wire, its texts being bytes (latin-1): `raw` is all of it; `answer` a JSON
answer to one question, which stands between two permits where three are asked in `evaluations`; `body` and `batch` are
whole bodies of the one endpoint and the other. `status`, `type`, `headers`, `chunked` say how, `<pad>` is replaced by
`pad` times `padding`, and `then` what comes after: close, reset, hang, drip, drip body. `codes` are the refusals that
are right; `permits` the items of a batch that may be permitted beside it, `others` that its neighbours are.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.decision.pdp_server import Exchange

Answer = Mapping[str, Any]

ANSWERS: Final[list[Answer]] = [
    json.loads(line)
    for line in (Path(__file__).parent / "awkward_answers.jsonl").read_text(encoding="ascii").splitlines()
]
OF_ONE: Final = [one for one in ANSWERS if {"raw", "answer", "body"} & one.keys()]
PERMIT: Final[Answer] = {"name": "a permit", "answer": '{"decision": true}'}
PLAIN: Final = [one for one in OF_ONE if not one.keys() - {"name", "answer", "body", "batch", "codes", "others"}]
"""Of those, the ones that are nothing but a body."""
DRIP_SECONDS: Final = 0.05


def permitted_beside(answer: Answer) -> set[int]:
    """Which of three questions may be permitted where this answers `evaluations`."""
    return {0, 2} if answer.get("others") else set(answer.get("permits", ()))


def bytes_of(answer: Answer) -> bytes:
    """The body that answers one question."""
    return _bytes(answer, "body" if "body" in answer else "answer")


async def give(answer: Answer, exchange: Exchange) -> None:
    """Answers so."""
    then = answer.get("then", "")
    if then == "drip":
        await _drip(exchange, _bytes(answer, "raw"))
        await asyncio.sleep(3600)
    if "raw" in answer:
        await exchange.send(_bytes(answer, "raw"))
    else:
        await _give_body(answer, exchange, _body(answer, exchange), drips=then == "drip body")
    if then == "hang" or then == "drip body":
        await asyncio.sleep(3600)
    if then == "reset":
        raw: socket.socket = exchange.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        exchange.writer.transport.abort()
    elif then == "close":
        exchange.writer.close()


async def _give_body(answer: Answer, exchange: Exchange, body: bytes, *, drips: bool) -> None:
    lines = [f"HTTP/1.1 {answer.get('status', '200 OK')}", *answer.get("headers", ())]
    kind = answer.get("type", "application/json")
    if kind is not None:
        lines.append(f"Content-Type: {kind}")
    chunked = answer.get("chunked", False)
    lines.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}")
    await exchange.send("\r\n".join([*lines, "", ""]).encode())
    if drips:
        await _drip(exchange, body)
    else:
        await exchange.send(b"%x\r\n%b\r\n" % (len(body), body) if chunked else body)


def _body(answer: Answer, exchange: Exchange) -> bytes:
    if not exchange.target.endswith("evaluations"):
        return bytes_of(answer)
    if "batch" in answer:
        return _bytes(answer, "batch")
    return b'{"evaluations": [%b, %b, %b]}' % (bytes_of(PERMIT), bytes_of(answer), bytes_of(PERMIT))


def _bytes(answer: Answer, name: str) -> bytes:
    text: str = answer[name]
    return text.replace("<pad>", answer.get("padding", "x") * answer.get("pad", 0)).encode("latin-1")


async def _drip(exchange: Exchange, data: bytes) -> None:
    """All but the last byte, one by one."""
    for byte in data[:-1]:
        await exchange.send(bytes([byte]))
        await asyncio.sleep(DRIP_SECONDS)
