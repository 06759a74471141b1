"""Commands that look at secrets and give no value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sidecar.terminal import printing
from sidecar.terminal.exits import Ended, Exit
from sidecar.terminal.group import Json, Whole, app, run, said

if TYPE_CHECKING:
    from sidecar.terminal.connection import Connection

_MOST_PAGES: Final = 10_000
_PAGE: Final = 1000
Limit = Annotated[int, typer.Option("--limit", help="So many at most; 0: all.", min=0)]


async def _pages(connection: Connection, path: str, query: dict[str, str], limit: int) -> dict[str, Any]:
    """All pages, or as many as the limit needs. A server that never comes to an end is left."""
    items: list[Any] = []
    cursor, seen = "", set[str]()
    for _ in range(_MOST_PAGES):
        size = min(_PAGE, limit - len(items)) if limit else _PAGE
        asked = query | {"limit": str(size)} | ({"cursor": cursor} if cursor else {})
        answer = await connection.ask("GET", path, asked)
        if len(answer["items"]) > size:
            raise TypeError("more than was asked for")
        items += answer["items"]
        following = answer["next"]
        if following is None or (limit and len(items) >= limit):
            return {"items": items, "next": following}
        if not isinstance(following, str) or following in seen:
            break
        cursor = following
        seen.add(cursor)
    raise Ended(Exit.FAILED, "the listing comes to no end")


def _uris(answer: Any) -> None:
    printing.show_lines(str(item["uri"]) for item in answer["items"])


@app.command()
def ls(
    ctx: typer.Context,
    prefix: Annotated[str, typer.Argument(help="How their URIs begin: openbao+kv2://secret/app/")],
    limit: Limit = 0,
    json: Json = False,
) -> None:
    """List the secrets below a prefix that you may know of, one URI a line."""
    run(_pages(ctx.obj, "/metadata", {"prefix": prefix}, limit), _uris, json=json)


@app.command()
def search(
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(help="Part of a path, in any case.")],
    prefix: Annotated[str, typer.Option(help="Only below this; everywhere where not given.")] = "",
    limit: Limit = 0,
    json: Json = False,
) -> None:
    """Search secrets by name, one URI a line."""
    query = {"q": text} | ({"prefix": prefix} if prefix else {})
    run(_pages(ctx.obj, "/search", query, limit), _uris, json=json)


@app.command()
def keys(ctx: typer.Context, uri: Whole, json: Json = False) -> None:
    """List the keys of a secret, without their values."""
    run(ctx.obj.ask("GET", "/keys", {"uri": uri}), lambda answer: printing.show_lines(answer["keys"]), json=json)


@app.command()
def info(ctx: typer.Context, uri: Whole, json: Json = False) -> None:
    """Show what is known of a secret beside its values: owner, who made it and when, its version."""
    names = ("uri", "owner", "created_by", "created_at", "current_version", "custom_metadata")
    run(ctx.obj.ask("GET", "/metadata/detail", {"uri": uri}), said(*names), json=json)


@app.command()
def versions(ctx: typer.Context, uri: Whole, json: Json = False) -> None:
    """List a secret's versions: number, when it was made, and what became of it."""

    def show(answer: Any) -> None:
        for each in answer["versions"]:
            fate = "destroyed" if each["destroyed"] else f"deleted {each['deleted_at']}" if each["deleted_at"] else ""
            printing.show_lines([f"{each['version']}  {each['created_at']}  {fate}".rstrip()])

    run(ctx.obj.ask("GET", "/versions", {"uri": uri}), show, json=json)
