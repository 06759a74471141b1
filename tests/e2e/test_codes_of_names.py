"""Each 400 that speaks of names, and the 403 of what is no operation, by every way on which a caller meets it: the
command that explains a request, the command that reads a URI, and the wire."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml
from typer.testing import CliRunner

from sidecar.cli import app
from sidecar.errors import STATUS, Code
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer
from tests.test_config import minimal, with_

pytestmark = pytest.mark.real

OVERRIDES: Final[dict[str, Any]] = {
    # OpenBao has no mount `gone`: the two tables disagree about it. For `cubbyhole` there is no table of operations.
    "mounts": [
        {"path": "secret", "engine": "kv2"},
        {"path": "gone", "engine": "kv2"},
        {"path": "cubbyhole", "engine": "cubbyhole"},
    ],
    "tenant": {"allowed_mounts": ["secret", "gone", "cubbyhole"]},
    "identity": {"binding": "preferred"},
    "anti_replay": {"unbound_token": "off"},
}


class Way(NamedTuple):
    """How a code is reached: a request, and the URI that has the same fault. Empty where there is none."""

    code: Code
    method: str
    target: str
    header: str = ""
    uri: str = ""


IN_NS1: Final = "X-Vault-Namespace: ns1"
WAYS: Final = (
    Way(Code.ILLEGAL_SEGMENT, "GET", "/v1/secret/data/a/../b", uri="openbao+kv2://secret/a/../b"),
    Way(Code.ILLEGAL_SEGMENT, "GET", "/v1/secret/data/a/%2e%2e/b", uri="openbao+kv2://secret/a/%2e%2e/b"),
    Way(Code.ILLEGAL_SEGMENT, "GET", "/v1/secret/data//a", uri="openbao+kv2://secret//a"),
    Way(Code.ILLEGAL_SEGMENT, "GET", "/v1/secret/data/a", header="X-Vault-Namespace: ns1/../ns2"),
    Way(Code.ILLEGAL_ENCODING, "GET", "/v1/secret/data/a%2fb", uri="openbao+kv2://secret/a%2fb"),
    Way(Code.ILLEGAL_ENCODING, "GET", "/v1/secret/%64ata/a", uri="openbao+kv2://secret/%64b"),
    Way(Code.ILLEGAL_ENCODING, "GET", "/v1/secret/data/%ff", uri="openbao+kv2://secret/%ff"),
    Way(Code.ILLEGAL_ENCODING, "GET", "/v1/secret/data/%zz", uri="openbao+kv2://secret/%zz"),
    Way(Code.INVALID_WILDCARD, "GET", "/v1/secret/data/a/*", uri="openbao+kv2://secret/a/*"),
    Way(
        Code.AMBIGUOUS_QUERY,
        "GET",
        "/v1/secret/data/a?version=1&version=2",
        uri="openbao+kv2://secret/a?version=1&version=2",
    ),
    Way(Code.AMBIGUOUS_QUERY, "GET", "/v1/secret/data/a?depth=1", uri="openbao+kv2://secret/a?depth=1"),
    Way(Code.DOUBLE_MOUNT_SOURCE, "GET", "/v1/ns1/secret/data/a", header=IN_NS1),
    Way(Code.AMBIGUOUS_MOUNT, "GET", "/v1/gone/data/a"),
    Way(Code.UNSUPPORTED_ENGINE, "GET", "/v1/cubbyhole/a", uri="openbao+cubbyhole://cubbyhole/a"),
    Way(Code.TENANT_MOUNT_MISMATCH, "GET", "/v1/other/data/a", uri="openbao+kv2://other/a"),
    Way(
        Code.PROVIDER_TRAILING_SLASH_MISMATCH,
        "GET",
        "/v1/secret/data/a/",
        uri="openbao+kv2://secret/a/?version=1",
    ),
    Way(Code.INVALID_URI, "GET", "/v1/secret/data/" + "a" * 5000, uri="openbao+kv2://secret"),
    Way(Code.INVALID_URI, "GET", "/v1/secret/data/a#b", uri="secret/a"),
    Way(Code.OPERATION_FORBIDDEN, "HEAD", "/v1/secret/data/a"),
    Way(Code.OPERATION_FORBIDDEN, "GET", "/v1/secret/config"),
    Way(Code.OPERATION_FORBIDDEN, "GET", "/v1/secret/metadata/?scan=true"),
    Way(Code.OPERATION_FORBIDDEN, "GET", "/v1/sys/mounts"),
    Way(Code.OPERATION_FORBIDDEN, "POST", "/v1/auth/userpass/login/app"),
    Way(Code.OPERATION_FORBIDDEN, "GET", "/v1/secret/data/a", header="X-Vault-Wrap-TTL: 60"),
)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[SidecarProcess]:
    with SidecarProcess(tmp_path_factory.mktemp("codes"), openbao, issuer, OVERRIDES) as started:
        yield started


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command over the configured mounts, where there is no network at all."""
    tree = minimal(tmp_path)
    with_(tree, "mounts", OVERRIDES["mounts"])
    with_(tree, "tenant.allowed_mounts", OVERRIDES["tenant"]["allowed_mounts"])

    def no_network(*_: object) -> None:
        raise AssertionError("a command looked for the network")

    def run(*words: str, **changed: Any) -> tuple[int, Any]:
        for key, value in changed.items():
            with_(tree, key.replace("__", "."), value)
        config = tmp_path / "sidecar.yaml"
        config.write_text(yaml.safe_dump(tree))
        with monkeypatch.context() as patched:
            for name in ("connect", "connect_ex", "sendto"):
                patched.setattr(socket.socket, name, no_network, raising=False)
            patched.setattr(socket, "getaddrinfo", no_network)
            done = CliRunner().invoke(app, [*words, "--config", str(config)])
        return done.exit_code, json.loads(done.stdout)

    return run


