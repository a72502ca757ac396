"""A whole run from a checked plan: directory, display, logs, loop, pictures."""

from __future__ import annotations

from pathlib import Path

from areal.api import Run
from areal.errors import UserError
from areal.evaluation.report import Report
from areal.registry import env_label
from areal.runtime import checkpoint
from areal.runtime.assembly import Plan, start_player
from areal.runtime.evaluation import evaluate_player
from areal.runtime.heartbeat import heartbeat
from areal.runtime.loop import Trainer
from areal.runtime.signals import abandoned_on_signal
from areal.telemetry.logs import capture
from areal.telemetry.plot import plot_curve
from areal.telemetry.progress import Progress
from areal.telemetry.run_directory import RunDirectory, read_metrics


async def run_training(plan: Plan, resume: Path | None, show: bool) -> Run:
    """Train as planned, in a new run directory or in the resumed one."""
    config = plan.config
    if resume is None:
        directory, start = RunDirectory.create(config), None
    else:
        directory = RunDirectory.open(resume)
        start = _resume_point(directory, config.steps)
        directory.save_config(config)
    try:
        return await _train(plan, directory, start, show)
    except UserError as error:
        raise UserError(f"{error}{_way_on(directory, config.steps)}") from error


async def _train(plan: Plan, directory: RunDirectory, start: Path | None, show: bool) -> Run:
    config = plan.config
    title = f"{env_label(config.env)} · {config.model}"
    with capture(directory) as terminal, Progress(config.steps, title, show, terminal) as progress:
        progress.message(f"run directory: {directory.path}")
        trainer = Trainer(plan, directory, progress, start)
        async with heartbeat(terminal):
            await trainer.run()
        metrics = read_metrics(directory.path)
        plot_curve(metrics, directory.curve, title)
        progress.message(f"model: {directory.model}")
        progress.message(f"curve: {directory.curve}")
    return Run(directory.path, config, directory.model, metrics, trainer.before, trainer.after)


def _way_on(directory: RunDirectory, steps: int) -> str:
    """Say how a run that failed goes on, if it has a checkpoint to go on from."""
    kept = checkpoint.latest(directory.checkpoints)
    if kept is None or checkpoint.version_of(kept) >= steps:
        return ""
    done = checkpoint.version_of(kept)
    return f"; go on after update {done} with `areal train --resume {directory.path}`"


def _resume_point(directory: RunDirectory, steps: int) -> Path:
    found = checkpoint.latest(directory.checkpoints)
    if found is None:
        raise UserError(f"{directory.path} has no checkpoint to go on from; start a new run")
    done = checkpoint.version_of(found)
    if done >= steps:
        raise UserError(
            f"{directory.path} has finished its {steps} updates; give more with steps={2 * steps} to go on"
        )
    directory.truncate_metrics(done + 1)
    return found


async def run_evaluation(plan: Plan, show: bool) -> Report:
    """Evaluate as planned."""
    model = plan.config.model
    with (
        capture(None) as terminal,
        Progress(0, f"{env_label(plan.config.env)} · {model}", show, terminal) as progress,
    ):
        for line in plan.told:
            progress.message(line)
        progress.status("starting vLLM")
        with abandoned_on_signal():
            player = await start_player(plan, None)

        def show_done(done: int, total: int) -> None:
            progress.status(f"evaluating {done}/{total}")

        try:
            async with heartbeat(terminal):
                return await evaluate_player(player, plan, model, show_done)
        finally:
            await player.close()
