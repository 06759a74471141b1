"""The mediation proof on requests that nobody wrote down: a seeded series of the generator's, compared entry by entry.

`make fuzz` runs further series for as long as one asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.differential.comparison import Comparison
from tests.differential.desk import Desk, open_desk
from tests.differential.fuzz import report
from tests.differential.generator import FURTHER, UNNAMED, Generator
from tests.differential.tricks import FRAMING, PARTS
from tests.support.tokens import Issuer

SEED = 20_261
CASES = 2_000


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("generated")
    with open_desk(folder, issuer, further=FURTHER, unnamed=UNNAMED) as opened:
        yield opened


@pytest.mark.real
def test_every_generated_request_is_refused_or_executed_exactly_as_authorised_and_recorded(desk: Desk) -> None:
    generator = Generator(SEED, desk.token)
    statuses: Counter[int] = Counter()
    executed = refused = 0
    reports: list[str] = []
    with closing(Comparison(desk)) as comparison:
        for number in range(CASES):
            case = generator.case(number)
            outcome = comparison.check(case)
            statuses.update(outcome.statuses)
            executed += bool(outcome.executed)
            refused += not outcome.executed
            if outcome.differences:
                reports.append(report(SEED, case, outcome))
    print(f"{executed} executed exactly as authorised, {refused} refused; statuses {dict(sorted(statuses.items()))}")
    assert not reports, "\n".join(reports[:10])
    assert executed > CASES * 0.4
    assert refused > CASES * 0.2
    assert desk.sidecar.verify() == 0


def test_the_same_seed_and_number_give_the_same_request_and_another_seed_another() -> None:
    first, again, other = Generator(1, "token"), Generator(1, "token"), Generator(2, "token")
    series = [first.case(number) for number in range(200)]
    assert [again.case(number) for number in reversed(range(200))] == series[::-1]
    assert [other.case(number) for number in range(200)] != series


def test_every_trick_is_played() -> None:
    generator = Generator(SEED, "token")
    played = {name for number in range(CASES) for name in generator.case(number).tricks}
    assert played == {trick.__name__ for trick, _ in PARTS} | {trick.__name__ for trick, _ in FRAMING}