def test_the_table_has_every_code_of_the_contract_that_speaks_of_names() -> None:
    other = {Code.MALFORMED_REQUEST, Code.AMBIGUOUS_CREDENTIALS}
    speaking = {code for code in Code if STATUS[code] == 400} - other | {Code.OPERATION_FORBIDDEN}
    assert {way.code for way in WAYS} == speaking


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.code} {way.method} {way.target[:40]}")
def test_explain_and_uri_tell_the_code_without_any_network(way: Way, command: Any) -> None:
    expected = (way.code, STATUS[way.code])
    if way.code is not Code.AMBIGUOUS_MOUNT:  # it takes OpenBao's table as well, which `explain` does not look at
        header = ("--header", way.header) if way.header else ()
        exit_code, said = command("explain", way.method, way.target, *header)
        assert (exit_code, list(said)) == (1, ["error"])
        assert sorted(said["error"]) == ["code", "message", "status"]
        assert (said["error"]["code"], said["error"]["status"]) == expected
    if way.uri:
        exit_code, said = command("uri", way.uri)
        assert (exit_code, said["error"]["code"], said["error"]["status"]) == (1, *expected)


def test_the_wire_tells_the_same_codes_and_the_journal_has_them(process: SidecarProcess, openbao: OpenBao) -> None:
    mark = openbao.mark()
    for way in WAYS:
        status, body = _on_the_wire(process, way)
        assert status == STATUS[way.code], way
        if way.method != "HEAD":
            assert (body["code"], list(body)) == (way.code, ["errors", "code", "correlation_id"]), way
    denied = [record["code"] for record in process.records() if record["event"] == "SECRET_DENY"]
    assert denied == [way.code for way in WAYS]
    assert [entry for entry in openbao.requests(since=mark) if not entry["path"].startswith("sys/")] == []


def _on_the_wire(process: SidecarProcess, way: Way) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=30)
    try:
        connection.putrequest(way.method, way.target)
        connection.putheader("X-Vault-Token", process.issuer.token(sub="app"))
        if way.header:
            connection.putheader(*way.header.split(": "))
        connection.endheaders()
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None
    finally:
        connection.close()


def test_explain_tells_calls_about_callers_own_tokens_as_they_are_served_in_passthrough_alone(
    command: Any, tmp_path: Path
) -> None:
    login = ("explain", "POST", "/v1/auth/jwt/login")
    body = tmp_path / "login.json"
    body.write_text('{"role": "app", "jwt": "x"}')
    sent = {"method": "POST", "path": "/v1/auth/jwt/login", "query": "", "namespace": ""}
    token_free = {"upstream__auth": {"mode": "passthrough"}}
    exit_code, said = command(*login)
    assert (exit_code, said["error"]["code"]) == (1, "OPERATION_FORBIDDEN")
    assert command("explain", "GET", "/v1/auth/token/lookup-self")[1]["operation"] == "local.lookup-self"

    exit_code, said = command(*login, "--body", str(body), **token_free)
    assert (exit_code, said) == (
        0,
        {"canonical_uri": None, "operation": "auth.login", "purpose": None, "upstream": sent},
    )
    looked = command("explain", "GET", "/v1/auth/token/lookup-self")[1]
    assert looked["operation"] == "token.lookup_self"
    assert looked["upstream"]["path"] == "/v1/auth/token/lookup-self"
    assert command("explain", "GET", "/v1/secret/data/a")[1]["operation"] == "kv2.read"
    body.write_text('{"password": "x", "policies": "root"}')
    assert command(*login, "--body", str(body))[1]["error"]["code"] == "MALFORMED_REQUEST"
    assert command("explain", "POST", "/v1/auth/token/create")[1]["error"]["code"] == "OPERATION_FORBIDDEN"
