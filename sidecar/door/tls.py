"""TLS of the application's listener (RFC 8705 where it asks for client certificates)."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidecar.config import ListenTls

_CLIENT_CERT = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


def reload_certificate(context: ssl.SSLContext, tls: ListenTls) -> None:
    """Puts the certificate and key on disk into a live context, both or neither.

    OpenSSL takes the certificate before it looks at the key, so a pair that does not fit would end every handshake: it
    is tried on a context of its own first. What was tried is what is taken: the files' bytes, in memory.
    Raises OSError or ssl.SSLError; the old pair then stays in force.
    """
    if tls.cert_file is None or tls.key_file is None:
        return
    with _in_memory(tls.cert_file) as cert, _in_memory(tls.key_file) as key:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
        context.load_cert_chain(cert, key)


@contextmanager
def _in_memory(file: Path) -> Iterator[str]:
    """The path of a copy that lies in memory only."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, file.read_bytes())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def server_context(tls: ListenTls) -> ssl.SSLContext | None:
    """The listener's context, or None where no certificate is configured.

    TLS 1.2 and 1.3. No session tickets and no renegotiation: each connection proves its certificate itself, so that
    an identity never outlives the check that let it in. OpenSSL checks the client certificate's chain, dates and
    purpose (EKU clientAuth). Raises OSError or ssl.SSLError where a file cannot be used.
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
    return context
