"""UP: the sidecar's own power over OpenBao. What needs the whole way of a request stands with the enforcement."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import requests

from sidecar.config import Upstream
from sidecar.errors import Code, Refused
from sidecar.surface.operation import UpstreamRequest
from sidecar.upstream.client import UpstreamClient, UpstreamFailure
from sidecar.upstream.headers import SENT
from sidecar.upstream.login import BrokerLogin
from sidecar.upstream.release import Release
from tests.real.database import Database
from tests.real.openbao import OpenBao, TlsListener
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer
from tests.upstream.certificates import Authority
from tests.upstream.raw_server import Exchange, FixedLogin, RawServer, answer, client_of, permit, plain

Make = Callable[..., UpstreamClient]


@pytest_asyncio.fixture
async def client_to() -> AsyncIterator[Make]:
    """Makes clients that are closed at the end."""
    made: list[UpstreamClient] = []

    def make(server: RawServer | str, **options: Any) -> UpstreamClient:
        made.append(client_of(server, **options))
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest.mark.real
async def test_up_02_the_sidecars_token_and_accessor_leave_in_no_answer_of_openbao(openbao: OpenBao) -> None:
    """Canary: OpenBao is made to hand both out in every way it has, the sidecar's own token and others' logins."""
    openbao.policy("powerful", 'path "*" { capabilities = ["create", "read", "update", "list", "sudo"] }')
    token = openbao.token("powerful", period="1h")
    upstream = Upstream.model_validate({"address": openbao.address, "auth": {"method": "token", "token": token}})
    login = BrokerLogin(upstream)
    await login.start()
    client, release = UpstreamClient(upstream, login), Release(login)
    accessor = openbao.root().auth.token.lookup(token)["data"]["accessor"]
    openbao.put("up-02/copied", {"token": token, "accessor": accessor})
    try:
        for asked in (
            permit("/v1/auth/token/lookup-self"),
            permit("/v1/auth/token/renew-self", "POST"),
            permit("/v1/auth/token/lookup", "POST", body=b'{"token":"%b"}' % token.encode()),
            permit("/v1/auth/token/lookup-accessor", "POST", body=b'{"accessor":"%b"}' % accessor.encode()),
            permit("/v1/auth/token/accessors", "LIST"),
            permit("/v1/auth/token/create", "POST", body=b"{}"),
            permit("/v1/secret/data/up-02/copied"),
        ):
            received = await client.forward(asked)
            assert received.status == 200, asked
            raw = await received.read(100_000)
            with pytest.raises(Refused) as refused:
                release.body(asked, received.status, raw)
            assert refused.value.code is Code.UPSTREAM_ERROR
    finally:
        await client.close()
        await login.stop()


async def test_up_03_no_answer_is_ever_asked_for_wrapped_and_a_wrapped_one_does_not_leave(client_to: Make) -> None:
    wrapped = b'{"data":null,"wrap_info":{"token":"s.another","ttl":60},"auth":null}'

    async def script(exchange: Exchange) -> None:
        await exchange.send(answer(wrapped))

    async with RawServer(script) as server:
        received = await client_to(server).forward(permit())
        with pytest.raises(Refused):
            Release(FixedLogin()).body(permit(), received.status, await received.read(1000))
    assert "x-vault-wrap-ttl" not in server.exchanges[0].headers


async def test_up_04_only_headers_of_the_allow_list_reach_openbao(client_to: Make) -> None:
    """There is no way in for a caller's header: the permit has no place for one. This pins what goes out."""
    allowed = {name.lower() for name in SENT}
    seen: set[str] = set()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with RawServer(plain) as server:
        client = client_to(server)
        for method in ("GET", "LIST", "POST", "PUT", "PATCH", "DELETE"):
            body = b"{}" if method.startswith("P") else None
            sent = permit(method=method, body=body, namespace="tenant")
            await (await client.forward(sent, traceparent=trace)).read(1000)
    for exchange in server.exchanges:
        assert exchange.headers.keys() <= allowed
        seen |= exchange.headers.keys()
    assert seen == allowed


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["another origin", "the same path", "another path", "nowhere"])
async def test_up_05_a_redirect_is_neither_followed_nor_handed_out(status: int, to: str, client_to: Make) -> None:
    async with RawServer(plain) as other:
        places = {
            "another origin": f"Location: {other.address}/v1/secret/data/app/db",
            "the same path": "Location: /v1/secret/data/app/db",
            "another path": "Location: /v1/secret/data/other",
            "nowhere": "X-No-Location: 1",
        }

        async def script(exchange: Exchange) -> None:
            await exchange.send(answer(b"", status, places[to]))

        async with RawServer(script) as server:
            client = client_to(server)
            for asked in (permit(), permit(method="POST", body=b"{}")):
                with pytest.raises(UpstreamFailure) as failed:
                    await client.forward(asked)
                assert failed.value.code is Code.UPSTREAM_ERROR
                assert other.address not in failed.value.message
            assert len(server.exchanges) == 2
        assert other.exchanges == []


