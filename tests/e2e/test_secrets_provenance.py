"""Who made a secret, and rotation by OpenBao itself: under a login that may not PATCH, and with a real database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from tests.real.database import Database
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.crooked_openbao import CrookedOpenBao
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

POLICIES: Final = '@ttl_seconds("60") @max_uses("1000000")\npermit (principal, action, resource);\n'
NO_PATCH: Final = """
path "secret/data/*"            { capabilities = ["create", "read", "update"] }
path "secret/metadata/*"        { capabilities = ["create", "read", "update", "delete", "list"] }
path "db/rotate-role/*"         { capabilities = ["create", "update"] }
path "db/static-creds/*"        { capabilities = ["read"] }
path "sys/mounts"               { capabilities = ["read"] }
path "auth/token/lookup-self"   { capabilities = ["read"] }
path "auth/token/renew-self"    { capabilities = ["update"] }
path "sys/policies/password/+/generate" { capabilities = ["read"] }
"""


class World:
    """A sidecar whose login has no `patch`, and the root of its OpenBao."""

    def __init__(self, process: SidecarProcess, openbao: OpenBao) -> None:
        self.process = process
        self.openbao = openbao

    def ask(self, method: str, path: str, subject: str, body: Any = None, **query: str) -> requests.Response:
        bearer = {"Authorization": f"Bearer {self.process.issuer.token(sub=subject)}"}
        return requests.request(
            method, f"{self.process.url}{path}", params=query, json=body, headers=bearer, timeout=30
        )

    def write(self, name: str, subject: str, value: str = "v") -> requests.Response:
        return self.ask("POST", "/api/secrets", subject, {"uri": uri(name), "value": {"k": value}})

    def labels(self, name: str) -> dict[str, str]:
        """What OpenBao itself has."""
        read = self.openbao.root().secrets.kv.v2.read_secret_metadata(name, mount_point="secret")
        return dict(read["data"]["custom_metadata"] or {})


def uri(name: str) -> str:
    return f"openbao+kv2://secret/{name}"


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, database: Database, issuer: Issuer
) -> Iterator[World]:
    openbao.policy("no-patch", NO_PATCH)
    overrides = {
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
        "upstream": {"auth": {"token": openbao.token("no-patch", period="1h")}},
        "mounts": [{"path": "secret", "engine": "kv2"}, {"path": "db", "engine": "database"}],
        "tenant": {"allowed_mounts": ["secret", "db"]},
    }
    process = SidecarProcess(tmp_path_factory.mktemp("provenance"), openbao, issuer, overrides)
    (process.policies / "policies.cedar").write_text(POLICIES)
    with process as running:
        yield World(running, openbao)


def test_a_login_without_patch_stamps_all_the_same_and_keeps_other_labels(world: World) -> None:
    """The stamp is merged here, and owners change so too."""
    world.openbao.put("made/labelled", {"k": "0"})
    world.openbao.root().secrets.kv.v2.update_metadata(
        "made/labelled", mount_point="secret", custom_metadata={"team": "blue"}
    )
    assert world.write("made/labelled", "maker").status_code == 200
    labels = world.labels("made/labelled")
    assert (labels["team"], labels["owner"], labels["created_by"]) == ("blue", "maker", "maker")
    owner = world.ask("POST", "/api/secrets/metadata/owner", "ops", {"uri": uri("made/labelled"), "owner": "team-b"})
    assert owner.status_code == 200, owner.text
    assert world.labels("made/labelled") == labels | {"owner": "team-b"}


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("labels", [{}, {"team": "red"}, {"owner": "other", "team": "red"}])
def test_who_made_a_secret_stays_when_all_labels_are_replaced(
    world: World, method: str, labels: dict[str, str]
) -> None:
    """On the Vault API too, and after it nobody can be stamped in the maker's place."""
    name = f"made/replaced-{method}-{len(labels)}"
    world.write(name, "maker")
    made = {key: value for key, value in world.labels(name).items() if key.startswith("created_")}
    assert made["created_by"] == "maker"
    body = {"custom_metadata": labels, "max_versions": 7}
    replaced = world.ask(method, f"/v1/secret/metadata/{name}", "other", body)
    assert replaced.status_code == 204, replaced.text
    assert world.labels(name) == made | labels
    world.write(name, "other", "w")
    after = world.labels(name)
    assert (after["created_by"], after["created_at"]) == ("maker", made["created_at"])
    record = [each for each in world.process.records() if each.get("operation") == "kv2.metadata_write"][-1]
    assert (record["purpose"], record["phase"], record["effect"]) == ("owner_update", "outcome", "permit")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("label", ["created_by", "created_at"])
@pytest.mark.parametrize("value", ["me", "", None])
def test_nobody_writes_them_himself(world: World, method: str, label: str, value: str | None) -> None:
    world.write("made/forged", "maker")
    before = world.labels("made/forged")
    body = {"custom_metadata": {label: value}}
    media = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
    bearer = {"Authorization": f"Bearer {world.process.issuer.token(sub='forger')}"}
    answer = requests.request(
        method, f"{world.process.url}/v1/secret/metadata/made/forged", json=body, headers=bearer | media, timeout=30
    )
    assert answer.status_code in (400, 403), answer.text
    assert value is None or answer.json()["code"] == "OPERATION_FORBIDDEN"
    assert world.labels("made/forged") == before


