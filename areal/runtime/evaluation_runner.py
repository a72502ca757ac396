"""Runs stored evaluations: benchmarks, or an environment's held-out problems, in a folder.

- ``evaluation.json``: the request, from which the evaluation can resume;
- ``NAME.jsonl``: the responses to each benchmark, as they arrive (:mod:`areal.evaluation.responses`);
- ``conversations/NAME.jsonl``: the conversations (:mod:`areal.evaluation.conversations`);
- ``data/NAME.jsonl``: its problems, unless their source is such a file;
- ``report.json``, ``report.md``: the results;
- ``areal.log``, ``engine.log``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from areal.agents.program import Program
from areal.errors import AgentFailure, EnvironmentFailure, Interrupted, UserError, WorkerLost
from areal.evaluation.conversations import Conversation
from areal.evaluation.endpoint import EndpointClient
from areal.evaluation.endpoint_worker import EndpointWorker
from areal.evaluation.episodes import EpisodeOutcome, RunEpisode, engine_runner
from areal.evaluation.report import Report, report_of, write_reports
from areal.evaluation.responses import Response, ResponseFile
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.endpoint.wire import unavailable
from areal.runtime.build import env_launcher, start_rollout_worker
from areal.runtime.evaluation_jobs import EvaluationJob
from areal.runtime.heartbeat import heartbeat
from areal.runtime.held_out import timed_responses
from areal.runtime.plan import max_concurrent
from areal.runtime.rollouts import environments, opening_of
from areal.runtime.signals import abandoned_on_signal, on_signals
from areal.telemetry.logs import capture
from areal.telemetry.progress import Progress
from areal.telemetry.run_directory import RunDirectory
from areal.waiting import Watch
from areal.workers.cluster import released

T = TypeVar("T")


async def run_jobs(jobs: list[EvaluationJob], folder: Path, show: bool) -> list[Report]:
    """Sample the responses that are missing, and write the reports.

    Raises:
        UserError: the folder contains responses of a different evaluation.
        EnvironmentFailure: an episode failed permanently; the responses so far are kept.
        WorkerLost: an engine has died; likewise.
        Interrupted: Ctrl-C or SIGTERM; the responses so far are kept.
    """
    title = f"{', '.join(job.header.name for job in jobs)} · {jobs[0].config.model}"
    with (
        capture(RunDirectory(folder)) as terminal,
        released(None if jobs[0].plan is None else jobs[0].plan.cluster),
        Progress(0, title, show, terminal) as progress,
    ):
        progress.message(f"evaluation: {folder}")
        for line in jobs[0].plan.notices if jobs[0].plan is not None else ():
            progress.message(line)
        for line in dict.fromkeys(line for job in jobs for line in getattr(job.env.unwrapped, "notices", ())):
            progress.message(line)
        opened = [(job, ResponseFile(folder / job.file, job.header)) for job in jobs]
        async with heartbeat(terminal):
            try:
                reports = await _run(opened, folder, progress)
            except asyncio.CancelledError as error:  # a second signal
                raise _interrupted(folder) from error
        write_reports(folder, reports)
    return reports


Runners: TypeAlias = tuple[Callable[[EvaluationJob], RunEpisode], Callable[[], float | None]]
"""The function that runs the episodes of each job, and the engine's busy seconds if it is an areal engine."""


def _interrupted(folder: Path) -> Interrupted:
    return Interrupted(f"stopped; resume with `areal eval --resume {folder}`")


async def _interruptible(work: Awaitable[T], folder: Path, progress: Progress) -> T:
    """Wait for the work, or until a signal."""
    watch, stop, main = Watch(), asyncio.Event(), asyncio.current_task()
    assert main is not None

    async def stopped() -> None:
        await stop.wait()
        raise _interrupted(folder)

    def wind_up() -> None:
        progress.message("stopping: all responses so far are kept")
        stop.set()

    watch.add(stopped())
    release = on_signals(wind_up, main.cancel)
    try:
        return await watch.wait(work, "the run", "the evaluation")
    finally:
        release()
        await watch.close()


