"""The YAML provider end to end: beside OpenBao, alone, and read-only; the same enforcement as for any other secret."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import requests

from sidecar.surface.secrets.endpoints import ROWS, Endpoint
from tests.e2e.test_secrets_api import Api
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

POLICIES: Final = """
@ttl_seconds("60") @max_uses("1000000")
permit (principal == Workload::"api", action, resource);
@ttl_seconds("60") @max_uses("1")
permit (principal == Workload::"once", action == Action::"read", resource in Secret::"yaml://secret/app/db");
@release("user")
permit (principal == Workload::"half", action == Action::"read", resource in Secret::"yaml://secret/app/db");
@ttl_seconds("60") @max_uses("100")
permit (principal == Workload::"sees-some", action == Action::"read_metadata", resource in Folder::"secret/listed");
"""
TEXT: Final = """\
# of the team
secret:
  app:
    db:            # the database
      user: canary-user
      password: canary-password
      ports: [5432, 5433]
    below: {}
  listed:
    a: {k: 1}
    deep: {b: {k: 1}}
  other:
    c: {k: 1}
foreign:
  held: {k: canary-foreign}
"""


class Place:
    """A running sidecar and its file."""

    def __init__(self, process: SidecarProcess) -> None:
        self.process = process
        self.file = process.folder / "secrets.yaml"
        self.api = Api(process)


def place(folder: Path, openbao: OpenBao, issuer: Issuer, **sections: Any) -> Iterator[Place]:
    overrides = {
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
        "yaml_provider": {"path": str(folder / "secrets.yaml")},
        **sections,
    }
    (folder / "secrets.yaml").write_text(TEXT)
    (folder / "secrets.yaml").chmod(0o600)
    process = SidecarProcess(folder, openbao, issuer, overrides)
    (process.policies / "policies.cedar").write_text(POLICIES)
    with process as running:
        yield Place(running)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[Place]:
    """With OpenBao: the same mount name in both."""
    yield from place(tmp_path_factory.mktemp("yaml"), openbao, issuer)


NO_OPENBAO: Final = {"upstream": {"address": None, "auth": {"token": None}}, "mounts": None}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[Place]:
    """Without any OpenBao, for development."""
    yield from place(tmp_path_factory.mktemp("alone"), openbao, issuer, environment="dev", **NO_OPENBAO)


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[Place]:
    yield from place(tmp_path_factory.mktemp("production"), openbao, issuer, environment="prod", **NO_OPENBAO)


def uri(path: str) -> str:
    return f"yaml://secret/{path}"


def bao(path: str) -> str:
    return f"openbao+kv2://secret/{path}"


def test_a_map_a_key_and_their_names(beside: Place) -> None:
    """`GET /api/secrets` gives the map itself, or the value of a fragment; the other reads as always."""
    api = beside.api
    values = {"user": "canary-user", "password": "canary-password", "ports": [5432, 5433]}
    whole = api("GET", "", uri=uri("app/db"))
    assert (whole.status_code, whole.json()) == (200, values)
    assert whole.headers["Cache-Control"] == "no-store"
    assert api("GET", "", uri=uri("app/db#password")).json() == {"value": "canary-password"}
    assert api("GET", "/value", uri=uri("app/db#ports")).json() == {
        "uri": uri("app/db#ports"),
        "version": None,
        "value": [5432, 5433],
    }
    assert api("GET", "/value", uri=uri("app/db")).json()["value"] == values
    assert api("GET", "/keys", uri=uri("app/db")).json()["keys"] == ["password", "ports", "user"]
    assert api("GET", "", uri=uri("app/below")).json() == {}
    for path in ("app", "app/never", "app/db#never", "app/db/user", "nothing/x"):
        answer = api("GET", "", uri=uri(path))
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND"), path
    other = api("GET", "", uri=bao("app/db"))
    assert (other.status_code, other.json()["code"]) == (501, "UNSUPPORTED_OPERATION")


def test_written_rotated_and_deleted(beside: Place) -> None:
    api = beside.api
    made = api("POST", "", {"uri": uri("made/one"), "value": {"a": "1", "n": 1.10}})
    assert (made.status_code, made.json()) == (201, {"uri": uri("made/one"), "version": None})
    assert api("POST", "", {"uri": uri("made/one#a"), "value": "2"}).status_code == 200
    rotated = api("POST", "/rotate", {"uri": uri("made/one#a"), "generate": {"length": 30}})
    assert rotated.json() == {"uri": uri("made/one#a"), "version": None, "previous_version": None}
    assert len(api("GET", "", uri=uri("made/one#a")).json()["value"]) == 30
    assert api("POST", "/rotate", {"uri": uri("made/never#a"), "value": "1"}).status_code == 404
    deleted = api("DELETE", "", uri=uri("made/one#n"))
    assert deleted.json() == {"uri": uri("made/one#n"), "deleted": True, "destroyed": False}
    assert api("DELETE", "", uri=uri("made/one")).status_code == 200
    assert api("GET", "", uri=uri("made/one")).status_code == 404
    results = api(
        "POST",
        "/bulk",
        {
            "operations": [
                {"op": "set", "uri": uri("made/two#k"), "value": "v"},
                {"op": "undelete", "uri": uri("made/two"), "versions": [1]},
                {"op": "destroy", "uri": uri("made/two")},
                {"op": "set", "uri": uri("made/two"), "value": {"k": {"a": "map"}}},
                {"op": "delete", "uri": uri("made/two")},
            ]
        },
    ).json()["results"]
    assert [each["status"] for each in results] == [201, 501, 501, 400, 200]
    assert beside.file.read_text().startswith("# of the team\nsecret:\n  app:\n    db:            # the database\n")
    assert beside.file.stat().st_mode & 0o777 == 0o600


def test_an_edit_of_the_file_is_seen_at_once(beside: Place) -> None:
    text = beside.file.read_text()
    beside.file.write_text(f"{text}# edited\nhand: {{}}\n".replace("  other:", "  edited: {e: {k: by-hand}}\n  other:"))
    assert beside.api("GET", "", uri=uri("edited/e#k")).json() == {"value": "by-hand"}


SUPPORTED: Final = {
    *(Endpoint.WRITE, Endpoint.VALUE, Endpoint.YAML, Endpoint.DELETE, Endpoint.ROTATE, Endpoint.LIST, Endpoint.KEYS),
    *(Endpoint.BULK, Endpoint.COPY, Endpoint.MOVE, Endpoint.SEARCH),
}
UNSUPPORTED: Final[dict[Endpoint, Any]] = {
    Endpoint.DETAIL: None,
    Endpoint.VERSIONS: None,
    Endpoint.UNDELETE: {"versions": [1]},
    Endpoint.DESTROY: {"versions": [1]},
    Endpoint.OWNER: {"owner": "somebody"},
}
NO_URI: Final = {Endpoint.EVENTS, Endpoint.AUDIT, Endpoint.OPENAPI}


def test_what_a_file_cannot_do_is_501(beside: Place) -> None:
    """Every endpoint works, or says so; a new one has no place in these sets and fails here."""
    assert {row.endpoint for row in ROWS} == SUPPORTED | UNSUPPORTED.keys() | NO_URI
    answers = []
    for row in ROWS:
        if row.endpoint in UNSUPPORTED:
            more = UNSUPPORTED[row.endpoint]
            if more is None:
                answers.append(beside.api(row.method, row.path, uri=uri("app/db")))
            else:
                answers.append(beside.api(row.method, row.path, {"uri": uri("app/db"), **more}))
    answers += [
        beside.api("DELETE", "", uri=uri("app/db"), destroy="true"),
        beside.api("POST", "", {"uri": uri("app/db#user"), "value": "x", "cas": 1}),
        beside.api("POST", "", {"uri": uri("app/db#user"), "value": "x"}, {"If-Match": '"1"'}),
        beside.api("POST", "/rotate", {"uri": uri("app/db#user"), "generate": {"policy": "any"}}),
    ]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(501, "UNSUPPORTED_OPERATION")}


def test_listing_and_search_go_over_both_providers(beside: Place) -> None:
    """Item by item, in pages; nothing is left out where a mount's name stands in both."""
    api = beside.api
    for path in ("listed/a", "listed/z"):
        api("POST", "", {"uri": bao(path), "value": {"k": "v"}})
    listed = api("GET", "/metadata", prefix=uri("listed/")).json()
    assert listed == {"items": [{"uri": uri("listed/a")}, {"uri": uri("listed/deep/b")}], "next": None}
    wanted = [bao("listed/a"), bao("listed/z"), uri("listed/a"), uri("listed/deep/b")]
    found, cursor = [], ""
    for _ in range(20):
        page = api("GET", "/search", q="listed/", limit=1, cursor=cursor).json()
        found += [item["uri"] for item in page["items"]]
        if (cursor := page["next"] or "") == "":
            break
    assert found == wanted
    some = Api(beside.process, "sees-some")
    assert some("GET", "/search", q="c", prefix=uri("other/")).json() == {"items": [], "next": None}
    assert [item["uri"] for item in some("GET", "/metadata", prefix=uri("")).json()["items"]] == [
        uri("listed/a"),
        uri("listed/deep/b"),
    ]
    assert api("GET", "/metadata", prefix="yaml://foreign/").json()["code"] == "TENANT_MOUNT_MISMATCH"


