"""The file on disk: whose it may be, and that writers, editors and crashes leave one whole file."""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.private_file import NotPrivateError, check_private, read_private
from sidecar.errors import Code, Refused
from sidecar.secrets.changes import Changed, PathLocks, change, to_value, without_key
from sidecar.secrets.providers.port import Conflict
from sidecar.secrets.providers.yaml_file import YamlFile, store
from tests.secrets.yaml_file.making import Working, private, uri

ROOT = Path(__file__).parents[3]
TEXT = "# kept\nsecret:\n  app:\n    db: # too\n      password: canary-old\n"
DB = uri("app/db")
KEY = uri("app/db#password")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return private(tmp_path / "secrets.yaml", TEXT)


def provider(path: Path) -> YamlFile:
    return YamlFile(path, read_only=False)


async def write(file: YamlFile, name: str, value: Any) -> Changed:
    one = uri(name)
    return await change(Working(), file, one, to_value(one, value), None)


# -- whose it may be -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622, 0o601, 0o644, 0o777])
async def test_a_file_open_to_others_is_not_served(path: Path, mode: int) -> None:
    """Neither at the start nor later; the remedy is said, the content is not."""
    file = provider(path)
    await file.start()
    path.chmod(mode)
    with pytest.raises(NotPrivateError, match="chmod 600"):
        await provider(path).start()
    calls = (
        file.read(Working(), DB),
        write(file, "app/db#password", "new"),
        file.names(Working(), uri("app/"), ""),
    )
    for refused in calls:
        with pytest.raises(Refused) as raised:
            await refused
        assert raised.value.code is Code.UPSTREAM_UNAVAILABLE
        assert str(path) not in raised.value.message
    assert f"{mode:04o}" in file.problem
    assert path.read_text() == TEXT
    path.chmod(0o600)
    assert (await file.read(Working(), DB)).values == {"password": "canary-old"}
    assert file.problem == ""


async def test_a_link_a_pipe_a_folder_and_nothing_are_no_files(path: Path, tmp_path: Path) -> None:
    link, pipe = tmp_path / "link.yaml", tmp_path / "pipe.yaml"
    link.symlink_to(path)
    os.mkfifo(pipe, 0o600)
    for other, said in ((link, "symbolic link"), (pipe, "regular"), (tmp_path, "regular"), (tmp_path / "no", "opened")):
        with pytest.raises(NotPrivateError, match=said):
            await provider(other).start()


def test_another_users_file_is_refused(path: Path) -> None:
    """Only root can make one: the look at what was opened is put to the test instead."""
    seen = path.stat()
    fields = list(seen)
    fields[stat.ST_UID] = os.geteuid() + 1
    check_private(path, seen)
    with pytest.raises(NotPrivateError, match="another user"):
        check_private(path, os.stat_result(fields))


def test_more_than_was_wanted_is_not_read(path: Path) -> None:
    with pytest.raises(NotPrivateError, match="larger"):
        read_private(path, len(TEXT) - 1)
    assert read_private(path, len(TEXT)) == TEXT.encode()


async def test_a_lock_or_a_new_file_laid_by_another_is_not_written_through(path: Path, tmp_path: Path) -> None:
    """A symbolic link in the place of the lock leads nowhere."""
    victim = tmp_path / "victim"
    (tmp_path / f".{path.name}.lock").symlink_to(victim)
    with pytest.raises(Refused) as raised:
        await write(provider(path), "app/db#password", "new")
    assert raised.value.code is Code.UPSTREAM_ERROR
    assert not victim.exists()
    assert path.read_text() == TEXT


# -- what is in it -------------------------------------------------------------------------------------------------
async def test_it_is_read_anew_when_it_changed(path: Path) -> None:
    """An edit of the same length within the same tick too; a broken file is not served, and says the line."""
    file = provider(path)
    assert (await file.read(Working(), DB)).values["password"] == "canary-old"
    path.write_text(TEXT.replace("canary-old", "canary-new"))
    assert (await file.read(Working(), DB)).values["password"] == "canary-new"
    path.write_text(TEXT + "    db: 1\n")
    with pytest.raises(Refused) as raised:
        await file.read(Working(), DB)
    assert raised.value.code is Code.UPSTREAM_UNAVAILABLE
    assert "canary" not in f"{raised.value.message}{raised.value.detail}{file.problem}"
    assert "line 6" in file.problem
    with pytest.raises(ValueError, match=r"yaml_provider\.path: line 6"):
        await provider(path).start()


