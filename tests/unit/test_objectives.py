"""Every objective against its paper, in value and gradient; advantages; shares; presets and their table."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import papers
import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from areal.config import LearnerConfig, dump_config, load_config, override_config, parse_config
from areal.config.objective import CHOICES, PRESETS, Objective
from areal.errors import UserError
from areal.learner.advantages import (
    gae,
    global_normalized,
    group_centered,
    group_normalized,
    leave_one_out,
    of_returns,
    overlong_penalty,
    whiten,
)
from areal.learner.credit import assign, response_lengths, turn_lengths
from areal.learner.objectives import TokenLoss, Tokens, shares, token_loss
from areal.trajectory import Episode, Trajectory

GROUP = 4
LONGEST = 12


def responses(seed: int, groups: int, spread: float) -> list[papers.Sequence]:
    """Ragged responses; policies that differ by ``spread`` in log-probability; some equal rewards."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(groups * GROUP):
        length = int(rng.integers(1, LONGEST + 1))
        theta = rng.uniform(-4, -0.1, length)
        prox, behav, reference = (theta + rng.normal(0, spread, length) for _ in range(3))
        tensors = [torch.from_numpy(x) for x in (theta, prox, behav, reference, rng.normal(0, 1, length))]
        tensors[0].requires_grad_()
        reward = 1.0 if i < GROUP else float(rng.choice([0.0, 0.1, 1.0]))
        made.append(papers.Sequence(*tensors, reward=reward, group=i // GROUP))
    return made


def areal_loss(objective: Objective, sequences: list[papers.Sequence]) -> torch.Tensor:
    """The same with areal's functions, all sequences in one micro-batch."""
    lengths = torch.tensor([len(s.theta) for s in sequences])
    owner = torch.repeat_interleave(torch.arange(len(sequences)), lengths)
    rewards = torch.tensor([s.reward for s in sequences], dtype=torch.float64)
    if objective.overlong:
        rewards = rewards - overlong_penalty(lengths, LONGEST, objective.overlong)
    if objective.advantage == "gae":
        values = torch.cat([s.values for s in sequences])
        advantages = whiten(gae(values, rewards, owner, objective.gamma, objective.gae_lambda))
    else:
        advantages = of_returns(objective.advantage, rewards[:, None], lengths[:, None], GROUP)[owner, 0]
    theta, prox, behav, reference = (
        torch.cat([getattr(s, name) for s in sequences]) for name in ("theta", "prox", "behav", "reference")
    )
    token = token_loss(objective, Tokens(theta, prox, behav, advantages, owner, None, reference))
    return (token.loss * shares(objective.aggregation, lengths, LONGEST)[owner]).sum()


@pytest.mark.parametrize("name", PRESETS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), groups=st.integers(1, 4), spread=st.sampled_from([0.0, 0.01, 0.3, 2.0]))
@example(seed=151, groups=2, spread=0.0)  # an overlong response's reward is then that of the others
def test_a_preset_is_its_paper(name: str, seed: int, groups: int, spread: float):
    sequences = responses(seed, groups, spread)
    theta = [s.theta for s in sequences]
    ours = areal_loss(Objective(objective=name), sequences)
    theirs = papers.loss(name, sequences, LONGEST)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5, abs=1e-7)
    gradients = zip(
        torch.autograd.grad(ours, theta, materialize_grads=True),
        torch.autograd.grad(theirs, theta, allow_unused=True, materialize_grads=True),
        strict=True,
    )
    for left, right in gradients:
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("changed", [{}, {"decoupled": True, "behav_mode": "truncate"}, {"kl": 0.1}])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_no_ratio_is_too_extreme(name: str, changed: dict[str, Any], data: st.DataObject):
    """Log-probabilities from certain to impossible, of each policy on its own: all stays finite."""
    size = data.draw(st.integers(1, 8))
    extreme = st.sampled_from([0.0, -1e-3, -1.0, -30.0, -100.0, -1e4])

    def column() -> torch.Tensor:
        return torch.tensor([data.draw(extreme) for _ in range(size)])

    theta, advantages = column().requires_grad_(), torch.randn(size) * 3
    owner = torch.tensor(sorted(data.draw(st.integers(0, 2)) for _ in range(size)))
    tokens = Tokens(theta, column(), column(), advantages, owner, None, column())
    token = token_loss(Objective(objective=name, behav_clip=math.inf, **changed), tokens)
    assert token.loss.isfinite().all()
    (gradient,) = torch.autograd.grad(token.loss.sum(), theta)
    assert gradient.isfinite().all()


