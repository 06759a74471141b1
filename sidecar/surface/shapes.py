"""The shapes of answers by which the two versions of KV are told apart, should a mount have changed under a request.

A shape proves nothing, since a secret may hold anything: it only says when to look at the mounts again before release.
"""

from __future__ import annotations

from sidecar.surface.operation import Operation


def looks_strange(operation: Operation, raw: bytes) -> bool:
    """Whether the answer to a KV read looks like the other version's."""
    if operation.name == "kv2.read":
        return b'"metadata":{"created_time"' not in raw
    if operation.name == "kv1.read":
        return b'"metadata":{"created_time"' in raw
    return False
