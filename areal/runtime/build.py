"""Builds the parts of a run from its plan, and connects them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from areal import registry
from areal.config import Config
from areal.errors import EngineLost, UserError, install_hint
from areal.evaluation.endpoint import is_endpoint
from areal.models import load_tokenizer
from areal.placement.placement import EnginePlacement, Placement
from areal.registry import env_label
from areal.rollout.admission import Admission
from areal.rollout.controller import EpisodeId, RolloutController
from areal.rollout.engine import SingleEngine
from areal.rollout.engines import Engines
from areal.rollout.rendering import Renderer
from areal.rollout.seeds import derive
from areal.rollout.tasks import TaskSource
from areal.rollout.worker import EpisodeRunner, RolloutWorker
from areal.runtime import checkpoint
from areal.runtime.changing_hosts import ChangingHosts
from areal.runtime.checkpoint_writer import CheckpointWriter
from areal.runtime.control import control_socket
from areal.runtime.engine_layers import tell_layers
from areal.runtime.engine_setup import engine_settings
from areal.runtime.gathering import Gathering, gathering_of
from areal.runtime.held_out import evaluate_held_out
from areal.runtime.held_out_scores import HeldOutScores
from areal.runtime.journal import Journal
from areal.runtime.learner_rank import LearnerRank, LearnerSetup
from areal.runtime.loop import Trainer
from areal.runtime.membership import Membership
from areal.runtime.mismatch import MismatchWatch
from areal.runtime.model_checks import eos_ids_of
from areal.runtime.monitor import Monitor
from areal.runtime.plan import Plan, max_concurrent, placed_anew
from areal.runtime.recording import Records, StepRecorder
from areal.runtime.recovery import LearnerRecovery
from areal.runtime.replay import describe_start
from areal.runtime.resuming import ResumePoint, announce, restore
from areal.runtime.rollout_process import RolloutProcess, RolloutSetup
from areal.runtime.rollout_state import RolloutState, recover
from areal.runtime.rollout_workers import RolloutWorkers, Start, first_that_starts
from areal.runtime.rollouts import env_isolation, renderer_of, rollout_worker_of
from areal.runtime.sampling import seeded, training_sampling
from areal.runtime.signals import abandoned_on_signal
from areal.runtime.spread_engine import over_hosts
from areal.runtime.start import start_engines, start_learner, start_ranks
from areal.runtime.weight_sync import WeightSync
from areal.runtime.worker_engine import WorkerEngine
from areal.trajectory import Episode, Group
from areal.waiting import Watch, wait_all
from areal.weights.interface import VLLM_BACKEND
from areal.workers import process
from areal.workers.attach import Address
from areal.workers.cluster import Cluster
from areal.workers.group import WorkerGroup
from areal.workers.guard import Guard
from areal.workers.handle import Handle, Launch
from areal.workers.network import is_free

_EQUAL_BATCHES = 20
"""Number of consecutive batches of groups with equal rewards after which dynamic sampling gives up."""


@contextmanager
def held_cluster(config: Config) -> Iterator[Cluster | None]:
    """Hold the hosts of a run beyond this machine within the block, if its configuration requires them.

    Raises:
        UserError: Ray is not installed, or the cluster does not exist or has no room.
    """
    if config.placement == "local" or is_endpoint(config.model):
        yield None
        return
    try:
        from areal.workers.ray import RayCluster
        from areal.workers.ray_hosts import reserve
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError(f"placement=ray requires Ray; install it with {install_hint('ray')}") from error
    gpus = None if config.device == "auto" else config.device == "cuda"
    ray = config.ray
    held = reserve(ray.address, gpus, ray.hosts, cpu_hosts=ray.cpu_hosts)
    cluster = RayCluster(held, ray.interface)
    try:
        yield cluster
    finally:
        cluster.close()


@asynccontextmanager
async def open_trainer(
    plan: Plan,
    records: Records,
    resume: ResumePoint | None,
    monitor: Monitor | None = None,
    start: Callable[[Plan, Guard], Awaitable[EpisodeRunner]] | None = None,
) -> AsyncIterator[Trainer]:
    """Start the engines and the learner of a run; they end with the block.

    Args:
        resume: the resume point; None: the run is new.
        monitor: watches the whole run; None: only its workers are watched.
        start: starts the engines and the workers of episodes; None: :func:`start_rollouts`.

    Raises:
        UserError, WorkerLost: a part does not start.
        Interrupted: a signal came before everything had started.
    """
    monitor = monitor or Monitor(plan.config, records)
    guard, waits = monitor.guard, monitor.waits
    with waits.named("the run", "the hosts of the cluster"):
        gathering, setup, launches = await _learner_parts(plan, records, guard)
    # Engines end before the learner, whose memory they read.
    async with AsyncExitStack() as learners, AsyncExitStack() as engines:
        async with abandoned_on_signal(records.progress.message):
            for line in [*plan.summary, *([gathering.notice] if gathering is not None else [])]:
                records.progress.message(line)
            records.progress.status("starting vLLM and the learner")
            with waits.named("the run", "vLLM and the learner to start"):
                learner, worker = await wait_all(
                    _kept(learners, start_learner(setup, launches)),
                    _kept(engines, (start or start_rollouts)(plan, guard)),
                )
            records.progress.message(f"learner: {await learner.call(LearnerRank.description)}")
            with waits.named("the run", "the engines to load the initial weights"):
                trainer = await make_trainer(plan, learner, worker, records, monitor, resume, gathering)
                if plan.config.engine.quantization and isinstance(worker.engine, Engines):
                    await tell_layers(worker.engine.engines, records)
            monitor.watch_over(trainer, worker.pool.calls if isinstance(worker, RolloutWorker) else None)
        members = membership(plan, trainer, worker, monitor)
        trainer.sync.connect = members.connect_all
        notice = records.progress.message
        if plan.cluster is not None:
            hosts = ChangingHosts(plan.config, plan.model, plan.cluster, members, notice)

            async def start_again(placement: Placement) -> list[Handle[LearnerRank]]:
                moved = placed_anew(plan, placement)
                copying, setup, launches = await _learner_parts(moved, records, guard)
                trainer.checkpoints.gathering = copying
                return await start_ranks(setup, launches)

            learner.start_workers = partial(hosts.start_learner, start_again)
            trainer.watch.add(hosts.run())
            trainer.watch.add(plan.cluster.watch())
        async with control_socket(records.directory, members.commands, notice):
            yield trainer


def membership(plan: Plan, trainer: Trainer, worker: EpisodeRunner, monitor: Monitor) -> Membership:
    """Return the component with which engines join an active run, leave it, and are replaced."""
    guard, starts = monitor.guard, Counter[int]()
    eos = eos_ids_of(plan.model, load_tokenizer(plan.model))

    async def start(placement: Placement, number: int) -> tuple[str, SingleEngine]:
        grown, engine = placed_anew(plan, placement), placement.engines[-1]
        starts[number] += 1
        # An engine that replaces another one does not repeat its samples.
        settings = engine_settings(grown, number, engine, eos, VLLM_BACKEND)
        settings = replace(settings, seed=derive(settings.seed, starts[number]) % 2**32)
        started = await start_engines([settings], [_launch_engine(grown, engine, guard)], number)
        if plan.config.engine.quantization:
            await tell_layers(started, trainer.records)
        [each] = started.items()
        return each

    async def announce(requested: Mapping[str, SingleEngine], patience: float | None) -> None:
        if isinstance(worker, RolloutWorkers):
            found = list[Address]()
            for name, engine in requested.items():
                with suppress(EngineLost):  # the following change is announced, too
                    found += await _addresses(members.placement, {name: engine})
            await worker.use_engines(found, patience)

    members = Membership(
        plan.config,
        plan.placement,
        trainer.sync,
        start,
        trainer.records.progress.message,
        announce,
        monitor.restarts,
        trainer.records.directory.log_event,
    )
    return members


async def _kept(stack: AsyncExitStack, start: Awaitable[Any]) -> Any:
    """Return a started part; the end of the stack closes it."""
    part = await start
    stack.push_async_callback(part.close)
    return part


async def _learner_parts(
    plan: Plan, records: Records, guard: Guard
) -> tuple[Gathering | None, LearnerSetup, list[Launch]]:
    """Return the parts for a learner: what copies its checkpoints, its setup, and its launchers."""
    gathering, placement = None, plan.placement
    if plan.cluster is not None:
        path = records.directory.path
        gathering = await asyncio.to_thread(gathering_of, plan.cluster, placement, path)
    setup = learner_setup(plan, records.directory.checkpoints, gathering is None)
    return gathering, setup, [_launch_on(plan, rank.host, guard) for rank in placement.ranks]


def learner_setup(plan: Plan, checkpoints: Path, shared: bool = True) -> LearnerSetup:
    """Return the setup of each rank of a learner; ``shared``: whether all ranks see its checkpoints."""
    ranks = plan.placement.ranks
    gpus = tuple(rank.device.index for rank in ranks if rank.device is not None)
    address = plan.placement.inventory.address(ranks[0].host)
    threads = tuple(rank.threads for rank in ranks)
    folder = checkpoints.absolute()  # workers on other hosts may have another current folder
    planned = {part.device: part.learner_share for part in plan.placement.memory}
    gpu_shares = tuple(planned[rank.device] for rank in ranks if rank.device in planned)
    return LearnerSetup(
        plan.config, plan.model, plan.device, threads, folder, gpus, address, shared, gpu_shares
    )


def _launch_on(plan: Plan, host: str, guard: Guard) -> Launch:
    """Return a launcher of workers on a host of a run."""
    if plan.cluster is None:
        return process.launch_guarded(guard, plan.early)
    return plan.cluster.launch_on(host, guard)


def _launch_engine(plan: Plan, engine: EnginePlacement, guard: Guard) -> Launch:
    """Return a launcher of an engine on its hosts."""
    launches = [_launch_on(plan, host, guard) for host in engine.hosts]
    if plan.cluster is None or not engine.others:
        return launches[0]
    address = plan.placement.inventory.address(engine.host)
    free = partial(plan.cluster.run, engine.host, is_free, address)
    return over_hosts(launches, [engine.visible_on(host) for host in engine.hosts], free)


async def make_trainer(
    plan: Plan,
    learner: WorkerGroup[LearnerRank],
    worker: EpisodeRunner,
    records: Records,
    monitor: Monitor,
    resume: ResumePoint | None = None,
    gathering: Gathering | None = None,
) -> Trainer:
    """Create a trainer from started parts, and bring the parts to the start of the run.

    Afterwards, the engine has the learner's weights.

    Args:
        plan: plan of the run.
        learner: a new learner, at version 0.
        worker: runs the episodes; its engine loads weights.
        records: the run directory and the display.
        monitor: provides the run's named waits and its budget of restarts.
        resume: the resume point; None: the run is new.
        gathering: copies checkpoints from and to hosts that do not share the run directory; None: all do.
    """
    config, watch, state = plan.config, Watch(monitor.waits), RolloutState()
    if resume is not None:
        state = await restore(resume, config, learner, records, gathering)
    version = state.version
    weights = await learner.call(LearnerRank.hash_weights)
    placed = plan.placement

    async def connect() -> None:
        ends = await learner.call(LearnerRank.open_sender, placed.backends, placed.tensor_parallel)
        await worker.engine.connect(ends)

    admission = Admission[Group](config.groups_per_batch, config.rollout.max_staleness, version)
    recover(admission, state)
    rollouts = rollouts_of(plan, worker, admission)
    waits_for_load, log_event = config.rollout.max_staleness == 0, records.directory.log_event
    sync = WeightSync(worker.engine, learner, rollouts.advance, waits_for_load, watch, connect, log_event)
    await sync.start(version)
    measure = partial(evaluate_held_out, worker, plan) if config.evaluation.problems else None
    held_out = HeldOutScores(measure, env_label(config.env), records, watch)
    if resume is not None:  # only now, because a failed resumption must not change the run
        for path in resume.damaged:
            checkpoint.set_aside(path)
        held_out.go_on(records.go_on(config, version))
        announce(resume, state, records)
    journal = Journal(records.directory, admission, records.warn_of)
    await journal.start()
    threads = plan.placement.ranks[0].threads
    records.trackers.start(config, version)
    records.directory.log_start(describe_start(config, version, weights, plan.device, threads))
    keep, warn = config.checkpoint.keep, records.warn_of
    checkpoints = CheckpointWriter(learner, admission, held_out.wanted, watch, warn, keep, gathering)
    mismatch = MismatchWatch(config, plan.dtypes, plan.device)
    recorder = StepRecorder(records, rollouts, worker, mismatch, journal)
    recovery = LearnerRecovery(sync, checkpoints, records, monitor.restarts)
    return Trainer(config, version, rollouts, sync, checkpoints, held_out, recorder, recovery)


def rollouts_of(plan: Plan, worker: EpisodeRunner, admission: Admission[Group]) -> RolloutController:
    """Return the controller that keeps generation going."""
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


async def start_rollouts(plan: Plan, guard: Guard) -> EpisodeRunner:
    """Start the engines of a training run, and the rollout workers, if they have separate processes.

    Args:
        guard: watches all of them.

    Raises:
        UserError: the model's files cannot be read, or vLLM is not installed.
        WorkerLost: an engine or a rollout worker did not start.
    """
    rollout = plan.config.rollout
    if not rollout.workers:
        return await start_rollout_worker(plan, VLLM_BACKEND, guard)
    launch_env = env_launcher(plan.config, plan.env)
    setup = RolloutSetup(plan.config, plan.model, plan.max_model_len, registry.registered(), launch_env)
    hosts = plan.placement.rollout_hosts

    def starts(number: int) -> list[Start]:
        first, name = number % len(hosts), f"rollout worker {number}"
        launches = [_launch_on(plan, host, guard) for host in [*hosts[first:], *hosts[:first]]]
        return [partial(launch, name, {}, RolloutProcess, setup) for launch in launches]

    workers = RolloutWorkers([partial(first_that_starts, starts(n)) for n in range(rollout.workers)])
    async with AsyncExitStack() as started:
        started.push_async_callback(workers.close)
        starting = _kept(started, _start_engines(plan, VLLM_BACKEND, guard))
        engine, _ = await wait_all(starting, workers.start())
        await workers.connect(engine, await _addresses(plan.placement, engine.engines))
        started.pop_all()
    return workers


async def start_rollout_worker(
    plan: Plan, weight_backend: str | None, guard: Guard | None = None
) -> RolloutWorker:
    """Start the engines; return the worker on them.

    Args:
        weight_backend: vLLM's name of the weight receiver; None: the weights are fixed.
        guard: watches the engines; None: a new guard.

    Raises:
        UserError: the model's files cannot be read, or vLLM is not installed.
        EngineLost: an engine did not start.
    """
    renderer = renderer_of(plan.config, plan.model, plan.agent)
    engine = await _start_engines(plan, weight_backend, guard or Guard(plan.config.run.stall_limit))
    launch_env = env_launcher(plan.config, plan.env)
    return rollout_worker_of(plan.config, renderer, plan.agent, plan.max_model_len, engine, launch_env)


async def start_served(plan: Plan) -> tuple[Engines, Renderer]:
    """Start engines that serve a model to any client; return them, and the renderer of conversations.

    Raises:
        UserError: the model's files cannot be read, or vLLM is not installed.
        EngineLost: an engine did not start.
    """
    renderer = renderer_of(plan.config, plan.model, None)
    return await _start_engines(plan, None, Guard(plan.config.run.stall_limit)), renderer


def env_launcher(config: Config, env: Any) -> Launch | None:
    """Return a launcher of processes for environments; None if they are called on threads."""
    return process.launch if env_isolation(config, env) == "process" else None


async def _start_engines(plan: Plan, weight_backend: str | None, guard: Guard) -> Engines:
    eos, placed = eos_ids_of(plan.model, load_tokenizer(plan.model)), plan.placement.engines
    started = await start_engines(
        [engine_settings(plan, number, each, eos, weight_backend) for number, each in enumerate(placed)],
        [_launch_engine(plan, engine, guard) for engine in placed],
    )
    return Engines(started, in_turn=plan.config.engine.swap == "in_turn")


async def _addresses(placement: Placement, engines: Mapping[str, SingleEngine]) -> list[Address]:
    """Let engines of a run listen for rollout workers; return their addresses."""
    hosts = {host.name: host.address for host in placement.inventory.hosts}
    own = placement.inventory.hosts[0].address
    return [
        await each.listen(hosts.get(each.worker.host, own))
        for each in engines.values()
        if isinstance(each, WorkerEngine)
    ]
