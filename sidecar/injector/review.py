"""The wire of admission webhooks: `AdmissionReview` of admission.k8s.io/v1, and nothing else. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.decision.json_strict import JsonError, read_json
from sidecar.injector.refusal import Malformed

API_VERSION: Final = "admission.k8s.io/v1"
KIND: Final = "AdmissionReview"
OPERATIONS: Final = frozenset({"CREATE", "UPDATE", "CONNECT"})
SUBRESOURCES: Final = frozenset({"", "ephemeralcontainers", "resize", "exec", "attach", "portforward"})
_LONGEST_WARNING: Final = 250
_MOST_WARNINGS: Final = 15
_KINDS: Final = {
    "exec": ("", "v1", "PodExecOptions"),
    "attach": ("", "v1", "PodAttachOptions"),
    "portforward": ("", "v1", "PodPortForwardOptions"),
}
_POD: Final = ("", "v1", "Pod")


@dataclass(frozen=True, slots=True)
class Review:
    """What the API server asks."""

    uid: str
    operation: str
    subresource: str
    namespace: str
    name: str
    dry_run: bool
    object: Any
    old_object: Any


def parse_review(raw: bytes) -> Review:
    """Reads what the API server sent.

    Raises:
        Malformed: it is not JSON with unique names, or no review of a pod in this version.
    """
    try:
        tree = read_json(raw)
    except JsonError as error:
        raise Malformed(f"the body: {error}") from None
    if not isinstance(tree, dict) or tree.get("kind") != KIND or tree.get("apiVersion") != API_VERSION:
        raise Malformed(f"the body is not an {KIND} of {API_VERSION}")
    request = tree.get("request")
    if not isinstance(request, dict):
        raise Malformed("request: is missing")
    subresource = _text(request, "subResource", optional=True)
    operation = _text(request, "operation")
    if operation not in OPERATIONS:
        raise Malformed("request.operation: is none that is handled here")
    if subresource not in SUBRESOURCES or _triple(request, "resource", "resource") != ("", "v1", "pods"):
        raise Malformed("request.resource: only v1 pods are handled here")
    if _triple(request, "kind", "kind") != _KINDS.get(subresource, _POD):
        raise Malformed("request.kind: does not go with the resource")
    dry_run = request.get("dryRun", False)
    if not isinstance(dry_run, bool):
        raise Malformed("request.dryRun: is neither true nor false")
    return Review(
        uid=_text(request, "uid"),
        operation=operation,
        subresource=subresource,
        namespace=_text(request, "namespace"),
        name=_text(request, "name", optional=True),
        dry_run=dry_run,
        object=request.get("object"),
        old_object=request.get("oldObject"),
    )


def _text(tree: dict[str, Any], key: str, *, optional: bool = False) -> str:
    value = tree.get(key, "" if optional else None)
    if not isinstance(value, str) or not (value or optional) or not value.isprintable():
        raise Malformed(f"request.{key}: is missing, or not a text")
    return value


def _triple(request: dict[str, Any], key: str, last: str) -> tuple[object, object, object]:
    tree = request.get(key)
    if not isinstance(tree, dict):
        raise Malformed(f"request.{key}: is missing")
    return tree.get("group", ""), tree.get("version"), tree.get(last)


def allowed(uid: str, patch: Sequence[dict[str, Any]] = (), warnings: Sequence[str] = ()) -> dict[str, Any]:
    """The answer that lets it in, changed by a patch."""
    response: dict[str, Any] = {"uid": uid, "allowed": True}
    if patch:
        text = json.dumps(list(patch), ensure_ascii=False, separators=(",", ":"))
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(text.encode()).decode()}
    if warnings:
        response["warnings"] = [_one_line(warning) for warning in warnings[:_MOST_WARNINGS]]
    return _answer(response)


def denied(uid: str, message: str, code: int = 403) -> dict[str, Any]:
    """The answer that keeps it out, and says why."""
    reason = {400: "BadRequest", 403: "Forbidden", 500: "InternalError"}[code]
    status = {"status": "Failure", "code": code, "reason": reason, "message": f"openbao-sidecar: {message}"}
    return _answer({"uid": uid, "allowed": False, "status": status})


def _answer(response: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": KIND, "response": response}


def _one_line(text: str) -> str:
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= _LONGEST_WARNING else plain[: _LONGEST_WARNING - 1] + "…"