# --- by hand ---------------------------------------------------------------------------------------------


def loss_of(objective: Objective, ratios: list[float], advantages: list[float], weight: float) -> TokenLoss:
    """One token a sequence, π_θ/π_prox and π_prox/π_behav as given."""
    prox = torch.log(torch.tensor([0.1] * len(ratios)))
    theta, behav = prox + torch.tensor(ratios).log(), prox - math.log(weight)
    owner = torch.arange(len(ratios))
    return token_loss(objective, Tokens(theta, prox, behav, torch.tensor(advantages), owner))


def test_eq_5_by_hand():
    theta = torch.log(torch.tensor([0.6, 0.6, 0.2, 0.2]))
    prox = torch.log(torch.tensor([0.4, 0.4, 0.4, 0.4]))
    behav = torch.log(torch.tensor([0.5, 0.5, 0.8, 0.8]))
    tokens = Tokens(theta, prox, behav, torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.arange(4))
    # u = 1.5, 1.5, 0.5, 0.5; weights 0.8, 0.8, 0.5, 0.5; ε = 0.2
    token = token_loss(Objective(), tokens)
    expected = [-0.8 * 1.2, -0.8 * -1.5, -0.5 * 0.5, -0.5 * -0.8]
    torch.testing.assert_close(token.loss, torch.tensor(expected))
    assert token.clipped.tolist() == [True, False, False, True]
    # Naive: u = 1.2, 1.2, 0.25, 0.25 around the policy that sampled.
    naive = token_loss(Objective(clip=0.1, decoupled=False), tokens)
    torch.testing.assert_close(naive.loss, torch.tensor([-1.1, 1.2, -0.25, 0.9]))
    at_most = Objective().model_copy(update={"behav_clip": 0.7})  # less than a run can set
    masked = token_loss(at_most, tokens)
    assert masked.loss[:2].tolist() == [0.0, 0.0]
    torch.testing.assert_close(masked.loss[2:], token.loss[2:])
    truncated = token_loss(at_most.model_copy(update={"behav_mode": "truncate"}), tokens)
    torch.testing.assert_close(truncated.loss[:2], token.loss[:2] * 0.7 / 0.8)
    torch.testing.assert_close(truncated.loss[2:], token.loss[2:])


def test_each_bound_of_the_ratio_by_hand():
    ratios, advantages = [0.5, 1.5, 4.0, 0.5, 1.5, 4.0], [1.0, 1.0, 1.0, -1.0, -1.0, -1.0]
    higher = loss_of(Objective(clip_high=0.6), ratios, advantages, 1.0)
    torch.testing.assert_close(higher.loss, torch.tensor([-0.5, -1.5, -1.6, 0.8, 1.5, 4.0]))
    dual = loss_of(Objective(dual_clip=3.0), ratios, advantages, 1.0)
    torch.testing.assert_close(dual.loss, torch.tensor([-0.5, -1.2, -1.2, 0.8, 1.5, 3.0]))
    assert dual.clipped.tolist() == [False, True, True, True, False, True]
    unbounded = loss_of(Objective(clip=math.inf), ratios, advantages, 2.0)
    torch.testing.assert_close(unbounded.loss, -2 * torch.tensor(ratios) * torch.tensor(advantages))
    cispo = loss_of(Objective(surrogate="cispo", dual_clip=1.1), ratios, advantages, 1.0)
    counted = torch.tensor([0.8, 1.2, 1.2, -0.8, -1.1, -1.1])
    torch.testing.assert_close(cispo.loss, -counted * (math.log(0.1) + torch.tensor(ratios).log()))


def test_kl_and_entropy_by_hand():
    objective = Objective(kl=0.5, entropy=0.25)
    theta, zero = torch.log(torch.tensor([0.2, 0.2])), torch.zeros(2)
    reference, entropy = torch.log(torch.tensor([0.2, 0.4])), torch.tensor([1.0, 2.0])
    token = token_loss(objective, Tokens(theta, theta, theta, zero, zero.long(), entropy, reference))
    divergence = [0.0, 2 - 1 - math.log(2)]
    expected = [0.5 * d - 0.25 * h for d, h in zip(divergence, [1.0, 2.0], strict=True)]
    torch.testing.assert_close(token.loss, torch.tensor(expected))
    with pytest.raises(ValueError, match="reference"):
        token_loss(objective, Tokens(theta, theta, theta, zero, zero.long(), entropy))
    with pytest.raises(ValueError, match="entropy"):
        token_loss(Objective(entropy=0.1), Tokens(theta, theta, theta, zero, zero.long()))


