"""A closed-loop HTTP/1.1 load generator: N keep-alive connections, each sends its next request when the answer is in.

Requests are prepared bytes, so that signing a proof costs the generator's set-up and not the measured time. Runs in a
process of its own: `python -m bench.load HOST PORT CONNECTIONS SECONDS FILE`, prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import uvloop


def write_requests(path: Path, requests: list[bytes]) -> None:
    """Length-prefixed requests. A single one is repeated for ever, several are each sent once."""
    path.write_bytes(b"".join(struct.pack("!I", len(request)) + request for request in requests))


def _read_requests(path: Path) -> list[bytes]:
    raw, out, at = path.read_bytes(), [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("!I", raw, at)
        out.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return out


def _supply(requests: list[bytes]) -> Iterator[bytes]:
    if len(requests) == 1:
        while True:
            yield requests[0]
    yield from requests


class _Connection(asyncio.Protocol):
    def __init__(self, supply: Iterator[bytes], until: float, statuses: dict[int, int], latencies: list[float]) -> None:
        self._supply, self._until, self._statuses, self._latencies = supply, until, statuses, latencies
        self._buffer = b""
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the interface, not the base class
        self._next()

    def _next(self) -> None:
        assert self._transport is not None
        request = next(self._supply, None) if time.perf_counter() < self._until else None
        if request is None:
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            if not rest.endswith(b"0\r\n\r\n"):
                return
        else:
            at = lower.find(b"content-length:")
            length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(rest) < length:
                return
        self._latencies.append(time.perf_counter() - self._sent)
        status = int(head[9:12])
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._buffer = b""
        self._next()

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.finished.done():
            self.finished.set_result(None)


async def _run(host: str, port: int, connections: int, seconds: float, requests: list[bytes]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    supply = _supply(requests)
    statuses: dict[int, int] = {}
    latencies: list[float] = []
    started = time.perf_counter()
    protocols = []
    for _ in range(connections):
        _, protocol = await loop.create_connection(
            lambda: _Connection(supply, started + seconds, statuses, latencies), host, port
        )
        protocols.append(protocol)
    await asyncio.gather(*(protocol.finished for protocol in protocols))
    took = time.perf_counter() - started
    latencies.sort()

    def percentile(fraction: float) -> float:
        return round(latencies[min(len(latencies) - 1, int(len(latencies) * fraction))] * 1000, 3) if latencies else 0.0

    return {
        "requests": len(latencies),
        "seconds": round(took, 3),
        "rps": round(len(latencies) / took, 1),
        "statuses": statuses,
        "p50_ms": percentile(0.50),
        "p99_ms": percentile(0.99),
    }


def main() -> None:
    """Runs one load and prints its result."""
    host, port, connections, seconds, path = sys.argv[1:6]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(_run(host, int(port), int(connections), float(seconds), _read_requests(Path(path))))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
