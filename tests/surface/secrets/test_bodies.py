"""The bodies of the Secrets API: closed, strict, and silent about what they hold."""

from __future__ import annotations

from typing import Any, Final

import orjson
import pytest

from sidecar.errors import Code, Refused
from sidecar.surface.secrets import bodies
from sidecar.surface.secrets.bodies import Body
from sidecar.surface.secrets.endpoints import ROWS

URI: Final = "openbao+kv2://secret/app/db"
CANARY: Final = "canary-of-a-value"
GOOD: Final[dict[type[Body], dict[str, Any]]] = {
    bodies.Write: {"uri": URI, "value": {"a": 1}},
    bodies.Rotate: {"uri": URI, "value": {"a": 1}},
    bodies.SomeVersions: {"uri": URI, "versions": [1]},
    bodies.Owner: {"uri": URI, "owner": "team"},
    bodies.Transfer: {"fromUri": URI, "toUri": f"{URI}2"},
    bodies.Bulk: {"operations": [{"op": "set", "uri": URI, "value": {"a": 1}}]},
}
EACH: Final = pytest.mark.parametrize("model", GOOD, ids=lambda model: model.__name__)


def refusal(model: type[Body], raw: bytes | dict[str, Any]) -> str:
    """What a body is refused with; never the canary."""
    with pytest.raises(Refused) as caught:
        bodies.read(model, raw if isinstance(raw, bytes) else orjson.dumps(raw))
    assert caught.value.code is Code.MALFORMED_REQUEST
    assert CANARY not in caught.value.message + caught.value.detail
    return caught.value.message


@pytest.mark.parametrize(
    "raw",
    [
        rb'{"uri": "openbao+kv2://secret/a", "value": {"k": "\ud800"}}',
        rb'{"uri": "openbao+kv2://secret/a", "value": {"\udfff": 1}}',
        rb'{"uri": "openbao+kv2://secret/\ud800", "value": {}}',
    ],
)
def test_text_that_utf8_cannot_hold_is_refused_before_anything_is_asked_for(raw: bytes) -> None:
    assert "surrogate" in refusal(bodies.Write, raw)


@pytest.mark.parametrize("operation", [{"op": CANARY}, {"op": None}, {"uri": "x"}, {"op": [CANARY]}])
def test_what_stands_in_place_of_an_op_is_not_told(operation: dict[str, Any]) -> None:
    assert "`op` is" in refusal(bodies.Bulk, {"operations": [operation]})


def test_every_body_of_the_table_is_tried_here() -> None:
    assert {row.body for row in ROWS} - {None} == set(GOOD)


@EACH
def test_the_least_that_it_takes_is_taken(model: type[Body]) -> None:
    bodies.read(model, orjson.dumps(GOOD[model]))


@EACH
def test_an_unknown_member_is_refused_and_not_named(model: type[Body]) -> None:
    assert "Extra inputs" in refusal(model, {**GOOD[model], CANARY: CANARY})


@EACH
def test_a_member_that_is_missing_is_named(model: type[Body]) -> None:
    for name in GOOD[model]:
        if (model, name) == (bodies.Rotate, "value"):
            continue  # what a rotation needs depends on the engine
        rest = {other: value for other, value in GOOD[model].items() if other != name}
        assert name in refusal(model, rest)


@EACH
@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b"{}{}", b'"x"', b'{"uri": NaN}', b"\xff", b"[" * 9000])
def test_what_is_no_single_json_object_is_refused(model: type[Body], raw: bytes) -> None:
    refusal(model, raw)


def test_a_name_that_stands_twice_is_refused() -> None:
    """The sidecar and whoever reads along would see two different requests."""
    refusal(bodies.Write, b'{"uri": "a", "uri": "b", "value": {}}')
    refusal(bodies.Write, b'{"uri": "a", "value": {"k": 1, "k": 2}}')


@pytest.mark.parametrize(
    ("model", "change"),
    [
        (bodies.Write, {"uri": 5}),
        (bodies.Write, {"uri": ""}),
        (bodies.Write, {"uri": CANARY * 400}),
        (bodies.Write, {"cas": CANARY}),
        (bodies.Write, {"cas": "1"}),
        (bodies.Write, {"cas": True}),
        (bodies.Write, {"cas": -1}),
        (bodies.Write, {"cas": 1.0}),
        (bodies.Write, {"cas": 2**53}),
        (bodies.SomeVersions, {"versions": []}),
        (bodies.SomeVersions, {"versions": [0]}),
        (bodies.SomeVersions, {"versions": ["1"]}),
        (bodies.SomeVersions, {"versions": 1}),
        (bodies.SomeVersions, {"versions": None}),
        (bodies.Owner, {"owner": ""}),
        (bodies.Owner, {"owner": f"{CANARY}\n"}),
        (bodies.Owner, {"owner": CANARY * 40}),
        (bodies.Transfer, {"overwrite": "true"}),
        (bodies.Transfer, {"overwrite": 1}),
        (bodies.Rotate, {"generate": {"length": 20}}),  # beside a value
        (bodies.Bulk, {"operations": []}),
        (bodies.Bulk, {"operations": [{"op": "read", "uri": URI}]}),
        (bodies.Bulk, {"operations": [{"op": "set", "uri": URI}]}),
        (bodies.Bulk, {"operations": [{"op": "delete", "uri": URI, "value": CANARY}]}),
        (bodies.Bulk, {"operations": [{"op": "undelete", "uri": URI, "versions": []}]}),
        (bodies.Bulk, {"operations": [{"op": "delete", "uri": URI}] * (bodies.MAX_OPERATIONS + 1)}),
        (bodies.Bulk, {"continueOnError": "no"}),
    ],
)
def test_what_is_out_of_range_is_refused_without_its_value(model: type[Body], change: dict[str, Any]) -> None:
    refusal(model, {**GOOD[model], **change})


@pytest.mark.parametrize(
    "generate",
    [
        {},
        {"length": 7},
        {"length": 1025},
        {"length": 20, "policy": "p"},
        {"policy": "../x"},
        {"policy": "a/b"},
        {"policy": "p\n"},
        {"policy": "p", "alphabet": "abc"},
        {"length": 20, "alphabet": "a"},
        {"length": 20, "alphabet": "aab"},
        {"length": 20, "alphabet": "a\x07b"},
    ],
)
def test_a_generator_has_one_way_and_a_real_alphabet(generate: dict[str, Any]) -> None:
    refusal(bodies.Rotate, {"uri": URI, "generate": generate})


def test_a_null_value_is_a_value() -> None:
    assert bodies.read(bodies.Rotate, orjson.dumps({"uri": URI, "value": None})).has_value
    assert not bodies.read(bodies.Rotate, orjson.dumps({"uri": URI})).has_value


def test_a_number_keeps_the_text_it_was_written_with() -> None:
    text = b'{"uri":"a","value":{"n":12345678901234567890123.50}}'
    assert b"12345678901234567890123.50" in orjson.dumps(bodies.read(bodies.Write, text).value)
