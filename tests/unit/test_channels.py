"""The learner's ends: one broadcast reaches all engines, and one that fails holds nobody up."""

from __future__ import annotations

import asyncio
import time

import pytest
import torch

from areal.weights.broadcast import BroadcastSource
from areal.weights.channel import open_channels, ways_of
from areal.weights.layout import Layout

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="NCCL joins no card with itself")


def test_an_engine_on_the_learners_card_shares_its_memory_and_the_others_get_a_broadcast():
    assert ways_of("cuda", (1, 2, 0)) == ["broadcast", "broadcast", "CUDA IPC"]
    assert ways_of("cuda", (0,)) == ["CUDA IPC"]
    assert ways_of("cpu", (0, 0)) == ["shared memory", "shared memory"]


async def test_one_broadcast_brings_each_version_to_all_engines():
    parameters = {"a": torch.zeros(5, 7), "b": torch.zeros(3)}
    channels = open_channels(["broadcast"] * 2, parameters.items(), torch.bfloat16)
    sources = [
        BroadcastSource(info["place"], Layout.described(info["layout"]), torch.device("cpu"))
        for info in channels.init_infos()
    ]
    for version in range(1, 4):
        for tensor in parameters.values():
            tensor.copy_(torch.randn(tensor.shape))
        channels.write(parameters.items())
        await channels.load(asyncio.gather(*(asyncio.to_thread(source.receive) for source in sources)))
        for source in sources:
            for name, tensor in source.tensors:
                assert torch.equal(tensor, parameters[name].bfloat16()), (version, name)
    for end in (*sources, channels):
        end.close()


async def test_a_load_that_fails_does_not_wait_for_who_never_comes():
    channels = open_channels(["broadcast"], {"a": torch.zeros(5)}.items(), torch.float32)
    channels.init_infos()
    channels.write({"a": torch.ones(5)}.items())

    async def failing() -> None:
        await asyncio.sleep(0.05)
        raise RuntimeError("the engine died")

    begun = time.monotonic()
    with pytest.raises(RuntimeError, match="the engine died"):
        await channels.load(failing())
    channels.close()
    assert time.monotonic() - begun < 60, "the group's own limit is three minutes"
