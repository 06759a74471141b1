"""The mediation proof: raw requests through the real sidecar to a real OpenBao, and the two journals side by side.

For each request of the corpus either the sidecar refuses and OpenBao saw nothing, or OpenBao's raw audit shows exactly
the operation, namespace and path that the sidecar authorised, and the sidecar's journal names that secret.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sidecar.audit.record import ResourceRefs
from tests.differential.desk import CORPUS, Desk, Journal, executed, open_desk, upstream_status, uri_of
from tests.real.sidecar import SALT
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

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


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Desk]:
    with open_desk(tmp_path_factory.mktemp("differential"), issuer) as opened:
        yield opened


def cases() -> list[dict[str, Any]]:
    with (CORPUS / "public.jsonl").open() as lines:
        return [json.loads(line) for line in lines]


def send(desk: Desk, case: dict[str, Any]) -> list[dict[str, Any]]:
    """The case's exact bytes but for its token, which becomes one that the sidecar takes."""
    head, separator, body = base64.b64decode(case["request_b64"]).partition(b"\r\n\r\n")
    raw = head.replace(b"root-token-corpus", desk.token.encode()) + separator + body
    return desk.exchange(raw, half_closed=case.get("client_half_closed", False))


def test_every_request_of_the_corpus_is_refused_or_executed_exactly_as_authorised(desk: Desk) -> None:
    refs = ResourceRefs("acme", SALT.encode())
    journal = Journal(desk.sidecar.spool)
    journal.new()
    differences: list[str] = []
    permitted = refused = 0
    for case in cases():
        mark = desk.lab.audit_mark()
        responses = send(desk, case)
        done = executed(desk.lab.audit_since(mark))
        new = journal.new()
        for response in responses:
            status = response["status"]
            if status is not None and status >= 500 and status != upstream_status(new):
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
            uri = uri_of(request)
            if uri is not None and refs.of(uri).resource_ref not in {record["resource_ref"] for record in outcomes}:
                differences.append(f"{case['id']}: OpenBao ran {request['operation']} {request['path']} as another")
        permitted += bool(done)
        refused += not done
    assert not differences, "\n".join(differences[:40])
    print(f"{permitted} executed exactly as authorised, {refused} refused or answered by OpenBao's front")
    assert permitted > 100
    assert refused > 100
    assert desk.sidecar.verify() == 0
