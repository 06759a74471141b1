"""Turns at the PDP: never more than are open, in order, few after an outage."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.decision.turns import FIRST, Turns


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_after_an_outage_each_answer_doubles_what_may_ask() -> None:
    """Tasks that never end until told: how many have a turn is how many are under way."""
    turns, inside = Turns(64), 0

    async def ask() -> None:
        nonlocal inside
        await turns.take()
        inside += 1

    turns.away()
    tasks = [asyncio.create_task(ask()) for _ in range(200)]
    seen = []
    for _ in range(8):
        await settle()
        seen.append(inside)
        turns.answered()
    assert seen == [FIRST, 4, 8, 16, 32, 64, 64, 64]
    assert turns.waiting == 136
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert turns.waiting == 0


async def test_turns_come_in_the_order_in_which_they_were_asked_for() -> None:
    turns, order = Turns(1), list[int]()

    async def ask(number: int) -> None:
        await turns.take()
        order.append(number)
        turns.give_back()

    await turns.take()
    tasks = [asyncio.create_task(ask(number)) for number in range(5)]
    await settle()
    turns.give_back()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("comes_first", ["turn", "cancellation"])
async def test_a_turn_is_not_lost_by_who_is_cancelled(comes_first: str) -> None:
    turns = Turns(1)
    await turns.take()
    waiter = asyncio.create_task(turns.take())
    await settle()
    if comes_first == "turn":
        turns.give_back()
        waiter.cancel()
    else:
        waiter.cancel()
        turns.give_back()
    await asyncio.gather(waiter, return_exceptions=True)
    async with asyncio.timeout(1):
        await turns.take()
