"""Every row of every table, run by a real OpenBao: its audit says what the surface said."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import orjson
import pytest

from sidecar.surface.engines import ENGINES
from sidecar.surface.local_answers import ui_mount, ui_mounts
from sidecar.surface.mounts import Mount, MountTable
from sidecar.surface.operation import Operation, UpstreamRequest
from sidecar.surface.vault_api import VaultApi
from tests.real.openbao import OpenBao
from tests.surface.asking import JSON, MERGE_PATCH, ask

pytestmark = pytest.mark.real

MOUNTS: Final = (
    Mount("secret", "kv2"),
    Mount("odd name/kv%2f", "kv2"),
    Mount("secret", "kv2", "ns1"),
    Mount("kv1", "kv1"),
    Mount("transit", "transit"),
    Mount("pki", "pki"),
    Mount("database", "database"),
)
TABLE: Final = MountTable(MOUNTS, [mount.name for mount in MOUNTS])
API: Final = VaultApi(lambda: TABLE)
AUDITED: Final = {
    "GET": {"read"},
    "LIST": {"list"},
    "POST": {"update", "create"},
    "PATCH": {"patch"},
    "DELETE": {"delete"},
}

# What stands for the parts of a shape, and the bodies that its operations need.
PARTS: Final = {
    "{path...}": "app/a%25%C3%BC%20b%5C%23%3F;+",
    "{folder...}": "app",
    "{key}": "k1",
    "{algorithm}": "sha2-256",
    "{bytes}": "16",
    "{source}": "platform",
    "{role}": "web",
    "{serial}": "0a:1b",
    "{version}": "latest",
}
KIND: Final = {"datakey": "wrapped", "export": "public-key"}
BODIES: Final[dict[str, dict[str, Any]]] = {
    "kv2.write": {"data": {"a": "b"}, "options": {}},
    "kv2.patch": {"data": {"c": "d"}},
    "kv2.delete": {"versions": [1]},
    "kv2.undelete": {"versions": [1]},
    "kv2.destroy": {"versions": [1]},
    "kv2.metadata_write": {"max_versions": 5, "custom_metadata": {"team": "x"}},
    "kv1.write": {"a": "b"},
    "transit.encrypt": {"batch_input": [{"plaintext": "aGk="}, {"plaintext": "aGk="}]},
    "transit.decrypt": {"ciphertext": "vault:v1:x"},
    "transit.rewrap": {"ciphertext": "vault:v1:x"},
    "transit.sign": {"input": "aGk="},
    "transit.verify": {"input": "aGk=", "signature": "vault:v1:x"},
    "transit.hmac": {"input": "aGk="},
    "transit.hash": {"input": "aGk="},
    "pki.issue": {"common_name": "a.test"},
    "pki.sign": {"csr": "none"},
    "pki.revoke": {"serial_number": "0a:1b"},
}
METHODS: Final = {"GET": ("GET",), "LIST": ("LIST", "GET"), "POST": ("POST", "PUT"), "PATCH": ("PATCH",)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A server of its own, with one mount of each engine."""
    with OpenBao(tmp_path_factory.mktemp("openbao")) as started:
        root = started.root()
        root.sys.enable_secrets_engine("kv", "kv1", options={"version": "1"})
        root.sys.enable_secrets_engine("kv", "odd name/kv%2f", options={"version": "2"})
        for engine in ("transit", "pki", "database"):
            root.sys.enable_secrets_engine(engine)
        root.sys.create_namespace("ns1")
        started.root("ns1").sys.enable_secrets_engine("kv", "secret", options={"version": "2"})
        root.secrets.transit.create_key("k1", key_type="rsa-2048")
        root.secrets.pki.generate_root("internal", "corpus.test")
        root.secrets.pki.create_or_update_role("web", {"allow_any_name": True})
        yield started


