"""YAML: the file of secrets in the hands of others on the machine, of its editor, and of callers. One real sidecar,
without OpenBao, in front of it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
import requests
import yaml
from typer.testing import CliRunner

from sidecar.cli import app
from tests.real.openbao import OpenBao
from tests.real.sidecar import SidecarProcess
from tests.secrets.yaml_file.making import private
from tests.support.tokens import Issuer

pytestmark = pytest.mark.real

POLICIES: Final = '@ttl_seconds("300") @max_uses("1000000")\npermit (principal, action, resource);\n'
TEXT: Final = "# of the team\nsecret:\n  app:\n    db: {password: canary-first}\n"
ELSEWHERE: Final = "secret:\n  app:\n    db: {password: canary-elsewhere}\n"


class Place:
    """A sidecar over one file in a folder of its own."""

    def __init__(self, process: SidecarProcess, file: Path) -> None:
        self.process = process
        self.file = file

    def ask(self, method: str, path: str = "", body: Any = None, **query: str) -> requests.Response:
        token = self.process.issuer.token(sub="person")
        url, bearer = f"{self.process.url}/api/secrets{path}", {"Authorization": f"Bearer {token}"}
        return requests.request(method, url, params=query, json=body, headers=bearer, timeout=30)

    def read(self) -> tuple[int, Any]:
        answer = self.ask("GET", "/value", uri="yaml://secret/app/db#password")
        return answer.status_code, answer.json().get("value")

    def write(self, key: str, value: Any) -> requests.Response:
        return self.ask("POST", "", {"uri": f"yaml://secret/app/db#{key}", "value": value})

    def reset(self) -> None:
        """The file as it was, and nothing beside it."""
        for each in self.file.parent.iterdir():
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
        self.file.parent.chmod(0o700)
        private(self.file, TEXT)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, openbao: OpenBao, issuer: Issuer) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("yaml")
    (folder / "held").mkdir(mode=0o700)
    file = private(folder / "held" / "secrets.yaml", TEXT)
    overrides = {
        "environment": "dev",
        "yaml_provider": {"path": str(file)},
        "upstream": {"address": None, "auth": {"token": None}},
        "mounts": None,
        "identity": {"binding": "preferred"},
        "anti_replay": {"unbound_token": "off"},
    }
    made = SidecarProcess(folder, openbao, issuer, overrides)
    (made.policies / "policies.cedar").write_text(POLICIES)
    with made as process:
        yield Place(process, file)


@pytest.fixture
def place(running: Place) -> Place:
    running.reset()
    return running


def checked(place: Place) -> str:
    """What `sidecar check` says of the file as it is now: refused, and how."""
    done = CliRunner().invoke(app, ["check", "--config", str(place.process.config_file)])
    assert done.exit_code == 2, done.output
    return done.output


# -- whose the file is ---------------------------------------------------------------------------------------------
def _linked(file: Path) -> None:
    private(file.with_name("elsewhere.yaml"), ELSEWHERE)
    file.unlink()
    file.symlink_to("elsewhere.yaml")


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


OTHERS: Final[dict[str, tuple[Callable[[Path], None], str]]] = {
    "a link": (_linked, "symbolic link"),
    "a pipe": (_pipe, "not a regular file"),
    "open to all": (lambda file: file.chmod(0o644), "chmod 600"),
    "open to a group": (lambda file: file.chmod(0o620), "chmod 600"),
    "everybody's folder": (lambda file: file.parent.chmod(0o777), "chmod o-w"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_yaml_01_a_file_that_others_decide_is_neither_read_nor_written(place: Place, kind: str) -> None:
    """At the start, and when it becomes so under a running sidecar; put right, it is served again."""
    spoil, said = OTHERS[kind]
    spoil(place.file)
    assert place.read() == (503, None)
    assert place.write("password", "new").status_code == 503
    assert said in checked(place)
    assert said in place.process.ready_text()
    beside = place.file.with_name("elsewhere.yaml")
    assert not beside.exists() or beside.read_text() == ELSEWHERE
    place.reset()
    assert place.read() == (200, "canary-first")


def test_yaml_01_a_folder_that_all_may_use_but_not_empty_is_taken(place: Place) -> None:
    """As /tmp: the sticky bit keeps everybody from the others' files."""
    place.file.parent.chmod(0o1777)
    assert place.read() == (200, "canary-first")
    assert place.write("password", "new").status_code == 200


@pytest.mark.parametrize("planted", ["link", "pipe", "open"])
def test_yaml_02_a_lock_that_somebody_planted_is_not_written_through(place: Place, planted: str) -> None:
    """And holds nobody up."""
    lock, victim = place.file.with_name(f".{place.file.name}.lock"), place.file.with_name("victim")
    victim.write_text("kept")
    if planted == "link":
        lock.symlink_to(victim)
    elif planted == "pipe":
        os.mkfifo(lock, 0o600)
    else:
        lock.touch(0o666)
        lock.chmod(0o666)
    assert place.write("password", "new").status_code in (502, 503)
    assert (victim.read_text(), place.file.read_text()) == ("kept", TEXT)
    lock.unlink()
    assert place.write("password", "new").status_code == 200


