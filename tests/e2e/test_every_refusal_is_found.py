"""Whatever a caller is refused with, an investigator finds the record by the correlation id that the caller was shown.

One way to each code, through a whole sidecar; the record must have that id and that code. One code has none, below.
Nothing else of what was asked is told to anybody: tokens, proofs, values and paths are searched for at the end.
"""

from __future__ import annotations

import http.client
import io
import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import pytest

from sidecar.audit.why import why
from sidecar.client.key import DPoPKey
from sidecar.dev.ports import LOOPBACK
from sidecar.errors import STATUS, Code
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.canaries import Canaries
from tests.support.crooked_openbao import CrookedOpenBao
from tests.support.scripted_pdp import DENY, ScriptedAuthzen
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

NAME: Final = f"cnry{secrets.token_hex(10)}"
PATH: Final = f"/v1/secret/data/{NAME}"
API: Final = "/api/secrets"
SCOPES: Final = "secrets.read secrets.write secrets.rotate secrets.read_metadata"
IN_FLIGHT: Final = 4

WITHOUT_A_RECORD: Final = {
    Code.AUDIT_UNAVAILABLE: "it says that no record could be written (tests/attack/test_audit.py, AUDIT 02)",
}


class Answer(NamedTuple):
    """What the client was shown."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass
class House:
    """A sidecar and what stands around it."""

    sidecar: SidecarProcess
    openbao: CrookedOpenBao
    pdp: ScriptedAuthzen
    canaries: Canaries
    refusals: dict[str, bytes] = field(default_factory=dict)

    def ask(
        self,
        method: str = "GET",
        target: str = PATH,
        *headers: tuple[str, str],
        token: str | None = None,
        body: Any = None,
        **claims: Any,
    ) -> Answer:
        """One request, byte for byte as it is given here, with a good token unless another is given."""
        token = self.sidecar.issuer.token(**{"sub": "endless", "scope": SCOPES} | claims) if token is None else token
        for credential in (token, *(value for name, value in headers if name == "DPoP")):
            for part in (credential, *credential.split(".")[1:]):
                if len(part) > 16:
                    self.canaries.add("a token or proof", part)
        content = b"" if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(LOOPBACK, self.sidecar.port, timeout=30)
        try:
            connection.putrequest(method, target)
            for name, value in (("X-Vault-Token", token), *headers):
                if value:
                    connection.putheader(name, value)
            if content:
                connection.putheader("Content-Length", str(len(content)))
            connection.endheaders(content)
            answer = connection.getresponse()
            shown = answer.read()
            if answer.status >= 400:
                self.refusals[f"answer {len(self.refusals)}"] = str(answer.headers).encode() + shown
            return Answer(answer.status, dict(answer.headers), json.loads(shown) if shown else {})
        finally:
            connection.close()

    def token_of(self, key: DPoPKey) -> str:
        """A good token bound to this key, of a subject that has no other."""
        return self.sidecar.issuer.bound_token(key.thumbprint, sub=f"bound-{key.thumbprint[:8]}", scope=SCOPES)

    def bound(self, key: DPoPKey, target: str = PATH, *, nonce: str = "", signer: DPoPKey | None = None) -> Answer:
        """One read with a proof; `signer` makes it with another key than the token's."""
        token = self.token_of(key)
        return self.proven(token, (signer or key).proof("GET", self.sidecar.url + target, token, nonce or None), target)

    def proven(self, token: str, proof: str, target: str = PATH) -> Answer:
        return self.ask("GET", target, ("DPoP", proof), token=token)

    def nonce(self) -> str:
        return self.bound(DPoPKey.generate()).headers["DPoP-Nonce"]

    def why(self, correlation_id: str) -> list[dict[str, Any]]:
        """`sidecar audit why --json`."""
        out = io.StringIO()
        why(correlation_id, [self.sidecar.spool], out, as_json=True)
        return [json.loads(line) for line in out.getvalue().splitlines() if line.startswith("{")]

    def raw(self, sent: bytes) -> Answer:
        """What comes back for these bytes, whatever they are."""
        with socket.create_connection((LOOPBACK, self.sidecar.port), 30) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return Answer(answer.status, dict(answer.headers), json.loads(answer.read()))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[House]:
    canaries = Canaries()
    canaries.add("a path", NAME)
    openbao.put(NAME, {"user": canaries.plant("a value")})
    folder = tmp_path_factory.mktemp("found")
    with CrookedOpenBao(openbao.address) as crooked, ScriptedAuthzen() as pdp:
        crooked.lies |= {"/silent": None, "/nonsense": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"}
        pdp.obliges({"ttl_seconds": 60, "max_uses": 1000})
        pdp.obliges({"ttl_seconds": 60, "max_uses": 1}, "once")
        pdp.obliges([{"id": "a", "step-up": {"acr_values": ["urn:gold"]}}], "stepper")
        pdp.obliges([{"id": "a", "unheard-of": {}}], "obliged")
        pdp.by_subject |= {"denied": DENY, "puzzled": "no JSON"}
        overrides = {
            "upstream": {"address": crooked.address, "timeout_seconds": 1},
            "mounts": [
                {"path": "secret", "engine": "kv2"},
                {"path": "gone", "engine": "kv2"},
                {"path": "cubbyhole", "engine": "cubbyhole"},
            ],
            "tenant": {"allowed_mounts": ["secret", "gone", "cubbyhole"]},
            "identity": {"binding": "preferred"},
            "scopes": {"enforce": True},
            "authorization": {
                "pdp": "authzen",
                "attributes": {"fetch": "off"},
                "authzen": {"url": pdp.url, "timeout_ms": 5000},
            },
            "limits": {"max_body_mib": 1, "max_header_kib": 8, "max_in_flight": IN_FLIGHT},
        }
        with SidecarProcess(folder, openbao, issuer, overrides) as process:
            yield House(process, crooked, pdp, canaries)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer, house: House) -> Iterator[House]:
    """In production, with a key in hand required and a file of secrets that nobody may write."""
    folder = tmp_path_factory.mktemp("strict")
    file = folder / "secrets.yaml"
    file.write_text(f"secret: {{app: {{db: {{user: {house.canaries.plant('a value')}}}}}}}\n")
    file.chmod(0o600)
    overrides = {
        "environment": "prod",
        "upstream": {"address": None, "auth": {"token": None}},
        "mounts": None,
        "yaml_provider": {"path": str(file)},
        "anti_replay": {"dpop_nonce": "optional"},
    }
    with SidecarProcess(folder, openbao, issuer, overrides) as process:
        yield House(process, house.openbao, house.pdp, house.canaries)


