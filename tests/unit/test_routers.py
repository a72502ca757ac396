"""Routers of mixtures of experts: what metrics say of their load, and whose choices they take."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import routed
import torch
from chat import Scripted, tokenizer
from dummy_batches import batch
from routed import EXPERTS, others, with_experts
from transformers import AutoConfig, AutoModelForCausalLM

from areal.config import LearnerConfig, parse_config
from areal.errors import UserError
from areal.learner.learner import Learner
from areal.learner.model import Policy, load_model
from areal.learner.packed import pack
from areal.learner.routers import Routers
from areal.models import resolve_model
from areal.rollout.conversation import Conversation
from areal.rollout.engine import Completion, Sampling
from areal.rollout.experts import experts_of
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer
from areal.runtime.plan import plan
from areal.trajectory import Batch, Trajectory

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from families import make, sent_to

CPU = torch.device("cpu")
MIXTURES = ["qwen3-moe", "qwen2-moe", "mixtral", "olmoe", "gpt-oss", "deepseek-v3"]


def learner(folder: Path, **settings: Any) -> Learner:
    choices = {"minibatches": 1, "warmup_steps": 0, "objective": "grpo", "kl": 0, **settings}
    return Learner(str(folder), LearnerConfig(**choices), "cpu", 1.0, 1)


@pytest.mark.parametrize("family", MIXTURES)
def test_a_router_sends_tokens_where_it_is_told_and_weighs_by_its_own_scores(family: str, tmp_path: Path):
    folder = make(family, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = load_model(str(folder))
    policy = Policy(model, Routers(model))
    [trajectory] = batch(0, 1).trajectories[:1]
    untold = policy(pack([trajectory], CPU), 1.0).logprobs
    trajectory.experts = sent_to(plain, trajectory.tokens)
    assert torch.equal(policy(pack([trajectory], CPU), 1.0).logprobs, untold), "its own choices"
    trajectory.experts = others(np.random.default_rng(0), len(trajectory))
    routers = [m for n, m in model.named_modules() if n.endswith(("mlp.gate", "mlp.router"))]
    sent: list[tuple[Any, ...]] = []
    for router in routers:
        router.register_forward_hook(lambda module, inputs, outputs: sent.append(outputs))
    packed = pack([trajectory], CPU)
    scores = policy(packed, 1.0, lambda logprobs, entropy, part: -logprobs)
    assert not torch.allclose(scores.logprobs, untold, atol=1e-3)
    first = len(model.model.layers) - len(routers)  # dense layers come first
    for number, (_, weights, indices) in enumerate(sent, first):
        assert torch.equal(indices, packed.experts[:, number].long())
        assert (weights > 0).all(), "also of groups that it would have left out"
    scores.loss.sum().backward()
    assert all(router.weight.grad.abs().sum() > 0 for router in routers)


def test_tokens_without_known_experts_are_routed_and_a_shared_prompt_has_its_owners(tmp_path: Path):
    model = load_model(str(make("qwen3-moe", tmp_path)))
    policy = Policy(model, Routers(model))
    told = with_experts(0, 1).trajectories
    length = int(told[0].loss_mask.argmax())
    packed = pack(told, CPU)
    assert packed.experts is not None
    assert torch.equal(packed.experts[:length], torch.from_numpy(told[0].experts[:length].astype(np.int16)))
    assert (packed.experts[len(told[0]) - 1] == -1).all(), "nothing follows from the last token"
    assert int((packed.experts < 0).all((1, 2)).sum()) == len(told)
    for number, trajectory in enumerate(told):
        together = policy(packed, 1.0).logprobs[packed.owner == number]
        assert torch.allclose(policy(pack([trajectory], CPU), 1.0).logprobs, together, atol=1e-5)
    own = policy(pack([told[0], batch(0, 1).trajectories[1]], CPU), 1.0).logprobs
    told[0].experts = told[0].experts[:0]
    assert not torch.allclose(own, policy(pack([told[0], batch(0, 1).trajectories[1]], CPU), 1.0).logprobs)
    told[0].experts = None
    assert pack(told[:1], CPU).experts is None


@pytest.mark.parametrize("family", ["qwen3-moe", "deepseek-v3"])
def test_metrics_say_how_tokens_are_spread_and_what_replay_changes(family: str, tmp_path: Path):
    folder, [group] = make(family, tmp_path), batch(3, 1).groups
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    trained = learner(folder)
    layers = range(int(family == "deepseek-v3"), 2)
    told = [sent_to(plain, t.tokens) for t in group.trajectories]
    prompt = int(group.trajectories[0].loss_mask.argmax())
    rows = np.concatenate([told[0], *(chosen[prompt:] for chosen in told[1:])])  # the prompt passes once
    counts = [np.bincount(rows[:, layer].flatten(), minlength=EXPERTS) for layer in layers]
    metrics = trained.update(Batch(0, [group]))
    assert metrics["router/load_max"] == pytest.approx(max(c.max() / c.mean() for c in counts))
    assert metrics["router/idle"] == np.mean([c == 0 for c in counts])
    assert "router/changed" not in metrics
    again = learner(folder, router_replay=True)
    for trajectory, chosen in zip(group.trajectories, told, strict=True):
        trajectory.experts = chosen
    assert again.update(Batch(0, [group]))["router/changed"] == 0
    trajectory.experts = (chosen + 1) % EXPERTS
    again = learner(folder, router_replay=True)
    assert 0 < again.update(Batch(0, [group]))["router/changed"] < 0.5


def test_dense_models_have_no_such_metrics():
    metrics = learner(Path(resolve_model("starter"))).update(batch(0))
    assert not [name for name in metrics if name.startswith("router/")]


@pytest.mark.parametrize("settings", [{"activation_checkpointing": True}, {"micro_batch_tokens": 64}])
def test_how_a_batch_is_computed_changes_nothing(settings: dict[str, Any], tmp_path: Path):
    folder = make("qwen3-moe", tmp_path)
    one, other = (learner(folder, router_replay=True, **more) for more in ({}, settings))
    ours, theirs = one.update(with_experts(1)), other.update(with_experts(1))
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
    assert ours["router/idle"] == theirs["router/idle"]


@pytest.mark.parametrize("rank", [0, pytest.param(4, marks=pytest.mark.long)])
def test_two_processes_make_the_update_of_one(rank: int, tmp_path: Path):
    folder = make("qwen3-moe", tmp_path / "model")
    command = [sys.executable, str(Path(routed.__file__))]
    others = [
        subprocess.Popen([*command, str(number), "2", str(rank), str(folder), str(tmp_path)])
        for number in range(2)
    ]
    assert [each.wait(timeout=120) for each in others] == [0, 0]
    alone = learner(folder, **routed.settings(rank)).update(with_experts(1, 3))
    for number in range(2):
        found = json.loads((tmp_path / f"{number}.json").read_text())
        for name in ("grad_norm", "loss", "router/load_max", "router/idle", "router/changed"):
            assert found[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-7), name


def test_adapters_and_a_reference_go_with_it(tmp_path: Path):
    """The reference is a policy of its own, with its own choices."""
    folder = make("qwen3-moe", tmp_path)
    for settings in ({"lora_rank": 2}, {}):
        both = [learner(folder, kl=0.1, router_replay=True, **settings) for _ in range(2)]
        metrics = [one.update(made(1)) for one, made in zip(both, (with_experts, batch), strict=True)]
        told, untold = (m["policy/reference_kl"] for m in metrics)
        assert untold == pytest.approx(0, abs=1e-9)
        assert told > 1e-4


def test_what_cannot_be_replayed_is_said_at_the_start(tmp_path: Path):
    with pytest.raises(UserError, match="requires a mixture of experts"):
        plan(parse_config({"learner": {"router_replay": True}}))
    dense = load_model(resolve_model("starter"))
    assert not len(Routers(dense))
    with pytest.raises(UserError, match="does not know the routers of the model"):
        learner(Path(resolve_model("starter")), router_replay=True)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 530}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4}
    config = AutoConfig.for_model("phimoe", **sizes, **heads, tie_word_embeddings=False)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="does not know how PhimoeTopKRouter chooses"):
        learner(tmp_path, router_replay=True)
    model = load_model(str(make("qwen3-moe", tmp_path / "qwen")))
    policy, [trajectory] = Policy(model, Routers(model)), batch(0, 1).trajectories[:1]
    trajectory.experts = np.zeros((len(trajectory), 5, 2), np.uint8)
    with pytest.raises(UserError, match="experts of 5 layers, but the model has 2"):
        policy(pack([trajectory], CPU), 1.0)


class Telling(Scripted):
    """Tells of each token that was asked for an expert whose number is the token's place."""

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        said = await super().generate(ids, sampling, images=images)
        places = np.arange(sampling.experts_from, len(ids) + len(said.ids) - 1, dtype=np.uint16)
        return replace(said, experts=places.reshape(-1, 1, 1))


