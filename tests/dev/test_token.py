"""`sidecar dev token`: what it prints is usable as it stands, and right by the standards."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from jwcrypto.jwk import JWK

from sidecar.client import DPoPKey
from sidecar.dev.certificates import make_certificates, thumbprint
from sidecar.dev.files import Layout
from sidecar.dev.issuer import DevIssuer
from sidecar.dev.state import AUDIENCE, Server, SidecarServer, WorldState
from sidecar.dev.token import Made, Output, Wanted, WantedError, make

NONCE = "nonce-of-the-server"
ISSUER = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def asked() -> Iterator[tuple[str, list[str]]]:
    """The origin of a server that does what the command needs of a sidecar, and the paths it was asked for."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.send_header("DPoP-Nonce", NONCE)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path, asked: tuple[str, list[str]]) -> Iterator[Path]:
    """The folder of a world that runs, as far as the command can tell."""
    layout = Layout.of(tmp_path / "world")
    log = layout.logs / "x.log"
    with layout.claim():
        make_certificates(layout.tls)

        def sidecar(origin: str) -> SidecarServer:
            return SidecarServer(origin=origin, pid=1, log=log, operations="http://127.0.0.1:3", config=log, spool=log)

        WorldState(
            pid=os.getpid(),
            audience=AUDIENCE,
            openbao=Server(origin="http://127.0.0.1:2", pid=1, log=log),
            issuer=Server(origin=ISSUER, pid=1, log=log),
            sidecar=sidecar(asked[0]),
            sidecar_mtls=sidecar("https://127.0.0.1:4"),
        ).write(layout)
        yield layout.root


def _claims(made: Made, folder: Path) -> dict[str, Any]:
    issuer = DevIssuer.from_file(ISSUER, Layout.of(folder).issuer_key)
    key = jwt.PyJWKSet.from_dict(issuer.jwks())[issuer.kid]
    claims: dict[str, Any] = jwt.decode(made.token, key, algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER)
    return claims


def _read_proof(proof: str) -> tuple[dict[str, Any], str]:
    """The proof's claims, verified with the key in it, and that key's thumbprint (RFC 7638)."""
    header = jwt.get_unverified_header(proof)
    assert (header["typ"], header["alg"]) == ("dpop+jwt", "ES256")
    key = JWK(**header["jwk"])
    assert not key.has_private
    return jwt.decode(proof, jwt.PyJWK(header["jwk"]), algorithms=["ES256"]), key.thumbprint()


def test_the_headers_hold_a_token_and_a_proof_that_belong_together(folder: Path, asked: tuple[str, list[str]]) -> None:
    url = f"{asked[0]}/v1/secret/data/app/db?version=3"
    made = make(folder, Wanted(subject="app", ttl=77, scope="secrets.read", url=url, method="DELETE"))
    lines = dict(line.split(": ", 1) for line in made.show(Output.HEADERS).splitlines())
    assert lines == {"Authorization": f"DPoP {made.token}", "DPoP": made.proof}
    claims, (proof, jkt) = _claims(made, folder), _read_proof(made.proof)
    assert claims["cnf"] == {"jkt": jkt}
    assert (claims["sub"], claims["scope"], claims["exp"] - claims["iat"]) == ("app", "secrets.read", 77)
    assert (proof["htm"], proof["htu"], proof["nonce"]) == ("DELETE", url.partition("?")[0], NONCE)
    ath = base64.urlsafe_b64encode(hashlib.sha256(made.token.encode()).digest()).decode().rstrip("=")
    assert proof["ath"] == ath


def test_the_nonce_is_asked_of_the_sidecar_without_a_token_and_without_a_record(
    folder: Path, asked: tuple[str, list[str]]
) -> None:
    asked[1].clear()
    make(folder, Wanted())
    assert asked[1] == ["/v1/sys/health"]
    asked[1].clear()
    assert _read_proof(make(folder, Wanted(nonce="given")).proof)[0]["nonce"] == "given"
    make(folder, Wanted(), with_proof=False)
    assert asked[1] == []


def test_a_subject_keeps_its_key_and_shares_it_with_nobody(folder: Path) -> None:
    def jkt(wanted: Wanted) -> str:
        return str(_claims(make(folder, wanted), folder)["cnf"]["jkt"])

    assert jkt(Wanted(subject="app")) == jkt(Wanted(subject="app"))
    assert len({jkt(Wanted(subject=name)) for name in ("app", "App", "a/b", "a%2fb", "../app", "", ".", "ä")}) == 8
    assert {path.suffix for path in Layout.of(folder).keys.iterdir()} == {".pem"}


