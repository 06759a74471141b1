"""Every recorded request is refused, or it is named as what OpenBao did with it."""

from __future__ import annotations

from collections import Counter
from typing import Final
from urllib.parse import parse_qsl, unquote

import orjson
import pytest

from sidecar.door.head import Head
from sidecar.errors import Refused
from sidecar.surface.mounts import MountTable
from sidecar.surface.operation import LocalAnswer, Operation
from sidecar.surface.vault_api import VaultApi
from tests.surface.asking import MOUNTS
from tests.surface.corpus import CASES, Case

# As the recorded OpenBao was seeded: no database, and totp is there but has no table.
RECORDED: Final = [mount for mount in MOUNTS if mount.engine != "database"]
TABLE: Final = MountTable(RECORDED, [mount.name for mount in RECORDED])
API: Final = VaultApi(lambda: TABLE)

AUDITED: Final = {
    "GET": {"read"},
    "LIST": {"list"},
    "POST": {"update", "create"},
    "PATCH": {"patch"},
    "DELETE": {"delete"},
}
# OpenBao refuses this Host; here the caller stage does, which looks at it before the surface.
HOST_REFUSED: Final = {"frame-114"}
# Versions sent as `"1,2"` and as `1` go on as a list of numbers.
REWRITTEN: Final = {"plain-kv2-036", "body-181"}


def _named(read: tuple[Head, bytes] | None) -> Operation | LocalAnswer | Refused | None:
    """What the surface makes of it; None where the door lets nothing through."""
    if read is None:
        return None
    head, body = read
    try:
        route = API.route(head)
        if isinstance(route, LocalAnswer):
            return route
        return route.operation(body)
    except Refused as refused:
        return refused


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_recorded_request_is_refused_or_named_as_what_openbao_did(case: Case) -> None:
    named = _named(case.read())
    if not isinstance(named, Operation) or case.id in HOST_REFUSED:
        assert not isinstance(named, Refused) or 400 <= named.status < 500
        return
    request, upstream = case.request, named.upstream
    assert request is not None, "OpenBao refused it before its audit"
    assert request["operation"] in AUDITED[upstream.method]
    assert request["path"] == unquote(upstream.path.removeprefix("/v1/"))
    assert request["namespace"] == (f"{upstream.namespace}/" if upstream.namespace else "")
    sent = orjson.loads(upstream.body) if upstream.body else dict(parse_qsl(upstream.query))
    assert (request["data"] or {}) == sent or case.id in REWRITTEN


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_recorded_request_that_the_door_would_refuse_is_at_worst_refused_here_too(case: Case) -> None:
    named = _named(case.split())
    assert not isinstance(named, Refused) or 400 <= named.status < 500


def test_the_corpus_shows_operations_and_refusals_of_many_kinds() -> None:
    """Guards the two tests above against a surface that refuses everything."""
    names: Counter[str] = Counter()
    for case in CASES:
        named = _named(case.read())
        if isinstance(named, Operation):
            names[named.name] += 1
    assert len(names) >= 28
    assert names["kv2.read"] >= 90
