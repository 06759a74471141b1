"""`sidecar dev …`. Each command imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidecar.dev.files import DEFAULT_FOLDER

app = typer.Typer(
    help="The development world: real OpenBao, an issuer, the sidecar, a tour. Never for production.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Folder = Annotated[Path, typer.Option("--dir", help="The world's folder: configuration, keys, logs, audit.")]


@app.command()
def up(
    folder: Folder = DEFAULT_FOLDER,
    port: Annotated[
        int,
        typer.Option(help="The sidecar's port; the next free one where it is taken. 0: any.", min=0, max=65_535),
    ] = 8200,
) -> None:
    """Start everything, say what runs where and what to try, and stay until Ctrl-C."""
    from sidecar.dev.up import run

    raise typer.Exit(run(folder, port))


@app.command()
def token(
    folder: Folder = DEFAULT_FOLDER,
    subject: Annotated[str, typer.Option(help="Who the token is for. The first policies know `app`.")] = "app",
    ttl: Annotated[int, typer.Option(help="Seconds until it expires.", min=1, max=86_400)] = 300,
    scope: Annotated[str | None, typer.Option(help="Scopes, space separated; all where not given.")] = None,
    url: Annotated[
        str | None, typer.Option(help="What the proof is for; the example secret on the sidecar where not given.")
    ] = None,
    method: Annotated[str, typer.Option(help="The method the proof is for.")] = "GET",
    nonce: Annotated[str | None, typer.Option(help="The sidecar's nonce; fetched from it where not given.")] = None,
    key: Annotated[
        Path | None, typer.Option(help="The DPoP key (PEM, P-256); one per subject is kept where not given.")
    ] = None,
    mtls: Annotated[bool, typer.Option("--mtls", help="Bind it to the client certificate; no proof.")] = False,
    unbound: Annotated[bool, typer.Option("--unbound", help="Bind it to nothing; no proof.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print the token alone.")] = False,
    curl: Annotated[bool, typer.Option("--curl", help="Print a curl command.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
    env: Annotated[
        bool, typer.Option("--env", help="Print the environment of `sidecar secret`, or of a Vault client.")
    ] = False,
) -> None:
    """Mint an access token and a DPoP proof. Prints header lines: curl -H @<(sidecar dev token --url URL) URL

    A proof is good for one request to the URL and method it names.
    """
    from sidecar.dev.token import Output, Wanted, WantedError, make

    chosen = [
        name for name, on in ((Output.RAW, raw), (Output.CURL, curl), (Output.JSON, as_json), (Output.ENV, env)) if on
    ]
    try:
        if len(chosen) > 1:
            raise WantedError("choose one of --raw, --curl, --json, --env")
        wanted = Wanted(
            subject=subject,
            ttl=ttl,
            scope=scope,
            url=url,
            method=method,
            nonce=nonce,
            key=key,
            mtls=mtls,
            unbound=unbound,
        )
        made = make(folder, wanted, with_proof=chosen not in ([Output.RAW], [Output.ENV]))
        text = made.show(chosen[0] if chosen else Output.HEADERS)
    except WantedError as error:
        typer.echo(f"sidecar dev token: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(text)


@app.command()
def reload(folder: Folder = DEFAULT_FOLDER) -> None:
    """Have the running sidecars read policies, keys and certificates anew (SIGHUP)."""
    import os
    import signal

    from sidecar.dev.files import FolderError, Layout
    from sidecar.dev.state import WorldState

    try:
        state = WorldState.read(Layout.of(folder))
        for server in (state.sidecar, state.sidecar_mtls):
            os.kill(server.pid, signal.SIGHUP)
    except (FolderError, ProcessLookupError) as error:
        typer.echo(f"sidecar dev reload: {error}", err=True)
        raise typer.Exit(1) from None


@app.command()
def tour(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the world's folder, to look at logs and audit.")] = False,
) -> None:
    """Bring up the same world beside, try what it must do and must refuse, and print a table. Exit 0 if all held."""
    from sidecar.dev.tour import run

    raise typer.Exit(run(keep=keep))