async def test_a_change_keeps_comments_and_mode(path: Path) -> None:
    file = provider(path)
    before = path.stat().st_ino
    made = await write(file, "app/db#password", "new")
    assert (made.version, made.created) == (None, False)
    assert path.read_text() == TEXT.replace("canary-old", '"new"')
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_ino != before
    assert (await write(file, "new/one#k", [1])).created
    await change(Working(), file, KEY, without_key("password"), None)
    assert (await file.read(Working(), DB)).values == {}
    await file.delete(Working(), DB)
    with pytest.raises(Refused):
        await file.read(Working(), DB)
    assert path.read_text() == "# kept\nsecret:\n  new:\n    one:\n      k: [1]\n"


async def test_what_lies_where(path: Path) -> None:
    private(path, "secret:\n  app:\n    k: 1\n    db:\n      x: 1\n    folder:\n      deep: {}\n")
    file = provider(path)
    assert await file.names(Working(), uri(""), "") == ["app", "app/"]
    assert await file.names(Working(), uri("app/"), "") == ["db", "folder/"]
    assert await file.names(Working(), uri("nothing/"), "") == []
    assert await file.keys(Working(), uri("app")) == ["k"]
    assert (await file.read(Working(), uri("app"))).values == {"k": 1}
    with pytest.raises(Refused):
        await file.read(Working(), uri("app/folder"))


# -- others at the same time ---------------------------------------------------------------------------------------
async def test_writers_of_two_sidecars_lose_no_write(path: Path) -> None:
    """Those of one wait for each other, as in `Changes.put`; the file's lock is between the two."""
    both = [(provider(path), PathLocks()) for _ in range(2)]

    async def one(number: int) -> None:
        file, locks = both[number % 2]
        async with locks.of(DB):
            await write(file, f"app/db#k{number}", number)

    await asyncio.gather(*map(one, range(100)))
    values = (await provider(path).read(Working(), DB)).values
    assert values == {"password": "canary-old", **{f"k{number}": number for number in range(100)}}


async def test_a_killed_writer_leaves_a_whole_file(path: Path) -> None:
    """What it said it had written is there; what it left beside is taken away by the next."""
    command = [sys.executable, "-m", "tests.secrets.yaml_file.writer", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [f"k{int(process.stdout.readline())}" for _ in range(5)]
        process.kill()
    file = provider(path)
    found = (await file.read(Working(), uri("app/raced"))).values
    assert set(said) <= found.keys()
    private(path.with_name(f".{path.name}.{'0a' * 8}.new"), "half")
    await write(file, "app/raced#last", 1)
    assert {each.name for each in path.parent.iterdir()} == {path.name, f".{path.name}.lock"}
    assert path.read_text().startswith("# kept\n")


async def test_a_neighbours_drafts_are_left_alone(path: Path) -> None:
    """Under another lock its writer may be about to put them in place."""
    named = private(path.with_name("a[bc]*.yaml"), path.read_text())
    theirs = [path.with_name(f".{name}.{'0a' * 8}.new") for name in ("ab.yaml", "a[bc]*.yaml.x", "aXYZ.yaml")]
    for draft in theirs:
        private(draft, "half")
    own = private(named.with_name(f".{named.name}.{'0a' * 8}.new"), "half")
    await write(provider(named), "app/db#a", 1)
    assert all(draft.exists() for draft in theirs)
    assert not own.exists()


async def test_a_lock_that_is_held_for_long_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.05)
    file = provider(path)
    await write(file, "app/db#a", 1)
    with path.with_name(f".{path.name}.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Refused) as raised:
            await write(file, "app/db#b", 1)
    assert raised.value.code is Code.UPSTREAM_UNAVAILABLE
    await write(file, "app/db#b", 1)


async def test_a_file_that_was_saved_meanwhile_is_not_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not between looking and writing of one change, and not between reading and changing of one permit."""
    file = provider(path)
    saved = TEXT.replace("canary-old", "by-an-editor")
    real = os.fsync

    def save_first(handle: int) -> None:
        monkeypatch.setattr(os, "fsync", real)
        private(path, saved)
        real(handle)

    monkeypatch.setattr(os, "fsync", save_first)
    await write(file, "app/db#other", 1)
    assert (await file.read(Working(), DB)).values == {"password": "by-an-editor", "other": 1}
    work = Working()
    await file.current(work, DB)
    private(path, saved)
    for late in (file.write(work, DB, {"password": "late"}, None), file.delete(work, DB)):
        with pytest.raises(Conflict):
            await late
    assert path.read_text() == saved


async def test_a_full_disk_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    file = provider(path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Refused) as raised:
        await write(file, "app/db#password", "new")
    assert raised.value.code is Code.UPSTREAM_ERROR
    assert path.read_text() == TEXT
    assert {each.name for each in path.parent.iterdir()} == {path.name, f".{path.name}.lock"}


async def test_there_are_no_versions(path: Path) -> None:
    with pytest.raises(Refused) as raised:
        await change(Working(), provider(path), KEY, to_value(KEY, "new"), 1)
    assert raised.value.code is Code.UNSUPPORTED_OPERATION
