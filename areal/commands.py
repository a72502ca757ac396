"""What each command does with the arguments that areal/cli.py has read.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

from areal.errors import UserError


def export(given: argparse.Namespace) -> None:
    """Write the model of a run to a folder."""
    from areal.runtime.export import export_model

    step = export_model(given.exported, given.folder, "best" if given.best else given.step)
    print(f"{'the final model' if step is None else f'the model after update {step}'}: {given.folder}")


def settings_of(given: argparse.Namespace, names: dict[str, str]) -> dict[str, Any]:
    """Return the settings that were given as flags, under their configuration keys."""
    names = {**{n: n for n in ("env", "model", "agent", "seed", "device")}, **names}
    return {key: value for flag, key in names.items() if (value := getattr(given, flag)) is not None}


def train(given: argparse.Namespace) -> None:
    """Train, or say what would be trained; list the recipes."""
    settings = settings_of(given, {n: n for n in ("steps", "output", "name", "recipe")})
    if given.ray is not None:
        settings |= {"placement": "ray", "ray.address": given.ray}
    if given.recipe == "list":
        _list_recipes()
        return
    from areal import api

    if given.dry_run:
        from areal.config import dump_with_origins, merged, parse_config
        from areal.placement.describe import table
        from areal.runtime.build import held_cluster
        from areal.telemetry.tables import lines

        layers = api.layers(given.config, given.overrides, settings, given.resume)
        config = parse_config(merged(layers), given.config)
        with held_cluster(config) as cluster:
            plan = api.check(config, cluster=cluster)
        print(dump_with_origins(config, layers, plan.config), end="")
        rows = table(plan.placement, plan.config.engine.memory)
        for line in [*plan.remarks, *lines(*rows)]:
            print(f"# {line}")
        return
    run = api.train(
        config=given.config, overrides=given.overrides, resume=given.resume, show=True, **settings
    )
    if run.before and run.after:
        print(f"held-out accuracy: {run.before.accuracy:.3f} before, {run.after.accuracy:.3f} after")
    print(f"evaluate the model: areal eval {shlex.quote(str(run.path))}")


def evaluate(given: argparse.Namespace) -> None:
    """Evaluate a model; list the benchmarks."""
    names = {n: f"evaluation.{n}" for n in ("problems", "samples", "temperature")}
    settings = settings_of(given, names | {n: n for n in ("output", "name")})
    if given.benchmark == "list":
        _list_benchmarks()
        return
    take_run(given)
    from areal import api

    if given.benchmark or given.name or given.resume or _asks_endpoint(given, settings):
        _eval_and_keep(given, settings)
        return
    report = api.evaluate(
        run=given.trained, config=given.config, overrides=given.overrides, show=True, **settings
    )
    if given.json:
        print(json.dumps(report.to_json()))
        return
    _print(report.table())


def take_run(given: argparse.Namespace) -> None:
    """Tell the run that is evaluated, as ``given.trained``, from the overrides among which it stands."""
    runs = [word for word in (given.trained, *given.overrides) if word and "=" not in word]
    if len(runs) > 1:
        raise UserError(f"one run at a time is evaluated, not {' and '.join(runs)}")
    given.trained = given.trained or next(iter(runs), None)
    given.overrides = [word for word in given.overrides if "=" in word]


def _asks_endpoint(given: argparse.Namespace, settings: dict[str, Any]) -> bool:
    from areal.config import merged_settings
    from areal.evaluation.endpoint import is_endpoint

    return is_endpoint(str(merged_settings(given.config, given.overrides, settings).get("model", "")))


def _eval_and_keep(given: argparse.Namespace, settings: dict[str, Any]) -> None:
    others = (given.benchmark, given.data, given.config, given.overrides, given.trained, settings)
    if given.resume and any(others):
        raise UserError("an evaluation goes on as it began: give nothing but --resume RUN")
    from areal import api

    done = api.evaluate_benchmarks(
        [name for name in (given.benchmark or "").split(",") if name],
        data=given.data,
        run=given.trained,
        resume=given.resume,
        config=given.config,
        overrides=given.overrides,
        show=True,
        **settings,
    )
    _show_reports(given, done, [])


def _show_reports(given: argparse.Namespace, done: Any, remarks: Iterable[str]) -> None:
    """Print what an evaluation that is kept, or was scored again, came to."""
    if given.json:
        print(json.dumps({"run": str(done.path), "reports": [r.to_json() for r in done.reports]}))
        return
    _print(*(report.table() for report in done.reports))
    for line in (*remarks, f"responses and reports: {done.path}"):
        print(line)


def _list_recipes() -> None:
    from rich.table import Table

    from areal import recipes

    table = Table("recipe", "what it is")
    for name in recipes.names():
        table.add_row(name, recipes.about(name))
    _print(table)


def _list_benchmarks() -> None:
    from rich.console import Console
    from rich.text import Text

    from areal.registry import benchmarks
    from areal.telemetry.tables import fitted

    rows: list[tuple[Any, ...]] = []
    for name in benchmarks.names():
        try:
            found = benchmarks.get(name)
        except UserError as error:  # the others are none the worse
            rows.append((name, "", "", "", "", Text(str(error), style="red")))
            continue
        sizes = (found.problems, found.samples, found.max_new_tokens)
        rows.append((name, *(f"{size:,}" for size in sizes), found.env, str(found.source)))
    columns = ("benchmark", "problems", "samples", "longest", "environment", "source")
    _print(*fitted(columns, rows, Console().width))


def rescore(given: argparse.Namespace) -> None:
    """Score the responses of an evaluation again."""
    from pathlib import Path

    from areal.config import merged_settings
    from areal.evaluation import rescore as scoring

    options = merged_settings(None, given.overrides)
    if set(options) - {"env_options"}:
        raise UserError("only how answers are judged can change without sampling: give env_options.key=value")
    done = scoring.rescore(Path(given.evaluation), options.get("env_options", {}))
    changed = (f"{name}: {len(pairs)} responses have another score" for name, pairs in done.changed.items())
    _show_reports(given, done, changed)


def compare(given: argparse.Namespace) -> None:
    """Compare two evaluations."""
    from pathlib import Path

    from areal.evaluation import comparison

    found = comparison.compare(Path(given.a), Path(given.b))
    if given.json:
        print(json.dumps([c.to_json() for c in found]))
    elif given.markdown:
        print(comparison.markdown(found))
    else:
        from rich.console import Console

        _print(*comparison.tables(found, Console().width))


def config(given: argparse.Namespace) -> None:
    """Explain the settings."""
    from rich.console import Console

    from areal.explain import explain

    _print(*explain(given.key, Console().width))


def _print(*tables: Any) -> None:
    from rich.console import Console

    for table in tables:
        Console().print(table)


def replay(given: argparse.Namespace) -> None:
    """Replay a run; exit with 1 if its losses are others."""
    from transformers.utils import logging

    from areal import api

    logging.disable_progress_bar()

    show = partial(print, flush=True)
    found = api.replay(given.replayed, from_step=given.from_step, overrides=given.overrides, show=show)
    print(found.verdict)
    print(f"metrics: {found.path / 'metrics.jsonl'}")
    if found.failed:
        sys.exit(1)


def sandbox_check(given: argparse.Namespace) -> None:
    """Check the sandbox; exit with 1 if it is weak."""
    from areal.sandbox.check import report

    found = report()
    if given.json:
        print(json.dumps(found.to_json()))
    else:
        for line in found.lines():
            print(line)
    if not found.strong:
        sys.exit(1)