async def test_up_05_a_standbys_redirect_is_followed_to_a_configured_node_only(client_to: Make) -> None:
    """With the request that was built: the redirect says where, and never what."""
    async with RawServer(plain) as leader, RawServer(plain) as stranger:
        places = {
            "the leader": (f"{leader.address}/v1/secret/data/app/db", True),
            "the leader, spelt as Go does": (f"{leader.address}/v1/secret/data/%61pp/db", True),
            "a stranger": (f"{stranger.address}/v1/secret/data/app/db", False),
            "another path": (f"{leader.address}/v1/secret/data/other", False),
            "another query": (f"{leader.address}/v1/secret/data/app/db?version=1", False),
            "a fragment": (f"{leader.address}/v1/secret/data/app/db#x", False),
            "a user": (leader.address.replace("//", "//user@") + "/v1/secret/data/app/db", False),
            "another scheme": (leader.address.replace("http", "https") + "/v1/secret/data/app/db", False),
            "no origin": ("/v1/secret/data/app/db", False),
            "no URL": ("http://[", False),
        }
        for where, (location, followed) in places.items():

            async def script(exchange: Exchange, location: str = location) -> None:
                await exchange.send(answer(b"", 307, f"Location: {location}"))

            async with RawServer(script) as standby:
                client = client_to(standby, cluster_addresses=[leader.address])
                for asked in (permit(), permit(method="POST", body=b'{"data":{}}'), permit(method="DELETE")):
                    before = len(leader.exchanges)
                    if followed:
                        assert (await client.forward(asked)).status == 200, where
                        sent = leader.exchanges[before]
                        assert sent.head.startswith(asked.operation.upstream.method.encode())
                        assert sent.body == (asked.operation.upstream.body or b"")
                        assert sent.target == b"/v1/secret/data/app/db"
                    else:
                        with pytest.raises(UpstreamFailure) as failed:
                            await client.forward(asked)
                        assert failed.value.code is Code.UPSTREAM_ERROR, where
                        assert len(leader.exchanges) == before, where
                assert len(standby.exchanges) == 3, where
        assert stranger.exchanges == []


async def test_up_05_redirects_in_a_circle_end(client_to: Make) -> None:
    """Two nodes that each call the other the leader."""
    addresses: list[str] = []

    async def script(exchange: Exchange) -> None:
        other = addresses[1] if exchange.headers["host"] in addresses[0] else addresses[0]
        await exchange.send(answer(b"", 307, f"Location: {other}/v1/secret/data/app/db"))

    async with RawServer(script) as one, RawServer(script) as two:
        addresses += [one.address, two.address]
        with pytest.raises(UpstreamFailure) as failed:
            await client_to(one, cluster_addresses=addresses).forward(permit())
        assert failed.value.code is Code.UPSTREAM_ERROR
        assert len(one.exchanges) + len(two.exchanges) == 3


@pytest.mark.real
async def test_up_06_a_wrong_certificate_of_openbao_gets_neither_token_nor_request(tmp_path: Path) -> None:
    """Each wrong thing apart stands in tests/upstream/test_tls.py; here: nothing at all was said to it."""
    right, wrong = Authority(tmp_path, "right"), Authority(tmp_path, "wrong")
    pair = wrong.issue("server")
    with OpenBao(tmp_path / "openbao", tls=TlsListener(pair.cert, pair.key)) as server:
        mark = server.mark()
        auth = {"method": "token", "token": server.root_token}
        tls = {"ca_file": right.file}
        upstream = Upstream.model_validate({"address": server.tls_address, "auth": auth, "tls": tls})
        login = BrokerLogin(upstream)
        await login.start()
        client = UpstreamClient(upstream, FixedLogin())
        for asking in (client.forward(permit()), client.public(UpstreamRequest("GET", "/v1/sys/health"))):
            with pytest.raises(UpstreamFailure) as failed:
                await asking
            assert (failed.value.code, failed.value.sent) == (Code.UPSTREAM_UNAVAILABLE, False)
        assert not login.ready
        await client.close()
        await login.stop()
        assert server.requests(since=mark) == []


