"""The command line. Each command imports what it needs when it runs, so that `serve` starts fast and `uri` at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from sidecar import __version__
from sidecar.config import Config, ConfigError, effective, load
from sidecar.dev.commands import app as dev
from sidecar.errors import Refused
from sidecar.footprint import without
from sidecar.ops.hardening import keep_session_keys
from sidecar.terminal import app as secret

app = typer.Typer(
    name="sidecar",
    help="A policy enforcement point in front of OpenBao.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
audit = typer.Typer(help="Read, verify and search the audit.", no_args_is_help=True)
policy = typer.Typer(help="Ask the configured PDP.", no_args_is_help=True)
app.add_typer(audit, name="audit")
injector = typer.Typer(help="The Kubernetes admission webhook.", no_args_is_help=True)
app.add_typer(policy, name="policy")
app.add_typer(injector, name="injector")
app.add_typer(secret, name="secret")
app.add_typer(dev, name="dev")

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The configuration file (YAML).", show_default=False)]

EXIT_REFUSED = 1
EXIT_USAGE = 2


def main() -> None:
    """The console script."""
    keep_session_keys()
    with without("rich"):  # structlog would load it for tracebacks of a style that is not ours
        from sidecar.ops.logs import take_last_words

    take_last_words()
    app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sidecar {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _shown: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and exit.")] = (
        False
    ),
) -> None:
    from sidecar.ops.logs import configure

    configure("warning", "console")  # to stderr: stdout is for answers. `serve` configures its own.


def _fail(message: str, code: int = EXIT_REFUSED) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(code)


Loaded = TypeVar("Loaded")


def _load(path: Path) -> Config:
    return _valid(load, path)


def _valid(read: Callable[[Path], Loaded], path: Path) -> Loaded:
    try:
        return read(path)
    except ConfigError as error:
        lines = [f"{path}: {len(error.problems)} problem(s)"]
        for problem in error.problems:
            lines.append(f"  {problem.key or '(file)'}: {problem.message}")
            if problem.remedy:
                lines.append(f"      → {problem.remedy}")
        _fail("\n".join(lines), EXIT_USAGE)


def _print_json(value: Any, *, compact: bool = False) -> None:
    import json

    typer.echo(json.dumps(value, ensure_ascii=False, indent=None if compact else 2))


# -- run -----------------------------------------------------------------------------------------------------------
@app.command()
def serve(config: ConfigFile) -> None:
    """Run the proxy. SIGTERM drains and stops it, SIGHUP reloads policies, keys and certificates."""
    signal.signal(signal.SIGTERM, _leave)  # the first process of a container ends by no signal that it does not handle
    from sidecar.config_on_disk import ConfigOnDisk
    from sidecar.process import run

    loaded = _load(config)
    raise typer.Exit(run(loaded, ConfigOnDisk(config, loaded)))


def _leave(*_signal: object) -> NoReturn:
    """SIGTERM before there is anything to drain."""
    raise SystemExit(0)


@app.command()
def check(config: ConfigFile) -> None:
    """Validate a configuration: every problem in one run, each with its key and a remedy. Exit 0 or 2.

    The keys are documented in docs/reference/configuration.md.
    """
    import yaml

    loaded = _load(config)
    warnings = _policy_warnings(loaded)
    _check_yaml_file(loaded)
    typer.echo(yaml.safe_dump(effective(loaded), sort_keys=False, allow_unicode=True).rstrip())
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"{config}: valid", err=True)


def _policy_warnings(config: Config) -> list[str]:
    """Loads the policy set as `serve` would: a set that cannot be loaded makes the configuration invalid."""
    if not config.authorization.enabled:
        return []
    from sidecar.decision.cedar import CedarPdp, PolicyError

    key = "authorization"
    warnings: list[str] = []
    try:
        if config.authorization.pdp == "cedar":
            warnings += CedarPdp(config.authorization.cedar).warnings
        key = "authorization.candidate"
        if config.authorization.candidate.pdp == "cedar":
            warnings += [f"candidate: {one}" for one in CedarPdp(config.authorization.candidate.cedar).warnings]
    except PolicyError as error:
        _fail(f"{key}.cedar.policies: {error}", EXIT_USAGE)
    return warnings


def _check_yaml_file(config: Config) -> None:
    """Reads the file of the YAML provider as `serve` would."""
    if config.yaml_provider.path is None:
        return
    from sidecar.secrets.providers.yaml_file.store import Store

    try:
        Store(config.yaml_provider.path).look()
    except ValueError as error:
        _fail(f"yaml_provider.path: {error}", EXIT_USAGE)


# -- explain -------------------------------------------------------------------------------------------------------
@app.command()
def explain(
    method: Annotated[str, typer.Argument(help="GET, LIST, POST, …")],
    target: Annotated[str, typer.Argument(help="The request target: /v1/secret/data/app/db?version=3")],
    config: ConfigFile,
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="'Name: value', repeatable.")] = None,
    body: Annotated[
        Path | None, typer.Option(help="File with the request's body.", exists=True, dir_okay=False)
    ] = None,
    subject: Annotated[
        str, typer.Option(help="Say as well what the configured PDP decides for this caller, and why.")
    ] = "",
    issuer: Annotated[str, typer.Option(help="The caller's issuer; the first configured one where left out.")] = "",
) -> None:
    """Say what a Vault request is: canonical URI, operation, purpose, and what would be sent to OpenBao.

    With --subject also whether this caller may: decision, obligations, determining policies, attributes that they
    looked at. Exit 1 where the request, or the caller, would be refused.
    """
    import asyncio

    from sidecar.door.head import parse_head
    from sidecar.mount_source import table_for_commands, vault_api
    from sidecar.surface.explain import explain as explain_request

    if not (method.isascii() and method.isprintable() and " " not in method) or any(c in target for c in "\r\n"):
        _fail("METHOD is one word, and TARGET has no line ends", EXIT_USAGE)
    loaded = _load(config)
    content = body.read_bytes() if body is not None else b""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *(header or [])]
    if content:
        lines.append(f"Content-Length: {len(content)}")
    raw = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
    try:
        head = parse_head(
            raw,
            max_header_bytes=loaded.limits.max_header_kib * 1024,
            max_uri_bytes=loaded.limits.max_uri_bytes,
        )
        table = asyncio.run(table_for_commands(loaded))
        result = explain_request(head, content, vault_api(loaded, lambda: table))
        if subject and result.get("purpose"):
            result |= {"decision": _decided(loaded, result, subject, issuer)}
    except Refused as refused:
        result = {"error": {"code": refused.code, "status": refused.status, "message": refused.message}}
    _print_json(result)
    refused_caller = "decision" in result and result["decision"]["effect"] != "permit"
    raise typer.Exit(EXIT_REFUSED if "error" in result or refused_caller else 0)


def _decided(config: Config, asked: Mapping[str, Any], subject: str, issuer: str) -> dict[str, Any]:
    """What guard and PDP say of an explained request. Raises `Refused`."""
    from sidecar.policy.commands import UsageError, one_question

    try:
        return one_question(
            config,
            subject=subject,
            purpose=asked["purpose"],
            uri=asked["canonical_uri"],
            operation=asked["operation"],
            issuer=issuer,
        )
    except UsageError as error:
        _fail(str(error), EXIT_USAGE)


@app.command()
def uri(
    text: Annotated[str, typer.Argument(metavar="URI", help="A secret URI in any spelling.")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Takes the mounts from this file.")] = None,
) -> None:
    """Show the canonical form of a secret URI and its parts. Without --config the mount is the first segment."""
    import asyncio

    from sidecar.mount_source import table_for_commands
    from sidecar.surface.explain import describe_uri

    try:
        table = asyncio.run(table_for_commands(_load(config))) if config is not None else None
        result = describe_uri(text, table)
    except Refused as refused:
        result = {"error": {"code": refused.code, "status": refused.status, "message": refused.message}}
    _print_json(result)
    raise typer.Exit(EXIT_REFUSED if "error" in result else 0)


# -- policy --------------------------------------------------------------------------------------------------------
@policy.command("test")
def policy_test(
    config: ConfigFile,
    subject: Annotated[str, typer.Option(help="The caller's subject.")] = "",
    purpose: Annotated[str, typer.Option(help="read, write, …")] = "",
    uri: Annotated[str, typer.Option(help="A secret URI.")] = "",
    operation: Annotated[str, typer.Option(help="The operation; the purpose's usual one where not given.")] = "",
    issuer: Annotated[str, typer.Option(help="The token's issuer; the first configured where not given.")] = "",
    cases: Annotated[
        Path | None, typer.Option(help="A file of cases (YAML or JSON) instead of one question.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --cases: the results as JSON.")] = False,
    junit: Annotated[Path | None, typer.Option(help="With --cases: writes a JUnit report too.")] = None,
) -> None:
    """Ask the configured PDP one question, or all of a file of cases.

    Prints decision, obligations, determining policies. Exit 0 where permitted, or where each case is as expected;
    else 1; 2 for what cannot be asked.
    """
    from sidecar.policy import commands

    loaded = _load(config)
    if not loaded.authorization.enabled:
        _fail("authorization.enabled is false: there is no PDP to ask", EXIT_USAGE)
    try:
        if cases is not None:
            if subject or purpose or uri:
                _fail("give either --cases or --subject, --purpose and --uri", EXIT_USAGE)
            raise typer.Exit(commands.run_cases_file(loaded, cases, sys.stdout, as_json=as_json, junit_file=junit))
        if not (subject and purpose and uri):
            _fail("--subject, --purpose and --uri are needed, or --cases", EXIT_USAGE)
        result = commands.one_question(
            loaded, subject=subject, purpose=purpose, uri=uri, operation=operation, issuer=issuer
        )
    except Refused as refused:
        result = {"error": {"code": refused.code, "status": refused.status, "message": refused.message}}
    except commands.UsageError as error:
        _fail(str(error), EXIT_USAGE)
    _print_json(result)
    raise typer.Exit(0 if result.get("effect") == "permit" else EXIT_REFUSED)


@policy.command("diff")
def policy_diff(
    recordings: Annotated[
        list[Path], typer.Argument(help="Files of `authorization.recordings`.", exists=True, dir_okay=False)
    ],
    config: ConfigFile,
    candidate: Annotated[
        Path | None,
        typer.Option(help="A folder of Cedar policies, in place of authorization.candidate.", file_okay=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The differences as JSON.")] = False,
) -> None:
    """Put recorded decisions before a candidate: what it would decide otherwise.

    Exit 0 where nothing differs, 1 where something does or an answer did not come, 2 for what cannot be replayed.
    """
    from sidecar.policy import commands

    try:
        code = commands.diff(_load(config), recordings, sys.stdout, candidate=candidate, as_json=as_json)
    except commands.UsageError as error:
        _fail(str(error), EXIT_USAGE)
    raise typer.Exit(code)


# -- audit ---------------------------------------------------------------------------------------------------------
Sources = Annotated[list[Path], typer.Argument(help="Spool folders, segments, or files of JSON lines.", exists=True)]


@audit.command("verify")
def audit_verify(
    files: Sources,
    allow_repeats: Annotated[
        bool, typer.Option("--allow-repeats", help="The same record may stand twice (a dump of a Kafka topic).")
    ] = False,
    allow_later_start: Annotated[
        bool,
        typer.Option("--allow-later-start", help="The chain may begin after its first record (a part of a topic)."),
    ] = False,
    checkpoint_key: Annotated[
        list[Path] | None,
        typer.Option(
            help="Public Ed25519 key (PEM) of `audit.checkpoint`, repeatable: finds a rewritten end too.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Check the chain of audit records: gaps, edits, order. Prints the first break; exit 0 or 1.

    Spools, segments, and dumps of topics, of one instance or many, plain or compressed (zstd, gzip). A run without
    AUDIT_STOP is shown as a crash. An end that was cut off shows only beside a copy of the records elsewhere.
    """
    from sidecar.audit.commands import verify

    raise typer.Exit(
        verify(
            files,
            sys.stdout,
            allow_repeats=allow_repeats,
            allow_later_start=allow_later_start,
            checkpoint_keys=checkpoint_key or (),
        )
    )


