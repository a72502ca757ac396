"""Engines of two workers, each with a part of all weights: they compute what the learner computes.

The second model has what parts of a model meet: heads of keys and values that are too few for the workers, a
vocabulary that vLLM pads, and an output layer of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
import torch
from agreement_check import check_agreement
from own_engine import Started, start
from policies import DEVICE, ON_GPU, Policies
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from areal.errors import EngineLost
from areal.models import resolve_model
from areal.rollout.engine import Sampling
from areal.weights.interface import TransferBackend
from areal.weights.sender import open_sender

WORKERS = 2
TOKENS = 480 if ON_GPU else 64
"""Of a sequence. On two cores the scheduler and the workers wait for each other by spinning. GPUs need few
milliseconds for a token: there, short sequences would be over before an update that is meant for them."""
GPUS = torch.cuda.device_count()

pytestmark = pytest.mark.skipif(ON_GPU and GPUS < WORKERS, reason="each worker needs a GPU")


def policies(started: Started, backend: TransferBackend | None = None) -> Policies:
    return Policies(started.engine, started.folder, backend, WORKERS)


@pytest_asyncio.fixture(scope="module")
async def tied() -> AsyncIterator[Started]:
    started = await start(resolve_model("starter"), (0, 1))
    yield started
    await started.engine.close()


@pytest_asyncio.fixture(scope="module")
async def uneven(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Started]:
    folder = tmp_path_factory.mktemp("uneven")
    make_uneven(folder)
    started = await start(str(folder), (0, 1))
    yield started
    await started.engine.close()


def make_uneven(folder: Path) -> None:
    """Make a model of the starter's weights, as far as they go, and of noise."""
    starter = AutoModelForCausalLM.from_pretrained(resolve_model("starter"))
    config = AutoConfig.from_pretrained(resolve_model("starter"))
    config.num_key_value_heads, config.tie_word_embeddings = 1, False
    config.vocab_size += 3
    model = AutoModelForCausalLM.from_config(config)
    known = starter.state_dict()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            rows = known[name][: len(parameter)]
            parameter[: len(rows)] = rows
            parameter += 0.05 * rows.std() * torch.randn(parameter.shape, generator=torch.Generator())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_model("starter")).save_pretrained(folder)


async def test_logprobs_agree_on_both_sides_of_each_update(tied: Started):
    await check_agreement(policies(tied), TOKENS)


@pytest.mark.skipif(ON_GPU, reason="NCCL joins no GPU with itself")
async def test_logprobs_agree_with_weights_by_broadcast(tied: Started):
    """Also after a transfer that failed."""
    lossy = policies(tied, "broadcast")
    await lossy.lose(tied.engine.version + 1)
    await check_agreement(lossy, TOKENS)


@pytest.mark.gpu
async def test_logprobs_agree_with_an_engine_whose_second_gpu_is_the_learners():
    started = await start(resolve_model("starter"), (1, 0))
    await check_agreement(policies(started, "CUDA IPC"), TOKENS)
    await started.engine.close()


@pytest.mark.gpu
@pytest.mark.skipif(GPUS <= WORKERS, reason="the learner needs a GPU, too")
async def test_logprobs_agree_with_an_engine_on_gpus_of_its_own():
    started = await start(resolve_model("starter"), tuple(range(1, 1 + WORKERS)))
    await check_agreement(policies(started, "broadcast"), TOKENS)
    await started.engine.close()


@pytest.mark.long
async def test_logprobs_agree_where_nothing_divides_evenly(uneven: Started):
    await check_agreement(policies(uneven), TOKENS)


@pytest.mark.long
async def test_a_part_that_does_not_come_is_missed(uneven: Started):
    """The last test with this engine."""
    names = dict(policies(uneven).named())
    sent = {name: tensor for name, tensor in names.items() if not name.endswith("0.self_attn.k_proj.weight")}
    backend: TransferBackend = "CUDA IPC" if ON_GPU else "shared memory"
    sender = open_sender([backend], sent.items(), torch.float32, DEVICE, workers=WORKERS)
    await uneven.engine.connect(sender.init_infos())
    sender.write(sent.items())
    complaint = r"does not receive all of its model\.layers\.0\.self_attn\.qkv_proj"
    with pytest.raises(EngineLost, match=complaint) as lost:
        await uneven.engine.load(uneven.engine.version + 1)
    assert str(lost.value).endswith("areal cannot train this model with it")
    sender.close()


def shared_memory() -> set[str]:
    """Names of memory that vLLM's CPU workers share."""
    return {path.name for path in Path("/dev/shm").glob("vllm_dist*")}


async def test_the_death_of_one_worker_is_the_engines_at_once(tied: Started):
    """The last test with this engine. Left alone, vLLM waits 9 s for the worker that is left."""
    running = [
        asyncio.create_task(tied.engine.generate([3, 20, 21, 22, 4], Sampling(500, ignore_eos=True)))
        for _ in range(4)
    ]
    await asyncio.sleep(0.5)
    workers = [process for process in tied.processes if "Worker" in process.name()]
    assert (len(workers), len(tied.processes)) == (WORKERS, WORKERS + 1)
    before = shared_memory()
    workers[-1].kill()
    async with asyncio.timeout(5):
        for request in running:
            with pytest.raises(EngineLost, match="vLLM has died"):
                await request
    assert psutil.wait_procs(tied.processes, timeout=60)[1] == []
    assert shared_memory() <= before
