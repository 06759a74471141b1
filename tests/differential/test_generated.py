"""The mediation proof on requests that nobody wrote down: a seeded series of the generator's, compared entry by entry.

`make fuzz` runs further series for as long as one asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from random import Random
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import pytest

from tests.differential.comparison import Comparison
from tests.differential.desk import Desk, executed, open_desk
from tests.differential.draft import Draft
from tests.differential.fuzz import report
from tests.differential.generator import FURTHER, UNNAMED, Case, Generator
from tests.differential.tricks import FRAMING, PARTS
from tests.real.sidecar import SidecarProcess
from tests.support.tokens import Issuer

SEED = 20_261
CASES = 3_000
_READ = b"GET /v1/secret/data/app/db?version=1 HTTP/1.1\r\nHost: bao.test:8200\r\nX-Vault-Token: %b\r\n\r\n"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("generated")
    with open_desk(folder, issuer, further=FURTHER, unnamed=UNNAMED) as opened:
        yield opened


@pytest.mark.real
@pytest.mark.timeout(600)  # three thousand exchanges, one after the other
def test_every_generated_request_is_refused_or_executed_exactly_as_authorised_and_recorded(desk: Desk) -> None:
    generator = Generator(SEED, desk.token)
    statuses: Counter[int] = Counter()
    carried_out = refused = 0
    reports: list[str] = []
    with closing(Comparison(desk)) as comparison:
        for number in range(CASES):
            case = generator.case(number)
            outcome = comparison.check(case)
            statuses.update(outcome.statuses)
            carried_out += bool(outcome.executed)
            refused += not outcome.executed
            if outcome.differences:
                reports.append(report(SEED, case, outcome))
    print(f"{carried_out} executed exactly as authorised, {refused} refused; statuses {dict(sorted(statuses.items()))}")
    assert not reports, "\n".join(reports[:10])
    assert carried_out > CASES * 0.4
    assert refused > CASES * 0.2
    assert desk.sidecar.verify() == 0


@pytest.mark.real
@pytest.mark.parametrize(
    "twist",
    [
        {"path": "secret/data/private/key"},
        {"namespace": {"id": "x", "path": "ns2/"}},
        {"operation": "delete"},
        {"data": {"version": "7"}},
    ],
    ids=lambda twist: next(iter(twist)),
)
def test_an_entry_of_openbao_that_is_not_what_was_authorised_is_a_difference(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, twist: dict[str, Any]
) -> None:
    case = Case(0, _READ % desk.token.encode(), ())
    with closing(Comparison(desk)) as comparison:
        agreed = comparison.check(case)
        monkeypatch.setattr("tests.differential.comparison.executed", lambda given: _twisted(given, twist))
        differing = comparison.check(case)
    assert (agreed.executed, agreed.differences) == (1, [])
    assert len(differing.differences) == 1


@pytest.mark.real
def test_a_request_that_openbao_executed_past_the_sidecar_is_a_difference(desk: Desk) -> None:
    past = SimpleNamespace(port=desk.lab.port, spool=desk.sidecar.spool)
    case = Case(0, _READ % b"root-token-corpus", ())
    with closing(Comparison(Desk(desk.lab, cast("SidecarProcess", past), desk.token))) as comparison:
        outcome = comparison.check(case)
    assert outcome.executed == 1
    assert any("recorded []" in difference for difference in outcome.differences)


@pytest.mark.real
def test_what_is_no_pchar_has_openbaos_reading_raw_and_encoded_or_is_refused(desk: Desk) -> None:
    """In a name and in a mount's name it is taken either way, and is one secret; elsewhere it is refused."""
    post = b'POST %b HTTP/1.1\r\nHost: bao.test:8200\r\nX-Vault-Token: %b\r\nContent-Length: 16\r\n\r\n{"data":{"a":1}}'
    get = b"GET %b HTTP/1.1\r\nHost: bao.test:8200\r\nX-Vault-Token: %b\r\n%b\r\n"
    token, every = desk.token.encode(), b'"<[^{|}]>`'
    encoded = quote(every, safe="").encode()
    differences: list[str] = []

    with closing(Comparison(desk)) as comparison:

        def statuses(raw: bytes) -> list[int]:
            outcome = comparison.check(Case(0, raw, ("odd bytes",)))
            differences.extend(f"{raw!r}: {difference}" for difference in outcome.differences)
            return outcome.statuses

        for number, octet in enumerate(every):
            raw, spelt = bytes([octet]), b"%%%02X" % octet
            name = b"/v1/%b/data/raw-%d%b"
            assert statuses(post % (name % (every, number, raw), token)) == [200], raw
            for mount, key in ((every, spelt), (encoded, raw), (encoded, spelt.lower())):
                assert statuses(get % (name % (mount, number, key), token, b"")) == [200], raw
            for target, header in (
                (b"/v1/ns1%b/secret/data/app/db" % raw, b""),
                (b"/v1/secret/data/app/db", b"X-Vault-Namespace: ns1%b\r\n" % raw),
                (b"/v1/secret/data/app/db?version=1%b" % raw, b""),
                (b"/v1/secret/data/app/db?ver%bsion=1" % raw, b""),
                (b"/v1/secret/metadata/?list=true&after=%b" % raw, b""),
            ):
                assert statuses(get % (target, token, header)) == [400], raw
    assert differences == []


def _twisted(entries: list[dict[str, Any]], twist: dict[str, Any]) -> list[dict[str, Any]]:
    return [request | twist for request in executed(entries)]


def test_the_same_seed_and_number_give_the_same_request_and_another_seed_another() -> None:
    first, again, other = Generator(1, "token"), Generator(1, "token"), Generator(2, "token")
    series = [first.case(number) for number in range(200)]
    assert [again.case(number) for number in reversed(range(200))] == series[::-1]
    assert [other.case(number) for number in range(200)] != series


@pytest.mark.parametrize("target", [b"", b"*", b"/", b"v1", b"/v1", b"/v1/", b"/v1/?x", b"?"])
def test_every_trick_finds_something_to_do_with_what_another_has_left(target: bytes) -> None:
    for trick, _ in PARTS:
        for seed in range(40):
            trick(Random(seed), Draft(b"GET", target, [(b"X-Vault-Token", b"token")]))


def test_every_trick_is_played() -> None:
    generator = Generator(SEED, "token")
    played = {name for number in range(CASES) for name in generator.case(number).tricks}
    assert played == {trick.__name__ for trick, _ in PARTS} | {trick.__name__ for trick, _ in FRAMING} | {"transplant"}