def test_copied_and_moved_between_openbao_and_the_file(beside: Place) -> None:
    api = beside.api
    api("POST", "", {"uri": bao("across/one"), "value": {"a": "1", "n": 5}})
    into = api("POST", "/copy", {"fromUri": bao("across/one"), "toUri": uri("across/one")})
    assert (into.status_code, into.json()["version"]) == (200, None)
    assert api("GET", "", uri=uri("across/one")).json() == {"a": "1", "n": 5}
    again = api("POST", "/copy", {"fromUri": bao("across/one"), "toUri": uri("across/one")})
    assert (again.status_code, again.json()["code"]) == (409, "TARGET_EXISTS")
    out = api("POST", "/move", {"fromUri": uri("across/one"), "toUri": bao("across/two")})
    assert (out.status_code, out.json()["version"]) == (200, 1)
    assert api("GET", "", uri=uri("across/one")).status_code == 404
    assert api("GET", "/value", uri=bao("across/two")).json()["value"] == {"a": "1", "n": 5}
    key = api("POST", "/move", {"fromUri": bao("across/two#a"), "toUri": uri("across/key#a")})
    assert key.status_code == 200
    back = api("POST", "/move", {"fromUri": uri("across/key#a"), "toUri": bao("across/two#b")})
    assert back.status_code == 200, "the only key of a secret"
    assert api("GET", "/value", uri=bao("across/two")).json()["value"] == {"n": 5, "b": "1"}
    api("POST", "", {"uri": bao("across/nested"), "value": {"a": {"map": 1}}})
    unfit = api("POST", "/move", {"fromUri": bao("across/nested"), "toUri": uri("across/nested")})
    assert (unfit.status_code, unfit.json()["code"]) == (400, "MALFORMED_REQUEST")
    assert api("GET", "/value", uri=bao("across/nested")).status_code == 200


