"""`sidecar dev up`: however it ends nothing stays, and what it prints for pasting works as printed."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.dev.running import is_alive, living_in
from tests.dev.world import SIDECAR, Running, starting, up
from tests.support.terminal import ON_A_TERMINAL
from tests.support.waiting import wait_until

pytestmark = pytest.mark.real


# -- what is there while it runs -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with up(tmp_path_factory.mktemp("up") / "world") as running:
        yield running


def _pasted(world: Running, title: str) -> str:
    """Runs the commands below a title, verbatim, in a bash that knows nothing but where it is."""
    lines = world.said.splitlines()
    (start,) = (number for number, line in enumerate(lines) if title in line)
    commands = []
    for line in lines[start + 1 :]:
        if not line.startswith("    "):
            break
        commands.append(line)
    assert commands, f"nothing to paste below {title!r}"
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", "\n".join(commands)],
        cwd=world.layout.root.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(world.layout.root.parent), "LANG": "C.UTF-8"},
    )
    assert done.stderr == ""
    return done.stdout


def test_the_printed_cd_leads_to_where_the_commands_work(world: Running) -> None:
    assert f"    cd {world.layout.root.parent}\n" in world.said


def test_the_pasted_read_is_allowed(world: Running) -> None:
    head, _, body = _pasted(world, "an allowed read").partition("\n\n")
    assert head.startswith("HTTP/1.1 200")
    assert json.loads(body)["data"]["data"].keys() == {"username", "password"}


def test_the_pasted_read_of_a_stranger_is_denied(world: Running) -> None:
    answer = _pasted(world, "somebody without a policy")
    assert answer.startswith("HTTP/1.1 403")
    assert '"code":"POLICY_DENIED"' in answer


def test_the_pasted_replay_is_refused_the_second_time(world: Running) -> None:
    first, _, second = _pasted(world, "the same proof twice").partition("\nHTTP/1.1")
    assert first.startswith("HTTP/1.1 200")
    assert second.startswith(" 401")
    assert '"code":"PROOF_REPLAYED"' in second


def test_the_pasted_bao_command_reads_over_mutual_tls(world: Running) -> None:
    answer = _pasted(world, "the bao command line")
    assert "username    app" in answer
    assert "dev-password-" in answer


def test_the_pasted_audit_tail_shows_what_happened_and_goes_on(world: Running) -> None:
    lines = world.said.splitlines()
    (start,) = (number for number, line in enumerate(lines) if "what was written down" in line)
    with subprocess.Popen(
        ["bash", "--noprofile", "--norc", "-c", f"exec {lines[start + 1].strip()}"],
        cwd=world.layout.root.parent,
        stdout=subprocess.PIPE,
        text=True,
    ) as tail:
        assert tail.stdout is not None
        try:
            records = (json.loads(line) for line in tail.stdout)
            assert next(records)["event"] == "AUDIT_START"
            _curl_as(world, "somebody-new")
            denied = next(each for each in records if (each.get("subject") or {}).get("sub") == "somebody-new")
        finally:
            tail.terminate()
    assert (denied["event"], denied["code"]) == ("SECRET_DENY", "POLICY_DENIED")


def _curl_as(world: Running, subject: str) -> str:
    """What the example secret's URL answers to a subject."""
    command = [SIDECAR, "dev", "token", "--dir", str(world.layout.root), "--subject", subject, "--curl"]
    curl = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True).stdout


def test_a_changed_policy_holds_after_a_reload(world: Running) -> None:
    assert "POLICY_DENIED" in _curl_as(world, "newcomer")
    policy = 'permit (principal == Workload::"newcomer", action == Action::"read", resource in Folder::"secret/app");'
    (world.layout.policies / "more.cedar").write_text(policy)
    subprocess.run([SIDECAR, "dev", "reload", "--dir", str(world.layout.root)], check=True)
    wait_until(lambda: "dev-password-" in _curl_as(world, "newcomer"), "the new policy holds")


