"""Commands that give a value, or change something."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from sidecar.terminal import printing
from sidecar.terminal.exits import Ended, Exit, of_status
from sidecar.terminal.group import Json, Uri, Whole, Yes, app, body_of, end, make_sure, once_headers, run, said
from sidecar.terminal.values import ON_THE_COMMAND_LINE, read_operations, read_value

Cas = Annotated[int | None, typer.Option("--cas", help="Only while the secret has this version; 0: not there.", min=0)]
AsJson = Annotated[bool, typer.Option("--as-json", help="The value that comes in is JSON, not text.")]
Exact = Annotated[bool, typer.Option("--exact", help="Keep the line end behind a single line.")]
Once = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key", help="Of your own, the same when you try again: what was done is not done twice."
    ),
]
Versions = Annotated[list[int], typer.Argument(help="Version numbers.", min=1)]
# Taken in only to be refused: see `values`.
Typed = Annotated[str | None, typer.Option("--value", "--password", hidden=True)]
TAKES_ANY: Final = {"allow_extra_args": True}


def _value(ctx: typer.Context, uri: str, typed: str | None, *, as_json: bool, exact: bool) -> bytes:
    """The value to be written, as JSON. A value on the command line ends the command before anything is read."""
    if ctx.args or typed is not None:
        end(Ended(Exit.USAGE, ON_THE_COMMAND_LINE))
    try:
        return read_value(of_key="#" in uri, as_json=as_json, exact=exact)
    except Ended as ended:
        end(ended)


@app.command()
def get(
    ctx: typer.Context,
    uri: Uri,
    version: Annotated[int | None, typer.Option(help="An earlier version.", min=1)] = None,
    json: Json = False,
) -> None:
    """Print a secret's value: one key's text as it is, a whole secret as a table on a terminal, as JSON in a pipe.

    In a pipe nothing is added, no line end either. On a terminal, control characters are written out.
    """
    query = {"uri": uri} | ({"version": str(version)} if version is not None else {})
    work = ctx.obj.ask("GET", "/value", query)
    run(work, lambda answer: printing.show_value(answer["value"]), json=json)


@app.command(context_settings=TAKES_ANY)
def put(
    ctx: typer.Context,
    uri: Uri,
    cas: Cas = None,
    as_json: AsJson = False,
    exact: Exact = False,
    json: Json = False,
    typed: Typed = None,
) -> None:
    """Write a key's value, or a whole secret (a JSON object), from standard input or a prompt.

    The line end behind a single line is left out, since echo put it there; several lines stay as they are.
    """
    value = _value(ctx, uri, typed, as_json=as_json, exact=exact)
    run(ctx.obj.ask("POST", "", None, body_of(value, uri=uri, cas=cas)), said("uri", "version"), json=json)


@app.command(context_settings=TAKES_ANY)
def rotate(
    ctx: typer.Context,
    uri: Uri,
    generate: Annotated[
        int | None, typer.Option(help="Have the sidecar make a value of so many characters.", min=8, max=1024)
    ] = None,
    alphabet: Annotated[str | None, typer.Option(help="The characters to make it of.")] = None,
    policy: Annotated[str | None, typer.Option(help="Have OpenBao make it by this password policy.")] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="The engine makes it itself: transit keys, static database roles.")
    ] = False,
    as_json: AsJson = False,
    exact: Exact = False,
    cas: Cas = None,
    once: Once = None,
    json: Json = False,
    typed: Typed = None,
) -> None:
    """Replace a value by a new version. With --generate or --policy the new value never passes this machine."""
    if alphabet is not None and generate is None:
        end(Ended(Exit.USAGE, "--alphabet goes with --generate"))
    if (generate is not None) + (policy is not None) + in_place > 1:
        end(Ended(Exit.USAGE, "choose one of --generate, --policy, --in-place"))
    if generate is not None or policy is not None or in_place:
        if ctx.args or typed is not None:
            end(Ended(Exit.USAGE, ON_THE_COMMAND_LINE))
        wanted = {"length": generate, "alphabet": alphabet, "policy": policy}
        made = {name: value for name, value in wanted.items() if value is not None}
        body = body_of(uri=uri, generate=made or None)
    else:
        body = body_of(_value(ctx, uri, typed, as_json=as_json, exact=exact), uri=uri)
    headers = once_headers(once) | ({"If-Match": f'"{cas}"'} if cas is not None else {})
    work = ctx.obj.ask("POST", "/rotate", None, body, **headers)
    run(work, said("uri", "version", "previous_version"), json=json)


@app.command()
def rm(
    ctx: typer.Context,
    uri: Uri,
    destroy: Annotated[bool, typer.Option("--destroy", help="All versions and the metadata, for good.")] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete the latest version, or one key; with --destroy everything, for good."""
    if destroy:
        make_sure(f"Destroy all of {uri}, for good?", yes=yes)
    query = {"uri": uri} | ({"destroy": "true"} if destroy else {})
    run(ctx.obj.ask("DELETE", "", query), said("uri", "deleted", "destroyed"), json=json)