async def test_up_08_a_half_read_answer_is_never_continued_for_the_next_caller(client_to: Make) -> None:
    """The storm of nasty answers stands in tests/upstream/test_pool.py; here: one caller leaves, the next comes."""

    async def script(exchange: Exchange) -> None:
        if exchange.number == 0:
            await exchange.send(answer(b'{"first":"half', length=100))
        else:
            await plain(exchange)

    async with RawServer(script) as server:
        client = client_to(server)
        leaving = (await client.forward(permit("/v1/secret/data/alice"))).stream()
        assert await anext(leaving) == b'{"first":"half'
        await leaving.aclose()
        received = await client.forward(permit("/v1/secret/data/bob"))
        assert await received.read(1000) == b'{"target":"/v1/secret/data/bob"}'
        assert server.connections == 2


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_up_10_a_connection_that_dies_after_openbao_ran_the_request_runs_it_once(
    method: str, client_to: Make
) -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.number == 1:
            exchange.end()
        else:
            await plain(exchange)

    async with RawServer(script) as server:
        client = client_to(server)
        await (await client.forward(permit())).read(1000)
        with pytest.raises(UpstreamFailure) as failed:
            await client.forward(permit("/v1/secret/data/once", method, body=b"{}" if method == "PUT" else None))
        assert failed.value.sent is True
        await (await client.forward(permit())).read(1000)
        assert [exchange.target for exchange in server.exchanges].count(b"/v1/secret/data/once") == 1


# -- leases of others ----------------------------------------------------------------------------------------------
OTHER_ISSUER = Issuer("https://other-idp.example")


class Lessor:
    """A sidecar whose policy permits everybody everything, and the credentials that `app` has."""

    def __init__(self, sidecar: SidecarProcess, openbao: OpenBao, database: Database) -> None:
        self.sidecar, self.openbao, self.database = sidecar, openbao, database
        answer = self.ask("app", "GET", "/v1/db/creds/app").json()
        self.lease_id, self.user = answer["lease_id"], answer["data"]

    def ask(self, subject: str, method: str, path: str, body: Any = None, issuer: Issuer | None = None) -> Any:
        """A request of somebody with a token of their own."""
        token = (issuer or self.sidecar.issuer).token(sub=subject)
        data = json.dumps(body) if body is not None else None
        headers = {"X-Vault-Token": token, "Content-Type": "application/json"}
        return requests.request(method, self.sidecar.url + path, data=data, headers=headers, timeout=30)

    @property
    def lives(self) -> bool:
        """Whether `app` can still log in to its database."""
        return self.database.takes(self.user["username"], self.user["password"])


@pytest.fixture(scope="module")
def lessor(
    tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, database: Database, issuer: Issuer
) -> Iterator[Lessor]:
    folder = tmp_path_factory.mktemp("lessor")
    issuers = [issuer.configured(folder / "one.json"), OTHER_ISSUER.configured(folder / "other.json")]
    overrides = {
        "mounts": [{"path": "db", "engine": "database"}],
        "tenant": {"allowed_mounts": ["db"]},
        "identity": {"binding": "preferred", "issuers": issuers},
        "anti_replay": {"unbound_token": "off"},
    }
    process = SidecarProcess(folder, openbao, issuer, overrides)
    (process.policies / "policies.cedar").write_text('@max_uses("1000") permit (principal, action, resource);')
    with process:
        yield Lessor(process, openbao, database)


