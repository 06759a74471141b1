"""Who is at the other end of a connection, as the kernel and the TLS handshake tell it."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

from sidecar.door.head import Peer

_UCRED: Final = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """The peer of a connection that was just made."""
    sock = transport.get_extra_info("socket")
    is_unix = sock is not None and sock.family == socket.AF_UNIX
    uid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1] if is_unix else None
    tls = transport.get_extra_info("ssl_object")
    if tls is not None:
        return Peer("tls", tls.getpeercert(binary_form=True), uid)
    return Peer("unix", None, uid) if is_unix else Peer("tcp")
