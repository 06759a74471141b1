"""What clients ask when they start; the sidecar answers it itself, for the caller, from the caller's own identity.

OpenBao would answer `auth/token/…-self` for the sidecar's own token, and hand it out; so these never reach it. Of
`sys/` only the server's state is asked of it, without a token. All else below `sys/` and `auth/` is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from sidecar.caller.identity import BindingKind, Caller
from sidecar.door.head import Head
from sidecar.errors import Code, Refused
from sidecar.surface.mounts import Mount, MountTable
from sidecar.surface.operation import LocalAnswer, LocalAnswerKind, UpstreamRequest
from sidecar.surface.query import encode_query, read_values, split_query

OWNED: Final = frozenset({"sys", "auth"})
"""First segments that are never a mount of secrets."""

_SELF: Final[Mapping[tuple[str, ...], tuple[frozenset[str], LocalAnswerKind]]] = {
    ("auth", "token", "lookup-self"): (frozenset({"GET"}), LocalAnswerKind.LOOKUP_SELF),
    ("auth", "token", "renew-self"): (frozenset({"POST", "PUT"}), LocalAnswerKind.RENEW_SELF),
    ("auth", "token", "revoke-self"): (frozenset({"POST", "PUT"}), LocalAnswerKind.REVOKE_SELF),
}
_UI_MOUNTS: Final = ("sys", "internal", "ui", "mounts")
_STATE: Final[Mapping[str, LocalAnswerKind]] = {
    "health": LocalAnswerKind.SYS_HEALTH,
    "seal-status": LocalAnswerKind.SYS_SEAL_STATUS,
    "leader": LocalAnswerKind.SYS_LEADER,
}

_LAST_SECOND: Final = 253_402_300_799
"""Of the year 9999: what a date can show."""

# No 1xx, no redirect, and none that has no body: those change how an answer is read, not what it says.
_status_code: Final = re.compile(r"20[0-36-9]|2[1-9][0-9]|[45][0-9]{2}").fullmatch


def _code(raw: str) -> str:
    if not _status_code(raw):
        raise Refused(Code.AMBIGUOUS_QUERY, "a status code in the query is not one that an answer with a body can have")
    return raw


def _true(raw: str) -> str:
    if raw not in ("", "true"):
        raise Refused(Code.AMBIGUOUS_QUERY, "standbyok is true, or is left out")
    return "true"


_HEALTH_QUERY: Final = {
    "standbyok": _true,
    "perfstandbyok": _true,
    **dict.fromkeys(
        ("activecode", "standbycode", "drsecondarycode", "performancestandbycode", "sealedcode", "uninitcode"), _code
    ),
    # Go's client asks for these too, the second one misspelt as it stands there; OpenBao passes over them.
    **dict.fromkeys(("removedcode", "haunhealhty", "haunhealthycode"), _code),
}

# OpenBao's own defaults of a mount; what a client reads of it is its path, type and options.
_CONFIG: Final = {"default_lease_ttl": 0, "max_lease_ttl": 0, "force_no_cache": False}
_KV_VERSION: Final = {"kv1": "1", "kv2": "2"}


# -- which requests these are --------------------------------------------------------------------------------------
def recognise(head: Head, segments: tuple[str, ...], folder: bool, namespace: str) -> LocalAnswer:
    """The local answer that a path below `sys/` or `auth/` asks for.

    Raises `Refused`: OPERATION_FORBIDDEN for every other one, AMBIGUOUS_QUERY.
    """
    if segments[:4] == _UI_MOUNTS:
        _check(head, frozenset({"GET"}))
        _no_query(head)
        return LocalAnswer(LocalAnswerKind.UI_MOUNTS, "/".join(segments[4:]), namespace=namespace)
    if folder:
        raise _forbidden()
    own = _SELF.get(segments)
    if own is not None:
        methods, kind = own
        _check(head, methods)
        _no_query(head)
        return LocalAnswer(kind, namespace=namespace)
    if len(segments) == 2 and segments[0] == "sys" and segments[1] in _STATE:
        return _state(head, segments[1])
    raise _forbidden()


def _state(head: Head, what: str) -> LocalAnswer:
    _check(head, frozenset({"GET"}))
    kind = _STATE[what]
    query = ""
    if kind is LocalAnswerKind.SYS_HEALTH:
        if head.headers.get("x-vault-namespace"):
            raise Refused(Code.OPERATION_FORBIDDEN, "sys/health is not served in namespaces")  # nor is it by OpenBao
        query = encode_query(read_values(split_query(head.query), _HEALTH_QUERY))
    else:
        _no_query(head)
    return LocalAnswer(kind, upstream=UpstreamRequest("GET", f"/v1/sys/{what}", query))


def _check(head: Head, methods: frozenset[str]) -> None:
    if head.method not in methods:
        raise _forbidden()


def _no_query(head: Head) -> None:
    read_values(split_query(head.query), {})


def _forbidden() -> Refused:
    return Refused(
        Code.OPERATION_FORBIDDEN,
        "of sys/ and auth/ are served: auth/token/lookup-self, renew-self and revoke-self, sys/internal/ui/mounts,"
        " sys/health, sys/seal-status, sys/leader; everything else is the operator's, made on OpenBao itself",
    )


# -- what they are answered ----------------------------------------------------------------------------------------
def answer(asked: LocalAnswer, caller: Caller, mounts: MountTable, now: float) -> tuple[int, bytes]:
    """Status and body for an authenticated caller. `now` is wall time, in seconds since the epoch.

    Raises `Refused`: MALFORMED_REQUEST for `renew-self`, OPERATION_FORBIDDEN for a mount that is not the tenant's.
    """
    match asked.kind:
        case LocalAnswerKind.LOOKUP_SELF:
            return 200, _secret(lookup_self(caller, now))
        case LocalAnswerKind.REVOKE_SELF:
            return 204, b""
        case LocalAnswerKind.RENEW_SELF:
            raise Refused(Code.MALFORMED_REQUEST, "this token is not renewable; its issuer gives a new one")
        case LocalAnswerKind.UI_MOUNTS if asked.argument:
            return 200, _secret(ui_mount(mounts, asked.argument, asked.namespace))
        case LocalAnswerKind.UI_MOUNTS:
            return 200, _secret(ui_mounts(mounts, asked.namespace))
        case _:
            raise Refused(Code.OPERATION_FORBIDDEN, "this is asked of OpenBao")


def lookup_self(caller: Caller, now: float) -> dict[str, Any]:
    """The caller's token as OpenBao would tell it of its own: what is known from its claims, and nothing renewable."""
    token = "certificate" if caller.binding.kind is BindingKind.MTLS else "pod"
    if caller.token is not None and caller.binding.kind is not BindingKind.POD:
        token = caller.token.reveal()
    issued = _on_calendar(int(now if caller.issued_at is None else caller.issued_at))
    expires = _on_calendar(caller.expires_at)
    return {
        "accessor": "",
        "creation_time": issued,
        "creation_ttl": max(0, expires - issued),
        "display_name": caller.subject,
        "entity_id": "",
        "expire_time": _rfc3339(expires),
        "explicit_max_ttl": 0,
        "id": token,
        "issue_time": _rfc3339(issued),
        "meta": None,
        "num_uses": 0,
        "orphan": True,
        "path": "auth/token/lookup-self",
        "policies": [],
        "renewable": False,
        "ttl": max(0, expires - int(now)),
        "type": "service",
    }


