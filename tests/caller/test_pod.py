"""The pod itself as the caller: who may be it, whom its token names, and what becomes of it when the file changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.caller.identity import Binding, BindingKind
from sidecar.door.head import Head, Peer
from sidecar.errors import Code
from tests.support.certificates import Authority
from tests.support.desk import Desk, open_desk
from tests.support.tokens import Issuer

CLUSTER = "https://kubernetes.default.svc.cluster.local"
SUBJECT = "system:serviceaccount:shop:app"
LOOPBACK = Peer("tcp", is_local=True)
SOCKET = Peer("unix", uid=1000, is_local=True)


class Pod:
    """A desk in a pod, and the file that the kubelet renews."""

    def __init__(self, desk: Desk, cluster: Issuer, token_file: Path) -> None:
        self.desk, self.cluster, self.token_file = desk, cluster, token_file

    def renew(self, **claims: Any) -> str:
        """The kubelet writes another token, and a look at the file is due."""
        token = self.cluster.service_account_token(**claims)
        self.write(token)
        return token

    def write(self, text: str) -> None:
        """Something else stands in the file, as a mounted volume changes: behind the same path."""
        aside = self.token_file.with_suffix(".aside")
        aside.write_text(text)
        aside.rename(self.token_file)
        self.desk.clock.advance(1)

    def head(self, token: str | None = None, **headers: str) -> Head:
        """What a Vault client without a token sends."""
        return self.desk.head(token, **({"x_vault_request": "true"} | headers))

    async def code(self, head: Head | None = None, peer: Peer = LOOPBACK) -> Code:
        """Why a request of the pod's own is refused."""
        return await self.desk.code(head or self.head(), peer)

    @property
    def problem(self) -> str:
        """What readiness warns of."""
        return self.desk.authenticator.problems.get("identity.pod.token_file", "")


@asynccontextmanager
async def open_pod(folder: Path, **sections: Any) -> AsyncIterator[Pod]:
    cluster, token_file = Issuer(CLUSTER), folder / "token"
    identity: dict[str, Any] = {"pod": {"enabled": True, "token_file": str(token_file)}}
    sections["identity"] = identity | sections.get("identity", {})
    token_file.write_text(cluster.service_account_token() + "\n")
    issuers = [cluster.configured(folder / "cluster.json", kind="kubernetes")]
    async with open_desk(folder, issuers=issuers, **sections) as desk:
        cluster.now = desk.clock.wall
        yield Pod(desk, cluster, token_file)


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    async with open_pod(tmp_path) as pod:
        yield pod


async def test_a_request_without_credentials_from_inside_is_the_pods(pod: Pod) -> None:
    caller = await pod.desk.ask(pod.head(), LOOPBACK)
    assert (caller.subject, caller.issuer) == (SUBJECT, CLUSTER)
    assert caller.binding == Binding(BindingKind.POD)
    assert caller.token is not None
    assert caller.token.reveal() == pod.token_file.read_text().strip()
    assert dict(caller.attributes)["kubernetes_namespace"] == "shop"
    assert pod.problem == ""


async def test_by_unix_socket_the_record_says_which_user_it_was(pod: Pod) -> None:
    assert (await pod.desk.ask(pod.head(), SOCKET)).binding == Binding(BindingKind.POD, "uid:1000")


@pytest.mark.parametrize(
    "peer",
    [
        Peer("tcp"),
        Peer("tls"),
        Peer("tls", Authority().issue().der, None, True),
        Peer("unix", None, 1000),
    ],
    ids=["from elsewhere", "from elsewhere by TLS", "with a client certificate", "a socket that is not local"],
)
async def test_nobody_else_is_the_pod(pod: Pod, peer: Peer) -> None:
    assert await pod.code(peer=peer) is Code.TOKEN_MISSING


async def test_a_request_that_carries_any_credential_is_never_the_pod(pod: Pod) -> None:
    desk = pod.desk
    for head, code in (
        (pod.head("root"), Code.TOKEN_INVALID),
        (pod.head(""), Code.TOKEN_MISSING),
        (pod.head(desk.token()), Code.BINDING_MISMATCH),
        (pod.head(desk.token(cnf=None)), Code.BINDING_REQUIRED),
        (pod.head(pod.token_file.read_text().strip()), Code.BINDING_REQUIRED),
        (pod.head(authorization=""), Code.TOKEN_MISSING),
        (pod.head(authorization="Basic eDp5"), Code.TOKEN_MISSING),
        (pod.head(authorization="Bearer"), Code.TOKEN_MISSING),
        (pod.head(dpop=desk.proof(desk.token())), Code.TOKEN_MISSING),
        (pod.head(dpop=""), Code.TOKEN_MISSING),
    ):
        assert await pod.code(head) is code
        assert await pod.code(head, SOCKET) is code


@pytest.mark.parametrize("value", ["", "false", "True", "1", "true, true", "true "])
async def test_without_the_header_that_no_web_page_sends_it_is_not_the_pod(pod: Pod, value: str) -> None:
    assert await pod.code(pod.head(x_vault_request=value)) is Code.TOKEN_MISSING
    assert await pod.code(pod.desk.head()) is Code.TOKEN_MISSING


