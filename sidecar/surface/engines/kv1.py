"""KV version 1: the path is the secret, the body is its content."""

from __future__ import annotations

from typing import Final

from sidecar.surface.operation import Purpose
from sidecar.surface.table import PAGES, Body, Row, Table, Verb

_PATH: Final = ("{path...}",)

TABLE: Final = Table(
    "kv1",
    (
        Row("kv1.read", Purpose.READ, Verb.READ, _PATH, streams=True),
        Row("kv1.list", Purpose.READ_METADATA, Verb.LIST, ("{folder...}",), query=PAGES, streams=True),
        Row("kv1.write", Purpose.WRITE, Verb.WRITE, _PATH, body=Body(fields=None)),
        Row("kv1.delete", Purpose.DELETE, Verb.DELETE, _PATH),
    ),
)
