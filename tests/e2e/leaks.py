"""A sidecar with canaries wherever a secret can stand, and everything that is done to it: for `test_no_leak.py`."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import requests

from sidecar.dev.ports import LOOPBACK
from sidecar.errors import Code
from sidecar.surface.operation import SCOPE
from tests.real.kafka import KafkaBroker
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.canaries import Canaries
from tests.support.collector import Collector
from tests.support.crooked_openbao import CrookedOpenBao
from tests.support.proofs import ProofKey
from tests.support.scripted_pdp import ScriptedAuthzen
from tests.support.tokens import Issuer


@dataclass
class Answer:
    """What came back, undecoded."""

    status: int
    head: bytes
    body: bytes

    @property
    def code(self) -> str:
        try:
            return str(json.loads(self.body).get("code", ""))
        except (ValueError, AttributeError):
            return ""

    @property
    def nonce(self) -> str:
        """What a proof must hold from now on; empty where it was not told."""
        found = re.search(rb"(?im)^dpop-nonce: *(\S+)", self.head)
        return found[1].decode() if found else ""


def ask(
    port: int,
    method: str,
    target: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    until: bytes | None = None,
) -> Answer:
    """One request on a connection of its own, byte by byte as given; what comes back to its end, or `until` this."""
    given = {"Host": f"{LOOPBACK}:{port}", "Connection": "close"} | (headers or {})
    if body:
        given.setdefault("Content-Length", str(len(body)))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    with connected(port, tls) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        raw = b""
        with suppress(ConnectionError):  # it was killed
            while (until is None or until not in raw) and (chunk := connection.recv(65536)):
                raw += chunk
    head, _, content = raw.partition(b"\r\n\r\n")
    return Answer(int(head.split(b" ")[1]) if head else 0, head, content)


def connected(port: int, tls: ssl.SSLContext | None = None) -> socket.socket:
    """A connection, with TLS where a context is given."""
    plain = socket.create_connection((LOOPBACK, port), timeout=20)
    return plain if tls is None else tls.wrap_socket(plain, server_hostname=LOOPBACK)


SCOPES: Final = " ".join(sorted(set(SCOPE.values())))


@dataclass
class House:
    """Everything that was started, and everything that was planted."""

    folder: Path
    openbao: OpenBao
    upstream: CrookedOpenBao
    pdp: ScriptedAuthzen
    collector: Collector
    kafka: KafkaBroker
    canaries: Canaries
    process: SidecarProcess
    name: str
    seen: dict[str, bytes] = field(default_factory=dict)
    refusals: dict[str, bytes] = field(default_factory=dict)
    proofs: ProofKey = field(default_factory=ProofKey)
    codes: set[str] = field(default_factory=set)
    yaml: str = ""
    yaml_key: str = ""
    began: int = 0
    nonce: str = ""
    tls: ssl.SSLContext | None = None

    def claims(self, **claims: Any) -> dict[str, Any]:
        """What a good token holds beside the usual, a canary among it."""
        return {"private": self.canaries.plant("a claim of the token"), "scope": SCOPES} | claims

    def token(self, **claims: Any) -> str:
        """A caller's token that holds a canary, and is one."""
        return self.canaries.add_jwt("a caller's token", self.process.issuer.token(**self.claims(**claims)))

    def ask(
        self, method: str, target: str, body: Any = None, token: str | None = "", **headers: str
    ) -> Answer:  # "" is a fresh token
        """Asks the sidecar; what it refuses itself is kept, to be searched."""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given = {"X-App": self.canaries.plant("a header"), "User-Agent": self.canaries.plant("the user agent")}
        if token is not None:
            given["X-Vault-Token"] = token or self.token()
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        answer = ask(self.process.port, method, target, raw, given, self.tls)
        self.nonce = answer.nonce or self.nonce
        if answer.code:  # what OpenBao answered goes to the caller as it is
            self.codes.add(answer.code)
            self.refusals[f"answer {len(self.refusals)} ({method}, {answer.status} {answer.code})"] = (
                answer.head + answer.body
            )
        return answer

    def bound(self, key: ProofKey | None = None, sub: str = "prover", **claims: Any) -> str:
        """A caller's token that is bound to a key."""
        token = self.process.issuer.bound_token((key or self.proofs).jkt, **self.claims(sub=sub, **claims))
        return self.canaries.add_jwt("a caller's token", token)

    def proof(self, token: str, method: str, path: str, key: ProofKey | None = None) -> str:
        """A good proof for a request with this token."""
        claim, url = self.canaries.plant("a claim of the proof"), f"{self.process.url}{path}"
        proof = (key or self.proofs).proof(token, method, url, self.nonce or None, private=claim)
        return self.canaries.add_jwt("a proof", proof)

    def prove(
        self, method: str, path: str, *, token: str = "", bend: Callable[[str], str] = lambda proof: proof
    ) -> Answer:
        """Asks with a bound token and a proof, which may be bent."""
        token = token or self.bound()
        return self.ask(method, path, token=token, DPoP=bend(self.proof(token, method, path)))

    def look(self, when: str) -> None:
        """Keeps what the operations listener shows now."""
        secret = self.canaries.plant("a text in an operator's URL")
        for path in (
            *("/metrics", "/readyz", "/healthz", "/debug", "/debug/grants", "/debug/grants?limit=1"),
            *(f"/debug/grants?limit={secret}", f"/debug/{secret}", f"/{secret}?{secret}={secret}"),
        ):
            answer = ask(self.process.ops_port, "GET", path)
            self.seen[f"{path} {when}"] = answer.head + answer.body
        for method, name, value in (
            (secret.upper(), "X-App", "x"),
            ("GET", f"{secret} bad", "x"),
            ("POST", "Content-Length", secret),
            ("POST", "Transfer-Encoding", secret),
        ):  # whoever sends what is no HTTP may be told what it sent; the log is not
            ask(self.process.ops_port, method, f"/{secret}", headers={name: value, "Authorization": f"Bearer {secret}"})


