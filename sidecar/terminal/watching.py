"""Commands that tell what happens, or happened lately: records of the audit, without paths."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sidecar.terminal import printing
from sidecar.terminal.exits import Ended, Exit, of_code
from sidecar.terminal.group import Json, app, run

if TYPE_CHECKING:
    from sidecar.terminal.connection import Connection

_COLUMNS: Final = ("ts", "event", "phase", "code", "purpose", "operation")
_ENDS: Final = {"REVOKED": Exit.DENIED, "TOO_SLOW": Exit.UNAVAILABLE, "DRAINING": Exit.UNAVAILABLE}
"""How a stream's last event says why it ends, beside the API's codes."""


def _line(record: Any) -> str:
    columns = [*(record[name] for name in _COLUMNS), record["subject"]["sub"], record["resource_ref"]]
    return "  ".join("-" if column in (None, "") else str(column) for column in columns)


@app.command()
def audit(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(help="So many at most.", min=1, max=1000)] = 100,
    json: Json = False,
) -> None:
    """Show the newest records of what was asked for, the newest first, as far as the sidecar keeps and shows them.

    A secret is named by its reference: `sidecar audit ref URI` makes it. The audit itself is `sidecar audit cat`.
    """
    work = ctx.obj.ask("GET", "/audit", {"limit": str(limit)})
    run(work, lambda answer: printing.show_lines([_line(record) for record in answer["items"]]), json=json)


@app.command()
def events(
    ctx: typer.Context,
    last: Annotated[
        str | None, typer.Option("--last-event-id", help="Go on after the event of this id, where it is kept still.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Each record as one line of JSON.")] = False,
) -> None:
    """Show what is asked for, as it happens, one line each, until interrupted."""
    run(_follow(ctx.obj, last, json=json), lambda _nothing: None, json=False)


async def _follow(connection: Connection, last: str | None, *, json: bool) -> None:
    headers = {"Last-Event-ID": last} if last is not None else {}
    try:
        async for name, record in connection.follow("/events", **headers):
            if name == "end":
                reason = str(record["reason"])
                raise Ended(_ENDS.get(reason) or of_code(reason), f"{reason}: {record['message']}")
            if name == "lost":
                printing.show_error(str(record["message"]))
            elif not printing.show_lines([printing.as_json(record) if json else _line(record)]):
                return
    except asyncio.CancelledError:  # interrupted, which is how one ends it
        return
