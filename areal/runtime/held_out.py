"""Measures accuracy on held-out problems with the engine's weights, in a run or for a model alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

from areal.config import Config
from areal.errors import UserError
from areal.evaluation.episodes import Keep, RunEpisode, engine_runner, sample_responses
from areal.evaluation.report import Report, conditions, report, sampling_settings
from areal.evaluation.responses import Response
from areal.registry import env_label
from areal.rollout.tasks import held_out
from areal.rollout.worker import EpisodeRunner
from areal.runtime.plan import Plan, max_concurrent
from areal.runtime.sampling import evaluation_sampling


async def evaluate_held_out(
    worker: EpisodeRunner,
    plan: Plan,
    model: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Measure held-out accuracy of the engine's weights, according to the configuration."""
    config, settings = plan.config, plan.config.evaluation
    tasks = held_out(plan.env, settings.problems)
    if not tasks:
        raise UserError(f"environment '{config.env}' has no held-out problems for evaluation")
    done = itertools.count(1)
    responses, speed = await timed_responses(
        engine_runner(worker, evaluation_sampling(config)),
        tasks,
        config,
        lambda: worker.busy_seconds,
        lambda response, said: progress(next(done), len(tasks) * settings.samples),
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
        **speed,
    )


def evaluation_metrics(report: Report, env: str) -> dict[str, float]:
    """Return the metrics of an evaluation for a run: the whole first, then its parts and members."""
    found = {env: (report.accuracy, report.interval), **report.by_member}
    metrics: dict[str, float] = {}
    for name, (accuracy, (low, high)) in found.items():
        key = f"eval/{name}/avg@{report.samples}"
        metrics |= {key: accuracy, f"{key}/low": low, f"{key}/high": high}
    metrics[f"eval/{env}/problems"] = report.problems
    if len(report.parts) > 1:
        metrics |= {f"eval/{env}/{part}": mean for part, mean in report.parts.items()}
    return metrics


async def timed_responses(
    run_episode: RunEpisode,
    tasks: Sequence[dict[str, Any]],
    config: Config,
    busy_seconds: Callable[[], float | None],
    keep: Keep,
    known: Sequence[Response] = (),
) -> tuple[list[Response], dict[str, float | None]]:
    """Run the episodes of an evaluation according to the configuration, and measure the speed.

    Args:
        busy_seconds: number of seconds in which the engine has generated so far; None: it is not an areal
            engine.
        known: responses that already exist and need no episode.

    Returns:
        All responses, by problem and sample, and the speed for a report.
    """
    started, before = time.monotonic(), busy_seconds()
    responses = await sample_responses(
        run_episode,
        tasks,
        config.evaluation.samples,
        max_concurrent(config),
        config.seed,
        config.rollout.max_retries,
        known,
        keep,
        config.rollout.max_failures,
    )
    seconds, now = time.monotonic() - started, busy_seconds()
    busy = None if now is None or before is None else (now - before) / seconds
    in_flight = sum(response.seconds for response in responses) / seconds
    return responses, {"seconds": seconds, "busy": busy, "in_flight": in_flight}
