"""Who made a secret stays written on it, whoever replaces its custom metadata.

OpenBao's POST and PUT of metadata replace all of `custom_metadata`, and a client may not send `created_by` and
`created_at` itself. So they are read first, under the same permit, and go along; under `metadata_cas`, so that a stamp
that comes in between is not lost: then it is begun anew.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import orjson

from sidecar.decision.permit import Permit
from sidecar.errors import Code, Refused
from sidecar.secrets.provenance import CREATED_AT, CREATED_BY
from sidecar.surface.json_body import faithful
from sidecar.surface.operation import UpstreamRequest
from sidecar.upstream.client import UpstreamAnswer, UpstreamClient
from sidecar.upstream.failure import untrustworthy

ATTEMPTS: Final = 10
"""How often it is begun anew because something else changed the metadata."""
_LABELS: Final = "custom_metadata"
_CAS: Final = "metadata_cas"
_CONFLICT: Final = b"metadata check-and-set parameter does not match the current version"


async def forward_with_makers(
    permit: Permit, upstream: UpstreamClient, max_bytes: int, traceparent: str | None
) -> UpstreamAnswer:
    """OpenBao's answer to the permitted request, which is sent with the makers that stand there now.

    Raises `Refused`: UPSTREAM_ERROR where they cannot be read: what is unknown cannot be kept; VERSION_CONFLICT where
    the caller named another version of the metadata. `UpstreamFailure`.
    """
    if not permit.operation.replaces_labels:
        return await upstream.forward(permit, traceparent=traceparent)
    asked = faithful(permit.operation.upstream.body or b"{}")
    for _ in range(ATTEMPTS):
        request = await _with_makers(permit, upstream, max_bytes, traceparent)
        answer = await upstream.forward(permit, request=request, traceparent=traceparent)
        if _CAS in asked or answer.status != 400 or _CONFLICT not in await answer.read(max_bytes):
            break
    return answer


async def _with_makers(
    permit: Permit, upstream: UpstreamClient, max_bytes: int, traceparent: str | None
) -> UpstreamRequest:
    asked = permit.operation.upstream
    read = UpstreamRequest("GET", asked.path, "", asked.namespace)
    answer = await upstream.forward(permit, request=read, traceparent=traceparent)
    raw = await answer.read(max_bytes)
    if answer.status not in (200, 404):
        raise Refused(
            Code.UPSTREAM_ERROR,
            "OpenBao does not say who made this secret, so that it cannot be kept",
            detail=f"status {answer.status}",
        )
    makers, version = _read(raw) if answer.status == 200 else ({}, 0)
    body = faithful(asked.body or b"{}")
    body[_LABELS] |= makers
    # A server that tells no version of the metadata compares none.
    if type(version) is int and body.setdefault(_CAS, version) != version:
        raise Refused(Code.VERSION_CONFLICT, "the metadata have another version by now; read them and try again")
    return replace(asked, body=orjson.dumps(body))


def _read(raw: bytes) -> tuple[dict[str, Any], Any]:
    """The makers in OpenBao's answer, and the version of the metadata."""
    try:
        data = orjson.loads(raw)["data"]
        there: Any = data[_LABELS] or {}
        return {name: there[name] for name in (CREATED_BY, CREATED_AT) if name in there}, data.get(
            "current_metadata_version"
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise untrustworthy("metadata without its labels") from None
