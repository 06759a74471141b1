"""Which records tell of a mutation."""

from __future__ import annotations

import pytest

from sidecar.audit.record import tells_of_mutation
from sidecar.surface.operation import Purpose


@pytest.mark.parametrize(
    ("told", "event", "phase", "purpose", "operation"),
    [
        (True, "SECRET_PERMIT", "intent", "write", "kv2.write"),
        (True, "SECRET_PERMIT", "outcome", "write", "kv2.write"),
        (True, "SECRET_ERROR", "outcome", "delete", "kv2.delete"),
        (True, "SECRET_ROTATED", "outcome", "rotate", "transit.rotate"),
        (True, "SECRET_PERMIT", "outcome", "read", "database.creds"),
        (True, "SECRET_PERMIT", "outcome", "execute", "pki.issue"),
        (True, "SECRET_PERMIT", "outcome", "revoke", "lease.revoke"),
        (False, "SECRET_PERMIT", "outcome", "read", "kv2.read"),
        (False, "SECRET_PERMIT", "outcome", "execute", "transit.encrypt"),
        (False, "SECRET_DENY", "outcome", "delete", "kv2.delete"),
        (False, "AUDIT_START", None, None, None),
        (False, "POLICY_DIFFERENCE", None, "write", "kv2.write"),
    ],
)
def test_mutations_are_told_by_what_was_done(
    told: bool, event: str, phase: str | None, purpose: str | None, operation: str | None
) -> None:
    assert tells_of_mutation(event, phase, purpose, operation) is told


def test_every_purpose_is_either_a_change_or_known_not_to_be_one() -> None:
    changing = {purpose for purpose in Purpose if tells_of_mutation("SECRET_PERMIT", "outcome", str(purpose), None)}
    assert set(Purpose) - changing == {Purpose.READ, Purpose.EXECUTE, Purpose.READ_METADATA}
