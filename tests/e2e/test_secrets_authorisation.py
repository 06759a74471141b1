"""Every endpoint of the Secrets API × each purpose × each scope, denied when missing; and what an attacker tries.

A new endpoint has no row here, and fails the first test.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
import requests

from sidecar.client.key import DPoPKey
from sidecar.client.requests import DPoPAuth
from sidecar.surface.operation import SCOPE, Purpose
from sidecar.surface.secrets import openapi
from sidecar.surface.secrets.endpoints import ROWS, Endpoint
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.secrets.yaml_file.making import private
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

ALL_SCOPES: Final = frozenset(SCOPE.values())
POLICIES: Final = """
@ttl_seconds("60") @max_uses("1000000")
permit (principal, action, resource);
@ttl_seconds("60") @max_uses("1")
permit (principal == Workload::"once", action, resource);
""" + "\n".join(
    f'forbid (principal == Workload::"no-{purpose}", action == Action::"{purpose}", resource);\n'
    f'forbid (principal, action == Action::"{purpose}", resource)\n'
    f'when {{ context has workflow_run_id && context.workflow_run_id == "no-{purpose}" }};'
    for purpose in Purpose
)


@dataclass(frozen=True)
class Try:
    """One request to an endpoint; `{uri}` stands for a fresh secret with versions 1 and 2, `{new}` for none."""

    endpoint: Endpoint
    purposes: tuple[Purpose, ...]
    body: Any = None
    query: dict[str, str] = field(default_factory=dict)
    filtered: bool = False
    """Whether a denial shows as an empty list."""


def bulk(op: str, **more: Any) -> dict[str, Any]:
    return {"operations": [{"op": op, "uri": "{uri}", **more}]}


TRIES: Final = (
    Try(Endpoint.WRITE, (Purpose.WRITE,), {"uri": "{uri}", "value": {"a": "3"}}),
    Try(Endpoint.WRITE, (Purpose.WRITE,), {"uri": "{uri}#a", "value": "3"}),
    Try(Endpoint.WRITE, (Purpose.WRITE,), {"uri": "{new}", "value": {"a": "3"}}),
    Try(Endpoint.VALUE, (Purpose.READ,), query={"uri": "{uri}"}),
    Try(Endpoint.VALUE, (Purpose.READ,), query={"uri": "{uri}#a", "version": "1"}),
    Try(Endpoint.YAML, (Purpose.READ,), query={"uri": "yaml://secret/app/db"}),
    Try(Endpoint.DELETE, (Purpose.DELETE,), query={"uri": "{uri}"}),
    Try(Endpoint.DELETE, (Purpose.DELETE,), query={"uri": "{uri}#a"}),
    Try(Endpoint.DELETE, (Purpose.DESTROY_VERSIONS,), query={"uri": "{uri}", "destroy": "true"}),
    Try(Endpoint.ROTATE, (Purpose.ROTATE,), {"uri": "{uri}#a", "value": "3"}),
    Try(Endpoint.ROTATE, (Purpose.ROTATE,), {"uri": "{uri}#a", "generate": {"length": 20}}),
    Try(Endpoint.LIST, (Purpose.READ_METADATA,), query={"prefix": "{uri}"}, filtered=True),
    Try(Endpoint.KEYS, (Purpose.READ_METADATA,), query={"uri": "{uri}"}),
    Try(Endpoint.DETAIL, (Purpose.READ_METADATA,), query={"uri": "{uri}"}),
    Try(Endpoint.VERSIONS, (Purpose.READ_METADATA,), query={"uri": "{uri}"}),
    Try(Endpoint.UNDELETE, (Purpose.UNDELETE,), {"uri": "{uri}", "versions": [1]}),
    Try(Endpoint.DESTROY, (Purpose.DESTROY_VERSIONS,), {"uri": "{uri}", "versions": [1]}),
    Try(Endpoint.OWNER, (Purpose.OWNER_UPDATE,), {"uri": "{uri}", "owner": "somebody"}),
    Try(Endpoint.BULK, (Purpose.WRITE,), bulk("set", value={"a": "3"})),
    Try(Endpoint.BULK, (Purpose.DELETE,), bulk("delete")),
    Try(Endpoint.BULK, (Purpose.UNDELETE,), bulk("undelete", versions=[1])),
    Try(Endpoint.BULK, (Purpose.DESTROY_VERSIONS,), bulk("destroy", versions=[1])),
    Try(Endpoint.BULK, (Purpose.DESTROY_VERSIONS,), bulk("destroy")),
    Try(Endpoint.BULK, (Purpose.ROTATE,), bulk("rotate", value={"a": "3"})),
    Try(Endpoint.COPY, (Purpose.READ, Purpose.WRITE), {"fromUri": "{uri}", "toUri": "{new}"}),
    Try(Endpoint.MOVE, (Purpose.READ, Purpose.WRITE, Purpose.DELETE), {"fromUri": "{uri}", "toUri": "{new}"}),
    Try(Endpoint.SEARCH, (Purpose.READ_METADATA,), query={"q": "k", "prefix": "{uri}"}, filtered=True),
)
REACHES_NO_SECRET: Final = {
    Endpoint.EVENTS: "decided record by record: see test_secrets_events",
    Endpoint.AUDIT: "decided record by record: see test_secrets_events",
    Endpoint.OPENAPI: "public: see test_the_description_is_anyones",
}
PAIRS: Final = [(each, purpose) for each in TRIES for purpose in each.purposes]


class World:
    """A sidecar that enforces scopes, the root of its OpenBao, and requests as anybody."""

    def __init__(self, process: SidecarProcess, openbao: OpenBao) -> None:
        self.process = process
        self.openbao = openbao
        self.kv = openbao.root().secrets.kv.v2
        self.versions = {
            mount: self.kv.create_or_update_secret("held", {"a": "canary-held"}, mount_point=mount)["data"]["version"]
            for mount in ("secret", "team/kv")
        }
        for namespace in ("own", "other"):
            kv = openbao.root(namespace).secrets.kv.v2
            kv.create_or_update_secret("held", {"a": f"canary-held-{namespace}"}, mount_point="kv")

    def held(self, mount: str) -> tuple[Any, int]:
        """The value and version of what an attacker is after."""
        found = self.kv.read_secret_version("held", mount_point=mount, raise_on_deleted_version=True)["data"]
        return found["data"], found["metadata"]["version"]

    def fresh(self) -> dict[str, str]:
        """A secret with two versions, and the name of none."""
        name = f"authz/k{uuid.uuid4().hex}"
        for value in ("1", "2"):
            self.kv.create_or_update_secret(name, {"a": value}, mount_point="secret")
        return {"{uri}": f"openbao+kv2://secret/{name}", "{new}": f"openbao+kv2://secret/{name}-new"}

    def state(self, names: dict[str, str]) -> list[Any]:
        """All that OpenBao knows of the two."""
        found = []
        for uri in names.values():
            path = uri.removeprefix("openbao+kv2://secret/")
            try:
                found.append(self.kv.read_secret_metadata(path, mount_point="secret")["data"])
            except Exception as error:
                found.append(type(error).__name__)
        return found

    def ask(
        self,
        each: Try,
        names: dict[str, str],
        subject: str = "all",
        scopes: frozenset[str] = ALL_SCOPES,
        headers: dict[str, str] | None = None,
        token: str = "",
        key: DPoPKey | None = None,
        **claims: Any,
    ) -> requests.Response:
        row = next(row for row in ROWS if row.endpoint is each.endpoint)
        token = token or self.token(subject, scopes, **claims)
        bearer = {} if key else {"Authorization": f"Bearer {token}"}
        return requests.request(
            row.method,
            f"{self.process.url}/api/secrets{row.path}",
            params=_filled(each.query, names),
            json=_filled(each.body, names),
            headers=bearer | (headers or {}),
            auth=DPoPAuth(key, token) if key else None,
            timeout=30,
        )

    def token(self, subject: str, scopes: frozenset[str] = ALL_SCOPES, **claims: Any) -> str:
        """A token of this subject's."""
        return self.process.issuer.token(sub=subject, scope=" ".join(sorted(scopes)), **claims)


