"""Which mount a request means: nested mounts, namespaces by header and by path, tables that disagree."""

from __future__ import annotations

import pytest

from sidecar.errors import Code, Refused
from sidecar.surface.mounts import Mount, MountTable, merge, parse_namespace
from sidecar.surface.vault_api import VaultApi
from tests.surface.asking import MOUNTS, TABLE, ask, refusal


def in_namespace(name: str) -> dict[str, str]:
    return {"x-vault-namespace": name}


# -- nested mounts -------------------------------------------------------------------------------------------------
NESTED = [Mount("team", "kv1"), Mount("team/kv", "kv2"), Mount("team/kv/deep", "kv1")]


@pytest.mark.parametrize(
    ("target", "uri"),
    [
        ("/v1/team/x", "openbao+kv1://team/x"),
        ("/v1/team/kvx/data/x", "openbao+kv1://team/kvx/data/x"),
        ("/v1/team/kv/data/x", "openbao+kv2://team/kv/x"),
        ("/v1/team/kv/data/deep/x", "openbao+kv2://team/kv/deep/x"),
        ("/v1/team/kv/deep/x", "openbao+kv1://team/kv/deep/x"),
    ],
)
def test_the_longest_mount_wins(target: str, uri: str) -> None:
    table = MountTable(NESTED, [mount.name for mount in NESTED])
    assert str(ask("GET", target, api=VaultApi(lambda: table)).uri) == uri


def test_a_nested_mount_of_somebody_else_is_not_read_as_a_folder_of_the_mount_above_it() -> None:
    table = MountTable(NESTED, ["team"])
    assert refusal("GET", "/v1/team/kv/data/x", api=VaultApi(lambda: table)) is Code.TENANT_MOUNT_MISMATCH


def test_a_mount_with_odd_letters_is_found_by_its_encoded_name() -> None:
    mounts = [Mount("a b/c%2fd", "kv1"), Mount("ü", "kv1")]
    api = VaultApi(lambda: MountTable(mounts, [mount.name for mount in mounts]))
    operation = ask("GET", "/v1/a%20b/c%252fd/x", api=api)
    assert operation.upstream.path == "/v1/a%20b/c%252fd/x"
    assert str(operation.uri) == "openbao+kv1://a%20b/c%252fd/x"
    assert ask("GET", "/v1/%C3%BC/x", api=api).upstream.path == "/v1/%C3%BC/x"


# -- namespaces ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("header", ["ns1", "ns1/", "/ns1", "/ns1/"])
def test_a_namespace_by_header_and_by_path_is_one_secret_and_one_request(header: str) -> None:
    by_path = ask("GET", "/v1/ns1/secret/data/x")
    assert ask("GET", "/v1/secret/data/x", headers=in_namespace(header)) == by_path
    assert str(by_path.uri) == "openbao+kv2://ns1/secret/x"
    assert (by_path.upstream.path, by_path.upstream.namespace) == ("/v1/secret/data/x", "ns1")


def test_a_child_namespace_is_named_by_header_or_by_path() -> None:
    by_path = ask("GET", "/v1/ns1/child/secret/data/x")
    assert ask("GET", "/v1/secret/data/x", headers=in_namespace("ns1/child")) == by_path
    assert by_path.upstream.namespace == "ns1/child"


