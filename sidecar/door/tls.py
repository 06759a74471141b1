"""TLS of the application's listener (RFC 8705 where it asks for client certificates), renewed while it listens."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Final

import structlog

from sidecar.config import ListenTls
from sidecar.door.trust import ClientTrust

LOOK_SECONDS: Final = 1.0

_CLIENT_CERT: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_log = structlog.get_logger(__name__)


class ListenerTls:
    """The listener's certificate, authorities and revocation lists as their files have them.

    `context` is for the listener and stays; each handshake goes on under the present state of the files. A state that
    cannot be used, such as a key that does not fit its certificate, changes nothing. `problem` says what is wrong with
    the files, empty where nothing is.
    """

    def __init__(self, tls: ListenTls) -> None:
        """Raises OSError, ssl.SSLError or ValueError where a file cannot be used, or there is no certificate."""
        context = server_context(tls)
        if context is None:
            raise ValueError("the listener has no certificate")
        self._tls = tls
        self._seen = self._look()
        self._present, self._trust = context, _client_trust(tls)
        self.context = context
        self.context.sni_callback = self._choose
        self.problem = ""

    @property
    def trust(self) -> ClientTrust | None:
        """See `TrustSource`."""
        return self._trust

    def reload(self) -> None:
        """Puts what the files hold now into force, all of it or nothing.

        Raises:
            OSError, ssl.SSLError, ValueError: it cannot be used; the old stays in force.
        """
        seen = self._look()
        try:
            context, trust = server_context(self._tls), _client_trust(self._tls)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            self.problem = f"the files cannot be used, the old stay in force: {type(error).__name__}"
            raise
        if context is not None:
            self._seen, self._present, self._trust, self.problem = seen, context, trust, ""

    async def watch(self) -> None:
        """Looks at the files for ever; a changed one is put into force within seconds."""
        failed: tuple[tuple[int, ...], ...] | None = None
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            seen = self._look()
            if seen in (self._seen, failed):
                continue
            try:
                await asyncio.to_thread(self.reload)
            except (OSError, ValueError) as error:
                failed = seen  # until they change again: writers that are not done are given time
                _log.error("listener certificates not reloaded, the old stay in force", reason=type(error).__name__)
            else:
                _log.info("listener_certificates_reloaded")

    def _choose(self, handshake: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called by OpenSSL once it has read the client's hello, with or without a server name."""
        if self._present is not self.context:
            handshake.context = self._present

    def _look(self) -> tuple[tuple[int, ...], ...]:
        """What changes when a file does, also by another file behind the same path (a mounted volume)."""
        tls = self._tls
        return tuple(_stamp(file) for file in (tls.cert_file, tls.key_file, tls.client_ca_file, tls.client_crl_file))


def server_context(tls: ListenTls) -> ssl.SSLContext | None:
    """The listener's context, or None where no certificate is configured.

    TLS 1.2 and 1.3. No session tickets and no renegotiation: each connection proves its certificate itself, so that
    an identity never outlives the check that let it in. OpenSSL checks the client certificate's chain, dates,
    purpose (EKU clientAuth) and, where there are lists, that none of the chain is revoked. Raises OSError or
    ssl.SSLError where a file cannot be used.
    """
    if tls.cert_file is None:
        return None
    # Not `ssl.create_default_context`: it writes session keys to the file that SSLKEYLOGFILE names.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.cert_file, tls.key_file)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = _CLIENT_CERT[tls.client_cert]
    if tls.client_ca_file is not None and tls.client_cert != "none":
        context.load_verify_locations(cafile=tls.client_ca_file)
        if tls.client_crl_file is not None:
            context.load_verify_locations(cafile=tls.client_crl_file)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    return context


def _client_trust(tls: ListenTls) -> ClientTrust | None:
    if tls.client_ca_file is None or tls.client_cert == "none":
        return None
    return ClientTrust(tls.client_ca_file, tls.client_crl_file)


def _stamp(file: Path | None) -> tuple[int, ...]:
    if file is None:
        return ()
    try:
        status = file.stat()
    except OSError:
        return (0,)
    return status.st_mtime_ns, status.st_size, status.st_ino
