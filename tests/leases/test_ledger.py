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
from sidecar.leases.names import Holder, Names

SALT = b"a salt of enough bytes"
NOW = 1_000_000.0
HELD = "lease:database/creds/app/canary-id"
ENTRY = Held("openbao+database://database/creds/canary-role", "accessor-one", NOW + 3600)

Open = Callable[..., Ledger]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens ledgers in one folder; all are closed at the end."""
    made: list[Ledger] = []

    def start(*salts: bytes, entries: int = 10, now: float = NOW) -> Ledger:
        made.append(Ledger(tmp_path, salts or [SALT], entries))
        made[-1].open(now)
        return made[-1]

    yield start
    for ledger in made:
        ledger.close()


def app(subject: str = "app", issuer: str = "https://idp", tenant: str = "acme") -> Holder:
    return (tenant, issuer, subject)


def test_a_row_is_its_holders_alone_and_outlives_the_process(opened: Open) -> None:
    ledger = opened()
    ledger.add(HELD, app(), ENTRY)
    ledger.close()
    again = opened()
    assert again.find(HELD, app(), NOW) == ENTRY
    for other in (app("other"), app(issuer="https://idp/"), app(tenant="x"), ()):
        assert again.find(HELD, other, NOW) is None
    assert again.find(HELD + "x", app(), NOW) is None
    assert again.damaged == ""


def test_no_two_holders_share_a_name() -> None:
    names = Names(SALT)
    assert len({names.holder(parts) for parts in (("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""))}) == 3


def test_it_is_the_owners_file_and_tells_no_path_id_subject_or_role(opened: Open, tmp_path: Path) -> None:
    ledger = opened()
    ledger.add(HELD, app("canary-subject"), ENTRY)
    files = list(tmp_path.glob(f"{NAME}*"))
    assert files
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        content = file.read_bytes()
        for canary in (b"canary", b"database", b"creds", b"idp", SALT):
            assert canary not in content


def test_what_has_ended_is_nobodys_and_is_dropped(opened: Open) -> None:
    ledger = opened()
    ledger.add(HELD, app(), ENTRY)
    end = ENTRY.expires + GRACE_SECONDS
    assert ledger.find(HELD, app(), end - 1) == ENTRY
    assert ledger.find(HELD, app(), end) is None
    ledger.drop_ended(end)
    assert len(ledger) == 0


def test_a_full_ledger_forgets_nothing_and_no_holder_fills_it_alone(opened: Open) -> None:
    ledger = opened(entries=4)
    for number in range(2):
        assert ledger.has_room(app(), NOW)
        ledger.add(f"{HELD}{number}", app(), ENTRY)
    assert not ledger.has_room(app(), NOW)
    for subject in ("second", "third"):
        assert ledger.has_room(app(subject), NOW)
        ledger.add(HELD + subject, app(subject), ENTRY)
    assert not ledger.has_room(app("fourth"), NOW)
    assert ledger.find(f"{HELD}0", app(), NOW) == ENTRY
    assert ledger.has_room(app(), ENTRY.expires + GRACE_SECONDS)


def test_it_knows_the_tokens_that_something_lives_under_and_until_when(opened: Open) -> None:
    ledger = opened()
    for number, (token, left) in enumerate((("one", 10), ("one", 20), ("two", 30), ("", 40), ("three", -1))):
        ledger.add(f"{HELD}{number}", app(), Held(ENTRY.uri, token, NOW + left))
    assert ledger.tokens(NOW) == {"one": NOW + 20, "two": NOW + 30}


@pytest.mark.parametrize("column", ["holder", "sealed", "token", "ref"])
def test_a_row_that_somebody_else_changed_is_nobodys(opened: Open, tmp_path: Path, column: str) -> None:
    ledger = opened()
    ledger.add(HELD, app(), ENTRY)
    ledger.add(HELD + "2", app("victim"), ENTRY)
    ledger.close()
    names, thief = Names(SALT), app("thief")
    values = {"holder": names.holder(thief), "sealed": b"x" * 60, "token": "another", "ref": names.held("lease:other")}
    with sqlite3.connect(tmp_path / NAME) as db:
        db.execute(f"UPDATE held SET {column} = ? WHERE ref = ?", (values[column], names.held(HELD)))
    db.close()
    again = opened()
    for name in (HELD, "lease:other"):
        for holder in (app(), thief):
            assert again.find(name, holder, NOW) is None
    assert again.find(HELD + "2", app("victim"), NOW) == ENTRY


def test_a_rotated_salt_takes_nobodys_leases_and_its_rows_move_to_the_new_one(opened: Open) -> None:
    new, older = b"a new salt of enough bytes", b"an older salt of enough bytes"
    ledger = opened()
    for number in range(2):
        ledger.add(f"{HELD}{number}", app(), ENTRY)
    ledger.use([new, SALT, older])
    assert ledger.find(f"{HELD}0", app(), NOW) == ENTRY
    assert ledger.find(f"{HELD}0", app("thief"), NOW) is None
    renewed = Held(ENTRY.uri, ENTRY.token, ENTRY.expires + 60)
    ledger.add(f"{HELD}0", app(), renewed)
    assert len(ledger) == 2
    assert ledger.find(f"{HELD}0", app(), NOW) == renewed
    ledger.add(f"{HELD}2", app(), ENTRY)
    ledger.close()
    # A holder's rows count together, whatever salt they stand under.
    assert not opened(new, SALT, entries=6).has_room(app(), NOW)
    without = opened(new)
    assert [without.find(f"{HELD}{number}", app(), NOW) for number in range(3)] == [renewed, None, ENTRY]
    assert without.tokens(NOW) == {ENTRY.token: renewed.expires}  # nobody's now, and yet not cut off


def test_under_another_salt_nothing_is_held(opened: Open) -> None:
    ledger = opened()
    ledger.add(HELD, app(), ENTRY)
    ledger.close()
    other = opened(b"another salt of enough bytes")
    assert other.find(HELD, app(), NOW) is None


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
        ledger.add(f"{HELD}{number}", app(), ENTRY)
    ledger.close()
    spoil(tmp_path / NAME)
    again = opened()
    assert "damaged" in again.damaged
    assert list(tmp_path.glob(f"{NAME}.damaged-*"))
    assert again.find(f"{HELD}0", app(), NOW) is None
    again.add(HELD, app(), ENTRY)
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
        f"ledger = Ledger(Path(sys.argv[1]), [{SALT!r}], 10**6)\nledger.open({NOW})\n"
        "holder, number = ('acme', 'https://idp', 'app'), 0\n"
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
        assert ledger.find(f"lease:{number}", app(), NOW) is not None, number
