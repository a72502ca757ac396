"""Weights by CUDA IPC: many updates and many senders in one engine's life agree, and leave no memory behind.

Agreement on both sides of each update, in all modes, is in test_weights.py and test_interruption.py, which
use CUDA IPC on a GPU.
"""

from __future__ import annotations

import asyncio

import pytest
import torch
from policies import Policies, assert_agree, error

from areal.rollout.engine import Engine, Sampling
from areal.rollout.worker import RolloutWorker

pytestmark = pytest.mark.gpu

PROMPT = [3, 20, 21, 22, 4]
MARGIN = 64 * 2**20
"""Bytes by which the memory in use may differ: allocators keep some. A leak of each update is larger."""


def used() -> int:
    """Bytes in use on the GPU, by all processes."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return total - free


async def agree(engine: Engine, policies: Policies) -> None:
    completion = await engine.generate(PROMPT, Sampling(max_tokens=64, ignore_eos=True))
    assert set(completion.versions) == {engine.version}
    assert_agree(error(policies.logits(engine.version, PROMPT, completion.ids), completion))


async def test_fifty_updates_in_a_row_agree_and_leak_nothing(worker: RolloutWorker):
    # With the starter model an update that leaked would leak 4 MB, 200 MB in all.
    policies = Policies(worker.engine)
    await policies.connect()
    for _ in range(5):
        await policies.update()
    before = used()
    for number in range(50):
        running = asyncio.create_task(worker.engine.generate(PROMPT, Sampling(40, ignore_eos=True)))
        await policies.update()
        await running
        if number % 10 == 9:
            await agree(worker.engine, policies)
        policies.references.clear()
    assert used() - before < MARGIN
    policies.close()


async def test_one_sender_after_another_leaks_nothing(worker: RolloutWorker):
    held = []
    for _ in range(40):  # each holds 4 MB
        policies = Policies(worker.engine)
        await policies.connect()
        await policies.update()
        await agree(worker.engine, policies)
        policies.close()
        held.append(used())
    assert held[-1] - held[5] < MARGIN
