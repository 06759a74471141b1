"""The mediation proof: raw requests through the real sidecar to a real OpenBao, and the two journals side by side.

For each request of the corpus either the sidecar refuses and OpenBao saw nothing, or OpenBao's raw audit shows exactly
the operation, namespace and path that the sidecar authorised, and the sidecar's journal names that secret.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sidecar.audit.record import ResourceRefs
from sidecar.dev.openbao import find_binary
from tests.real.openbao import OpenBao
from tests.real.sidecar import SALT, SidecarProcess
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

CORPUS = Path(__file__).parent.parent / "corpus"
MOUNTS = [
    {"path": "secret", "engine": "kv2"},
    {"path": "team/kv", "engine": "kv2"},
    {"path": "kv1", "engine": "kv1"},
    {"path": "transit", "engine": "transit"},
    {"path": "pki", "engine": "pki"},
    {"path": "totp", "engine": "totp"},
    {"path": "ssh", "engine": "ssh"},
    {"path": "secret", "engine": "kv2", "namespace": "ns1"},
    {"path": "secret", "engine": "kv2", "namespace": "ns1/child"},
    {"path": "secret", "engine": "kv2", "namespace": "ns2"},
]
ALLOWED = ["secret", "team/kv", "kv1", "transit", "pki", "totp", "ssh", "ns1/secret", "ns1/child/secret", "ns2/secret"]
OPENBAO_OPERATIONS = {
    "read": {"read"},
    "subkeys": {"read"},
    "metadata_read": {"read"},
    "read_key": {"read"},
    "export": {"read"},
    "read_ca": {"read"},
    "read_crl": {"read"},
    "read_cert": {"read"},
    "list": {"list"},
    "patch": {"patch"},
    "metadata_write": {"create", "update", "patch"},
    "delete": {"delete", "update"},
    "delete_all": {"delete"},
}
"""What OpenBao's audit calls our operations; everything else is a create or an update there."""


def tool(name: str) -> ModuleType:
    """A tool of the corpus, as it was handed over: a script, not a package."""
    spec = importlib.util.spec_from_file_location(f"corpus_{name}", CORPUS / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


rawhttp = tool("rawhttp")


@dataclass
class Desk:
    """The lab with its sidecar in front."""

    lab: Any
    sidecar: SidecarProcess
    token: str

    def send(self, case: dict[str, Any]) -> list[dict[str, Any]]:
        """The case's exact bytes but for its token, which becomes one that the sidecar takes."""
        raw = base64.b64decode(case["request_b64"])
        head, separator, body = raw.partition(b"\r\n\r\n")
        raw = head.replace(b"root-token-corpus", self.token.encode()) + separator + body
        exchanged = rawhttp.exchange(
            "127.0.0.1",
            self.sidecar.port,
            raw,
            methods=[raw.split(b" ", 1)[0].decode("latin-1")],
            timeout=3.0,
            idle=0.02,
            shut_wr=case.get("client_half_closed", False),
        )
        responses: list[dict[str, Any]] = exchanged["responses"]
        return responses


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Desk]:
    lab_module = tool("lab")
    folder = tmp_path_factory.mktemp("differential")
    with lab_module.Lab(bao=str(find_binary())) as lab:
        upstream = OpenBao.__new__(OpenBao)  # only its address and token are asked for: the lab runs the server
        upstream.address, upstream.root_token = f"http://127.0.0.1:{lab.port}", lab_module.ROOT_TOKEN
        overrides = {
            "listen": {"public_urls": ["http://bao.test:8200"]},
            "mounts": MOUNTS,
            "tenant": {"allowed_mounts": ALLOWED},
            "identity": {"binding": "preferred"},
            "anti_replay": {"unbound_token": "off"},
            "upstream": {"timeout_seconds": 5},
        }
        process = SidecarProcess(folder, upstream, issuer, overrides)
        (process.policies / "policies.cedar").write_text('@id("all") permit (principal, action, resource);')
        with process:
            yield Desk(lab, process, issuer.token(sub="fuzz"))


def cases() -> list[dict[str, Any]]:
    with (CORPUS / "public.jsonl").open() as lines:
        return [json.loads(line) for line in lines]