@pytest.mark.parametrize("name", [name for name in PRESETS if not Objective(objective=name).kl])
def test_on_policy_every_objective_is_reinforce(name: str):
    """All policies equal: the gradient of each token is −Â, or its sequence's mean where the ratio is one."""
    logprobs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    same, owner = logprobs.detach(), torch.tensor([0, 0, 1])
    advantages = torch.tensor([2.0, 2.0, -3.0])
    token = token_loss(Objective(objective=name), Tokens(logprobs, same, same, advantages, owner))
    (gradient,) = torch.autograd.grad(token.loss.sum(), logprobs)
    torch.testing.assert_close(gradient, -advantages)


# --- advantages ------------------------------------------------------------------------------------------

groups_of_rewards = st.lists(
    st.lists(st.sampled_from([0.0, 0.1, 0.3, 1.0]), min_size=4, max_size=4), min_size=1, max_size=5
)


@given(groups_of_rewards)
def test_advantages_within_a_group(rewards: list[list[float]]):
    flat = torch.tensor(rewards).view(-1, 1)
    normal, centered, others = (
        f(flat, torch.ones_like(flat), 4).view(-1, 4)
        for f in (group_normalized, group_centered, leave_one_out)
    )
    for row, values in enumerate(rewards):
        if len(set(values)) == 1:
            assert normal[row].tolist() == centered[row].tolist() == others[row].tolist() == [0.0] * 4
            continue
        mean = sum(values) / 4
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / 4)
        for i, value in enumerate(values):
            assert float(centered[row, i]) == pytest.approx(value - mean, abs=1e-6)
            assert float(normal[row, i]) == pytest.approx((value - mean) / spread, abs=1e-3)
            rest = [v for j, v in enumerate(values) if j != i]
            assert float(others[row, i]) == pytest.approx(value - sum(rest) / 3, abs=1e-6)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 1.0]), st.integers(1, 9)), min_size=1, max_size=20))
def test_global_advantages_are_normal_over_tokens(responses: list[tuple[float, int]]):
    rewards, lengths = torch.tensor([a[0] for a in responses]), torch.tensor([a[1] for a in responses])
    advantages = global_normalized(rewards[:, None], lengths[:, None])[:, 0]
    if len(set(rewards.tolist())) == 1:
        assert advantages.tolist() == [0.0] * len(responses)
        return
    each = advantages.repeat_interleave(lengths)
    assert float(each.mean()) == pytest.approx(0, abs=1e-5)
    assert float(each.std(correction=0)) == pytest.approx(1, abs=1e-3)


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    gamma=st.sampled_from([1.0, 0.9]),
    gae_lambda=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_gae_is_its_sum(lengths: list[int], gamma: float, gae_lambda: float, seed: int):
    rng = torch.Generator().manual_seed(seed)
    values, rewards = torch.randn(sum(lengths), generator=rng), torch.randn(len(lengths), generator=rng)
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    found = gae(values, rewards, owner, gamma, gae_lambda)
    for s, start in enumerate(accumulate([0, *lengths[:-1]])):
        v = [*values[start : start + lengths[s]].tolist(), 0.0]
        deltas = [gamma * v[t + 1] - v[t] for t in range(lengths[s])]
        deltas[-1] += float(rewards[s])
        for t in range(lengths[s]):
            expected = sum((gamma * gae_lambda) ** (k - t) * deltas[k] for k in range(t, lengths[s]))
            assert float(found[start + t]) == pytest.approx(expected, abs=1e-5)


def test_overlong_penalty_by_hand():
    lengths = torch.tensor([1, 80, 81, 90, 100])
    assert overlong_penalty(lengths, 100, 0.2).tolist() == pytest.approx([0, 0, 0.05, 0.5, 1])


def test_the_longest_turn_is_what_is_limited():
    mask = np.array([False, True, True, False, True, True, True, False])
    made = Trajectory(np.zeros(8, np.int32), mask, np.zeros(8), np.zeros(8), turns=[1, 4])
    assert turn_lengths(made).tolist() == [2, 3]
    assert turn_lengths(replace(made, turns=[])).tolist() == [5]
    found = assign([Episode([made, made], 1.0)], Objective(overlong=0.5), max_new_tokens=4)
    assert found.returns.tolist() == [[0.5]]


