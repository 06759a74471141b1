"""Canaries stand wherever a secret can: none is found outside the answer that should carry it.

The real sidecar at log level debug, with a real OpenBao behind a proxy that can lie, a real database, a real Kafka, an
OTLP receiver and a remote PDP. All that an operator, a collector or a consumer of the audit may see is searched, in
many encodings. Each code that a caller can meet is driven here, or where `ELSEWHERE` says.
"""

from __future__ import annotations

import asyncio
import base64
import json
import resource
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar.dev.certificates import make_certificates
from sidecar.errors import Code
from sidecar.surface.secrets.endpoints import Endpoint
from tests.e2e import leak_endpoints, leaks
from tests.e2e.leaks import House
from tests.real.database import Database
from tests.real.kafka import KafkaBroker
from tests.real.openbao import OpenBao, TlsListener
from tests.real.sidecar import SidecarProcess
from tests.support.canaries import Canaries
from tests.support.collector import Collector
from tests.support.crooked_openbao import CrookedOpenBao
from tests.support.scripted_pdp import ScriptedAuthzen
from tests.support.tokens import Issuer
from tests.upstream.exchanging import MOUNT, take_callers

pytestmark = pytest.mark.real

FAULTY: Final = str(Path(__file__).parents[1] / "support" / "faulty_sidecar.py")
PREFIX: Final = "leaktest"
OPEN: Final = {"identity": {"binding": "preferred"}, "anti_replay": {"unbound_token": "off"}}
IN_THE_OPEN: Final = ("-X", "dev", "-X", "faulthandler", FAULTY)
"""Python tells of all that it can: asyncio's debug mode, every warning, tracebacks of crashes in C."""
ELSEWHERE: Final = {
    Code.AUDIT_UNAVAILABLE: "test_callers_who_log_in_themselves_leave_nothing_behind",
    Code.BINDING_REQUIRED: "test_every_refusal_is_found.py, whose house is searched too",
    Code.PROVIDER_READ_ONLY: "the same",
}
DESCRIBED: Final = Path(__file__).parents[2] / "docs" / "reference" / "openapi.json"
TOPICS: Final = (".secrets.audit", ".secrets", ".secrets.notifications")


def test_every_endpoint_that_is_described_is_driven() -> None:
    methods = json.loads(DESCRIBED.read_text())["paths"].values()
    described = {each["operationId"] for path in methods for each in path.values()}
    assert {str(each.endpoint) for each in leak_endpoints.TRIES} == described == set(Endpoint)


def allow_everything(openbao: OpenBao) -> None:
    openbao.policy("leak-all", 'path "*" { capabilities = ["create","read","update","delete","list","patch","sudo"] }')


def engines(openbao: OpenBao, canaries: Canaries, database: Database) -> str:
    """Mounts with canaries in what they hold; returns the last segment of the paths."""
    root = openbao.root()
    name = canaries.plant("a path")
    value, key = canaries.plant("a value"), canaries.plant("a key name")
    openbao.put(f"leak/{name}", {key: value, "json": f'{{"{canaries.plant("a value in a value")}": 1}}'})
    root.sys.enable_secrets_engine("transit", "leak-transit")
    root.secrets.transit.create_key(name, mount_point="leak-transit")
    root.sys.enable_secrets_engine("pki", "leak-pki")
    root.secrets.pki.generate_root("internal", "leak.test", {"ttl": "8760h"}, mount_point="leak-pki")
    role = {"allow_any_name": True, "generate_lease": True, "ttl": "1h"}
    root.secrets.pki.create_or_update_role(name, role, mount_point="leak-pki")
    database.mount_in(openbao, "leak-db")
    rights = {"db_name": "valkey", "creation_statements": '["+@all", "allkeys"]', "default_ttl": "1h"}
    root.write_data(f"leak-db/roles/{name}", data=rights)
    user = canaries.plant("a database's username")
    database.add_user(user)
    kept = {"db_name": "valkey", "username": user, "rotation_period": "24h"}
    root.write_data(f"leak-db/static-roles/{name}-kept", data=kept)
    canaries.add("the password of the database's admin", database.admin)
    return name


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer, kafka: KafkaBroker, database: Database
) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("leak")
    canaries = Canaries()
    asyncio.run(kafka.create_topics(*(PREFIX + end for end in TOPICS)))
    allow_everything(openbao)
    name = engines(openbao, canaries, database)
    resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
    with CrookedOpenBao(openbao.address) as upstream, ScriptedAuthzen() as pdp, Collector() as collector:
        overrides = configure(folder, canaries, openbao, kafka, collector.endpoint, upstream.address, pdp.url)
        environment = {
            "PYTHONASYNCIODEBUG": "1",
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={canaries.plant('a key of the collector')},"
            f"authorization=Bearer%20{canaries.plant('a token of the collector')}",
        }
        process = SidecarProcess(folder / "sidecar", openbao, issuer, overrides, IN_THE_OPEN, environment)
        made = House(folder, openbao, upstream, pdp, collector, kafka, canaries, process, name)
        file = folder / "secrets.yaml"
        path, made.yaml_key = canaries.plant("a path"), canaries.plant("a key name")
        made.yaml = f"yaml://secret/{path}"
        file.write_text(f"secret: {{ {path}: {{ {made.yaml_key}: {canaries.plant('a value')} }} }}\n")
        file.chmod(0o600)
        made.began = openbao.mark()
        with process:
            for entry in openbao.audit(made.began):
                auth = entry.get("response", {}).get("auth") or {}
                if auth.get("client_token") and entry["request"]["path"] == "auth/leak/login":
                    canaries.add("the sidecar's own token", auth["client_token"])
                    canaries.add("the accessor of its token", auth["accessor"])
            yield made
    for mount in ("leak-transit", "leak-pki", "leak-db"):
        openbao.root().sys.disable_secrets_engine(mount)


