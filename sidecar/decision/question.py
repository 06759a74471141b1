"""The question to a PDP, made from what is asked and who asks: OpenID AuthZEN 1.0, section 5.

What is not known is absent, never an empty text: a policy that looks for it then says so, or does not permit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from sidecar.caller.identity import Caller
from sidecar.decision.permit import Question
from sidecar.ops.tracing import TraceParent
from sidecar.surface.secret_uri import SecretUri

_RESOURCE_PROPERTIES: Final = ("owner", "created_by", "created_at")
"""Fetched attributes that stand among the resource's properties; all others are `resource_attributes`."""


def question_of(
    caller: Caller,
    uri: SecretUri,
    purpose: str,
    operation: str,
    *,
    tenant_id: str,
    correlation_id: str = "",
    attributes: Mapping[str, str] | None = None,
    attributes_unavailable: bool = False,
    trace: TraceParent | None = None,
) -> Question:
    """The question whether this caller may do this. `purpose` and `operation` are names, `attributes` those fetched of
    the resource, by name; with `attributes_unavailable` the question says that they could not be."""
    fetched = attributes or {}
    return Question(
        subject={
            "type": "workload",
            "id": caller.subject,
            "properties": {
                "issuer": caller.issuer,
                "scopes": sorted(caller.scopes),
                "amr": list(caller.amr),
                **dict(caller.attributes),
                **_known(
                    client_id=caller.client_id, act=dict(caller.act), acr=caller.acr, auth_time=caller.auth_time or None
                ),
            },
        },
        action={"name": str(purpose), "properties": {"operation": operation}},
        resource={
            "type": "secret",
            "id": str(uri),
            "properties": {
                "tenant_id": tenant_id,
                **_of_uri(uri),
                **{name: fetched[name] for name in _RESOURCE_PROPERTIES if name in fetched},
            },
        },
        context={
            "cnf_binding": {
                "kind": str(caller.binding.kind),
                **_known(thumbprint=caller.binding.thumbprint),
            },
            "aud": list(caller.audience),
            "resource_attributes": {name: value for name, value in fetched.items() if name not in _RESOURCE_PROPERTIES},
            **({"attributes_unavailable": True} if attributes_unavailable else {}),
            **_known(
                token_jti=caller.token_jti,
                correlation_id=correlation_id,
                workflow_run_id=caller.workflow_run_id,
                node_id=caller.node_id,
                system_id=caller.system_id,
            ),
        },
        trace=trace,
    )


def informed(question: Question, attributes: Mapping[str, str] | None) -> Question:
    """The same question with what was fetched of the resource since; None where it could not be."""
    fetched = attributes or {}
    properties = {name: fetched[name] for name in _RESOURCE_PROPERTIES if name in fetched}
    others = {name: value for name, value in fetched.items() if name not in _RESOURCE_PROPERTIES}
    unavailable = {"attributes_unavailable": True} if attributes is None else {}
    return replace(
        question,
        resource={**question.resource, "properties": {**question.resource["properties"], **properties}},
        context={**question.context, "resource_attributes": others, **unavailable},
    )


def _of_uri(uri: SecretUri) -> dict[str, Any]:
    """The parts of a URI, spelt as in its canonical form, so that a policy needs one spelling only."""
    _, _, rest = str(uri).partition("://")
    rest, _, _ = rest.partition("?")  # `?` and `#` inside a part are percent-encoded
    named, has_fragment, fragment = rest.partition("#")
    segments = named.split("/")
    depth = uri.mount.count("/") + 1
    return {
        "provider": uri.provider,
        "mount": "/".join(segments[:depth]),
        "path": "/".join(segments[depth:]),
        **({"fragment": fragment} if has_fragment else {}),
        **_known(engine=uri.engine, version=uri.version),
    }


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in ("", None, {})}