@pytest.mark.real
@pytest.mark.parametrize("action", ["renew", "revoke"])
@pytest.mark.parametrize(
    "way",
    [
        *("url", "body", "post", "both", "own url, foreign body", "foreign url, own body", "slash", "encoded slash"),
        *("double slash", "dots", "prefix", "the role", "list", "object", "twice", "form", "upper", "other field"),
        *("query", "header", "legacy", "one letter less", "one letter more", "null", "padded", "same sub elsewhere"),
    ],
)
def test_up_11_a_lease_is_renewed_or_revoked_by_nobody_but_its_holder(lessor: Lessor, action: str, way: str) -> None:
    """Whoever asks, however the lease is named: OpenBao hears nothing of it, and the journal does."""
    lease, base = lessor.lease_id, f"/v1/sys/leases/{action}"
    own = lessor.ask("thief", "GET", "/v1/db/creds/app").json()["lease_id"] if "own" in way else ""
    mark = lessor.openbao.mark()
    asked: dict[str, tuple[str, str, Any]] = {
        "url": ("PUT", f"{base}/{lease}", None),
        "body": ("PUT", base, {"lease_id": lease}),
        "post": ("POST", base, {"lease_id": lease}),
        "both": ("PUT", f"{base}/{lease}", {"lease_id": lease}),
        "own url, foreign body": ("PUT", f"{base}/{own}", {"lease_id": lease}),
        "foreign url, own body": ("PUT", f"{base}/{lease}", {"lease_id": own}),
        "slash": ("PUT", f"{base}/{lease}/", None),
        "encoded slash": ("PUT", f"{base}/{lease.replace('/', '%2f')}", None),
        "double slash": ("PUT", base, {"lease_id": lease.replace("/", "//", 1)}),
        "dots": ("PUT", base, {"lease_id": lease.replace("creds/", "creds/../creds/")}),
        "prefix": ("PUT", base, {"lease_id": lease.rpartition("/")[0] + "/"}),
        "the role": ("PUT", base, {"lease_id": lease.rpartition("/")[0]}),
        "list": ("PUT", base, {"lease_id": [lease]}),
        "object": ("PUT", base, {"lease_id": {"0": lease}}),
        "other field": ("PUT", base, {"url_lease_id": lease}),
        "upper": ("PUT", base, {"lease_id": lease, "Lease_Id": "x"}),
        "query": ("PUT", f"{base}?lease_id={lease}", {}),
        "legacy": ("PUT", f"/v1/sys/{action}/{lease}", None),
        "one letter less": ("PUT", base, {"lease_id": lease[:-1]}),
        "one letter more": ("PUT", base, {"lease_id": lease + "x"}),
        "null": ("PUT", f"{base}/{lease}", {"lease_id": None}),
        "padded": ("PUT", base, {"lease_id": f" {lease}"}),
        "same sub elsewhere": ("PUT", base, {"lease_id": lease}),
    }
    if way in ("twice", "form", "header"):
        data, kind = {
            "twice": (b'{"lease_id":"x","lease_id":"%b"}' % lease.encode(), "application/json"),
            "form": (b"lease_id=" + lease.encode(), "application/x-www-form-urlencoded"),
            "header": (b'{"lease_id":"%b"}' % lease.encode(), "application/json"),
        }[way]
        token = lessor.sidecar.issuer.token(sub="thief")
        given = {"X-Vault-Token": token, "Content-Type": kind} | ({"X-HTTP-Method": "PUT"} if way == "header" else {})
        answer = requests.put(lessor.sidecar.url + base, data=data, headers=given, timeout=30)
    elif way == "same sub elsewhere":
        answer = lessor.ask("app", *asked[way], issuer=OTHER_ISSUER)
    else:
        answer = lessor.ask("thief", *asked[way])
    assert 400 <= answer.status_code < 500, answer.text
    if way in ("url", "body", "post", "both", "one letter less", "one letter more", "same sub elsewhere", "the role"):
        foreign = (answer.status_code, answer.json()["code"], answer.json()["errors"])
        unknown = lessor.ask("thief", "PUT", base, {"lease_id": "db/creds/app/" + "x" * 24})
        assert foreign == (unknown.status_code, unknown.json()["code"], unknown.json()["errors"])
        assert foreign[:2] == (403, "OPERATION_FORBIDDEN")
    assert [request["path"] for request in lessor.openbao.requests(since=mark) if "lease" in request["path"]] == []
    assert lessor.lives


@pytest.mark.real
def test_up_11_a_refused_attempt_at_a_lease_is_recorded_with_whose_secret_it_is(lessor: Lessor) -> None:
    lessor.ask("thief", "PUT", f"/v1/sys/leases/revoke/{lessor.lease_id}")
    lessor.ask("app", "PUT", f"/v1/sys/leases/renew/{lessor.lease_id}", {"increment": 60})
    records = lessor.sidecar.records()
    denied = next(r for r in reversed(records) if r["event"] == "SECRET_DENY")
    renewed = records[-1]
    assert (denied["operation"], denied["code"]) == ("lease.revoke", "OPERATION_FORBIDDEN")
    assert denied["subject"]["sub"] == "thief"
    assert denied["lease_ref"] == renewed["lease_ref"] is not None
    assert denied["resource_ref"] == renewed["resource_ref"] is not None


@pytest.mark.real
def test_up_11_an_answer_with_a_lease_tells_nothing_of_the_token_it_was_made_under(lessor: Lessor) -> None:
    answer = lessor.ask("app", "GET", "/v1/db/creds/app")
    assert answer.json().keys() >= {"lease_id", "lease_duration", "renewable", "data"}
    assert (answer.json()["auth"], answer.json()["wrap_info"]) == (None, None)
    accessors = lessor.openbao.root().list("auth/token/accessors")["data"]["keys"]
    for canary in (lessor.openbao.root_token, *accessors):
        assert canary not in answer.text