@pytest.mark.parametrize("header", ["", "/", "root", "root/", "/root"])
def test_the_root_has_several_names(header: str) -> None:
    assert ask("GET", "/v1/secret/data/x", headers=in_namespace(header)) == ask("GET", "/v1/secret/data/x")


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ("ns1", "/v1/child/secret/data/x"),
        ("ns1", "/v1/ns1/secret/data/x"),
        ("ns1/child", "/v1/ns1/child/secret/data/x"),
        ("nosuch", "/v1/nosuch/secret/data/x"),
    ],
)
def test_a_namespace_named_twice_is_refused(header: str, target: str) -> None:
    assert refusal("GET", target, headers=in_namespace(header)) is Code.DOUBLE_MOUNT_SOURCE


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("ns1/../ns2", Code.ILLEGAL_SEGMENT),
        ("ns1/..", Code.ILLEGAL_SEGMENT),
        ("../ns1", Code.ILLEGAL_SEGMENT),
        ("/..", Code.ILLEGAL_SEGMENT),
        ("./ns1", Code.ILLEGAL_SEGMENT),
        ("ns1/.", Code.ILLEGAL_SEGMENT),
        ("ns1//child", Code.ILLEGAL_SEGMENT),
        ("//ns1", Code.ILLEGAL_SEGMENT),
        ("ns1//", Code.ILLEGAL_SEGMENT),
        ("///", Code.ILLEGAL_SEGMENT),
        ("ns1, ns2", Code.ILLEGAL_ENCODING),
        ("ns1,ns2", Code.ILLEGAL_ENCODING),
        ("ns1;ns2", Code.ILLEGAL_ENCODING),
        ("ns1%2fchild", Code.ILLEGAL_ENCODING),
        ("%6es1", Code.ILLEGAL_ENCODING),
        ("ns1 ns2", Code.ILLEGAL_ENCODING),
        ("ns1\\child", Code.ILLEGAL_ENCODING),
        ("ns1?", Code.ILLEGAL_ENCODING),
        ("ns1#", Code.ILLEGAL_ENCODING),
        ("*", Code.ILLEGAL_ENCODING),
        ("ns1\xa0", Code.ILLEGAL_ENCODING),
        ("NS1", Code.TENANT_MOUNT_MISMATCH),
        ("ROOT", Code.TENANT_MOUNT_MISMATCH),
        ("root/ns1", Code.TENANT_MOUNT_MISMATCH),
        ("ns1/root", Code.TENANT_MOUNT_MISMATCH),
        ("secret", Code.DOUBLE_MOUNT_SOURCE),
        ("team", Code.TENANT_MOUNT_MISMATCH),
    ],
)
def test_a_namespace_that_openbao_would_clean_or_does_not_have_is_refused(header: str, code: Code) -> None:
    assert refusal("GET", "/v1/secret/data/x", headers=in_namespace(header)) is code


def test_a_header_does_not_become_the_first_half_of_a_mount_s_name() -> None:
    """`team` is no namespace: OpenBao would answer 404, not read `team/kv`."""
    assert refusal("GET", "/v1/kv/data/x", headers=in_namespace("team")) is Code.TENANT_MOUNT_MISMATCH


def test_a_double_namespace_tells_nothing_of_mounts_that_are_not_allowed() -> None:
    table = MountTable(MOUNTS, ["secret"])
    api = VaultApi(lambda: table)
    for child in ("child", "nosuch"):
        code = refusal("GET", f"/v1/{child}/secret/data/x", headers=in_namespace("ns1"), api=api)
        assert code is Code.TENANT_MOUNT_MISMATCH


def test_the_namespace_above_belongs_to_the_mount_s_name_and_to_every_request() -> None:
    mounts = [Mount("secret", "kv2"), Mount("secret", "kv2", "ns1")]
    table = MountTable(mounts, ["corp/secret", "secret", "ns1/secret"], namespace_prefix="/corp/")
    api = VaultApi(lambda: table)
    operation = ask("GET", "/v1/secret/data/x", api=api)
    assert (str(operation.uri), operation.upstream.namespace) == ("openbao+kv2://corp/secret/x", "corp")
    # Allowed are full names: `ns1/secret` is not `corp/ns1/secret`, and `corp` cannot be named once more.
    assert refusal("GET", "/v1/ns1/secret/data/x", api=api) is Code.TENANT_MOUNT_MISMATCH
    assert refusal("GET", "/v1/corp/secret/data/x", api=api) is Code.TENANT_MOUNT_MISMATCH
    assert refusal("GET", "/v1/secret/data/x", headers=in_namespace("corp"), api=api) is Code.TENANT_MOUNT_MISMATCH


def test_a_namespace_that_cannot_stand_in_a_header_is_nobody_s() -> None:
    mount = Mount("secret", "kv2", "a b")
    api = VaultApi(lambda: MountTable([mount], [mount.name]))
    assert refusal("GET", "/v1/a%20b/secret/data/x", api=api) is Code.TENANT_MOUNT_MISMATCH


