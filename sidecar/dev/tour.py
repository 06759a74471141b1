"""`sidecar dev tour`: the whole world, tried once. Each step says what it did, what must come of it, and what came.

The steps (`steps.py`) use what applications use: hvac, unmodified, with DPoP added through its requests session or
with a client certificate; the audit is read with the `sidecar audit` commands.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import requests
from hvac.exceptions import VaultError
from rich.markup import escape
from rich.table import Table

from sidecar.dev.evidence import UnexpectedError
from sidecar.dev.files import Layout
from sidecar.dev.steps import Step, Tour
from sidecar.dev.up import Speaker, with_world
from sidecar.dev.world import PortWishes, World

INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step gave."""

    step: Step
    got: str
    ok: bool


def run(*, keep: bool) -> int:
    """Runs the tour in a world of its own. Returns 0 only if each step gave what it must."""
    speaker = Speaker()
    folder = Path(tempfile.mkdtemp(prefix="openbao-sidecar-tour-"))
    layout = Layout.of(folder)

    async def inside(world: World) -> int:
        tour, outcomes = Tour(world.state, layout), []
        for step in tour.steps():
            speaker(f"{step.name}: {step.what} …")
            outcomes.append(await asyncio.to_thread(take, step))
        show(speaker, outcomes)
        return 0 if all(outcome.ok for outcome in outcomes) else 1

    code = 1
    try:
        code = asyncio.run(with_world(layout, PortWishes(), speaker, inside, after_signal=INTERRUPTED))
    finally:
        if keep or code not in (0, INTERRUPTED):
            speaker(f"the world's folder is kept: {folder}")
        else:
            shutil.rmtree(folder)
    return code


def take(step: Step) -> Outcome:
    """Does one step. Whatever it raises for a reason outside this program counts as not held."""
    try:
        return Outcome(step, step.act(), ok=True)
    except UnexpectedError as unexpected:
        return Outcome(step, str(unexpected), ok=False)
    except (
        VaultError,
        requests.RequestException,
        subprocess.SubprocessError,
        OSError,
        LookupError,
        TypeError,
    ) as error:
        # A step that fails in any other way has failed too, and the ones after it are still worth seeing.
        return Outcome(step, f"{type(error).__name__}: {error}", ok=False)


def show(speaker: Speaker, outcomes: list[Outcome]) -> None:
    """A table for a person; one line per step where nobody watches."""
    held = sum(outcome.ok for outcome in outcomes)
    if speaker.console.is_terminal:
        table = Table("", "step", "what was done", "must give", "gave", header_style="bold", title="The tour")
        for outcome in outcomes:
            mark = "[green]✓[/]" if outcome.ok else "[bold red]✗[/]"
            table.add_row(
                mark, outcome.step.name, *map(escape, (outcome.step.what, outcome.step.expected, outcome.got))
            )
        speaker.console.print(table)
    else:
        for outcome in outcomes:
            step, mark = outcome.step, "✓" if outcome.ok else "✗"
            speaker(f"{mark} {step.name}: {step.what}. must give: {step.expected}. gave: {outcome.got}")
    speaker(f"{held} of {len(outcomes)} steps gave what they must.")