def test_the_printed_configuration_is_valid_and_shows_no_secret(world: Running) -> None:
    for server in (world.state.sidecar, world.state.sidecar_mtls):
        done = subprocess.run(
            [SIDECAR, "check", "--config", str(server.config)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load(done.stdout)["tenant"]["allowed_mounts"] == ["secret", "transit"]


def test_nothing_in_the_worlds_folder_is_open_to_others(world: Running) -> None:
    assert world.layout.root.stat().st_mode & 0o077 == 0
    for path in (world.layout.root_token, world.layout.secret_id, world.layout.issuer_key, world.layout.state):
        assert path.stat().st_mode & 0o077 == 0, path


def test_everything_listens_on_loopback_only(world: Running) -> None:
    inodes = {
        link.split("[")[1].rstrip("]")
        for pid in world.pids
        for entry in Path(f"/proc/{pid}/fd").iterdir()
        if (link := os.readlink(entry)).startswith("socket:")  # noqa: PTH115 - a socket's link is no path
    }
    listening = [
        fields[1]
        for table in ("tcp", "tcp6")
        for fields in map(str.split, Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        if fields[3] == "0A" and fields[9] in inodes
    ]
    assert len(listening) == 7  # OpenBao's two, the issuer's, two of each sidecar
    assert {address.partition(":")[0] for address in listening} == {"0100007F"}


def test_a_second_world_in_the_same_folder_is_refused_clearly(world: Running) -> None:
    second = subprocess.run(
        [SIDECAR, "dev", "up", "--dir", str(world.layout.root), "--port", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert "already runs in" in second.stdout
    assert all(map(is_alive, world.pids))


# -- how it ends ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_stops_everything_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with up(tmp_path / "world") as running:
        pids, spool = running.pids, running.state.sidecar.spool
        running.process.send_signal(number)
        assert running.wait_until_gone(pids) == 0
        assert f"stopped on {number.name}" in running.said
        assert "Traceback" not in running.said
    assert not running.layout.state.exists()
    audit = subprocess.run([SIDECAR, "audit", "cat", str(spool)], capture_output=True, text=True, check=True)
    assert json.loads(audit.stdout.splitlines()[-1])["event"] == "AUDIT_STOP"


def test_kill_9_leaves_nothing_behind(tmp_path: Path) -> None:
    with up(tmp_path / "world") as running:
        pids = running.pids
        assert len(living_in(running.layout.root)) == 4
        running.process.kill()
        assert running.wait_until_gone(pids) == -signal.SIGKILL
    with up(tmp_path / "world") as again:  # the folder can be used again, and the audit's chain goes on
        spools = [str(again.state.sidecar.spool), str(again.state.sidecar_mtls.spool)]
        verified = subprocess.run([SIDECAR, "audit", "verify", *spools], capture_output=True, text=True, check=False)
        assert verified.returncode == 0, verified.stdout + verified.stderr
        events = subprocess.run([SIDECAR, "audit", "cat", spools[0]], capture_output=True, text=True, check=True)
        assert events.stdout.count('"AUDIT_START"') == 2


def test_a_signal_while_it_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    with starting(tmp_path / "world") as running:
        wait_until(lambda: "starting the sidecar" in running.said, "the sidecar starts")
        running.process.send_signal(signal.SIGINT)
        assert running.wait_until_gone(set()) == 0
        assert "Traceback" not in running.said


def test_ctrl_c_through_make_leaves_nothing_behind(tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches make and what it runs alike: the whole foreground process group."""
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"run:\n\t@{SIDECAR} dev up --dir world --port 0\n")
    with starting(tmp_path / "world", command=["make", "-f", str(makefile), "run"]) as running:
        running.wait_until_up()
        pids = running.pids
        os.killpg(running.process.pid, signal.SIGINT)
        running.wait_until_gone(pids)
        assert "stopped on SIGINT" in running.said


@pytest.mark.parametrize("part", ["openbao", "sidecar_mtls"])
def test_a_child_that_dies_is_said_and_stops_the_world(tmp_path: Path, part: str) -> None:
    with up(tmp_path / "world") as running:
        pids, child = running.pids, getattr(running.state, part)
        os.kill(child.pid, signal.SIGKILL)
        assert running.wait_until_gone(pids) == 1
        assert f"{part.replace('_', '-')} ended with SIGKILL; the last lines of {child.log}:" in running.said


def test_a_terminal_that_went_away_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    """Its output is a pipe that nobody reads any more."""
    with subprocess.Popen(
        [SIDECAR, "dev", "up", "--dir", "world", "--port", "0"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "Ctrl-C stops everything." in line)
        process.stdout.close()
        children = living_in(tmp_path / "world")
        assert len(children) == 4
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    wait_until(lambda: not any(map(is_alive, children)), "nothing of it runs")


@pytest.mark.timeout(300)
def test_closing_the_terminal_stops_everything(tmp_path: Path) -> None:
    """The kernel sends SIGHUP to the terminal's foreground group, and every write to it fails from then on."""
    controller, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, str(SIDECAR), "dev", "up", "--dir", "world", "--port", "0"],
        cwd=tmp_path,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    try:
        os.close(terminal)
        said, deadline = b"", time.monotonic() + 100
        while b"Ctrl-C stops everything." not in said:
            readable, _, _ = select.select([controller], [], [], max(deadline - time.monotonic(), 0))
            assert readable, f"it did not come up: {said.decode(errors='replace')}"
            said += os.read(controller, 4096)
        children = living_in(tmp_path / "world")
        assert len(children) == 4
        os.close(controller)
        assert process.wait(100) == 0
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not any(map(is_alive, children)), "nothing of it runs")


# -- ports ---------------------------------------------------------------------------------------------------------
def test_a_taken_port_is_said_and_the_next_free_one_used(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        taken = holder.getsockname()[1]
        with starting(
            tmp_path / "world", command=[SIDECAR, "dev", "up", "--dir", "world", "--port", str(taken)]
        ) as running:
            running.wait_until_up()
            origin = running.state.sidecar.origin
            assert origin != f"http://127.0.0.1:{taken}"
            assert f"port {taken} is taken: sidecar takes {origin.rpartition(':')[2]} instead" in running.said
