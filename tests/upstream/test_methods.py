"""Each way in, against the real OpenBao; kubernetes against the real API server's TokenReview."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.config import Upstream
from sidecar.errors import Code
from sidecar.upstream.client import UpstreamClient, UpstreamFailure
from sidecar.upstream.login import BrokerLogin
from tests.real.kube import BUILD_TIMEOUT, KubeApi
from tests.real.openbao import OpenBao, TlsListener
from tests.support.tokens import Issuer
from tests.support.waiting import until
from tests.upstream.certificates import Authority, Pair
from tests.upstream.raw_server import permit
from tests.upstream.test_login import RULES, paths

pytestmark = pytest.mark.real

READ = permit("/v1/secret/data/app/db")
Start = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def _policy(openbao: OpenBao) -> None:
    openbao.policy("sidecar", RULES)


async def reads(login: BrokerLogin, address: str, tls: dict[str, Any] | None = None) -> bool:
    """Whether a secret can be read by this login."""
    client = UpstreamClient(Upstream.model_validate({"address": address, "tls": tls or {}}), login)
    try:
        received = await client.forward(READ)
        await received.read(10_000)
        return received.status == 200
    finally:
        await client.close()


# -- jwt -----------------------------------------------------------------------------------------------------------
def _jwt(server: OpenBao, folder: Path, name: str, issuer: Issuer, **options: Any) -> dict[str, Any]:
    server.jwt_auth(issuer.public_pem, f"jwt-{name}")
    server.jwt_role("sidecar", "sidecar", mount=f"jwt-{name}", **options)
    file = folder / "jwt"
    file.write_text(issuer.token(sub="the-sidecar") + "\n")
    return {"method": "jwt", "role": "sidecar", "jwt_file": file, "mount": f"jwt-{name}"}


async def test_a_jwt_from_a_file_logs_in(openbao: OpenBao, log_in: Start, tmp_path: Path) -> None:
    login = await log_in(openbao.address, _jwt(openbao, tmp_path, "plain", Issuer()))
    assert (login.ready, login.problem) == (True, "")
    assert await reads(login, openbao.address)


async def test_the_jwt_is_read_again_at_each_login_and_its_rotation_alone_makes_none(
    openbao: OpenBao, log_in: Start, tmp_path: Path
) -> None:
    issuer = Issuer()
    auth = _jwt(openbao, tmp_path, "rotated", issuer, token_ttl="2s", token_max_ttl="2s")
    mark = openbao.mark()
    login = await log_in(openbao.address, auth)
    rotated = issuer.token(sub="the-sidecar-later")
    auth["jwt_file"].write_text(rotated)
    first = login.token().reveal()
    await until(lambda: login.ready and login.token().reveal() != first, "it logged in anew", 20)
    used = [r["data"]["jwt"] for r in openbao.requests(since=mark) if r["path"] == "auth/jwt-rotated/login"]
    assert used[-1] == rotated

    steady = await log_in(openbao.address, _jwt(openbao, tmp_path, "steady", issuer, token_period="1h"))
    mark = openbao.mark()
    auth["jwt_file"].write_text(issuer.token())
    assert steady._method.signature() is None  # nothing looks at the file until a login is due
    await steady._tend()
    assert paths(openbao, mark) == []


@pytest.mark.parametrize(
    ("claims", "said"),
    [({"aud": "elsewhere"}, "audience"), ({"exp": 1_000_000_000}, "expired")],
)
async def test_a_jwt_that_openbao_does_not_take_is_said_without_quoting_it(
    claims: dict[str, Any], said: str, openbao: OpenBao, log_in: Start, tmp_path: Path
) -> None:
    issuer = Issuer()
    auth = _jwt(openbao, tmp_path, f"bad-{said}", issuer)
    jwt = issuer.token(**claims)
    auth["jwt_file"].write_text(jwt)
    login = await log_in(openbao.address, auth)
    assert not login.ready
    assert said in login.problem
    assert jwt not in login.problem


async def test_a_jwt_file_that_comes_later_is_found(openbao: OpenBao, log_in: Start, tmp_path: Path) -> None:
    auth = _jwt(openbao, tmp_path, "later", Issuer(), token_period="1h")
    jwt = auth["jwt_file"].read_text()
    auth["jwt_file"].unlink()
    login = await log_in(openbao.address, auth)
    assert "No such file" in login.problem
    auth["jwt_file"].write_text(jwt)
    await until(lambda: login.ready, "it logged in", 20)


# -- kubernetes ----------------------------------------------------------------------------------------------------
@pytest.mark.timeout(BUILD_TIMEOUT)
async def test_a_pods_projected_token_logs_in_and_openbao_asks_the_api_server(
    openbao: OpenBao, kube: KubeApi, log_in: Start, tmp_path: Path
) -> None:
    for account in ("openbao-reviewer", "app", "somebody-else"):
        kube.service_account(account)
    kube.may_review_tokens("openbao-reviewer")
    openbao.enable_auth("kubernetes")
    root = openbao.root()
    root.write_data(
        "auth/kubernetes/config",
        data={
            "kubernetes_host": kube.address,
            "kubernetes_ca_cert": kube.ca_file.read_text(),
            "token_reviewer_jwt": kube.token("openbao-reviewer"),
        },
    )
    root.write_data(
        "auth/kubernetes/role/app",
        data={
            "bound_service_account_names": ["app"],
            "bound_service_account_namespaces": ["default"],
            "audience": "openbao",
            "token_policies": ["sidecar"],
            "token_no_default_policy": True,
            "token_period": "1h",
        },
    )
    file = tmp_path / "token"
    auth = {"method": "kubernetes", "role": "app", "jwt_file": file}
    file.write_text(kube.token("app", audiences=["openbao"]))
    login = await log_in(openbao.address, auth)
    assert (login.ready, login.problem) == (True, "")
    assert await reads(login, openbao.address)
    for refused in (kube.token("somebody-else", audiences=["openbao"]), kube.token("app", audiences=["elsewhere"])):
        file.write_text(refused)
        other = await log_in(openbao.address, auth)
        assert not other.ready
        assert refused not in other.problem


# -- cert ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def with_certificates(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An OpenBao that asks for client certificates, and the authority of both sides."""
    folder = tmp_path_factory.mktemp("cert")
    authority = Authority(folder, "authority")
    pair = authority.issue("server")
    with OpenBao(folder / "openbao", tls=TlsListener(pair.cert, pair.key, client_ca=authority.file)) as server:
        server.put("app/db", {"password": "canary"})
        server.policy("sidecar", RULES)
        server.enable_auth("cert")
        server.root().auth.cert.create_ca_certificate_role(
            "sidecar",
            certificate_file=str(authority.file),
            allowed_common_names="sidecar",
            token_policies=["sidecar"],
            token_period="1h",
        )
        yield server, authority


