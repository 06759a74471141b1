"""The one table of codes."""

from __future__ import annotations

import orjson
import pytest

from sidecar.errors import STATUS, Code, Dialect, Refused, error_body


@pytest.mark.parametrize("code", Code)
def test_each_code_has_exactly_one_status(code: Code) -> None:
    assert STATUS[code] in {400, 401, 403, 404, 405, 409, 413, 422, 429, 431, 501, 502, 503, 504}
    assert Refused(code, "m").status == STATUS[code]


@pytest.mark.parametrize("code", Code)
def test_both_dialects_carry_code_message_and_correlation_id(code: Code) -> None:
    vault = orjson.loads(error_body(code, "no", "cid-1", Dialect.VAULT))
    assert vault == {"errors": ["no"], "code": code.value, "correlation_id": "cid-1"}
    secrets = orjson.loads(error_body(code, "no", "cid-1", Dialect.SECRETS))
    assert {key: secrets[key] for key in ("code", "message", "correlation_id")} == {
        "code": code.value,
        "message": "no",
        "correlation_id": "cid-1",
    }
    assert isinstance(secrets["error"], str)


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/api/secrets", Dialect.SECRETS),
        ("/api", Dialect.SECRETS),
        ("/apix", Dialect.VAULT),
        ("/v1/secret/data/a", Dialect.VAULT),
        ("", Dialect.VAULT),
    ],
)
def test_the_dialect_follows_the_path(path: str, dialect: Dialect) -> None:
    assert Dialect.of(path) is dialect


def test_only_the_sidecars_own_failures_are_faults() -> None:
    assert not Refused(Code.POLICY_DENIED, "").is_fault
    assert not Refused(Code.OVERLOADED, "").is_fault
    assert Refused(Code.PDP_UNAVAILABLE, "").is_fault