async def test_experts_are_asked_for_once_of_each_token_of_a_conversation():
    made = tokenizer("qwen3", thought_tokens=True)
    renderer = Renderer(made, (made.eos_token_id,), thought_end="aba\n</think>\n\n")
    responses = [made.encode(text, add_special_tokens=False) for text in ("<think>\nthe aba aa", "12", "1")]
    engine = Telling([*responses, *responses[1:]], finish="length")
    model = Recorder(engine, renderer, Sampling(100, thinking_budget=8), 999)
    user: Any = {"role": "user", "content": "go"}
    reply = await model.chat([user])
    assert len(engine.asked) == 2, "a thought that is ended, and what follows"
    engine.finish = "eos"
    for content in ("aba", "a branch"):
        tool: Any = {"role": "tool", "tool_call_id": "call_0_0", "content": content}
        await model.chat([user, reply.message, tool])
    told = [sampling.experts_from for sampling in engine.samplings]
    before = len(engine.asked[0]) + 8 - 1  # the last of each response is told of with the next
    assert told[:2] == [0, before]
    assert told[2] == len(engine.asked[1]) + len(responses[1]) - 1
    assert told[3] == told[2] + 1, "a branch has those of the turn that it leaves, its last token's, too"
    trajectories = model.trajectories()
    assert len(trajectories) == 2
    for trajectory in trajectories:
        assert trajectory.experts is not None
        assert np.array_equal(trajectory.experts[:, 0, 0], np.arange(len(trajectory) - 1))