@app.command()
def undelete(ctx: typer.Context, uri: Whole, numbers: Versions, json: Json = False) -> None:
    """Bring deleted versions back."""
    body = body_of(uri=uri, versions=numbers)
    run(ctx.obj.ask("POST", "/undelete", None, body), said("uri", "versions"), json=json)


@app.command()
def destroy(ctx: typer.Context, uri: Whole, numbers: Versions, yes: Yes = False, json: Json = False) -> None:
    """Destroy versions, for good."""
    make_sure(f"Destroy versions {', '.join(map(str, numbers))} of {uri}, for good?", yes=yes)
    body = body_of(uri=uri, versions=numbers)
    run(ctx.obj.ask("POST", "/destroy-versions", None, body), said("uri", "versions"), json=json)


From = Annotated[str, typer.Argument(metavar="FROM", help="A secret's URI, or one key's.")]
To = Annotated[str, typer.Argument(metavar="TO", help="Where to; a key goes to a key.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def _transfer(
    ctx: typer.Context, path: str, pair: tuple[str, str], overwrite: bool, once: str | None, json: bool
) -> None:
    body = body_of(fromUri=pair[0], toUri=pair[1], overwrite=overwrite)
    work = ctx.obj.ask("POST", path, None, body, **once_headers(once))
    run(work, said("fromUri", "toUri", "version"), json=json)


@app.command()
def cp(
    ctx: typer.Context, source: From, target: To, overwrite: Overwrite = False, once: Once = None, json: Json = False
) -> None:
    """Copy a secret or one key, across mounts and providers too; it does not pass this machine."""
    _transfer(ctx, "/copy", (source, target), overwrite, once, json)


@app.command()
def mv(
    ctx: typer.Context, source: From, target: To, overwrite: Overwrite = False, once: Once = None, json: Json = False
) -> None:
    """Move a secret or one key. Cut in between, it is in both places; the same --idempotency-key again finishes it."""
    _transfer(ctx, "/move", (source, target), overwrite, once, json)


@app.command(context_settings=TAKES_ANY)
def bulk(
    ctx: typer.Context,
    stop: Annotated[bool, typer.Option("--stop", help="Try nothing more once an operation failed.")] = False,
    once: Once = None,
    json: Json = False,
    typed: Typed = None,
) -> None:
    """Carry out several operations, a JSON list from standard input: set, delete, undelete, destroy, rotate.

    Each is answered by itself, one line each; the exit status is that of the first that failed.
    """
    if ctx.args or typed is not None:
        end(Ended(Exit.USAGE, ON_THE_COMMAND_LINE))
    try:
        operations = read_operations()
    except Ended as ended:
        end(ended)
    body = body_of(operations, of="operations", continueOnError=not stop)
    work = ctx.obj.ask("POST", "/bulk", None, body, **once_headers(once))
    run(work, _show_results, json=json, judge=_judge_results)


def _show_results(answer: Any) -> None:
    for each in answer["results"]:
        error = each.get("error")
        why = f"  {error['code']}: {error['message']}" if error is not None else ""
        printing.show_lines([f"{each['status']}  {each['op']}  {each['uri']}{why}"])


def _judge_results(answer: Any) -> None:
    failed = [each["status"] for each in answer["results"] if each.get("error") is not None]
    if failed:
        raise Ended(of_status(failed[0]), f"{len(failed)} of {len(answer['results'])} operations failed")


@app.command()
def owner(
    ctx: typer.Context, uri: Whole, who: Annotated[str, typer.Argument(metavar="OWNER")], json: Json = False
) -> None:
    """Set a secret's owner."""
    body = body_of(uri=uri, owner=who)
    run(ctx.obj.ask("POST", "/metadata/owner", None, body), said("uri", "owner"), json=json)