# -- what is driven --------------------------------------------------------------------------------------------------
def drive_operations(house: House, name: str) -> None:
    """Each operation once, with canaries in what it takes and gives."""
    plant, path = house.canaries.plant, f"/v1/secret/data/leak/{name}"
    released = house.ask("GET", path)
    assert released.status == 200, released.body
    assert set(house.canaries.found_in({"the answer": released.body})) == {
        f"{each} in the answer" for each in ("a key name", "a value", "a value in a value")
    }, "the search is blind, or the answer is"
    fresh = f"leak/{plant('a path')}"
    data = {plant("a key name"): plant("a value")}
    for method, target, body in (
        ("POST", f"data/{fresh}", {"data": data}),
        ("PUT", f"data/{fresh}", {"data": data, "options": {"cas": 1}}),
        ("POST", f"data/{fresh}", {"data": data, "options": {"cas": 7}}),
        ("GET", f"data/{fresh}?version=1", None),
        ("GET", f"subkeys/{fresh}", None),
        ("GET", f"metadata/{fresh}", None),
        ("POST", f"metadata/{fresh}", {"custom_metadata": {"owner": plant("an owner"), "note": plant("a note")}}),
        ("LIST", f"metadata/{fresh.rsplit('/', 1)[0]}", None),
        ("GET", "metadata/leak?list=true", None),
        ("DELETE", f"data/{fresh}", None),
        ("POST", f"undelete/{fresh}", {"versions": [2]}),
        ("POST", f"delete/{fresh}", {"versions": [1]}),
        ("PUT", f"destroy/{fresh}", {"versions": [1]}),
        ("DELETE", f"metadata/{fresh}", None),
    ):
        house.ask(method, f"/v1/secret/{target}", body)
    merge = {"Content_Type": "application/merge-patch+json"}
    house.ask("PATCH", path, {"data": {plant("a key name"): plant("a value")}}, **merge)
    text = base64.b64encode(plant("a plaintext").encode()).decode()
    made = json.loads(house.ask("POST", f"/v1/leak-transit/encrypt/{name}", {"plaintext": text}).body)["data"]
    house.canaries.add("a ciphertext", made["ciphertext"].removeprefix("vault:v1:"))
    house.ask("POST", f"/v1/leak-transit/decrypt/{name}", {"ciphertext": made["ciphertext"]})
    batch = {"batch_input": [{"plaintext": text, "context": text}, {"plaintext": plant("no base64")}]}
    house.ask("POST", f"/v1/leak-transit/encrypt/{name}", batch)
    for call in ("sign", "hmac", "hash/sha2-256", "datakey/plaintext", "random/32", "rewrap", "verify"):
        target = call if "/" in call and not call.startswith("datakey") else f"{call}/{name}"
        house.ask("POST", f"/v1/leak-transit/{target}", {"input": text, "ciphertext": made["ciphertext"]})
    house.ask("POST", f"/v1/leak-transit/keys/{name}/rotate", {})
    issued = house.ask("POST", f"/v1/leak-pki/issue/{name}", {"common_name": plant("a host name")})
    certificate = json.loads(issued.body)
    house.canaries.add_pem("a private key", certificate["data"]["private_key"])
    house.canaries.add("a lease", certificate["lease_id"].rsplit("/", 1)[1])
    for call in ("renew", "lookup", "revoke"):
        house.ask("PUT", f"/v1/sys/leases/{call}", {"lease_id": certificate["lease_id"]})
    house.ask("PUT", "/v1/sys/leases/revoke", {"lease_id": f"leak-pki/issue/{name}/{plant('a lease')}"})
    issued = house.ask("GET", f"/v1/leak-db/creds/{name}")
    login = json.loads(issued.body)
    for part in ("username", "password"):
        house.canaries.add(f"a database's {part}", login["data"][part])
    house.canaries.add("a lease", login["lease_id"].rsplit("/", 1)[1])
    kept = json.loads(house.ask("GET", f"/v1/leak-db/static-creds/{name}-kept").body)["data"]
    house.canaries.add("a database's password", kept["password"])
    house.ask("POST", f"/v1/leak-db/rotate-role/{name}-kept", {})
    house.ask("GET", f"/v1/leak-db/creds/{plant('a path')}")
    house.ask("PUT", "/v1/sys/leases/renew", {"lease_id": login["lease_id"]})
    house.ask("PUT", "/v1/sys/leases/revoke", {"lease_id": login["lease_id"]})
    for target in ("auth/token/lookup-self", "sys/internal/ui/mounts", f"sys/internal/ui/mounts/secret/{fresh}"):
        house.ask("GET", f"/v1/{target}")
    for target in ("auth/token/renew-self", "auth/token/revoke-self", f"auth/{plant('a path')}/login", "sys/seal"):
        house.ask("POST", f"/v1/{target}", {"password": plant("a password")})
    for target in ("sys/health", "sys/seal-status", "sys/leader", f"sys/{plant('a path')}"):
        house.ask("GET", f"/v1/{target}", token=None)


