"""Secrets of a provider beside OpenBao, before guard and PDP, and by the commands that take a URI."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.config import load
from sidecar.mount_source import table_for_commands
from sidecar.policy.commands import one_question
from sidecar.policy.trial import operation_of
from sidecar.surface.secret_uri import parse
from tests.test_config import alone, with_, written

PERMIT = '@id("all") permit (principal, action, resource) when { context.operation like "yaml.*" };'


@pytest.mark.parametrize(
    ("uri", "purpose", "name"),
    [
        ("yaml://secret/app/db", "read", "yaml.read"),
        ("yaml://secret/app/db#k", "rotate", "yaml.rotate"),
        ("yaml://secret/app/", "read_metadata", "yaml.list"),
        ("yaml://secret/app/db", "read_metadata", "yaml.keys"),
        ("yaml://secret/app/db", "execute", ""),
    ],
)
def test_its_operations_are_named_as_they_are_served(uri: str, purpose: str, name: str) -> None:
    assert operation_of(parse(uri), purpose).name == name


async def test_a_command_needs_no_openbao_where_there_is_none(tmp_path: Path) -> None:
    assert len(await table_for_commands(load(written(tmp_path, alone(tmp_path)), {}))) == 0


@pytest.mark.parametrize(("environment", "effect"), [("test", "permit"), ("prod", "deny")])
def test_policy_test_knows_that_it_is_read_only(tmp_path: Path, environment: str, effect: str) -> None:
    config = load(written(tmp_path, with_(alone(tmp_path), "environment", environment)), {})
    (tmp_path / "policies" / "all.cedar").write_text(PERMIT)
    asked = {"subject": "app", "uri": "yaml://secret/app#k", "operation": "", "issuer": ""}
    assert one_question(config, purpose="read", **asked)["effect"] == "permit"
    assert one_question(config, purpose="write", **asked)["effect"] == effect
