"""`sidecar secret`: what its commands have in common: where the sidecar is, who asks, how it ends."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn

import orjson
import typer

from sidecar.terminal import printing
from sidecar.terminal.exits import Ended, Exit

app = typer.Typer(
    help="Secrets from a terminal, by the Secrets API of a running sidecar.\n\n"
    "A secret is named by its URI: openbao+kv2://secret/app/db, with one key of it: …/db#password. Values come from "
    "standard input or a prompt, never from the command line.\n\n"
    "Exit: 0 done, 1 failed, 2 wrong use, 3 not known who asks, 4 denied, 5 not found, 6 conflict, 7 unsupported, "
    "8 unavailable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Uri = Annotated[
    str, typer.Argument(metavar="URI", help="Of a secret, or of one key: openbao+kv2://secret/app/db#password")
]
Whole = Annotated[str, typer.Argument(metavar="URI", help="Of a whole secret: openbao+kv2://secret/app/db")]
Json = Annotated[bool, typer.Option("--json", help="Print the API's answer as JSON; an error too, to standard error.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask whether that is meant.")]


@app.callback()
def _connect(
    ctx: typer.Context,
    address: Annotated[
        str,
        typer.Option(help="The sidecar's URL, or unix:///path.", envvar=["SIDECAR_ADDR", "BAO_ADDR", "VAULT_ADDR"]),
    ] = "http://127.0.0.1:8200",
    token_file: Annotated[
        Path | None,
        typer.Option(help="Holds the access token; else it is in SIDECAR_TOKEN.", envvar="SIDECAR_TOKEN_FILE"),
    ] = None,
    openbao_token_file: Annotated[
        Path | None,
        typer.Option(
            help="Holds OpenBao's own token, for a sidecar in passthrough mode; else it is in SIDECAR_OPENBAO_TOKEN.",
            envvar="SIDECAR_OPENBAO_TOKEN_FILE",
        ),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="The DPoP key that the token is bound to (PEM).", envvar="SIDECAR_DPOP_KEY")
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            help="Who signed the sidecar's certificate.", envvar=["SIDECAR_CACERT", "BAO_CACERT", "VAULT_CACERT"]
        ),
    ] = None,
    cert_file: Annotated[
        Path | None,
        typer.Option(
            help="A client certificate (PEM).", envvar=["SIDECAR_CLIENT_CERT", "BAO_CLIENT_CERT", "VAULT_CLIENT_CERT"]
        ),
    ] = None,
    cert_key_file: Annotated[
        Path | None,
        typer.Option(help="And its key.", envvar=["SIDECAR_CLIENT_KEY", "BAO_CLIENT_KEY", "VAULT_CLIENT_KEY"]),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until an answer must be there.", min=0.1)] = 30.0,
) -> None:
    from sidecar.terminal.connection import Connection  # and aiohttp, which other commands need not wait for

    try:
        "".join(sys.argv).encode()
    except UnicodeEncodeError:
        end(Ended(Exit.USAGE, "the command line is not UTF-8"))
    names = ("SIDECAR_TOKEN", "BAO_TOKEN", "VAULT_TOKEN")
    token = "" if token_file is not None else next((os.environ[name] for name in names if os.environ.get(name)), "")
    ctx.obj = Connection(
        address,
        token,
        token_file,
        openbao_token="" if openbao_token_file is not None else os.environ.get("SIDECAR_OPENBAO_TOKEN", ""),
        openbao_token_file=openbao_token_file,
        key_file=key_file,
        ca_file=ca_file,
        cert_file=cert_file,
        cert_key_file=cert_key_file,
        timeout_seconds=timeout,
    )


def run(
    work: Coroutine[Any, Any, Any],
    show: Callable[[Any], object],
    *,
    json: bool,
    judge: Callable[[Any], None] = lambda _answer: None,
) -> None:
    """Does what was asked for and shows it; ends with the status of what went wrong. `judge` raises `Ended` for an
    answer that tells of failures; it is shown all the same."""
    try:
        if sys.stdout is None:
            work.close()
            raise Ended(Exit.USAGE, "standard output is closed")
        answer = asyncio.run(work)
        (printing.show_json if json else show)(answer)
        judge(answer)
    except Ended as ended:
        end(ended, json=json)
    except (KeyError, TypeError, AttributeError):
        end(Ended(Exit.FAILED, "this is no answer of a sidecar's"))
    except OSError as error:
        end(Ended(Exit.FAILED, f"the answer cannot be written: {error.strerror}"))
    except KeyboardInterrupt:
        end(Ended(Exit.FAILED, "interrupted; what was asked for may be done"))


def end(ended: Ended, *, json: bool = False) -> NoReturn:
    if json and ended.body is not None:
        sys.stderr.write(printing.as_json(ended.body, pretty=True) + "\n")
    else:
        printing.show_error(ended.message)
    raise typer.Exit(ended.status) from None


def body_of(value: bytes | None = None, *, of: str = "value", **members: Any) -> bytes:
    """A request's body; a value, or the member that `of` names, goes in as it was written."""
    known = orjson.dumps({name: member for name, member in members.items() if member is not None})
    return known if value is None else known[:-1] + f',"{of}":'.encode() + value + b"}"


def said(*names: str) -> Callable[[Any], None]:
    """Shows these members of the answer, where they are there."""
    return lambda answer: printing.show_table({name: answer[name] for name in names if answer.get(name) is not None})


def make_sure(question: str, *, yes: bool) -> None:
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        end(Ended(Exit.USAGE, "this cannot be undone; say --yes"))
    if not typer.confirm(printing.visible(question), err=True):
        end(Ended(Exit.USAGE, "nothing was done"))


def once_headers(given: str | None) -> dict[str, str]:
    return {} if given is None else {"Idempotency-Key": given}
