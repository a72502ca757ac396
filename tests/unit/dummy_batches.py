"""Random episodes, groups and batches, for tests of the learner."""

from __future__ import annotations

import numpy as np

from areal.trajectory import Batch, Episode, Group, Trajectory

GROUP = 4
"""Members of each group."""


def episode(
    rng: np.random.Generator, prompt: int | np.ndarray, response: int, reward: float, version: int = 0
) -> Episode:
    """``response`` sampled tokens behind a prompt, or behind one of a length."""
    if isinstance(prompt, int):
        prompt = rng.integers(6, 380, prompt)
    length = len(prompt) + response
    mask = np.arange(length) >= len(prompt)
    made = Trajectory(
        tokens=np.concatenate([prompt, rng.integers(6, 380, response)]).astype(np.int32),
        loss_mask=mask,
        logprobs=np.where(mask, rng.normal(-2, 1, length), 0).astype(np.float32),
        versions=np.where(mask, version, -1).astype(np.int32),
    )
    return Episode([made], reward)


def group(rng: np.random.Generator, number: int, version: int = 0) -> Group:
    """Responses of all lengths to one prompt, as in a run."""
    prompt = rng.integers(6, 380, int(rng.integers(1, 9)))
    members = [episode(rng, prompt, int(rng.integers(1, 30)), float(k % 2), version) for k in range(GROUP)]
    return Group(number, version, members)


def batch(seed: int, groups: int = 2) -> Batch:
    """A batch for version 0."""
    rng = np.random.default_rng(seed)
    return Batch(0, [group(rng, number) for number in range(groups)])
