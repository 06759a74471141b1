"""Obligations are read in exactly one way, or turn the permit into a deny."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.decision.obligations import MAX_INTEGER, ObligationError, from_annotations, parse, strictest, unmeetable
from sidecar.decision.permit import Obligations
from sidecar.surface.operation import Purpose
from sidecar.surface.secret_uri import SecretUri
from tests.decision.making import operation

NONE = Obligations()


def array(*entries: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"id": f"o{index}", **entry} for index, entry in enumerate(entries)]


# -- the two forms ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ({}, NONE),
        ([], NONE),
        ({"ttl_seconds": 60, "max_uses": 3}, Obligations(60, 3)),
        ({"max_uses": 1}, Obligations(max_uses=1)),
        ({"ttl_seconds": MAX_INTEGER}, Obligations(ttl_seconds=MAX_INTEGER)),
        (array({"usage_grant": {"ttl_seconds": 60, "max_uses": 3}}), Obligations(60, 3)),
        (array({"usage_grant": {"ttl_seconds": 60}}), Obligations(60)),
        (array({"release": {"fragments": ["user", "password"]}}), Obligations(release=frozenset({"user", "password"}))),
        (array({"step-up": {"acr_values": ["gold", "silver"]}}), Obligations(step_up_acr_values=("gold", "silver"))),
        (array({"step-up": {"acr_values": "gold silver"}}), Obligations(step_up_acr_values=("gold", "silver"))),
        (array({"step-up": {"max_age": 300}}), Obligations(step_up_max_age_seconds=300)),
        (
            array({"step-up": {"acr_values": ["gold"], "max_age": 1}}),
            Obligations(step_up_acr_values=("gold",), step_up_max_age_seconds=1),
        ),
        (array({"notification": {"to": "owner"}}), Obligations(notifications=({"to": "owner"},))),
        (array({"session_termination": {"subject": "mallory"}}), Obligations(terminate_sessions=("mallory",))),
    ],
)
def test_each_form_is_read(value: object, meant: Obligations) -> None:
    assert parse(value) == meant


@pytest.mark.parametrize("name", ["ttl_seconds", "max_uses"])
@pytest.mark.parametrize(
    "number", [0, -1, 1.0, 60.5, True, False, "60", "", None, [60], {"value": 60}, float("nan"), 2**53, 10**30]
)
def test_a_number_that_is_no_integer_of_at_least_1_denies(name: str, number: object) -> None:
    with pytest.raises(ObligationError):
        parse({name: number})
    with pytest.raises(ObligationError):
        parse(array({"usage_grant": {name: number}}))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "none",
        60,
        {"ttl": 60},
        {"ttl_seconds": 60, "release": ["user"]},
        {"usage_grant": {"ttl_seconds": 60}},
        [{"ttl_seconds": 60, "max_uses": 1}],
        [[{"id": "a", "usage_grant": {"max_uses": 1}}]],
        [None],
        [{"id": "a"}],
        [{"usage_grant": {"max_uses": 1}}],
        [{"id": "", "usage_grant": {"max_uses": 1}}],
        [{"id": 1, "usage_grant": {"max_uses": 1}}],
        [{"id": "a\nb", "usage_grant": {"max_uses": 1}}],
        [{"id": "a", "usage_grant": {"max_uses": 1}}, {"id": "a", "usage_grant": {"max_uses": 1}}],
        [{"id": "a", "usage_grant": {"max_uses": 1}, "release": {"fragments": ["user"]}}],
        [{"id": "a", "usage_grant": {}}],
        [{"id": "a", "usage_grant": [60]}],
        [{"id": "a", "usage_grant": {"max_uses": 1, "min_uses": 1}}],
        [{"id": "a", "usage_grant": {"usage_grant": {"max_uses": 1}}}],
        [{"id": "a", "watermark": {}}],
        [{"id": "a", "Release": {"fragments": ["user"]}}],
        [{"id": "a", "release": {"fragments": []}}],
        [{"id": "a", "release": {"fragments": "user"}}],
        [{"id": "a", "release": {"fragments": [""]}}],
        [{"id": "a", "release": {"fragments": [["user"]]}}],
        [{"id": "a", "release": {"fragments": ["k"] * 257}}],
        [{"id": "a", "release": {}}],
        [{"id": "a", "step-up": {"acr_values": []}}],
        [{"id": "a", "step-up": {"acr_values": ""}}],
        [{"id": "a", "step-up": {"acr_values": ['gold"']}}],
        [{"id": "a", "step-up": {"acr_values": ["gold silver"]}}],
        [{"id": "a", "step-up": {}}],
        [{"id": "a", "step-up": {"acr_values": ["gold"], "max_age": 0}}],
        [{"id": "a", "step-up": {"acr_values": ["gold"], "max_age": -1}}],
        [{"id": "a", "step-up": {"acr_values": ["gold"], "max_age": 60.0}}],
        [{"id": "a", "step-up": {"acr_values": ["gold"], "max_age": True}}],
        [{"id": "a", "step-up": {"acr_values": ["gold"], "max_age": "60"}}],
        [{"id": "a", "step-up": {"acr_values": None, "max_age": 60}}],
        [{"id": "a", "step-up": {"acr_values": ["gold"], "maxAge": 60}}],
        [{"id": "a", "step_up": {"acr_values": ["gold"]}}],
        [{"id": "a", "notification": {}}],
        [{"id": "a", "notification": "owner"}],
        [{"id": "a", "notification": {"text": "x" * 20_000}}],
        [{"id": "a", "notification": {"text": "\ud800"}}],
        [{"id": str(index), "notification": {"text": "x" * 9_000}} for index in range(2)],
        [{"id": "a", "session_termination": {"subject": ""}}],
        [{"id": "a", "session_termination": {"subject": ["mallory"]}}],
        [{"id": "a", "session_termination": {}}],
        [{"id": str(index), "usage_grant": {"max_uses": 1}} for index in range(65)],
    ],
)
def test_what_is_unknown_malformed_or_nested_denies(value: object) -> None:
    with pytest.raises(ObligationError):
        parse(value)


# -- several ---------------------------------------------------------------------------------------------------------
def test_of_several_the_strictest_counts() -> None:
    several = parse(
        array(
            {"usage_grant": {"ttl_seconds": 600}},
            {"usage_grant": {"ttl_seconds": 60, "max_uses": 9}},
            {"usage_grant": {"max_uses": 2}},
            {"release": {"fragments": ["user", "password"]}},
            {"release": {"fragments": ["password", "host"]}},
            {"step-up": {"acr_values": ["bronze", "silver", "gold"]}},
            {"step-up": {"acr_values": ["gold", "silver"]}},
            {"step-up": {"max_age": 900}},
            {"step-up": {"max_age": 300}},
        )
    )
    assert several == Obligations(60, 2, frozenset({"password"}), ("silver", "gold"), 300)


def test_two_releases_without_a_common_key_contradict_each_other() -> None:
    with pytest.raises(ObligationError):
        parse(array({"release": {"fragments": ["user"]}}, {"release": {"fragments": ["password"]}}))


def test_two_step_ups_without_a_common_value_contradict_each_other() -> None:
    with pytest.raises(ObligationError):
        strictest([Obligations(step_up_acr_values=("gold",)), Obligations(step_up_acr_values=("silver",))])


def test_nothing_given_stays_nothing_given() -> None:
    assert strictest([NONE, NONE]) == NONE


# -- Cedar annotations -----------------------------------------------------------------------------------------------
def test_annotations_are_read() -> None:
    annotations = {
        "id": "p",
        "ttl_seconds": "60",
        "max_uses": "3",
        "release": "user, password",
        "step_up": "gold silver",
        "step_up_max_age": "300",
    }
    assert from_annotations(annotations) == Obligations(60, 3, frozenset({"user", "password"}), ("gold", "silver"), 300)
    assert from_annotations({"id": "p", "doc": None}) == NONE


@pytest.mark.parametrize("name", ["ttl_seconds", "max_uses", "step_up_max_age"])
@pytest.mark.parametrize(
    "text", [None, "", "0", "-1", "+1", "01", "1.0", "1e3", " 1", "1 ", "٣", "true", "9" * 17, "0x10", "1_000"]
)
def test_an_annotation_that_is_no_plain_number_of_at_least_1_is_refused(name: str, text: str | None) -> None:
    with pytest.raises(ObligationError, match=name):
        from_annotations({name: text})


@pytest.mark.parametrize(
    "annotations",
    [
        {"release": None},
        {"release": ""},
        {"release": "user,,password"},
        {"release": "user,"},
        {"step_up": None},
        {"step_up": " "},
        {"step_up": "gold,silver"},
        {"step_up": 'gold"'},
    ],
)
def test_an_annotation_that_names_nothing_is_refused(annotations: dict[str, str | None]) -> None:
    with pytest.raises(ObligationError):
        from_annotations(annotations)


# -- what can be met -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["kv1.read", "kv2.read", "kv2.subkeys"])
def test_release_can_be_met_where_the_answer_is_a_secrets_keys(name: str) -> None:
    obligations = Obligations(release=frozenset({"user"}))
    assert not unmeetable(obligations, operation(name), publishes_notifications=False)


@pytest.mark.parametrize(
    "name",
    ["kv2.write", "kv2.metadata_read", "kv2.list", "database.creds", "transit.decrypt", "transit.export", "pki.issue"],
)
def test_release_cannot_be_met_anywhere_else(name: str) -> None:
    obligations = Obligations(release=frozenset({"user"}))
    assert unmeetable(obligations, operation(name, Purpose.READ), publishes_notifications=False)


def test_release_of_other_keys_than_the_one_asked_for_cannot_be_met() -> None:
    password = operation(uri=SecretUri("openbao", "kv2", "secret", ("app", "db"), "password"))
    assert unmeetable(Obligations(release=frozenset({"user"})), password, publishes_notifications=False)
    assert not unmeetable(Obligations(release=frozenset({"password"})), password, publishes_notifications=False)


def test_a_notification_cannot_be_met_where_nobody_publishes_it() -> None:
    obligations = Obligations(notifications=({"to": "owner"},))
    assert unmeetable(obligations, operation(), publishes_notifications=False)
    assert not unmeetable(obligations, operation(), publishes_notifications=True)