async def _run(
    opened: list[tuple[EvaluationJob, ResponseFile]], folder: Path, progress: Progress
) -> list[Report]:
    todo = [job for job, file in opened if len(file.responses) < job.header.problems * job.header.samples]
    speeds: dict[str, dict[str, float | None]] = {}
    if todo:
        progress.status("starting")
        async with _runners(todo) as (runner_of, busy):
            for job, file in opened:
                if job in todo:
                    work = _respond(job, file, runner_of(job), busy, progress)
                    try:
                        speeds[job.header.name] = await _interruptible(work, folder, progress)
                    except (EnvironmentFailure, AgentFailure, UserError, WorkerLost) as error:
                        if not (file.responses and file.path.exists()):
                            raise
                        raise type(error)(
                            f"{error}; the responses so far are kept; resume with `areal eval --resume "
                            f"{folder}`"
                        ) from error
    return [
        report_of(job.header, file.sorted(), **{"seconds": 0.0, **speeds.get(job.header.name, {})})
        for job, file in opened
    ]


async def _respond(
    job: EvaluationJob,
    file: ResponseFile,
    run_episode: RunEpisode,
    busy: Callable[[], float | None],
    progress: Progress,
) -> dict[str, float | None]:
    """Sample the missing responses of a job; return the speed if all were missing."""
    known, total = list(file.responses), job.header.problems * job.header.samples

    def keep(response: Response, said: Sequence[Conversation]) -> None:
        file.write(response, said)
        progress.status(f"{job.header.name}: {len(file.responses)}/{total}")

    _, speed = await timed_responses(run_episode, job.tasks, job.config, busy, keep, known)
    return {} if known else speed


def _runners(jobs: list[EvaluationJob]) -> AbstractAsyncContextManager[Runners]:
    """Start the model of the jobs."""
    return _endpoint_runners(jobs) if jobs[0].plan is None else _engine_runners(jobs)


@asynccontextmanager
async def _engine_runners(jobs: list[EvaluationJob]) -> AsyncIterator[Runners]:
    plans = [job.plan for job in jobs if job.plan is not None]
    async with abandoned_on_signal():
        worker = await start_rollout_worker(max(plans, key=lambda p: p.max_model_len), None)
    pools = [worker.pool]

    def runner_of(job: EvaluationJob) -> RunEpisode:
        assert job.plan is not None
        pool = environments(job.config, env_launcher(job.config, job.env))
        pools.append(pool)
        own = replace(worker, agent=job.agent, pool=pool, max_model_len=job.plan.max_model_len)
        return engine_runner(own, job.sampling)

    try:
        yield runner_of, lambda: worker.engine.busy_seconds
    finally:
        await _close_programs(jobs)
        await worker.engine.close()
        for pool in pools:
            await pool.close()


@asynccontextmanager
async def _endpoint_runners(jobs: list[EvaluationJob]) -> AsyncIterator[Runners]:
    endpoint = await EndpointClient.connect(jobs[0].config.model, max_concurrent(jobs[0].config))
    workers: list[EndpointWorker] = []
    servers: list[EndpointServer] = []

    def runner_of(job: EvaluationJob) -> RunEpisode:
        chat = job.config.chat.template_kwargs
        pool = environments(job.config, env_launcher(job.config, job.env))
        server = EndpointServer(_no_tokens, job.sampling.temperature)
        worker = EndpointWorker(endpoint, job.agent, pool, opening_of(job.config), chat, server)
        workers.append(worker)
        servers.append(server)

        async def run_episode(task: dict[str, Any], seed: int) -> EpisodeOutcome:
            return await worker.run_episode(task, replace(job.sampling, seed=seed))

        return run_episode

    try:
        yield runner_of, lambda: None
    finally:
        await _close_programs(jobs)
        for server in servers:
            await server.close()
        await endpoint.close()
        for worker in workers:
            await worker.pool.close()


async def _close_programs(jobs: list[EvaluationJob]) -> None:
    for job in jobs:
        if isinstance(job.agent, Program):
            await job.agent.close()


def _no_tokens(ids: list[int]) -> list[str]:
    raise unavailable("an endpoint does not provide log-probabilities; do not request them")