def test_a_key_of_ones_own_is_used(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.pem"
    first = make(folder, Wanted(key=mine))
    assert mine.stat().st_mode & 0o777 == 0o600
    assert _read_proof(make(folder, Wanted(key=mine)).proof)[1] == _read_proof(first.proof)[1]


def test_bound_to_the_client_certificate_it_needs_no_proof(folder: Path) -> None:
    made = make(folder, Wanted(mtls=True))
    layout = Layout.of(folder)
    assert _claims(made, folder)["cnf"] == {"x5t#S256": thumbprint(layout.tls / "client.pem")}
    assert made.show(Output.HEADERS) == f"Authorization: Bearer {made.token}"
    assert made.url == "https://127.0.0.1:4/v1/secret/data/app/db"


def test_an_unbound_token_holds_no_confirmation(folder: Path) -> None:
    assert "cnf" not in _claims(make(folder, Wanted(unbound=True)), folder)


def test_the_environment_is_what_vault_clients_read(folder: Path) -> None:
    made = make(folder, Wanted(mtls=True), with_proof=False)
    script = f"{made.show(Output.ENV)}\nenv -0"
    printed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env={}).stdout
    environment = dict(item.split("=", 1) for item in printed.split("\0") if "=" in item)
    tls = Layout.of(folder).tls
    for prefix in ("BAO", "VAULT"):
        assert environment[f"{prefix}_ADDR"] == "https://127.0.0.1:4"
        assert environment[f"{prefix}_TOKEN"] == made.token
        assert environment[f"{prefix}_CACERT"] == str(tls / "ca.pem")
        assert environment[f"{prefix}_CLIENT_CERT"] == str(tls / "client.pem")
        assert environment[f"{prefix}_CLIENT_KEY"] == str(tls / "client-key.pem")


def test_the_curl_command_survives_the_shell(folder: Path, asked: tuple[str, list[str]]) -> None:
    url = f"{asked[0]}/v1/secret/data/app/it's $HOME"
    made = make(folder, Wanted(url=url, method="LIST"))
    assert shlex.split(made.show(Output.CURL)) == [
        *("curl", "-sS", "-X", "LIST"),
        *("-H", f"Authorization: DPoP {made.token}", "-H", f"DPoP: {made.proof}", url),
    ]


def test_json_tells_everything(folder: Path) -> None:
    made = make(folder, Wanted())
    shown = json.loads(made.show(Output.JSON))
    assert shown["headers"] == made.headers()
    assert shown["claims"] == _claims(made, folder)
    assert (shown["token"], shown["method"], shown["url"]) == (made.token, "GET", made.url)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Wanted(mtls=True, unbound=True), "exclude each other"),
        (Wanted(url="ftp://127.0.0.1/x"), "not an http"),
        (Wanted(url="http://[::1/x"), "not an http"),
        (Wanted(url="/v1/secret/data/app/db"), "not an http"),
        (Wanted(url="http://127.0.0.1:1/v1/x"), "no nonce to be had"),
        (Wanted(key=Path(__file__)), "cannot be used as a DPoP key"),
        (Wanted(subject="x" * 300), "cannot be used as a DPoP key"),
    ],
)
def test_what_cannot_be_made_is_said(folder: Path, wanted: Wanted, why: str) -> None:
    with pytest.raises(WantedError, match=why):
        make(folder, wanted)


def test_a_bound_token_s_environment_is_for_who_can_sign(folder: Path) -> None:
    """`sidecar secret`, with the key; not for Vault clients, which cannot."""
    made = make(folder, Wanted(), with_proof=False)
    lines = dict(line.removeprefix("export ").split("=", 1) for line in made.show(Output.ENV).splitlines())
    assert lines.keys() == {"SIDECAR_ADDR", "SIDECAR_TOKEN", "SIDECAR_DPOP_KEY"}
    assert lines["SIDECAR_TOKEN"] == made.token
    assert (
        DPoPKey.load(lines["SIDECAR_DPOP_KEY"]).thumbprint
        == jwt.decode(made.token, options={"verify_signature": False})["cnf"]["jkt"]
    )


def test_without_a_world_the_command_says_how_to_start_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "dev", "token"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "sidecar dev up" in done.stderr


def test_the_command_prints_headers_and_nothing_else(folder: Path) -> None:
    command = [sys.executable, "-m", "sidecar", "dev", "token", "--dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == ["Authorization", "DPoP"]
    assert done.stderr == ""
    twice = subprocess.run([*command, "--raw", "--json"], capture_output=True, text=True, check=False)
    assert twice.returncode == 1
    assert "choose one of" in twice.stderr
