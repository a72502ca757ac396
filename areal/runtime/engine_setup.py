"""The settings of a run's engines."""

from __future__ import annotations

from areal.agents.program import Program
from areal.models.sight import sees
from areal.placement.placement import EnginePlacement
from areal.rollout.router import max_in_flight
from areal.rollout.seeds import derive
from areal.rollout.vllm_start import EngineSettings, is_eager
from areal.runtime.plan import Plan, engine_dtype, max_concurrent


def engine_settings(
    plan: Plan, number: int, engine: EnginePlacement, eos: tuple[int, ...], weight_backend: str | None
) -> EngineSettings:
    """Return the settings of an engine, before which ``number`` others were started."""
    config, placement = plan.config, plan.placement
    return EngineSettings(
        model=plan.model,
        device=plan.device,
        dtype=str(engine_dtype(config, plan.device)).removeprefix("torch."),
        max_model_len=plan.max_model_len,
        max_num_seqs=max_in_flight(max_concurrent(config), len(placement.engines)),
        memory=_cache_size(plan, engine),
        eos_ids=eos,
        threads=engine.threads,
        eager=is_eager(config.engine.eager, plan.device),
        # Each engine has its own seed; otherwise all would draw the same samples at the same step.
        seed=derive(config.seed, number) % 2**32 if number else config.seed,
        weight_backend=weight_backend,
        tensor_parallel=placement.tensor_parallel,
        device_bytes=engine.devices[0].nbytes if engine.devices else 0,
        visible_devices=engine.visible_on(engine.host),
        hosts=tuple(map(placement.inventory.address, engine.hosts)) if engine.others else (),
        interruption=config.rollout.interruption,
        experts=config.learner.router_replay and weight_backend is not None,
        quantization=config.engine.quantization,
        # A program may send stop strings with any call, and so may clients of a served model.
        sees=sees(plan.model),
        stop_strings=bool(config.rollout.stop) or plan.agent is None or isinstance(plan.agent, Program),
    )


def _cache_size(plan: Plan, engine: EnginePlacement) -> float:
    """Return the size of an engine's KV cache, in GiB on a CPU, or as a share of the GPU."""
    if (memory := plan.placement.memory_of(engine)) is not None:
        return memory.cache / memory.device.nbytes
    sharing = len(plan.placement.engines_on(engine.devices[0])) if engine.devices else 1
    return (plan.config.engine.memory or 1.0) / sharing
