"""Evaluations with an engine: of the weights that it holds during a run, or of a model on its own."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from areal.errors import UserError
from areal.evaluation.evaluate import EpisodeOutcome, RunEpisode, evaluate
from areal.evaluation.report import Report, conditions, report
from areal.evaluation.responses import Response
from areal.registry import env_label
from areal.rollout.engine import Sampling
from areal.rollout.tasks import held_out
from areal.rollout.worker import RolloutWorker
from areal.runtime.build import evaluation_sampling
from areal.runtime.plan import Plan, max_concurrent


async def evaluate_held_out(
    worker: RolloutWorker,
    plan: Plan,
    model: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Measure held-out accuracy of the weights that the engine holds, as the configuration says."""
    config, settings = plan.config, plan.config.evaluation
    tasks, started, busy = held_out(plan.env, settings.problems), time.monotonic(), worker.engine.busy_seconds
    if not tasks:
        raise UserError(f"environment '{config.env}' has no held-out problem to evaluate on")
    done = itertools.count(1)
    responses = await evaluate(
        engine_runner(worker, evaluation_sampling(config)),
        tasks,
        settings.samples,
        max_concurrent(config),
        config.seed,
        config.rollout.max_retries,
        keep=lambda response: progress(next(done), len(tasks) * settings.samples),
        max_failures=config.rollout.max_failures,
    )
    return report(
        responses,
        settings.samples,
        env=env_label(config.env),
        model=model,
        settings=conditions(
            sampling_settings(evaluation_sampling(config)),
            config.env_options,
            config.agent,
            config.agent_options,
            config.model_dump(mode="json", exclude_defaults=True).get("chat", {}),
        ),
        **speed(responses, time.monotonic() - started, worker.engine.busy_seconds - busy),
    )


def evaluation_metrics(report: Report, env: str) -> dict[str, float]:
    """Return what a run's metrics have of an evaluation: the whole first, then its parts and members."""
    found = {env: (report.accuracy, report.interval), **report.by_member}
    metrics: dict[str, float] = {}
    for name, (accuracy, (low, high)) in found.items():
        key = f"eval/{name}/avg@{report.samples}"
        metrics |= {key: accuracy, f"{key}/low": low, f"{key}/high": high}
    metrics[f"eval/{env}/problems"] = report.problems
    if len(report.parts) > 1:
        metrics |= {f"eval/{env}/{part}": mean for part, mean in report.parts.items()}
    return metrics


def engine_runner(worker: RolloutWorker, sampling: Sampling) -> RunEpisode:
    """Return how an episode is run for an evaluation."""

    async def run_episode(task: dict[str, Any], seed: int) -> EpisodeOutcome:
        return EpisodeOutcome.of(await worker.run_episode(task, replace(sampling, seed=seed)))

    return run_episode


def speed(responses: list[Response], seconds: float, busy: float | None) -> dict[str, float | None]:
    """Return what a report says of an evaluation's speed."""
    return {
        "seconds": seconds,
        "busy": None if busy is None else busy / seconds,
        "in_flight": sum(response.seconds for response in responses) / seconds,
    }


def sampling_settings(sampling: Sampling) -> dict[str, Any]:
    """What a report says of the sampling: temperature and length, and whatever is not the default."""
    values = asdict(sampling)
    shown = {"temperature": values.pop("temperature"), "max_new_tokens": values.pop("max_tokens")}
    default = asdict(Sampling(sampling.max_tokens))
    return shown | {name: value for name, value in values.items() if value != default[name]}
