"""Builds the parts of a run from its plan."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from areal import registry
from areal.agents.program import Program
from areal.agents.tool_use import ToolUse
from areal.config import Config
from areal.models import load_tokenizer
from areal.placement.placement import EnginePlacement
from areal.rollout.engine import Engine, Sampling
from areal.rollout.engines import Engines, max_in_flight
from areal.rollout.environments import EnvironmentPool
from areal.rollout.opening import Opening
from areal.rollout.rendering import Renderer
from areal.rollout.seeds import derive
from areal.rollout.vllm_engine import VLLMEngine
from areal.rollout.vllm_start import EngineSettings
from areal.rollout.worker import RolloutWorker
from areal.runtime.model_checks import eos_ids_of

if TYPE_CHECKING:
    from areal.learner.learner import Learner

from areal.runtime.plan import Plan, engine_dtype, max_concurrent


def make_learner(config: Config, model: str, device: str, threads: int) -> Learner:
    """Load the learner of a run, or of its replay.

    Args:
        config: its settings.
        model: folder or hub id of the weights to begin with.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads; its arithmetic depends on them.
    """
    from areal.learner.learner import Learner

    rollout = config.rollout
    return Learner(
        model,
        config.learner,
        device,
        rollout.temperature,
        threads,
        rollout.max_new_tokens,
    )


def training_sampling(config: Config) -> Sampling:
    """How training rollouts are sampled: from the distribution that the learner computes, whole."""
    rollout = config.rollout
    return Sampling(rollout.max_new_tokens, rollout.temperature, stop=rollout.stop)


def evaluation_sampling(config: Config) -> Sampling:
    """How evaluations are sampled; each response gets a seed of its own besides."""
    settings = config.evaluation
    return Sampling(
        settings.max_new_tokens or config.rollout.max_new_tokens,
        settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        min_p=settings.min_p,
        stop=config.rollout.stop,
    )


async def start_rollout_worker(plan: Plan, weight_backend: str | None) -> RolloutWorker:
    """Start the engines; return the worker on them.

    Raises:
        UserError: the model's files cannot be read.
    """
    config = plan.config
    tokenizer = load_tokenizer(plan.model)
    eos = eos_ids_of(plan.model, tokenizer)
    renderer = Renderer(tokenizer, eos, config.chat.template_kwargs)
    if isinstance(plan.agent, ToolUse):
        renderer.check_tools()
    return RolloutWorker.build(
        await _start_engines(
            [
                _engine_settings(plan, number, eos, weight_backend)
                for number in range(len(plan.placement.engines))
            ]
        ),
        renderer,
        plan.agent,
        environments(config),
        plan.max_model_len,
        config.rollout.temperature,
        opening_of(config),
    )


def opening_of(config: Config) -> Opening:
    """Return what conversations of a run open with."""
    return Opening(config.chat.system, tuple(dict(message) for message in config.chat.examples))


def _engine_settings(
    plan: Plan, number: int, eos: tuple[int, ...], weight_backend: str | None
) -> EngineSettings:
    """What the ``number``-th engine is built from."""
    config, placement = plan.config, plan.placement
    engine = placement.engines[number]
    return EngineSettings(
        model=plan.model,
        device=plan.device,
        dtype=str(engine_dtype(config, plan.device)).removeprefix("torch."),
        max_model_len=plan.max_model_len,
        max_num_seqs=max_in_flight(max_concurrent(config), len(placement.engines)),
        memory=_cache_size(plan, engine),
        eos_ids=eos,
        threads=engine.threads,
        eager=plan.device == "cpu" if config.engine.eager is None else config.engine.eager,
        # Of their own: else they would sample the same at the same step.
        seed=derive(config.seed, number) % 2**32 if number else config.seed,
        weight_backend=weight_backend,
        device_bytes=engine.devices[0].nbytes if engine.devices else 0,
        visible_devices=",".join(device.visible for device in engine.devices),
        interruption=config.rollout.interruption,
        # A program may send stop strings with any call.
        stop_strings=bool(config.rollout.stop) or isinstance(plan.agent, Program),
    )


async def _start_engines(settings: list[EngineSettings]) -> Engine:
    """Start them one after another: the environment of this process says what each is to have."""
    engines: list[VLLMEngine] = []
    async with AsyncExitStack() as started:
        for each in settings:
            engines.append(await VLLMEngine.start(each))
            started.push_async_callback(engines[-1].close)
        started.pop_all()  # all of them: who gets them closes them
    return engines[0] if len(engines) == 1 else Engines(engines)


def environments(config: Config) -> EnvironmentPool:
    """Return what makes and calls the environments of a run; none is made yet."""
    return EnvironmentPool(
        lambda: registry.make_env(config.env, **config.env_options),
        config.rollout.env_workers,
        config.rollout.env_time_limit,
        config.env,
    )


def _cache_size(plan: Plan, engine: EnginePlacement) -> float:
    """KV cache of an engine, in GiB on a CPU, or as a share of the GPU."""
    if (memory := plan.placement.memory_of(engine)) is not None:
        return memory.cache / memory.device.nbytes
    return plan.config.engine.memory or 1.0
