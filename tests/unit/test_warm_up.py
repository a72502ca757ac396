"""Warming up compiles all that updates need before the first batch, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dummy_batches import batch

from areal.config import LearnerConfig
from areal.learner.attention import Kernel
from areal.learner.dummy_batch import dummy_batch
from areal.learner.learner import Learner
from areal.models import resolve_model
from areal.trajectory import Batch

KERNEL = Kernel("one for all sequences, as on a GPU", lambda q, k, v, *_: q + k.mean() + v.mean())
"""Its arguments are compiled for."""


def made(**settings: Any) -> Learner:
    torch.set_num_threads(1)
    config = LearnerConfig(warmup_steps=0, micro_batch_tokens=512, compile=True, **settings)
    return Learner(resolve_model("starter"), config, "cpu", 1.0, max_new_tokens=64, kernel=KERNEL)


@pytest.fixture
def graphs(monkeypatch) -> Any:
    """How many graphs were compiled, by a backend that is at once done."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **settings: compile(f, backend="eager", **settings))
    torch._dynamo.reset()
    counts = torch._dynamo.utils.counters["stats"]
    before = counts["unique_graphs"]
    return lambda: counts["unique_graphs"] - before


@pytest.mark.parametrize(
    "settings",
    [
        {"minibatches": 2},
        {"objective": "grpo"},
        {"objective": "ppo", "minibatches": 2, "kl": 0.1},
        {"advantage": "gae"},
        {"dtype": "bfloat16", "lora_rank": 2},
        {"dtype": "bfloat16", "lora_rank": 2, "base_precision": "nf4"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_updates_compile_nothing_that_the_warm_up_did_not(settings: dict[str, Any], graphs):
    learner = made(**settings)
    learner.warm_up()
    compiled = graphs()
    assert compiled > 0
    shared, alone = batch(0, groups=4), batch(1, groups=4)
    for number, t in enumerate(alone.trajectories):
        t.tokens[0] = 6 + number
    for members in (shared, alone, batch(2, groups=24)):
        learner.update(Batch(learner.version, members.groups))
    assert graphs() == compiled


@pytest.mark.parametrize("settings", [{"dtype": "bfloat16", "minibatches": 2}, {"advantage": "gae"}])
def test_warming_up_changes_nothing(settings: dict[str, Any], graphs):
    warm, other = made(**settings), made(**settings)
    warm.warm_up()
    assert graphs() > 0
    assert all(p.grad is None for p in warm.model.parameters())
    one, two = warm.state(), other.state()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    metrics = [learner.update(batch(3, groups=4)) for learner in (warm, other)]
    assert metrics[0]["loss"] == metrics[1]["loss"]
    assert metrics[0]["grad_norm"] == metrics[1]["grad_norm"]


@pytest.mark.parametrize(("tokens", "longest"), [(40, 0), (700, 16), (16384, 1024)])
def test_a_dummy_batch_fills_each_minibatch(tokens: int, longest: int):
    found = dummy_batch(3, tokens, longest)
    assert len(found.groups) % 3 == 0
    size = len(found.trajectories) // 3
    for start in range(0, len(found.trajectories), size):
        total = sum(len(t) for t in found.trajectories[start : start + size])
        assert 0.5 * tokens < total <= tokens
    assert max(t.sampled for t in found.trajectories) <= (longest or 10**9)
