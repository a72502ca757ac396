"""Evaluations that are kept: benchmarks, or an environment's held-out problems, in a folder.

- ``evaluation.json``: what was asked for, to go on with it;
- ``NAME.jsonl``: the responses to each benchmark, as they come (:mod:`areal.evaluation.responses`);
- ``data/NAME.jsonl``: its problems, where they did not come as such a file;
- ``report.json``, ``report.md``: what they amount to;
- ``areal.log``, ``engine.log``.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from areal import registry
from areal.config import Config, parse_config, settings_on
from areal.errors import AgentFailure, EnvironmentFailure, Interrupted, UserError
from areal.evaluation.benchmark import Benchmark, find_data
from areal.evaluation.endpoint import EndpointClient, EndpointWorker, is_endpoint
from areal.evaluation.evaluate import EpisodeOutcome, RunEpisode, evaluate
from areal.evaluation.report import Report, markdown, report_of
from areal.evaluation.responses import Header, ResponseFile, write_whole
from areal.models import context_limit, resolve_model
from areal.rollout.engine import Sampling
from areal.rollout.tasks import held_out
from areal.runtime.agents import make_agent
from areal.runtime.build import environments, evaluation_sampling, opening_of, start_rollout_worker
from areal.runtime.evaluation import engine_runner, sampling_settings, speed
from areal.runtime.first_look import look_at
from areal.runtime.heartbeat import heartbeat
from areal.runtime.plan import Plan, max_concurrent, plan
from areal.runtime.signals import abandoned_on_signal, on_signals
from areal.telemetry.logs import capture
from areal.telemetry.progress import Progress
from areal.telemetry.run_directory import RunDirectory, dated_name, new_folder, slug

T = TypeVar("T")

_REQUEST = "evaluation.json"
_PROMPT_ROOM = 4096
"""Tokens for what a benchmark asks, beside the longest response, where the model takes as many."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be evaluated.

    Attributes:
        benchmarks: names; empty: the environment that the settings name.
        data: a file or folder of their problems; None: their own sources.
        settings: nested, as given by the user.
    """

    benchmarks: list[str]
    data: str | None
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """One evaluation of a request; ``plan`` is None if the model is behind an endpoint."""

    header: Header
    config: Config
    env: Any
    agent: Any
    plan: Plan | None

    @property
    def file(self) -> str:
        """The name of the file of its responses."""
        return f"{slug(self.header.name)}.jsonl"

    @property
    def sampling(self) -> Sampling:
        """How it samples."""
        return evaluation_sampling(self.config)

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """Its problems."""
        return held_out(self.env, self.header.problems)


def open_evaluation(request: Request, resume: Path | None) -> tuple[Request, Path]:
    """Make the folder of an evaluation, or find the one to go on with, and return what it is of.

    Raises:
        UserError: there is none, or it cannot be written.
    """
    if resume is not None:
        try:
            return Request(**json.loads((resume / _REQUEST).read_text(encoding="utf-8"))), resume.resolve()
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{resume} is no evaluation to go on with: no sound {_REQUEST} in it") from error
    config = parse_config(request.settings)
    root = config.output / "eval"
    names = request.benchmarks or [config.env]
    model = Path(config.model.partition("#")[2] or config.model).name
    try:
        root.mkdir(parents=True, exist_ok=True)
        path = new_folder(root, config.name, dated_name(*names, model), "eval")
    except OSError as error:
        raise UserError(f"cannot write in {root}: {error.strerror}; give another output=FOLDER") from error
    write_whole(path / _REQUEST, json.dumps(vars_of(request), indent=1))
    return request, path.resolve()


def vars_of(request: Request) -> dict[str, Any]:
    """Return a request as plain data."""
    return {"benchmarks": request.benchmarks, "data": request.data, "settings": request.settings}


def make_jobs(request: Request, folder: Path) -> list[Job]:
    """Check a request: data, environments, agents, model; nothing is started.

    Raises:
        UserError: one of them cannot be had.
    """
    names = request.benchmarks
    if len(set(names)) < len(names):
        raise UserError(f"a benchmark is named twice: {', '.join(names)}")
    if not names:
        return [_job(parse_config(request.settings), None, "", "")]
    if "env" in request.settings:
        raise UserError("a benchmark has its own environment: give --benchmark or --env, not both")
    if "max_new_tokens" in request.settings.get("rollout", {}):
        raise UserError(
            "a benchmark has its own longest response: set evaluation.max_new_tokens, not rollout's"
        )
    jobs = []
    for name in names:
        benchmark = registry.benchmarks.get(name)
        data = find_data(benchmark, request.data, folder / "data")
        config = parse_config(settings_on(benchmark.settings(data.path), request.settings))
        jobs.append(_job(config, benchmark, data.source, data.digest))
    return jobs


def _job(config: Config, benchmark: Benchmark | None, source: str, digest: str) -> Job:
    if not config.evaluation.problems:
        raise UserError("evaluation.problems=0 leaves nothing to evaluate; give a number of problems")
    checked = None
    if is_endpoint(config.model):
        env, agent = registry.make_env(config.env, **config.env_options), make_agent(config)
        look_at(env, config.env, config.evaluation.problems, False, config.rollout.env_time_limit)
    else:
        checked = plan(config if benchmark is None else _fitted(config), training=False)
        config, env, agent = checked.config, checked.env, checked.agent
    asked = len(held_out(env, config.evaluation.problems))
    header = Header(
        name=registry.env_label(config.env) if benchmark is None else benchmark.name,
        env=config.env,
        env_options=_plain(config.env_options),
        agent=config.agent,
        agent_options=_plain(config.agent_options),
        model=config.model,
        problems=asked,
        samples=config.evaluation.samples,
        seed=config.seed,
        sampling=_plain(sampling_settings(evaluation_sampling(config))),
        source=source,
        data=digest,
        chat=_plain(config.model_dump(mode="json", exclude_defaults=True).get("chat", {})),
        of=None if benchmark is None else benchmark.problems,
    )
    return Job(header, config, env, agent, checked)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as a file has them."""
    return json.loads(json.dumps(values))


