"""Builds the parts of a run from its plan, and puts them together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from areal import registry
from areal.agents.program import Program
from areal.agents.tool_use import ToolUse
from areal.config import Config
from areal.errors import UserError, install_hint
from areal.models import load_tokenizer
from areal.placement.placement import EnginePlacement
from areal.registry import env_label
from areal.rollout.admission import Admission
from areal.rollout.controller import EpisodeId, RolloutController
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engines import max_in_flight
from areal.rollout.environments import EnvironmentPool
from areal.rollout.opening import Opening
from areal.rollout.rendering import Renderer
from areal.rollout.seeds import derive
from areal.rollout.tasks import TaskSource
from areal.rollout.vllm_start import EngineSettings
from areal.rollout.worker import RolloutWorker
from areal.runtime import checkpoint
from areal.runtime.checkpoint_writer import CheckpointWriter
from areal.runtime.held_out import evaluate_held_out
from areal.runtime.held_out_scores import HeldOutScores
from areal.runtime.host_checks import check_hosts
from areal.runtime.learner_rank import LearnerRank, LearnerSetup
from areal.runtime.loop import Trainer
from areal.runtime.mismatch import MismatchWatch
from areal.runtime.model_checks import eos_ids_of
from areal.runtime.plan import Plan, engine_dtype, max_concurrent
from areal.runtime.recording import Records, StepRecorder
from areal.runtime.replay import describe_start
from areal.runtime.sampling import seeded, training_sampling
from areal.runtime.signals import abandoned_on_signal
from areal.runtime.start import start_engines, start_learner
from areal.runtime.weight_sync import WeightSync
from areal.trajectory import Episode, Group
from areal.waiting import Watch, wait_all
from areal.weights.interface import VLLM_BACKEND
from areal.workers import process
from areal.workers.cluster import Cluster
from areal.workers.group import WorkerGroup
from areal.workers.handle import Launch

_EQUAL_BATCHES = 20
"""Batches of groups with equal rewards in a row, after which dynamic sampling gives up."""


@contextmanager
def held_cluster(config: Config) -> Iterator[Cluster | None]:
    """Hold the hosts of a run beyond this machine, if its configuration asks for them, within the block.

    Raises:
        UserError: Ray is not installed, or there is no such cluster, or it has no room.
    """
    if config.placement == "local":
        yield None
        return
    try:
        from areal.workers.ray import RayCluster
        from areal.workers.ray_hosts import reserve
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError(f"placement=ray needs Ray: {install_hint('ray')}") from error
    gpus = None if config.device == "auto" else config.device == "cuda"
    cluster = RayCluster(reserve(config.ray.address, gpus, config.ray.hosts), config.ray.interface)
    try:
        yield cluster
    finally:
        cluster.close()


@asynccontextmanager
async def open_trainer(plan: Plan, records: Records, resume: Path | None) -> AsyncIterator[Trainer]:
    """Start the engines and the learner of a run; they end with the block.

    Args:
        resume: a checkpoint folder to go on from.

    Raises:
        UserError, WorkerLost: something does not start.
        Interrupted: a signal came before everything had started.
    """
    setup = learner_setup(plan, records.directory.checkpoints)
    launches = [_launch_on(plan, rank.host) for rank in plan.placement.ranks]
    await asyncio.to_thread(check_hosts, plan, records.directory.path)
    # Engines end before the learner, whose memory they read.
    async with AsyncExitStack() as learners, AsyncExitStack() as engines:
        async with abandoned_on_signal(records.progress.message):
            for line in plan.summary:
                records.progress.message(line)
            records.progress.status("starting vLLM and the learner")
            learner, worker = await wait_all(
                _kept(learners, start_learner(setup, launches)),
                _kept(engines, start_rollout_worker(plan, VLLM_BACKEND)),
            )
            records.progress.message(f"learner: {await learner.call(LearnerRank.description)}")
            trainer = await make_trainer(plan, learner, worker, records, resume)
        yield trainer


async def _kept(stack: AsyncExitStack, start: Awaitable[Any]) -> Any:
    """Return a part that is started; the end of the stack closes it."""
    part = await start
    stack.push_async_callback(part.close)
    return part


def learner_setup(plan: Plan, checkpoints: Path) -> LearnerSetup:
    """Return what each rank of a run's learner is made from."""
    ranks = plan.placement.ranks
    gpus = tuple(rank.device.index for rank in ranks if rank.device is not None)
    address = next(host.address for host in plan.placement.inventory.hosts if host.name == ranks[0].host)
    return LearnerSetup(plan.config, plan.model, plan.device, ranks[0].threads, checkpoints, gpus, address)


