"""TLS towards OpenBao. The certificate and its name are always verified, TLS 1.2 is the least."""

from __future__ import annotations

import ssl

from sidecar.config import UpstreamTls


def client_context(tls: UpstreamTls) -> ssl.SSLContext:
    """A context of its own for each user: urllib3 changes the one it is given.

    Not `ssl.create_default_context`: that one writes the session keys to the file named by SSLKEYLOGFILE.
    Raises `OSError` and `ssl.SSLError` where a file cannot be read or does not hold what it should.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.ca_file is not None:
        context.load_verify_locations(cafile=tls.ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context
