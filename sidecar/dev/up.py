"""`sidecar dev up`: the world in the foreground, until a signal or the end of one of its children."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from sidecar.dev.certificates import Certificates
from sidecar.dev.files import DEFAULT_FOLDER, FolderError, Layout
from sidecar.dev.openbao import MissingBinaryError, find_binary
from sidecar.dev.ports import NoFreePortError
from sidecar.dev.processes import ChildFailed
from sidecar.dev.state import WorldState
from sidecar.dev.world import PortWishes, World

OPERATIONS_PORT: Final = 9102
_CURL: Final = r"curl -sS -i -w '\n'"


class _Console(Console):
    """A console whose reader may leave (`sidecar dev up | head`) without taking the program along."""

    def on_broken_pipe(self) -> None:
        """rich would exit here."""
        _discard_output()


class Speaker:
    """Lines for a person. A terminal that went away must not keep the world from stopping."""

    def __init__(self) -> None:
        self.console: Console = _Console()

    def __call__(self, line: str = "", style: str | None = None) -> None:
        """Prints one line, never wrapped: what is meant for pasting must stay whole."""
        try:
            self.console.print(line, style=style, soft_wrap=True, markup=False, highlight=False, emoji=False)
        except OSError:  # EIO: the terminal was closed
            _discard_output()

    def failed(self, failed: ChildFailed) -> None:
        """Says which child failed, with its last words."""
        self(f"{failed}; the last lines of {failed.log}:", style="bold red")
        for line in failed.tail.splitlines():
            self(f"  │ {line}")


def _discard_output() -> None:
    """From now on standard output goes nowhere, what is buffered for it included."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


async def with_world(
    layout: Layout,
    wishes: PortWishes,
    speaker: Speaker,
    inside: Callable[[World], Awaitable[int]],
    *,
    after_signal: int,
) -> int:
    """Runs `inside` with a world around it and returns its exit status; 1 where the world failed.

    SIGINT, SIGTERM and SIGHUP stop everything in order; a second one stops it at once.
    """
    world = World(layout, wishes, speaker)
    signals: list[signal.Signals] = []

    async def work() -> int:
        async with world:
            doing = asyncio.ensure_future(inside(world))
            ending = asyncio.ensure_future(world.first_end())
            try:
                await asyncio.wait((doing, ending), return_when=asyncio.FIRST_COMPLETED)
                if ending.done():
                    raise ending.result()
                return doing.result()
            except BaseException:
                speaker("stopping …")
                raise
            finally:
                doing.cancel()
                ending.cancel()
                await asyncio.wait((doing, ending))

    def on_signal(number: signal.Signals) -> None:
        signals.append(number)
        if len(signals) == 1:
            working.cancel()
        else:
            world.kill()

    loop = asyncio.get_running_loop()
    working = asyncio.ensure_future(work())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
            continue  # nohup: the person wants it to go on
        loop.add_signal_handler(number, on_signal, number)
    try:
        return await working
    except asyncio.CancelledError:
        if not signals:
            raise
        speaker(f"stopped on {signals[0].name}; nothing of it runs any more")
        return after_signal
    except ChildFailed as failed:
        speaker.failed(failed)
        return 1
    except (FolderError, MissingBinaryError, NoFreePortError) as error:
        speaker(str(error), style="bold red")
        return 1


def run(folder: Path, port: int) -> int:
    """The command. Returns the exit status: 0 after a signal, 1 where the world could not start or a child ended."""
    speaker = Speaker()

    async def inside(world: World) -> int:
        for line in summary(world.state, folder):
            speaker(line, style="bold" if line and not line.startswith(" ") else None)
        await asyncio.Event().wait()
        return 0

    wishes = PortWishes(sidecar=port, operations=OPERATIONS_PORT if port else 0)
    return asyncio.run(with_world(Layout.of(folder), wishes, speaker, inside, after_signal=0))


# -- what to say ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Paste:
    """Something to try: a title that says what must come of it, and commands for bash."""

    title: str
    commands: tuple[str, ...]


