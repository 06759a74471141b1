"""Listings in pages: all of it, nothing twice, never more than a page may cost; and what a cursor does not tell."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sidecar.caller.identity import Caller
from sidecar.errors import Code, Refused
from sidecar.secrets import listings
from sidecar.secrets.cursors import Cursors, Position
from sidecar.secrets.listings import Listings
from sidecar.secrets.providers.port import Provider, Work
from sidecar.surface.secret_uri import SecretUri
from sidecar.surface.secrets.endpoints import ROWS, Call, Endpoint
from sidecar.surface.secrets.operations import Act
from tests.decision.making import caller
from tests.secrets.memory import MemoryDesk

SALT = b"salt-of-enough-bytes"
ROOT = "openbao+kv2://secret/"


class Tree(Provider):
    """A store of names alone, which it gives `at_once`. `listed` counts how often each folder was looked into."""

    can = frozenset({Act.LIST})

    def __init__(self, *paths: str, at_once: int = 0, knows_after: bool = True) -> None:
        self.paths = paths
        self.names_at_once = at_once
        self.knows_after = knows_after
        self.listed: list[str] = []

    async def names(self, work: Work, folder: SecretUri, after: str) -> list[str]:
        below = "".join(f"{name}/" for name in folder.path)
        self.listed.append(below)
        rest = {path.removeprefix(below) for path in self.paths if path.startswith(below)}
        names = sorted({name.partition("/")[0] + ("/" if "/" in name else "") for name in rest})
        if not self.names_at_once or not self.knows_after:
            return names
        return [name for name in names if name > after][: self.names_at_once]


class Desk(MemoryDesk):
    """Hides what holds `hidden`; counts what was decided."""

    def __init__(self, tree: Tree, hidden: str = "\0", who: Caller | None = None) -> None:
        super().__init__(tree, who)
        self.hidden = hidden
        self.decided = 0

    async def visible(self, uris: Sequence[SecretUri]) -> list[bool]:
        self.decided += len(uris)
        return [self.hidden not in "/".join(uri.path) for uri in uris]


def call(endpoint: Endpoint = Endpoint.LIST, **query: str) -> Call:
    row = next(row for row in ROWS if row.endpoint is endpoint)
    return Call(row, {"prefix": ROOT} | query)


async def pages(desk: Desk, asked: Call, most: int = 1000) -> list[list[str]]:
    """Every page's names; fails where it does not end."""
    found: list[list[str]] = []
    cursor = None
    while len(found) < most:
        query = dict(asked.query) | ({"cursor": cursor} if cursor else {})
        reply = await Listings(Cursors(SALT)).answer(replace(asked, query=query), desk)
        found.append([item["uri"].removeprefix(ROOT) for item in reply.body["items"]])
        cursor = reply.body["next"]
        if cursor is None:
            return found
    raise AssertionError("it does not end")


PATHS = ("a", "a-b", "a/b", "a/b/c", "a/b/c/d", "b/x", "b/y", "c", "z/1/2/3/4/5")


@pytest.mark.parametrize("limit", range(1, 12))
@pytest.mark.parametrize("folders", [1, 2, 3, 200])
@pytest.mark.parametrize("candidates", [1, 2, 2000])
async def test_all_pages_together_are_all_secrets_once(
    monkeypatch: pytest.MonkeyPatch, limit: int, folders: int, candidates: int
) -> None:
    """However small a page is, and wherever it ends."""
    monkeypatch.setattr(listings, "MAX_FOLDERS", folders)
    monkeypatch.setattr(listings, "MAX_CANDIDATES", candidates)
    for hidden in ("\0", "b", "a/b/c"):
        for tree in (Tree(*PATHS), Tree(*PATHS, at_once=1), Tree(*PATHS, at_once=2)):
            shown = [name for page in await pages(Desk(tree, hidden), call(limit=str(limit))) for name in page]
            assert sorted(shown) == sorted(path for path in PATHS if hidden not in path)
            assert len(shown) == len(set(shown))


async def test_a_page_costs_what_it_may_and_the_next_looks_at_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that finds nothing comes to its end all the same, through more folders than a page may look into, and
    through one below the other."""
    monkeypatch.setattr(listings, "MAX_FOLDERS", 20)
    for tree in (Tree(*(f"f{n}/secret" for n in range(90))), Tree("/".join("f" for _ in range(90)) + "/secret")):
        desk = Desk(tree)
        found = await pages(desk, call(Endpoint.SEARCH, q="nothing"))
        assert [name for page in found for name in page] == []
        assert len(tree.listed) <= 2 * 91 + 2 * len(found)  # a page comes back to the folders on its way
        assert 5 <= len(found) <= 10


@pytest.mark.parametrize(
    "knows_after", [True, False], ids=["OpenBao", "a server that gives all names whatever is asked"]
)
async def test_a_folder_of_any_size_comes_in_pieces(monkeypatch: pytest.MonkeyPatch, knows_after: bool) -> None:
    """A page asks for no more of it than it may, and names that nobody can be told of hold up nothing."""
    monkeypatch.setattr(listings, "MAX_FOLDERS", 3)
    shown = [f"m{n:03}" for n in range(95)] + ["zz"]
    unnameable = ["a" * 2000 + str(n) for n in range(20)] + [f"n{chr(n)}" for n in range(20, 32)]
    tree = Tree(*shown, *unnameable, at_once=5, knows_after=knows_after)
    found = await pages(Desk(tree), call(limit="10"))
    assert [name for page in found for name in page] == shown
    assert len(tree.listed) <= 3 * len(found)


async def test_a_page_has_no_more_decided_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "MAX_CANDIDATES", 300)
    desk = Desk(Tree(*(f"s{n:04}" for n in range(1000))), hidden="s")
    reply = await Listings(Cursors(SALT)).answer(call(), desk)
    assert (reply.body["items"], desk.decided) == ([], 300)
    assert reply.body["next"]


async def test_a_page_begins_nothing_more_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was decided by then is shown, the rest comes with the next page."""
    now = 0.0
    monkeypatch.setattr("sidecar.secrets.listings.time.monotonic", lambda: now)
    tree = Tree(*(f"f{n}/secret" for n in range(9)))
    desk = Desk(tree)
    names = tree.names

    async def slow(work: Work, folder: SecretUri, after: str) -> list[str]:
        nonlocal now
        now += 2
        return await names(work, folder, after)

    monkeypatch.setattr(tree, "names", slow)
    found = await pages(desk, call())
    assert [name for page in found for name in page] == [f"f{n}/secret" for n in range(9)]
    assert len(found) >= 4


