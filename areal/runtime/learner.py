"""The learner of a run, of its replay or of its export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from areal.config import Config

if TYPE_CHECKING:
    from areal.learner.learner import Learner


def make_learner(config: Config, model: str, device: str, threads: int) -> Learner:
    """Load the learner of a run, or of its replay.

    Args:
        model: folder or hub id of the weights to begin with.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads; the learner's arithmetic depends on them.
    """
    from areal.learner.learner import Learner

    rollout = config.rollout
    return Learner(model, config.learner, device, rollout.temperature, threads, rollout.max_new_tokens)
