"""Free TCP ports on 127.0.0.1."""

from __future__ import annotations

import socket
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"
_HIGHEST = 65_535
_SEARCHED = 100


class NoFreePortError(Exception):
    """No port could be had near the one that was asked for."""


def _listen(port: int) -> socket.socket:
    """Binds as a server would: a port in TIME_WAIT is free, one with a listener is not. Raises OSError."""
    probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((LOOPBACK, port))
        probe.listen(1)
    except OSError:
        probe.close()
        raise
    return probe


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    try:
        _listen(port).close()
    except OSError:
        return False
    return True


def free_port(preferred: int = 0) -> int:
    """The preferred port, or the next free one above it; any free port where 0 is preferred."""
    for port in range(preferred, min(preferred + _SEARCHED, _HIGHEST + 1)):
        try:
            probe = _listen(port)
        except OSError:
            continue
        with probe:
            return int(probe.getsockname()[1])
    raise NoFreePortError(f"none of the ports {preferred} to {preferred + _SEARCHED - 1} is free")


def free_pair() -> int:
    """A free port whose successor is free too: OpenBao listens for its cluster on the port above its own."""
    for _ in range(_SEARCHED):
        with ExitStack() as held:
            try:
                first: int = held.enter_context(_listen(0)).getsockname()[1]
                held.enter_context(_listen(first + 1))
            except (OSError, OverflowError):
                continue
            return first
    raise NoFreePortError("no two adjoining ports are free")
