"""The tables together are the documented list of operations, no more and no less."""

from __future__ import annotations

from typing import Final

import pytest

from sidecar.surface.engines import ENGINES
from sidecar.surface.operation import SCOPE, Purpose
from sidecar.surface.table import Row

DOCUMENTED: Final = {
    Purpose.READ: "kv2.read kv1.read database.static_creds database.creds transit.export",
    Purpose.EXECUTE: "transit.encrypt transit.decrypt transit.rewrap transit.sign transit.verify transit.hmac"
    " transit.datakey transit.random transit.hash pki.issue pki.sign",
    Purpose.WRITE: "kv2.write kv2.patch kv1.write kv2.metadata_write transit.create_key",
    Purpose.ROTATE: "transit.rotate database.rotate_role",
    Purpose.DELETE: "kv2.delete kv1.delete",
    Purpose.UNDELETE: "kv2.undelete",
    Purpose.DESTROY_VERSIONS: "kv2.destroy kv2.delete_all",
    Purpose.READ_METADATA: "kv2.metadata_read kv2.subkeys kv2.list kv1.list transit.read_key transit.list"
    " pki.read_ca pki.read_crl pki.read_cert pki.list",
    Purpose.REVOKE: "pki.revoke",
}
ROWS: Final = [row for table in ENGINES.values() for row in table.rows]


def test_each_operation_has_its_documented_purpose() -> None:
    found = {(row.operation, row.purpose) for row in ROWS}
    assert found == {(name, purpose) for purpose, names in DOCUMENTED.items() for name in names.split()}


def test_each_purpose_has_a_scope() -> None:
    assert SCOPE.keys() == set(Purpose)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.operation}-{row.verb}")
def test_an_operation_belongs_to_its_engine_and_records_what_it_changes(row: Row) -> None:
    engine = row.operation.split(".")[0]
    assert row in ENGINES[engine].rows
    looking = row.purpose in (Purpose.READ, Purpose.READ_METADATA)
    assert row.changes == (not looking or row.operation == "database.creds")
    # Only what has no lease and no `auth` may be passed on as it comes.
    assert row.streams == (looking and engine in ("kv1", "kv2"))
