"""A set of policies is put in force as one whole that was understood, or not at all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.tree import Cedar
from sidecar.decision.cedar import CedarPdp, PolicyError, source
from sidecar.decision.cedar.splitting import split
from tests.decision.making import cedar, cedar_folder, question

ANY = "permit (principal, action, resource);"
NONE = "forbid (principal, action, resource);"


def problems(folder: Path) -> tuple[str, ...]:
    with pytest.raises(PolicyError) as refused:
        cedar(folder)
    return refused.value.problems


# -- splitting -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("// only; a comment", []),
        ("a;b;", [(1, "a;", True), (1, "b;", True)]),
        ("a", [(1, "a", False)]),
        ("\n\n// c;\n a\n b;\n// d\n", [(4, "a\n b;", True)]),
        ('"x;y" ; z', [(1, '"x;y" ;', True), (1, "z", False)]),
        ('"a\\";b";', [(1, '"a\\";b";', True)]),
        ('"a\\\\";b;', [(1, '"a\\\\";', True), (1, "b;", True)]),
        ('"// no comment";', [(1, '"// no comment";', True)]),
        ('a // ";\nb;', [(1, 'a // ";\nb;', True)]),
        ('"never ended;', [(1, '"never ended;', True)]),
        ("a / b;", [(1, "a / b;", True)]),
        ('"two\nlines"; x;', [(1, '"two\nlines";', True), (2, "x;", True)]),
        (";", [(1, ";", True)]),
    ],
)
def test_text_is_split_as_cedar_reads_it(text: str, pieces: list[tuple[int, str, bool]]) -> None:
    assert [(piece.line, piece.text, piece.ended) for piece in split(text)] == pieces


@given(
    st.lists(
        st.sampled_from(
            [
                *("permit (principal, action, resource);", '@id("a;b")\n', '// x; "\n', "//", "\n", " ", ";", '"'),
                *(
                    "forbid (principal, action, resource)",
                    'when { context.a == "\\"; //" };',
                    "\\",
                    "/",
                    "\r",
                    "\u2028",
                ),
            ]
        ),
        max_size=12,
    ).map("".join)
)
def test_splitting_finds_the_policies_that_cedar_finds(text: str) -> None:
    """Where Cedar takes the whole text, each piece is one of its policies, and the other way round."""
    pieces = list(split(text))
    try:
        whole: int | None = len(cedarpy.PolicySet.from_str(text))
    except ValueError:
        whole = None
    try:
        single = [len(cedarpy.PolicySet.from_str(piece.text)) for piece in pieces]
    except ValueError:
        assert whole is None
    else:
        assert single == [1] * len(pieces)
        assert whole == len(pieces)


# -- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "where"),
    [
        (f"{ANY}\n\npermit (principal, action);", "0.cedar:3"),
        (f"{ANY}\npermit (principal, action, resource) when {{ 1 + }};", "0.cedar:2"),
        (f"{ANY}\npermit (principal, action, resource)", "0.cedar:2"),
        (f"{ANY}\nnonsense", "0.cedar:2"),
        (f'{ANY}\n"never ended;', "0.cedar:2"),
        (f"{ANY}\n;", "0.cedar:2"),
        (f"{ANY}\npermit (principal == ?principal, action, resource);", "0.cedar:2"),
        (f"{ANY}\n\x00{ANY}", "0.cedar:2"),
        (f"\ufeff{ANY}", "0.cedar:1"),
        (f'@ttl_seconds("0") {ANY}', "0.cedar:1"),
        (f'@ttl_seconds("60s") {ANY}', "0.cedar:1"),
        (f"@max_uses {ANY}", "0.cedar:1"),
        (f'@max_uses("1") @max_uses("2") {ANY}', "0.cedar:1"),
        (f'@max_use("1") {ANY}', "0.cedar:1"),
        (f'@Max_uses("1") {ANY}', "0.cedar:1"),
        (f'@notification("owner") {ANY}', "0.cedar:1"),
        (f'@release("") {ANY}', "0.cedar:1"),
        (f'@ttl_seconds("60") {NONE}', "0.cedar:1"),
        (f'@step_up("gold") {NONE}', "0.cedar:1"),
        (f'@id("") {ANY}', "0.cedar:1"),
        (f'@id("a\\nb") {ANY}', "0.cedar:1"),
        (f'@id("a") {ANY}\n@id("a") {NONE}', "0.cedar:2"),
    ],
)
def test_a_mistake_is_refused_with_its_file_and_line(tmp_path: Path, text: str, where: str) -> None:
    assert problems(cedar_folder(tmp_path / "p", text))[0].startswith(f"{where}: ")


@pytest.mark.parametrize(
    "policy",
    [
        'forbid (principal, action == Action::"raed", resource);',
        'forbid (principal, action in [Action::"read", Action::"list"], resource);',
        'forbid (principal == User::"mallory", action, resource);',
        "forbid (principal is User, action, resource);",
        'forbid (principal in Team::"contractors", action, resource);',
        'forbid (principal, action, resource == Folder::"secret/app");',
        'forbid (principal, action, resource in Path::"secret/app");',
        'forbid (principal, action, resource in Folder::"secret/app/");',
        'forbid (principal, action, resource in Folder::"/secret/app");',
        'forbid (principal, action, resource in Folder::"secret");',
        'forbid (principal, action, resource in Mount::"secret/");',
        'forbid (principal, action, resource in Secret::"secret/app/db");',
        'forbid (principal, action, resource in Secret::"openbao://secret/app/db");',
        'forbid (principal, action, resource in Secret::"openbao+kv2://secret/app/a b");',
        'forbid (principal, action, resource in Secret::"openbao+kv2://secret/app/d%62");',
        'forbid (principal, action, resource) when { resource in Folder::"secret/app/" };',
        'forbid (principal, action, resource) unless { resource in [Folder::"secret/app/"] };',
    ],
)
def test_a_forbid_that_would_never_match_is_refused_and_such_a_permit_is_a_warning(tmp_path: Path, policy: str) -> None:
    assert problems(cedar_folder(tmp_path / "f", ANY, policy))[0].startswith("1.cedar:1: ")
    permit = policy.replace("forbid", "permit")
    assert any(
        warning.startswith("1.cedar:1: ") for warning in cedar(cedar_folder(tmp_path / "p", ANY, permit)).warnings
    )


@pytest.mark.parametrize(
    "policy",
    [
        'forbid (principal, action, resource == Secret::"openbao+kv2://secret/app/db");',
        'forbid (principal, action, resource) when { resource == Secret::"openbao+kv2://secret/app/db" };',
        'forbid (principal, action, resource) when { true && !(Secret::"openbao+kv2://secret/app/db" == resource) };',
    ],
)
def test_a_forbid_that_compares_the_resource_is_a_warning(tmp_path: Path, policy: str) -> None:
    folder = cedar_folder(tmp_path / "p", policy, policy.replace("forbid", "permit").replace("==", "in", 1))
    (warning,) = cedar(folder).warnings
    assert warning.startswith("0.cedar:1: ")
    assert "resource in" in warning


@pytest.mark.parametrize(
    "policy",
    [
        'forbid (principal, action, resource in Secret::"openbao+kv2://secret/app/db#password?version=3");',
        'forbid (principal, action, resource in Secret::"yaml://secret/app#key");',
        'forbid (principal == Workload::"x", action in [Action::"read", Action::"write"], resource in Mount::"ns/kv");',
        'forbid (principal is Workload, action, resource is Secret in Folder::"secret/app");',
        'permit (principal, action, resource) when { principal.scopes.contains("x") };',
    ],
)
def test_what_is_right_gives_no_warning(tmp_path: Path, policy: str) -> None:
    assert cedar(cedar_folder(tmp_path / "p", policy)).warnings == ()


def test_every_problem_is_told_in_one_run(tmp_path: Path) -> None:
    folder = cedar_folder(tmp_path / "p", f'@max_uses("0") {ANY}\nnonsense', f'@id("x") {ANY}', f'@id("x") {ANY}')
    assert [problem.partition(": ")[0] for problem in problems(folder)] == ["0.cedar:1", "0.cedar:2", "2.cedar:1"]


def test_a_folder_without_policies_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert "no *.cedar file" in problems(tmp_path / "p")[0]
    assert "no policy" in problems(cedar_folder(tmp_path / "r", "", "// nothing yet\n"))[0]
    assert "No such file" in problems(tmp_path / "q")[0] or "missing" in problems(tmp_path / "q")[0]


def test_only_cedar_files_of_the_folder_itself_are_read(tmp_path: Path) -> None:
    folder = cedar_folder(tmp_path / "p", ANY)
    (folder / "notes.txt").write_text("nonsense")
    (folder / ".hidden.cedar").write_text("nonsense")
    (folder / "old").mkdir()
    cedar_folder(folder / "old", "nonsense")
    pdp = cedar(folder)
    assert len(pdp) == 1
    assert pdp.warnings == ("old/: policies in sub-folders are not read",)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: os.mkfifo(path), "not a regular file"),
        (lambda path: path.mkdir(), "not a regular file|Is a directory"),
        (lambda path: path.write_bytes(b"// ok\n// \xff\n"), r"x\.cedar:2: is not UTF-8"),
        (lambda path: path.symlink_to(path.parent / "nowhere"), "missing"),
    ],
)
def test_what_is_no_readable_text_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], object], complaint: str
) -> None:
    folder = cedar_folder(tmp_path / "p", ANY)
    make(folder / "x.cedar")
    with pytest.raises(PolicyError, match=complaint):
        cedar(folder)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_BYTES", 100)
    assert "larger" in problems(cedar_folder(tmp_path / "p", ANY * 10))[0]


def test_a_folder_that_changes_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cedar_folder(tmp_path / "p", ANY)
    read_text, reads = source._read_text, 0

    def meddled(path: Path) -> str:
        nonlocal reads
        reads += 1
        text = read_text(path)
        if reads == 1:
            cedar_folder(folder, f"{NONE} // more")
        return text

    monkeypatch.setattr(source, "_read_text", meddled)
    pdp = cedar(folder)
    assert reads == 2
    assert not asyncio.run(pdp.evaluate(question())).permit


def test_a_folder_that_never_holds_still_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cedar_folder(tmp_path / "p", ANY)
    monkeypatch.setattr(source, "PAUSE_SECONDS", 0)
    read_text, reads = source._read_text, 0

    def meddled(path: Path) -> str:
        nonlocal reads
        reads += 1
        cedar_folder(folder, f"{ANY} //{'x' * reads}")
        return read_text(path)

    monkeypatch.setattr(source, "_read_text", meddled)
    assert "changes while it is read" in problems(folder)[0]


# -- reloading -------------------------------------------------------------------------------------------------------
async def test_a_reload_puts_the_new_set_in_force_and_says_so(tmp_path: Path) -> None:
    folder = cedar_folder(tmp_path / "p", ANY)
    changes: list[str] = []
    pdp = CedarPdp(Cedar.model_validate({"policies": folder}), lambda: changes.append("changed"))
    before = pdp.policy_version
    assert not await pdp.reload()
    assert changes == []
    cedar_folder(folder, NONE)
    assert await pdp.reload()
    assert changes == ["changed"]
    assert pdp.policy_version != before
    verdict = await pdp.evaluate(question())
    assert not verdict.permit
    assert verdict.policy_version == pdp.policy_version


@pytest.mark.parametrize("text", ["permit (principal, action", f'@max_uses("0") {ANY}', ""])
async def test_a_bad_set_is_refused_while_the_good_one_stays(tmp_path: Path, text: str) -> None:
    folder = cedar_folder(tmp_path / "p", NONE)
    pdp = cedar(folder)
    before = pdp.policy_version
    if text:
        cedar_folder(folder, text)
    else:
        (folder / "0.cedar").unlink()
    with pytest.raises(PolicyError):
        await pdp.reload()
    assert pdp.policy_version == before
    assert not (await pdp.evaluate(question())).permit


# -- watching --------------------------------------------------------------------------------------------------------
async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def config_map(volume: Path, generation: str, **files: str) -> None:
    """What the kubelet does: a folder of its own for each generation, and the link `..data` swapped in one step."""
    real = volume / f"..{generation}"
    cedar_folder(real, **files)
    (volume / "..data_tmp").symlink_to(real.name)
    (volume / "..data_tmp").rename(volume / "..data")
    for name in files:
        link = volume / f"{name}.cedar"
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}.cedar")


async def test_a_config_map_is_watched(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    config_map(volume, "1", policies=ANY)
    pdp = cedar(volume)
    first = pdp.policy_version
    task = asyncio.create_task(pdp.watch(0.01))
    config_map(volume, "2", policies=NONE)
    await until(lambda: pdp.policy_version != first)
    assert not (await pdp.evaluate(question())).permit
    second = pdp.policy_version
    config_map(volume, "3", policies="nonsense")
    config_map(volume, "4", policies=f"{ANY} // fourth")
    await until(lambda: pdp.policy_version not in (first, second))
    assert (await pdp.evaluate(question())).permit
    task.cancel()


async def test_a_folder_is_not_read_before_it_holds_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody writes the new set policy by policy, a forbid last: no look may find a set without it."""
    folder = cedar_folder(tmp_path / "p", NONE)
    pdp = cedar(folder)
    fingerprint, looks = source.fingerprint, 0

    def looked(config: Cedar) -> source.Fingerprint:
        nonlocal looks
        seen = fingerprint(config)
        if pdp._reloading.locked():
            return seen
        looks += 1
        if looks <= 20:
            cedar_folder(folder, ANY + "//" + "x" * looks)
        elif looks == 21:
            cedar_folder(folder, f"{ANY}\n{NONE}")
        return seen

    monkeypatch.setattr(source, "fingerprint", looked)
    versions = {pdp.policy_version}
    pdp.on_change = lambda: versions.add(pdp.policy_version)
    task = asyncio.create_task(pdp.watch(0.001))
    await until(lambda: len(pdp) == 2)
    task.cancel()
    assert len(versions) == 2


