"""Starts the processes of a run's workers before the run is planned, so that they can import modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from areal.config import Config
from areal.evaluation.endpoint import is_endpoint
from areal.placement.inventory import Inventory, probe
from areal.placement.placement import place
from areal.rollout.vllm_start import EngineSettings, is_eager, variables
from areal.workers.early import EarlyProcesses
from areal.workers.process import start_early

_OF_ENGINES = ("vllm.v1.engine.async_llm", "areal.rollout.vllm_engine")
_OF_LEARNERS = ("areal.runtime.replay", "transformers.models.auto.modeling_auto")


@contextmanager
def started_early(
    config: Config, training: bool = True, inventory: Inventory | None = None
) -> Iterator[EarlyProcesses | None]:
    """Start processes on this machine; those that no worker of the run takes over end with the block.

    The imports of the run itself and of its engines come first. On few cores, those of the learner would
    delay them, so the learner then starts with the run.

    Args:
        training: whether there is a learner in addition to the engines.
        inventory: this machine; None: it is probed.

    Raises:
        UserError: there are not enough devices.
    """
    if config.placement != "local" or is_endpoint(config.model):
        yield None
        return
    placement = place(inventory or probe(config.device), config, training)
    with EarlyProcesses() as early:
        for number, engine in enumerate(placement.engines):
            # Settings that do not affect the environment come with the plan.
            settings = EngineSettings(
                model="",
                device=placement.device_type,
                dtype="",
                max_model_len=0,
                max_num_seqs=0,
                memory=config.engine.memory or 1.0,
                eos_ids=(),
                threads=engine.threads,
                eager=is_eager(config.engine.eager, placement.device_type),
                tensor_parallel=placement.tensor_parallel,
                visible_devices=engine.visible_on(engine.host),
            )
            start_early(early, f"engine {number}", variables(settings), _OF_ENGINES)
        free = placement.inventory.hosts[0].cores - 1 - len(placement.engines)
        for number in range(len(placement.ranks) if free >= len(placement.ranks) else 0):
            start_early(early, f"learner rank {number}", {}, _OF_LEARNERS)
        yield early
