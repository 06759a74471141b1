"""The ledger: durable, bounded, telling nothing, and nobody's where it was touched."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar.leases.ledger import GRACE_SECONDS, NAME, Held, Ledger

SALT = b"a salt of enough bytes"
NOW = 1_000_000.0
HELD = "lease:database/creds/app/canary-id"
ENTRY = Held("openbao+database://database/creds/canary-role", "accessor-one", NOW + 3600)

Open = Callable[..., Ledger]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens ledgers in one folder; all are closed at the end."""
    made: list[Ledger] = []

    def start(salt: bytes = SALT, entries: int = 10, now: float = NOW) -> Ledger:
        made.append(Ledger(tmp_path, salt, entries))
        made[-1].open(now)
        return made[-1]

    yield start
    for ledger in made:
        ledger.close()


def app(ledger: Ledger, subject: str = "app", issuer: str = "https://idp", tenant: str = "acme") -> bytes:
    return ledger.holder(tenant, issuer, subject)


def test_a_row_is_its_holders_alone_and_outlives_the_process(opened: Open) -> None:
    ledger = opened()
    ledger.add(HELD, app(ledger), ENTRY)
    ledger.close()
    again = opened()
    assert again.find(HELD, app(again), NOW) == ENTRY
    for other in (app(again, "other"), app(again, issuer="https://idp/"), app(again, tenant="x"), b""):
        assert again.find(HELD, other, NOW) is None
    assert again.find(HELD + "x", app(again), NOW) is None
    assert again.damaged == ""


def test_no_two_holders_share_a_name(opened: Open) -> None:
    ledger = opened()
    assert len({ledger.holder("a", "b", "c"), ledger.holder("ab", "", "c"), ledger.holder("a", "bc", "")}) == 3


def test_it_is_the_owners_file_and_tells_no_path_id_subject_or_role(opened: Open, tmp_path: Path) -> None:
    ledger = opened()
    ledger.add(HELD, app(ledger, "canary-subject"), ENTRY)
    files = list(tmp_path.glob(f"{NAME}*"))
    assert files
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        content = file.read_bytes()
        for canary in (b"canary", b"database", b"creds", b"idp", SALT):
            assert canary not in content


def test_what_has_ended_is_nobodys_and_is_dropped(opened: Open) -> None:
    ledger = opened()
    ledger.add(HELD, app(ledger), ENTRY)
    end = ENTRY.expires + GRACE_SECONDS
    assert ledger.find(HELD, app(ledger), end - 1) == ENTRY
    assert ledger.find(HELD, app(ledger), end) is None
    ledger.drop_ended(end)
    assert len(ledger) == 0


def test_a_full_ledger_forgets_nothing_and_no_holder_fills_it_alone(opened: Open) -> None:
    ledger = opened(entries=4)
    for number in range(2):
        assert ledger.has_room(app(ledger), NOW)
        ledger.add(f"{HELD}{number}", app(ledger), ENTRY)
    assert not ledger.has_room(app(ledger), NOW)
    for subject in ("second", "third"):
        assert ledger.has_room(app(ledger, subject), NOW)
        ledger.add(HELD + subject, app(ledger, subject), ENTRY)
    assert not ledger.has_room(app(ledger, "fourth"), NOW)
    assert ledger.find(f"{HELD}0", app(ledger), NOW) == ENTRY
    assert ledger.has_room(app(ledger), ENTRY.expires + GRACE_SECONDS)


def test_it_knows_the_tokens_that_something_lives_under_and_until_when(opened: Open) -> None:
    ledger = opened()
    for number, (token, left) in enumerate((("one", 10), ("one", 20), ("two", 30), ("", 40), ("three", -1))):
        ledger.add(f"{HELD}{number}", app(ledger), Held(ENTRY.uri, token, NOW + left))
    assert ledger.tokens(NOW) == {"one": NOW + 20, "two": NOW + 30}


@pytest.mark.parametrize("column", ["holder", "sealed", "token", "ref"])
def test_a_row_that_somebody_else_changed_is_nobodys(opened: Open, tmp_path: Path, column: str) -> None:
    ledger = opened()
    ledger.add(HELD, app(ledger), ENTRY)
    ledger.add(HELD + "2", app(ledger, "victim"), ENTRY)
    ledger.close()
    thief = app(ledger, "thief")
    values = {"holder": thief, "sealed": b"x" * 60, "token": "another", "ref": ledger.ref("lease:other")}
    with sqlite3.connect(tmp_path / NAME) as db:
        db.execute(f"UPDATE held SET {column} = ? WHERE ref = ?", (values[column], ledger.ref(HELD)))
    db.close()
    again = opened()
    for name in (HELD, "lease:other"):
        for holder in (app(again), thief):
            assert again.find(name, holder, NOW) is None
    assert again.find(HELD + "2", app(again, "victim"), NOW) == ENTRY


def test_under_another_salt_nothing_is_held(opened: Open) -> None:
    ledger = opened()
    ledger.add(HELD, app(ledger), ENTRY)
    ledger.close()
    other = opened(b"another salt of enough bytes")
    assert other.find(HELD, app(other), NOW) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a database" * 500),
        lambda path: os.truncate(path, 4096),
        lambda path: os.truncate(path, path.stat().st_size // 2 + 100),
        lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096)),
    ],
    ids=["emptied", "other content", "only its head", "cut in the middle", "overwritten"],
)
def test_a_damaged_ledger_is_said_and_kept_and_nobody_holds_anything(
    opened: Open, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    ledger = opened(entries=1000)
    for number in range(200):
        ledger.add(f"{HELD}{number}", app(ledger), ENTRY)
    ledger.close()
    spoil(tmp_path / NAME)
    again = opened()
    assert "damaged" in again.damaged
    assert list(tmp_path.glob(f"{NAME}.damaged-*"))
    assert again.find(f"{HELD}0", app(again), NOW) is None
    again.add(HELD, app(again), ENTRY)
    again.close()
    assert opened().damaged == ""


@pytest.mark.parametrize("kind", ["symlink", "hard link", "folder"])
def test_a_file_that_is_not_its_own_is_refused(opened: Open, tmp_path: Path, kind: str) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"")
    path = tmp_path / NAME
    if kind == "symlink":
        path.symlink_to(other)
    elif kind == "hard link":
        path.hardlink_to(other)
    else:
        path.mkdir()
    with pytest.raises(OSError):
        opened()
    assert other.read_bytes() == b""


@pytest.mark.real
def test_what_was_added_before_a_kill_is_there_after_it(opened: Open, tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom sidecar.leases.ledger import Held, Ledger\n"
        f"ledger = Ledger(Path(sys.argv[1]), {SALT!r}, 10**6)\nledger.open({NOW})\n"
        "holder, number = ledger.holder('acme', 'https://idp', 'app'), 0\n"
        "while True:\n"
        f"    ledger.add(f'lease:{{number}}', holder, Held({ENTRY.uri!r}, 't', {ENTRY.expires}))\n"
        "    print(number, flush=True)\n    number += 1\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = next(line for line in process.stdout if int(line) == 20)  # it goes on writing while it is killed
        process.kill()
    ledger = opened()
    assert ledger.damaged == ""
    for number in range(int(said) + 1):
        assert ledger.find(f"lease:{number}", app(ledger), NOW) is not None, number