@pytest.mark.parametrize("discount", [None, 0.0])
def test_what_ends_a_thought_counts_for_the_limit_of_a_response(discount: float | None):
    """Nobody sampled it, so that it has no credit; but the limit of the response has it."""
    mask = np.array([False, True, False, False, True, False])
    made = Trajectory(np.zeros(6, np.int32), mask, np.zeros(6), np.zeros(6), turns=[1])
    assert turn_lengths(made).tolist() == [2]
    assert response_lengths(made).tolist() == [4]
    assert response_lengths(replace(made, turns=[])).tolist() == [2]
    objective = Objective(overlong=0.5, turn_discount=discount)
    found = assign([Episode([made], 0.0)], objective, max_new_tokens=4)
    assert (found.returns.tolist(), found.lengths.tolist()) == ([[-1]], [[2]])
    # What follows the response, an observation, is no part of it.
    assert assign([Episode([made], 0.0)], objective, max_new_tokens=8).returns.tolist() == [[0]]


# --- shares ----------------------------------------------------------------------------------------------


def test_shares_by_hand():
    lengths = torch.tensor([1, 3])
    assert shares("token-mean", lengths, 10).tolist() == pytest.approx([1 / 4, 1 / 4])
    assert shares("sequence-mean", lengths, 10).tolist() == pytest.approx([1 / 2, 1 / 6])
    assert shares("fixed-length", lengths, 10).tolist() == pytest.approx([1 / 20, 1 / 20])


# --- presets ---------------------------------------------------------------------------------------------


def values(objective: Objective) -> dict[str, Any]:
    return {name: getattr(objective, name) for name in CHOICES}


def test_what_is_null_is_the_presets_also_after_it_was_written_and_read():
    """So that a run's config.yaml can be given another objective, whose own values then count."""
    config = load_config(overrides=["learner.objective=grpo", "learner.clip=0.1", "learner.entropy=null"])
    assert (config.learner.kl, config.learner.clip, config.learner.entropy) == (0.04, 0.1, 0.0)
    written = yaml.safe_load(dump_config(config))
    assert {n for n in CHOICES if written["learner"][n] is not None} == {"clip"}
    assert parse_config(written) == config
    other = override_config(config, ["learner.objective=dapo"]).learner
    assert (other.kl, other.clip, other.clip_high) == (0.0, 0.1, 0.28)


def test_each_choice_can_be_made_alone():
    changed = {
        "advantage": "gae", "ratio": "sequence", "decoupled": False, "surrogate": "cispo", "clip": 0.1,
        "clip_high": 0.3, "dual_clip": 3.0, "behav_clip": 2.0, "behav_mode": "truncate",
        "aggregation": "fixed-length", "kl": 0.1, "entropy": 0.01, "dynamic_sampling": True, "overlong": 0.5,
        "turn_discount": 0.9, "gamma": 0.9, "gae_lambda": 0.5,
    }  # fmt: skip
    assert set(changed) == set(CHOICES)
    for name, value in changed.items():
        assert values(LearnerConfig.model_validate({name: value})) == values(Objective()) | {name: value}
    # A value that means "off" counts as given, too.
    off = LearnerConfig(objective="dapo", dynamic_sampling=False, overlong=0.0)
    assert values(off) == values(Objective(objective="dapo")) | {"dynamic_sampling": False, "overlong": 0.0}
    assert load_config(overrides=["learner.behav_clip=inf"]).learner.behav_clip == math.inf


def test_clipping_is_symmetric_unless_said_otherwise():
    assert LearnerConfig(clip=0.1).bounds == (0.9, 1.1)
    assert LearnerConfig(objective="dapo", clip=0.1).bounds == (0.9, 1.28)


def test_what_cannot_work_is_refused():
    with pytest.raises(UserError, match=r"no such objective; did you mean 'grpo'\?"):
        load_config(overrides=["learner.objective=gropo"])
    with pytest.raises(UserError, match="group_size=1"):
        load_config(overrides=["rollout.group_size=1"])
    load_config(overrides=["rollout.group_size=1", "learner.objective=reinforce++"])


DOCS = Path(__file__).parents[2] / "docs" / "objectives.md"


def test_the_table_in_the_docs_is_the_table_in_the_code():
    """A row for each preset, with what differs from decoupled-ppo; a row for each choice, with its values."""
    text = DOCS.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \| \[[\d.]+\]\(\S+\) \| (.*) \|$", text, re.M))
    assert set(rows) == set(PRESETS)
    default = values(Objective())
    for name in PRESETS:
        said = dict(re.findall(r"`(\w+)=([^`]+)`", rows[name]))
        own = values(Objective(objective=name))
        meant = {choice: str(value) for choice, value in own.items() if value != default[choice]}
        assert {k: v.lower() for k, v in said.items()} == {k: v.lower() for k, v in meant.items()}, name


