"""A pod's network: a namespace with nothing in it but its loopback, its address, and ways out to chosen ports."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import http.client
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from sidecar.dev.ports import LOOPBACK
from tests.chaos.network import Network

ADDRESS: Final = "10.88.0.2"
"""Of every pod: each is alone in its network."""

_CLONE_NEWNET: Final = 0x40000000  # <linux/sched.h>
_SIOCSIFADDR, _SIOCSIFFLAGS, _IFF_UP = 0x8916, 0x8914, 1  # <linux/sockios.h>, netdevice(7)
_PROBE_SECONDS: Final = 5.0

Result = TypeVar("Result")


class PodNetwork:
    """`ways_out` are ports of this machine's loopback, which the pod finds on its own loopback: OpenBao, the API
    server. Each can be taken `away`."""

    def __init__(self, ways_out: Iterable[int]) -> None:
        self._inside = ThreadPoolExecutor(1, thread_name_prefix="pod-network")  # one thread, ever
        self.inside(_enter_a_new_one)
        self.namespace = self.inside(_namespace)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pod-ways-out", daemon=True)
        self._thread.start()
        self._ways = {port: Network(self._listener(port), f"{LOOPBACK}:{port}") for port in ways_out}
        for way in self._ways.values():
            asyncio.run_coroutine_threadsafe(way.__aenter__(), self._loop).result()

    def close(self) -> None:
        """Takes it down. Whoever still runs in it keeps it, and reaches nothing."""
        for way in self._ways.values():
            asyncio.run_coroutine_threadsafe(way.__aexit__(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._inside.shutdown()
        os.close(self.namespace)

    def away(self, port: int) -> None:
        """What is behind that port is away: nobody takes connections, those that stand are broken."""
        self._ways[port].refuses = True
        self._loop.call_soon_threadsafe(self._ways[port].cut)

    def back(self, port: int) -> None:
        """It is back."""
        self._ways[port].refuses = False

    def get(self, address: str, port: int, path: str) -> tuple[int, bytes]:
        """An HTTP GET from inside, as the kubelet's probe: status and body. Raises `OSError` or `HTTPException`."""

        def ask() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(address, port, timeout=_PROBE_SECONDS)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

        return self.inside(ask)

    def inside(self, function: Callable[[], Result]) -> Result:
        """Called in a thread whose sockets are the pod's."""
        return self._inside.submit(function).result()

    def _listener(self, port: int) -> socket.socket:
        def listen() -> socket.socket:
            listener = socket.create_server((LOOPBACK, port))
            listener.setblocking(False)
            return listener

        return self.inside(listen)


def _enter_a_new_one() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:  # of this thread alone
        raise PermissionError(
            ctypes.get_errno(), "pods of the tests run in namespaces of their own, which needs root (see `make doctor`)"
        )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", _IFF_UP))
        address = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(ADDRESS))
        fcntl.ioctl(any_socket, _SIOCSIFADDR, struct.pack("16s16s", b"lo:pod", address))


def _namespace() -> int:
    return os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