def summary(state: WorldState, folder: Path) -> list[str]:
    """What runs where, and what to paste; commands are the lines indented by four."""
    layout = Layout.of(folder)
    plain, mtls = state.sidecar, state.sidecar_mtls

    sidecar = _sidecar()

    def row(name: str, where: str, *more: str) -> str:
        return "  ".join((f"  {name:<15}{where:<24}", *more)).rstrip()

    lines = [
        "",
        "The development world is up. It is for development only: its keys lie in plain files.",
        row("sidecar", plain.origin, f"operations {plain.operations}", f"log {_shown(plain.log)}"),
        row("sidecar mTLS", mtls.origin, f"operations {mtls.operations}", f"log {_shown(mtls.log)}"),
        row(
            "OpenBao",
            state.openbao.origin,
            f"root token {_shown(layout.root_token)}",
            f"log {_shown(state.openbao.log)}",
        ),
        row("issuer", state.issuer.origin, f"log {_shown(state.issuer.log)}"),
        row("policies", _shown(layout.policies), f"(after a change: {sidecar} dev reload{_dir_option(layout)})"),
        row("configuration", f"{_shown(plain.config)}, {_shown(mtls.config)}"),
        row("audit", f"{_shown(plain.spool)}, {_shown(mtls.spool)}"),
        "",
        "To paste into a second terminal (bash):",
        "",
        f"    cd {shlex.quote(str(Path.cwd()))}",
    ]
    for paste in pastes(state, folder):
        lines += ["", f"  {paste.title}", *(f"    {command}" for command in paste.commands)]
    return [*lines, "", "Ctrl-C stops everything."]


def pastes(state: WorldState, folder: Path) -> list[Paste]:
    """The commands, with paths as seen from here."""
    layout, tls = Layout.of(folder), Certificates.in_folder(Layout.of(folder).tls)
    sidecar = _sidecar()
    token = f"{sidecar} dev token{_dir_option(layout)}"
    secret = f"{state.sidecar.origin}/v1/secret/data/app/db"
    return [
        Paste("an allowed read: 200 and the secret", (f"U={secret}", f'{_CURL} -H @<({token} --url "$U") "$U"')),
        Paste(
            "the same by somebody without a policy: 403 POLICY_DENIED",
            (f"U={secret}", f'{_CURL} -H @<({token} --subject stranger --url "$U") "$U"'),
        ),
        Paste(
            "the same proof twice: 200, then 401 PROOF_REPLAYED",
            (
                f"U={secret}",
                f'H=$({token} --url "$U")',
                f'for n in 1 2; do {_CURL} -H @<(echo "$H") "$U"; done',
            ),
        ),
        Paste(
            "the bao command line over mutual TLS",
            (
                f"BAO_ADDR={state.sidecar_mtls.origin} BAO_CACERT={_shown(tls.ca)} \\",
                f"BAO_CLIENT_CERT={_shown(tls.client.cert)} BAO_CLIENT_KEY={_shown(tls.client.key)} \\",
                f"BAO_TOKEN=$({token} --mtls --raw) \\",
                f"{_bao()} kv get -mount=secret app/db",
            ),
        ),
        Paste(
            "what was written down of it all, as it happens",
            (f"{sidecar} audit cat --follow {_shown(state.sidecar.spool)} {_shown(state.sidecar_mtls.spool)}",),
        ),
        Paste("the tour: all this and more, checked", (f"{sidecar} dev tour",)),
    ]


def _sidecar() -> str:
    """How this program was called, so that it can be again."""
    program = Path(sys.argv[0])
    return _shown(program) if program.name == "sidecar" else f"{_shown(Path(sys.executable))} -m sidecar"


def _dir_option(layout: Layout) -> str:
    return "" if layout == Layout.of(DEFAULT_FOLDER) else f" --dir {_shown(layout.root)}"


def _bao() -> str:
    """`bao` beside this Python where there is one, else the binary itself."""
    beside = Path(sys.executable).with_name("bao")
    return _shown(beside if beside.exists() else find_binary())


def _shown(path: Path) -> str:
    """The path as a shell word, relative where it lies below the current folder."""
    here, absolute = Path.cwd(), Path.cwd() / path
    return shlex.quote(str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute))
