"""What the learner keeps of each token for a person to look at, against a straight-line version of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from dummy_batches import GROUP, batch, episode
from transformers import AutoModelForCausalLM

from areal.config import LearnerConfig
from areal.learner.learner import Learner
from areal.models import resolve_model
from areal.trajectory import Batch, Group, TokenValues, Trajectory


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def scored(model: torch.nn.Module, t: Trajectory, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and entropies of a sequence's sampled tokens, by transformers' own attention."""
    with torch.no_grad():
        logits = model(torch.tensor(t.tokens[None], dtype=torch.long)).logits[0, :-1] / temperature
    found = torch.log_softmax(logits.double(), -1).numpy()[t.loss_mask[1:]]
    chosen = found[np.arange(len(found)), t.tokens[t.loss_mask]]
    return chosen, -(np.exp(found) * found).sum(-1)


def by_place(values: list[TokenValues]) -> dict[tuple[int, int], TokenValues]:
    assert {each.conversation for each in values} == {0}
    return {(each.group, each.number): each for each in values}


@pytest.mark.parametrize("decoupled", [True, False])
def test_values_are_those_of_the_pass_that_trained_on_the_token(decoupled: bool):
    """In the second minibatch, π_θ has made a step, and π_prox has not."""
    settings = LearnerConfig(
        minibatches=2, learning_rate=1e-4, warmup_steps=0, micro_batch_tokens=64, decoupled=decoupled
    )
    path, data = resolve_model("starter"), batch(1, groups=4)
    learner = Learner(path, settings, "cpu", 0.8)
    at_start, moved = (AutoModelForCausalLM.from_pretrained(path) for _ in range(2))
    halves = [Batch(0, data.groups[:2]), Batch(0, data.groups[2:])]
    after_one = Learner(path, settings.model_copy(update={"minibatches": 1}), "cpu", 0.8)
    after_one.update(halves[0])
    moved.load_state_dict(after_one.model.state_dict())

    learner.update(data)
    found = by_place(learner.token_values)
    assert len(found) == 4 * GROUP
    differences = []
    for half, policy in zip(halves, (at_start, moved), strict=True):
        for group in half.groups:
            rewards = np.array([e.reward for e in group.episodes])
            for number, each in enumerate(group.episodes, 1):
                [t] = each.trajectories
                theta, entropy = scored(policy, t, 0.8)
                prox, _ = scored(at_start, t, 0.8)
                behav = t.logprobs[t.loss_mask]
                advantage = (each.reward - rewards.mean()) / (rewards.std() + 1e-6)
                expected = {"advantage": np.full(t.sampled, advantage), "entropy": entropy}
                if decoupled:
                    expected |= {"prox/behav": np.exp(prox - behav), "theta/prox": np.exp(theta - prox)}
                else:
                    expected |= {"theta/behav": np.exp(theta - behav)}
                values = found[group.id, number].values
                assert values.keys() == expected.keys()
                for name, column in expected.items():
                    np.testing.assert_allclose(values[name], column, rtol=2e-3, atol=2e-4, err_msg=name)
                differences.append(np.abs(theta - prox).max())
    assert max(differences[: 2 * GROUP]) == 0
    assert min(differences[2 * GROUP :]) > 0.01, "a step was made"


def test_the_worst_the_best_and_some_between_are_kept():
    rng = np.random.default_rng(3)
    groups = [
        Group(7 + n, 0, [episode(rng, 3, 4, float(k + GROUP * n)) for k in range(GROUP)]) for n in range(20)
    ]
    idle = Group(99, 0, [episode(rng, 3, 4, 1e6) for _ in range(GROUP)])
    learner = Learner(resolve_model("starter"), LearnerConfig(minibatches=1), "cpu", 1.0)
    learner.update(Batch(0, [*groups, idle]))
    kept = [(each.group - 7) * GROUP + each.number - 1 for each in learner.token_values]
    assert len(kept) == len(set(kept)) == 16
    assert (min(kept), max(kept)) == (0, 79), "the best of those that pass: the idle group does not"
    assert max(np.diff(sorted(kept))) <= 6
    assert kept == sorted(kept), "in the order of the batch"


def test_conversations_of_an_episode_have_their_own():
    data = batch(2, groups=1)
    first, second = data.groups[0].episodes[1], data.groups[0].episodes[3]
    first.trajectories.append(second.trajectories[0])
    learner = Learner(resolve_model("starter"), LearnerConfig(minibatches=1), "cpu", 1.0)
    learner.update(data)
    lengths = {(v.number, v.conversation): len(v.values["entropy"]) for v in learner.token_values}
    assert lengths[2, 0] == first.trajectories[0].sampled
    assert lengths[2, 1] == second.trajectories[0].sampled


def test_a_critic_has_advantages_of_each_token():
    settings = LearnerConfig(objective="ppo", minibatches=1, warmup_steps=0)
    learner = Learner(resolve_model("starter"), settings, "cpu", 1.0)
    learner.update(batch(4))
    assert {len(set(each.values["advantage"])) for each in learner.token_values} != {1}
    assert set(learner.token_values[0].values) == {"advantage", "entropy", "theta/behav"}


def test_a_sequence_has_one_ratio():
    settings = LearnerConfig(objective="gspo", minibatches=1, warmup_steps=0)
    learner = Learner(resolve_model("starter"), settings, "cpu", 1.0)
    data, at_start = batch(4), AutoModelForCausalLM.from_pretrained(resolve_model("starter"))
    learner.update(data)
    for each in learner.token_values:
        [ratio] = set(each.values["prox/behav"])
        [t] = data.groups[each.group].episodes[each.number - 1].trajectories
        theta, _ = scored(at_start, t, 1.0)
        assert ratio == pytest.approx(np.exp((theta - t.logprobs[t.loss_mask]).mean()), rel=1e-3)


def test_as_they_are_written():
    values = TokenValues(3, 2, 0, {"entropy": np.array([0.1234567, 2.0, np.inf], np.float32)})
    line = json.dumps(replace(values, values={"entropy": values.values["entropy"][:2]}).to_json())
    assert json.loads(line)["values"] == {"entropy": [0.12346, 2.0]}
    assert TokenValues.from_json(json.loads(line)).values["entropy"].tolist() == pytest.approx([0.12346, 2.0])