def _requests() -> Iterator[tuple[str, str, dict[str, Any] | None, str]]:
    """Method, target, body and expected operation of each shape of each row, on each mount of its engine."""
    for mount in MOUNTS:
        name = "/".join(part.replace("%", "%25").replace(" ", "%20") for part in mount.name.split("/"))
        for row in ENGINES[mount.engine].rows:
            for shape in row.shapes:
                parts = shape.split("/")
                path = "/".join(KIND[parts[0]] if part == "{kind}" else PARTS.get(part, part) for part in parts)
                body = BODIES.get(row.operation) if row.body is not None else None
                for method in METHODS.get(row.verb, (row.verb.value,)):
                    query = "?list=true" if (method, row.verb.value) == ("GET", "LIST") else ""
                    yield method, f"/v1/{name}/{path}{query}", body, row.operation


def _send(server: OpenBao, request: UpstreamRequest) -> tuple[int, bytes]:
    """Sends exactly what was built."""
    headers = {"X-Vault-Token": server.root_token, "X-Vault-Request": "true"}
    if request.namespace:
        headers["X-Vault-Namespace"] = request.namespace
    if request.body is not None:
        headers["Content-Type"] = request.content_type
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    target = request.path + (f"?{request.query}" if request.query else "")
    try:
        connection.request(request.method, target, request.body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _check(server: OpenBao, operation: Operation) -> None:
    upstream = operation.upstream
    mark = server.mark()
    status, answer = _send(server, upstream)
    assert status != 405, "OpenBao has no such operation"
    assert b"unsupported path" not in answer
    assert b"no handler for route" not in answer
    (request,) = server.requests(since=mark)
    assert request["operation"] in AUDITED[upstream.method]
    assert request["path"] == unquote(upstream.path.removeprefix("/v1/"))
    assert request["namespace"].get("path", "") == (f"{upstream.namespace}/" if upstream.namespace else "")
    sent = orjson.loads(upstream.body) if upstream.body else dict(parse_qsl(upstream.query))
    assert request.get("data", {}) == sent


@pytest.mark.parametrize(
    ("method", "target", "body", "name"), list(_requests()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_openbao_does_what_was_named(
    server: OpenBao, method: str, target: str, body: dict[str, Any] | None, name: str
) -> None:
    headers = MERGE_PATCH if method == "PATCH" else JSON
    operation = ask(method, target, json.dumps(body).encode() if body is not None else b"", headers, API)
    assert operation.name == name
    _check(server, operation)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/secret/data/app?version=1",
        "/v1/secret/data/app?version=0",
        "/v1/secret/subkeys/app?depth=1&version=2",
        "/v1/secret/metadata/?list=true&after=a+b%2F&limit=2",
        "/v1/pki/certs?list=true&limit=1",
        "/v1/transit/export/public-key/k1?format=der",
    ],
)
def test_openbao_gets_the_query_that_was_read(server: OpenBao, target: str) -> None:
    _check(server, ask("GET", target, api=API))


def test_mounts_are_told_in_openbao_s_own_shape(server: OpenBao) -> None:
    def real(path: str, namespace: str = "") -> dict[str, Any]:
        status, answer = _send(server, UpstreamRequest("GET", f"/v1/sys/internal/ui/mounts{path}", "", namespace))
        assert status == 200
        data: dict[str, Any] = orjson.loads(answer)["data"]
        return data

    told = ("path", "type", "options")
    for path, namespace in (("secret/app/db", ""), ("kv1", ""), ("transit/keys/x", ""), ("secret", "ns1")):
        ours, theirs = ui_mount(TABLE, path, namespace), real(f"/{path}", namespace)
        assert [ours[name] for name in told] == [theirs[name] for name in told]
        assert ours.keys() == theirs.keys()
    ours, theirs = ui_mount(TABLE, "ns1/secret/app"), real("/ns1/secret/app")
    assert [ours[name] for name in told] == [theirs[name] for name in told]
    assert ui_mounts(TABLE)["secret"].keys() <= real("")["secret"].keys()
