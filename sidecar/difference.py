"""The audit record of a difference between the PDP in force and a candidate: POLICY_DIFFERENCE."""

from __future__ import annotations

from sidecar.audit.record import Event, Record, ResourceRefs
from sidecar.decision.observed import Difference, told


def difference_record(difference: Difference, refs: ResourceRefs, tenant_id: str) -> Record:
    """With no path, key or value in it, as any record."""
    decision = difference.decision
    caller, operation, verdict = decision.caller, decision.operation, decision.verdict
    ref = refs.of(operation.uri)
    return Record(
        Event.POLICY_DIFFERENCE,
        {
            "difference": difference.kind,
            "differs": difference.differs or None,
            "effect": "deny" if decision.code else "permit",
            "code": decision.code or None,
            "purpose": operation.purpose,
            "operation": operation.name,
            "subject": {
                "sub": caller.subject,
                "iss": caller.issuer,
                "client_id": caller.client_id or None,
                "act": caller.act or None,
            },
            "tenant_id": tenant_id,
            "resource_ref": ref.resource_ref,
            "parent_ref": ref.parent_ref,
            "ref_key_id": ref.ref_key_id,
            "resource_arn": ref.resource_arn,
            "decision_id": verdict.decision_id or None,
            "policy_version": verdict.policy_version or None,
            "policies": verdict.policies or None,
            "obligations": told(verdict.obligations),
            "candidate": {
                "effect": "deny" if difference.code else "permit",
                "code": difference.code or None,
                "policy_version": difference.verdict.policy_version or None,
                "policies": difference.verdict.policies or None,
                "attributes_used": difference.verdict.attributes or None,
                "obligations": told(difference.verdict.obligations),
            },
            "correlation_id": decision.correlation_id,
            "workflow_run_id": caller.workflow_run_id or None,
            "node_id": caller.node_id or None,
            "system_id": caller.system_id or None,
        },
    )
