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
    return Sampling(rollout.max_new_tokens, rollout.temperature, stop=rollout.stop)


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
    )


def seeded(sampling: Sampling, plan: Plan, episode_id: EpisodeId) -> Sampling:
    """Give an episode of a synchronous run on a CPU a seed of its own, so that the run can be had again.

    Where weights change while sequences are sampled, what is sampled depends on time, whatever the seed; on a
    GPU it depends on what is computed together. There the engine's own random state will do: it needs no
    generator for each request, which a GPU fills one by one.
    """
    if plan.config.rollout.max_staleness > 0 or plan.device == "cuda":
        return sampling
    return replace(sampling, seed=derive(plan.config.seed, *episode_id))
