"""The learner against plain transformers and hand-worked values; micro-batches; advantages."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from areal.config import LearnerConfig
from areal.errors import UserError
from areal.learner.advantages import group_normalised
from areal.learner.learner import Learner
from areal.learner.microbatches import allocate
from areal.learner.model import load_model, logprobs_and_entropy
from areal.learner.objectives import ppo
from areal.learner.packed import pack
from areal.models import resolve_model
from areal.trajectory import Batch, Group, Trajectory

CPU = torch.device("cpu")
GROUP = 4


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def trajectory(rng: np.random.Generator, prompt: int | np.ndarray, answer: int, reward: float) -> Trajectory:
    if isinstance(prompt, int):
        prompt = rng.integers(6, 380, prompt)
    length = len(prompt) + answer
    mask = np.arange(length) >= len(prompt)
    return Trajectory(
        tokens=np.concatenate([prompt, rng.integers(6, 380, answer)]).astype(np.int32),
        loss_mask=mask,
        logprobs=np.where(mask, rng.normal(-2, 1, length), 0).astype(np.float32),
        versions=np.where(mask, 0, -1).astype(np.int32),
        reward=reward,
    )


def batch(seed: int, groups: int = 2) -> Batch:
    """Groups of one prompt each, as in a run, with answers of all lengths."""
    rng = np.random.default_rng(seed)
    made = []
    for g in range(groups):
        prompt = rng.integers(6, 380, int(rng.integers(1, 9)))
        members = [trajectory(rng, prompt, int(rng.integers(1, 30)), float(k % 2)) for k in range(GROUP)]
        made.append(Group(g, 0, members))
    return Batch(0, made)


def padded_logprobs(model: torch.nn.Module, t: Trajectory, temperature: float) -> torch.Tensor:
    """One sequence through transformers' own attention: log-probabilities of its sampled tokens."""
    logits = model(torch.tensor(t.tokens[None], dtype=torch.long)).logits[0, :-1] / temperature
    chosen = torch.log_softmax(logits, -1).gather(1, torch.tensor(t.tokens[1:, None], dtype=torch.long))
    return chosen[torch.from_numpy(t.loss_mask[1:]), 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_and_plain_agree(temperature: float):
    path = resolve_model("starter")
    packed_model, plain = load_model(path, CPU, torch.float32), AutoModelForCausalLM.from_pretrained(path)
    trajectories = batch(0).trajectories
    logprobs, entropy = logprobs_and_entropy(packed_model, pack(trajectories, CPU), temperature)
    expected = torch.cat([padded_logprobs(plain, t, temperature) for t in trajectories])
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
    assert (entropy >= 0).all()
    weights = torch.randn(len(logprobs), generator=torch.Generator().manual_seed(0))
    (logprobs * weights).sum().backward()
    (expected * weights).sum().backward()
    for left, right in zip(packed_model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_an_update_is_the_one_in_the_paper(minibatches: int):
    """Against a straight-line version: plain attention, every pass made, eq 5 written out, torch's AdamW."""
    settings = LearnerConfig(
        minibatches=minibatches, learning_rate=1e-4, warmup_steps=0, micro_batch_tokens=64, behav_clip=None
    )
    data = batch(1)
    path = resolve_model("starter")
    learner = Learner(path, settings, "cpu", temperature=1.0)
    model = AutoModelForCausalLM.from_pretrained(path)
    metrics = learner.update(data)
    assert learner.version == 1

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0)
    with torch.no_grad():
        prox = [padded_logprobs(model, t, 1.0) for t in data.trajectories]
    advantages = []
    for group in data.groups:
        rewards = np.array([t.reward for t in group.trajectories])
        advantages += list((rewards - rewards.mean()) / (rewards.std() + 1e-6))
    size, norms = len(data.trajectories) // minibatches, []
    for start in range(0, len(data.trajectories), size):
        part = range(start, start + size)
        losses = []
        for i in part:
            t = data.trajectories[i]
            theta = padded_logprobs(model, t, 1.0)
            behav = torch.from_numpy(t.logprobs[t.loss_mask])
            u = (theta - prox[i]).exp()
            a = torch.tensor(advantages[i], dtype=torch.float32)
            losses.append(-(prox[i] - behav).exp() * torch.minimum(u * a, u.clamp(0.8, 1.2) * a))
        optimizer.zero_grad()
        torch.cat(losses).mean().backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
    assert metrics["grad_norm"] == pytest.approx(max(norms), rel=1e-3)
    # Adam's first steps are signs: where a gradient is all but zero, rounding decides. Compare what matters.
    difference = torch.cat(
        [(p - q).flatten() for p, q in zip(learner.model.parameters(), model.parameters(), strict=True)]
    )
    assert difference.abs().mean() < 1e-6
    assert (difference.abs() > 1e-5).float().mean() < 1e-2


def test_trajectories_without_advantage_change_nothing_but_the_denominator():
    settings = LearnerConfig(minibatches=1, warmup_steps=0)
    useful = batch(2, groups=1)
    rng = np.random.default_rng(5)
    idle = Group(9, 0, [trajectory(rng, 3, 10, 1.0) for _ in range(GROUP)])
    alone = Learner(resolve_model("starter"), settings, "cpu", 1.0)
    mixed = Learner(resolve_model("starter"), settings, "cpu", 1.0)
    alone_norm = alone.update(useful)["grad_norm"]
    mixed_norm = mixed.update(Batch(0, [*useful.groups, idle]))["grad_norm"]
    tokens = sum(t.sampled for t in useful.trajectories)
    idle_tokens = sum(t.sampled for t in idle.trajectories)
    assert mixed_norm == pytest.approx(alone_norm * tokens / (tokens + idle_tokens), rel=1e-4)


def test_a_shared_prompt_is_computed_once():
    trajectories = batch(0).trajectories
    prompts = {t.tokens[: t.loss_mask.argmax()].tobytes(): int(t.loss_mask.argmax()) for t in trajectories}
    packed = pack(trajectories, CPU)
    assert len(packed.tokens) == sum(prompts.values()) + sum(t.sampled for t in trajectories)
    assert packed.layout.owned.sum() == len(packed.tokens)


def test_a_batch_without_any_advantage_moves_nothing():
    learner = Learner(resolve_model("starter"), LearnerConfig(minibatches=1), "cpu", 1.0)
    before = copy.deepcopy(learner.model.state_dict())
    rng = np.random.default_rng(0)
    learner.update(Batch(0, [Group(0, 0, [trajectory(rng, 3, 5, 0.0) for _ in range(GROUP)])]))
    assert all(torch.equal(before[k], v) for k, v in learner.model.state_dict().items())
    assert learner.version == 1


def test_state_round_trip_continues_to_the_bit(tmp_path):
    settings = LearnerConfig(minibatches=1, warmup_steps=2)
    straight = Learner(resolve_model("starter"), settings, "cpu", 1.0)
    straight.update(batch(3))
    straight.model.save_pretrained(tmp_path)
    state = straight.state()
    torch.save(state, tmp_path / "s.pt")
    resumed = Learner(str(tmp_path), settings, "cpu", 1.0)
    resumed.load_state(torch.load(tmp_path / "s.pt", weights_only=True))
    assert straight.update(batch(4))["loss"] == resumed.update(batch(4))["loss"]
    for p, q in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q)


