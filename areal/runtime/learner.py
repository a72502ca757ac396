"""Creates the learner of a run, of its replay or of its export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from areal.config import Config

if TYPE_CHECKING:
    from areal.learner.learner import Learner


def make_learner(config: Config, model: str, device: str, threads: int) -> Learner:
    """Load the learner of a run, or of its replay.

    Args:
        model: folder or hub id of the initial weights.
        device: ``cpu`` or ``cuda``.
        threads: number of CPU threads, on which the learner's arithmetic depends.
    """
    from areal.learner.learner import Learner

    rollout = config.rollout
    return Learner(model, config.learner, device, rollout.temperature, threads, rollout.max_new_tokens)
