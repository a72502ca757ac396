"""Weights by a broadcast, as between GPUs: the engine computes what was sent, version after version.

On one GPU there are no two to broadcast between; on two,
``benchmarks/weight_update.py --disaggregated`` does it.
Like all that loads other weights, it runs after test_engine.py and test_examples.py.
"""

from __future__ import annotations

import asyncio

import pytest
import torch
from inside import only, set_interruption
from policies import Policies, assert_agree, error

from areal.rollout.engine import Completion, Interruption, Partial, Sampling
from areal.rollout.worker import RolloutWorker

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="NCCL joins no GPU with itself")

PROMPT = [3, 20, 21, 22, 4]


async def test_one_sender_after_another_brings_each_version_to_the_engine(worker: RolloutWorker):
    for _ in range(2):
        policies = Policies(worker.engine, backend="broadcast")
        await policies.connect()
        for _ in range(3):
            in_flight: list[asyncio.Task[Completion]] = []

            async def begin(begun: list[asyncio.Task[Completion]] = in_flight) -> None:
                asked = worker.engine.generate(PROMPT, Sampling(900, ignore_eos=True))
                begun.append(asyncio.create_task(asked))
                await asyncio.sleep(0.05)  # it is in flight when the weights come

            version = await policies.update(ready=begin)
            completion = await worker.engine.generate(PROMPT, Sampling(64, ignore_eos=True))
            assert set(completion.versions) == {version}
            assert_agree(error(policies.logits(version, PROMPT, completion.ids), completion))
            assert (await in_flight[0]).versions[-1] == version
        policies.close()


@pytest.mark.parametrize("mode", ["recompute", "drain"])
async def test_a_transfer_that_fails_leaves_an_engine_that_goes_on(worker: RolloutWorker, mode: Interruption):
    """It stays paused, and loads over another connection; each token knows what has sampled it."""
    engine, policies = only(worker), Policies(worker.engine, backend="broadcast")
    await engine.worker.call(set_interruption, mode)
    await policies.connect()
    first = await policies.update()
    tokens, known = 900 if mode == "recompute" else 9, Partial()
    before = asyncio.create_task(engine.generate(PROMPT, Sampling(tokens, ignore_eos=True), known))
    await asyncio.sleep(0.05)
    for _ in range(2):
        await policies.lose(first + 1)
    begun = asyncio.create_task(engine.generate(PROMPT, Sampling(64, ignore_eos=True)))
    assert not (await asyncio.wait([begun], timeout=0.5))[0], "generation is paused"
    assert engine.version == first
    if mode == "recompute":
        async with asyncio.timeout(60):
            while not known.ids:  # noqa: ASYNC110 (it comes every second)
                await asyncio.sleep(0.1)
    await policies.connect()
    for version in (first + 1, first + 2):
        assert await policies.update() == version
    completions = [await before, await begun]
    for completion in completions:
        assert completion.versions == sorted(completion.versions)
        for version in set(completion.versions):
            errors = error(policies.logits(version, PROMPT, completion.ids), completion)
            assert_agree(errors[torch.tensor(completion.versions) == version])
    assert completions[0].versions[0] == first
    count = len(known.ids)
    assert known.ids == completions[0].ids[:count], "what is known meanwhile is what is returned at the end"
    assert known.versions == completions[0].versions[:count]
    assert known.logprobs == pytest.approx(completions[0].logprobs[:count])
    assert first not in completions[1].versions
    policies.close()
    await engine.worker.call(set_interruption, "recompute")
