"""The format page names every member of every record, and no other.

Each event is written here with all that it can have. What real sidecars write in the other tests is held against the
page too, by `SidecarProcess.records`.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.audit.record import Effect, Event, Phase, Record, ResourceRefs
from sidecar.caller.identity import Caller
from sidecar.decision.observed import Decision, Difference
from sidecar.decision.permit import Obligations, Question, Verdict
from sidecar.decision.revocation import EVERYTHING, Revocation
from sidecar.difference import difference_record
from sidecar.revocations import Revocations
from sidecar.surface.operation import Purpose
from sidecar.surface.secret_uri import SecretUri
from sidecar.trail import Trail
from tests.audit.keys import Keys
from tests.audit.spools import journal_in, permit, records
from tests.support.audit_format import documented, members_of, undocumented

REFS = ResourceRefs("acme", b"a salt of enough bytes")
CALLER = Caller("app", "https://idp.example", act={"sub": "agent", "act": {"sub": "user"}})
OPERATION: Any = SimpleNamespace(
    name="kv2.write",
    purpose=Purpose.WRITE,
    uri=SecretUri("openbao", "kv2", "secret", ("app", "db"), fragment="password"),
    uses=1,
)
VERDICT = Verdict(True, Obligations(notifications=({"of": {"what": "the PDP likes"}},)), policies=("app",))


def request(event: Event) -> Record:
    """A request's record with every member that `Trail` can give it."""
    trail = Trail(operation=OPERATION, caller=CALLER, forwarded=True)
    grant = SimpleNamespace(hit=True, uses_left=1, expires_at=1.0)
    permitted: Any = SimpleNamespace(verdict=VERDICT, grant=grant)
    trail.permit = permitted
    return trail.record(REFS, "acme", event, Effect.ERROR, Phase.OUTCOME, "UPSTREAM_ERROR")


async def everything_written(tmp_path: Path) -> list[dict[str, Any]]:
    decider: Any = SimpleNamespace(drop_all=lambda: 3, revoke=lambda fits: 1)
    decision = Decision(Question({}, {}, {}), OPERATION, CALLER, VERDICT, "", 1.0)
    async with journal_in(tmp_path / "spool", checkpoints=Keys(tmp_path).checkpoints(), segment_bytes=1024) as journal:
        for event in (Event.SECRET_PERMIT, Event.SECRET_DENY, Event.SECRET_ERROR, Event.SECRET_ROTATED):
            await journal.append(request(event))
        difference = Difference(decision, "would_deny", VERDICT, "POLICY_DENIED", ("release",))
        await journal.append(difference_record(difference, REFS, "acme"))
        revocations = Revocations(decider, journal, REFS, "acme")
        await revocations.apply([EVERYTHING], "ops")
        await revocations.apply([Revocation("app", "https://idp.example", "openbao+kv2://secret/")], "kafka")
        await journal.append(permit("to-begin-a-segment"))
        kept = records(tmp_path / "spool")
        await journal.drop_through(kept[-1]["seq"])
    return kept + [one for one in records(tmp_path / "spool") if one["seq"] > kept[-1]["seq"]]


async def test_each_event_has_exactly_the_members_that_the_page_names(tmp_path: Path) -> None:
    members: dict[Event, set[str]] = {event: set() for event in Event}
    for record in await everything_written(tmp_path):
        members[Event(record["event"])].update(members_of(record))
    for event in Event:
        assert members[event] == documented()[event], event


@pytest.mark.parametrize(
    ("record", "unknown"),
    [
        ({"event": "AUDIT_STOP", "path": "secret/data/x"}, {"path"}),
        ({"event": "SECRET_DENY", "subject": {"sub": "app", "email": "a@example.org"}}, {"subject.email"}),
        ({"event": "SECRET_DENY", "previous_run": "none"}, {"previous_run"}),
        ({"event": "GRANTS_REVOKED", "revocations": [{"all": True}, {"uri_prefix": "x"}]}, {"revocations.uri_prefix"}),
        ({"event": "SECRET_PERMIT", "notifications": [{"anything": 1}], "subject": {"act": {"sub": "x"}}}, set()),
    ],
)
def test_a_member_that_the_page_does_not_name_is_found(record: dict[str, Any], unknown: set[str]) -> None:
    assert undocumented(record) == unknown