async def test_a_cursor_tells_nothing_and_is_good_for_one_caller_and_question() -> None:
    """The last secret that was looked at may be one that nobody told the caller of."""
    desk = Desk(Tree("hidden-canary", "shown"), hidden="canary")
    reply = await Listings(Cursors(SALT)).answer(call(limit="1"), desk)
    cursor = reply.body["next"]
    if cursor is None:  # both were looked at
        reply = await Listings(Cursors(SALT)).answer(call(limit="1"), Desk(Tree("canary-a", "b", "c"), "canary"))
        cursor = reply.body["next"]
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    assert b"canary" not in raw
    assert b"secret" not in raw
    desk = Desk(Tree("a", "b", "c"))
    cursor = (await Listings(Cursors(SALT)).answer(call(limit="1"), desk)).body["next"]
    tampered = [cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB"), cursor[1:], cursor + "AAAA", "", "A" * 20_000]
    tries = [(desk, call(limit="1", cursor=each)) for each in tampered if each]
    tries += [
        (Desk(Tree("a", "b"), who=caller("other")), call(cursor=cursor)),
        (Desk(Tree("a", "b"), who=caller(issuer="other")), call(cursor=cursor)),
        (desk, call(prefix=f"{ROOT}a", cursor=cursor)),
        (desk, call(Endpoint.SEARCH, q="a", cursor=cursor)),
        (desk, call(cursor=Cursors(b"another salt of enough").seal(Position(ROOT), desk.caller, ()))),
    ]
    for other, asked in tries:
        with pytest.raises(Refused) as caught:
            await Listings(Cursors(SALT)).answer(asked, other)
        assert caught.value.code is Code.MALFORMED_REQUEST
    again = await Listings(Cursors(SALT)).answer(call(limit="1", cursor=cursor), desk)
    assert [item["uri"] for item in again.body["items"]] == [f"{ROOT}b"]


async def test_cursors_of_names_of_like_length_have_one_length() -> None:
    sealed = {len(Cursors(SALT).seal(Position(ROOT, ("n" * size,)), caller(), ())) for size in range(1, 80)}
    assert len(sealed) == 1


async def test_a_name_that_no_cursor_could_stand_at_is_passed_over() -> None:
    """Nobody stops a listing by one long name: whatever is listed has a cursor that fits into a request."""
    longest = "l" * (1024 - len(ROOT))
    shown = [longest, "p/" + "é" * 150 + "/x", "z"]
    found = await pages(Desk(Tree("a" * 2000, f"{longest}l", "f" * 1100 + "/x", "é" * 200, *shown)), call(limit="1"))
    assert [name for page in found for name in page] == [longest, "p/" + "%C3%A9" * 150 + "/x", "z"]
    cursor = Cursors(SALT).seal(Position(ROOT, (longest,)), caller(), ())
    assert len(cursor) < 2048


@pytest.mark.parametrize("hidden", ["", "app"])
async def test_what_is_decided_does_not_depend_on_what_is_looked_for(hidden: str) -> None:
    """Else the time that it takes would tell of names that nobody may know of."""
    seen = set()
    for asked in (
        call(Endpoint.SEARCH, q="nothing"),
        call(Endpoint.SEARCH, q="app"),
        call(prefix=f"{ROOT}ap"),
        call(prefix=f"{ROOT}no"),
    ):
        desk = Desk(tree := Tree("app/db", "app/dc", "apple", "b"), hidden or "\0")
        await pages(desk, asked)
        seen.add((desk.decided, len(tree.listed)))
    assert len(seen) == 1


async def test_a_prefix_is_taken_in_any_spelling_and_may_end_within_a_name() -> None:
    desk = Desk(Tree("app/db", "app/dc", "apple", "b"))
    for prefix, shown in (
        ("openbao://secret/app/", ["app/db", "app/dc"]),
        ("OpenBao+kv2://secret/app/db", ["app/db"]),
        (f"{ROOT}app", ["app/db", "app/dc", "apple"]),
        (ROOT, ["app/db", "app/dc", "apple", "b"]),
    ):
        assert sorted(name for page in await pages(desk, call(prefix=prefix)) for name in page) == shown, prefix