async def test_the_watch_outlives_a_fault_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cedar_folder(tmp_path / "p", NONE)
    pdp = cedar(folder)
    reload, faults = pdp.reload, 0

    async def broken() -> bool:
        nonlocal faults
        if faults == 0:
            faults += 1
            raise KeyError("a bug")
        return await reload()

    monkeypatch.setattr(pdp, "reload", broken)
    task = asyncio.create_task(pdp.watch(0.001))
    cedar_folder(folder, "// first\n" + NONE)
    await until(lambda: faults == 1)
    cedar_folder(folder, ANY)
    await until(lambda: any(policy.permits for chunk in pdp._set.chunks for policy in chunk.policies.values()))
    task.cancel()


async def test_a_refused_set_is_said_once_and_the_watch_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cedar_folder(tmp_path / "p", NONE)
    pdp = cedar(folder)
    reloads = 0
    reload = pdp.reload

    async def counted() -> bool:
        nonlocal reloads
        reloads += 1
        return await reload()

    monkeypatch.setattr(pdp, "reload", counted)
    looks = 0
    fingerprint = source.fingerprint

    def looked(config: Cedar) -> source.Fingerprint:
        nonlocal looks
        looks += 1
        return fingerprint(config)

    monkeypatch.setattr(source, "fingerprint", looked)
    task = asyncio.create_task(pdp.watch(0.005))
    cedar_folder(folder, "nonsense")
    await until(lambda: reloads == 1)
    seen = looks
    await until(lambda: looks > seen + 10)
    assert reloads == 1
    assert not (await pdp.evaluate(question())).permit
    (folder / "0.cedar").unlink()
    cedar_folder(folder, "nonsense", other=ANY)
    cedar_folder(folder, ANY)
    await until(lambda: len(pdp) == 2)
    task.cancel()


