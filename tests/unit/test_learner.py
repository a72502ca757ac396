"""The learner against plain transformers and straight-line versions of what it does."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import papers
import pytest
import torch
from dummy_batches import GROUP, batch, episode
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from areal.config import LearnerConfig
from areal.config.objective import PRESETS, Objective
from areal.errors import UserError
from areal.learner.attention import runs
from areal.learner.learner import Learner
from areal.learner.minibatches import Splitter
from areal.learner.model import Policy, load_model
from areal.learner.packed import pack
from areal.models import resolve_model
from areal.trajectory import Batch, Group, Trajectory

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def padded_logprobs(model: torch.nn.Module, t: Trajectory, temperature: float) -> torch.Tensor:
    """One sequence through transformers' own attention: log-probabilities of its sampled tokens."""
    logits = model(torch.tensor(t.tokens[None], dtype=torch.long)).logits[0, :-1] / temperature
    chosen = torch.log_softmax(logits, -1).gather(1, torch.tensor(t.tokens[1:, None], dtype=torch.long))
    return chosen[torch.from_numpy(t.loss_mask[1:]), 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_packed_and_plain_agree(temperature: float):
    path = resolve_model("starter")
    packed_model, plain = Policy(load_model(path)), AutoModelForCausalLM.from_pretrained(path)
    trajectories = batch(0).trajectories
    packed = pack(trajectories, CPU)
    weights = torch.randn(len(packed.targets), generator=torch.Generator().manual_seed(0))
    found = packed_model(packed, temperature, lambda logprobs, entropy, part: weights[part] * logprobs)
    expected = torch.cat([padded_logprobs(plain, t, temperature) for t in trajectories])
    torch.testing.assert_close(found.logprobs, expected, atol=1e-5, rtol=1e-6)
    assert (found.entropy >= 0).all()
    found.loss.backward()
    (expected * weights).sum().backward()
    for left, right in zip(packed_model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_an_update_is_the_one_in_the_paper(minibatches: int):
    """Against a straight-line version: plain attention, every pass made, eq 5 written out, torch's AdamW."""
    settings = LearnerConfig(
        minibatches=minibatches,
        learning_rate=1e-4,
        warmup_steps=0,
        micro_batch_tokens=64,
        behav_clip=math.inf,
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
        rewards = np.array([e.reward for e in group.episodes])
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
    idle = Group(9, 0, [episode(rng, 3, 10, 1.0) for _ in range(GROUP)])
    alone = Learner(resolve_model("starter"), settings, "cpu", 1.0)
    mixed = Learner(resolve_model("starter"), settings, "cpu", 1.0)
    alone_norm = alone.update(useful)["grad_norm"]
    mixed_norm = mixed.update(Batch(0, [*useful.groups, idle]))["grad_norm"]
    tokens = sum(t.sampled for t in useful.trajectories)
    idle_tokens = sum(t.sampled for t in idle.trajectories)
    assert mixed_norm == pytest.approx(alone_norm * tokens / (tokens + idle_tokens), rel=1e-4)


@pytest.mark.parametrize("name", PRESETS)
def test_packed_and_padded_gradients_agree(name: str):
    """Several micro-batches of packed rows, against one padded batch and the formula of the paper."""
    path, longest = resolve_model("starter"), 30
    settings = LearnerConfig(objective=name, minibatches=1, micro_batch_tokens=64, warmup_steps=0)
    learner = Learner(path, settings, "cpu", 1.0, max_new_tokens=longest)
    data = near(learner, batch(6, groups=3))
    for e in data.groups[1].episodes:
        e.reward = 1.0  # of no advantage within its group
    found: list[torch.Tensor] = []
    learner.policy._optimizer.register_step_pre_hook(
        lambda *_: found.extend(p.grad.clone() for p in learner.model.parameters())
    )
    norm = learner.update(data)["grad_norm"]

    model = AutoModelForCausalLM.from_pretrained(path)
    loss = papers.loss(name, padded(model, data), longest)
    loss.backward()
    scale = min(1.0, settings.grad_clip / (norm + 1e-6))
    for left, right in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(left, right.grad * scale, atol=2e-5, rtol=1e-3)


def near(learner: Learner, data: Batch) -> Batch:
    """Give the samples log-probabilities that are near the policy's own, as in a run."""
    rng = np.random.default_rng(0)
    for t in data.trajectories:
        own = learner.policy(pack([t], CPU), 1.0).logprobs
        t.logprobs[t.loss_mask] = own.numpy() + rng.normal(0, 0.3, t.sampled)
    return data


def padded(model: torch.nn.Module, data: Batch) -> list[papers.Sequence]:
    """All sequences as rows of one batch, padded on the right, through transformers' own attention."""
    trajectories = data.trajectories
    ids = torch.zeros(len(trajectories), max(map(len, trajectories)), dtype=torch.long)
    for row, t in enumerate(trajectories):
        ids[row, : len(t)] = torch.from_numpy(t.tokens.astype(np.int64))
    mask = torch.arange(ids.shape[1]) < torch.tensor([[len(t)] for t in trajectories])
    logprobs = torch.log_softmax(model(ids, attention_mask=mask.long()).logits[:, :-1], -1)
    chosen = logprobs.gather(-1, ids[:, 1:, None])[..., 0].double()
    made = []
    for row, t in enumerate(trajectories):
        theta = chosen[row, : len(t) - 1][torch.from_numpy(t.loss_mask[1:])]
        own, behav = theta.detach(), torch.from_numpy(t.logprobs[t.loss_mask]).double()
        values = torch.zeros(len(theta))  # the critic's head begins at 0
        made.append(papers.Sequence(theta, own, behav, own, values, data.episodes[row].reward, row // GROUP))
    return made


@pytest.mark.parametrize(
    "objective", [{"objective": "ppo"}, {"kl": 0.1, "entropy": 0.01}, {"objective": "gspo"}]
)
def test_the_cut_into_micro_batches_changes_nothing(objective: dict[str, Any]):
    data = batch(7, groups=4)
    settings = LearnerConfig(**objective, minibatches=2)
    many = settings.model_copy(update={"micro_batch_tokens": 64})
    norms = [
        [learner.update(data)["grad_norm"] for _ in range(2)]
        for learner in (Learner(resolve_model("starter"), s, "cpu", 1.0) for s in (settings, many))
    ]
    assert norms[0] == pytest.approx(norms[1], rel=2e-3)


def test_kl_and_entropy_see_trajectories_without_advantage():
    rng = np.random.default_rng(5)
    idle = Batch(0, [Group(9, 0, [episode(rng, 3, 10, 1.0) for _ in range(GROUP)])])
    for choice, moves in (({}, False), ({"entropy": 0.01}, True), ({"kl": 0.1}, True)):
        learner = Learner(resolve_model("starter"), LearnerConfig(minibatches=1, **choice), "cpu", 1.0)
        with torch.no_grad():  # away from the reference
            learner.model.get_input_embeddings().weight[5:50] += 0.1
        assert (learner.update(idle)["grad_norm"] > 0) == moves, choice


def test_the_entropy_bonus_raises_entropy_and_kl_pulls_to_the_reference():
    data = batch(8, groups=2)
    for e in data.episodes:
        e.reward = 0.0
    settings = LearnerConfig(minibatches=1, warmup_steps=0, learning_rate=1e-4, entropy=1.0)
    learner = Learner(resolve_model("starter"), settings, "cpu", 1.0)
    entropies = [learner.update(data)["policy/entropy"] for _ in range(8)]
    assert entropies[-1] > entropies[0] + 0.05
    settings = LearnerConfig(minibatches=1, warmup_steps=0, learning_rate=1e-4, kl=1.0)
    moved, learner = learner, Learner(resolve_model("starter"), settings, "cpu", 1.0)
    learner.model.load_state_dict(moved.model.state_dict())
    divergence = [learner.update(data)["policy/reference_kl"] for _ in range(8)]
    assert 0 <= divergence[-1] < divergence[0] / 2


def test_the_critic_learns_what_to_expect():
    rng = np.random.default_rng(1)
    prompts = [rng.integers(6, 380, 5) for _ in range(2)]
    data = Batch(
        0,
        [
            Group(g, 0, [episode(rng, prompt, 8, float(g)) for _ in range(GROUP)])
            for g, prompt in enumerate(prompts)
        ],
    )
    settings = LearnerConfig(
        objective="ppo", minibatches=1, warmup_steps=0, learning_rate=1e-9, critic_learning_rate=1e-3
    )
    learner = Learner(resolve_model("starter"), settings, "cpu", 1.0)
    rows = [learner.update(data) for _ in range(20)]
    assert rows[0]["critic/explained"] <= 0
    assert rows[-1]["critic/explained"] > 0.9
    assert rows[-1]["critic/loss"] < rows[0]["critic/loss"] / 10


def test_a_shared_prompt_is_computed_once():
    trajectories = batch(0).trajectories
    prompts = {t.tokens[: t.loss_mask.argmax()].tobytes(): int(t.loss_mask.argmax()) for t in trajectories}
    packed = pack(trajectories, CPU)
    assert len(packed.tokens) == sum(prompts.values()) + sum(t.sampled for t in trajectories)
    assert packed.layout.owned.sum() == len(packed.tokens)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_attention_pads_little_and_sorted_sequences_make_few_runs(lengths: list[int]):
    def cut_of(of: list[int]) -> list[list[int]]:
        found = runs(of)
        assert [longest for _, _, longest in found] == [max(of[a:b]) for a, b, _ in found]
        return [of[a:b] for a, b, _ in found]

    cut = cut_of(lengths)
    assert [length for run in cut for length in run] == lengths
    assert all(3 * min(run) >= 2 * max(run) for run in cut)
    assert len(cut_of(sorted(lengths, reverse=True))) <= 1 + math.log(max(lengths) / min(lengths), 1.5)


def test_a_batch_without_any_advantage_moves_nothing():
    learner = Learner(resolve_model("starter"), LearnerConfig(minibatches=1), "cpu", 1.0)
    before = copy.deepcopy(learner.model.state_dict())
    rng = np.random.default_rng(0)
    learner.update(Batch(0, [Group(0, 0, [episode(rng, 3, 5, 0.0) for _ in range(GROUP)])]))
    assert all(torch.equal(before[k], v) for k, v in learner.model.state_dict().items())
    assert learner.version == 1


@pytest.mark.parametrize("objective", ["decoupled-ppo", "ppo"])
def test_state_round_trip_continues_to_the_bit(objective: str, tmp_path: Path):
    settings = LearnerConfig(objective=objective, minibatches=1, warmup_steps=2)
    straight = Learner(resolve_model("starter"), settings, "cpu", 1.0)
    straight.update(batch(3))
    torch.save(straight.state(), tmp_path / "s.pt")
    resumed = Learner(resolve_model("starter"), settings, "cpu", 1.0)
    resumed.load_state(torch.load(tmp_path / "s.pt", weights_only=True))
    assert straight.update(batch(4))["loss"] == resumed.update(batch(4))["loss"]
    assert straight.update(batch(5)) | {"time/train": 0, "learner/tokens_per_s": 0} == (
        resumed.update(batch(5)) | {"time/train": 0, "learner/tokens_per_s": 0}
    )
    for p, q in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_checkpoint_without_a_critic_is_refused():
    without = Learner(resolve_model("starter"), LearnerConfig(), "cpu", 1.0).state()
    with pytest.raises(UserError, match="no critic"):
        Learner(resolve_model("starter"), LearnerConfig(objective="ppo"), "cpu", 1.0).load_state(without)


# --- the objective ---------------------


def test_how_an_episode_is_cut_into_minibatches_and_trajectories():
    """Minibatches have whole groups, whatever the numbers of their trajectories; shares are the episodes'."""
    data = batch(4, groups=4)
    extra = batch(5, groups=1).trajectories
    data.groups[0].episodes[0].trajectories += extra[:2]
    data.groups[3].episodes[1].trajectories += extra[2:3]
    objective = Objective(aggregation="sequence-mean", entropy=0.1)  # nothing is left out
    found, _ = Splitter(objective, 2, 4096, 64, CPU).split(data)
    for minibatch, groups in zip(found, (data.groups[:2], data.groups[2:]), strict=True):
        episodes = [e for group in groups for e in group.episodes]
        (micro,) = minibatch
        assert len(micro.share) == sum(e.sampled for e in episodes)
        expected = sorted(1 / (2 * GROUP * e.sampled) for e in episodes for _ in range(e.sampled))
        assert sorted(micro.share.tolist()) == pytest.approx(expected)
        assert float(micro.share.sum()) == pytest.approx(1)
        assert len(set(micro.packed.owner.tolist())) == sum(len(e.trajectories) for e in episodes)


def test_each_token_has_the_advantage_of_its_turn_whatever_micro_batch_it_is_in():
    data = batch(6, groups=2)
    for k, outcome in enumerate(data.episodes):
        (t,) = outcome.trajectories
        start = int(t.loss_mask.argmax())
        t.turns, t.calls, t.rewards = [start], [0], [float(k)]
        if t.sampled > 2:  # two turns, with a token of an observation between them
            t.loss_mask[start + 1] = False
            t.turns, t.calls, t.rewards = [start, start + 2], [0, 1], [float(k), 2.0 * k]
    objective = Objective(advantage="group-centered", turn_discount=0.0, entropy=0.1)
    found, _ = Splitter(objective, 1, 64, 64, CPU).split(data)
    (micros,) = found
    assert len(micros) > 1
    got = {
        float(b): float(a)
        for m in micros
        if m.advantages is not None
        for b, a in zip(m.packed.behav, m.advantages, strict=True)
    }
    for group in data.groups:
        means = [sum(t.rewards) / len(t.rewards) for t in group.trajectories]
        for t in group.trajectories:
            for i in np.flatnonzero(t.loss_mask):
                own = t.rewards[-1] if i >= t.turns[-1] else t.rewards[0]
                assert got.pop(float(t.logprobs[i])) == pytest.approx(own - sum(means) / GROUP, abs=1e-5)
    assert not got