def _launch_on(plan: Plan, host: str) -> Launch:
    """Return what starts workers on a host of a run."""
    return process.launch if plan.cluster is None else plan.cluster.launch_on(host)


async def make_trainer(
    plan: Plan,
    learner: WorkerGroup[LearnerRank],
    worker: RolloutWorker,
    records: Records,
    resume: Path | None,
) -> Trainer:
    """Put a trainer together from parts that are started, and bring them to where the run begins.

    The learner's weights are in the engine afterwards.

    Args:
        learner: made, at version 0.
        worker: its engine takes weights.
        resume: a checkpoint folder to go on from.
    """
    config, watch, version = plan.config, Watch(), 0
    state, groups = {"next_group": 0, "in_flight": []}, list[Group]()
    if resume is not None:
        version = await learner.call(LearnerRank.load, resume)
        state, groups = checkpoint.load_rollouts(resume)
    weights = await learner.call(LearnerRank.hash_weights)
    await worker.engine.connect(await learner.call(LearnerRank.open_sender, plan.placement.backends))
    admission = Admission[Group](config.groups_per_batch, config.rollout.max_staleness, version)
    checkpoint.recover(admission, state, groups)
    rollouts = rollouts_of(plan, worker, admission)
    sync = WeightSync(worker.engine, learner, rollouts.advance, config.rollout.max_staleness == 0, watch)
    await sync.start(version)
    measure = partial(evaluate_held_out, worker, plan) if config.evaluation.problems else None
    held_out = HeldOutScores(measure, env_label(config.env), records, watch)
    if resume is not None:  # only now: a resumption that fails leaves the run as it was
        held_out.go_on(records.go_on(config, version))
    threads = plan.placement.ranks[0].threads
    records.directory.log_start(describe_start(config, version, weights, plan.device, threads))
    checkpoints = CheckpointWriter(learner, admission, held_out.wanted, watch)
    mismatch = MismatchWatch(config, plan.dtypes, plan.device)
    recorder = StepRecorder(records, rollouts, worker, mismatch)
    return Trainer(config, version, learner, rollouts, sync, checkpoints, held_out, recorder, watch)


def rollouts_of(plan: Plan, worker: RolloutWorker, admission: Admission[Group]) -> RolloutController:
    """Return what keeps generation going."""
    config, rollout = plan.config, plan.config.rollout
    sampling = training_sampling(config)

    async def run_episode(task: dict[str, Any], episode_id: EpisodeId) -> Episode:
        return await worker.run_episode(task, seeded(sampling, plan, episode_id))

    return RolloutController(
        admission,
        run_episode,
        TaskSource(plan.env, config.seed).task,
        rollout.group_size,
        max_concurrent(config),
        rollout.max_retries,
        rollout.max_failures,
        max_equal=_EQUAL_BATCHES * config.groups_per_batch if config.learner.dynamic_sampling else None,
    )


async def start_rollout_worker(plan: Plan, weight_backend: str | None) -> RolloutWorker:
    """Start the engines; return the worker on them.

    Args:
        weight_backend: the name by which vLLM knows what receives weights; None: they are fixed.

    Raises:
        UserError: the model's files cannot be read, or vLLM is not installed.
        EngineLost: an engine did not start.
    """
    config = plan.config
    tokenizer = load_tokenizer(plan.model)
    eos = eos_ids_of(plan.model, tokenizer)
    renderer = Renderer(tokenizer, eos, config.chat.template_kwargs)
    if isinstance(plan.agent, ToolUse):
        renderer.check_tools()
    return RolloutWorker(
        await start_engines(
            [
                _engine_settings(plan, number, eos, weight_backend)
                for number in range(len(plan.placement.engines))
            ],
            [_launch_on(plan, engine.host) for engine in plan.placement.engines],
        ),
        renderer,
        plan.agent,
        environments(config),
        plan.max_model_len,
        EndpointServer(renderer.token_texts, config.rollout.temperature),
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