def of(records: list[dict[str, Any]], answer: requests.Response) -> list[dict[str, Any]]:
    """The records of one request."""
    return [record for record in records if record.get("correlation_id") == answer.headers["X-Correlation-ID"]]


def _filled(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, names) for each in value]
    if isinstance(value, str):
        for name, uri in names.items():
            value = value.replace(name, uri)
    return value


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[World]:
    root = openbao.root()
    for namespace in ("own", "other"):
        root.write_data(f"sys/namespaces/{namespace}")
        openbao.root(namespace).sys.enable_secrets_engine("kv", path="kv", options={"version": "2"})
    folder = tmp_path_factory.mktemp("authorisation")
    file = private(folder / "secrets.yaml", "secret: {app: {db: {k: v}}}\n")
    overrides = {
        "yaml_provider": {"path": str(file)},
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "per_grant", "bound_token": "single_use"},
        "scopes": {"enforce": True},
        "mounts": [
            {"path": "secret", "engine": "kv2"},
            {"path": "team/kv", "engine": "kv2"},
            {"path": "transit", "engine": "transit"},
            {"path": "kv", "engine": "kv2", "namespace": "own"},
            {"path": "kv", "engine": "kv2", "namespace": "other"},
        ],
        "tenant": {"allowed_mounts": ["secret", "transit", "own/kv"]},
    }
    process = SidecarProcess(folder, openbao, issuer, overrides)
    (process.policies / "policies.cedar").write_text(POLICIES)
    with openbao.mounted({"transit": "transit", "team/kv": "kv2"}), process as running:
        yield World(running, openbao)


