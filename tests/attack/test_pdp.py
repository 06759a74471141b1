"""THREATS, group PDP, as far as decisions meet them. The PDPs of these tests are real Cedar and real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.config.tree import Authzen
from sidecar.decision import decide
from sidecar.decision.authzen import AuthzenPdp
from sidecar.decision.cedar import PolicyError
from sidecar.decision.decide import Decider
from sidecar.decision.pdp import PdpAccess, PdpOutage
from sidecar.decision.permit import Permit, Question, Verdict
from sidecar.errors import Code, Refused
from sidecar.surface.operation import Purpose
from sidecar.surface.secret_uri import SecretUri
from sidecar.upstream.pool import exact_session
from tests.decision.awkward import ANSWERS, OF_ONE, PERMIT, Answer, give, permitted_beside
from tests.decision.making import caller, cedar, cedar_folder, clock, config, operation, permitting, question
from tests.decision.pdp_server import Exchange, PdpServer

ANY = "permit (principal, action, resource);"

REMOTE = config(authorization={"pdp": "authzen", "authzen": {"timeout_ms": 500}})


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with exact_session() as opened:
        yield opened


Ask = Callable[..., Awaitable[Permit | Refused]]


async def outcome(decider: Decider, subject: str = "app", **what: Any) -> Permit | Refused:
    try:
        return await decider.permit(operation(**what), caller(subject), correlation_id="c-1234567")
    except Refused as refused:
        return refused


async def answered_with(raw: bytes, session: aiohttp.ClientSession) -> Permit | Refused:
    """What a decider makes of these bytes as the body of an answer."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(raw)

    async with PdpServer(script) as server:
        pdp = AuthzenPdp(Authzen.model_validate({"url": server.url, "timeout_ms": 500}), session)
        return await outcome(Decider(REMOTE, pdp, clock()))


# -- 01, 02: not exactly a permit ------------------------------------------------------------------------------------
async def test_pdp_01_the_one_answer_that_permits_does(session: aiohttp.ClientSession) -> None:
    assert isinstance(await answered_with(b'{"decision": true}', session), Permit)


LIKE_TRUE = [one for one in OF_ONE if one["name"].startswith("decision ")]
ALL_ELSE = [one for one in OF_ONE if one not in LIKE_TRUE]


async def refusal(answer: Answer, session: aiohttp.ClientSession) -> Refused:
    """What a decider makes of a recorded answer. Where a redirect of the PDP's leads there would be a permit."""

    async def script(exchange: Exchange) -> None:
        await give(PERMIT if exchange.target == "/permit" else answer, exchange)

    async with PdpServer(script) as server:
        pdp = AuthzenPdp(Authzen.model_validate({"url": server.url, "timeout_ms": 500}), session)
        decider = Decider(REMOTE, pdp, clock())
        refused = await outcome(decider)
        assert server.exchanges, "it was never asked"
    assert isinstance(refused, Refused)
    assert refused.code is not Code.PDP_UNAVAILABLE or int(refused.headers["Retry-After"]) >= 1
    assert decider.standing.cache_sizes()["grants"] == 0
    return refused


@pytest.mark.parametrize("answer", ALL_ELSE, ids=[one["name"] for one in ALL_ELSE])
async def test_pdp_01_whatever_is_not_exactly_a_permit_denies(answer: Answer, session: aiohttp.ClientSession) -> None:
    assert (await refusal(answer, session)).code in answer["codes"]


@pytest.mark.parametrize("answer", LIKE_TRUE, ids=[one["name"] for one in LIKE_TRUE])
async def test_pdp_02_what_is_only_like_true_denies(answer: Answer, session: aiohttp.ClientSession) -> None:
    assert (await refusal(answer, session)).code is Code.PDP_UNAVAILABLE


@pytest.mark.parametrize("together", [True, False], ids=["in the same packet", "later"])
async def test_pdp_01_an_answer_that_nobody_asked_for_decides_nothing(
    together: bool, session: aiohttp.ClientSession
) -> None:
    """On a kept connection it would be taken for the next caller's."""
    came = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.json["subject"]["id"] != "first":
            await exchange.answer({"decision": False})
            return
        deny, permit = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            for body in (b'{"decision": false}', b'{"decision": true}')
        )
        await exchange.send(deny + permit if together else deny)
        await came.wait()
        if not together:
            await exchange.send(permit)

    async with PdpServer(script) as server:
        pdp = AuthzenPdp(Authzen.model_validate({"url": server.url, "timeout_ms": 2000}), session)
        decider = Decider(REMOTE, pdp, clock())
        assert isinstance(await outcome(decider, "first"), Refused)
        came.set()
        await asyncio.sleep(0.05)  # long enough for the permit to come, where it is not there yet
        refused = await outcome(decider, "second")
        assert isinstance(refused, Refused)
        assert refused.code is Code.POLICY_DENIED
        assert [exchange.json["subject"]["id"] for exchange in server.exchanges] == ["first", "second"]


