"""Engines come and go between two transfers of weights, and one that hangs or dies holds up nobody."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch
from receiving import Receiving

from areal.weights.interface import TransferBackend
from areal.weights.sender import WeightSender, open_sender
from areal.workers import process
from areal.workers.handle import side_by_side

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="NCCL joins no GPU with itself")

PATIENCE = 90
"""Seconds for what takes well under one on an idle machine; the group's own limit is 180."""


@pytest.fixture
async def engines() -> AsyncIterator[list[Any]]:
    launches = (process.launch(f"engine {number}", {}, Receiving) for number in range(3))
    started = await side_by_side(*launches)
    yield started
    for engine in started:
        engine.kill()


@pytest.fixture
def sender() -> WeightSender:
    return open_sender(["broadcast"], weights(0), torch.float32, "cpu")


def weights(value: float) -> list[tuple[str, torch.Tensor]]:
    return [("a", torch.full((1000, 777), value)), ("b", torch.full((3,), value))]


@pytest.fixture
def sender_in_turn() -> WeightSender:
    return open_sender(["broadcast"], weights(0), torch.float32, "cpu", in_turn=True)


async def connect(sender: WeightSender, engines: list[Any], *backends: TransferBackend) -> None:
    sender.open(backends or ["broadcast"] * len(engines))
    for engine, info in zip(engines, sender.init_infos(), strict=True):
        await engine.call(Receiving.connect, info)


async def send(sender: WeightSender, engines: list[Any], value: float) -> None:
    sender.write(weights(value))
    receiving = [engine.call(Receiving.receive) for engine in engines]
    async with asyncio.timeout(PATIENCE):
        _, *found = await asyncio.gather(asyncio.to_thread(sender.send), *receiving)
    assert found == [value] * len(engines)


async def test_engines_come_and_go_between_two_transfers(sender: WeightSender, engines: list[Any]):
    first, second, third = engines
    value = 0.0
    for there in ([first], [first, second], [third, second], [third], [third, first, second]):
        await connect(sender, there)
        for _ in range(2):
            value += 1
            await send(sender, there, value)
    sender.close()


async def test_an_engine_on_the_learners_host_and_others_elsewhere(sender: WeightSender, engines: list[Any]):
    """As one run may have them: the first maps the memory that the others are sent."""
    await connect(sender, engines[:1], "shared memory")
    await send(sender, engines[:1], 1)
    await connect(sender, engines, "shared memory", "broadcast", "broadcast")
    await send(sender, engines, 2)
    sender.open(["shared memory"])  # its connection stays
    await send(sender, engines[:1], 3)
    sender.close()


async def test_in_turn_each_receives_alone_while_the_others_have_not_begun(
    sender_in_turn: WeightSender, engines: list[Any]
):
    value = 0.0
    for there in (engines[:1], engines, engines[1:]):
        await connect(sender_in_turn, there)
        for _ in range(2):
            value += 1
            sender_in_turn.write(weights(value))
            sending = asyncio.create_task(asyncio.to_thread(sender_in_turn.send))
            async with asyncio.timeout(PATIENCE):
                for engine in there:
                    assert not sending.done()
                    assert await engine.call(Receiving.receive) == value
                await sending
    sender_in_turn.close()


async def test_in_turn_one_that_dies_leaves_alone_those_that_have_not_begun(
    sender_in_turn: WeightSender, engines: list[Any]
):
    await connect(sender_in_turn, engines)
    sending = asyncio.create_task(asyncio.to_thread(sender_in_turn.send))
    assert await engines[0].call(Receiving.receive) == 0
    os.kill(engines[1].pid, signal.SIGKILL)
    await asyncio.sleep(0.5)
    sender_in_turn.open(["broadcast"] * 2)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(RuntimeError):
            await sending
    others = [engines[0], engines[2]]
    await connect(sender_in_turn, others)
    sending = asyncio.create_task(asyncio.to_thread(sender_in_turn.send))
    async with asyncio.timeout(PATIENCE):
        assert [await engine.call(Receiving.receive) for engine in others] == [0, 0]
        await sending
    sender_in_turn.close()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.parametrize("joined", [False, True])
async def test_one_that_hangs_or_dies_ends_its_epoch_and_the_next_goes_on_without_it(
    sender: WeightSender, engines: list[Any], number: signal.Signals, joined: bool
):
    """Before the group has come about, in which case torch waits for it, and afterwards."""
    await connect(sender, engines)
    if joined:
        await send(sender, engines, 1)
    lost, *others = engines
    os.kill(lost.pid, number)
    sending = asyncio.create_task(asyncio.to_thread(sender.send))
    receiving = [asyncio.create_task(engine.call(Receiving.receive)) for engine in others]
    await asyncio.sleep(0.5)
    assert not sending.done() or number == signal.SIGKILL
    sender.open(["broadcast"] * 2)
    async with asyncio.timeout(PATIENCE):
        failures = await asyncio.gather(sending, *receiving, return_exceptions=True)
    # A small tensor may have got through to those who do not pass it on to the lost one.
    assert isinstance(failures[0], RuntimeError | None)
    assert joined or all(isinstance(failure, RuntimeError) for failure in failures)
    await connect(sender, others)
    for value in (2.0, 3.0):
        await send(sender, others, value)
    sender.close()


async def test_an_engine_whose_part_failed_ends_that_of_the_others(sender: WeightSender, engines: list[Any]):
    """Nobody has to tell them: the first to see it says so."""
    await connect(sender, engines)
    await send(sender, engines, 1)
    engines[0].kill()
    receiving = [asyncio.create_task(engine.call(Receiving.receive)) for engine in engines[1:]]
    async with asyncio.timeout(PATIENCE):
        failures = await asyncio.gather(asyncio.to_thread(sender.send), *receiving, return_exceptions=True)
    assert any(isinstance(failure, RuntimeError) for failure in failures)
    sender.close()