def outcome(answer: requests.Response) -> tuple[int, str]:
    """The status and code, of the one operation where it is a bulk."""
    body = answer.json()
    if "results" in body:
        (only,) = body["results"]
        return only["status"], only.get("error", {}).get("code", "")
    return answer.status_code, body.get("code", "")


# -- the table -----------------------------------------------------------------------------------------------------
def test_every_endpoint_and_every_purpose_of_it_has_a_row() -> None:
    for row in ROWS:
        tried = {purpose for each in TRIES if each.endpoint is row.endpoint for purpose in each.purposes}
        if row.endpoint in REACHES_NO_SECRET:
            assert not tried
        else:
            assert tried
            assert row.endpoint is Endpoint.BULK or tried == set(row.purposes), row.endpoint
    bulks = {each.body["operations"][0]["op"] for each in TRIES if each.endpoint is Endpoint.BULK}
    described = openapi.document()["components"]["schemas"]["Bulk"]["properties"]["operations"]["items"]
    assert bulks == set(described["discriminator"]["mapping"])


def test_with_every_purpose_and_exactly_its_scopes_it_is_done(world: World) -> None:
    """And recorded under these purposes, the intent first where something changes."""
    answers = []
    for each in TRIES:
        needed = frozenset(SCOPE[purpose] for purpose in each.purposes)
        answers.append((each, world.ask(each, world.fresh(), scopes=needed)))
        assert outcome(answers[-1][1])[0] in (200, 201), (each, answers[-1][1].text)
    records = world.process.records()
    for each, answer in answers:
        own = of(records, answer)
        assert {record["purpose"] for record in own} == {str(purpose) for purpose in each.purposes}, each
        assert {record["effect"] for record in own} == {"permit"}, each
        changing = [record["phase"] for record in own if record["purpose"] not in ("read", "read_metadata")]
        assert changing == ["intent", "outcome"] * (len(changing) // 2), each
        assert ("SECRET_ROTATED" in {record["event"] for record in own}) is (Purpose.ROTATE in each.purposes), each


def test_without_a_purpose_it_is_denied_and_nothing_happened(world: World) -> None:
    """Each purpose of each endpoint, whatever else is permitted."""
    answers = []
    for each, purpose in PAIRS:
        names = world.fresh()
        before = world.state(names)
        answer = world.ask(each, names, subject=f"no-{purpose}")
        if each.filtered:
            assert answer.json() == {"items": [], "next": None}, each
            continue
        assert outcome(answer) == (403, "POLICY_DENIED"), (each, answer.text)
        assert world.state(names) == before, each
        answers.append((each, purpose, answer))
    records = world.process.records()
    for each, purpose, answer in answers:
        denied = [record for record in of(records, answer) if record["effect"] == "deny"]
        assert [(record["purpose"], record["code"]) for record in denied] == [(purpose, "POLICY_DENIED")], each


def test_without_a_scope_it_is_refused_whatever_policy_says(world: World) -> None:
    """Each scope of each endpoint, whatever other scopes there are."""
    for each, purpose in PAIRS:
        names = world.fresh()
        before = world.state(names)
        answer = world.ask(each, names, scopes=ALL_SCOPES - {SCOPE[purpose]})
        assert outcome(answer) == (403, "SCOPE_MISSING"), (each, answer.text)
        assert world.state(names) == before, each


@pytest.mark.parametrize("endpoint", [Endpoint.EVENTS, Endpoint.AUDIT])
def test_what_is_for_development_is_refused_elsewhere(world: World, endpoint: Endpoint) -> None:
    """And it is said where it is served."""
    answer = world.ask(Try(endpoint, ()), {})
    assert outcome(answer) == (403, "OPERATION_FORBIDDEN")
    assert "events.enabled" in answer.json()["message"]


# -- what an attacker tries ----------------------------------------------------------------------------------------
FOREIGN: Final = "openbao+kv2://team/kv/held"
HELD: Final = "openbao+kv2://secret/held"


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        (FOREIGN, "TENANT_MOUNT_MISMATCH"),
        ("openbao+kv2://nowhere/held", "TENANT_MOUNT_MISMATCH"),
        ("openbao+kv2://ns1/secret/held", "TENANT_MOUNT_MISMATCH"),
        ("openbao+kv2://secret/../team/kv/held", "ILLEGAL_SEGMENT"),
        ("openbao+kv2://secret/a/../held", "ILLEGAL_SEGMENT"),
        ("openbao+kv2://secret/./held", "ILLEGAL_SEGMENT"),
        ("openbao+kv2://secret//held", "ILLEGAL_SEGMENT"),
        ("openbao+kv2://secret/a%2Fheld", None),
        ("openbao+kv2://secret/%2e%2e/held", None),
        ("openbao+kv2://secret/a%00", None),
        ("openbao+kv2://secret/*", None),
        ("openbao+kv1://secret/held", None),
        ("openbao+kv2://transit/held", None),
        ("hashicorp+kv2://secret/held", None),
        ("vault://secret/held", None),
        ("yaml://held", None),
        ("openbao+kv2://secret/held/", "PROVIDER_TRAILING_SLASH_MISMATCH"),
        ("openbao+kv2://secret/", None),
        ("openbao+kv2://secret", None),
        ("openbao+kv2://user@secret/held", None),
        ("openbao+kv2://secret/held?version=1&version=2", None),
        ("openbao+kv2://secret/held#", None),
        ("openbao+transit://transit/k", "UNSUPPORTED_OPERATION"),
        ("openbao+database://transit/creds/r", None),
    ],
)
def test_a_uri_that_is_no_secret_of_this_tenants_reaches_nothing(world: World, uri: str, code: str | None) -> None:
    """At every endpoint that takes one; the answer never holds the held value, which stays as it was."""
    for each in TRIES:
        asked = f"{each.body}{each.query}"
        if each.filtered or each.endpoint is Endpoint.ROTATE or "{uri}" not in asked:
            continue  # a prefix is no URI; a transit key is rotated
        if ("{uri}#a" in asked and not uri[-1].isalnum()) or "rotate" in asked:
            continue
        answer = world.ask(each, {"{uri}": uri, "{new}": f"{HELD}-new"})
        status, found = outcome(answer)
        assert 400 <= status < 500 or status == 501, (each, answer.text)
        assert "canary-held" not in answer.text
        assert code is None or found in (code, "INVALID_URI", "UNSUPPORTED_OPERATION"), (each, answer.text)
    for mount in ("secret", "team/kv"):
        assert world.held(mount) == ({"a": "canary-held"}, world.versions[mount])