# -- 03: obligations -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "obligations",
    [
        '{"watermark": true}',
        '[{"id": "a", "watermark": {}}]',
        '[{"id": "a", "usage_grant": {"max_uses": 1}}, {"id": "a", "usage_grant": {"max_uses": 9}}]',
        '[{"id": "a", "release": {"fragments": ["x"]}}, {"id": "b", "release": {"fragments": ["y"]}}]',
        '[[{"id": "a", "usage_grant": {"max_uses": 1}}]]',
        '{"max_uses": 1e30}',
        '{"max_uses": 100000000000000000000}',
        '{"max_uses": -1}',
        '{"max_uses": 0}',
        '{"ttl_seconds": 0.5}',
        '{"max_uses": true}',
        '{"max_uses": "5"}',
        '{"max_uses": null}',
        "null",
        '[{"id": "a", "notification": {"to": "owner"}}]',
    ],
)
async def test_pdp_03_an_obligation_that_cannot_be_met_turns_the_permit_into_a_deny(
    obligations: str, session: aiohttp.ClientSession
) -> None:
    raw = f'{{"decision": true, "context": {{"obligations": {obligations}}}}}'.encode()
    refused = await answered_with(raw, session)
    assert isinstance(refused, Refused)
    assert refused.code is Code.OBLIGATION_UNMET


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1" * 5000])
async def test_pdp_03_what_is_no_json_number_is_no_answer(number: str, session: aiohttp.ClientSession) -> None:
    raw = f'{{"decision": true, "context": {{"obligations": {{"max_uses": {number}}}}}}}'.encode()
    refused = await answered_with(raw, session)
    assert isinstance(refused, Refused)
    assert refused.code is Code.PDP_UNAVAILABLE


async def test_pdp_03_a_member_that_stands_twice_in_an_obligation_is_no_answer(session: aiohttp.ClientSession) -> None:
    raw = b'{"decision": true, "context": {"obligations": {"max_uses": 1, "max_uses": 9}}}'
    assert isinstance(await answered_with(raw, session), Refused)


# -- 04: many answers at once ----------------------------------------------------------------------------------------
BATCHES = [one for one in ANSWERS if "batch" in one]


@pytest.mark.parametrize("answer", BATCHES, ids=[one["name"] for one in BATCHES])
async def test_pdp_04_answers_that_are_short_long_shifted_or_odd_permit_nobody(
    answer: Answer, session: aiohttp.ClientSession
) -> None:
    """Nothing but its place ties an answer to its question: where one is odd, none can be believed."""
    async with PdpServer(partial(give, answer)) as server:
        pdp = AuthzenPdp(Authzen.model_validate({"url": server.url, "timeout_ms": 500}), session)
        try:
            answers, _ = await PdpAccess(pdp, clock(), 0.5).ask_many([question(caller(name)) for name in "abc"])
        except Refused as refused:
            assert refused.code is Code.PDP_UNAVAILABLE  # noqa: PT017 - each with its own answer is right too
            assert not isinstance(refused, PdpOutage)  # noqa: PT017 - nor is it a reason to close the way for all
            answers = []
    permitted = {index for index, one in enumerate(answers) if isinstance(one, Verdict) and one.permit}
    assert permitted == permitted_beside(answer)


async def test_pdp_04_each_answer_is_its_own_questions(session: aiohttp.ClientSession) -> None:
    """Whatever the order in which they are asked."""

    async def script(exchange: Exchange) -> None:
        asked = [exchange.json | one for one in exchange.json["evaluations"]]
        await exchange.answer({"evaluations": [{"decision": one["subject"]["id"] in "bd"} for one in asked]})

    async with PdpServer(script) as server:
        access = PdpAccess(
            AuthzenPdp(Authzen.model_validate({"url": server.url, "timeout_ms": 500}), session), clock(), 0.5
        )
        for order in ("abcde", "edcba", "bbaad"):
            answers, _ = await access.ask_many([question(caller(name)) for name in order])
            assert [isinstance(one, Verdict) and one.permit for one in answers] == [name in "bd" for name in order]


