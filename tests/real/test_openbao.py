"""The harness itself: what a test may rely on when it uses the real OpenBao."""

from __future__ import annotations

import ssl
import urllib.request
from pathlib import Path

import pytest
from hvac.exceptions import Forbidden, VaultDown

from sidecar.dev.certificates import make_certificates
from tests.real.openbao import SEEDS, OpenBao, TlsListener

pytestmark = pytest.mark.real


def test_the_shared_server_is_seeded(openbao: OpenBao) -> None:
    for path, values in SEEDS.items():
        read = openbao.root().secrets.kv.v2.read_secret_version(path, raise_on_deleted_version=True)
        assert read["data"]["data"] == values


def test_the_audit_shows_each_request_in_the_raw_since_a_mark(openbao: OpenBao) -> None:
    mark = openbao.mark()
    openbao.root().secrets.kv.v2.read_secret_version("app/db", raise_on_deleted_version=True)
    (request,) = openbao.requests(since=mark)
    assert (request["operation"], request["path"]) == ("read", "secret/data/app/db")
    assert request["client_token"] == openbao.root_token
    assert [entry["type"] for entry in openbao.audit(since=mark)] == ["request", "response"]


def test_a_token_may_do_what_its_policy_says(openbao: OpenBao) -> None:
    openbao.policy("harness-reader", 'path "secret/data/app/db" { capabilities = ["read"] }')
    client = openbao.anonymous()
    client.token = openbao.token("harness-reader", period="1h")
    assert client.secrets.kv.v2.read_secret_version("app/db", raise_on_deleted_version=True)
    with pytest.raises(Forbidden):
        client.secrets.kv.v2.read_secret_version("app/api", raise_on_deleted_version=True)


def test_an_approle_logs_in(openbao: OpenBao) -> None:
    role_id, secret_id = openbao.approle("harness", "default", token_period="1h")
    answer = openbao.anonymous().auth.approle.login(role_id, secret_id)
    assert answer["auth"]["policies"] == ["default"]


def test_a_persistent_server_comes_back_sealed_and_keeps_what_it_knew(tmp_path: Path) -> None:
    with OpenBao(tmp_path, persistent=True) as server:
        server.root().sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
        server.put("a", {"b": "c"})
        server.restart()
        with pytest.raises(VaultDown):
            server.root().secrets.kv.v2.read_secret_version("a", raise_on_deleted_version=True)
        server.unseal()
        read = server.root().secrets.kv.v2.read_secret_version("a", raise_on_deleted_version=True)
        assert read["data"]["data"] == {"b": "c"}


def test_a_server_may_also_listen_with_tls(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)
    with OpenBao(tmp_path / "openbao", tls=TlsListener(made.server.cert, made.server.key)) as server:
        context = ssl.create_default_context(cafile=str(made.ca))
        with urllib.request.urlopen(f"{server.tls_address}/v1/sys/health", context=context) as answer:
            assert answer.status == 200