@pytest.mark.parametrize("endpoint", [Endpoint.COPY, Endpoint.MOVE])
@pytest.mark.parametrize(("source", "target"), [(FOREIGN, f"{HELD}-stolen"), (HELD, FOREIGN)])
def test_nothing_is_copied_across_the_border_of_the_tenant(
    world: World, endpoint: Endpoint, source: str, target: str
) -> None:
    each = Try(endpoint, (), {"fromUri": source, "toUri": target, "overwrite": True})
    assert outcome(world.ask(each, {})) == (400, "TENANT_MOUNT_MISMATCH")
    assert world.held("team/kv") == ({"a": "canary-held"}, world.versions["team/kv"])


@pytest.mark.parametrize(
    "prefix",
    ["openbao+kv2://team/kv/", "openbao+kv2://", "openbao+kv2://secret/../", "openbao+kv2://secret/%2e%2e/", "/", "x"],
)
def test_a_listing_stays_inside(world: World, prefix: str) -> None:
    for each in (
        Try(Endpoint.LIST, (), query={"prefix": prefix}),
        Try(Endpoint.SEARCH, (), query={"q": "h", "prefix": prefix}),
    ):
        status, code = outcome(world.ask(each, {}))
        assert (status, bool(code)) == (400, True)


def test_a_forged_cursor_is_refused(world: World) -> None:
    """And so is another caller's: a cursor may name what its caller may not know of."""
    page = Try(Endpoint.LIST, (), query={"prefix": "openbao+kv2://secret/", "limit": "1"})
    genuine = world.ask(page, {}).json()["next"]
    for cursor in ("YQ", "_", "A" * 2000, genuine[:-4] + "AAAA", genuine * 2):
        asked = Try(Endpoint.LIST, (), query=page.query | {"cursor": cursor})
        assert outcome(world.ask(asked, {})) == (400, "MALFORMED_REQUEST"), cursor
    asked = Try(Endpoint.LIST, (), query=page.query | {"cursor": genuine})
    assert outcome(world.ask(asked, {}, "another")) == (400, "MALFORMED_REQUEST")
    assert len(world.ask(asked, {}).json()["items"]) == 1