def test_root_is_no_name_of_a_namespace_in_the_table_either() -> None:
    table = MountTable([Mount("/secret/", "kv2", "root")], ["secret"], namespace_prefix="root")
    assert ask("GET", "/v1/secret/data/x", api=VaultApi(lambda: table)).upstream.namespace == ""


def test_parse_namespace_gives_the_name_alone() -> None:
    assert [parse_namespace(text) for text in ("", "/", "root", "a", "/a/b/")] == ["", "", "", "a", "a/b"]


# -- tables --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["", "/", "a//b", "a/../b", "."])
def test_a_table_does_not_take_what_is_no_path(path: str) -> None:
    with pytest.raises(ValueError, match="not the path of a mount"):
        MountTable([Mount(path, "kv2")], [])


def test_a_table_does_not_take_one_name_twice() -> None:
    with pytest.raises(ValueError, match="stands twice"):
        MountTable([Mount("ns1/secret", "kv1"), Mount("secret", "kv2", "ns1")], [])


def test_an_empty_table_refuses_everything() -> None:
    assert len(MountTable.empty()) == 0
    assert refusal("GET", "/v1/secret/data/x", api=VaultApi(MountTable.empty)) is Code.TENANT_MOUNT_MISMATCH


def test_visible_are_the_allowed_mounts_of_one_namespace() -> None:
    table = MountTable(MOUNTS, ["secret", "team/kv", "ns1/secret"])
    assert [mount.path for mount in table.visible("")] == ["secret", "team/kv"]
    assert [mount.name for mount in table.visible("ns1")] == ["ns1/secret"]
    assert table.visible("ns2") == []
    assert len(TABLE) == len(MOUNTS)


@pytest.mark.parametrize(
    ("discovered", "ambiguous"),
    [
        ([Mount("secret", "kv2")], False),
        ([Mount("secret/", "kv2", "root"), Mount("other", "kv1")], False),
        ([Mount("secret", "kv1")], True),
        ([], True),
        ([Mount("secret", "kv2", "ns1")], True),
        ([Mount("secret", "kv2"), Mount("secret/nested", "kv2")], True),
    ],
)
def test_a_configured_mount_that_openbao_has_otherwise_is_ambiguous(discovered: list[Mount], ambiguous: bool) -> None:
    merged = merge([Mount("secret", "kv2")], discovered)
    api = VaultApi(lambda: MountTable(merged, ["secret", "other"]))
    if ambiguous:
        assert refusal("GET", "/v1/secret/data/x", api=api) is Code.AMBIGUOUS_MOUNT
    else:
        assert ask("GET", "/v1/secret/data/x", api=api).name == "kv2.read"


def test_one_ambiguous_mount_leaves_the_others_usable() -> None:
    configured = [Mount("team", "kv1"), Mount("team/kv", "kv2"), Mount("gone", "kv2")]
    merged = merge(configured, configured[:2])
    api = VaultApi(lambda: MountTable(merged, ["team", "team/kv", "gone"]))
    assert ask("GET", "/v1/team/kv/data/x", api=api).name == "kv2.read"
    assert ask("GET", "/v1/team/x", api=api).name == "kv1.read"
    assert refusal("GET", "/v1/gone/data/x", api=api) is Code.AMBIGUOUS_MOUNT


def test_a_mount_split_otherwise_between_namespace_and_path_is_ambiguous() -> None:
    merged = merge([Mount("ns1/secret", "kv2")], [Mount("secret", "kv2", "ns1")])
    api = VaultApi(lambda: MountTable(merged, ["ns1/secret"]))
    assert refusal("GET", "/v1/ns1/secret/data/x", api=api) is Code.AMBIGUOUS_MOUNT


def test_an_ambiguous_mount_of_somebody_else_is_told_as_none() -> None:
    table = MountTable([Mount("secret", "kv2", ambiguous=True)], [])
    with pytest.raises(Refused) as caught:
        table.resolve("", ("secret", "data", "x"))
    assert caught.value.code is Code.TENANT_MOUNT_MISMATCH