def ui_mounts(mounts: MountTable, namespace: str = "") -> dict[str, Any]:
    """The tenant's mounts in one namespace, and no auth methods: nobody logs in here."""
    return {"auth": {}, "secret": {f"{mount.path}/": _mount(mount) for mount in mounts.visible(namespace)}}


def ui_mount(mounts: MountTable, path: str, namespace: str = "") -> dict[str, Any]:
    """The mount that a path lies in, by which clients tell the versions of KV apart.

    `path` in the answer is as OpenBao has it: with the namespace where the path and not the header named it. Raises
    `Refused`: OPERATION_FORBIDDEN, whether the mount is somebody else's or there is none.
    """
    try:
        place, _ = mounts.resolve(namespace, tuple(path.split("/")))
    except Refused:
        raise Refused(
            Code.OPERATION_FORBIDDEN,
            "preflight capability check returned 403, please ensure that the tenant may use this mount",
        ) from None
    return _mount(place.mount) | {"path": f"{place.mount.name.removeprefix(namespace).removeprefix('/')}/"}


def _mount(mount: Mount) -> dict[str, Any]:
    version = _KV_VERSION.get(mount.engine)
    return {
        "accessor": "",
        "config": _CONFIG,
        "deprecation_status": "supported",
        "description": "",
        "external_entropy_access": False,
        "local": False,
        "options": {"version": version} if version else None,
        "plugin_version": "",
        "running_plugin_version": "",
        "running_sha256": "",
        "seal_wrap": False,
        "type": "kv" if version else mount.engine,
        "uuid": "",
    }


def _secret(data: dict[str, Any]) -> bytes:
    """OpenBao's envelope around an answer's data."""
    return orjson.dumps(
        {
            "request_id": "",
            "lease_id": "",
            "renewable": False,
            "lease_duration": 0,
            "data": data,
            "wrap_info": None,
            "warnings": None,
            "auth": None,
        }
    )


def _on_calendar(seconds: int) -> int:
    """The same moment, or the nearest that a date can show: claims may hold any number."""
    return min(max(seconds, 0), _LAST_SECOND)


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