def test_names_that_cannot_be_asked_for_are_not_listed(world: World) -> None:
    """OpenBao keeps names that the sidecar refuses; a listing shows those that it can name, and works."""
    for name in ("odd/plain", "odd/star*", "odd/ü", "odd/with space", "odd/50%", "odd/a#b", "odd/a?b", "odd/x+y"):
        world.kv.create_or_update_secret(name, {"a": "1"}, mount_point="secret")
    each = Try(Endpoint.LIST, (), query={"prefix": "openbao+kv2://secret/odd/"})
    answer = world.ask(each, {})
    assert answer.status_code == 200, answer.text
    for item in answer.json()["items"]:
        read = world.ask(Try(Endpoint.VALUE, (), query={"uri": item["uri"]}), {})
        assert read.status_code == 200, (item, read.text)
        assert read.json()["uri"] == item["uri"]


# -- sent again ----------------------------------------------------------------------------------------------------
IDEMPOTENT: Final = [pair for pair in PAIRS if next(row for row in ROWS if row.endpoint is pair[0].endpoint).idempotent]


def test_who_lost_a_purpose_or_a_scope_gets_no_earlier_answer(world: World) -> None:
    """Every endpoint that takes an Idempotency-Key × each purpose of it: the same request and key again is decided as a
    fresh one is, and changes nothing. The same caller with its right gets its answer."""
    assert {each.endpoint for each, _ in IDEMPOTENT} == {row.endpoint for row in ROWS if row.idempotent}
    denied = []
    for each, purpose in IDEMPOTENT:
        names, key = world.fresh(), {"Idempotency-Key": f"key-{uuid.uuid4().hex}"}
        first = world.ask(each, names, headers=key)
        assert outcome(first)[0] in (200, 201), first.text
        before = world.state(names)
        by_policy = world.ask(each, names, headers=key, workflow_run_id=f"no-{purpose}")
        by_scope = world.ask(each, names, headers=key, scopes=ALL_SCOPES - {SCOPE[purpose]})
        assert outcome(by_policy) == (403, "POLICY_DENIED"), (each, by_policy.text)
        assert outcome(by_scope) == (403, "SCOPE_MISSING"), (each, by_scope.text)
        for refused in (by_policy, by_scope):
            assert "version" not in refused.text, (each, refused.text)
        repeated = world.ask(each, names, headers=key)
        assert repeated.json() == first.json(), each
        assert world.state(names) == before, each
        denied.append((each, purpose, by_policy, repeated))
    records = world.process.records()
    for each, purpose, by_policy, repeated in denied:
        deny = [record for record in of(records, by_policy) if record["effect"] == "deny"]
        assert [(record["purpose"], record["code"]) for record in deny] == [(purpose, "POLICY_DENIED")], each
        own = of(records, repeated)
        assert {record["purpose"] for record in own} == {str(one) for one in each.purposes}, each
        assert all(record["resource_ref"] and record["phase"] == "outcome" for record in own), each
        assert {record["operation"] for record in own} == {f"secrets.{each.endpoint}"}, each


