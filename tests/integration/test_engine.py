"""vLLM behind the Engine interface: how generations end, seeds, cancellation, whole episodes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psutil
import torch
from inside import only
from policies import assert_agree

from areal.agents.interface import Env, Message, Model
from areal.config import parse_config
from areal.learner.model import Policy, load_model
from areal.learner.packed import pack
from areal.models import resolve_model
from areal.registry import make_env
from areal.rollout.engine import Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.quantization import not_quantized
from areal.rollout.tasks import held_out
from areal.rollout.worker import RolloutWorker
from areal.runtime.plan import plan

PROMPT = [3, 20, 21, 4]


async def test_length_and_end_are_told_apart(worker: RolloutWorker):
    end = worker.renderer.eos_ids[0]
    opening = worker.renderer.opening([{"role": "user", "content": "Compute 2 + 3."}]).ids
    stopped = await worker.engine.generate(opening, Sampling(400))
    assert stopped.finish == "eos"
    assert stopped.ids[-1] == end
    assert end not in stopped.ids[:-1]
    cut = await worker.engine.generate(opening, Sampling(2, ignore_eos=True))
    assert (cut.finish, len(cut.ids)) == ("length", 2)
    assert len(stopped.ids) == len(stopped.logprobs) == len(stopped.versions)


async def test_nothing_is_imported_twice(worker: RolloutWorker):
    """vLLM's processes are forks: what it spawns imports all again, and comes with a tracker of resources."""
    below = psutil.Process().children(recursive=True)
    engines = [process for process in below if "".join(process.cmdline()[:1]).startswith("areal engine")]
    for engine in engines:
        assert len(engine.children()) == 1, [process.cmdline() for process in engine.children()]
    assert engines


async def test_an_engine_tells_the_types_of_its_layers(worker: RolloutWorker):
    layers = await only(worker).layers()
    assert {dtype for _, _, dtype in layers} == {"float32"}
    assert [path for path, kind, _ in layers if kind == "embedding"] == ["model.embed_tokens"]
    linear = ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"]
    assert not_quantized(layers) == [
        f"model.layers.{number}.{name}" for number in range(4) for name in linear
    ]


async def test_a_seed_reproduces_a_sample(worker: RolloutWorker):
    async def sample(seed: int | None) -> list[int]:
        return (
            await worker.engine.generate(PROMPT, Sampling(40, temperature=2, seed=seed, ignore_eos=True))
        ).ids

    assert await sample(3) == await sample(3)
    assert len({tuple(await sample(s)) for s in (3, 4, None, None)}) == 4


async def test_more_tokens_at_once_than_a_pass_takes_with_seeds(worker: RolloutWorker):
    """A prompt that is taken in pieces kills vLLM on a CPU, if its request has a seed."""
    prompts = [[3, *(20 + (i + j) % 100 for j in range(300)), 4] for i in range(64)]
    found = await asyncio.gather(
        *(worker.engine.generate(p, Sampling(2, seed=i, ignore_eos=True)) for i, p in enumerate(prompts))
    )
    assert [len(completion.ids) for completion in found] == [2] * 64


async def test_greedy_takes_the_likeliest(worker: RolloutWorker):
    first, second = [await worker.engine.generate(PROMPT, Sampling(20, temperature=0)) for _ in range(2)]
    assert first.ids == second.ids
    assert first.logprobs == second.logprobs


async def test_a_cancelled_request_leaves_the_engine_well(worker: RolloutWorker):
    requests = [
        asyncio.create_task(worker.engine.generate(PROMPT, Sampling(400, ignore_eos=True))) for _ in range(8)
    ]
    await asyncio.sleep(0.1)
    for request in requests[:4]:
        request.cancel()
    results = await asyncio.gather(*requests, return_exceptions=True)
    assert all(isinstance(r, asyncio.CancelledError) for r in results[:4])
    assert [len(r.ids) for r in results[4:]] == [400] * 4


async def test_an_episode_is_recorded_token_for_token(worker: RolloutWorker):
    tasks = held_out(plan(parse_config({})).env, 16)
    episodes = await asyncio.gather(
        *(worker.run_episode(t, Sampling(64, seed=i)) for i, t in enumerate(tasks))
    )
    for episode in episodes:
        (t,) = episode.trajectories
        assert t.turns == [int(t.loss_mask.argmax())]
        assert t.loss_mask[t.turns[0] :].all()
        assert (t.versions[t.loss_mask] == worker.engine.version).all()
        assert (t.versions[~t.loss_mask] == -1).all()
        assert (t.logprobs[t.loss_mask] <= 0).all()
        assert t.rewards == [episode.reward] == [sum(episode.reward_parts.values())]
        text = worker.renderer.decode(t.tokens[: t.turns[0]].tolist())
        assert text.startswith("Compute")


async def test_several_turns_are_recorded_as_the_learner_sees_them(worker: RolloutWorker):
    """What was said in several turns, forks among them: the learner has the engine's log-probabilities."""
    assert worker.engine.version == 0, "tests that load other weights come later"
    pool = EnvironmentPool(lambda: make_env("guess-v1", max_turns=3), 2)
    running = replace(worker, agent=Forking(), pool=pool)
    episodes = await asyncio.gather(
        *(running.run_episode({"seed": i}, Sampling(24, seed=i)) for i in range(4))
    )
    await pool.close()
    policy = Policy(load_model(resolve_model("starter")))
    for episode in episodes:
        assert sorted(call for t in episode.trajectories for call in t.calls) == list(range(5))
        assert [len(t.turns) for t in episode.trajectories] == [3, 1, 1]
        for t in episode.trajectories:
            logprobs = policy(pack([t], torch.device("cpu")), 1.0).logprobs
            assert_agree((logprobs - torch.from_numpy(t.logprobs[t.loss_mask])).abs())


class Forking:
    """Three turns, and two sub-agents beside the last one."""

    async def run(self, env: Env, model: Model) -> None:
        messages: list[Message] = [{"role": "user", "content": await env.reset()}]
        for _ in range(2):
            reply = await model.chat(messages)
            step = await env.step(reply.text)
            messages += [reply.message, {"role": "user", "content": step.observation}]
        await asyncio.gather(*(model.chat(messages) for _ in range(3)))
