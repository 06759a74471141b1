"""Files that are rotated under a running sidecar."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sidecar.upstream.files import watch
from tests.support.waiting import until


async def test_a_change_is_told_once_and_tried_again_until_it_can_be_read(tmp_path: Path) -> None:
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    cert.write_text("one")
    key.write_text("one")
    seen: list[str] = []

    async def read() -> None:
        seen.append(cert.read_text() + key.read_text())
        if cert.read_text() != key.read_text():
            raise OSError("the certificate and its key do not go together")

    watching = asyncio.create_task(watch([cert, key], read, seconds=0.01))
    await asyncio.sleep(0)  # it has looked at them once
    cert.write_text("other")
    await until(lambda: len(seen) >= 2, "it was tried again")
    key.write_text("other")
    await until(lambda: seen[-1] == "otherother", "it was read")
    told = len(seen)
    cert.write_text("third")
    key.write_text("third")
    await until(lambda: seen[-1] == "thirdthird", "the next was read")
    assert len(seen) > told
    watching.cancel()
