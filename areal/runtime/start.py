"""Starts the workers of a run: the ranks of its learner, and its engines."""

from __future__ import annotations

from collections.abc import Sequence

from areal.errors import EngineLost, LearnerLost, WorkerLost
from areal.rollout.engine import Engine
from areal.rollout.engines import Engines
from areal.rollout.vllm_engine import VLLMEngine
from areal.rollout.vllm_start import EngineSettings, variables
from areal.runtime.learner_rank import LearnerRank, LearnerSetup
from areal.runtime.worker_engine import WorkerEngine
from areal.workers.group import WorkerGroup
from areal.workers.handle import Launch, side_by_side

_ADVICE = "; what it said last is in the run's engine.log, and SIGKILL is mostly a lack of memory"


async def start_learner(
    setup: LearnerSetup, launches: Sequence[Launch], rank: type[LearnerRank] = LearnerRank
) -> WorkerGroup[LearnerRank]:
    """Start all ranks of a learner, make it, and have it compile what it will need.

    Args:
        setup: what each rank makes its learner from.
        launches: what starts each rank, in order.
        rank: the class of the ranks.

    Raises:
        LearnerLost: a rank has ended.
    """
    starts = (launch(f"learner rank {i}", {}, rank, setup, i) for i, launch in enumerate(launches))
    try:
        ranks = await side_by_side(*starts)
    except WorkerLost as lost:
        raise LearnerLost(f"{lost}{_ADVICE}") from lost
    learner = WorkerGroup(ranks, LearnerLost, _ADVICE)
    try:
        port = await ranks[0].call(LearnerRank.open_store) if len(ranks) > 1 else 0
        await learner.call(LearnerRank.make, port)
    except BaseException:
        await learner.close()
        raise
    return learner


async def start_engines(settings: Sequence[EngineSettings], launches: Sequence[Launch]) -> Engine:
    """Start engines side by side; several are one engine to the rest of the run.

    Args:
        settings: of each engine.
        launches: what starts each, in the same order.

    Raises:
        UserError: vLLM is not installed.
        EngineLost: an engine did not start.
    """
    starts = [
        launch(f"engine {number}", variables(each), VLLMEngine.start, each)
        for number, (each, launch) in enumerate(zip(settings, launches, strict=True))
    ]
    try:
        workers = await side_by_side(*starts)
    except EngineLost:
        raise
    except WorkerLost as lost:
        raise EngineLost("vLLM did not start") from lost
    engines = [WorkerEngine(worker) for worker in workers]
    return engines[0] if len(engines) == 1 else Engines(engines)