def test_policy_grant_and_record_are_those_of_any_secret(beside: Place) -> None:
    """Denied without a policy, given out as often as the grant says, filtered, recorded under its reference alone."""
    process = beside.process
    denied = Api(process, "nobody")("GET", "", uri=uri("app/db"))
    assert (denied.status_code, denied.json()["code"]) == (403, "POLICY_DENIED")
    assert Api(process, "half")("GET", "", uri=uri("app/db")).json() == {"user": "canary-user"}
    kept = Api(process, "half")("GET", "", uri=uri("app/db#password"))
    assert (kept.status_code, kept.json()["code"]) == (403, "OBLIGATION_UNMET")
    for path in ("held", "held#k"):
        foreign = beside.api("GET", "", uri=f"yaml://foreign/{path}")
        assert (foreign.status_code, foreign.json()["code"]) == (400, "TENANT_MOUNT_MISMATCH")
    no_token = requests.get(f"{process.url}/api/secrets", params={"uri": uri("app/db")}, timeout=30)
    assert (no_token.status_code, no_token.json()["code"]) == (401, "TOKEN_MISSING")
    twice = [Api(process, "once")("GET", "", uri=uri("app/db#user")) for _ in range(2)]
    twice += [beside.api("GET", "", uri=uri("listed/deep/b#k")) for _ in range(2)]
    by_id = {each.get("correlation_id"): each for each in process.records()}
    grants = [by_id[answer.headers["X-Correlation-ID"]]["grant"] for answer in twice]
    assert [(grant["hit"], grant["uses_left"] == 0) for grant in grants[:2]] == [(False, True), (False, True)]
    assert [grant["hit"] for grant in grants[2:]] == [False, True]
    assert grants[3]["uses_left"] == grants[2]["uses_left"] - 1
    read = beside.api("GET", "", uri=uri("app/db#password"))
    (record,) = [each for each in process.records() if each.get("correlation_id") == read.headers["X-Correlation-ID"]]
    assert (record["event"], record["operation"], record["purpose"]) == ("SECRET_PERMIT", "yaml.read", "read")
    assert record["upstream"] is None
    assert record["grant"]["uses_left"] is not None
    assert len(record["resource_ref"]) == len(record["parent_ref"]) == 43
    assert record["resource_ref"] != record["parent_ref"]
    written = beside.api("POST", "", {"uri": uri("recorded/x#k"), "value": "canary-written"})
    records = [each for each in process.records() if each.get("correlation_id") == written.headers["X-Correlation-ID"]]
    assert [(each["phase"], each["operation"]) for each in records] == [
        ("intent", "yaml.write"),
        ("outcome", "yaml.write"),
    ]
    spool = process.spool_bytes()
    for canary in (b"canary-", b"app/db", b"recorded"):
        assert canary not in spool
    assert b"canary-" not in process.log.read_bytes()
    assert process.verify() == 0