async def test_an_engine_that_does_not_tell_of_experts_is_asked_again_of_the_same_tokens():
    told = others(np.random.default_rng(0), 20)

    def response(ids: list[int], experts: np.ndarray | None) -> Completion:
        return Completion(ids, [-1.0] * len(ids), [0] * len(ids), "eos", experts)

    talk = Conversation()
    talk.append_prompt([1, 2, 3])
    talk.append_completion(response([4, 5], told[:4]), 0)  # of all but the last
    talk.append_completion(response([6, 7], None), 1)
    assert talk.experts_known == 4
    talk.append_completion(response([8], told[4:19]), 2)  # a stop string cut the response
    assert np.array_equal(talk.trajectory().experts, told[:8])


def test_experts_travel_with_a_trajectory():
    [trajectory] = with_experts(0, 1).trajectories[:1]
    plain = trajectory.to_json()
    again = Trajectory.from_json(plain)
    assert again.experts.dtype == np.uint8
    assert np.array_equal(again.experts, trajectory.experts)
    trajectory.experts = None
    assert "experts" not in trajectory.to_json()
    assert Trajectory.from_json(trajectory.to_json()).experts is None


def test_an_engine_that_does_not_say_what_it_chose_is_refused():
    def output(experts: np.ndarray) -> Any:
        whole = SimpleNamespace(token_ids=[7, 8, 9], routed_experts=experts)
        return SimpleNamespace(outputs=[whole], prompt_token_ids=[1, 2])

    told = others(np.random.default_rng(0), 5)
    assert np.array_equal(experts_of(output(told), 0), told[:4])
    assert np.array_equal(experts_of(output(told[1:4]), 1), told[1:4])
    told[:, 0] = 0  # a dense layer
    assert len(experts_of(output(told), 0)) == 4
    with pytest.raises(RuntimeError, match="the experts of 3 tokens instead of 4"):
        experts_of(output(told[:3]), 0)
    with pytest.raises(UserError, match="does not report the experts"):
        experts_of(output(np.zeros_like(told)), 0)


def test_without_replay_experts_that_were_recorded_change_nothing(tmp_path: Path):
    """As groups have them that waited when a run was resumed without it."""
    folder = make("qwen3-moe", tmp_path)
    known, unknown = (learner(folder).update(made(1)) for made in (with_experts, batch))
    assert known["grad_norm"] == unknown["grad_norm"]
    assert "router/changed" not in known
