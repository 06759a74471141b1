"""One generated request at a time, and three accounts of it, entry by entry.

What the sidecar's own reading authorises (its surface, called here on the same bytes), what its journal says, and what
OpenBao's raw audit shows must be the same operations, in the same order, in the same namespaces, on the same paths.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from sidecar.audit.record import ResourceRefs
from sidecar.door.framing import framing_of
from sidecar.door.head import END, parse_head
from sidecar.errors import Refused
from sidecar.surface.mounts import Mount, MountTable
from sidecar.surface.operation import LocalAnswer, Operation
from sidecar.surface.vault_api import VaultApi
from tests.differential.desk import ALLOWED, MOUNTS, Desk, Journal, executed, uri_of
from tests.differential.generator import FURTHER, Case
from tests.real.sidecar import SALT

_TIMEOUT_SECONDS: Final = 10.0
_MAX_HEADER_BYTES: Final = 64 * 1024
_MAX_URI_BYTES: Final = 4096
_AUDITED: Final = {
    "GET": {"read"},
    "LIST": {"list"},
    "POST": {"create", "update"},
    "PATCH": {"patch"},
    "DELETE": {"delete"},
}
"""What OpenBao's audit calls a request that was sent with this method."""


@dataclass
class Outcome:
    """What one case came to. `differences` is empty where all accounts agree."""

    executed: int = 0
    statuses: list[int] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