# -- what must be fetched --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("condition", "fetches"),
    [
        ("true", False),
        ('principal.sub == "app"', False),
        ('context.operation == "kv2.read"', False),
        ("context has workflow_run_id", False),
        ('context.cnf_binding.kind == "dpop"', False),
        ('resource in Mount::"secret"', False),
        ('resource.path like "owner/*"', False),
        ("resource has owner && resource.owner == principal.sub", True),
        ("resource has owner", True),
        ("resource has created_by", True),
        ('resource.created_at like "2026*"', True),
        ("context.resource_attributes has team", True),
        ("context has resource_attributes.team", True),
        ("context has attributes_unavailable", True),
        ('(if principal.sub == "a" then resource else resource).owner == "x"', True),
        ('[{"a": resource.owner}].isEmpty()', True),
        ('{"c": context} == {"c": context}', True),
        ("(if true then context else context) has owner", True),
    ],
)
async def test_a_set_knows_whether_it_looks_at_metadata(tmp_path: Path, condition: str, fetches: bool) -> None:
    folder = cedar_folder(tmp_path / "p", "permit (principal, action, resource);")
    pdp = cedar(folder)
    assert not pdp.reads_metadata
    cedar_folder(folder, f"forbid (principal, action, resource) unless {{ {condition} }};")
    await pdp.reload()
    assert pdp.reads_metadata is fetches
