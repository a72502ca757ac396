"""Repeats updates from their recorded batches, when the learner is back at an older checkpoint.

Nothing is generated for them. On one CPU the weights are identical to the bit; on several processes or GPUs,
sums have a different order, as in any two runs.

This preserves the meaning of versions. A token of version v was sampled by the weights after v updates *of
this run*. If updates after the checkpoint used new batches instead, v would name different weights from then
on, and the staleness of every group that waits or is in flight would be meaningless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from areal.errors import UserError
from areal.runtime.learner_rank import LearnerRank
from areal.runtime.replay import difference, read_groups
from areal.telemetry.run_directory import RunDirectory, read_metrics
from areal.trajectory import Batch

if TYPE_CHECKING:
    from areal.workers.group import WorkerGroup


@dataclass(frozen=True, slots=True)
class Redone:
    """Updates that were repeated.

    Attributes:
        version: the last one.
        consumed: the groups of their batches.
        difference: the largest difference between recorded and new metrics; 0: they are identical to the bit.
        damage: why there are fewer than requested; empty if there are not.
    """

    version: int
    consumed: frozenset[int]
    difference: float
    damage: str = ""


async def redo(
    learner: WorkerGroup[LearnerRank],
    directory: RunDirectory,
    first: int,
    last: int,
    show: Callable[[str], None] = lambda line: None,
) -> Redone:
    """Let the learner repeat updates ``first`` to ``last``.

    Args:
        learner: the learner, which has made ``first - 1`` updates.
        directory: directory of the run that has recorded them; nothing is written to it.
        show: called with a line for each update.
    """
    metrics = {line["step"]: line for line in read_metrics(directory.path) if "loss" in line}
    consumed, worst = set[int](), 0.0
    for step in range(first, last + 1):
        show(f"repeating update {step} of {last} from its recorded batch")
        try:
            groups = await asyncio.to_thread(read_groups, directory, step)
        except UserError as error:
            return Redone(step - 1, frozenset(consumed), worst, str(error))
        made = await learner.call(LearnerRank.update, Batch(step - 1, groups))
        consumed.update(group.id for group in groups)
        worst = max(worst, difference(metrics[step], made))
    return Redone(last, frozenset(consumed), worst)
