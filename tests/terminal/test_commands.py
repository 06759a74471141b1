"""`sidecar secret …` against a real sidecar in front of a real OpenBao, with a bound token, as a person or a script."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner

from sidecar.cli import app
from sidecar.terminal.exits import Exit
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.support.terminal import INTERRUPTIBLE, Person, on_a_terminal
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

POLICIES: Final = """
@ttl_seconds("300") @max_uses("1000000")
permit (principal == Workload::"person", action, resource);
"""
CANARY: Final = "canary-value-hunter2"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[SidecarProcess]:
    folder = tmp_path_factory.mktemp("terminal")
    file = folder / "secrets.yaml"
    file.write_text("secret:\n  app:\n    db: {password: first}\n")
    file.chmod(0o600)
    overrides = {"yaml_provider": {"path": str(file)}, "events": {"enabled": True}}
    made = SidecarProcess(folder, openbao, issuer, overrides)
    (made.policies / "policies.cedar").write_text(POLICIES)
    with made as running:
        yield running


@pytest.fixture(scope="module")
def person(process: SidecarProcess) -> Person:
    return Person(process, process.folder)


def uri(path: str) -> str:
    return f"openbao+kv2://secret/terminal/{path}"


def test_written_read_and_looked_at(person: Person) -> None:
    """In a pipe a text is its bytes and nothing more."""
    one = uri("one")
    assert person.json("put", one, given='{"user": "app", "n": 5}') == {"uri": one, "version": 1}
    assert person.run("put", f"{one}#password", given="typed\n").startswith("uri      openbao")
    assert person.run("get", f"{one}#password") == "typed"
    assert person.run("get", one) == '{"n":5,"password":"typed","user":"app"}\n'
    assert person.run("get", one, "--version", "1") == '{"n":5,"user":"app"}\n'
    assert person.json("get", f"{one}#password") == {"uri": f"{one}#password", "version": 2, "value": "typed"}
    assert person.run("keys", one) == "n\npassword\nuser\n"
    assert not [record for record in person.process.records() if record.get("effect") == "deny"], "nonces are fetched"
    assert re.fullmatch(r"1  \S+\n2  \S+\n", person.run("versions", one))
    assert "owner            person\n" in person.run("info", one)
    assert person.run("owner", one, "team") == f"uri    {one}\nowner  team\n"
    assert person.json("info", one)["owner"] == "team"


@pytest.mark.parametrize(
    ("given", "options", "stored"),
    [
        ("one line\n", (), "one line"),
        ("one line\r\n", (), "one line"),
        ("one line\n", ("--exact",), "one line\n"),
        ("two\nlines\n", (), "two\nlines\n"),
        (" spaced ", (), " spaced "),
        ("\n\n", (), "\n\n"),
        ("[1, 2]", (), "[1, 2]"),
        ("[1, 2.50]", ("--as-json",), [1, 2.5]),
        ('""', ("--as-json",), ""),
        ("\x1b[31m", (), "\x1b[31m"),
    ],
)
def test_what_is_piped_in_is_what_is_stored(person: Person, given: str, options: tuple[str, ...], stored: Any) -> None:
    person.run("put", f"{uri('piped')}#k", *options, given=given)
    assert person.json("get", f"{uri('piped')}#k")["value"] == stored


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (("put", "{one}#k"), ""),
        (("put", "{one}"), "text"),
        (("put", "{one}"), "[1]"),
        (("put", "{one}"), '{}, "cas": 0'),
        (("put", "{one}#k", "--as-json"), "1 2"),
        (("put", "{one}#k", "--as-json"), '1}, {"a": 2'),
        (("put", "no uri"), "x"),
        (("put", "openbao+kv2://secret/../x#k"), "x"),
        (("rotate", "{one}#k", "--generate", "20", "--policy", "p"), ""),
        (("rotate", "{one}#k", "--alphabet", "ab"), "x"),
        (("rotate", "{one}#k", "--generate", "2"), ""),
        (("destroy", "{one}", "1"), ""),
        (("rm", "{one}", "--destroy"), ""),
        (("undelete", "{one}"), ""),
        (("cp", "{one}"), ""),
        (("bulk",), '{"operations": []}'),
        (("bulk",), "[]"),
        (("bulk",), '[], "continueOnError": true'),
        (("bulk",), '[{"op": "read", "uri": "{one}"}]'),
        (("audit", "--limit", "0"), ""),
        (("events", "--last-event-id", "1"), ""),
        (("get", "{one}", "--version", "0"), ""),
        (("nothing",), ""),
        (("--address", "http://example.org", "get", "{one}"), ""),
    ],
)
def test_wrong_use_is_2(person: Person, words: tuple[str, ...], given: str) -> None:
    person.run(*(word.replace("{one}", uri("wrong")) for word in words), given=given, status=Exit.USAGE)


def test_rotated_deleted_and_brought_back(person: Person) -> None:
    one = uri("cycle")
    person.run("put", f"{one}#k", given="old")
    assert person.json("rotate", f"{one}#k", "--generate", "30", "--alphabet", "abc")["version"] == 2
    assert re.fullmatch("[abc]{30}", person.run("get", f"{one}#k"))
    assert person.json("rotate", f"{one}#k", "--cas", "2", given="new")["previous_version"] == 2
    person.run("rotate", f"{one}#k", "--cas", "2", given="late", status=Exit.CONFLICT)
    assert person.json("rm", one) == {"uri": one, "deleted": True, "destroyed": False}
    person.run("get", one, status=Exit.NOT_FOUND)
    assert person.json("undelete", one, "3") == {"uri": one, "versions": [3]}
    assert person.run("get", f"{one}#k") == "new"
    assert person.json("destroy", one, "1", "2", "--yes") == {"uri": one, "versions": [1, 2]}
    assert "destroyed" in person.run("versions", one)
    assert person.json("rm", one, "--destroy", "--yes")["destroyed"] is True


def test_copied_moved_listed_and_found(person: Person) -> None:
    """Across providers too; a listing is followed to its end."""
    for name in ("a", "b", "c"):
        person.run("put", f"{uri(f'many/{name}')}#k", given=name)
    assert person.run("ls", uri("many/")) == "".join(f"{uri(f'many/{name}')}\n" for name in "abc")
    assert person.run("ls", uri("many/"), "--limit", "2") == f"{uri('many/a')}\n{uri('many/b')}\n"
    assert person.run("search", "MANY/B", "--prefix", uri("")) == f"{uri('many/b')}\n"
    assert person.json("ls", uri("nothing/")) == {"items": [], "next": None}
    assert person.json("cp", uri("many/a"), "yaml://secret/terminal/a")["toUri"] == "yaml://secret/terminal/a"
    person.run("cp", uri("many/a"), "yaml://secret/terminal/a", status=Exit.CONFLICT)
    person.run("cp", uri("many/a"), "yaml://secret/terminal/a", "--overwrite")
    person.run("mv", "yaml://secret/terminal/a#k", uri("many/b#from"))
    assert person.json("get", uri("many/b"))["value"] == {"k": "b", "from": "a"}
    person.run("versions", "yaml://secret/app/db", status=Exit.UNSUPPORTED)
    person.run("put", "yaml://secret/terminal/n#k", "--as-json", given="1.10")
    assert person.run("get", "yaml://secret/terminal/n#k") == "1.10\n"


def test_several_operations_in_one_request(person: Person) -> None:
    """Each is told, and the first that failed is how the command ends."""
    one, two = uri("bulk/one"), uri("bulk/two")
    operations = (
        f'[{{"op": "set", "uri": "{one}", "value": {{"n": 7}}}}, {{"op": "rotate", "uri": "{two}#k", "value": "x"}},'
        f' {{"op": "set", "uri": "{two}#k", "value": "y", "cas": 7}}, {{"op": "delete", "uri": "{one}"}}]'
    )
    failed = CliRunner().invoke(app, ["secret", "bulk"], input=operations, env=person.environment)
    assert (failed.exit_code, failed.stderr) == (Exit.NOT_FOUND, "sidecar secret: 2 of 4 operations failed\n")
    lines = failed.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        f"201  set  {one}",
        f"404  rotate  {two}#k  NOT_FOUND",
        f"409  set  {two}#k  VERSION_CONFLICT",
        f"200  delete  {one}",
    ]
    stopped = CliRunner().invoke(app, ["secret", "bulk", "--stop", "--json"], input=operations, env=person.environment)
    assert stopped.exit_code == Exit.NOT_FOUND
    assert [each["status"] for each in json.loads(stopped.stdout)["results"]] == [201, 404, 424, 424]
    assert person.run("get", f"{one}#n", "--version", "2") == "7\n"
    words, only = (
        ("bulk", "--idempotency-key", "once-and-no-more"),
        f'[{{"op": "set", "uri": "{two}#k", "value": "z"}}]',
    )
    assert person.json(*words, given=only) == person.json(*words, given=only)
    assert person.json("info", two)["current_version"] == 1


def test_what_happened_and_what_happens_is_shown(person: Person) -> None:
    """By reference, never by path; a stream goes on until it is interrupted, or until nobody reads any more."""
    key = f"{uri('happened')}#k"
    person.run("put", key, given=CANARY)
    newest, intent = person.json("audit", "--limit", "2")["items"]
    assert (newest["phase"], intent["phase"], newest["purpose"]) == ("outcome", "intent", "write")
    shown = person.run("audit", "--limit", "2").splitlines()[1]  # the first is of having looked
    assert re.fullmatch(r"\S+Z  SECRET_PERMIT  outcome  -  write  kv2\.write  person  [\w-]{43}", shown)
    assert "happened" not in shown
    from_intent = [sys.executable, "-c", INTERRUPTIBLE]
    from_intent += person.command("events", "--json", "--last-event-id", intent["id"])
    with subprocess.Popen(from_intent, env=person.environment, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline()) == newest
        person.run("get", key)
        while json.loads(follower.stdout.readline())["operation"] != "kv2.read":
            pass
        follower.send_signal(signal.SIGINT)
        assert (follower.stdout.read(), follower.wait(30)) == ("", Exit.OK)
    piped = f"{shlex.join(person.command('events', '--last-event-id', intent['id']))} | head -n 1"
    with subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", piped], env=person.environment, stdout=subprocess.PIPE, text=True
    ) as head:
        assert head.stdout is not None
        assert head.stdout.readline().split("  ")[2] == "outcome"
        while head.poll() is None:  # whoever writes first after the reader went ends
            person.run("get", key)
        assert head.returncode == Exit.OK


def test_in_passthrough_mode_openbao_sees_the_person_s_own_token(
    tmp_path: Path, openbao: OpenBao, issuer: Issuer
) -> None:
    """Beside the access token and its proof; with either alone nothing is done."""
    overrides = {"upstream": {"auth": {"mode": "passthrough", "token": None}}}
    made = SidecarProcess(tmp_path, openbao, issuer, overrides)
    (made.policies / "policies.cedar").write_text(POLICIES)
    with made:
        person = Person(made, tmp_path)
        assert "TOKEN_MISSING" in person.run("get", f"{uri('own')}#k", status=Exit.UNAUTHENTICATED)
        own = tmp_path / "own"
        own.write_text(openbao.token("root", ttl="1h"))
        own.chmod(0o600)
        person.environment["SIDECAR_OPENBAO_TOKEN_FILE"] = str(own)
        mark = openbao.mark()
        person.run("put", f"{uri('own')}#k", given="v")
        assert person.run("get", f"{uri('own')}#k") == "v"
        assert {request["client_token"] for request in openbao.requests(mark)} == {own.read_text()}
        assert own.read_bytes() not in made.spool_bytes() + made.log.read_bytes()


def test_each_kind_of_refusal_has_its_status(person: Person, process: SidecarProcess) -> None:
    """With the code and a hint; as JSON on standard error where that is asked for."""
    said = person.run("get", uri("never"), status=Exit.NOT_FOUND)
    assert re.match(r"sidecar secret: NOT_FOUND: .* \[[0-9a-f]{32}\]$", said)
    nobody = Person(process, process.folder, "nobody")
    assert "POLICY_DENIED" in nobody.run("get", uri("one"), status=Exit.DENIED)
    assert json.loads(nobody.run("get", uri("one"), "--json", status=Exit.DENIED))["code"] == "POLICY_DENIED"
    environment, person_s = person.environment, dict(person.environment)
    try:
        del environment["SIDECAR_DPOP_KEY"]
        assert "--key-file" in person.run("get", uri("one"), status=Exit.UNAUTHENTICATED)
        del environment["SIDECAR_TOKEN"]
        assert "SIDECAR_TOKEN" in person.run("get", uri("one"), status=Exit.UNAUTHENTICATED)
        environment["SIDECAR_ADDR"] = "http://127.0.0.1:1"
        assert "no sidecar answers" in person.run("get", uri("one"), status=Exit.UNAVAILABLE)
    finally:
        person.environment.update(person_s)


# -- a real terminal -----------------------------------------------------------------------------------------------
def test_a_person_is_asked_and_nothing_is_shown_of_it(person: Person) -> None:
    """Twice, so that a slip is none; the value stands neither on the screen nor among the processes' words."""
    key = f"{uri('asked')}#k"
    status, screen = on_a_terminal(person.command("put", key), person.environment, (CANARY, CANARY))
    assert (status, screen.count("<asked>")) == (0, 2), screen
    assert CANARY not in screen
    assert person.run("get", key) == CANARY
    status, screen = on_a_terminal(person.command("put", key), person.environment, (CANARY, "slip"))
    assert (status, "not the same" in screen) == (Exit.USAGE, True)
    status, screen = on_a_terminal(person.command("rm", uri("asked"), "--destroy"), person.environment, ("n",))
    assert (status, "nothing was done" in screen) == (Exit.USAGE, True)
    assert person.run("get", key) == CANARY


# -- completion ----------------------------------------------------------------------------------------------------
def test_the_shell_completes_commands_and_options(tmp_path: Path) -> None:
    """Bash for real; the scripts of zsh and fish are written, their shells are not here."""
    sidecar = Path(sys.executable).with_name("sidecar")
    environment = {"PATH": f"{sidecar.parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    scripts = {
        shell: subprocess.check_output(
            [sidecar], env={**environment, "_SIDECAR_COMPLETE": f"source_{shell}"}, text=True
        )
        for shell in ("bash", "zsh", "fish")
    }
    assert all("_SIDECAR_COMPLETE" in script for script in scripts.values())
    asked = scripts["bash"] + "\n".join(
        f'COMP_WORDS=({words}); COMP_CWORD={len(words.split()) - 1}; COMPREPLY=(); _sidecar_completion sidecar "" ""; '
        'echo "${COMPREPLY[@]}"'
        for words in ("sidecar secret r", "sidecar secret get --v", "sidecar sec")
    )
    done = subprocess.run(["bash", "-c", asked], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["rotate rm", "--version", "secret"], done