def test_without_openbao_it_works_and_says_what_there_is(alone: Place) -> None:
    api, process = alone.api, alone.process
    assert api("POST", "", {"uri": uri("app/new"), "value": {"a": "1"}}).status_code == 201
    assert api("GET", "", uri=uri("app/new")).json() == {"a": "1"}
    checks = json.loads(process.ready_text())["checks"]
    assert checks["provider yaml"] == {"ready": True}
    assert not {"upstream", "mounts"} & checks.keys()
    token = process.issuer.token(sub="api")
    for path in ("/v1/secret/data/app/db", "/v1/sys/health", "/v1/auth/token/lookup-self"):
        answer = process.get(path, token)
        assert (answer.status_code, answer.json()["code"]) == (501, "UNSUPPORTED_OPERATION"), path
        assert "/api/secrets" in answer.json()["errors"][0]
    beyond = api("GET", "/value", uri=bao("app/db"))
    assert (beyond.status_code, beyond.json()["code"]) == (400, "TENANT_MOUNT_MISMATCH")


def test_readiness_tells_when_the_file_cannot_be_used(alone: Place) -> None:
    """A refused file is not served; it is again once it is put right."""
    alone.file.chmod(0o644)
    refused = alone.api("GET", "", uri=uri("app/db"))
    assert (refused.status_code, refused.json()["code"]) == (503, "UPSTREAM_UNAVAILABLE")
    ready = json.loads(alone.process.ready_text())
    assert ready["status"] == "not ready"
    assert "chmod 600" in ready["checks"]["provider yaml"]["message"]
    alone.file.chmod(0o600)
    assert alone.api("GET", "", uri=uri("app/db")).status_code == 200
    assert json.loads(alone.process.ready_text())["status"] == "ready"


def test_in_production_it_is_read_only(production: Place) -> None:
    """Whatever policy says, before it is asked; nothing in the file changes."""
    api, before = production.api, production.file.read_bytes()
    assert api("GET", "", uri=uri("app/db#user")).json() == {"value": "canary-user"}
    refused = [
        api("POST", "", {"uri": uri("app/db#user"), "value": "x"}),
        api("DELETE", "", uri=uri("app/db")),
        api("POST", "/rotate", {"uri": uri("app/db#user"), "value": "x"}),
        api("POST", "/copy", {"fromUri": uri("app/db"), "toUri": uri("app/copy")}),
        api("POST", "/move", {"fromUri": uri("app/db"), "toUri": uri("app/copy")}),
    ]
    assert {(each.status_code, each.json()["code"]) for each in refused} == {(403, "PROVIDER_READ_ONLY")}
    bulk = api("POST", "/bulk", {"operations": [{"op": "delete", "uri": uri("app/db")}]}).json()["results"]
    assert bulk[0]["error"]["code"] == "PROVIDER_READ_ONLY"
    assert production.file.read_bytes() == before
    assert {each.name for each in production.file.parent.glob("*.lock")} == set()


async def test_two_hundred_writers_of_one_path_lose_no_write(beside: Place) -> None:
    """Each its own key, at once."""
    token = beside.process.issuer.token(sub="api")
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:

        async def write(number: int) -> int:
            body = {"uri": uri(f"raced/one#k{number}"), "value": number}
            async with session.post(f"{beside.process.url}/api/secrets", json=body) as answer:
                return answer.status

        statuses = await asyncio.gather(*map(write, range(200)))
    assert (statuses.count(201), statuses.count(200)) == (1, 199)
    assert beside.api("GET", "", uri=uri("raced/one")).json() == {f"k{number}": number for number in range(200)}