def drive_bad_requests(house: House, name: str) -> None:
    """What is refused before it is asked of anybody: at the door, by its name, its credentials or its body."""
    plant, path = house.canaries.plant, f"/v1/secret/data/leak/{name}"
    for target in (
        f"/{plant('a path')}",
        f"/v1/{plant('a mount')}/data/x",
        f"{path}/%zz{plant('a path')}",
        f"{path}/../{plant('a path')}",
        f"{path}%2f{plant('a path')}",
        f"{path}/%ff{plant('a path')}",
        f"{path}?{plant('a query name')}=1",
        f"{path}?version={plant('a query value')}",
        f"{path}?version=1&version={plant('a query value')}",
        f"{path}#{plant('a fragment')}",
        f"http://{plant('a host')}/v1/secret/data/x",
        f"{path}/{plant('a path')}\x7f",
        f"{path}/{plant('a path') * 1000}",
        f"/v1/secret/{plant('a path')}/x",
        f"/v1/secret/data/{plant('a path')}/*",
        f"/v1/secret/data/{plant('a path')}/",
        f"/v1/leak-gone/data/{plant('a path')}",
        f"/v1/cubbyhole/{plant('a path')}",
    ):
        assert house.ask("GET", target).status >= 400, target
    value = plant("a value")
    for body in (
        f'{{"data": {{"a": "{value}"'.encode(),
        f'{{"data": "{value}"}}'.encode(),
        f'["{value}"]'.encode(),
        f'{{"data": {{"{value}": 1}}, "data": {{}}}}'.encode(),
        f'{{"data": {{}}, "{value}": 1}}'.encode(),
        f'{{"data": {{}}, "options": {{"cas": "{value}"}}}}'.encode(),
        f'{{"data": {{"a": "\\ud800{value}"}}}}'.encode(),
        b'{"data": {"a": "\xff' + value.encode() + b'"}}',
        b'{"data": ' * 200 + value.encode(),
        value.encode(),
    ):
        assert house.ask("POST", path, body).status >= 400, body
    house.ask("POST", path, value.encode() * 100, Content_Encoding="gzip")
    house.ask("POST", path, value.encode() * 50_000)
    house.ask("POST", path, b"x", Content_Length=plant("a header"))
    house.ask("POST", path, f"{value}\r\n{value}\r\n".encode(), Transfer_Encoding="chunked")
    house.ask(plant("a method").upper(), path)
    for headers in (
        {"X-Vault-Namespace": plant("a namespace")},
        {"X-Vault-Wrap-TTL": plant("a header")},
        {"Origin": f"https://{plant('a host')}"},
        {"Host": plant("a host")},
        {"Authorization": f"Bearer {plant('a token')}"},
        {"Authorization": f"Basic {base64.b64encode(plant('a password').encode()).decode()}"},
        {"Cookie": f"session={plant('a cookie')}"},
        {f"{plant('a header name')} bad": "x"},
        {"X-Long": plant("a header") * 4000},
        {"X-Correlation-ID": plant("a correlation id") * 5},
        {"X-Correlation-ID": f"hvs.{plant('a token')}"},
        {"traceparent": f"00-{plant('a trace')}"},
        {"traceparent": f"cc-{'1' * 32}-{'2' * 16}-01-{plant('a trace')}"},
        {"tracestate": plant("a trace state"), "baggage": plant("baggage"), "X-Forwarded-For": plant("an address")},
    ):
        house.ask("GET", path, **headers)
    good = house.process.issuer
    wrong = Issuer(good.url)  # the same name, another key
    drop = house.canaries.add_jwt
    for token in (
        plant("a token"),
        f"hvs.{plant('a token')}{plant('a token')}",
        f"{plant('a token')}.{plant('a token')}.{plant('a token')}",
        drop("a forged token", wrong.token(private=plant("a claim of the token"))),
        drop("an expired token", good.token(exp=1000, private=plant("a claim of the token"))),
        drop("another's token", good.token(aud=plant("an audience"))),
        drop("a token", good.token(iss=f"https://{plant('an issuer')}")),
        drop("a token", good.token({"kid": plant("a kid")})),
        drop("a token", good.token({"typ": plant("a typ")})),
        drop("a token", good.token({"crit": [plant("a crit")]})),
        drop("a token", good.token({"jku": f"http://{plant('a host')}/"})),
        drop("a token", good.token(exp=plant("an exp"))),
        drop("a token", good.token(cnf={"jkt": plant("a jkt")})),
        drop("a token", good.token(cnf={plant("a cnf"): "x"})),
        drop("a token", good.token(scope=plant("a scope"), private=plant("a claim of the token"))),
        drop("a token", good.token(scope=[plant("a scope")])),
        drop("a token", good.compact(f'{{"alg":"ES256","{plant("a header")}"'.encode(), b"{}" + b" " * 9)),
        drop("a token", good.compact(good.header(), f'{{"iss": "{plant("a claim")}'.encode())),
        f"{good.token()[:-8]}{plant('a signature')}",
    ):
        house.ask("GET", path, token=token)
    house.nonce = ""
    assert house.prove("GET", path).code == Code.PROOF_NONCE_REQUIRED
    token = house.bound()
    assert house.prove("GET", path, token=token).status == 200
    assert house.prove("GET", path, token=token).code == Code.TOKEN_REPLAYED, "its grant was for one use"
    token = house.bound(sub="twice")
    proof = house.proof(token, "GET", path)
    assert [house.ask("GET", path, token=token, DPoP=proof).code for _ in range(2)] == ["", Code.PROOF_REPLAYED]
    thief, older = ProofKey(), int(time.time()) - 5
    house.pdp.obliges({"ttl_seconds": 60, "max_uses": 9}, subject="changing")
    for key in (house.proofs, thief):
        token = house.bound(key, sub="changing", iat=older)
        last = house.ask("GET", path, token=token, DPoP=house.proof(token, "GET", path, key))
    assert last.code == Code.BINDING_CHANGED
    house.ask("GET", f"/v1/{plant('a namespace')}/secret/data/x", X_Vault_Namespace=plant("a namespace"))
    for bend in (
        lambda proof: f"{proof}{plant('a proof')}",
        lambda proof: proof[:-30],
        lambda _: plant("a proof"),
        lambda _: f"eyJ{plant('a proof')}.{plant('a proof')}.{plant('a proof')}",
        lambda _: house.proofs.compact(
            house.proofs.header(jwk=house.proofs.jwk | {"d": plant("a client's private key")}), {"jti": plant("a jti")}
        ),
        lambda _: house.proofs.compact(house.proofs.header(typ=plant("a typ")), {"htu": plant("a htu")}),
        lambda _: house.proofs.compact(house.proofs.header(), {"htu": f"http://{plant('a htu')}", "htm": plant("htm")}),
        lambda _: house.proofs.compact(house.proofs.header(), f'{{"{plant("a claim")}'.encode()),
    ):
        assert house.prove("GET", path, bend=bend).status >= 400


