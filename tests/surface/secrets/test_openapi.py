"""The description says what the table says."""

from __future__ import annotations

import re
from typing import Any

import orjson

from sidecar.surface.secrets import openapi
from sidecar.surface.secrets.endpoints import ROOT, ROWS, Endpoint


def test_every_row_is_described_and_nothing_else() -> None:
    document = openapi.document()
    found = {
        (method.upper(), path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert found.keys() == {(row.method, ROOT + row.path) for row in ROWS}
    for row in ROWS:
        operation = found[row.method, ROOT + row.path]
        queries = {each["name"]: each["required"] for each in operation["parameters"] if each["in"] == "query"}
        assert queries == {name: name in row.must for name in row.query}
        headers = {each["name"] for each in operation["parameters"] if each["in"] == "header"}
        assert ("If-Match" in headers, "Idempotency-Key" in headers) == (row.if_match, row.idempotent)
        assert ("requestBody" in operation) is (row.body is not None)
        assert (operation.get("security") == []) is row.public


def test_every_reference_leads_somewhere() -> None:
    text = openapi.written().decode()
    schemas = openapi.document()["components"]["schemas"]
    wanted = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert wanted
    assert wanted <= schemas.keys()
    assert "#/$defs" not in text


def test_all_that_answers_with_success_has_its_answer_described() -> None:
    assert set(Endpoint) == openapi.ANSWERS.keys()


def test_it_is_one_document_of_json() -> None:
    read: dict[str, Any] = orjson.loads(openapi.written())
    assert read == openapi.document()
    assert read["openapi"] == "3.1.0"
