"""A learner computes what transformers does, also where scores or logits are capped, scaled or shared out."""

from __future__ import annotations

import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from dummy_batches import batch
from transformers import AutoModelForCausalLM

from areal.config import LearnerConfig
from areal.errors import UserError
from areal.learner.attention import packed_attention
from areal.learner.learner import Learner
from areal.learner.model import load_model
from areal.learner.packed import pack
from areal.trajectory import Trajectory

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from families import make

FAMILIES = ["gemma2", "gpt-oss", "granite-scaled", "cohere", "mixtral"]
CPU = torch.device("cpu")


def of_transformers(model: Any, t: Trajectory, temperature: float) -> torch.Tensor:
    logits = model(torch.tensor(t.tokens[None], dtype=torch.long)).logits[0, :-1] / temperature
    chosen = torch.log_softmax(logits, -1).gather(1, torch.tensor(t.tokens[1:, None], dtype=torch.long))
    return chosen[torch.from_numpy(t.loss_mask[1:]), 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_and_gradients_are_those_of_transformers(family: str, tmp_path: Path):
    folder = str(make(family, tmp_path))
    learner = Learner(folder, LearnerConfig(), "cpu", 0.7, 1)
    plain = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    members = batch(0).trajectories
    expected = torch.cat([of_transformers(plain, t, 0.7) for t in members])
    found = learner.policy.accumulate(
        attrgetter("loss"), pack(members, CPU), 0.7, lambda logprobs, entropy, part: logprobs
    )
    torch.testing.assert_close(found.logprobs, expected.detach(), atol=2e-5, rtol=1e-5)
    expected.sum().backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in learner.model.named_parameters():
        gradient = theirs[name].grad
        if gradient is not None and gradient.norm() > 0:
            assert parameter.grad is not None, name
            assert (parameter.grad - gradient).norm() < 1e-3 * gradient.norm(), name


def test_attention_with_something_unknown_is_refused():
    x = torch.zeros(1, 2, 4, 8)
    with pytest.raises(UserError, match="its attention has position_bias"):
        packed_attention(None, x, x, x, None, layout=object(), position_bias=x)  # type: ignore[arg-type]


def test_weights_that_are_not_finite_are_said_to_be_so(tmp_path: Path):
    def break_one(model: torch.nn.Module) -> None:
        with torch.no_grad():
            model.get_parameter("model.layers.1.mlp.up_proj.weight")[0, 0] = torch.nan

    folder = make("llama", tmp_path, break_one)
    with pytest.raises(UserError, match="some weights are NaN or infinite"):
        load_model(str(folder))