def _tls(authority: Authority, pair: Pair) -> dict[str, Any]:
    return {"ca_file": authority.file, "cert_file": pair.cert, "key_file": pair.key}


@pytest.mark.parametrize("role", ["sidecar", None])
async def test_the_client_certificate_logs_in(
    role: str | None, with_certificates: tuple[OpenBao, Authority], log_in: Start
) -> None:
    server, authority = with_certificates
    tls = _tls(authority, authority.issue("sidecar", client=True))
    login = await log_in(server.tls_address, {"method": "cert", "role": role}, tls=tls)
    assert (login.ready, login.problem) == (True, "")
    assert await reads(login, server.tls_address, tls)


async def test_another_certificate_does_not_log_in(with_certificates: tuple[OpenBao, Authority], log_in: Start) -> None:
    server, authority = with_certificates
    tls = _tls(authority, authority.issue("stranger", client=True))
    login = await log_in(server.tls_address, {"method": "cert", "role": "sidecar"}, tls=tls)
    assert not login.ready
    assert "certificate" in login.problem


async def test_a_rotated_client_certificate_is_used_for_both_planes_and_logs_in_anew(
    with_certificates: tuple[OpenBao, Authority], log_in: Start
) -> None:
    server, authority = with_certificates
    pair = authority.issue("sidecar", client=True)
    tls = _tls(authority, pair)
    login = await log_in(server.tls_address, {"method": "cert", "role": "sidecar"}, tls=tls)
    client = UpstreamClient(Upstream.model_validate({"address": server.tls_address, "tls": tls}), login)
    try:
        assert (await client.forward(READ)).status == 200
        first = login.token().reveal()
        pair.key.write_text("half written")
        for reload in (client.reload, login.reload):
            with pytest.raises(OSError):
                reload()
        assert (await client.forward(READ)).status == 200
        authority.issue("sidecar", client=True)  # in the same files
        client.reload()
        login.reload()
        await until(lambda: login.ready and login.token().reveal() != first, "it logged in with the new one", 20)
        assert (await client.forward(READ)).status == 200
        pair.cert.write_bytes(authority.issue("expired", client=True, expired=True).cert.read_bytes())
        pair.key.write_bytes((pair.key.parent / "expired-key.pem").read_bytes())
        client.reload()
        with pytest.raises(UpstreamFailure) as failed:  # no connection from before is used with what is in force now
            await client.forward(READ)
        assert failed.value.code in (Code.UPSTREAM_UNAVAILABLE, Code.UPSTREAM_ERROR)
    finally:
        await client.close()
