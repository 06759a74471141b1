"""The Secrets API end to end: real OpenBao, the real process, plain HTTP as an application would speak it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
import pytest
import requests
from yarl import URL

from sidecar.secrets.providers.kv import LISTED_AT_ONCE
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

POLICIES = """
@ttl_seconds("60") @max_uses("1000000")
permit (principal == Workload::"api", action, resource);
@ttl_seconds("60") @max_uses("1000")
permit (principal == Workload::"reader", action == Action::"read", resource);
@ttl_seconds("60") @max_uses("1000")
permit (
  principal == Workload::"sees-some", action == Action::"read_metadata", resource in Folder::"secret/listing/some"
);
@release("user")
permit (principal == Workload::"half", action in [Action::"read", Action::"read_metadata"], resource);
"""


class Api:
    """A caller of the Secrets API."""

    def __init__(self, process: SidecarProcess, subject: str = "api") -> None:
        self.process = process
        self.subject = subject

    def __call__(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **query: Any
    ) -> requests.Response:
        token = self.process.issuer.token(sub=self.subject)
        return requests.request(
            method,
            f"{self.process.url}/api/secrets{path}",
            params=query,
            json=body,
            headers={"Authorization": f"Bearer {token}", **(headers or {})},
            timeout=30,
        )


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[SidecarProcess]:
    """A sidecar that takes unbound tokens, in front of KV versions 1 and 2 and transit."""
    overrides = {
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
        "mounts": [
            {"path": "secret", "engine": "kv2"},
            {"path": "kv1", "engine": "kv1"},
            {"path": "transit", "engine": "transit"},
        ],
        "tenant": {"allowed_mounts": ["secret", "kv1", "transit"]},
    }
    made = SidecarProcess(tmp_path_factory.mktemp("secrets"), openbao, issuer, overrides)
    (made.policies / "policies.cedar").write_text(POLICIES)
    with openbao.mounted({"kv1": "kv1", "transit": "transit"}), made as running:
        openbao.root().secrets.transit.create_key("api-key")
        yield running


@pytest.fixture
def api(process: SidecarProcess) -> Api:
    """One who may do everything."""
    return Api(process)


def uri(path: str) -> str:
    return f"openbao+kv2://secret/{path}"


def test_write_read_and_versions(api: Api) -> None:
    """A new secret is 201, a changed one 200; a version stays readable; a key is named by a fragment."""
    made = api("POST", "", {"uri": uri("api/one"), "value": {"user": "u", "password": "p", "n": 1234567890123}})
    assert (made.status_code, made.json()) == (201, {"uri": uri("api/one"), "version": 1})
    changed = api("POST", "", {"uri": uri("api/one#password"), "value": "q"})
    assert (changed.status_code, changed.json()["version"]) == (200, 2)
    new_key = api("POST", "", {"uri": uri("api/one#extra"), "value": [1, 2]})
    assert (new_key.status_code, new_key.json()["version"]) == (200, 3)
    read = api("GET", "/value", uri=uri("api/one"))
    assert read.json()["value"] == {"user": "u", "password": "q", "n": 1234567890123, "extra": [1, 2]}
    assert read.headers["ETag"] == '"3"'
    assert api("GET", "/value", uri=uri("api/one#password"), version="1").json() == {
        "uri": uri("api/one#password?version=1"),
        "version": 1,
        "value": "p",
    }
    versions = api("GET", "/versions", uri=uri("api/one")).json()["versions"]
    assert [each["version"] for each in versions] == [1, 2, 3]
    assert api("GET", "/keys", uri=uri("api/one")).json()["keys"] == ["extra", "n", "password", "user"]


def test_what_is_not_there_is_404(api: Api) -> None:
    """A path, a key, a version, whatever was deleted."""
    api("POST", "", {"uri": uri("api/gone"), "value": {"a": "1"}})
    assert api("DELETE", "", uri=uri("api/gone")).json() == {
        "uri": uri("api/gone"),
        "deleted": True,
        "destroyed": False,
    }
    missing: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/value", {"uri": uri("api/never")}),
        ("GET", "/value", {"uri": uri("api/gone")}),
        ("GET", "/value", {"uri": uri("app/db#nokey")}),
        ("GET", "/value", {"uri": uri("app/db"), "version": "99"}),
        ("GET", "/keys", {"uri": uri("api/never")}),
        ("GET", "/versions", {"uri": uri("api/never")}),
        ("GET", "/metadata/detail", {"uri": uri("api/never")}),
        ("DELETE", "", {"uri": uri("api/never"), "destroy": "true"}),
        ("DELETE", "", {"uri": uri("api/never")}),
        ("DELETE", "", {"uri": uri("api/gone")}),
        ("DELETE", "", {"uri": uri("app/db#nokey")}),
    ]
    for method, path, query in missing:
        answer = api(method, path, **query)
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND"), (method, path, query)
        assert answer.json()["error"] == "Not Found"
    for path, body in (
        ("/undelete", {"uri": uri("api/never"), "versions": [1]}),
        ("/undelete", {"uri": uri("api/gone"), "versions": [1, 9]}),
        ("/destroy-versions", {"uri": uri("api/never"), "versions": [1]}),
        ("/destroy-versions", {"uri": uri("api/gone"), "versions": [9]}),
        ("/metadata/owner", {"uri": uri("api/never"), "owner": "x"}),
        ("/rotate", {"uri": uri("app/db#password"), "generate": {"policy": "never"}}),
    ):
        answer = api("POST", path, body)
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND"), (path, body)
    assert api("GET", "/versions", uri=uri("api/gone")).json()["versions"][0]["destroyed"] is False


def test_cas_by_body_and_by_if_match(api: Api) -> None:
    """One who read an older version writes nothing."""
    name = uri("api/cas")
    assert api("POST", "", {"uri": name, "value": {"a": "1"}, "cas": 0}).status_code == 201
    assert api("POST", "", {"uri": name, "value": {"a": "2"}, "cas": 0}).json()["code"] == "VERSION_CONFLICT"
    assert api("POST", "", {"uri": name, "value": {"a": "2"}}, {"If-Match": '"7"'}).status_code == 409
    assert api("POST", "", {"uri": f"{name}#b", "value": "2", "cas": 7}).status_code == 409
    assert api("POST", "", {"uri": f"{name}#b", "value": "2"}, {"If-Match": '"1"'}).json()["version"] == 2
    both = api("POST", "", {"uri": name, "value": {"a": "2"}, "cas": 1}, {"If-Match": '"2"'})
    assert (both.status_code, both.json()["code"]) == (400, "MALFORMED_REQUEST")


async def test_two_hundred_writers_of_one_path_lose_no_write(api: Api) -> None:
    """Each writes its own key, at once."""
    token = api.process.issuer.token(sub="api")
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:

        async def write(number: int) -> int:
            body = {"uri": uri(f"api/raced#k{number}"), "value": number}
            async with session.post(f"{api.process.url}/api/secrets", json=body) as answer:
                return answer.status

        statuses = await asyncio.gather(*(write(number) for number in range(200)))
    assert set(statuses) == {200, 201}
    assert statuses.count(201) == 1
    assert api("GET", "/value", uri=uri("api/raced")).json()["value"] == {f"k{n}": n for n in range(200)}


def test_delete_a_key_undelete_and_destroy(api: Api) -> None:
    """Versions come back, or never do."""
    name = uri("api/cycle")
    api("POST", "", {"uri": name, "value": {"a": "1", "b": "2"}})
    assert api("DELETE", "", uri=f"{name}#a").status_code == 200
    assert api("GET", "/value", uri=name).json()["value"] == {"b": "2"}
    assert api("DELETE", "", uri=name).status_code == 200
    assert api("POST", "/undelete", {"uri": name, "versions": [2]}).json() == {"uri": name, "versions": [2]}
    assert api("GET", "/value", uri=name).json()["version"] == 2
    assert api("POST", "/destroy-versions", {"uri": name, "versions": [1]}).json() == {"uri": name, "versions": [1]}
    assert [each["destroyed"] for each in api("GET", "/versions", uri=name).json()["versions"]] == [True, False]
    refused = api("DELETE", "", uri=f"{name}#b", destroy="true")
    assert (refused.status_code, refused.json()["code"]) == (400, "MALFORMED_REQUEST")
    assert api("DELETE", "", uri=name, destroy="true").json() == {"uri": name, "deleted": True, "destroyed": True}
    assert api("GET", "/versions", uri=name).status_code == 404


def test_rotation_by_value_by_generator_and_in_place(api: Api, openbao: OpenBao) -> None:
    """The record tells the version before and after; a generated value never passes the caller."""
    name = uri("api/rotated#password")
    api("POST", "", {"uri": uri("api/rotated"), "value": {"password": "old", "user": "u"}})
    assert api("POST", "/rotate", {"uri": name, "value": "new"}).json() == {
        "uri": name,
        "version": 2,
        "previous_version": 1,
    }
    made = api("POST", "/rotate", {"uri": name, "generate": {"length": 40, "alphabet": "abcdef"}})
    assert made.json()["version"] == 3
    assert "value" not in made.json()
    value = api("GET", "/value", uri=name).json()["value"]
    assert len(value) == 40
    assert set(value) <= set("abcdef")
    openbao.root().write(
        "sys/policies/password/api", policy='length = 24\nrule "charset" { charset = "xyz" min-chars = 1 }'
    )
    assert api("POST", "/rotate", {"uri": name, "generate": {"policy": "api"}}).json()["version"] == 4
    assert set(api("GET", "/value", uri=name).json()["value"]) <= set("xyz")
    transit = api("POST", "/rotate", {"uri": "openbao+transit://transit/api-key"})
    assert transit.status_code == 200, transit.text
    rotated = [record for record in api.process.records() if record["event"] == "SECRET_ROTATED"]
    assert [record["kv_version"] for record in rotated] == [2, 3, 4, None]
    assert api("POST", "/rotate", {"uri": uri("api/never#x"), "value": "1"}).status_code == 404


def test_who_made_a_secret_is_stamped_and_owners_change_by_their_own_purpose(api: Api) -> None:
    """Best effort, by the first write; other labels stay."""
    name = uri("api/stamped")
    api("POST", "", {"uri": name, "value": {"a": "1"}})
    detail = api("GET", "/metadata/detail", uri=name).json()
    assert (detail["owner"], detail["created_by"], detail["current_version"]) == ("api", "api", 1)
    assert detail["created_at"].endswith("Z")
    assert api("POST", "/metadata/owner", {"uri": name, "owner": "team-b"}).json() == {"uri": name, "owner": "team-b"}
    after = api("GET", "/metadata/detail", uri=name).json()
    assert (after["owner"], after["created_by"]) == ("team-b", "api")


def test_listing_and_search_show_what_policy_lets_be_known(api: Api, process: SidecarProcess) -> None:
    """Item by item, in pages; the denied leave no trace."""
    for path in ("listing/some/a", "listing/some/b", "listing/some/deep/c", "listing/other/d"):
        api("POST", "", {"uri": uri(path), "value": {"k": "v"}})
    every = api("GET", "/metadata", prefix=uri("listing/")).json()
    assert [item["uri"] for item in every["items"]] == [
        uri("listing/other/d"),
        uri("listing/some/a"),
        uri("listing/some/b"),
        uri("listing/some/deep/c"),
    ]
    assert every["next"] is None
    some = Api(process, "sees-some")
    assert [item["uri"] for item in some("GET", "/metadata", prefix=uri("listing/")).json()["items"]] == [
        uri("listing/some/a"),
        uri("listing/some/b"),
        uri("listing/some/deep/c"),
    ]
    found, cursor = [], ""
    for _ in range(10):
        page = some("GET", "/metadata", prefix=uri("listing/"), limit=1, cursor=cursor).json()
        found += [item["uri"] for item in page["items"]]
        if page["next"] is None:
            break
        cursor = page["next"]
    assert found == [uri("listing/some/a"), uri("listing/some/b"), uri("listing/some/deep/c")]
    searched = api("GET", "/search", q="DEEP", prefix=uri("listing/")).json()
    assert [item["uri"] for item in searched["items"]] == [uri("listing/some/deep/c")]
    assert Api(process, "nobody")("GET", "/metadata", prefix=uri("listing/")).json() == {"items": [], "next": None}


async def test_a_folder_of_more_names_than_openbao_gives_at_once_is_listed_whole(api: Api, openbao: OpenBao) -> None:
    """Whatever the names are; no question to KV version 2 asks for more than a thousand. Version 1 gives all."""
    names = sorted([f"s{number:04}" for number in range(LISTED_AT_ONCE + 5)] + ["a b&c=d", "é", "s0999/x", "zz/y"])
    async with aiohttp.ClientSession(headers={"X-Vault-Token": openbao.root_token}) as session:
        at_once = asyncio.Semaphore(50)

        async def put(path: str, body: Any) -> None:
            async with at_once, session.post(URL(f"{openbao.address}/v1/{path}", encoded=True), json=body) as answer:
                assert answer.status < 300

        await asyncio.gather(
            *(put(f"secret/data/large/{quote(name)}", {"data": {"k": "v"}}) for name in names),
            *(put(f"kv1/large/{quote(name)}", {"k": "v"}) for name in names),
        )
    for prefix in ("openbao+kv2://secret/large/", "openbao+kv1://kv1/large/"):
        found, cursor, mark = [], "", openbao.mark()
        while True:
            page = (await asyncio.to_thread(api, "GET", "/metadata", prefix=prefix, limit=600, cursor=cursor)).json()
            found += [unquote(item["uri"].removeprefix(prefix)) for item in page["items"]]
            if page["next"] is None:
                break
            cursor = page["next"]
        assert found == names
        limits = {(request.get("data") or {}).get("limit") for request in openbao.requests(mark)}
        assert limits == ({str(LISTED_AT_ONCE)} if "kv2" in prefix else {None})
        empty = await asyncio.to_thread(api, "GET", "/metadata", prefix=prefix.replace("large", "nothing"))
        assert empty.json() == {"items": [], "next": None}


def test_copy_and_move(api: Api) -> None:
    """A target that exists is kept unless it may be overwritten; a moved secret is gone at its source."""
    api("POST", "", {"uri": uri("api/source"), "value": {"a": "1", "b": "2"}})
    copied = api("POST", "/copy", {"fromUri": uri("api/source"), "toUri": uri("api/target")})
    assert (copied.status_code, copied.json()["version"]) == (200, 1)
    again = api("POST", "/copy", {"fromUri": uri("api/source"), "toUri": uri("api/target")})
    assert (again.status_code, again.json()["code"]) == (409, "TARGET_EXISTS")
    over = api("POST", "/copy", {"fromUri": uri("api/source"), "toUri": uri("api/target"), "overwrite": True})
    assert over.json()["version"] == 2
    crossed = api("POST", "/move", {"fromUri": uri("api/source"), "toUri": "openbao+kv1://kv1/moved"})
    assert crossed.status_code == 200, crossed.text
    assert api("GET", "/value", uri=uri("api/source")).status_code == 404
    assert api("GET", "/value", uri="openbao+kv1://kv1/moved").json()["value"] == {"a": "1", "b": "2"}
    api("POST", "", {"uri": "openbao+kv1://kv1/single#k", "value": "1"})
    single = api("POST", "/move", {"fromUri": "openbao+kv1://kv1/single#k", "toUri": uri("api/single#k")})
    assert single.status_code == 200, "the last key of a mount that takes no empty secret"
    assert api("GET", "/value", uri="openbao+kv1://kv1/single").status_code == 404
    assert api("POST", "/copy", {"fromUri": uri("api/target#a"), "toUri": uri("api/target#c")}).status_code == 200
    assert api("GET", "/value", uri=uri("api/target")).json()["value"] == {"a": "1", "b": "2", "c": "1"}


def test_bulk_answers_each_operation(api: Api) -> None:
    """In order; what fails, fails alone."""
    answer = api(
        "POST",
        "/bulk",
        {
            "operations": [
                {"op": "set", "uri": uri("bulk/a"), "value": {"x": "1"}},
                {"op": "set", "uri": uri("bulk/b#k"), "value": "v"},
                {"op": "delete", "uri": uri("bulk/never")},
                {"op": "rotate", "uri": uri("bulk/b#k"), "value": "w"},
                {"op": "set", "uri": "openbao+kv2://elsewhere/x", "value": {}},
                {"op": "destroy", "uri": uri("bulk/a")},
            ]
        },
    )
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [(each["op"], each["status"]) for each in results] == [
        ("set", 201),
        ("set", 201),
        ("delete", 404),
        ("rotate", 200),
        ("set", 400),
        ("destroy", 200),
    ]
    assert results[2]["error"]["code"] == "NOT_FOUND"
    assert results[4]["error"]["code"] == "TENANT_MOUNT_MISMATCH"
    stopped = api(
        "POST",
        "/bulk",
        {
            "continueOnError": False,
            "operations": [
                {"op": "delete", "uri": uri("bulk/never")},
                {"op": "set", "uri": uri("bulk/c"), "value": {"x": "1"}},
            ],
        },
    ).json()["results"]
    assert [each["status"] for each in stopped] == [404, 424]
    assert api("GET", "/value", uri=uri("bulk/c")).status_code == 404


def test_an_idempotency_key_carries_out_once(api: Api) -> None:
    """The same again is the same answer; another request with the key is refused."""
    api("POST", "", {"uri": uri("api/once#k"), "value": "0"})
    body = {"uri": uri("api/once#k"), "value": "1"}
    first = api("POST", "/rotate", body, {"Idempotency-Key": "key-1"})
    again = api("POST", "/rotate", body, {"Idempotency-Key": "key-1"})
    assert first.json() == again.json() == {"uri": uri("api/once#k"), "version": 2, "previous_version": 1}
    other = api("POST", "/rotate", body | {"value": "2"}, {"Idempotency-Key": "key-1"})
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


def test_a_release_obligation_holds(process: SidecarProcess) -> None:
    """Only the named keys leave, whichever way they are asked for."""
    half = Api(process, "half")
    Api(process)("POST", "", {"uri": uri("api/half"), "value": {"user": "u", "password": "p"}})
    assert half("GET", "/keys", uri=uri("api/half")).json()["keys"] == ["user"]
    assert half("GET", "/value", uri=uri("api/half")).json()["value"] == {"user": "u"}
    key = half("GET", "/value", uri=uri("api/half#password"))
    assert (key.status_code, key.json()["code"]) == (403, "OBLIGATION_UNMET")
    assert "password" not in key.text
    copied = half("POST", "/copy", {"fromUri": uri("api/half"), "toUri": uri("api/other")})
    assert copied.status_code == 403


def test_refusals_have_the_apis_shape_and_a_record(api: Api, process: SidecarProcess) -> None:
    """Unknown endpoints, engines that cannot, callers that may not."""
    for answer, status, code in (
        (api("GET", "/nothing"), 403, "OPERATION_FORBIDDEN"),
        (api("PUT", ""), 405, "METHOD_NOT_ALLOWED"),
        (api("GET", "", uri=uri("app/db")), 501, "UNSUPPORTED_OPERATION"),
        (api("GET", "/versions", uri="openbao+kv1://kv1/x"), 501, "UNSUPPORTED_OPERATION"),
        (api("POST", "", {"uri": uri("x"), "value": {}, "more": 1}), 400, "MALFORMED_REQUEST"),
        (api("POST", "/undelete", {"uri": uri("x"), "versions": []}), 400, "MALFORMED_REQUEST"),
        (api("GET", "/value", uri=uri("a/../b")), 400, "ILLEGAL_SEGMENT"),
        (api("GET", "/value", uri=uri("folder/")), 400, "PROVIDER_TRAILING_SLASH_MISMATCH"),
        (Api(process, "reader")("POST", "", {"uri": uri("x"), "value": {"a": 1}}), 403, "POLICY_DENIED"),
    ):
        body = answer.json()
        assert (answer.status_code, body["code"]) == (status, code), answer.text
        assert body.keys() == {"error", "code", "message", "correlation_id"}
    records = process.records()
    assert [r["code"] for r in records if r.get("correlation_id") == body["correlation_id"]] == ["POLICY_DENIED"]
    assert process.verify() == 0
