"""Asynchronous, decoupled PPO in one file: the algorithm alone, on areal's engine and learner.

python examples/rl_loop.py

Generation never waits for the learner: a gate bounds how old samples may be, the loss allows for samples of
several policies, and new weights reach responses that are half written. The equations are those of
arXiv 2505.24298. On two CPU cores the model that ships with areal learns arithmetic in about a minute.

A run of areal has more around this: groups that overtake a slow one, agents with many turns, checkpoints,
evaluations, metrics.
"""

import asyncio
import os
from collections import deque
from operator import attrgetter
from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

import areal  # noqa: F401 (registers the environments)
from areal.config import parse_config
from areal.learner.packed import Packed, pack
from areal.learner.trainable import TrainableModule
from areal.rollout.engine import Sampling
from areal.rollout.worker import RolloutWorker
from areal.runtime.build import start_rollout_worker
from areal.runtime.learner import make_learner
from areal.runtime.plan import Plan, engine_dtype, plan
from areal.trajectory import Trajectory
from areal.weights.interface import VLLM_BACKEND
from areal.weights.sender import open_sender, transfer

ENV = "math-v1"
GROUPS = 16  # B: problems of a batch
MEMBERS = 8  # responses to each problem, which are compared with each other
STALENESS = 2  # η: a sample is at most so many updates old when it is trained on
MINIBATCHES = 2  # optimizer steps of an update
CLIP = 0.2  # ε: how far a step may move the probability of a token
MAX_WEIGHT = 5.0  # tokens that the policy would sample so many times as often are left out
LEARNING_RATE = 1e-4
SETTINGS = {"env": ENV, "rollout": {"batch_size": GROUPS * MEMBERS, "group_size": MEMBERS}}


class Sample(NamedTuple):
    trajectory: Trajectory
    reward: float
    advantage: float


class Rollouts:
    """Keeps groups of episodes in flight, as many as the staleness gate admits."""

    def __init__(self, worker: RolloutWorker) -> None:
        self.engine, self.renderer = worker.engine, worker.renderer
        self.groups = deque[asyncio.Task[list[Sample]]]()
        self.admitted = 0

    def admit(self, version: int) -> None:
        """Start groups while the gate is open, when the engine has the weights of ``version``.

        Equation 3: N ≤ (i + η + 1)·B. Batches take groups in the order of admission, so that the group that
        batch i + η ends with is admitted at version i or later. No sample is ever older than η.
        """
        while self.admitted < (version + STALENESS + 1) * GROUPS:
            self.groups.append(asyncio.create_task(self.group(self.admitted)))
            self.admitted += 1

    async def batch(self) -> list[Sample]:
        """Wait for the oldest groups, while all others go on."""
        return [sample for _ in range(GROUPS) for sample in await self.groups.popleft()]

    async def group(self, problem: int) -> list[Sample]:
        """Run several episodes of one problem, and compare their rewards (GRPO, arXiv 2402.03300)."""
        episodes = await asyncio.gather(*(self.episode(problem) for _ in range(MEMBERS)))
        rewards = np.array([reward for _, reward in episodes])
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        return [Sample(*episode, float(a)) for episode, a in zip(episodes, advantages, strict=True)]

    async def episode(self, problem: int) -> tuple[Trajectory, float]:
        """Run one episode: an observation, a response, a reward."""
        env = gymnasium.make(ENV)
        observation, _ = env.reset(options={"index": problem, "split": "train"})
        prompt = self.renderer.opening([{"role": "user", "content": observation}]).ids
        # Tokens in, tokens out. Each token comes with its log-probability and the version of the weights that
        # sampled it: both may change within a response, and what was sampled is trained on as it is.
        response = await self.engine.generate(prompt, Sampling(max_tokens=64))
        _, reward, *_ = await asyncio.to_thread(env.step, self.renderer.decode(response.ids))
        before = len(prompt)
        sampled = Trajectory(
            tokens=np.array([*prompt, *response.ids], np.int32),
            loss_mask=np.arange(before + len(response.ids)) >= before,
            logprobs=np.array([*[0.0] * before, *response.logprobs], np.float32),
            versions=np.array([*[-1] * before, *response.versions], np.int32),
        )
        return sampled, float(reward)


def update(policy: TrainableModule, samples: list[Sample], device: torch.device, version: int) -> None:
    """Make the optimizer steps of one update.

    π_prox is the policy at its start, for every step: not the policies that sampled, which may be old, and of
    which one response may have seen two.
    """
    minibatches, size = [], len(samples) // MINIBATCHES
    for part in (samples[i : i + size] for i in range(0, len(samples), size)):
        packed = pack([sample.trajectory for sample in part], device)
        advantage = torch.tensor([sample.advantage for sample in part], device=device)[packed.owner]
        minibatches.append((packed, advantage, policy(packed, 1.0).logprobs))
    for packed, advantage, prox in minibatches:
        step(policy, packed, advantage, prox, version)


def step(policy: TrainableModule, packed: Packed, advantage: Tensor, prox: Tensor, version: int) -> None:
    """Make an optimizer step of decoupled PPO (equation 5)."""
    weight = (prox - packed.behav).exp()  # π_prox/π_behav corrects for who sampled
    weight = torch.where(weight > MAX_WEIGHT, 0.0, weight) / len(weight)

    def loss(logprobs: Tensor, entropy: Tensor, tokens: slice) -> Tensor:
        ratio = (logprobs - prox[tokens]).exp()  # π_θ/π_prox: the trust region is around π_prox
        gain = torch.minimum(ratio * advantage[tokens], ratio.clamp(1 - CLIP, 1 + CLIP) * advantage[tokens])
        return -weight[tokens] * gain

    policy.accumulate(attrgetter("loss"), packed, 1.0, loss)
    policy.step(LEARNING_RATE, version)


async def train(worker: RolloutWorker, checked: Plan, updates: int = 20) -> list[float]:
    """Train; return the mean reward of each batch."""
    config, device = checked.config, torch.device(checked.device)
    learner = make_learner(config, checked.model, checked.device, checked.placement.ranks[0].threads)
    dtype = engine_dtype(config, checked.device)
    sender = open_sender(checked.placement.backends, learner.named_parameters(), dtype, device)
    await worker.engine.connect(sender.init_infos())
    rollouts, rewards = Rollouts(worker), []
    try:
        for version in range(updates + 1):
            # The engine stops between two tokens, loads the weights, computes its cache anew, and goes on:
            # nothing that was sampled is thrown away.
            sender.write(learner.named_parameters())
            await transfer(worker.engine.load(version), asyncio.to_thread(sender.send))
            if version == updates:
                break
            rollouts.admit(version)
            samples = await rollouts.batch()
            stale = max(version - sample.trajectory.oldest_version for sample in samples)
            assert stale <= STALENESS
            # On a thread: episodes go on meanwhile.
            await asyncio.to_thread(update, learner.policy, samples, device, version)
            rewards.append(float(np.mean([sample.reward for sample in samples])))
            print(f"update {version + 1:3}  reward {rewards[-1]:.3f}  oldest sample {stale}")
    finally:
        for group in rollouts.groups:
            group.cancel()
        await asyncio.gather(*rollouts.groups, return_exceptions=True)
        sender.close()
    return rewards


async def main() -> None:
    """Start an engine with the starter model, and train."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it has much to say
    checked = plan(parse_config(SETTINGS))
    worker = await start_rollout_worker(checked, VLLM_BACKEND)
    try:
        await train(worker, checked)
    finally:
        await worker.close()


if __name__ == "__main__":
    asyncio.run(main())
