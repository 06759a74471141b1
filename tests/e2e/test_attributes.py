"""Policies by owner, on the real OpenBao: the metadata decide, and nobody makes them up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hvac.exceptions import Forbidden

from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

OWNERS = """
@id("owners do everything")
@ttl_seconds("60")
@max_uses("1")
permit (principal, action, resource in Folder::"secret/owned")
when { resource has owner && resource.owner == principal.sub };

@id("writers write")
@max_uses("100")
permit (principal == Workload::"writer", action == Action::"write", resource in Folder::"secret/owned");

@id("blue reads blue")
permit (principal == Workload::"blue", action == Action::"read", resource)
when { context.resource_attributes has team && context.resource_attributes.team == "blue" };
"""


@pytest.fixture(scope="module")
def by_owner(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[SidecarProcess]:
    process = SidecarProcess(tmp_path_factory.mktemp("owners"), openbao, issuer)
    (process.policies / "policies.cedar").write_text(OWNERS)
    with process:
        yield process


def owned(openbao: OpenBao, name: str, **custom: str) -> str:
    path = f"owned/{name}"
    openbao.put(path, {"a": "1"})
    openbao.root().secrets.kv.v2.update_metadata(path, custom_metadata=custom)
    return path


def read(process: SidecarProcess, subject: str, path: str) -> Any:
    answer = process.hvac(subject).secrets.kv.v2.read_secret_version(path, raise_on_deleted_version=True)
    return answer["data"]["data"]


def test_an_owner_may_and_others_may_not(by_owner: SidecarProcess, openbao: OpenBao) -> None:
    path = owned(openbao, "alices", owner="alice")
    mark = openbao.mark()
    assert read(by_owner, "alice", path) == {"a": "1"}
    with pytest.raises(Forbidden):
        read(by_owner, "bob", path)
    assert [entry["path"] for entry in openbao.requests(since=mark)] == [
        "secret/metadata/owned/alices",  # for the policies, once: it is remembered
        "secret/data/owned/alices",
    ]
    assert 'sidecar_attributes_total{result="hit"} 1.0' in by_owner.metrics()


def test_pdp_06_a_writer_does_not_make_itself_the_owner(by_owner: SidecarProcess, openbao: OpenBao) -> None:
    path = owned(openbao, "theirs", owner="alice")
    client = by_owner.hvac("writer")
    kv = client.secrets.kv.v2
    kv.create_or_update_secret(path, {"a": "2"})
    kv.update_metadata(path, max_versions=5)  # `write`, as long as it says nothing of custom metadata
    merge = {"Content-Type": "application/merge-patch+json"}
    for method, custom, headers in (
        ("POST", {"owner": "writer"}, {}),
        ("POST", {"team": "x"}, {}),  # replaces all of it, the owner too
        ("PATCH", {"owner": "writer"}, merge),
        ("PATCH", {"owner": None}, merge),
    ):
        with pytest.raises(Forbidden):
            client.adapter.request(
                method, f"/v1/secret/metadata/{path}", json={"custom_metadata": custom}, headers=headers
            )
    assert openbao.root().secrets.kv.v2.read_secret_metadata(path)["data"]["custom_metadata"] == {"owner": "alice"}


def test_a_change_of_owner_through_the_sidecar_holds_for_the_next_question(
    by_owner: SidecarProcess, openbao: OpenBao
) -> None:
    path = owned(openbao, "handed-over", owner="alice")
    assert read(by_owner, "alice", path) == {"a": "1"}
    by_owner.hvac("alice").secrets.kv.v2.update_metadata(path, custom_metadata={"owner": "bob"})
    assert read(by_owner, "bob", path) == {"a": "1"}
    with pytest.raises(Forbidden):
        read(by_owner, "alice", path)


def test_custom_metadata_are_resource_attributes(by_owner: SidecarProcess, openbao: OpenBao) -> None:
    assert read(by_owner, "blue", owned(openbao, "blue", team="blue")) == {"a": "1"}
    for path in (owned(openbao, "red", team="red"), owned(openbao, "bare")):
        with pytest.raises(Forbidden):
            read(by_owner, "blue", path)


def test_without_leave_to_read_metadata_attributes_are_absent(tmp_path: Path, openbao: OpenBao, issuer: Issuer) -> None:
    """The sidecar's own login may read data only: who depends on an attribute is denied, others go on."""
    path = owned(openbao, "unseen", owner="alice")
    root = openbao.root()
    root.sys.create_or_update_policy(
        "data-only", 'path "secret/data/*" { capabilities = ["create", "read", "update"] }'
    )
    token = root.auth.token.create(policies=["data-only"], period="1h")["auth"]["client_token"]
    process = SidecarProcess(tmp_path / "s", openbao, issuer, {"upstream": {"auth": {"token": token}}})
    (process.policies / "policies.cedar").write_text(OWNERS)
    with process:
        with pytest.raises(Forbidden):
            read(process, "alice", path)
        process.hvac("writer").secrets.kv.v2.create_or_update_secret(path, {"a": "2"})
        assert 'sidecar_attributes_total{result="failed"}' in process.metrics()
        assert "resource attributes cannot be fetched" in process.log.read_text()