def secret(path: str) -> str:
    return f"openbao+kv2://secret/{path}"


def a_grant_used_up(house: House) -> Answer:
    token = house.sidecar.issuer.token(sub="once", scope=SCOPES)
    assert house.ask(token=token).status == 200
    return house.ask(token=token)


def an_older_token_under_another_key(house: House) -> Answer:
    owner, thief, nonce = DPoPKey.generate(), DPoPKey.generate(), house.nonce()
    claims = {"sub": "changing", "scope": SCOPES, "iat": int(time.time()) - 1}
    for key in (owner, thief):
        token = house.sidecar.issuer.bound_token(key.thumbprint, **claims)
        answer = house.proven(token, key.proof("GET", house.sidecar.url + PATH, token, nonce))
    return answer


def a_proof_sent_twice(house: House) -> Answer:
    key, nonce = DPoPKey.generate(), house.nonce()
    token = house.sidecar.issuer.bound_token(key.thumbprint, sub="twice", scope=SCOPES)
    proof = key.proof("GET", house.sidecar.url + PATH, token, nonce)
    assert house.proven(token, proof).status == 200
    return house.proven(token, proof)


def a_copy_onto_what_is_there(house: House) -> Answer:
    for name in ("from", "to"):
        assert house.ask("POST", API, body={"uri": secret(f"found/{name}"), "value": {"k": "v"}}).status < 300
    body = {"fromUri": secret("found/from"), "toUri": secret("found/to")}
    return house.ask("POST", f"{API}/copy", body=body)


def a_write_that_came_too_late(house: House) -> Answer:
    house.ask("POST", API, body={"uri": secret("found/cas"), "value": {"k": "v"}})
    return house.ask("POST", API, body={"uri": secret("found/cas"), "value": {"k": "v"}, "cas": 0})


def an_idempotency_key_for_another_request(house: House) -> Answer:
    key = ("Idempotency-Key", "found-1")
    for value in ("0", "1", "2"):
        given = (key,) if value != "0" else ()
        path = API if value == "0" else f"{API}/rotate"
        answer = house.ask("POST", path, *given, body={"uri": secret("found/once#k"), "value": value})
    return answer


def one_too_many_at_once(house: House) -> Answer:
    """Slow ones first; then there is no place."""
    with ThreadPoolExecutor(IN_FLIGHT * 3) as crowd:
        asked = [crowd.submit(house.ask, "GET", "/v1/secret/data/silent") for _ in range(IN_FLIGHT * 3)]
        return max((one.result() for one in asked), key=lambda answer: answer.status == STATUS[Code.OVERLOADED])