def drive_upstream_faults(house: House, name: str) -> None:
    """OpenBao answers with 5xx, garbage, half of it, never; its own words quote what must not be told."""
    plant = house.canaries.plant
    for lie in (
        b'HTTP/1.1 500 Oh\r\nContent-Length: 40\r\n\r\n{"errors": ["%s"]}' % plant("a value").encode(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n{" + plant("a value").encode(),
        b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % plant("a header").encode(),
        b"%s\r\n\r\n" % plant("a value").encode(),
        b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % plant("a header").encode(),
        b"HTTP/1.1 307 Go\r\nLocation: http://%s/\r\nContent-Length: 0\r\n\r\n" % plant("a host").encode(),
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 24\r\n\r\n%s" % plant("a value").encode(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n" % plant("a value").encode(),
        b"HTTP/1.1 200 OK\r\nX-Long: %s\r\n\r\n" % (plant("a header").encode() * 3000),
        b"HTTP/1.1 204 %s\r\n\r\n" % plant("a header").encode(),
        b"",
        None,
    ):
        path = plant("a path")
        house.upstream.lies[path] = lie
        house.ask("GET", f"/v1/secret/data/leak/{path}")
        if lie is not None:
            house.ask("POST", f"/v1/secret/data/leak/{path}", {"data": {plant("a key name"): plant("a value")}})
            house.ask("POST", f"/v1/leak-pki/issue/{path}", {"common_name": plant("a host name")})
    house.upstream.lies.clear()


def drive_pdp_faults(house: House, name: str) -> None:
    """The PDP obliges strangely, denies, and answers with garbage that quotes the question."""
    plant, path = house.canaries.plant, f"/v1/secret/data/leak/{name}"
    key = plant("a key name")
    obligations: tuple[Any, ...] = (
        [{"id": "1", "release": {"fragments": [key]}}],
        [{"id": "1", "usage_grant": {"ttl_seconds": 5, "max_uses": plant("an obligation")}}],
        [{"id": "1", plant("an obligation"): {}}],
        [{"id": "1", "step-up": {"acr_values": ["gold"]}}],
        {"ttl_seconds": plant("an obligation")},
        f'"{plant("an obligation")}"',
    )
    for number, each in enumerate(obligations):
        house.pdp.obliges(each, subject=f"obliged-{number}")
        house.ask("GET", path, token=house.token(sub=f"obliged-{number}"))
    for number, raw in enumerate(
        (
            '{"decision": false}',
            f'{{"decision": "{plant("garbage")}"}}',
            f'{{"decision": true, "decision": "{plant("garbage")}',
            f"<html>{plant('garbage')}",
            f'{{"decision": true, "context": "{plant("garbage")}"}}',
            f'{{"decision": false, "context": {{"error": {{"message": "{plant("garbage")}"}}}}}}',
        )
    ):
        house.pdp.by_subject[f"garbage-{number}"] = raw
        house.ask("GET", path, token=house.token(sub=f"garbage-{number}"))


def drive_faults_of_our_own(house: House, name: str) -> None:
    """Bugs that quote the request: in the handler, a task, a callback, a thread, where nobody can catch, a warning."""
    for fault in ("handler", "group", "task", "callback", "thread", "unraisable", "warning", "log", "foreign log"):
        before = house.process.log.stat().st_size
        answer = house.ask("GET", f"/v1/secret/data/leak/{name}", X_Fault=fault)
        assert (answer.status >= 500) == (fault in ("handler", "group")), (fault, answer)
        deadline = time.monotonic() + 10
        said = {"group": b"ExceptionGroup", "warning": b"UserWarning"}.get(fault, b"Error")
        said = b"Cycle" if fault == "nothing" else said
        while said not in house.process.log.read_bytes()[before:]:
            assert time.monotonic() < deadline, f"{fault} was not told of\n{house.process.log_tail()}"
            time.sleep(0.02)


def drive_operators(house: House, name: str) -> None:
    """`/revalidate` with good and bad bodies, SIGHUP over files that hold garbage."""
    plant = house.canaries.plant
    url = f"http://{LOOPBACK}:{house.process.ops_port}/revalidate"
    for body in ({"subject": "nobody"}, {plant("a name"): plant("a value")}, [plant("a value")]):
        for bearer in ((house.folder / "ops").read_text(), plant("a token")):
            answer = requests.post(url, json=body, headers={"Authorization": f"Bearer {bearer}"}, timeout=10)
            house.refusals[f"/revalidate {answer.status_code} {len(house.refusals)}"] = answer.content
    bad = {"salts": "short", "kafka": plant("a wrong password"), "pdp": f"{plant('a token')}\n{plant('a token')}"}
    good = {file: (house.folder / file).read_text() for file in bad}
    for file, content in bad.items():
        (house.folder / file).write_text(content)
    jwks, own = house.process.folder / "jwks.json", house.process.config_file
    keys, config = jwks.read_text(), own.read_text()
    own.write_text(f"{config}unknown: {plant('a value')}\nupstream: {{auth: {{token: {plant('a token')}}}}}\n")
    reload(house)
    own.write_text(config.replace("log_level: debug", f"log_level: {plant('a value')}"))
    jwks.write_text(f'{{"keys": [{{"kty": "{plant("a key")}"')
    reload(house)
    house.ask("GET", f"/v1/secret/data/leak/{name}", token=house.token(sub="while-bad"))
    house.look("with bad files")
    for file, content in good.items():
        (house.folder / file).write_text(content)
    jwks.write_text(keys)
    own.write_text(config)
    reload(house)


def reload(house: House) -> None:
    before = house.process.log.read_bytes().count(b'"event": "reloaded"')
    assert house.process.process is not None
    house.process.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 15
    while house.process.log.read_bytes().count(b'"event": "reloaded"') == before:
        assert time.monotonic() < deadline, house.process.log_tail()
        time.sleep(0.02)
