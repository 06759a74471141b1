"""Database: credentials made for a role, or kept for a static one.

Reading `creds/` makes a user in the database and a lease: it is recorded as a mutation before it happens.
"""

from __future__ import annotations

from typing import Final

from sidecar.surface.operation import Issue, Purpose
from sidecar.surface.table import Body, Row, Table, Verb

_OPERATORS: Final = "connections and roles are the operator's, made on OpenBao itself"

TABLE: Final = Table(
    "database",
    (
        Row("database.creds", Purpose.READ, Verb.READ, ("creds/{role}",), mutation=True, issues=Issue.LEASE),
        Row("database.static_creds", Purpose.READ, Verb.READ, ("static-creds/{role}",)),
        Row(
            "database.rotate_role",
            Purpose.ROTATE,
            Verb.WRITE,
            ("rotate-role/{role}",),
            body=Body({}, optional=True),
        ),
    ),
    refusals=dict.fromkeys(("config", "roles", "static-roles", "rotate-root", "reset", "reload"), _OPERATORS),
)