@audit.command("cat")
def audit_cat(
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Spool folders, segments, or files of JSON lines.", exists=True)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as records come.")] = False,
    kafka: Annotated[
        bool, typer.Option("--kafka", help="From the topic that the configuration names, each record once.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The configuration file (YAML), with --kafka.")
    ] = None,
) -> None:
    """Print the records as JSON lines, oldest first; from Kafka those of each instance in their order.

    Exit 0, 1 where something could not be read, 2 for what cannot be asked.
    """
    if kafka:
        if sources or config is None:
            _fail("--kafka takes --config and no files", EXIT_USAGE)
        loaded = _load(config)
        if loaded.audit.kafka.bootstrap_servers is None:
            _fail("audit.kafka: not configured, so there is no topic to read", EXIT_USAGE)
        from sidecar.analytics.commands import cat as cat_topic

        raise typer.Exit(cat_topic(loaded.audit.kafka, follow=follow, out=sys.stdout, errors=sys.stderr))
    if not sources or config is not None:
        _fail("give spool folders or files, or --kafka with --config", EXIT_USAGE)
    from sidecar.audit.commands import cat

    raise typer.Exit(cat(sources, follow=follow, out=sys.stdout))


@audit.command("why")
def audit_why(
    correlation_id: Annotated[str, typer.Argument(help="From the answer: `correlation_id`, or X-Correlation-ID.")],
    sources: Sources,
    as_json: Annotated[bool, typer.Option("--json", help="The whole records, one on a line.")] = False,
) -> None:
    """Say why a request was answered as it was: stage, code, policies, attributes, grant. Exit 0, or 1 if not found."""
    from sidecar.audit.why import why

    raise typer.Exit(why(correlation_id, sources, sys.stdout, as_json=as_json))


