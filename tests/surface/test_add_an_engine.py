"""The worked example of docs/how-to/add-an-engine.md does what the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from sidecar.errors import Code
from sidecar.surface.engines import ENGINES
from sidecar.surface.explain import explain
from sidecar.surface.operation import Purpose
from sidecar.surface.table import Table
from sidecar.surface.vault_api import VaultApi
from tests.surface.asking import TABLE, ask, head_of, refusal

PAGE: Final = (Path(__file__).parents[2] / "docs" / "how-to" / "add-an-engine.md").read_text(encoding="utf-8")


def _block(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(block)


@pytest.fixture(scope="module")
def api() -> VaultApi:
    """The surface with the page's table added."""
    module = ModuleType("totp")
    exec(compile(_block("python"), "docs/how-to/add-an-engine.md", "exec"), module.__dict__)
    table = module.TABLE
    assert isinstance(table, Table)
    return VaultApi(lambda: TABLE, {**ENGINES, "totp": table})


def test_the_page_s_engine_is_served(api: VaultApi) -> None:
    made = ask("GET", "/v1/totp/code/alice@example", api=api)
    assert (made.name, made.purpose, made.mutation) == ("totp.code", Purpose.READ, False)
    checked = ask("PUT", "/v1/totp/code/alice@example", b'{"code": "123456"}', api=api)
    assert (checked.name, checked.purpose, checked.mutation) == ("totp.validate", Purpose.EXECUTE, True)
    assert str(made.uri) == str(checked.uri) == "openbao+totp://totp/alice@example"
    assert str(ask("LIST", "/v1/totp/keys", api=api).uri) == "openbao+totp://totp/"


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", "keys/t1", b"", Code.OPERATION_FORBIDDEN),
        ("POST", "keys/t1", b'{"generate": true}', Code.OPERATION_FORBIDDEN),
        ("DELETE", "keys/t1", b"", Code.OPERATION_FORBIDDEN),
        ("GET", "code/a%20b", b"", Code.OPERATION_FORBIDDEN),
        ("GET", "code/t1/x", b"", Code.OPERATION_FORBIDDEN),
        ("GET", "code/t1/", b"", Code.PROVIDER_TRAILING_SLASH_MISMATCH),
        ("GET", "code/%2ft1", b"", Code.ILLEGAL_ENCODING),
        ("POST", "code/t1", b"{}", Code.MALFORMED_REQUEST),
        ("POST", "code/t1", b'{"code": "1", "name": "t2"}', Code.MALFORMED_REQUEST),
    ],
)
def test_what_the_page_does_not_name_is_refused(api: VaultApi, method: str, path: str, body: bytes, code: Code) -> None:
    assert refusal(method, f"/v1/totp/{path}", body, api=api) is code


def test_the_page_shows_what_explain_prints(api: VaultApi) -> None:
    command, _, output = _block("console").partition("\n")
    _, _, _, method, target, *_ = command.split()
    assert json.loads(output) == explain(head_of(method, target), b"", api)
