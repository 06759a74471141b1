"""What `sidecar explain` and `sidecar uri` print: the surface's reading of a request or of a URI, as plain JSON."""

from __future__ import annotations

from typing import Any

from sidecar.door.head import Head
from sidecar.errors import Refused
from sidecar.surface.mounts import MountTable
from sidecar.surface.operation import LocalAnswer, UpstreamRequest
from sidecar.surface.secret_uri import parse
from sidecar.surface.token_calls import TokenCall
from sidecar.surface.vault_api import VaultApi


def explain(head: Head, body: bytes, api: VaultApi) -> dict[str, Any]:
    """What a request is, or the error that it meets. A local answer, and a call about the caller's own OpenBao token,
    has no URI and no purpose."""
    try:
        route = api.token_call(head) or api.route(head)
        if isinstance(route, TokenCall):
            return {
                "canonical_uri": None,
                "operation": route.name,
                "purpose": None,
                "upstream": _upstream(route.request(body)),
            }
        if isinstance(route, LocalAnswer):
            return {
                "canonical_uri": None,
                "operation": f"local.{route.kind}",
                "purpose": None,
                "upstream": _upstream(route.upstream) if route.upstream else None,
            }
        operation = route.operation(body)
    except Refused as refused:
        return _error(refused)
    return {
        "canonical_uri": str(operation.uri),
        "operation": operation.name,
        "purpose": str(operation.purpose),
        "upstream": _upstream(operation.upstream),
    }


def describe_uri(text: str, mounts: MountTable | None = None) -> dict[str, Any]:
    """The canonical form of a URI and its decoded parts, or the error that it meets."""
    try:
        uri = parse(text, mounts)
    except Refused as refused:
        return _error(refused)
    return {
        "canonical_uri": str(uri),
        "provider": uri.provider,
        "engine": uri.engine,
        "mount": uri.mount,
        "path": "/".join(uri.path) + ("/" if uri.folder and uri.path else ""),
        "fragment": uri.fragment,
        "version": uri.version,
        "folder": uri.folder,
    }


def _upstream(request: UpstreamRequest) -> dict[str, str]:
    return {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "namespace": request.namespace,
    }


def _error(refused: Refused) -> dict[str, Any]:
    return {"error": {"code": str(refused.code), "status": refused.status, "message": refused.message}}
