"""The learner's ends: one broadcast reaches all engines."""

from __future__ import annotations

import asyncio

import pytest
import torch

from areal.weights.broadcast import BroadcastSource
from areal.weights.channel import open_channels, together, ways_of
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
        receiving = asyncio.gather(*(asyncio.to_thread(source.receive) for source in sources))
        await together(receiving, asyncio.to_thread(channels.send))
        for source in sources:
            for name, tensor in source.tensors:
                assert torch.equal(tensor, parameters[name].bfloat16()), (version, name)
    for end in (*sources, channels):
        end.close()