def a_bound_write_to_the_file(strict: House) -> Answer:
    key = DPoPKey.generate()
    token = strict.token_of(key)
    body = {"uri": "yaml://secret/app/db#user", "value": "x"}
    return strict.ask("POST", API, ("DPoP", key.proof("POST", strict.sidecar.url + API, token)), token=token, body=body)


def a_read_of_a_file_that_anybody_may_read(strict: House) -> Answer:
    file, key = strict.sidecar.folder / "secrets.yaml", DPoPKey.generate()
    token = strict.sidecar.issuer.bound_token(key.thumbprint, sub="app")
    file.chmod(0o644)
    return strict.proven(token, key.proof("GET", strict.sidecar.url + API, token), f"{API}?uri=yaml://secret/app/db")


Way = Callable[[House], Answer]
WAYS: Final[Mapping[Code, Way]] = {
    Code.MALFORMED_REQUEST: lambda h: h.ask("GET", PATH, ("Content-Length", "1"), ("Content-Length", "2")),
    Code.INVALID_URI: lambda h: h.ask("GET", "/v1/secret/data/" + "a" * 5000),
    Code.ILLEGAL_SEGMENT: lambda h: h.ask("GET", "/v1/secret/data/a/../b"),
    Code.ILLEGAL_ENCODING: lambda h: h.ask("GET", "/v1/secret/data/a%2fb"),
    Code.INVALID_WILDCARD: lambda h: h.ask("GET", "/v1/secret/data/a/*"),
    Code.AMBIGUOUS_QUERY: lambda h: h.ask("GET", PATH + "?version=1&version=2"),
    Code.AMBIGUOUS_MOUNT: lambda h: h.ask("GET", "/v1/gone/data/a"),
    Code.DOUBLE_MOUNT_SOURCE: lambda h: h.ask("GET", "/v1/ns1/secret/data/a", ("X-Vault-Namespace", "ns1")),
    Code.AMBIGUOUS_CREDENTIALS: lambda h: h.ask("GET", PATH, ("Authorization", "Bearer another")),
    Code.PROVIDER_TRAILING_SLASH_MISMATCH: lambda h: h.ask("GET", "/v1/secret/data/a/"),
    Code.UNSUPPORTED_ENGINE: lambda h: h.ask("GET", "/v1/cubbyhole/a"),
    Code.TENANT_MOUNT_MISMATCH: lambda h: h.ask("GET", "/v1/other/data/a"),
    Code.TOKEN_MISSING: lambda h: h.ask(token=""),
    Code.TOKEN_INVALID: lambda h: h.ask(token="no.token.atall"),
    Code.TOKEN_EXPIRED: lambda h: h.ask(iat=int(time.time()) - 900, exp=int(time.time()) - 600),
    Code.AUDIENCE_MISMATCH: lambda h: h.ask(aud="elsewhere"),
    Code.BINDING_MISMATCH: lambda h: h.bound(DPoPKey.generate(), nonce=h.nonce(), signer=DPoPKey.generate()),
    Code.PROOF_INVALID: lambda h: h.proven(h.token_of(DPoPKey.generate()), "no.proof.atall"),
    Code.PROOF_NONCE_REQUIRED: lambda h: h.bound(DPoPKey.generate()),
    Code.PROOF_REPLAYED: a_proof_sent_twice,
    Code.STEP_UP_REQUIRED: lambda h: h.ask(sub="stepper"),
    Code.TOKEN_REPLAYED: a_grant_used_up,
    Code.BINDING_CHANGED: an_older_token_under_another_key,
    Code.SCOPE_MISSING: lambda h: h.ask(scope="secrets.write"),
    Code.POLICY_DENIED: lambda h: h.ask(sub="denied"),
    Code.OBLIGATION_UNMET: lambda h: h.ask(sub="obliged"),
    Code.OPERATION_FORBIDDEN: lambda h: h.ask("GET", "/v1/sys/mounts"),
    Code.NOT_FOUND: lambda h: h.ask("GET", f"{API}/value?uri=" + secret("found/nothing")),
    Code.METHOD_NOT_ALLOWED: lambda h: h.ask("PUT", API),
    Code.TARGET_EXISTS: a_copy_onto_what_is_there,
    Code.VERSION_CONFLICT: a_write_that_came_too_late,
    Code.IDEMPOTENCY_KEY_REUSED: an_idempotency_key_for_another_request,
    Code.BODY_TOO_LARGE: lambda h: h.ask("POST", PATH, body={"data": {"k": "v" * (1024 * 1024)}}),
    Code.HEADERS_TOO_LARGE: lambda h: h.ask("GET", PATH, ("X-Long", "x" * 9000)),
    Code.OVERLOADED: one_too_many_at_once,
    Code.UNSUPPORTED_OPERATION: lambda h: h.ask("GET", f"{API}?uri=" + secret(NAME)),
    Code.UPSTREAM_ERROR: lambda h: h.ask("GET", "/v1/secret/data/nonsense"),
    Code.PDP_UNAVAILABLE: lambda h: h.ask(sub="puzzled"),
    Code.UPSTREAM_TIMEOUT: lambda h: h.ask("GET", "/v1/secret/data/silent"),
}
IN_PRODUCTION: Final[Mapping[Code, Way]] = {
    Code.BINDING_REQUIRED: lambda h: h.ask("GET", f"{API}?uri=yaml://secret/app/db"),
    Code.PROVIDER_READ_ONLY: a_bound_write_to_the_file,
    Code.UPSTREAM_UNAVAILABLE: a_read_of_a_file_that_anybody_may_read,
}