def _fitted(config: Config) -> Config:
    """Give a benchmark's longest response the room that it needs, or what the model has."""
    longest, response = config.rollout.max_model_len, config.evaluation.max_new_tokens
    if longest is None and response is not None:
        limit = context_limit(resolve_model(config.model))
        longest = min(limit or response + _PROMPT_ROOM, response + _PROMPT_ROOM)
        data = settings_on(
            config.model_dump(mode="json"),
            {
                "rollout": {"max_model_len": longest},
                "evaluation": {"max_new_tokens": min(response, longest - 1)},
            },
        )
        return parse_config(data)
    return config


async def run_benchmarks(jobs: list[Job], folder: Path, show: bool) -> list[Report]:
    """Sample the responses that are missing, and write the reports.

    Raises:
        UserError: the folder has responses to something else.
        EnvironmentFailure: an episode failed for good; the responses so far are kept.
        Interrupted: Ctrl-C or SIGTERM; the responses so far are kept.
    """
    title = f"{', '.join(job.header.name for job in jobs)} · {jobs[0].config.model}"
    with (
        capture(RunDirectory(folder)) as terminal,
        Progress(0, title, show, terminal) as progress,
        ExitStack() as files,
    ):
        progress.message(f"evaluation: {folder}")
        for line in jobs[0].plan.notices if jobs[0].plan is not None else ():
            progress.message(line)
        for line in dict.fromkeys(line for job in jobs for line in getattr(job.env.unwrapped, "told", ())):
            progress.message(line)
        opened = [(job, files.enter_context(ResponseFile(folder / job.file, job.header))) for job in jobs]
        async with heartbeat(terminal):
            try:
                reports = await _run(opened, folder, progress)
            except asyncio.CancelledError as error:  # a second signal
                raise _interrupted(folder) from error
        write_whole(folder / "report.json", json.dumps([report.to_json() for report in reports], indent=1))
        write_whole(folder / "report.md", markdown(reports))
    return reports