def test_a_token_of_single_use_is_used_once_at_every_endpoint(world: World) -> None:
    """A bound token, each time with a fresh proof: what was done is not done again."""
    for number, each in enumerate(TRIES):
        names, key = world.fresh(), DPoPKey.generate()
        token = world.token(f"single-{number}", cnf={"jkt": key.thumbprint})
        done = world.ask(each, names, token=token, key=key)
        assert outcome(done)[0] in (200, 201), (each, done.text)
        before = world.state(names)
        replayed = world.ask(each, names, token=token, key=key)
        assert outcome(replayed) == (403, "TOKEN_REPLAYED"), (each, replayed.text)
        assert world.state(names) == before, each


def test_a_token_opens_a_grant_once_at_every_endpoint(world: World) -> None:
    """Its one use is spent; listings open no grants. An Idempotency-Key helps nobody over it."""
    for each in TRIES:
        if each.filtered:
            continue
        row = next(row for row in ROWS if row.endpoint is each.endpoint)
        names, token = world.fresh(), world.token("once")
        key = {"Idempotency-Key": f"key-{uuid.uuid4().hex}"} if row.idempotent else {}
        done = world.ask(each, names, token=token, headers=key)
        assert outcome(done)[0] in (200, 201), (each, done.text)
        before = world.state(names)
        replayed = world.ask(each, names, token=token, headers=key)
        assert outcome(replayed) == (403, "TOKEN_REPLAYED"), (each, replayed.text)
        assert world.state(names) == before, each


def test_a_bulk_sent_again_is_decided_operation_by_operation(world: World) -> None:
    """What may not be had any more is refused in its place, the rest is answered as before."""
    names, key = world.fresh(), {"Idempotency-Key": f"key-{uuid.uuid4().hex}"}
    operations = [
        {"op": "set", "uri": "{uri}#b", "value": "1"},
        {"op": "rotate", "uri": "{uri}#a", "value": "2"},
        {"op": "delete", "uri": "{new}"},
    ]
    each = Try(Endpoint.BULK, (), {"operations": operations})
    first = world.ask(each, names, headers=key).json()["results"]
    assert [one["status"] for one in first] == [200, 200, 404]
    second = world.ask(each, names, headers=key, workflow_run_id="no-rotate").json()["results"]
    assert (second[0], second[2]) == (first[0], first[2])
    assert second[1].keys() == {"op", "uri", "status", "error"}
    assert (second[1]["status"], second[1]["error"]["code"]) == (403, "POLICY_DENIED")


def test_a_key_of_another_body_is_refused(world: World) -> None:
    names, key = world.fresh(), {"Idempotency-Key": f"key-{uuid.uuid4().hex}"}
    assert world.ask(Try(Endpoint.ROTATE, (), {"uri": "{uri}#a", "value": "x"}), names, headers=key).ok
    other = world.ask(Try(Endpoint.ROTATE, (), {"uri": "{uri}#a", "value": "y"}), names, headers=key)
    assert outcome(other) == (422, "IDEMPOTENCY_KEY_REUSED")


