"""How the rollouts and the evaluations of a run are sampled."""

from __future__ import annotations

from dataclasses import replace

from areal.config import Config
from areal.rollout.controller import EpisodeId
from areal.rollout.engine import Sampling
from areal.rollout.seeds import derive
from areal.runtime.plan import Plan


def training_sampling(config: Config) -> Sampling:
    """How training rollouts are sampled: from the distribution that the learner computes, whole."""
    rollout = config.rollout
    return Sampling(
        rollout.max_new_tokens,
        rollout.temperature,
        stop=rollout.stop,
        thinking_budget=rollout.thinking_budget,
    )


def evaluation_sampling(config: Config) -> Sampling:
    """How evaluations are sampled; each response gets a seed of its own besides."""
    settings = config.evaluation
    return Sampling(
        settings.max_new_tokens or config.rollout.max_new_tokens,
        settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        min_p=settings.min_p,
        stop=config.rollout.stop,
        thinking_budget=config.rollout.thinking_budget,
    )


def seeded(sampling: Sampling, plan: Plan, episode_id: EpisodeId) -> Sampling:
    """Give an episode of a synchronous run on a CPU a seed of its own, so that the run can be reproduced.

    If weights change while sequences are sampled, the samples depend on time, whatever the seed. On a GPU
    they depend on which requests are computed together. In both cases the engine's own random state will do,
    and the GPU need not fill a generator for each request.

    An episode that is run again has the same seed the first time: unless its responses made it fail, the run
    is as if it had not. Then it gets others.
    """
    if plan.config.rollout.max_staleness > 0 or plan.device == "cuda":
        return sampling
    attempt = max(0, episode_id.attempt - 1)
    return replace(sampling, seed=derive(plan.config.seed, episode_id.group, episode_id.member, attempt))
