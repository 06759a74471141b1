"""Who is at the other end of a connection, as the kernel and the TLS handshake tell it."""

from __future__ import annotations

import asyncio
import ipaddress
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
    is_local = is_unix or all(_is_loopback(transport.get_extra_info(end)) for end in ("peername", "sockname"))
    tls = transport.get_extra_info("ssl_object")
    if tls is not None:
        return Peer("tls", tls.getpeercert(binary_form=True), uid, is_local)
    return Peer("unix" if is_unix else "tcp", None, uid, is_local)


def _is_loopback(name: object) -> bool:
    """Whether a socket's name is an address on loopback, also where IPv6 shows one of IPv4."""
    if type(name) is not tuple or not name:
        return False
    try:
        address = ipaddress.ip_address(name[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if address.version == 6 else None
    return (mapped or address).is_loopback