# -- namespaces ----------------------------------------------------------------------------------------------------
def test_a_namespace_is_named_by_the_uri_alone(world: World) -> None:
    """Whatever a header says beside it is refused: it would be believed here or there, and nobody could tell where."""
    own = {"{uri}": "openbao+kv2://own/kv/held", "{new}": "openbao+kv2://own/kv/new"}
    read = Try(Endpoint.VALUE, (), query={"uri": "{uri}"})
    assert world.ask(read, own).json()["value"] == {"a": "canary-held-own"}
    for each in TRIES:
        for namespace in ("own", "other", "own/", "/", "root"):
            answer = world.ask(each, own, headers={"X-Vault-Namespace": namespace})
            assert outcome(answer) == (400, "DOUBLE_MOUNT_SOURCE"), (each, answer.text)
    assert world.ask(read, own).json() == {"uri": own["{uri}"], "version": 1, "value": {"a": "canary-held-own"}}


@pytest.mark.parametrize(
    "mount", ["other/kv", "kv", "own/other/kv", "own/../other/kv", "other", "/other/kv", "Own/kv", "own//kv", "root/kv"]
)
def test_another_namespace_is_out_of_reach(world: World, mount: str) -> None:
    """By any endpoint, by any spelling."""
    names = {"{uri}": f"openbao+kv2://{mount}/held", "{new}": f"openbao+kv2://{mount}/new"}
    for each in TRIES:
        if each.endpoint is Endpoint.YAML:
            continue  # a file has no namespaces
        answer = world.ask(each, names)
        assert outcome(answer)[0] == 400, (each, answer.text)
        assert "canary" not in answer.text
    kv = world.openbao.root("other").secrets.kv.v2
    held = kv.read_secret_version("held", mount_point="kv", raise_on_deleted_version=True)["data"]
    assert (held["data"], held["metadata"]["version"]) == ({"a": "canary-held-other"}, 1)


def test_headers_that_ask_for_what_is_not_served_are_refused(world: World) -> None:
    """Dropped, they would have the caller believe in what did not happen."""
    for header in ({"X-Vault-Wrap-TTL": "60"}, {"X-HTTP-Method-Override": "DELETE"}, {"X-Vault-Inline-Auth-Path": "x"}):
        answer = world.ask(Try(Endpoint.VALUE, (), query={"uri": HELD}), {}, headers=header)
        assert outcome(answer) == (403, "OPERATION_FORBIDDEN"), header


def test_an_idempotency_key_of_another_caller_is_another_key(world: World) -> None:
    names = world.fresh()
    each = Try(Endpoint.ROTATE, (), {"uri": "{uri}#a", "value": "mine"})
    key = {"Idempotency-Key": "shared"}
    assert world.ask(each, names, "one", headers=key).json()["version"] == 3
    assert world.ask(each, names, "two", headers=key).json()["version"] == 4
    again = world.ask(each, names, "one", headers=key)
    assert again.json()["version"] == 3
    (record,) = of(world.process.records(), again)
    assert (record["operation"], record["effect"], record["event"]) == (
        "secrets.rotateSecret",
        "permit",
        "SECRET_PERMIT",
    )
    denied = world.ask(each, names, f"no-{Purpose.ROTATE}", headers=key)
    assert outcome(denied) == (403, "POLICY_DENIED")


def test_the_description_is_anyones(world: World) -> None:
    """Without a token, and with nothing of a caller's in it; it takes no query and no body."""
    url = f"{world.process.url}/api/secrets/openapi.json"
    answer = requests.get(url, timeout=30)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.content == openapi.written()
    assert requests.get(f"{url}?a=b", timeout=30).json()["code"] == "AMBIGUOUS_QUERY"
    assert requests.get(url, json={}, timeout=30).json()["code"] == "MALFORMED_REQUEST"


def test_without_a_token_nothing_is_told(world: World) -> None:
    """Not even whether the request would be well formed."""
    for row in ROWS:
        if not row.public:
            query = "&".join(f"{name}=x" for name in row.must)
            answer = requests.request(row.method, f"{world.process.url}/api/secrets{row.path}?{query}", timeout=30)
            assert (answer.status_code, answer.json()["code"]) == (401, "TOKEN_MISSING"), row.endpoint