# -- 05: slow or flapping --------------------------------------------------------------------------------------------
async def test_pdp_05_while_the_pdp_is_away_grants_go_on_and_nobody_waits(session: aiohttp.ClientSession) -> None:
    away = False

    async def script(exchange: Exchange) -> None:
        if away:
            await exchange.answer(b"", "503 Away")
        else:
            await exchange.answer({"decision": True, "context": {"obligations": {"max_uses": 1000}}})

    async with PdpServer(script) as server:
        time = clock()
        pdp = AuthzenPdp(Authzen.model_validate({"url": server.url, "timeout_ms": 500}), session)
        decider = Decider(REMOTE, pdp, time)
        assert isinstance(await outcome(decider), Permit)
        away = True
        for index in range(300):
            refused = await outcome(decider, f"new{index}")
            assert isinstance(refused, Refused)
            assert refused.code is Code.PDP_UNAVAILABLE
            assert refused.status == 503
            assert int(refused.headers["Retry-After"]) >= 1
            live = await outcome(decider)
            assert isinstance(live, Permit)
            assert live.grant.hit
        assert len(server.exchanges) < 10
        assert not decider.available
        away = False
        time.advance(20)
        assert isinstance(await outcome(decider, "new"), Permit)
        assert decider.available


async def test_pdp_05_recovery_begins_with_one_question(session: aiohttp.ClientSession) -> None:
    """500 callers wait for a PDP that comes back: one probe goes first, then each is asked for once."""
    away = True

    async def script(exchange: Exchange) -> None:
        await exchange.answer({"decision": True}, "503 Away" if away else "200 OK")

    async with PdpServer(script) as server:
        time = clock()
        pdp = AuthzenPdp(Authzen.model_validate({"url": server.url, "timeout_ms": 10_000}), session)
        decider = Decider(config(authorization={"pdp": "authzen", "authzen": {"timeout_ms": 10_000}}), pdp, time)
        for index in range(50):
            await outcome(decider, f"app{index}")
        asked = len(server.exchanges)
        time.advance(20)
        probes = await asyncio.gather(*(outcome(decider, f"app{index}") for index in range(500)))
        assert len(server.exchanges) == asked + 1
        assert all(isinstance(probe, Refused) for probe in probes)
        away = False
        time.advance(20)
        back = await asyncio.gather(*(outcome(decider, f"app{index}") for index in range(500)))
        assert sum(isinstance(one, Permit) for one in back) >= 1
        again = await asyncio.gather(*(outcome(decider, f"other{index}") for index in range(500)))
        assert all(isinstance(one, Permit) for one in again)
        assert len(server.exchanges) <= asked + 2 + 1000


# -- 06: forged attributes -------------------------------------------------------------------------------------------
async def test_pdp_06_a_permit_to_write_is_none_to_become_the_owner(tmp_path: Path) -> None:
    """`owner_update` is a purpose of its own: who may write a secret cannot make itself its owner by that."""
    folder = cedar_folder(
        tmp_path / "p",
        'permit (principal, action == Action::"write", resource);',
        'permit (principal, action, resource) when { resource has owner && resource.owner == "app" };',
    )
    decider = Decider(config(), cedar(folder), clock())
    assert isinstance(await outcome(decider, name="kv2.metadata_write", purpose=Purpose.WRITE), Permit)
    refused = await outcome(decider, name="kv2.metadata_write", purpose=Purpose.OWNER_UPDATE)
    assert isinstance(refused, Refused)
    assert refused.code is Code.POLICY_DENIED


async def test_pdp_06_metadata_speaks_only_for_the_attributes_it_may(tmp_path: Path) -> None:
    folder = cedar_folder(
        tmp_path / "p",
        "permit (principal, action, resource)"
        ' when { resource.tenant_id != "acme" || resource.mount != "secret" || context.operation != "kv2.read" };',
    )
    decider = Decider(config(), cedar(folder), clock())

    async def forged() -> dict[str, str]:
        return {"tenant_id": "evil", "mount": "evil", "operation": "evil", "cnf_binding": "evil"}

    with pytest.raises(Refused) as refused:
        await decider.permit(operation(), caller(), correlation_id="c-1234567", attributes=forged)
    assert refused.value.code is Code.POLICY_DENIED


OWNERS = "forbid (principal, action, resource) unless { resource has owner && resource.owner == principal.sub };"
UNGUARDED = "forbid (principal, action, resource) when { resource.owner != principal.sub };"
OTHERS = "forbid (principal, action, resource) when { resource has owner && resource.owner != principal.sub };"
CLOSED = "forbid (principal, action, resource) when { context has attributes_unavailable };"


