"""The sampling settings of a run's rollouts and evaluations."""

from __future__ import annotations

from dataclasses import replace

from areal.config import Config
from areal.rollout.controller import EpisodeId
from areal.rollout.engine import Sampling
from areal.rollout.seeds import derive
from areal.runtime.plan import Plan


def training_sampling(config: Config) -> Sampling:
    """Return the settings of training rollouts: the full distribution, which the learner computes."""
    rollout = config.rollout
    return Sampling(
        rollout.max_new_tokens,
        rollout.temperature,
        stop=rollout.stop,
        thinking_budget=rollout.thinking_budget,
    )


def evaluation_sampling(config: Config) -> Sampling:
    """Return the settings of evaluations; each response also gets its own seed."""
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
    """Give an episode of a synchronous run on a CPU its own seed, so that the run is reproducible.

    If weights change during sampling, the samples depend on time, regardless of the seed. On a GPU they
    depend on which requests are computed together. In both cases the engine's own random state suffices, and
    the GPU need not fill a generator for each request.

    An episode that is run again first has the same seed. Unless its responses caused the failure, the run
    continues as if there had been none. Later attempts have other seeds.
    """
    if plan.config.rollout.max_staleness > 0 or plan.device == "cuda":
        return sampling
    attempt = max(0, episode_id.attempt - 1)
    return replace(sampling, seed=derive(plan.config.seed, episode_id.group, episode_id.member, attempt))
