"""The learner's values for each token of a few rollouts, in the form of the page."""

from __future__ import annotations

import numpy as np

from areal.errors import UserError
from areal.telemetry.plain import plain
from areal.telemetry.run_directory import RunDirectory
from areal.trajectory import TokenValues, Trajectory
from areal.viewer.inside import inside
from areal.viewer.listing import plain_data
from areal.viewer.records import DAMAGE

Known = dict[tuple[int, int, int], TokenValues]
"""Token values of an update, by group, number and conversation."""


def read_token_values(run: RunDirectory, step: int) -> Known:
    """Return the token values of an update; empty if they were not recorded.

    Raises:
        UserError: the record is damaged.
    """
    inside(run.path, "tokens", f"step-{step:06d}.jsonl")
    try:
        read = [TokenValues.from_json(line) for line in run.read_token_values(step)]
    except DAMAGE as error:
        raise UserError(f"the recorded token values of update {step} are damaged") from error
    return {(each.group, each.number, each.conversation): each for each in read}


def of_each_token(trajectory: Trajectory, known: TokenValues | None) -> dict[str, list[float | None]]:
    """Expand values of the sampled tokens to all tokens, with null for the others.

    Raises:
        UserError: they belong to another trajectory.
    """
    found = {}
    for name, column in ({} if known is None else known.values).items():
        if len(column) != trajectory.sampled:
            raise UserError("the recorded token values have changed; try again")
        whole = np.full(len(trajectory), np.nan)
        whole[trajectory.loss_mask] = column
        found[plain(name)] = plain_data(whole.round(5).tolist())
    return found
