"""How it is noticed that a file is another: credentials and certificates are rotated under a running sidecar."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import structlog

_log = structlog.get_logger(__name__)

WATCH_SECONDS: Final = 5.0


def signature(path: Path) -> object:
    """Another value whenever the file is another; None where it is not there."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_ino, seen.st_mtime_ns, seen.st_size


async def watch(
    files: Sequence[Path], on_change: Callable[[], Awaitable[None]], seconds: float = WATCH_SECONDS
) -> None:
    """Calls `on_change` whenever one of the files is another, until cancelled. What cannot be read yet, a certificate
    without its key, is tried again."""
    loaded = [signature(path) for path in files]
    while files:
        await asyncio.sleep(seconds)
        seen = [signature(path) for path in files]
        if seen == loaded:
            continue
        try:
            await on_change()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            _log.warning("files not reloaded, the old stay in force", reason=str(error))
        else:
            loaded = seen
            _log.info("files reloaded", files=[str(path) for path in files])
