"""The certificates do what they are for in a real handshake, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import threading
from pathlib import Path

import pytest

from sidecar.dev.certificates import Certificates, KeyPair, make_certificates, thumbprint


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def _handshake(made: Certificates, server: KeyPair, client: KeyPair | None, name: str) -> bytes | None:
    """Runs one mutual handshake on a socket pair; returns the client certificate's DER as the server saw it."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(server.cert, server.key)
    server_context.load_verify_locations(made.ca)
    server_context.verify_mode = ssl.CERT_REQUIRED
    client_context = ssl.create_default_context(cafile=str(made.ca))
    if client is not None:
        client_context.load_cert_chain(client.cert, client.key)
    left, right = socket.socketpair()
    seen: list[bytes | None] = []

    def serve() -> None:
        with left:
            try:
                with server_context.wrap_socket(left, server_side=True) as stream:
                    seen.append(stream.getpeercert(binary_form=True))
                    stream.sendall(b"x")
            except ssl.SSLError:
                pass  # the client's side of the handshake says what was wrong

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with right, client_context.wrap_socket(right, server_hostname=name) as stream:
            if stream.recv(1) != b"x":
                raise ssl.SSLError("closed without a word")
    finally:
        thread.join()
    return seen[0]


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_server_and_client_meet_under_every_loopback_name(made: Certificates, name: str) -> None:
    der = _handshake(made, made.server, made.client, name)
    assert der is not None
    expected = base64.urlsafe_b64encode(hashlib.sha256(der).digest()).decode().rstrip("=")
    assert thumbprint(made.client.cert) == expected


def test_no_handshake_under_another_name(made: Certificates) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(made, made.server, made.client, "openbao.example")


def test_a_client_certificate_is_no_server_certificate(made: Certificates) -> None:
    with pytest.raises(ssl.SSLError):
        _handshake(made, made.client, made.client, "app.dev.internal")


def test_the_servers_certificate_is_no_client_certificate(made: Certificates) -> None:
    with pytest.raises(ssl.SSLError):
        _handshake(made, made.server, made.server, "localhost")


def test_without_a_client_certificate_there_is_no_connection(made: Certificates) -> None:
    with pytest.raises(ssl.SSLError):
        _handshake(made, made.server, None, "localhost")


def test_two_clients_of_one_ca_have_two_thumbprints(made: Certificates) -> None:
    assert thumbprint(made.client.cert) != thumbprint(made.other_client.cert)


def test_no_key_of_the_ca_is_kept_and_the_files_are_the_owners_alone(made: Certificates) -> None:
    files: list[Path] = sorted(made.ca.parent.iterdir())
    assert [path.name for path in files] == sorted(
        ["ca.pem"] + [f"{name}{end}.pem" for name in ("server", "client", "other-client") for end in ("", "-key")]
    )
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
