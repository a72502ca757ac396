"""Workers that other processes call: the same answers and errors, and no part in the worker's life."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from toys import Toy, doubled, fails_later, noted, waits_elsewhere

from areal.errors import UserError, WorkerLost
from areal.workers.attach import Address, attach, listen
from areal.workers.handle import Handle
from areal.workers.process import launch


async def listening() -> tuple[Handle[Toy], Address]:
    toy = await launch("toy", {}, Toy)
    return toy, await toy.call(listen, "toy", "127.0.0.1")


async def until_noted(toy: Handle[Toy], notes: list[str]) -> None:
    async with asyncio.timeout(60):
        while True:
            if await toy.call(Toy.seen) == notes:
                return
            await asyncio.sleep(0.01)


async def test_calls_answers_and_cancellation():
    toy, address = await listening()
    attached = await attach(address)
    assert await attached.call(Toy.seen) == []
    await toy.call(Toy.work, 0.0, "ours")
    assert await attached.call(Toy.seen) == ["ours"], "it is the same worker"
    waiting = asyncio.ensure_future(attached.call(noted, "theirs"))
    await until_noted(toy, ["ours", "theirs"])
    waiting.cancel()
    await until_noted(toy, ["ours", "theirs", "theirs cancelled"])
    with pytest.raises(TypeError, match="only the process that started toy"):
        await attached.call(doubled, 3)
    failures = (("user", UserError, "give another"), ("foreign", RuntimeError, "Foreign: 3: no"))
    for kind, error, text in failures:
        with pytest.raises(error, match=text):
            await attached.call(fails_later, kind)
    await attached.close()
    with pytest.raises(WorkerLost, match="toy was lost: it was closed"):
        await attached.call(Toy.seen)
    assert await toy.call(Toy.add) == 1, "the worker goes on"
    await toy.close()


async def test_from_another_process():
    toy, address = await listening()
    other = await launch("other", {}, Toy)
    waiting = asyncio.ensure_future(other.call(waits_elsewhere, address, "from there"))
    await until_noted(toy, ["from there"])
    other.kill()
    with pytest.raises(WorkerLost, match="other ended"):
        await waiting
    await until_noted(toy, ["from there", "from there cancelled"])  # nobody waits for it any more
    await toy.close()


async def test_the_end_of_the_worker_ends_what_is_attached():
    toy, address = await listening()
    attached = await attach(address)
    waiting = asyncio.ensure_future(attached.call(noted, "x"))
    await until_noted(toy, ["x"])
    toy.kill()
    with pytest.raises(WorkerLost, match="toy was lost: its connection was closed"):
        await waiting
    await asyncio.gather(attached.ended, toy.ended)
    with pytest.raises(WorkerLost, match=r"toy cannot be reached at 127\.0\.0\.1:"):
        await attach(address)


async def test_nobody_comes_in_without_the_token():
    toy, address = await listening()
    stranger = await attach(replace(address, token=b"x" * len(address.token)))
    with pytest.raises(WorkerLost):
        await stranger.call(Toy.seen)
    attached: Any = await attach(address)
    assert await attached.call(Toy.seen) == []
    attached.kill()
    await toy.close()