@audit.command("ref")
def audit_ref(uri: Annotated[str, typer.Argument(help="A secret URI.")], config: ConfigFile) -> None:
    """Print how the audit names a secret: its `resource_ref`, so that its records can be found.

    `previous` are its names under the salts before the current one: older records, told by `ref_key_id`, have those.
    """
    import asyncio

    from sidecar.app import resource_refs
    from sidecar.audit.commands import ref
    from sidecar.mount_source import naming_for_commands
    from sidecar.surface.secret_uri import parse

    loaded = _load(config)
    try:
        mounts = asyncio.run(naming_for_commands(loaded))
        secret = parse(uri, mounts(uri))
    except Refused as refused:
        _fail(f"{refused.code}: {refused.message}")
    raise typer.Exit(ref(secret, resource_refs(loaded), sys.stdout))


# -- injector ------------------------------------------------------------------------------------------------------
@injector.command("serve")
def injector_serve(config: ConfigFile) -> None:
    """Run the webhook that puts the sidecar into pods. SIGTERM drains and stops it, SIGHUP reloads its certificate.

    The configuration is its own: docs/reference/injector.md.
    """
    from sidecar.injector.app import run
    from sidecar.injector.config import load as load_injector

    raise typer.Exit(run(_valid(load_injector, config)))


@injector.command("check")
def injector_check(config: ConfigFile) -> None:
    """Validate the injector's configuration: every problem in one run, each with its key and a remedy. Exit 0 or 2."""
    import yaml

    from sidecar.injector.config import load as load_injector

    loaded = _valid(load_injector, config)
    typer.echo(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False, allow_unicode=True).rstrip())
    typer.echo(f"{config}: valid", err=True)
