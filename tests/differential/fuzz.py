"""`python -m tests.differential.fuzz --seconds N --seed S`: generated requests for as long as one asks.

Ends with 1 at the first difference and prints the request; `--seed S --first N --count 1` sends that one again.
"""

from __future__ import annotations

import argparse
import base64
import secrets
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from tests.differential.comparison import Comparison, Outcome
from tests.differential.desk import open_desk
from tests.differential.generator import FURTHER, UNNAMED, Case, Generator
from tests.support.tokens import Issuer

_PROGRESS_SECONDS: Final = 5.0
_TOKEN_SECONDS: Final = 100.0
"""How long one token is used: well below the 300 seconds that the issuer gives it."""


def main() -> int:
    """0 where no difference was found in that time, 1 at the first one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long")
    parser.add_argument("--seed", type=int, default=None, help="which series of requests; by chance where not given")
    parser.add_argument("--first", type=int, default=0, help="the number of the first request of the series")
    parser.add_argument("--count", type=int, default=None, help="how many requests at most")
    parser.add_argument("--keep-going", action="store_true", help="count the differences, and end with 1 at the end")
    options = parser.parse_args()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    found = number = executed = 0
    issuer = Issuer()
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-") as folder,
        open_desk(Path(folder), issuer, further=FURTHER, unnamed=UNNAMED) as desk,
        closing(Comparison(desk)) as comparison,
    ):
        generator = Generator(seed, desk.token)
        begun = shown = renewed = time.monotonic()
        while (now := time.monotonic()) - begun < options.seconds and number != options.count:
            if now - renewed >= _TOKEN_SECONDS:
                renewed, generator = now, Generator(seed, issuer.token(sub="fuzz"))
            case = generator.case(options.first + number)
            outcome = comparison.check(case)
            number += 1
            executed += outcome.executed
            if outcome.differences:
                found += 1
                print(report(seed, case, outcome), flush=True)
                if not options.keep_going:
                    break
            if now - shown >= _PROGRESS_SECONDS:
                shown = now
                print(f"seed {seed}: {number} requests, {executed} executed, {found} differences", flush=True)
    print(f"seed {seed}: {number} requests, {executed} executed, {found} differences")
    return 1 if found else 0


def report(seed: int, case: Case, outcome: Outcome) -> str:
    """A difference with all that it takes to see it again."""
    return "\n".join(
        (
            f"seed {seed}, request {case.number}, status {outcome.statuses}",
            f"  tricks: {', '.join(case.tricks) or 'none'}",
            *(f"  {difference}" for difference in outcome.differences),
            f"  half closed: {case.half_closed}",
            f"  {case.raw!r}",
            f"  {base64.b64encode(case.raw).decode()}",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
