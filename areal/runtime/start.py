"""Starts the workers of a run: the ranks of its learner, and its engines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from areal.errors import EngineLost, LearnerLost, WorkerFrozen, WorkerLost
from areal.rollout.engine import SingleEngine
from areal.rollout.vllm_engine import VLLMEngine
from areal.rollout.vllm_start import EngineSettings, variables
from areal.runtime.learner_rank import LearnerRank, LearnerSetup
from areal.runtime.worker_engine import WorkerEngine
from areal.workers.group import WorkerGroup
from areal.workers.handle import Handle, Launch, side_by_side


async def start_learner(
    setup: LearnerSetup, launches: Sequence[Launch], rank: type[LearnerRank] = LearnerRank
) -> WorkerGroup[LearnerRank]:
    """Start all ranks of a learner, create it, and compile everything that it will need.

    Args:
        setup: the setup of each rank.
        launches: launchers of each rank, in order.
        rank: the class of the ranks.

    Raises:
        LearnerLost: a rank has ended.
    """
    learner = WorkerGroup(partial(start_ranks, setup, launches, rank), LearnerLost, _advice)
    try:
        await make_anew(learner)
    except BaseException:
        await learner.close()
        raise
    return learner


async def start_ranks(
    setup: LearnerSetup, launches: Sequence[Launch], rank: type[LearnerRank] = LearnerRank
) -> list[Handle[LearnerRank]]:
    """Start all ranks of a learner, but do not create the learner; see :func:`start_learner`."""
    each = enumerate(launches)
    return await side_by_side(*(launch(f"learner rank {i}", {}, rank, setup, i) for i, launch in each))


async def make_anew(learner: WorkerGroup[LearnerRank]) -> None:
    """Start the ranks of a new or lost learner, and create it, at version 0.

    Raises:
        LearnerLost: a rank has ended.
    """
    await learner.start()
    first = learner.workers[0]
    try:
        port = await first.call(LearnerRank.open_store) if len(learner.workers) > 1 else 0
    except WorkerLost as lost:
        raise LearnerLost(f"{lost}{_advice(str(lost))}") from lost
    await learner.call(LearnerRank.make, port)


def _advice(reason: str) -> str:
    """Return advice on the reason for which a rank ended."""
    memory = ", and SIGKILL usually means that memory ran out" if "SIGKILL" in reason else ""
    return f"; engine.log in the run directory has its last output{memory}"


async def start_engines(
    settings: Sequence[EngineSettings], launches: Sequence[Launch], first: int = 0
) -> dict[str, SingleEngine]:
    """Start engines concurrently; return them by name.

    Args:
        settings: settings of each engine.
        launches: launcher of each engine, in the same order.
        first: number of the first of them in its run.

    Raises:
        UserError: vLLM is not installed.
        EngineLost: an engine did not start.
    """
    starts = [
        launch(f"engine {number}", variables(each), VLLMEngine.start, each)
        for number, (each, launch) in enumerate(zip(settings, launches, strict=True), first)
    ]
    try:
        workers = await side_by_side(*starts)
    except EngineLost:
        raise
    except WorkerFrozen as frozen:
        raise EngineLost(str(frozen)) from frozen
    except WorkerLost as lost:
        raise EngineLost(f"vLLM did not start ({str(lost).rpartition('ended: ')[2]})") from lost
    return {worker.name: WorkerEngine(worker) for worker in workers}
