"""The names of what a policy reads, for the record."""

from __future__ import annotations

import json

import cedarpy
import pytest

from sidecar.decision.cedar.attributes import attributes


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("true", ()),
        ("resource has owner && resource.owner == principal.sub", ("principal.sub", "resource.owner")),
        ('context.cnf_binding.kind == "dpop"', ("context.cnf_binding.kind",)),
        ('principal.scopes.contains("x")', ("principal.scopes",)),
        (
            'context has resource_attributes.team && context.resource_attributes.team == "x"',
            ("context.resource_attributes", "context.resource_attributes.team"),
        ),
        ('Switch::"deployment".running', ("Switch.running",)),
        ('Secret::"openbao+kv2://secret/canary".owner == "canary"', ("Secret.owner",)),
        (
            'if principal.acr == "a" then resource.mount == "b" else context.operation == "c"',
            ("context.operation", "principal.acr", "resource.mount"),
        ),
        ('["canary"].contains(resource.path)', ("resource.path",)),
    ],
)
def test_each_attribute_once_and_no_value(condition: str, names: tuple[str, ...]) -> None:
    text = f"permit (principal, action, resource) when {{ {condition} }};"
    (policy,) = json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"].values()
    assert attributes(policy) == names