@pytest.mark.parametrize(
    ("forbids", "permits_when"),
    [
        ([OWNERS], {"owned"}),
        ([UNGUARDED], {"owned"}),
        ([OTHERS], {"owned", "nobody's", "unavailable"}),  # as `has` is written: who wants it closed says so
        ([OTHERS, CLOSED], {"owned", "nobody's"}),
    ],
    ids=["unless", "unguarded", "when", "when-closed"],
)
async def test_pdp_06_attributes_that_are_not_to_be_had_are_absent(
    tmp_path: Path, forbids: list[str], permits_when: set[str]
) -> None:
    """A `forbid` that fails to evaluate for want of an attribute denies; `unless { … has … }` does too."""

    async def nothing_there() -> dict[str, str]:
        return {}

    async def others() -> dict[str, str]:
        return {"owner": "somebody"}

    async def own() -> dict[str, str]:
        return {"owner": "app"}

    async def unavailable() -> dict[str, str]:
        raise Refused(Code.UPSTREAM_UNAVAILABLE, "away")

    sources = {"owned": own, "another's": others, "nobody's": nothing_there, "unavailable": unavailable}
    permitted = set()
    for name, source in sources.items():
        decider = Decider(config(), cedar(cedar_folder(tmp_path / "p", ANY, *forbids)), clock())
        try:
            await decider.permit(operation(), caller(), correlation_id="c-1234567", attributes=source)
            permitted.add(name)
        except Refused as refused:
            assert refused.code is Code.POLICY_DENIED  # noqa: PT017 - a permit is right for others
    assert permitted == permits_when


@pytest.mark.parametrize("name", ["__entity", "__extn", "owner\n", "resource_attributes", "operation", "cnf_binding"])
async def test_pdp_06_custom_metadata_of_a_strange_name_speak_for_nothing_else(tmp_path: Path, name: str) -> None:
    """Whoever may write metadata chooses their names: none of them becomes another part of the question."""
    folder = cedar_folder(
        tmp_path / "p",
        'permit (principal, action, resource) when { resource has owner || context.operation != "kv2.read" '
        '|| context.cnf_binding.kind != "dpop" || context.resource_attributes has owner };',
    )

    async def forged() -> dict[str, str]:
        return {name: "app"}

    with pytest.raises(Refused) as refused:
        await Decider(config(), cedar(folder), clock()).permit(
            operation(), caller(), correlation_id="c-1234567", attributes=forged
        )
    assert refused.value.code is Code.POLICY_DENIED


# -- 07: Cedar -------------------------------------------------------------------------------------------------------
async def test_pdp_07_a_file_half_written_at_any_byte_decides_nothing_new(tmp_path: Path) -> None:
    """Cut off inside a policy it is refused. (Cut off between two it is another set: ConfigMaps are exchanged whole,
    and the watch waits until a folder holds still.)"""
    text = f'@id("all") {ANY}\n@id("frozen") forbid (principal, action, resource in Folder::"secret/app");\n'
    folder = cedar_folder(tmp_path / "p", text)
    pdp = cedar(folder)
    for cut in range(len(text)):
        if text[:cut].rstrip().endswith(";"):
            continue
        cedar_folder(folder, text[:cut])
        with pytest.raises(PolicyError, match=r"0\.cedar:|no policy"):
            await pdp.reload()
    refused = await outcome(Decider(config(), pdp, clock()))
    assert isinstance(refused, Refused)
    assert refused.code is Code.POLICY_DENIED


async def test_pdp_07_a_folder_exchanged_100_times_under_load_never_decides_by_a_mixture(tmp_path: Path) -> None:
    """Two sets: under each exactly one of two subjects may read. A mixture would permit both, or neither."""
    sets = [
        {
            "a": f'@id("{name}") permit (principal == Workload::"{name}", action, resource);',
            "b": f'@id("not-{other}") forbid (principal == Workload::"{other}", action, resource);',
        }
        for name, other in (("even", "odd"), ("odd", "even"))
    ]
    volume = tmp_path / "volume"
    volume.mkdir()
    for index, files in enumerate(sets):
        cedar_folder(volume / f"..{index}", **files)
    for name in sets[0]:
        (volume / f"{name}.cedar").symlink_to(f"..data/{name}.cedar")

    def swap(index: int) -> None:
        (volume / "..tmp").symlink_to(f"..{index % 2}")
        (volume / "..tmp").rename(volume / "..data")

    swap(0)
    pdp = cedar(volume)
    decider = Decider(config(grants={"negative_ttl_seconds": 0}), pdp, clock())
    pdp.on_change = decider.drop_all
    versions = {pdp.policy_version: "even"}
    wrong: list[object] = []
    decided = 0
    running = True

    async def load() -> None:
        nonlocal decided
        while running:
            for subject in ("even", "odd"):
                before = pdp.policy_version
                result = await outcome(decider, subject)
                decided += 1
                if isinstance(result, Permit):
                    if versions[result.verdict.policy_version] != subject:
                        wrong.append(result)
                    result.reservation.commit()
                elif before == pdp.policy_version and versions[before] == subject:
                    wrong.append(result)
            await asyncio.sleep(0)

    swap(1)
    await pdp.reload()
    versions[pdp.policy_version] = "odd"
    workers = [asyncio.create_task(load()) for _ in range(2)]
    for index in range(100):
        swap(index)
        await pdp.reload()
    running = False
    await asyncio.gather(*workers)
    assert wrong == []
    assert decided > 200