def test_the_choices_in_the_docs_are_those_in_the_code():
    text = DOCS.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \| ", text, re.M))
    for name in CHOICES:
        kind = Objective.model_fields[name].annotation
        default = getattr(Objective(), name)
        shown = "null" if default is None else str(default).lower()
        assert f"**`{shown}`**" in rows[name], name
        for value in get_args(kind) if get_origin(kind) is Literal else ():
            assert f"`{value}`" in rows[name]


# --- credit ----------------------------------------------------------------------------------------------


def of_turns(*turns: tuple[int, int, float]) -> Trajectory:
    """A trajectory of turns: tokens, number of the call, reward; each behind two tokens of a prompt."""
    mask = np.concatenate([[False, False, *[True] * tokens] for tokens, _, _ in turns])
    starts = np.flatnonzero(mask & ~np.roll(mask, 1)).tolist()
    zeros = np.zeros(len(mask), np.float32)
    calls, rewards = [call for _, call, _ in turns], [reward for *_, reward in turns]
    return Trajectory(zeros.astype(np.int32), mask, zeros, zeros, "eos", starts, calls, rewards)


def test_returns_of_turns_by_hand():
    """Two conversations whose turns take turns: the order of the calls counts."""
    episode = Episode([of_turns((2, 0, 1.0), (1, 2, 4.0)), of_turns((3, 1, 2.0))], 7.0)
    found = assign([episode, Episode([of_turns((1, 0, 3.0))], 3.0)], Objective(turn_discount=0.5), 10)
    assert found.returns.tolist() == [[3.0, 4.0, 4.0], [3.0, 0.0, 0.0]]
    assert found.lengths.tolist() == [[2, 3, 1], [1, 0, 0]]
    tokens = [t.tolist() for t in found.of_tokens(torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]))]
    assert tokens == [[1.0, 1.0, 3.0], [2.0, 2.0, 2.0], [4.0]]


ADVANTAGES = ("group-normalized", "group-centered", "leave-one-out", "global-normalized")
EPISODES = st.lists(
    st.tuples(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.sampled_from([0.0, 0.5, 1.0])),
    min_size=8, max_size=8,
)  # fmt: skip


@settings(max_examples=50)
@given(EPISODES, st.sampled_from(ADVANTAGES))
def test_an_episode_counts_once_however_many_turns_and_trajectories_it_has(
    drawn: list[tuple[list[int], float]], advantage: Any
):
    """Whole-episode credit does not see how an episode is cut, nor does γ=1 with a reward at the end."""

    def advantages(episodes: list[Episode], **choices: Any) -> list[list[float]]:
        credit = assign(episodes, Objective(**choices), 10)
        values = credit.advantages(advantage, 4)
        found: list[list[float]] = [[] for _ in episodes]
        for owner, tokens in zip(credit.row, credit.of_tokens(values), strict=True):
            found[owner] += tokens.tolist()
        return found

    one, many, turns = [], [], []
    for lengths, reward in drawn:
        rewards = [0.0] * (len(lengths) - 1) + [reward]
        parts = [(n, k, r) for k, (n, r) in enumerate(zip(lengths, rewards, strict=True))]
        one.append(Episode([of_turns((sum(lengths), 0, reward))], reward))
        many.append(Episode([of_turns(part) for part in parts], reward))
        turns.append(Episode([of_turns(*parts)], reward))
    expected = advantages(one)
    assert advantages(many) == advantages(turns) == expected
    for episodes in (many, turns):
        for got, wanted in zip(advantages(episodes, turn_discount=1.0), expected, strict=True):
            assert got == pytest.approx(wanted, abs=1e-4)


def test_advantages_of_turns_by_hand():
    """One group: an episode of two turns with returns 0 and 2, and one of one turn with return 4."""
    returns, lengths = torch.tensor([[0.0, 2.0], [4.0, 9.0]]), torch.tensor([[5, 1], [1, 0]])
    present = of_returns("group-centered", returns, lengths, 2)
    assert present[0].tolist() == [-2.5, -0.5]
    assert float(present[1, 0]) == 1.5
    others = of_returns("leave-one-out", returns, lengths, 2)
    assert others[0].tolist() == [-4.0, -2.0]
    assert float(others[1, 0]) == 3.0
    spread = math.sqrt((2.5**2 / 2 + 0.5**2 / 2 + 1.5**2) / 2)
    normal = of_returns("group-normalized", returns, lengths, 2)
    assert normal[0].tolist() == pytest.approx([-2.5 / spread, -0.5 / spread], rel=1e-4)
