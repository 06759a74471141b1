"""The control plane follows a standby's redirect to a configured node, and takes the token nowhere else."""

from __future__ import annotations

import pytest

from sidecar.caller.identity import Credential
from sidecar.config import Upstream
from sidecar.upstream.control import ControlError, ControlPlane
from sidecar.upstream.target import redirected
from tests.upstream.raw_server import Exchange, RawServer, answer

TOKEN = Credential("s.controlplanetoken")


async def _leader(exchange: Exchange) -> None:
    await exchange.send(answer(b'{"data": {"ttl": 60}}', 200, "Content-Type: application/json"))


@pytest.mark.parametrize("configured", [True, False])
async def test_a_look_up_goes_to_the_leader_where_it_is_configured(configured: bool) -> None:
    """hvac itself follows nothing."""
    async with RawServer(_leader) as leader:

        async def script(exchange: Exchange) -> None:
            where = f"{leader.address}/v1/auth/token/lookup-self"
            await exchange.send(answer(b"", 307, f"Location: {where}"))

        async with RawServer(script) as standby:
            nodes = [leader.address] if configured else []
            control = ControlPlane(Upstream(address=standby.address, cluster_addresses=nodes))
            try:
                if configured:
                    found = await control.call(lambda client: client.auth.token.lookup_self(), TOKEN)
                    assert found["data"]["ttl"] == 60
                    assert leader.exchanges[0].headers["x-vault-token"] == TOKEN.reveal()
                else:
                    with pytest.raises(ControlError):
                        await control.call(lambda client: client.auth.token.lookup_self()["data"], TOKEN)
                    assert leader.exchanges == []
            finally:
                control.close()


@pytest.mark.parametrize("status", [200, 301, 302, 303, 300, 304])
def test_only_307_and_308_say_that_nothing_was_executed(status: int) -> None:
    """RFC 9110, section 15.4: the others may change the method."""
    node = "https://bao-1:8200"
    assert redirected(frozenset({node}), status, f"{node}/v1/secret/data/a", "/v1/secret/data/a", "") is None
    assert redirected(frozenset({node}), 307, f"{node}/v1/secret/data/a", "/v1/secret/data/a", "") == node
