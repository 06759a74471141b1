"""HTTP 06 and 07, UP 01 to 04 and 09: what needs the whole sidecar, as it runs, with a policy that permits everything.

Between it and the real OpenBao stands a relay: it shows what was sent, and for secrets below `nasty/` it answers in
OpenBao's place, byte by byte.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from sidecar.upstream.headers import RELEASED, SENT
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer
from tests.support.waiting import wait_until
from tests.upstream.raw_server import Exchange, RawServer, answer

pytestmark = pytest.mark.real

NASTY = "/v1/secret/data/nasty/"
SECRET = b'{"data":{"data":{"v":"secret-canary"}}}'
LARGE = b'{"data":{"data":{"v":"' + b"x" * 2**20 + b'"}}}'
OVERRIDES: dict[str, Any] = {
    "identity": {"binding": "preferred"},
    "anti_replay": {"unbound_token": "off"},
    "upstream": {"timeout_seconds": 3},
}


def head(*lines: str, status: str = "200 OK") -> bytes:
    """The head of an answer, exactly so."""
    return "\r\n".join([f"HTTP/1.1 {status}", "Content-Type: application/json", *lines]).encode("latin-1") + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = head("Transfer-Encoding: chunked")
FILTERED = {
    "headers": answer(
        SECRET,
        200,
        "Set-Cookie: session=upstream-canary",
        "Location: http://upstream-canary.example/",
        "X-Vault-Token: upstream-canary",
        "X-Vault-Index: upstream-canary",
        "X-Vault-Whatever: upstream-canary",
        "WWW-Authenticate: Bearer upstream-canary",
        "Server: upstream-canary",
        "Access-Control-Allow-Origin: https://upstream-canary.example",
        "Connection: upgrade, keep-alive",
        "Upgrade: h2c",
    ),
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </upstream-canary>\r\n\r\n" + answer(SECRET),
    "continue": b"HTTP/1.1 100 Continue\r\nX-Vault-Token: upstream-canary\r\n\r\n" * 3 + answer(SECRET),
    "a second answer behind": answer(SECRET) + answer(b'{"upstream-canary":1}'),
}
REFUSED = {
    "gzip": answer(gzip.compress(SECRET), 200, "Content-Encoding: gzip"),
    "gzip bomb": answer(gzip.compress(bytes(2**26)), 200, "Content-Encoding: gzip"),
    "gzip of an error": answer(gzip.compress(bytes(2**26)), 403, "Content-Encoding: gzip"),
    "brotli": answer(SECRET, 200, "Content-Encoding: br"),
    "gzip as a transfer coding": head("Transfer-Encoding: gzip, chunked") + chunk(gzip.compress(SECRET)) + chunk(b""),
    "two lengths": head("Content-Length: 39", "Content-Length: 3") + SECRET,
    "length and chunked": head("Content-Length: 39", "Transfer-Encoding: chunked") + chunk(SECRET) + chunk(b""),
    "no length": head() + SECRET,
    "length with a sign": head("Content-Length: +39") + SECRET,
    "too short": answer(SECRET, length=len(SECRET) + 1),
    "too short an error": answer(b'{"errors":["secret-canary', 403, length=100),
    "a broken chunk": CHUNKED + b"zz\r\n" + SECRET,
    "bytes behind": answer(SECRET) + b"upstream-canary",
    "nothing at all": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no HTTP": b"secret-canary\r\n\r\n",
    "switching protocols": head("Upgrade: h2c", "Connection: upgrade", status="101 Switching Protocols") + SECRET,
    "a redirect": answer(SECRET, 307, "Location: /v1/secret/data/other"),
    "no content with a body": answer(SECRET, 204),
    "a wrapped answer": answer(b'{"data":null,"wrap_info":{"token":"s.canary","ttl":60},"auth":null}'),
    "a login": answer(b'{"data":null,"wrap_info":null,"auth":{"client_token":"s.canary"}}'),
}
CUT = {
    "too few chunks": CHUNKED + chunk(SECRET),
    "chunks without their end": CHUNKED + chunk(LARGE),
    "a chunk without its end": CHUNKED + b"%x\r\n" % (2 * len(LARGE)) + LARGE,
    "a length that is not reached": answer(LARGE, length=2 * len(LARGE)),
    "a broken chunk behind": CHUNKED + chunk(LARGE) + b"zz\r\n",
}
ANSWERS = FILTERED | REFUSED | CUT


@dataclass
class House:
    """The sidecar, the relay behind it, OpenBao behind that."""

    sidecar: SidecarProcess
    relay: RawServer
    openbao: OpenBao

    @property
    def token(self) -> str:
        """What authenticates the caller."""
        return self.sidecar.issuer.token(sub="app")

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """One request of an authenticated caller; it follows no redirect."""
        self._wait_for_relay()
        given = {"X-Vault-Token": self.token, **(headers or {})}
        url = self.sidecar.url + path
        return requests.request(method, url, data=body, headers=given, timeout=30, allow_redirects=False)

    def raw(self, path: str) -> tuple[bytes, bytes]:
        """The head and all bytes behind it until the sidecar closes."""
        self._wait_for_relay()
        lines = (f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{self.sidecar.port}", f"X-Vault-Token: {self.token}")
        received = b""
        with socket.create_connection(("127.0.0.1", self.sidecar.port), timeout=30) as connection:
            connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
            while piece := connection.recv(2**16):
                received += piece
        first, _, rest = received.partition(b"\r\n\r\n")
        return first, rest

    def _wait_for_relay(self) -> None:
        """The relay closes each connection behind its answer, unannounced: so what is asked meanwhile may be lost."""
        wait_until(lambda: not self.relay.open_connections, "the relay has closed what it answered on")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[House]:
    async def script(exchange: Exchange) -> None:
        name = exchange.target.decode().removeprefix(NASTY).replace("%20", " ")
        if name in ANSWERS:
            await exchange.send(ANSWERS[name])
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", openbao.port)
            writer.write(exchange.head + b"\r\nConnection: close\r\n\r\n" + exchange.body)
            await exchange.send(await reader.read(-1))
            writer.close()
        exchange.end()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    relay = RawServer(script)
    asyncio.run_coroutine_threadsafe(relay.__aenter__(), loop).result(10)
    through = OpenBao.__new__(OpenBao)  # the sidecar is told its address and token only
    through.address, through.root_token = relay.address, openbao.token("everything", period="1h")
    openbao.policy(
        "everything", 'path "*" { capabilities = ["create","read","update","patch","delete","list","sudo"] }'
    )
    process = SidecarProcess(tmp_path_factory.mktemp("whole"), through, issuer, OVERRIDES)
    (process.policies / "policies.cedar").write_text('@id("all") permit (principal, action, resource);')
    try:
        with process:
            yield House(process, relay, openbao)
    finally:
        asyncio.run_coroutine_threadsafe(relay.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def of_secrets(openbao: OpenBao, mark: int) -> list[str]:
    """What OpenBao was asked for since, less what the sidecar asks for itself."""
    own = ("auth/token/lookup-self", "auth/token/renew-self", "sys/mounts", "sys/internal/ui/mounts")
    return [request["path"] for request in openbao.requests(since=mark) if request["path"] not in own]


# -- HTTP ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FILTERED)
def test_http_06_of_openbaos_answer_only_the_body_and_known_headers_reach_the_caller(house: House, name: str) -> None:
    first, body = house.raw(NASTY + name.replace(" ", "%20"))
    status, *lines = first.decode().split("\r\n")
    assert (status, body) == ("HTTP/1.1 200 OK", SECRET)
    assert b"upstream-canary" not in first
    names = {line.partition(":")[0].lower() for line in lines}
    own = {"content-length", "cache-control", "x-correlation-id", "dpop-nonce", "connection", "date"}
    assert names <= own | {name.lower() for name in RELEASED}


@pytest.mark.parametrize("name", REFUSED)
def test_http_06_an_answer_that_is_not_plainly_whole_is_refused_and_nothing_of_it_shown(
    house: House, name: str
) -> None:
    first, body = house.raw(NASTY + name.replace(" ", "%20"))
    assert first.startswith(b"HTTP/1.1 502 ")
    assert b'"code":"UPSTREAM_ERROR"' in body.replace(b": ", b":")
    assert b"canary" not in first + body
    assert house.ask("GET", NASTY + "headers").content == SECRET  # the next one gets its own answer


@pytest.mark.parametrize("name", CUT)
def test_http_06_an_answer_cut_in_the_middle_of_a_secret_is_cut_for_the_caller(house: House, name: str) -> None:
    first, body = house.raw(NASTY + name.replace(" ", "%20"))
    if b"transfer-encoding: chunked" in first.lower():
        assert not body.endswith(b"0\r\n\r\n")
    elif first:
        length = next(line for line in first.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        assert len(body) < int(length.partition(b":")[2])
    else:
        assert body == b""  # what is so short was held back to be searched: the connection ends without an answer
    assert house.sidecar.records()[-1]["upstream"]["status"] == 200


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Origin": "https://evil.example"}, 403, "OPERATION_FORBIDDEN"),
        ({"Origin": "null"}, 403, "OPERATION_FORBIDDEN"),
        ({"Origin": "http://localhost"}, 403, "OPERATION_FORBIDDEN"),
        ({"Host": "evil.example"}, 400, "MALFORMED_REQUEST"),
        ({"Host": "evil.example:8200"}, 400, "MALFORMED_REQUEST"),
        ({"Host": "127.0.0.1.evil.example"}, 400, "MALFORMED_REQUEST"),
        ({"Host": "localhost.evil.example"}, 400, "MALFORMED_REQUEST"),
        ({"Host": "127.0.0.1@evil.example"}, 400, "MALFORMED_REQUEST"),
        ({"Host": "127.0.0.1:1"}, 400, "MALFORMED_REQUEST"),
        ({"Host": "0.0.0.0"}, 400, "MALFORMED_REQUEST"),
        ({"Host": "evil.example", "X-Forwarded-Host": "localhost"}, 400, "MALFORMED_REQUEST"),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/v1/secret/data/app/db", "/v1/sys/health", "/v1/auth/token/lookup-self"])
def test_http_07_a_browser_and_a_rebound_name_are_refused_even_with_a_good_token(
    house: House, headers: dict[str, str], status: int, code: str, path: str
) -> None:
    mark, asked = house.openbao.mark(), len(house.relay.exchanges)
    refused = house.ask("GET", path, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert not [name for name in refused.headers if name.lower().startswith("access-control-")]
    assert of_secrets(house.openbao, mark) == []
    assert all(b"secret" not in exchange.target for exchange in house.relay.exchanges[asked:])


# -- UP ------------------------------------------------------------------------------------------------------------
def test_up_01_the_caller_looks_up_renews_and_revokes_itself_and_not_the_sidecars_token(house: House) -> None:
    mark = house.openbao.mark()
    own = house.sidecar.openbao.root_token
    found = house.ask("GET", "/v1/auth/token/lookup-self")
    assert found.json()["data"]["display_name"] == "app"
    renewed = house.ask("POST", "/v1/auth/token/renew-self", b"{}")
    assert (renewed.status_code, "not renewable" in renewed.text) == (400, True)
    assert house.ask("POST", "/v1/auth/token/revoke-self").status_code == 204
    assert own not in found.text
    assert of_secrets(house.openbao, mark) == []
    assert house.openbao.root().auth.token.lookup(own)["data"]["id"] == own
    assert house.ask("GET", "/v1/secret/data/app/db").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "auth/token/lookup-self", b"{}"),
        ("DELETE", "auth/token/revoke-self", None),
        ("POST", "auth/token/create", b'{"policies":["root"]}'),
        ("POST", "auth/token/create-orphan", b"{}"),
        ("POST", "auth/token/create/tr", b"{}"),
        ("LIST", "auth/token/accessors", None),
        ("POST", "auth/token/lookup", b'{"token":"s.x"}'),
        ("POST", "auth/token/lookup-accessor", b'{"accessor":"x"}'),
        ("POST", "auth/token/revoke", b'{"token":"s.x"}'),
        ("POST", "auth/token/renew", b'{"token":"s.x"}'),
        ("POST", "sys/wrapping/wrap", b'{"v":"x"}'),
        ("POST", "sys/wrapping/unwrap", b'{"token":"s.x"}'),
        ("POST", "sys/wrapping/rewrap", b'{"token":"s.x"}'),
        ("POST", "sys/wrapping/lookup", b'{"token":"s.x"}'),
        ("GET", "cubbyhole/mine", None),
        ("POST", "cubbyhole/mine", b'{"v":"x"}'),
        ("LIST", "cubbyhole", None),
        ("DELETE", "cubbyhole/mine", None),
        ("GET", "identity/entity/id/x", None),
        ("POST", "sys/capabilities-self", b'{"paths":["secret/data/app/db"]}'),
        ("POST", "sys/capabilities", b'{"paths":["x"],"token":"s.x"}'),
        ("POST", "sys/leases/lookup", b'{"lease_id":"auth/token/create/x"}'),
        ("LIST", "sys/leases/lookup/auth/token/create", None),
        ("PUT", "sys/leases/revoke", b'{"lease_id":"auth/token/create/x"}'),
        ("PUT", "sys/leases/renew", b'{"lease_id":"auth/token/create/x"}'),
        ("PUT", "sys/leases/revoke/auth/token/create/x", b"{}"),
        ("PUT", "sys/leases/revoke-prefix/auth/token", b"{}"),
        ("PUT", "sys/leases/revoke-force/auth/token", b"{}"),
        ("PUT", "sys/revoke/auth/token/create/x", b"{}"),
        ("PUT", "sys/renew/auth/token/create/x", b"{}"),
    ],
)
@pytest.mark.parametrize("namespace", ["", "root"])
def test_up_01_what_acts_on_the_sidecars_own_token_never_reaches_openbao(
    house: House, method: str, path: str, body: bytes | None, namespace: str
) -> None:
    mark = house.openbao.mark()
    refused = house.ask(method, f"/v1/{path}", body, {"X-Vault-Namespace": namespace})
    assert 400 <= refused.status_code < 500
    assert refused.json()["code"]
    assert of_secrets(house.openbao, mark) == []


def test_up_02_a_secret_that_holds_the_sidecars_token_or_accessor_does_not_leave(house: House) -> None:
    own = house.sidecar.openbao.root_token
    accessor = house.openbao.root().auth.token.lookup(own)["data"]["accessor"]
    for name, canary in (("token", own), ("accessor", accessor)):
        house.openbao.put(f"up-02/{name}", {"v": f"...{canary}..."})
        house.openbao.put(f"up-02/{canary}", {"v": "x"})
        for method, path in (("GET", f"data/up-02/{name}"), ("LIST", "metadata/up-02")):
            held = house.ask(method, f"/v1/secret/{path}")
            assert (held.status_code, held.json()["code"]) == (502, "UPSTREAM_ERROR")
            assert canary not in held.text + str(held.headers)
        house.openbao.root().secrets.kv.v2.delete_metadata_and_all_versions(f"up-02/{canary}")
    assert own.encode() not in house.sidecar.spool_bytes() + house.sidecar.log.read_bytes()


@pytest.mark.parametrize("ttl", ["1", "5m", "1h30m", "+60", "-1", "abc", "0.5s", "00", "0 60"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "secret/data/app/db", None),
        ("LIST", "secret/metadata/app", None),
        ("POST", "secret/data/up-03/x", b'{"data":{"v":"x"}}'),
        ("DELETE", "secret/data/app/db", None),
        ("GET", "auth/token/lookup-self", None),
    ],
)
def test_up_03_no_answer_is_wrapped_and_nothing_is_executed(
    house: House, method: str, path: str, body: bytes | None, ttl: str
) -> None:
    mark = house.openbao.mark()
    refused = house.ask(method, f"/v1/{path}", body, {"X-Vault-Wrap-TTL": ttl})
    assert (refused.status_code, refused.json()["code"]) == (403, "OPERATION_FORBIDDEN")
    assert of_secrets(house.openbao, mark) == []


def test_up_04_no_header_of_the_callers_reaches_openbao(house: House) -> None:
    asked = len(house.relay.exchanges)
    given = {
        "X-Vault-MFA": "caller-canary",
        "X-Vault-Policy-Override": "true",
        "X-Vault-Index": "caller-canary",
        "X-Vault-Forward": "active-node",
        "X-Vault-Inconsistent": "forward-active-node",
        "X-Vault-No-Request-Forwarding": "true",
        "X-Vault-Raw-Error": "caller-canary",
        "X-Vault-Wrap-Format": "jwt",
        "X-Forwarded-For": "caller-canary",
        "Cookie": "caller-canary",
        "Accept-Encoding": "gzip, br",
        "User-Agent": "caller-canary",
        "Range": "bytes=0-1",
        "If-None-Match": "caller-canary",
        "Connection": "keep-alive, X-Vault-Token",
    }
    assert house.ask("GET", "/v1/secret/data/app/db", headers=given).status_code == 200
    (exchange,) = (e for e in house.relay.exchanges[asked:] if e.target == b"/v1/secret/data/app/db")
    assert exchange.headers.keys() <= {name.lower() for name in SENT}
    assert exchange.headers["x-vault-token"] == house.sidecar.openbao.root_token
    assert b"canary" not in exchange.head


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"X-Vault-Inline-Auth-Path": "auth/userpass/login/alice"}, 403, "OPERATION_FORBIDDEN"),
        ({"X-Vault-Inline-Auth-Parameter-p": "e30"}, 403, "OPERATION_FORBIDDEN"),
        ({"X-Vault-Inline-Auth-Operation": "update"}, 403, "OPERATION_FORBIDDEN"),
        ({"X-Vault-Inline-Auth-Namespace": "ns1"}, 403, "OPERATION_FORBIDDEN"),
        ({"X-Vault-Of-Tomorrow": "1"}, 403, "OPERATION_FORBIDDEN"),
        ({"Authorization": "Bearer s.another"}, 400, "AMBIGUOUS_CREDENTIALS"),
    ],
    ids=str,
)
def test_up_04_a_header_that_logs_in_or_means_something_unknown_is_refused(
    house: House, headers: dict[str, str], status: int, code: str
) -> None:
    mark = house.openbao.mark()
    refused = house.ask("GET", "/v1/secret/data/app/db", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert of_secrets(house.openbao, mark) == []


@pytest.mark.parametrize(
    "path",
    [
        *("storage/raft/snapshot", "storage/raft/snapshot-force", "storage/raft/configuration", "storage/raft/join"),
        *("storage/raft/remove-peer", "storage/raft/bootstrap", "raw/core/seal-config", "raw", "pprof/goroutine"),
        *("pprof", "config/cors", "config/auditing/request-headers/x", "config/state/sanitized", "config/ui/headers"),
        *("config/reload/tls", "audit", "audit/file", "audit-hash/file", "policies/acl", "policies/acl/default"),
        *("policy", "policy/default", "policies/password/x", "seal", "unseal", "init", "step-down", "rekey/init"),
        *("rekey/update", "rekey/backup", "rekey-recovery-key/init", "rotate", "rotate/config", "rotate/root/init"),
        *("generate-root/attempt", "generate-root/update", "generate-recovery-token/attempt", "decode-token"),
        *("mounts", "mounts/secret", "mounts/secret/tune", "remount", "auth", "auth/userpass", "namespaces/ns1"),
        *("plugins/catalog", "plugins/reload/backend", "quotas/config", "loggers", "metrics", "in-flight-req"),
        *("host-info", "ha-status", "key-status", "internal/counters/activity", "internal/specs/openapi"),
        *("internal/inspect/router/root", "monitor", "tools/hash", "tools/random", "managed-keys/pkcs11/x"),
        *("license/status", "replication/status", "version-history", "experiments", "workflows/execute/x"),
    ],
)
def test_up_09_the_servers_own_business_is_refused_always(house: House, path: str) -> None:
    """By every method, in the root and in a namespace; the server is none the worse for it."""
    mark, asked = house.openbao.mark(), len(house.relay.exchanges)
    for method in ("GET", "LIST", "POST", "PUT", "PATCH", "DELETE"):
        body = b"{}" if method.startswith("P") else None
        for target, namespace in ((f"/v1/sys/{path}", ""), (f"/v1/sys/{path}", "ns1"), (f"/v1/sys/{path}/", "")):
            refused = house.ask(method, target, body, {"X-Vault-Namespace": namespace})
            assert (refused.status_code, refused.json()["code"]) == (403, "OPERATION_FORBIDDEN"), (method, target)
    assert of_secrets(house.openbao, mark) == []
    assert all(path.encode() not in exchange.target for exchange in house.relay.exchanges[asked:] if path != "mounts")