# --- the objective ---------------------------------------------------------------------------------------


def test_eq_5_by_hand():
    theta = torch.log(torch.tensor([0.6, 0.6, 0.2, 0.2]))
    prox = torch.log(torch.tensor([0.4, 0.4, 0.4, 0.4]))
    behav = torch.log(torch.tensor([0.5, 0.5, 0.8, 0.8]))
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    # u = 1.5, 1.5, 0.5, 0.5; weights 0.8, 0.8, 0.5, 0.5; ε = 0.2
    token = ppo(theta, prox, behav, advantages, clip=0.2)
    expected = [-0.8 * 1.2, -0.8 * -1.5, -0.5 * 0.5, -0.5 * -0.8]
    torch.testing.assert_close(token.loss, torch.tensor(expected))
    assert token.clipped.tolist() == [True, False, False, True]
    # Naive: u = 1.2, 1.2, 0.25, 0.25 around the policy that sampled.
    naive = ppo(theta, prox, behav, advantages, clip=0.1, decoupled=False)
    torch.testing.assert_close(naive.loss, torch.tensor([-1.1, 1.2, -0.25, 0.9]))
    capped = ppo(theta, prox, behav, advantages, clip=0.2, behav_clip=0.7)
    assert capped.loss[:2].tolist() == [0.0, 0.0]
    torch.testing.assert_close(capped.loss[2:], token.loss[2:])


def test_on_policy_gradient_is_reinforce():
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    same = logprobs.detach()
    ppo(logprobs, same, same, torch.tensor([2.0, -3.0]), clip=0.2).loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-2.0, 3.0]


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.1, 0.3, 1.0]), min_size=4, max_size=4), min_size=1, max_size=5)
)
def test_group_normalised(rewards: list[list[float]]):
    advantages = group_normalised(torch.tensor(rewards).flatten(), 4).view(-1, 4)
    for row, values in zip(advantages.tolist(), rewards, strict=True):
        if len(set(values)) == 1:
            assert row == [0.0] * 4
        else:
            assert sum(row) == pytest.approx(0, abs=1e-4)
            assert math.sqrt(sum(a * a for a in row) / 4) == pytest.approx(1, abs=1e-3)
            order = sorted(range(4), key=lambda i: values[i])
            assert [row[i] for i in order] == sorted(row)


# --- micro-batches ---------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(st.lists(st.integers(1, 100), max_size=60), st.integers(100, 400))
def test_allocation_covers_each_sequence_once_within_the_budget(lengths: list[int], budget: int):
    micros = allocate(lengths, budget)
    assert sorted(i for micro in micros for i in micro) == list(range(len(lengths)))
    for micro in micros:
        assert micro
        assert sum(lengths[i] for i in micro) <= budget


def test_a_sequence_longer_than_the_budget_is_refused():
    with pytest.raises(UserError, match="micro_batch_tokens"):
        allocate([5, 500, 7], 100)
