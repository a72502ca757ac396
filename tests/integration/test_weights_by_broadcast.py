"""Weights by a broadcast, as between GPUs: the engine computes what was sent, version after version.

On one GPU there are no two to broadcast between; on two,
``benchmarks/weight_update.py --disaggregated`` does it.
Like all that loads other weights, it runs after test_engine.py and test_examples.py.
"""

from __future__ import annotations

import asyncio

import pytest
import torch
from policies import Policies, assert_agree, error

from areal.rollout.engine import Sampling
from areal.rollout.worker import RolloutWorker

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="NCCL joins no GPU with itself")

PROMPT = [3, 20, 21, 22, 4]


async def test_one_sender_after_another_brings_each_version_to_the_engine(worker: RolloutWorker):
    for _ in range(2):
        policies = Policies(worker.engine, backend="broadcast")
        await policies.connect()
        for _ in range(3):
            before = asyncio.create_task(worker.engine.generate(PROMPT, Sampling(900, ignore_eos=True)))
            await asyncio.sleep(0.05)  # it is in flight when the weights come
            version = await policies.update()
            completion = await worker.engine.generate(PROMPT, Sampling(64, ignore_eos=True))
            assert set(completion.versions) == {version}
            assert_agree(error(policies.logits(version, PROMPT, completion.ids), completion))
            assert (await before).versions[-1] == version
        policies.close()