@pytest.mark.parametrize("name", ["forwarded", "via", "x_forwarded_for", "x_forwarded_client_cert", "x_real_ip"])
async def test_what_a_proxy_passed_on_is_not_the_pods(pod: Pod, name: str) -> None:
    """A mesh's proxy hands the requests of other pods to loopback."""
    assert await pod.code(pod.head(**{name: "10.0.0.9"})) is Code.TOKEN_MISSING


async def test_a_browser_is_not_the_pod(pod: Pod) -> None:
    head = pod.head(origin="http://127.0.0.1:8200")
    with pytest.raises(Exception, match="OPERATION_FORBIDDEN"):
        pod.desk.authenticator.check_origin(head)


async def test_where_it_is_not_enabled_nobody_is_the_pod(tmp_path: Path) -> None:
    async with open_pod(tmp_path, identity={"pod": {"enabled": False}}) as pod:
        assert await pod.code() is Code.TOKEN_MISSING


# -- the file --------------------------------------------------------------------------------------------------------
async def test_a_renewed_token_is_taken_up(pod: Pod) -> None:
    await pod.desk.ask(pod.head(), LOOPBACK)
    token = pod.renew(jti="renewed")
    caller = await pod.desk.ask(pod.head(), LOOPBACK)
    assert caller.token is not None
    assert caller.token.reveal() == token
    assert caller.token_jti == "renewed"


async def test_a_token_that_is_not_renewed_expires_and_readiness_says_so(pod: Pod) -> None:
    await pod.desk.ask(pod.head(), LOOPBACK)
    pod.desk.clock.advance(3601)
    assert pod.problem == "the token has expired and was not renewed"
    assert await pod.code() is Code.TOKEN_EXPIRED
    assert pod.problem
    pod.renew()
    await pod.desk.ask(pod.head(), LOOPBACK)
    assert pod.problem == ""


async def test_a_token_that_was_taken_away_is_not_used_on(pod: Pod) -> None:
    await pod.desk.ask(pod.head(), LOOPBACK)
    pod.token_file.unlink()
    pod.desk.clock.advance(1)
    refused = await pod.desk.refused(pod.head(), LOOPBACK)
    assert refused.code is Code.TOKEN_MISSING
    assert str(pod.token_file) not in refused.message
    assert "cannot be read" in pod.problem
    pod.renew()
    await pod.desk.ask(pod.head(), LOOPBACK)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", Code.TOKEN_MISSING),
        ("\n", Code.TOKEN_MISSING),
        ("é", Code.TOKEN_MISSING),
        ("x", Code.TOKEN_INVALID),
        ("x" * 100_000, Code.TOKEN_INVALID),
        ("a b", Code.TOKEN_INVALID),
    ],
)
async def test_a_file_that_holds_no_token(pod: Pod, text: str, code: Code) -> None:
    pod.write(text)
    assert await pod.code() is code
    assert pod.problem


async def test_the_token_is_verified_like_any_other(pod: Pod) -> None:
    stranger = Issuer(CLUSTER)
    cases = {
        stranger.service_account_token(): Code.TOKEN_INVALID,
        pod.cluster.service_account_token(aud=["other"]): Code.AUDIENCE_MISMATCH,
        pod.cluster.service_account_token(iss="https://other.example"): Code.TOKEN_INVALID,
        pod.cluster.service_account_token(cnf={"jkt": pod.desk.key.jkt}): Code.BINDING_MISMATCH,
    }
    for token, code in cases.items():
        pod.write(token)
        assert await pod.code() is code
    assert pod.desk.authenticator.ready


async def test_readiness_tells_of_an_unusable_token_before_the_first_request(tmp_path: Path) -> None:
    async with open_pod(tmp_path, identity={"audience": "another"}) as pod:
        assert pod.problem == "the access token is not for this audience"


# -- replay ----------------------------------------------------------------------------------------------------------
async def test_the_pods_token_follows_the_policy_of_bound_tokens(tmp_path: Path) -> None:
    async with open_pod(tmp_path, anti_replay={"bound_token": "single_use", "unbound_token": "off"}) as pod:
        for _ in range(2):
            await pod.desk.authenticator.authenticate(pod.head(), LOOPBACK, spend=False)
        await pod.desk.ask(pod.head(), LOOPBACK)
        assert await pod.code() is Code.TOKEN_REPLAYED
        pod.renew()
        await pod.desk.ask(pod.head(), LOOPBACK)
        pod.renew(jti=None)
        assert await pod.code() is Code.TOKEN_INVALID


async def test_where_identity_is_not_required_a_request_without_the_header_is_anonymous(tmp_path: Path) -> None:
    async with open_pod(tmp_path, environment="dev", identity={"required": False}) as pod:
        assert (await pod.desk.ask(pod.desk.head(), LOOPBACK)).subject == "anonymous"
