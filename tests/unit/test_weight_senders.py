"""The learner's sender: one broadcast reaches all engines."""

from __future__ import annotations

import asyncio

import pytest
import torch

from areal.weights.broadcast import BroadcastReceiver
from areal.weights.layout import WeightLayout
from areal.weights.sender import open_sender, transfer

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="NCCL joins no GPU with itself")


@pytest.mark.parametrize("workers", [1, 2])
async def test_one_broadcast_brings_each_version_to_all_workers_of_all_engines(workers: int):
    parameters = {"a": torch.zeros(5, 7), "b": torch.zeros(3)}
    sender = open_sender(["broadcast"] * 2, parameters.items(), torch.bfloat16, "cpu", workers=workers)
    receivers = [
        BroadcastReceiver(
            info["address"], WeightLayout.from_dict(info["layout"]), torch.device("cpu"), worker
        )
        for info in sender.init_infos()
        for worker in range(workers)
    ]
    assert len(receivers) == 2 * workers
    for version in range(1, 4):
        for tensor in parameters.values():
            tensor.copy_(torch.randn(tensor.shape))
        sender.write(parameters.items())
        receiving = asyncio.gather(*(asyncio.to_thread(receiver.receive) for receiver in receivers))
        await transfer(receiving, asyncio.to_thread(sender.send))
        for receiver in receivers:
            for name, tensor in receiver.tensors:
                assert torch.equal(tensor, parameters[name].bfloat16()), (version, name)
    for end in (*receivers, sender):
        end.close()
