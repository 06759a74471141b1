"""Who made a secret stays written on it, whoever replaces its custom metadata.

OpenBao's POST and PUT of metadata replace all of `custom_metadata`, and a client may not send `created_by` and
`created_at` itself. So they are read first, under the same permit, and go along.
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
from sidecar.upstream.client import UpstreamClient
from sidecar.upstream.failure import untrustworthy

_LABELS: Final = "custom_metadata"


async def with_makers(permit: Permit, upstream: UpstreamClient, max_bytes: int) -> UpstreamRequest | None:
    """The permitted request with the makers that stand there now; None where there are none, or where the operation
    drops none.

    Raises `Refused`: UPSTREAM_ERROR where they cannot be read: what is unknown cannot be kept. `UpstreamFailure`.
    """
    operation = permit.operation
    if not operation.replaces_labels:
        return None
    asked = operation.upstream
    answer = await upstream.forward(permit, request=UpstreamRequest("GET", asked.path, "", asked.namespace))
    raw = await answer.read(max_bytes)
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise Refused(
            Code.UPSTREAM_ERROR,
            "OpenBao does not say who made this secret, so that it cannot be kept",
            detail=f"status {answer.status}",
        )
    try:
        there: Any = orjson.loads(raw)["data"][_LABELS] or {}
        makers = {name: there[name] for name in (CREATED_BY, CREATED_AT) if name in there}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise untrustworthy("metadata without its labels") from None
    if not makers:
        return None
    body = faithful(asked.body or b"{}")
    body[_LABELS] |= makers
    return replace(asked, body=orjson.dumps(body))