@pytest.mark.parametrize(
    "schema", ["entity Workload; action read appliesTo { principal: Workload, resource: X };", "{}"]
)
def test_pdp_07_a_wrong_schema_is_refused(tmp_path: Path, schema: str) -> None:
    path = tmp_path / "schema"
    path.write_text(schema)
    with pytest.raises(PolicyError):
        cedar(cedar_folder(tmp_path / "p", ANY), schema=path)


async def test_pdp_07_a_forbid_that_fails_to_evaluate_is_not_passed_over(tmp_path: Path) -> None:
    folder = cedar_folder(tmp_path / "p", ANY, 'forbid (principal, action, resource) when { resource.owner == "app" };')
    refused = await outcome(Decider(config(), cedar(folder), clock()))
    assert isinstance(refused, Refused)
    assert refused.code is Code.POLICY_DENIED


@pytest.mark.parametrize(
    "policy",
    [
        f'@ttl_seconds("-1") {ANY}',
        f'@ttl_seconds("1e9") {ANY}',
        f'@max_uses("one") {ANY}',
        f"@max_uses {ANY}",
        f'@max_uses_per_day("1") {ANY}',
        '@max_uses("1") forbid (principal, action, resource);',
    ],
)
def test_pdp_07_an_annotation_that_obliges_to_nothing_is_refused(tmp_path: Path, policy: str) -> None:
    with pytest.raises(PolicyError, match=r"0\.cedar:1: "):
        cedar(cedar_folder(tmp_path / "p", policy))


async def test_pdp_07_a_missing_annotation_means_the_configured_terms(tmp_path: Path) -> None:
    decider = Decider(config(grants={"default_max_uses": 2}), cedar(cedar_folder(tmp_path / "p", ANY)), clock())
    permit = await outcome(decider)
    assert isinstance(permit, Permit)
    assert permit.grant.uses_left == 1


@pytest.mark.parametrize("version", [None, 1, 7])
@pytest.mark.parametrize("key", [None, "password", "a/b"])
async def test_pdp_07_a_forbid_on_a_secret_is_dodged_by_no_version_and_no_key(
    tmp_path: Path, version: int | None, key: str | None
) -> None:
    folder = cedar_folder(
        tmp_path / "p", ANY, 'forbid (principal, action, resource in Secret::"openbao+kv2://secret/app/db");'
    )
    uri = SecretUri("openbao", "kv2", "secret", ("app", "db"), key, version)
    refused = await outcome(Decider(config(), cedar(folder), clock()), uri=uri)
    assert isinstance(refused, Refused)
    assert refused.code is Code.POLICY_DENIED


async def test_pdp_05_who_waits_behind_others_for_the_same_decision_waits_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A permit for one use each, from a PDP that answers just in time: the questions follow one another."""
    monkeypatch.setattr(decide, "LONGEST_WAIT_SECONDS", 0.3)
    slow = permitting(max_uses=1)
    decider = Decider(config(anti_replay={"bound_token": "off"}), slow, clock())

    async def late(_question: Question) -> Verdict:
        await asyncio.sleep(0.1)
        return Verdict(True)

    monkeypatch.setattr(slow, "evaluate", late)
    async with asyncio.timeout(60):
        found = await asyncio.gather(*(outcome(decider) for _ in range(100)))
    refused = [one for one in found if isinstance(one, Refused)]
    assert {one.code for one in refused} == {Code.PDP_UNAVAILABLE}
    assert 0 < len(refused) < 100
    for one in found:
        if isinstance(one, Permit):
            one.reservation.refund()
    assert sum(grant["uses_reserved"] for grant in decider.standing.snapshot()) == 0
