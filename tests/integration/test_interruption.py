"""The three modes of interruption: versions exact to the token, and what each token was computed upon.

How ``recompute`` agrees with the learner on both sides of each update is in test_weights.py.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import torch
from inside import only, set_interruption
from policies import ON_GPU, TOLERANCE, Policies, assert_agree, error

from areal.rollout.engine import Completion, Engine, Interruption, Sampling
from areal.rollout.worker import RolloutWorker
from areal.runtime.worker_engine import WorkerEngine

PROMPTS = [[3, 20 + i, 21, 22 + i % 3, 4] for i in range(8)]
LONG = Sampling(max_tokens=480, temperature=0.8, ignore_eos=True)


@pytest_asyncio.fixture
async def engine(worker: RolloutWorker) -> AsyncIterator[WorkerEngine]:
    engine = only(worker)
    yield engine
    await engine.worker.call(set_interruption, "recompute")


@pytest_asyncio.fixture
async def policies(worker: RolloutWorker) -> AsyncIterator[Policies]:
    made = Policies(worker.engine)
    await made.connect()
    await made.update()
    yield made
    made.close()


def begin(engine: Engine, prompts: list[list[int]], sampling: Sampling) -> list[asyncio.Task[Completion]]:
    return [asyncio.create_task(engine.generate(prompt, sampling)) for prompt in prompts]


def interrupted(completions: list[Completion]) -> int:
    return sum(len(set(c.versions)) > 1 for c in completions)


async def test_keep_samples_from_the_new_weights_upon_the_old_cache(engine: WorkerEngine, policies: Policies):
    await engine.worker.call(set_interruption, "keep")
    running: list[asyncio.Task[Completion]] = []
    # On a busy machine a round of sequences may be over before the update that was meant for it arrives.
    while interrupted([r.result() for r in running if r.done()]) < 8 and len(running) < 80:
        if all(r.done() for r in running):
            running += begin(engine, PROMPTS, LONG)
        await engine.generate(PROMPTS[0], Sampling(60, ignore_eos=True))  # then all are in flight
        await policies.update()
    completions = await asyncio.gather(*running)

    assert interrupted(completions) >= 8
    kept, recomputed = [], []
    for prompt, completion in zip(itertools.cycle(PROMPTS), completions, strict=False):
        assert completion.versions == sorted(completion.versions)
        assert len(completion.ids) == 480
        kept.append(error(policies.logits_on_kept_cache(prompt, completion), completion, 0.8))
        last = completion.versions[-1]
        after = completion.versions.index(last)
        if after:
            plain = error(policies.logits(last, prompt, completion.ids), completion, 0.8)
            recomputed.append(plain[after:])
    assert_agree(torch.cat(kept))
    # The old cache matters: without it the log-probabilities would be others.
    assert torch.cat(recomputed).mean() > 3 * torch.cat(kept).mean()
    if not ON_GPU:  # where rounding is smaller by far than what the cache is worth
        assert torch.stack([errors.max() for errors in recomputed]).median() > 5 * TOLERANCE


async def test_drain_gives_no_sequence_two_versions(engine: WorkerEngine, policies: Policies):
    await engine.worker.call(set_interruption, "drain")
    old = engine.version
    before = begin(engine, PROMPTS, LONG)
    await engine.generate(PROMPTS[0], Sampling(5, ignore_eos=True))
    loading = asyncio.create_task(policies.update())
    await asyncio.sleep(0.1)  # now it waits for them
    during = begin(engine, PROMPTS[:4], Sampling(40, temperature=0.8, ignore_eos=True))
    await asyncio.wait(before)
    assert not loading.done()
    assert not any(r.done() for r in during), "no new request enters the engine while it drains"
    new = await loading
    assert new == engine.version == old + 1
    for tasks, version in ((before, old), (during, new)):
        for prompt, task in zip(PROMPTS, tasks, strict=False):
            completion = await task
            assert set(completion.versions) == {version}
            assert_agree(error(policies.logits(version, prompt, completion.ids), completion, 0.8))


@pytest.mark.parametrize("mode", ["recompute", "keep", "drain"])
async def test_a_new_request_reads_no_cache_of_older_weights(
    engine: WorkerEngine, policies: Policies, mode: Interruption
):
    """Requests with one long prompt come before, at, and after each update, from turn to turn."""
    await engine.worker.call(set_interruption, mode)
    prompt = [3, *(20 + i * 7 % 60 for i in range(300)), 4]  # some whole blocks of the cache
    few = Sampling(max_tokens=6, ignore_eos=True)
    begun: list[asyncio.Task[Completion]] = []
    for round_number in range(6):
        first = await engine.generate(prompt, few)  # its blocks are cached now
        begun += begin(engine, [prompt], Sampling(60, ignore_eos=True))  # and held by this one
        await asyncio.sleep(0.01)
        begun += begin(engine, [prompt] * 3, few)
        await asyncio.sleep(0.001 * round_number)
        loading = asyncio.create_task(policies.update())
        while not loading.done():
            begun += begin(engine, [prompt], few)
            await asyncio.sleep(0.01)
        begun += begin(engine, [prompt] * 3, few)
        turn = await engine.generate([*prompt, *first.ids], few)
        check(policies, [*prompt, *first.ids], turn, mode)
    for task in begun:
        check(policies, prompt, await task, mode)


def check(policies: Policies, prompt: list[int], completion: Completion, mode: Interruption) -> None:
    """Whatever began under its first version was computed from there on as the mode says, and not before."""
    if mode == "keep":
        assert_agree(error(policies.logits_on_kept_cache(prompt, completion), completion))
        return
    for version in set(completion.versions):
        of_it = torch.tensor(completion.versions) == version
        assert_agree(error(policies.logits(version, prompt, completion.ids), completion)[of_it])