def configure(
    folder: Path,
    canaries: Canaries,
    openbao: OpenBao,
    kafka: KafkaBroker,
    collector: str,
    upstream: str,
    pdp: str,
) -> dict[str, Any]:
    """A configuration in which whatever can hold a secret holds a canary."""
    role_id, secret_id = openbao.approle("leaky", "leak-all", mount="leak", token_period="1h")
    private = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    canaries.add_pem("the key of the checkpoints", private)
    files = {
        "secret_id": canaries.add("the secret id", secret_id),
        "kafka": canaries.add("Kafka's password", kafka.scram.password),
        "pdp": canaries.plant("the PDP's token"),
        "ops": canaries.plant("the token of the operations listener"),
        "salts": f"{canaries.plant('the salt')}\n{canaries.plant('a previous salt')}",
        "key": private,
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    candidate = folder / "candidate"
    candidate.mkdir()
    (candidate / "policies.cedar").write_text('@id("none") forbid (principal, action, resource);')
    mounts = [
        *(("secret", "kv2"), ("leak-transit", "transit"), ("leak-pki", "pki"), ("leak-db", "database")),
        *(("leak-gone", "kv2"), ("cubbyhole", "cubbyhole")),
    ]
    return OPEN | {
        "anti_replay": {"unbound_token": "off", "bound_token": "per_grant"},
        "upstream": {
            "address": upstream,
            "timeout_seconds": 1.5,
            "auth": {
                "method": "approle",
                "mount": "leak",
                "role_id": role_id,
                "secret_id_file": str(folder / "secret_id"),
                "token": None,
            },
        },
        "mounts": [{"path": path, "engine": engine} for path, engine in mounts],
        "yaml_provider": {"path": str(folder / "secrets.yaml")},
        "tenant": {
            "salt": None,
            "salt_file": str(folder / "salts"),
            "allowed_mounts": [path for path, _ in mounts],
        },
        "scopes": {"enforce": True},
        "authorization": {
            "pdp": "authzen",
            "authzen": {"url": pdp, "token_file": str(folder / "pdp"), "timeout_ms": 2000},
            "candidate": {"pdp": "cedar", "cedar": {"policies": str(candidate)}},
        },
        "audit": {
            "checkpoint": {"key_file": str(folder / "key"), "every_records": 10},
            "kafka": {
                "bootstrap_servers": kafka.sasl_ssl,
                "topic_prefix": PREFIX,
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": kafka.scram.mechanism,
                "username": kafka.scram.name,
                "password_file": str(folder / "kafka"),
                "ca_file": str(kafka.certificates.ca),
            },
        },
        "events": {"enabled": True, "kept": 5000},
        "ops": {"otlp_endpoint": collector, "token_file": str(folder / "ops")},
        "limits": {"max_body_mib": 1},
    }


# -- what is searched ------------------------------------------------------------------------------------------------
def places(house: House) -> dict[str, bytes]:
    """All that anybody but the caller may come to see."""
    process = house.process
    found = {**house.seen, **house.refusals, "OTLP": b"".join(house.collector.raw)}
    found |= left(process) | topics(house.kafka, PREFIX)
    config = ("--config", str(process.config_file))
    denied = [record["correlation_id"] for record in process.records() if record.get("effect") == "deny"]
    for command in (
        ("check", *config),
        ("audit", "verify", str(process.spool)),
        ("audit", "why", denied[-1], str(process.spool)),
        ("policy", "test", *config, "--subject", "x", "--purpose", "read", "--uri", "openbao+kv2://secret/x"),
    ):
        done = subprocess.run([sys.executable, "-m", "sidecar", *command], capture_output=True, check=False)
        found[f"sidecar {' '.join(command[:2])}"] = done.stdout + done.stderr
    return found


def topics(kafka: KafkaBroker, prefix: str) -> dict[str, bytes]:
    """All that was sent to Kafka, keys and headers too."""
    found = {}
    for end in TOPICS:
        messages = asyncio.run(kafka.messages(f"{prefix}{end}"))
        found[f"topic {end}"] = b"\n".join(
            b"".join([message.key or b"", message.value or b"", repr(message.headers).encode()]) for message in messages
        )
    return found


OF_A_CALLER: Final = frozenset(
    {
        *("a caller's token", "a token", "a forged token", "an expired token", "another's token", "a signature"),
        *("a claim of the token", "a claim of the proof", "a proof", "a client's private key", "a header"),
        *("the user agent", "a cookie", "baggage", "a trace state", "a trace", "a correlation id", "an address"),
    }
)
"""What OpenBao and the PDP have no use for: nothing that proves who asks goes on."""
OF_THE_SIDECAR: Final = frozenset(
    {
        *("the salt", "a previous salt", "Kafka's password", "the key of the checkpoints"),
        *("the token of the operations listener", "a key of the collector", "a token of the collector"),
    }
)
FOR_OPENBAO: Final = frozenset({"the sidecar's own token", "the accessor of its token", "the secret id"})
FOR_THE_PDP: Final = frozenset(
    {"the PDP's token", "a path", "a key name", "an owner", "a note", "a host name", "a database's username", "a lease"}
)
"""Names of secrets and what their metadata say."""


DRIVES: Final = (
    leaks.drive_operations,
    leaks.drive_bad_requests,
    leak_endpoints.drive_secrets_api,
    leak_endpoints.drive_refusals_of_the_api,
    leak_endpoints.drive_the_yaml_file,
    leaks.drive_upstream_faults,
    leaks.drive_pdp_faults,
    leaks.drive_operators,
    leaks.drive_faults_of_our_own,
)
"""Every operation, every endpoint, every kind of refusal, every fault."""


@pytest.mark.timeout(300)  # some 700 requests, and a search
def test_no_canary_is_found_outside_the_answer_that_should_carry_it(house: House) -> None:
    """After all that was driven, and a process that is killed by what it is told."""
    for drive in DRIVES:
        drive(house, house.name)
        house.look(f"after {drive.__name__}")
    assert house.codes == set(Code) - ELSEWHERE.keys()
    sent = house.collector.wait_for(lambda spans: len(spans) > 200)
    assert {"sidecar.request", "sidecar.pep", "sidecar.pdp", "sidecar.upstream", "sidecar.audit"} == {
        span.name for span in sent
    }
    refuse_spans(house)
    notified = notify(house)
    wait_for_kafka(house)
    crash(house)
    searched = places(house)
    for place in ("sidecar.log", "records", "OTLP", *(f"topic {end}" for end in TOPICS)):
        assert len(searched[place]) > 1000, f"nothing to search in {place}"
    found = house.canaries.found_in(searched)
    assert not found, "\n".join(found)
    told = {place for place, content in searched.items() if notified.encode() in content}
    assert {"topic .secrets.notifications", "topic .secrets.audit", "records"} <= told
    assert not {place for place in told if not place.startswith(("topic", "records", "audit/"))}, "by the PDP's will"
    openbao = b"".join(json.dumps(entry).encode() for entry in house.openbao.audit(house.began))
    asked = {"OpenBao": openbao + "".join(house.upstream.heads).encode()}
    every = house.canaries.names
    assert not house.canaries.found_in(asked, but=every - OF_A_CALLER - OF_THE_SIDECAR - {"the PDP's token"})
    asked = {"the PDP": json.dumps([house.pdp.asked, house.pdp.heads]).encode()}
    assert not house.canaries.found_in(asked, but=FOR_THE_PDP), "the PDP decides by names"
    assert house.canaries.found_in(asked, but=every - {"a path"}), "or the search is blind"


def refuse_spans(house: House) -> None:
    """A collector that quotes what it was sent in its refusals."""
    house.collector.refuses = True
    deadline = time.monotonic() + 20
    while not (house.collector.refused and b"Failed to export" in house.process.log.read_bytes()):
        house.ask("GET", f"/v1/secret/data/leak/{house.name}")
        assert time.monotonic() < deadline, house.process.log_tail()
        time.sleep(0.1)
    house.collector.refuses = False


def notify(house: House) -> str:
    """The PDP has something published: it, and nothing of the secret beside it, goes to where it belongs."""
    said = "a-notification-of-the-policys-author"
    house.pdp.obliges([{"id": "n", "notification": {"told": said}}], subject="notified")
    answer = house.ask("GET", f"/v1/secret/data/leak/{house.name}", token=house.token(sub="notified"))
    assert answer.status == 200
    return said


def crash(house: House) -> None:
    """By a signal, by an access to no memory, by an exception. What Python's faulthandler and hooks then write is in
    the log."""
    process, path = house.process, f"/v1/secret/data/leak/{house.name}"
    for fault, last in (
        ("", b"Fatal Python error: Aborted"),
        ("segmentation", b"Fatal Python error: Segmentation fault"),
        ("uncaught", b"ValueError"),
    ):
        running = process.process
        assert running is not None
        limits = Path(f"/proc/{running.pid}/limits").read_text()
        assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")] == [["0", "0"]]
        assert Path(f"/proc/{running.pid}/environ").stat().st_uid == 0, "dumpable: others read its memory"
        before = process.log.stat().st_size
        answer = house.ask("GET", path, X_Fault=fault or "handler")
        if fault in ("", "uncaught"):
            running.send_signal(signal.SIGHUP if fault else signal.SIGABRT)
        else:
            assert answer.status == 0
        assert running.wait(40) in (1, -signal.SIGABRT, -signal.SIGSEGV)
        process.process = None
        assert last in process.log.read_bytes()[before:], process.log_tail()
        if fault != "uncaught":
            process.start()
    assert process.log.read_bytes().rstrip().endswith(b"ValueError")


@pytest.mark.parametrize("mode", ["exchange", "passthrough"])
def test_callers_who_log_in_themselves_leave_nothing_behind(house: House, tmp_path: Path, mode: str) -> None:
    """Their JWT, what OpenBao gave for it, their own OpenBao token and password; policies that fail on what they look
    at; then a full journal, and an abort. Without a collector nothing is loaded or made for spans."""
    canaries = Canaries()
    openbao, issuer = house.openbao, house.process.issuer
    take_callers(openbao, issuer)
    own = canaries.add("an OpenBao token", openbao.token("leak-all"))
    auth: dict[str, Any] = {"mode": mode, "token": None}
    if mode == "exchange":
        auth |= {"role": "caller", "mount": MOUNT}
    transit = [{"path": path, "engine": kind} for path, kind in (("secret", "kv2"), ("leak-transit", "transit"))]
    overrides = OPEN | {
        "upstream": {"address": openbao.address, "auth": auth},
        "mounts": transit,
        "tenant": {"allowed_mounts": ["secret", "leak-transit"], "salt": canaries.plant("the salt")},
        "audit": {"max_spool_mib": 2},
    }
    process = SidecarProcess(tmp_path, openbao, issuer, overrides, (FAULTY,))
    (process.policies / "policies.cedar").write_text(
        '@max_uses("1000000") permit (principal, action, resource);\n'
        'forbid (principal == Workload::"puzzling", action, resource) when { resource.path < 3 && resource.none == 1 };'
    )
    visit = House(
        tmp_path, openbao, house.upstream, house.pdp, house.collector, house.kafka, canaries, process, house.name
    )
    mark = openbao.mark()
    process.start()
    try:
        proper: dict[str, str] = {"Authorization": f"Bearer {visit.token()}"} if mode == "passthrough" else {}
        token = own if mode == "passthrough" else visit.token()
        answer = visit.ask("GET", f"/v1/secret/data/leak/{house.name}", token=token, **proper)
        assert answer.status in (200, 403), answer
        for bad in (canaries.plant("a token"), f"s.{canaries.plant('a token')}"):
            visit.ask("GET", f"/v1/secret/data/leak/{house.name}", token=bad, **proper)
        puzzling = visit.token(sub="puzzling")
        given = {"token": own, "Authorization": f"Bearer {puzzling}"} if proper else {"token": puzzling}
        assert visit.ask("GET", f"/v1/secret/data/leak/{canaries.plant('a path')}", **given).code == "POLICY_DENIED"
        assert b"a policy failed to evaluate" in process.log.read_bytes()
        sampled = {"traceparent": f"00-{'7' * 32}-{'8' * 16}-01", "X_Fault": "census"}
        visit.ask("GET", f"/v1/secret/data/leak/{house.name}", token=token, **sampled, **proper)
        census = [json.loads(line) for line in process.log.read_text().splitlines() if '"census"' in line]
        assert [(each["imported"], each["spans"]) for each in census] == [(0, 0)]
        login = {"role": canaries.plant("a role"), "jwt": visit.token(), "password": canaries.plant("a password")}
        visit.ask("POST", f"/v1/auth/{MOUNT}/login", login, token=None)
        for call in ("lookup-self", "renew-self", "revoke-self"):
            visit.ask("GET" if call == "lookup-self" else "POST", f"/v1/auth/token/{call}", token=token, **proper)
        for entry in openbao.audit(mark):
            made = entry.get("response", {}).get("auth") or {}
            if made.get("client_token"):
                canaries.add("a caller's OpenBao token", made["client_token"])
        fill(visit, canaries.add("an OpenBao token", openbao.token("leak-all")), proper)
        visit.look("at the end")
        assert process.process is not None
        process.process.send_signal(signal.SIGABRT)
        assert process.process.wait(20) == -signal.SIGABRT
    finally:
        process.kill()
    found = canaries.found_in(visit.seen | visit.refusals | left(process))
    assert not found, "\n".join(found)


def fill(visit: House, own: str, proper: dict[str, str]) -> None:
    """Batches of plaintexts, each item with its record, until the journal takes no more."""
    text = visit.canaries.plant("a plaintext").encode()
    items = [{"plaintext": base64.b64encode(text).decode()}] * 100
    path = f"/v1/leak-transit/encrypt/{visit.name}"
    for _ in range(100):
        token = own if proper else visit.token()
        last = visit.ask("POST", path, {"batch_input": items}, token=token, **proper)
        if last.code == Code.AUDIT_UNAVAILABLE:
            break
    assert last.code == Code.AUDIT_UNAVAILABLE, last


def test_no_key_of_a_connection_is_left_anywhere(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer, kafka: KafkaBroker
) -> None:
    """TLS on every side, with a client's key towards OpenBao, the PDP and Kafka: callers that are not let in, files
    exchanged for wrong ones, an environment that asks for the session keys, an abort."""
    canaries, prefix = Canaries(), f"{PREFIX}-keys"
    asyncio.run(kafka.create_topics(*(prefix + end for end in TOPICS)))
    for folder in ("mine", "theirs", "files"):
        (tmp_path / folder).mkdir()
    mine, theirs = make_certificates(tmp_path / "mine"), make_certificates(tmp_path / "theirs")
    files = {
        "listener": mine.server,
        "openbao": theirs.client,
        "pdp": theirs.other_client,
        "kafka": kafka.certificates.client,
    }
    for name, pair in files.items():
        canaries.add_pem(f"the key towards {name}", pair.key.read_text())
        (tmp_path / "files" / f"{name}.pem").write_bytes(pair.cert.read_bytes())
        (tmp_path / "files" / f"{name}.key").write_bytes(pair.key.read_bytes())

    def of(name: str, ca: Path, cert: str = "cert_file", key: str = "key_file") -> dict[str, str]:
        place = tmp_path / "files" / name
        return {"ca_file": str(ca), cert: f"{place}.pem", key: f"{place}.key"}

    listener = of("listener", mine.ca)
    listener["client_ca_file"] = listener.pop("ca_file")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=theirs.ca)
    server.load_cert_chain(theirs.server.cert, theirs.server.key)
    server.verify_mode = ssl.CERT_REQUIRED
    app = ssl.create_default_context(cafile=mine.ca)
    app.load_cert_chain(mine.client.cert, mine.client.key)
    stranger = ssl.create_default_context(cafile=mine.ca)
    stranger.load_cert_chain(theirs.client.cert, theirs.client.key)
    tls = TlsListener(theirs.server.cert, theirs.server.key, theirs.ca)
    with (
        OpenBao(tmp_path / "openbao", tls=tls) as bao,
        CrookedOpenBao(bao.address) as crooked,
        ScriptedAuthzen(server) as pdp,
        Collector() as collector,
    ):
        bao.put("app/db", {"user": canaries.plant("a value")})
        overrides = OPEN | {
            "listen": {"tls": listener | {"client_cert": "required"}},
            "upstream": {"address": bao.tls_address, "tls": of("openbao", theirs.ca)},
            "authorization": {
                "pdp": "authzen",
                "authzen": of("pdp", theirs.ca, "client_cert_file", "client_key_file") | {"url": pdp.url},
            },
            "audit": {
                "kafka": of("kafka", kafka.certificates.ca)
                | {"bootstrap_servers": kafka.mtls, "security_protocol": "SSL", "topic_prefix": prefix}
            },
        }
        log = tmp_path / "session-keys.log"
        environment = {"SSLKEYLOGFILE": str(log), "PYTHONFAULTHANDLER": "1", "PYTHONASYNCIODEBUG": "1"}
        process = SidecarProcess(tmp_path / "sidecar", bao, issuer, overrides, environment=environment)
        visit = House(tmp_path, bao, crooked, pdp, collector, kafka, canaries, process, "", tls=app)
        canaries.add("the sidecar's own token", bao.root_token)
        process.start()
        try:
            assert visit.ask("GET", "/v1/secret/data/app/db").status == 200
            strange = ssl.create_default_context(cafile=mine.ca)
            for context in (stranger, strange, None):  # another authority's, none, no TLS
                try:
                    answer = leaks.ask(process.port, "GET", f"/v1/{canaries.plant('a path')}", tls=context)
                except OSError:
                    continue
                assert not answer.status
            for name in files:
                for wrong in (
                    canaries.plant("a wrong key"),
                    f"-----BEGIN PRIVATE KEY-----\n{canaries.plant('a wrong key')}\n-----END PRIVATE KEY-----\n",
                    theirs.server.key.read_text(),
                ):
                    (tmp_path / "files" / f"{name}.key").write_text(wrong)
                    leaks.reload(visit)
                    visit.ask("GET", f"/v1/secret/data/{canaries.plant('a path')}")
                    visit.look(f"with a wrong key towards {name}")
                (tmp_path / "files" / f"{name}.key").write_bytes(files[name].key.read_bytes())
            leaks.reload(visit)
            assert visit.ask("GET", "/v1/secret/data/app/db").status == 200
            wait_for_kafka(visit, prefix)
            assert process.process is not None
            process.process.send_signal(signal.SIGABRT)
            assert process.process.wait(20) == -signal.SIGABRT
        finally:
            process.kill()
    canaries.add_pem("another's key", theirs.server.key.read_text())
    searched = visit.seen | visit.refusals | left(process) | topics(kafka, prefix)
    assert b"Fatal Python error: Aborted" in searched["sidecar.log"]
    assert len(searched["topic .secrets.audit"]) > 1000
    found = canaries.found_in(searched)
    assert not found, "\n".join(found)
    assert not log.exists(), "whoever recorded the traffic can read it"


def left(process: SidecarProcess) -> dict[str, bytes]:
    """Log, spool as it stands and as `audit cat` reads it, ledger of leases, and whatever else a sidecar left."""
    folder, given = process.folder, (process.config_file, process.folder / "jwks.json")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in given]
    assert not [path for path in files if path.name.startswith("core")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files} | {
        "records": json.dumps(process.records()).encode()
    }


def wait_for_kafka(house: House, prefix: str = PREFIX) -> None:
    """Until the topic holds what the spool holds."""
    last = house.process.records()[-1]["seq"]
    deadline = time.monotonic() + 30
    while True:
        messages = asyncio.run(house.kafka.messages(f"{prefix}.secrets.audit"))
        if messages and max(json.loads(message.value)["seq"] for message in messages) >= last:
            return
        assert time.monotonic() < deadline, house.process.log_tail()
        time.sleep(0.1)
