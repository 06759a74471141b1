"""The book of leases: several requests about one lease that end at once."""

from __future__ import annotations

from pathlib import Path

import orjson

from sidecar.caller.identity import Caller
from sidecar.clock import SystemClock
from sidecar.leases.book import LeaseBook
from sidecar.leases.ledger import Ledger
from tests.surface.asking import TABLE, ask

APP = Caller("app", "https://idp.example")
LEASE = "database/creds/app/some-id"


def answer(seconds: int) -> bytes:
    return orjson.dumps({"lease_id": LEASE, "lease_duration": seconds})


async def test_of_two_renewals_the_later_end_counts_whichever_answer_came_last(tmp_path: Path) -> None:
    """Else the token under it would be let go before what the other answer promised has ended."""
    book = LeaseBook(Ledger(tmp_path, [b"a salt of enough bytes"], 10), "acme", lambda: TABLE, SystemClock())
    await book.open()
    try:
        await book.note(ask("GET", "/v1/database/creds/app"), APP, answer(60), "keeper")
        renewal = ask("PUT", f"/v1/sys/leases/renew/{LEASE}")
        began = SystemClock().wall()
        for seconds in (7200, 30):
            await book.note(renewal, APP, answer(seconds))
        assert (await book.in_use())["keeper"] >= began + 7200
        await book.note(ask("PUT", f"/v1/sys/leases/revoke/{LEASE}"), APP, b"")
        await book.note(renewal, APP, answer(7200))  # its answer came after that of the revocation
        assert await book.in_use() == {}
        await book.claim(renewal, APP)
    finally:
        await book.close()