def test_labels_that_cannot_be_read_are_not_replaced(world: World) -> None:
    """What is unknown cannot be kept."""
    world.write("made/unreadable", "maker")
    before = world.labels("made/unreadable")
    world.openbao.policy("no-patch", NO_PATCH + 'path "secret/metadata/made/unreadable" { capabilities = ["update"] }')
    try:
        answer = world.ask("POST", "/v1/secret/metadata/made/unreadable", "other", {"custom_metadata": {}})
    finally:
        world.openbao.policy("no-patch", NO_PATCH)
    assert (answer.status_code, answer.json()["code"]) == (502, "UPSTREAM_ERROR")
    assert world.labels("made/unreadable") == before


class Meanwhile(CrookedOpenBao):
    """Does something once OpenBao has told a secret's metadata and before the sidecar has read them."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.does: list[Callable[[], object]] = []

    def answered(self, method: str, path: str) -> None:
        if method == "GET" and "/metadata/raced/" in path and self.does:
            self.does.pop()()


@pytest.mark.parametrize("there", [True, False])
def test_a_stamp_that_comes_between_reading_and_replacing_is_not_lost(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer, there: bool
) -> None:
    """The secret's maker is another sidecar's to stamp, at the worst of times. Nor does it help to guess the version
    of the metadata that will be there then."""
    kv = openbao.root().secrets.kv.v2

    def stamp() -> None:
        openbao.put(f"raced/{there}", {"k": "v"})
        kv.update_metadata(f"raced/{there}", mount_point="secret", custom_metadata={"created_by": "maker"})

    with Meanwhile(openbao.address) as between:
        overrides = {"identity": {"binding": "preferred"}, "upstream": {"address": between.address}}
        process = SidecarProcess(tmp_path, openbao, issuer, overrides)
        (process.policies / "policies.cedar").write_text(POLICIES)
        with process:

            def replaced(cas: dict[str, int]) -> requests.Response:
                kv.delete_metadata_and_all_versions(f"raced/{there}", mount_point="secret")
                if there:
                    openbao.put(f"raced/{there}", {"k": "v"})
                between.does.append(stamp)
                bearer = {"Authorization": f"Bearer {issuer.token(sub='other')}"}
                body = {"custom_metadata": {"team": "red"}} | cas
                url = f"{process.url}/v1/secret/metadata/raced/{there}"
                return requests.post(url, json=body, headers=bearer, timeout=30)

            def labels() -> Any:
                read = kv.read_secret_metadata(f"raced/{there}", mount_point="secret")
                return read["data"]["custom_metadata"]

            assert replaced({}).status_code == 204
            assert labels() == {"created_by": "maker", "team": "red"}
            guessed = replaced({"metadata_cas": 1})
            assert (guessed.status_code, guessed.json()["code"]) == (409, "VERSION_CONFLICT")
            assert labels() == {"created_by": "maker"}


def test_a_rotation_tells_the_version_before_and_after(world: World) -> None:
    """By a value, at random, and by a password policy of OpenBao's."""
    world.openbao.root().write_data(
        "sys/policies/password/digits", data={"policy": 'length = 12\nrule "charset" { charset = "0123456789" }'}
    )
    world.write("made/rotated", "maker")
    for change in ({"value": "x"}, {"generate": {"length": 16}}, {"generate": {"policy": "digits"}}):
        answer = world.ask("POST", "/api/secrets/rotate", "maker", {"uri": f"{uri('made/rotated')}#k"} | change)
        assert answer.status_code == 200, answer.text
    rotated = [each for each in world.process.records() if each["event"] == "SECRET_ROTATED"][-3:]
    assert [(each["kv_version_before"], each["kv_version"]) for each in rotated] == [(1, 2), (2, 3), (3, 4)]
    value = world.ask("GET", "/api/secrets/value", "maker", uri=f"{uri('made/rotated')}#k").json()["value"]
    assert (len(value), value.isdigit()) == (12, True)


def test_a_static_database_role_is_rotated_by_openbao(world: World, database: Database) -> None:
    """The old password ends, the new one is the database's; neither passed the caller of the rotation."""
    root = world.openbao.root()
    database.add_user("kept")
    made = requests.post(
        f"{world.openbao.address}/v1/db/static-roles/kept",
        json={"db_name": "valkey", "username": "kept", "rotation_period": "24h"},
        headers={"X-Vault-Token": world.openbao.root_token},
        timeout=30,
    )
    assert made.ok, made.text
    before = root.read("db/static-creds/kept")["data"]["password"]
    assert database.takes("kept", before)
    asked = {"uri": "openbao+database://db/rotate-role/kept"}
    answer = world.ask("POST", "/api/secrets/rotate", "operator", asked)
    assert (answer.status_code, answer.json()) == (200, asked | {"version": None, "previous_version": None}), (
        answer.text
    )
    after = world.ask("GET", "/v1/db/static-creds/kept", "app").json()["data"]["password"]
    assert after != before
    deadline = time.monotonic() + 10
    while not database.takes("kept", after):
        assert time.monotonic() < deadline
    assert not database.takes("kept", before)
    assert before not in answer.text
    assert after not in answer.text
    (record,) = [each for each in world.process.records() if each.get("operation") == "database.rotate_role"][-1:]
    assert (record["event"], record["effect"]) == ("SECRET_ROTATED", "permit")
    for wrong in ("value", "generate"):
        given = {"value": "x"} if wrong == "value" else {"generate": {"length": 20}}
        refused = world.ask("POST", "/api/secrets/rotate", "operator", asked | given)
        assert (refused.status_code, refused.json()["code"]) == (400, "MALFORMED_REQUEST")
