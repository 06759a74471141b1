"""`sidecar audit why`: all that the audit holds of one request, in the order of a person's questions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

import orjson

from sidecar.audit.reader import read_all

STAGES: Final[Mapping[str, str]] = {
    "door": "the HTTP request itself was not acceptable",
    "surface": "what was asked could not be named in exactly one way, or is never allowed",
    "caller": "who asked could not be established",
    "guard": "outside the tenant's mounts, or the token's scopes",
    "decision": "policy, or the caller's grant",
    "audit": "no record could be written, so nothing was done",
    "upstream": "OpenBao did not answer as it should",
    "release": "the answer could not be let out",
}
GRANTS: Final[Mapping[str, str]] = {
    "none": "none for this",
    "live": "live, with too few uses left or under other terms",
    "spent": "used up, and this token may not open it again",
    "expired": "expired, and this token may not open it again",
    "other_binding": "live under another key",
    "denied": "denied a moment ago, and that is remembered",
}
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


def why(correlation_id: str, paths: Sequence[Path], out: TextIO, *, as_json: bool = False) -> int:
    """Prints the records of one request, and of what a candidate would have made of it. Exit 0, or 1 where there are
    none."""
    found = 0
    try:
        for record in _records(paths):
            if record.get("correlation_id") == correlation_id:
                found += 1
                out.write((json.dumps(record) if as_json else _told(record)) + "\n")
    except OSError as error:
        out.write(f"{error.filename or ''}: {error.strerror or error}\n")
        return 1
    if not found:
        out.write("no record has this correlation id; it is in each answer: `correlation_id`, X-Correlation-ID\n")
    return 0 if found else 1


def _records(paths: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    for line in read_all(paths):
        if line is not None and not line.fault:
            try:
                record = orjson.loads(line.record)
            except orjson.JSONDecodeError:
                continue
            if isinstance(record, dict):
                yield record


def _told(record: Mapping[str, Any]) -> str:
    """One record as a person reads it. Whatever a caller can choose is escaped: it may drive no terminal."""
    subject, binding, grant = (_object(record, name) for name in ("subject", "binding", "grant"))
    upstream, candidate = _object(record, "upstream"), _object(record, "candidate")
    stage, state = record.get("stage"), record.get("grant_state")
    lines = {
        "who": " ".join(
            filter(
                None,
                (
                    str(subject.get("sub", "")),
                    f"of {subject['iss']}" if subject.get("iss") else "",
                    f"by {binding['kind']}" if binding else "",
                ),
            )
        ),
        "what": f"{record.get('purpose') or '?'} ({record.get('operation') or 'not named'})",
        "which": record.get("resource_ref"),
        "stage": f"{stage}: {STAGES.get(str(stage), '')}" if stage else None,
        "policies": _joined(record.get("policies"))
        or ("none permits" if record.get("code") == "POLICY_DENIED" else ""),
        "looked at": _joined(record.get("attributes_used")),
        "version": record.get("policy_version"),
        "decision": record.get("decision_id"),
        "grant": GRANTS.get(str(state), state) if state else _grant(grant),
        "upstream": f"status {upstream['status']}" if upstream else None,
        "candidate": _candidate(record, candidate) if candidate else None,
    }
    head = " ".join(str(record[name]) for name in ("ts", "event", "code") if record.get(name)) + (
        f" ({record['phase']})" if record.get("phase") else ""
    )
    shown = [head, *(f"  {name:<10}{value}" for name, value in lines.items() if value)]
    return "\n".join(_UNPRINTABLE.sub(lambda one: one[0].encode("unicode_escape").decode(), line) for line in shown)


def _object(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _joined(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else ""


def _grant(grant: Mapping[str, Any]) -> str:
    if not grant:
        return ""
    how = "a live one" if grant.get("hit") else "opened by this request"
    return f"{how}, {grant.get('uses_left')} uses left until {grant.get('expires_at')}"


def _candidate(record: Mapping[str, Any], candidate: Mapping[str, Any]) -> str:
    policies = _joined(candidate.get("policies"))
    return f"{record.get('difference')}: {candidate.get('code') or candidate.get('effect')}" + (
        f" by {policies}" if policies else ""
    )