class Comparison:
    """Sends cases through a desk, one after the other, and compares after each: nothing else may be going on there."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._journal = Journal(desk.sidecar.spool)
        self._journal.new()
        self._refs = ResourceRefs("acme", SALT.encode())
        mounts = [Mount(mount["path"], mount["engine"], mount.get("namespace", "")) for mount in MOUNTS]
        mounts += FURTHER
        table = MountTable(mounts, [*ALLOWED, *(mount.name for mount in FURTHER)])
        self._api = VaultApi(lambda: table)
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Closes the kept connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def check(self, case: Case) -> Outcome:
        """Sends it, and compares all that came of it."""
        mark = self._desk.lab.audit_mark()
        answers = self._send(case)
        outcome = Outcome(statuses=[status for status, _ in answers])
        differences = outcome.differences
        done = executed(self._desk.lab.audit_since(mark))
        outcome.executed = len(done)
        records = self._journal.new()
        if not answers:
            differences.append("no answer")
        upstream = {record["correlation_id"]: record["upstream"] for record in records if record.get("upstream")}
        for status, correlation_id in answers:
            said = upstream.get(correlation_id) or {}
            if status >= 500 and status != said.get("status"):
                differences.append(f"the sidecar answered {status} of its own accord")
        forwarded = _forwarded(records)
        authorised = list(self._authorised(case.raw))
        # An open port, a served client and a good token are no matter of the surface: it may allow what another stage
        # then refuses, and of several requests on one connection the later ones may not be looked at.
        if len(done) > len(authorised):
            differences.append(f"OpenBao executed {_brief(done)}; authorised were {[o.name for o in authorised]}")
        if len(done) != len(forwarded):
            differences.append(f"OpenBao executed {_brief(done)}, recorded {[r[0]['operation'] for r in forwarded]}")
        if not case.tricks and len(done) != len(authorised):
            differences.append(f"a valid request was not executed: {outcome.statuses}")
        # Of a series, what another stage refused is left out here too.
        remaining = iter(authorised)
        for request, recorded in zip(done, forwarded, strict=False):
            operation = next((o for o in remaining if not self._differs(o, request, recorded)), None)
            if operation is None:
                nearest = authorised[0] if authorised else None
                reason = self._differs(nearest, request, recorded) if nearest else "nothing was authorised"
                differences.append(f"OpenBao executed {_brief([request])}: {reason}")
        return outcome

    def _authorised(self, raw: bytes) -> Iterator[Operation]:
        """What the sidecar's own reading of these bytes allows, request by request, as far as they can be read."""
        while raw:
            head_end = raw.find(END) + len(END)
            try:
                head = parse_head(
                    raw[:head_end] if head_end >= len(END) else raw,
                    max_header_bytes=_MAX_HEADER_BYTES,
                    max_uri_bytes=_MAX_URI_BYTES,
                )
                framing = framing_of(head)
                body, raw = framing.feed(raw[head_end:]) if framing else (b"", raw[head_end:])
            except Refused:
                return
            if framing is not None and not framing.complete:
                return
            with suppress(Refused):
                route = self._api.route(head)
                if not isinstance(route, LocalAnswer):
                    yield route.operation(body)
            if not head.keep_alive:
                return

    def _differs(self, operation: Operation, request: dict[str, Any], recorded: list[dict[str, Any]]) -> str:
        """How OpenBao's entry or the sidecar's record differs from what was authorised; empty where they agree."""
        upstream = operation.upstream
        if request["operation"] not in _AUDITED[upstream.method]:
            return f"authorised was {upstream.method}"
        if request["path"] != unquote(upstream.path).removeprefix("/v1/"):
            return f"authorised was the path {upstream.path}"
        if (request.get("namespace") or {}).get("path", "").rstrip("/") != upstream.namespace:
            return f"authorised was the namespace {upstream.namespace!r}"
        executed, sent = request.get("data") or {}, _sent(operation)
        if operation.replaces_labels and "metadata_cas" not in sent:
            executed.pop("metadata_cas", None)  # so that no maker is lost: what was looked at is replaced, or nothing
        if executed != sent:
            return f"authorised was the data {sent}, not {executed}"
        if {record["operation"] for record in recorded} != {operation.name}:
            return f"authorised was {operation.name}, recorded {recorded[0]['operation']}"
        if {record["resource_ref"] for record in recorded} != {self._refs.of(operation.uri).resource_ref}:
            return f"authorised was {operation.uri}, recorded another"
        if {record["purpose"] for record in recorded} != {operation.purpose}:
            return f"authorised was {operation.purpose}, recorded {recorded[0]['purpose']}"
        for phase, count in (("outcome", operation.uses), ("intent", operation.uses if operation.mutation else 0)):
            if sum(record["phase"] == phase for record in recorded) != count:
                return f"not {count} records of the {phase}"
        independent = uri_of(request)
        if independent is not None and independent != operation.uri.without_version():
            return f"it means {independent}, authorised was {operation.uri}"
        return ""

    # -- the wire ----------------------------------------------------------------------------------------------------
    def _send(self, case: Case) -> list[tuple[int, str]]:
        """The final answers: status and correlation id."""
        if not case.alone:
            return self._send_kept(case.raw)
        answers = self._desk.exchange(case.raw, half_closed=case.half_closed, idle=_TIMEOUT_SECONDS)
        return [
            (answer["status"], {name.lower(): value for name, value in answer["headers"]}.get("x-correlation-id", ""))
            for answer in answers
            if answer["status"] is None or answer["status"] >= 200
        ]

    def _send_kept(self, raw: bytes) -> list[tuple[int, str]]:
        """One request on a connection that is kept from case to case, as long as the sidecar keeps it."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._desk.sidecar.port), _TIMEOUT_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = HTTPResponse(self._socket, method=raw.split(b" ", 1)[0].decode("latin-1"))
        try:
            self._socket.sendall(raw)
            answer.begin()
            answer.read()
        except (OSError, HTTPException):
            self.close()
            return []
        if answer.will_close:
            self.close()
        return [(answer.status, answer.getheader("X-Correlation-ID", ""))]


def _forwarded(records: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The records of each request that went to OpenBao, in the order of their outcomes."""
    of: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        of.setdefault(record["correlation_id"], []).append(record)
    return [group for group in of.values() if any(record.get("upstream") for record in group)]


def _sent(operation: Operation) -> Any:
    """The body and the query of the upstream request, as OpenBao lists them."""
    values = parse_qs(operation.upstream.query)
    query = {name: given[0] if len(given) == 1 else given for name, given in values.items()}
    return {**query, **json.loads(operation.upstream.body or b"{}")}


def _brief(requests: list[dict[str, Any]]) -> str:
    return str([(r["operation"], (r.get("namespace") or {}).get("path", ""), r["path"]) for r in requests])