# -- what is in it -------------------------------------------------------------------------------------------------
LAUGHS: Final = "secret:\n  app:\n    a: &a [x, x]\n" + "".join(
    f"    {chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(20)
)
CROOKED: Final = {
    "a bomb of aliases": LAUGHS,
    "a map that holds itself": "secret:\n  app: &a {b: *a}\n",
    "a tag that runs": "secret:\n  app:\n    db: !!python/object/apply:os.system [touch planted]\n",
    "a tag": "secret:\n  app:\n    db: {password: !!binary aGk=}\n",
    "a name twice": TEXT + "  app:\n    db: {password: canary-second}\n",
    "a merge": "secret:\n  base: {x: 1}\n  app:\n    <<: {password: canary}\n",
    "a second document": TEXT + "---\nsecret: {app: {db: {password: canary-second}}}\n",
    "a directive": "%TAG ! tag:evil,2026:\n---\n" + TEXT,
    "deep": "secret: " + "{a: " * 5000 + "1" + "}" * 5000 + "\n",
    "large": TEXT + "".join(f"  k{n}: {{a: b}}\n" for n in range(30_000)),
    "half": TEXT[:-2],
    "not text": TEXT + "\x00",
    "a value of two readings": TEXT + "  other: {k: yes}\n",
}


@pytest.mark.parametrize("kind", CROOKED)
def test_yaml_03_what_has_a_second_reading_or_no_end_is_not_served(place: Place, kind: str) -> None:
    """Neither read nor overwritten; what is said of it is a line, never what stands there; memory stays what it was."""
    private(place.file, CROOKED[kind])
    assert place.read() == (503, None)
    assert place.write("password", "new").status_code == 503
    assert place.file.read_text() == CROOKED[kind]
    assert not place.file.with_name("planted").exists()
    assert not Path("planted").exists()
    for said in (place.process.ready_text(), checked(place)):
        assert "canary" not in said
        assert "yaml" in said.lower()
    place.reset()
    assert place.read() == (200, "canary-first")
    resident = next(line for line in place.process.metrics().splitlines() if line.startswith("process_resident_mem"))
    assert float(resident.split()[1]) < 300 * 2**20


NASTY: Final = (
    *("}\n  evil: {k: v}\n", "\n---\nsecret: {}\n", "# no comment", " - a", "*alias", "&anchor x", "!!python/none x"),
    *('"}', "'}", "a: b", "{a: 1}", "[1]", "%TAG", "<<", "=", "yes", "0x1F", "1e3", "~", "", " ", "\t", "\r\n"),
    *("\u2028", "\x00\x1b", "\u0085", "\ufeff", "\U0001f600", "\\", "\\n", "? x", "| x", "> x", "@x", "`x", "..."),
)
BLOCK: Final = "secret:\n  app:\n    db:\n      password: canary-first # why\n"


@pytest.mark.parametrize("style", [TEXT, BLOCK], ids=["in braces", "in lines"])
def test_yaml_04_no_value_and_no_name_becomes_structure(place: Place, style: str) -> None:
    """Each comes back as it was given, another parser reads the same, and nothing else is in the file."""
    private(place.file, style)
    wanted: dict[str, Any] = {"password": "canary-first"}
    for number, text in enumerate(NASTY):
        assert place.write(f"v{number}", text).status_code == 200, text
        wanted[f"v{number}"] = text
        named = place.ask("POST", "", {"uri": f"yaml://secret/app/db#{quote(text, safe='')}", "value": "x"})
        if named.status_code == 200:
            wanted[text] = "x"
        else:
            assert named.status_code == 400, (text, named.text)
    assert len(wanted) > len(NASTY) + 20
    assert place.ask("GET", "/value", uri="yaml://secret/app/db").json()["value"] == wanted
    assert yaml.safe_load(place.file.read_text(encoding="utf-8")) == {"secret": {"app": {"db": wanted}}}
    assert ("# why" in place.file.read_text()) is ("# why" in style)


# -- at the same time ----------------------------------------------------------------------------------------------
def test_yaml_05_a_file_replaced_while_it_is_written_is_whole_at_every_look(place: Place) -> None:
    """An editor takes no lock: what is on disk is one whole text at any time, and what the sidecar said it wrote since
    the last save is there. (That no save is overwritten by a change begun before it is held step by step in
    tests/secrets/yaml_file.)"""
    over = threading.Event()
    torn: list[str] = []

    def look() -> None:
        while not over.is_set():
            found = yaml.safe_load(place.file.read_text())
            if found["secret"]["app"]["db"]["password"] != "canary-first":
                torn.append(str(found))

    def save(number: int) -> None:
        aside = private(place.file.with_name("aside"), TEXT.replace("canary-first", f"canary-first, saved: {number}"))
        aside.replace(place.file)

    with ThreadPoolExecutor(6) as pool:
        looking = pool.submit(look)
        try:
            writing = [pool.submit(place.write, f"k{number}", number) for number in range(60)]
            for number in range(20):
                save(number)
            assert {each.result().status_code for each in writing} <= {200, 409}
            save(20)
            late = [pool.submit(place.write, f"late{number}", number) for number in range(10)]
            assert {each.result().status_code for each in late} == {200}
        finally:
            over.set()
        looking.result()
    assert torn == []
    values = place.ask("GET", "/value", uri="yaml://secret/app/db").json()["value"]
    assert values == {"password": "canary-first", "saved": 20, **{f"late{number}": number for number in range(10)}}
    assert place.file.read_text().startswith("# of the team\n")
