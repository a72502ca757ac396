"""The engine computes what the learner computes, after every update and on both sides of a change.

A stale weight anywhere in the engine shows here: each version differs from the last in every parameter, the
log-probabilities must agree with a plain transformers model that holds just that version, and must not agree
with its neighbors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import torch
from agreement_check import check_agreement
from inside import only
from own_engine import Started, start
from policies import Policies
from transformers import AutoModelForCausalLM, AutoTokenizer

from areal.errors import EngineLost
from areal.models import resolve_model
from areal.rollout.engine import Sampling
from areal.rollout.vllm_engine import VLLMEngine
from areal.rollout.worker import RolloutWorker


@pytest_asyncio.fixture(scope="module")
async def untied(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Started]:
    folder = str(tmp_path_factory.mktemp("untied"))
    model = AutoModelForCausalLM.from_pretrained(resolve_model("starter"), tie_word_embeddings=False)
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        model.lm_head.weight = torch.nn.Parameter(weight + 0.05 * weight.std() * noise)
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_model("starter")).save_pretrained(folder)
    started = await start(folder)
    yield started
    await started.engine.close()


async def test_logprobs_agree_on_both_sides_of_each_update(worker: RolloutWorker):
    await check_agreement(Policies(worker.engine))


async def test_logprobs_agree_with_an_output_layer_of_its_own(untied: Started):
    await check_agreement(Policies(untied.engine, untied.folder))


async def test_nothing_samples_with_weights_that_are_not_what_was_sent(worker: RolloutWorker):
    engine, policies = only(worker), Policies(worker.engine)
    await policies.connect()
    first = await policies.update()
    before = asyncio.create_task(engine.generate([3, 20, 21, 4], Sampling(900, ignore_eos=True)))
    await asyncio.sleep(0.05)  # it is in flight when the weights come
    with pytest.raises(
        EngineLost, match=r"are not those that the learner sent: the digest is \w{16}, not another"
    ):
        await engine.worker.call(VLLMEngine.load, first + 1, "another")
    assert not (await asyncio.wait([before], timeout=2))[0], "generation is paused"
    second = await policies.update()
    assert set((await before).versions) == {first, second}
    policies.close()


async def test_a_load_ends_when_the_engine_dies_in_it(untied: Started):
    """The last test with this engine. vLLM itself never answers a call that its process died in."""
    for process in untied.processes:
        process.suspend()
    loading = asyncio.create_task(untied.engine.load(untied.engine.version + 1))
    assert not (await asyncio.wait([loading], timeout=2))[0]
    for process in untied.processes:
        process.kill()
    with pytest.raises(EngineLost, match="vLLM has died"):
        async with asyncio.timeout(60):
            await loading


async def test_what_is_sampled_where_nothing_is_a_number_is_not_handed_on(worker: RolloutWorker):
    engine, policies = only(worker), Policies(worker.engine)
    await policies.connect()
    await policies.update(float("nan"))
    with pytest.raises(EngineLost, match="log-probability is not finite"):
        await engine.worker.call(VLLMEngine.generate, [3, 20, 21, 4], Sampling(8, ignore_eos=True))
    await policies.update()
    assert len((await engine.generate([3, 20, 21, 4], Sampling(8, ignore_eos=True))).ids) == 8
    policies.close()
