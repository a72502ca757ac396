"""Runs a checked plan: directory, display, logs, loop, plots."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

from areal.config import Config
from areal.errors import EnvironmentFailure, UserError, WorkerLost
from areal.evaluation.report import Report
from areal.models.resolve import is_final
from areal.registry import env_label
from areal.results import Run
from areal.runtime import checkpoint
from areal.runtime.build import open_trainer, start_rollout_worker
from areal.runtime.drawing import draw_last, drawn_again
from areal.runtime.heartbeat import heartbeat
from areal.runtime.held_out import evaluate_held_out
from areal.runtime.loop import Trainer
from areal.runtime.monitor import Monitor
from areal.runtime.plan import Plan
from areal.runtime.recording import Records
from areal.runtime.resuming import ResumePoint, last_update
from areal.runtime.signals import abandoned_on_signal, on_signals
from areal.telemetry.logs import capture
from areal.telemetry.progress import Progress
from areal.telemetry.run_directory import RunDirectory, read_metrics
from areal.telemetry.scores import best_of
from areal.telemetry.trackers.tracking import PATIENCE, PATIENCE_AFTER_FAILURE
from areal.workers.cluster import released

log = logging.getLogger(__name__)


async def run_training(plan: Plan, resume: Path | None, show: bool, start: ResumePoint | None) -> Run:
    """Train according to the plan, in a new run directory or in the resumed one.

    Args:
        resume: the folder of the resumed run; None: the run is new.
        show: draw the live display.
        start: the point at which a resumed run resumes; the user knows its notices.

    Raises:
        UserError, EnvironmentFailure, WorkerLost: the run cannot continue; the message says how to resume it
            if there is a checkpoint.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP.
    """
    config = plan.config
    directory = RunDirectory.create(config) if resume is None else RunDirectory.open(resume)
    starts = len(directory.starts())
    try:
        return await _train(plan, directory, start, show)
    except (
        UserError,
        EnvironmentFailure,
        WorkerLost,
        FloatingPointError,
    ) as error:  # their message is one line
        kind = UserError if isinstance(error, FloatingPointError) else type(error)
        way_on = _way_on(directory, config) if len(directory.starts()) > starts else ""
        raise kind(f"{error}{way_on}") from error


async def _train(plan: Plan, directory: RunDirectory, start: ResumePoint | None, show: bool) -> Run:
    config = plan.config
    title = f"{env_label(config.env)} · {config.model}"
    trainer: Trainer | None = None
    succeeded = False
    with (
        capture(directory) as terminal,
        released(plan.cluster),
        Progress(config.steps, title, show, terminal) as progress,
    ):
        progress.message(f"run directory: {directory.path}")
        records = Records(directory, progress)
        monitor = Monitor(config, records)
        for line in start.notices if start is not None else ():
            log.warning("%s", line)
        try:
            async with (
                heartbeat(terminal),
                monitor.watching(),
                drawn_again(directory, title),
                open_trainer(plan, records, start, monitor) as trainer,
            ):
                release = on_signals(trainer.stop, trainer.stop_at_once)
                try:
                    await trainer.run()
                    succeeded = True
                finally:
                    release()
        finally:
            hurried = trainer is not None and trainer.hurried
            await _close_trackers(records, succeeded, hurried)
            if trainer is not None and not hurried:
                _conclude(records, trainer.held_out.scores, title)
        directory.check()  # it may be gone with the model if nothing more is written
        metrics = read_metrics(directory.path)
    warnings = [alarm.line for alarm in records.alarms.seen.values()]
    before, after = trainer.held_out.before, trainer.held_out.after
    return Run(directory.path, config, directory.model, metrics, before, after, warnings)


async def _close_trackers(records: Records, succeeded: bool, hurried: bool) -> None:
    """Wait for the trackers; only briefly if the run was stopped or has failed, and not after Ctrl-C."""
    task = asyncio.current_task()
    cancelled = task is not None and task.cancelling() > 0
    patience = 0.0 if hurried or cancelled else PATIENCE if succeeded else PATIENCE_AFTER_FAILURE
    with suppress(asyncio.CancelledError):  # Ctrl-C ends the wait, and the run ends normally
        await records.trackers.close(succeeded, patience)


def _conclude(records: Records, scores: dict[int, float], title: str) -> None:
    """Draw the learning curve, and show a summary of the whole run."""
    draw_last(records.directory, title, records.progress)
    if summary := _best_summary(records.directory, scores):
        records.progress.message(summary)
    records.warn(records.alarms.end())
    if records.alarms.summary:
        records.progress.message(f"warnings during this run: {records.alarms.summary}")


def _best_summary(directory: RunDirectory, scores: dict[int, float]) -> str:
    """Name the checkpoint with the best held-out score, if that is not the last one."""
    kept = checkpoint.versions(directory.checkpoints)
    best = best_of({step: score for step, score in scores.items() if step in kept})
    if best is None or best == max(kept):
        return ""
    return (
        f"the checkpoint with the best held-out score is that of update {best}, with {scores[best]:.3f}; "
        f"`areal export {directory.path} FOLDER --best` writes its model"
    )


def _way_on(directory: RunDirectory, config: Config) -> str:
    """Describe how to resume a run that failed, if possible."""
    done = last_update(directory)
    if done is None:
        return ""
    command = f"`areal train --resume {directory.path}`"
    if done == config.steps and is_final(directory.model, done):
        return f"; the model is in {directory.model}, and {command} evaluates it"
    return f"; resume after update {done} with {command}"


async def run_evaluation(plan: Plan, show: bool) -> Report:
    """Evaluate according to the plan."""
    model = plan.config.model
    with (
        capture(None) as terminal,
        released(plan.cluster),
        Progress(0, f"{env_label(plan.config.env)} · {model}", show, terminal) as progress,
    ):
        for line in plan.summary:
            progress.message(line)
        progress.status("starting vLLM")
        async with abandoned_on_signal():
            worker = await start_rollout_worker(plan, None)

        def show_done(done: int, total: int) -> None:
            progress.status(f"evaluating {done}/{total}")

        try:
            async with heartbeat(terminal):
                return await evaluate_held_out(worker, plan, model, show_done)
        finally:
            await worker.close()
