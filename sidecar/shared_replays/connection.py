"""One connection to the store, on which commands are sent in batches and answered in order."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from sidecar.config import AntiReplay
from sidecar.config.store_address import store_address
from sidecar.shared_replays.resp import MAX_LINE_BYTES, ProtocolError, Reply, ServerError, encode, read_reply

FAILURES: Final = (OSError, EOFError, TimeoutError, ProtocolError, ServerError, ValueError)
"""What may go wrong with a store. `ssl.SSLError` is an OSError; ValueError is a file that is no certificate."""


class Connection:
    """Logged in, its database selected. Whatever fails, nothing more can be asked on it: close it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, config: AntiReplay) -> Connection:
        """Connects, with password and certificates as they are in their files now. Raises one of `FAILURES`."""
        address = store_address(config.store)
        context = _ssl_context(config) if address.tls else None
        password = config.store_password_file.read_text().rstrip("\r\n") if config.store_password_file else ""
        reader, writer = await asyncio.open_connection(
            address.host,
            address.port,
            ssl=context,
            server_hostname=address.host if context is not None else None,
            limit=MAX_LINE_BYTES,
        )
        connection = cls(reader, writer)
        try:
            first = []
            if password:
                first.append(encode("AUTH", *([address.username] if address.username else []), password))
            if address.database:
                first.append(encode("SELECT", address.database))
            for reply in await connection.exchange(first):
                if reply != b"OK":
                    raise reply if isinstance(reply, ServerError) else ProtocolError("no answer to a login")
        except BaseException:
            connection.close()
            raise
        return connection

    async def exchange(self, commands: Sequence[bytes]) -> list[Reply]:
        """The replies, one a command. Raises one of `FAILURES`; an error reply is among the replies."""
        self._writer.write(b"".join(commands))
        await self._writer.drain()
        return [await read_reply(self._reader) for _ in commands]

    def close(self) -> None:
        """Ends it, whatever is under way."""
        with suppress(OSError, RuntimeError):
            self._writer.transport.abort()


def _ssl_context(config: AntiReplay) -> ssl.SSLContext:
    """Verifies the store's certificate and name; there is no switch that turns that off."""
    context = ssl.create_default_context(cafile=config.store_ca_file)
    if config.store_cert_file is not None:
        context.load_cert_chain(config.store_cert_file, config.store_key_file)
    return context
