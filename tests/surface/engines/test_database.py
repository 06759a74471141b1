"""Database: reading makes a user, so it is recorded first."""

from __future__ import annotations

import pytest

from sidecar.errors import Code
from sidecar.surface.operation import Purpose
from tests.surface.asking import ask, refusal


def test_making_credentials_is_a_mutation_although_it_is_a_read() -> None:
    operation = ask("GET", "/v1/database/creds/app")
    assert (operation.name, operation.purpose, operation.mutation) == ("database.creds", Purpose.READ, True)
    assert str(operation.uri) == "openbao+database://database/creds/app"
    assert not operation.streams  # it has a lease


def test_static_credentials_are_read_and_rotated() -> None:
    read = ask("GET", "/v1/database/static-creds/app")
    assert (read.name, read.mutation) == ("database.static_creds", False)
    rotated = ask("POST", "/v1/database/rotate-role/app")
    assert (rotated.name, rotated.purpose, rotated.mutation) == ("database.rotate_role", Purpose.ROTATE, True)
    assert str(rotated.uri) == "openbao+database://database/rotate-role/app"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "creds/app"),
        ("GET", "creds"),
        ("LIST", "creds"),
        ("GET", "creds/app/x"),
        ("GET", "roles/app"),
        ("POST", "roles/app"),
        ("LIST", "roles"),
        ("GET", "config/db"),
        ("POST", "rotate-root/db"),
        ("POST", "reset/db"),
        ("GET", "static-roles/app"),
    ],
)
def test_everything_else_is_forbidden(method: str, path: str) -> None:
    assert refusal(method, f"/v1/database/{path}") is Code.OPERATION_FORBIDDEN


def test_rotation_takes_no_fields() -> None:
    assert refusal("POST", "/v1/database/rotate-role/app", b'{"name": "other"}') is Code.MALFORMED_REQUEST