Runners: TypeAlias = tuple[Callable[[Job], RunEpisode], Callable[[], float | None]]
"""How the episodes of each job are run, and the engine's busy seconds so far, if it is ours."""


def _interrupted(folder: Path) -> Interrupted:
    return Interrupted(f"stopped; go on with `areal eval --resume {folder}`")


async def _interruptible(work: Awaitable[T], folder: Path, progress: Progress) -> T:
    """Wait, but not past a signal."""
    running, stop, main = asyncio.ensure_future(work), asyncio.Event(), asyncio.current_task()
    signalled = asyncio.ensure_future(stop.wait())
    assert main is not None

    def wind_up() -> None:
        progress.message("stopping: every response so far is kept")
        stop.set()

    release = on_signals(wind_up, main.cancel)
    try:
        await asyncio.wait({running, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise _interrupted(folder)
    finally:
        release()
        for task in (running, signalled):
            task.cancel()
        await asyncio.gather(running, signalled, return_exceptions=True)


async def _run(opened: list[tuple[Job, ResponseFile]], folder: Path, progress: Progress) -> list[Report]:
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
                    except (EnvironmentFailure, AgentFailure, UserError) as error:
                        if not file.responses:
                            raise
                        raise type(error)(
                            f"{error}; the responses so far are kept: `areal eval --resume {folder}`"
                        ) from error
    return [
        report_of(job.header, file.sorted(), **{"seconds": 0.0, **speeds.get(job.header.name, {})})
        for job, file in opened
    ]


async def _respond(
    job: Job,
    file: ResponseFile,
    run_episode: RunEpisode,
    busy: Callable[[], float | None],
    progress: Progress,
) -> dict[str, float | None]:
    """Sample the rest of a job; return the speed, if that was all of it."""
    header, known = job.header, list(file.responses)
    total = header.problems * header.samples
    started, before = time.monotonic(), busy()

    def keep(response: Any) -> None:
        file.write(response)
        progress.status(f"{header.name}: {len(file.responses)}/{total}")

    responses = await evaluate(
        run_episode,
        job.tasks,
        header.samples,
        max_concurrent(job.config),
        header.seed,
        job.config.rollout.max_retries,
        known,
        keep,
        job.config.rollout.max_failures,
    )
    now = busy()
    spent = None if now is None or before is None else now - before
    return {} if known else speed(responses, time.monotonic() - started, spent)


def _runners(jobs: list[Job]) -> AbstractAsyncContextManager[Runners]:
    """Start what responds."""
    return _endpoint_runners(jobs) if jobs[0].plan is None else _engine_runners(jobs)


@asynccontextmanager
async def _engine_runners(jobs: list[Job]) -> AsyncIterator[Runners]:
    plans = [job.plan for job in jobs if job.plan is not None]
    with abandoned_on_signal():
        worker = await start_rollout_worker(max(plans, key=lambda p: p.max_model_len), None)
    pools = [worker.pool]

    def runner_of(job: Job) -> RunEpisode:
        assert job.plan is not None
        pool = environments(job.config)
        pools.append(pool)
        own = replace(worker, agent=job.agent, pool=pool, max_model_len=job.plan.max_model_len)
        return engine_runner(own, job.sampling)

    try:
        yield runner_of, lambda: worker.engine.busy_seconds
    finally:
        await worker.engine.close()
        for pool in pools:
            pool.close()


@asynccontextmanager
async def _endpoint_runners(jobs: list[Job]) -> AsyncIterator[Runners]:
    endpoint = await EndpointClient.connect(jobs[0].config.model, max_concurrent(jobs[0].config))
    workers: list[EndpointWorker] = []

    def runner_of(job: Job) -> RunEpisode:
        chat = job.config.chat.template_kwargs
        worker = EndpointWorker(endpoint, job.agent, environments(job.config), opening_of(job.config), chat)
        workers.append(worker)

        async def run_episode(task: dict[str, Any], seed: int) -> EpisodeOutcome:
            return await worker.run_episode(task, replace(job.sampling, seed=seed))

        return run_episode

    try:
        yield runner_of, lambda: None
    finally:
        await endpoint.close()
        for worker in workers:
            worker.close()
