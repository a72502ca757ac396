"""An adapter reaches the engine, which merges it: the factors alone once the weights below them are there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from policies import DEVICE, DISTINCT, ON_GPU, assert_agree

from areal.config import LearnerConfig
from areal.learner.learner import Learner
from areal.learner.packed import pack
from areal.models import resolve_model
from areal.rollout.engine import Completion, Sampling
from areal.rollout.worker import RolloutWorker
from areal.trajectory import Trajectory
from areal.weights.interface import TransferBackend
from areal.weights.sender import open_sender


@pytest.mark.parametrize("base", ["auto", "nf4"])
async def test_the_engine_computes_what_an_adapted_learner_does(worker: RolloutWorker, base: str):
    if base == "nf4":
        pytest.importorskip("bitsandbytes")
    engine = worker.engine
    settings = LearnerConfig(
        lora_rank=8,
        dtype="float32",
        base_precision=base,
        lora_options={"lora_alpha": 5, "use_rslora": True, "rank_pattern": {"o_proj": 3}},
    )
    learner = Learner(resolve_model("starter"), settings, DEVICE, 1.0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # as far as a long training would take it
        for name, parameter in learner.model.named_parameters():
            if "lora_B" in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.device)
    backend: TransferBackend = "CUDA IPC" if ON_GPU else "shared memory"
    learner.move_base(None)
    sender = open_sender([backend], learner.sent_parameters(torch.float32), torch.float32, DEVICE)
    learner.move_base(sender.tensors)
    await engine.connect(sender.init_infos())
    sender.write(Learner(resolve_model("starter"), settings, DEVICE, 1.0).sent_parameters(torch.float32))
    await engine.load(engine.version + 1)
    digest = sender.write(learner.sent_parameters(torch.float32, again=True), whole=False)
    await engine.load(engine.version + 1, digest)
    prompt = [3, 20, 21, 22, 4]
    completion = await engine.generate(prompt, Sampling(max_tokens=100, temperature=1.0, ignore_eos=True))
    assert_agree((logprobs(learner, prompt, completion) - torch.tensor(completion.logprobs)).abs())
    start = Learner(resolve_model("starter"), LearnerConfig(dtype="float32"), DEVICE, 1.0)
    errors = (logprobs(start, prompt, completion) - torch.tensor(completion.logprobs)).abs()
    assert errors.max() > DISTINCT, "the adapter changes what is sampled"
    sender.close()


def logprobs(learner: Learner, prompt: list[int], completion: Completion) -> torch.Tensor:
    ids = completion.ids
    mask = np.arange(len(prompt) + len(ids)) >= len(prompt)
    trajectory = Trajectory(
        tokens=np.array([*prompt, *ids], np.int32),
        loss_mask=mask,
        logprobs=np.zeros(len(mask), np.float32),
        versions=np.where(mask, 0, -1).astype(np.int32),
    )
    with torch.no_grad():
        found = learner.policy(pack([trajectory], torch.device(DEVICE)), 1.0).logprobs
    return found.cpu()
