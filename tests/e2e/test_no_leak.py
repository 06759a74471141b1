"""Canaries stand wherever a secret can: none is found outside the answer that should carry it.

The real sidecar at log level debug, with a real OpenBao behind a proxy that can lie, a real Kafka, an OTLP receiver and
a remote PDP. All that an operator, a collector or a consumer of the audit may see is searched, in many encodings.
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.e2e import leaks
from tests.e2e.leaks import House
from tests.real.kafka import KafkaBroker
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.canaries import Canaries
from tests.support.collector import Collector
from tests.support.crooked_openbao import CrookedOpenBao
from tests.support.scripted_pdp import ScriptedAuthzen
from tests.support.tokens import Issuer
from tests.upstream.exchanging import MOUNT, take_callers

pytestmark = pytest.mark.real

FAULTY = str(Path(__file__).parents[1] / "support" / "faulty_sidecar.py")
PREFIX = "leaktest"
OPEN = {"identity": {"binding": "preferred"}, "anti_replay": {"unbound_token": "off"}}


def allow_everything(openbao: OpenBao) -> None:
    openbao.policy("leak-all", 'path "*" { capabilities = ["create","read","update","delete","list","patch","sudo"] }')


def engines(openbao: OpenBao, canaries: Canaries) -> str:
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
    return name


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer, kafka: KafkaBroker
) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("leak")
    canaries = Canaries()
    topics = [f"{PREFIX}.secrets{end}" for end in (".audit", "", ".notifications")]
    asyncio.run(kafka.create_topics(*topics))
    allow_everything(openbao)
    name = engines(openbao, canaries)
    with CrookedOpenBao(openbao.address) as upstream, ScriptedAuthzen() as pdp, Collector() as collector:
        overrides = configure(folder, canaries, openbao, kafka, collector.endpoint, upstream.address, pdp.url)
        process = SidecarProcess(folder / "sidecar", openbao, issuer, overrides, (FAULTY,))
        made = House(folder, openbao, upstream, pdp, collector, kafka, canaries, process, name)
        mark = openbao.mark()
        with process:
            for entry in openbao.audit(mark):
                auth = entry.get("response", {}).get("auth") or {}
                if auth.get("client_token") and entry["request"]["path"] == "auth/leak/login":
                    canaries.add("the sidecar's own token", auth["client_token"])
                    canaries.add("the accessor of its token", auth["accessor"])
            yield made
    for mount in ("leak-transit", "leak-pki"):
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
    mounts = [("secret", "kv2"), ("leak-transit", "transit"), ("leak-pki", "pki")]
    return OPEN | {
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
        "tenant": {
            "salt": None,
            "salt_file": str(folder / "salts"),
            "allowed_mounts": [path for path, _ in mounts],
        },
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
        "ops": {"otlp_endpoint": collector, "token_file": str(folder / "ops")},
    }


# -- what is searched ------------------------------------------------------------------------------------------------
def places(house: House) -> dict[str, bytes]:
    """All that anybody but the caller may come to see."""
    process = house.process
    found = {
        **house.seen,
        **house.refusals,
        "OTLP": b"".join(house.collector.raw),
    }
    found |= left(process)
    for end in (".secrets.audit", ".secrets", ".secrets.notifications"):
        messages = asyncio.run(house.kafka.messages(f"{PREFIX}{end}"))
        found[f"topic {end}"] = b"\n".join(
            b"".join([message.key or b"", message.value or b"", repr(message.headers).encode()]) for message in messages
        )
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


def test_no_canary_is_found_outside_the_answer_that_should_carry_it(house: House) -> None:
    """Every operation, every kind of refusal, every fault, until the process is killed by one."""
    name = house.name
    for drive in (
        leaks.drive_operations,
        leaks.drive_bad_requests,
        leaks.drive_upstream_faults,
        leaks.drive_pdp_faults,
        leaks.drive_operators,
        leaks.drive_faults_of_our_own,
    ):
        drive(house, name)
        house.look(f"after {drive.__name__}")
    sent = house.collector.wait_for(lambda spans: len(spans) > 200)
    assert {"sidecar.request", "sidecar.pdp", "sidecar.upstream", "sidecar.audit"} <= {span.name for span in sent}
    wait_for_kafka(house)
    assert house.process.process is not None
    pid = sidecar_pid(house.process.process.pid)
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")] == [["0", "0"]]
    assert Path(f"/proc/{pid}/environ").stat().st_uid == 0, "dumpable: processes of the same user read its memory"
    assert house.ask("GET", f"/v1/secret/data/leak/{name}", X_Fault="abort").status == 0
    house.process.process.wait(20)
    house.process.process = None
    house.process.start()
    assert house.ask("GET", f"/v1/secret/data/leak/{name}", X_Fault="uncaught").status == 200
    crashing = house.process.process
    assert crashing is not None
    crashing.send_signal(signal.SIGHUP)
    assert crashing.wait(40) == 1
    house.process.process = None
    assert house.process.log.read_bytes().rstrip().endswith(b"ValueError")
    searched = places(house)
    for place in ("sidecar.log", "records", "OTLP", "topic .secrets.audit", "/metrics after drive_operations"):
        assert len(searched[place]) > 1000, f"nothing to search in {place}"
    found = house.canaries.found_in(searched)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("mode", ["exchange", "passthrough"])
def test_callers_who_log_in_themselves_leave_nothing_behind(house: House, tmp_path: Path, mode: str) -> None:
    """Their JWT, what OpenBao gave for it, their own OpenBao token and password; then a full journal, and kill -9."""
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
    (process.policies / "policies.cedar").write_text('@max_uses("1000000") permit (principal, action, resource);')
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
        login = {"role": canaries.plant("a role"), "jwt": visit.token(), "password": canaries.plant("a password")}
        visit.ask("POST", f"/v1/auth/{MOUNT}/login", login, token=None)
        for call in ("lookup-self", "renew-self", "revoke-self"):
            visit.ask("GET" if call == "lookup-self" else "POST", f"/v1/auth/token/{call}", token=token, **proper)
        for entry in openbao.audit(mark):
            made = entry.get("response", {}).get("auth") or {}
            if made.get("client_token"):
                canaries.add("a caller's OpenBao token", made["client_token"])
        deadline = time.monotonic() + 30
        items = [{"plaintext": base64.b64encode(canaries.plant("a plaintext").encode()).decode()}] * 100
        for path, body in ((f"/v1/leak-transit/encrypt/{house.name}", {"batch_input": items}),) * 40:
            last = visit.ask("POST", path, body, token=visit.token() if mode == "exchange" else own, **proper)
            assert time.monotonic() < deadline
            if last.code == "AUDIT_UNAVAILABLE":
                break
        visit.look("at the end")
    finally:
        process.kill()
    found = canaries.found_in(visit.seen | visit.refusals | left(process))
    assert not found, "\n".join(found)


def left(process: SidecarProcess) -> dict[str, bytes]:
    """Log, spool as it stands and as `audit cat` reads it, ledger of leases, and whatever else a sidecar left."""
    folder, given = process.folder, (process.config_file, process.folder / "jwks.json")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in given]
    assert not [path for path in files if path.name.startswith("core")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files} | {
        "records": json.dumps(process.records()).encode()
    }


def wait_for_kafka(house: House) -> None:
    """Until the topic holds what the spool holds."""
    last = house.process.records()[-1]["seq"]
    deadline = time.monotonic() + 30
    while True:
        messages = asyncio.run(house.kafka.messages(f"{PREFIX}.secrets.audit"))
        if messages and max(json.loads(message.value)["seq"] for message in messages) >= last:
            return
        assert time.monotonic() < deadline, house.process.log_tail()
        time.sleep(0.1)


def sidecar_pid(leash: int) -> int:
    """The process below the leash, which dies with the tests."""
    children = Path(f"/proc/{leash}/task/{leash}/children").read_text().split()
    return int(children[0]) if children else leash