def executed(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The requests OpenBao took in, less what the sidecar asks for itself (its own token)."""
    return [
        entry["request"]
        for entry in entries
        if entry.get("type") == "request" and not entry["request"]["path"].startswith(("auth/token/", "sys/mounts"))
    ]


def test_every_request_of_the_corpus_is_refused_or_executed_exactly_as_authorised(desk: Desk) -> None:
    refs = ResourceRefs("acme", SALT.encode())
    journal = Journal(desk.sidecar.spool)
    journal.new()
    differences: list[str] = []
    permitted = refused = 0
    for case in cases():
        mark = desk.lab.audit_mark()
        responses = desk.send(case)
        done = executed(desk.lab.audit_since(mark))
        new = journal.new()
        for response in responses:
            status = response["status"]
            if status is not None and status >= 500 and status != _upstream_status(new):
                differences.append(f"{case['id']}: {status} {response['body'][:200]!r}")
        allowed = [r for r in new if r["event"] in ("SECRET_PERMIT", "SECRET_ERROR") and (r.get("upstream"))]
        outcomes = [record for record in allowed if record["phase"] == "outcome"]
        batches = {record["correlation_id"] for record in outcomes}
        if len(done) != len(batches):
            differences.append(f"{case['id']}: OpenBao executed {[d['path'] for d in done]}, recorded {outcomes}")
            continue
        for request in done:
            names = {record["operation"].partition(".")[2] for record in outcomes}
            if not any(request["operation"] in OPENBAO_OPERATIONS.get(name, {"create", "update"}) for name in names):
                differences.append(f"{case['id']}: OpenBao ran {request['operation']} for {names}")
            uri = _uri_of(request)
            if uri is not None and refs.of(uri).resource_ref not in {record["resource_ref"] for record in outcomes}:
                differences.append(f"{case['id']}: OpenBao ran {request['operation']} {request['path']} as another")
        permitted += bool(done)
        refused += not done
    assert not differences, "\n".join(differences[:40])
    print(f"{permitted} executed exactly as authorised, {refused} refused or answered by OpenBao's front")
    assert permitted > 100
    assert refused > 100
    assert desk.sidecar.verify() == 0


class Journal:
    """The sidecar's journal as it is on disk; every answer's record is there before the answer."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._read: dict[Path, int] = {}

    def new(self) -> list[dict[str, Any]]:
        """The records of requests since the last look."""
        lines: list[bytes] = []
        for segment in sorted(self._spool.glob("*")):
            if segment.is_file() and segment.stat().st_size > self._read.get(segment, 0):
                with segment.open("rb") as stream:
                    stream.seek(self._read.get(segment, 0))
                    raw = stream.read()
                self._read[segment] = self._read.get(segment, 0) + len(raw)
                lines += [line[line.index(b"{") :] for line in raw.splitlines() if b'"event"' in line]
        return [record for record in map(json.loads, lines) if record["event"].startswith("SECRET_")]


def _upstream_status(records: list[dict[str, Any]]) -> int | None:
    return next((r["upstream"]["status"] for r in reversed(records) if r.get("upstream")), None)


def _uri_of(request: dict[str, Any]) -> Any:
    """The canonical URI that OpenBao's own audit entry stands for: written apart from the code under test."""
    from sidecar.surface.secret_uri import SecretUri

    namespace = (request.get("namespace") or {}).get("path", "").strip("/")
    mount = request["mount_point"].strip("/")
    below = request["path"].removeprefix(request["mount_point"])
    full = "/".join(filter(None, (namespace, mount)))
    engine = next((m["engine"] for m in MOUNTS if "/".join(filter(None, (m.get("namespace"), m["path"]))) == full), "")
    if engine == "kv2":
        _, _, path = below.partition("/")
    elif engine == "kv1":
        path = below
    else:
        return None  # which part of these paths names the secret is the engine's table; the count was compared
    folder = request["operation"] == "list" or path.endswith("/") or path == ""
    segments = tuple(segment for segment in path.split("/") if segment)
    return SecretUri("openbao", engine, full, segments, folder=folder)