def test_the_table_has_every_code() -> None:
    assert WAYS.keys() | IN_PRODUCTION.keys() | WITHOUT_A_RECORD.keys() == set(Code)


def found(house: House, code: Code, answer: Answer) -> None:
    assert (answer.body.get("code"), answer.status) == (code, STATUS[code])
    shown = answer.body["correlation_id"]
    assert answer.headers["X-Correlation-ID"] == shown
    assert code in [record["code"] for record in house.why(shown)]


@pytest.mark.parametrize("code", WAYS)
def test_the_record_of_a_refusal_is_found_by_what_the_client_was_shown(house: House, code: Code) -> None:
    found(house, code, WAYS[code](house))


@pytest.mark.parametrize("code", IN_PRODUCTION)
def test_so_is_that_of_one_in_production(strict: House, code: Code) -> None:
    found(strict, code, IN_PRODUCTION[code](strict))


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ({"op": "delete", "uri": secret("../x")}, Code.ILLEGAL_SEGMENT),
        ({"op": "delete", "uri": "openbao+kv2://other/x"}, Code.TENANT_MOUNT_MISMATCH),
        ({"op": "delete", "uri": secret("x?version=1")}, Code.INVALID_URI),
        ({"op": "undelete", "uri": secret("x#k"), "versions": [1]}, Code.INVALID_URI),
        ({"op": "set", "uri": secret("x"), "value": 1}, Code.MALFORMED_REQUEST),
        ({"op": "rotate", "uri": secret("x")}, Code.MALFORMED_REQUEST),
        ({"op": "rotate", "uri": secret("found/no-secret#k"), "value": "v"}, Code.NOT_FOUND),
        ({"op": "delete", "uri": secret("x")}, Code.SCOPE_MISSING),
    ],
)
def test_so_is_that_of_one_operation_among_others(house: House, operation: dict[str, Any], code: Code) -> None:
    """Its answer is a 200, whose header has the id."""
    good = {"op": "set", "uri": secret("found/beside"), "value": {"k": "v"}}
    answer = house.ask("POST", f"{API}/bulk", body={"operations": [good, operation]})
    assert [result.get("error", {}).get("code") for result in answer.body["results"]] == [None, code]
    assert code in [record["code"] for record in house.why(answer.headers["X-Correlation-ID"])]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET  /v1/secret/data/app/db HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/secret/data/app/db HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        b"GET /v1/secret/data/app/db HTTP/1.1\r\nHost",
        b"POST /v1/secret/data/app/db HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["tls", "no-request", "two-spaces", "folded", "cut-in-its-head", "bad-chunk"],
)
def test_so_is_that_of_bytes_that_are_no_request(house: House, sent: bytes) -> None:
    found(house, Code.MALFORMED_REQUEST, house.raw(sent))


def test_none_of_them_told_anything_else(house: House, strict: House) -> None:
    """Logs at debug level, spools, records, metrics, readiness, and the refusals themselves."""
    for each, table in ((house, WAYS), (strict, IN_PRODUCTION)):
        for code, way in table.items():
            if not any(code.encode() in refusal for refusal in each.refusals.values()):
                way(each)  # another process ran the tests before
        process = each.sidecar
        places = each.refusals | {
            "the log": process.log.read_bytes(),
            "the spool": process.spool_bytes(),
            "the records": json.dumps(process.records()).encode(),
            "the metrics": process.metrics().encode(),
            "readiness": process.ready_text().encode(),
        }
        assert not each.canaries.found_in(places)
