"""The implementation of each command, with the arguments that areal/cli.py has parsed.

Heavy modules are imported only by the commands that need them.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from areal.errors import UserError


def export(given: argparse.Namespace) -> None:
    """Write the model of a run to a folder."""
    from areal.runtime.export import export_model

    step = export_model(given.exported, given.folder, "best" if given.best else given.step)
    print(f"{'the final model' if step is None else f'the model after update {step}'}: {given.folder}")


def settings_of(given: argparse.Namespace, names: dict[str, str]) -> dict[str, Any]:
    """Return the settings that were given as options, under their configuration keys."""
    names = {**{n: n for n in ("env", "model", "agent", "seed", "device")}, **names}
    found = {key: value for flag, key in names.items() if (value := getattr(given, flag)) is not None}
    return found if given.ray is None else {**found, "placement": "ray", "ray.address": given.ray}


def train(given: argparse.Namespace) -> None:
    """Train, or print what would be trained; list the recipes."""
    settings = settings_of(given, {n: n for n in ("steps", "output", "name", "recipe")})
    if given.recipe == "list":
        _list_recipes()
        return
    from areal import api

    if given.dry_run:
        _print_plan(given, settings)
        return
    if given.on is not None:
        raise UserError("--on only applies to a dry run; add --dry-run")
    run = api.train(
        config=given.config, overrides=given.overrides, resume=given.resume, show=True, **settings
    )
    if run.before and run.after:
        # If all rewards before training are 0, they do not show whether the score is an accuracy.
        measure = run.after.measure if run.before.measure == "accuracy" else run.before.measure
        print(f"held-out {measure}: {run.before.accuracy:.3f} before, {run.after.accuracy:.3f} after")
    path = shlex.quote(str(run.path))
    print(f"to view its curves and rollouts: areal view {path}; in the terminal: areal show {path} --worst")
    print(f"to evaluate the model: areal eval {path}")


def _print_plan(given: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Check a run; print its settings and its placement, on the GPUs of ``--on`` or on the available ones."""
    from areal import api
    from areal.config import dump_with_origins, merged, parse_config
    from areal.placement.describe import table
    from areal.placement.inventory import stated
    from areal.runtime.build import held_cluster
    from areal.telemetry.run_directory import require_free_name
    from areal.telemetry.tables import lines

    inventory = None if given.on is None else stated(given.on)
    layers = api.layers(given.config, given.overrides, settings, given.resume, inventory=inventory)
    config = parse_config(merged(layers), given.config)
    if given.resume is None:
        require_free_name(config)
    with held_cluster(config) if inventory is None else nullcontext() as cluster:
        plan = api.check(config, cluster=cluster, inventory=inventory)
    print(dump_with_origins(config, layers, plan.config), end="")
    rows = table(plan.placement, plan.config.engine.memory)
    notices = [] if given.resume is None else api.resume_point(given.resume, config).notices
    for line in [*plan.remarks, *(f"warning: {notice}" for notice in notices), *lines(*rows)]:
        print(f"# {line}")


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
    """Set ``given.trained`` to the run to evaluate, which is among the overrides."""
    runs = [word for word in given.overrides if "=" not in word]
    if len(runs) > 1:
        raise UserError(f"cannot evaluate several runs at once: {', '.join(runs)}; give one")
    given.trained = next(iter(runs), None)
    given.overrides = [word for word in given.overrides if "=" in word]


def _asks_endpoint(given: argparse.Namespace, settings: dict[str, Any]) -> bool:
    from areal.config import merged_settings
    from areal.evaluation.endpoint import is_endpoint

    return is_endpoint(str(merged_settings(given.config, given.overrides, settings).get("model", "")))


def _eval_and_keep(given: argparse.Namespace, settings: dict[str, Any]) -> None:
    others = [given.benchmark, given.data, given.config, given.overrides, given.trained]
    others += [value for key, value in settings.items() if key not in ("placement", "ray.address")]
    if given.resume and any(others):
        raise UserError(
            "a resumed evaluation keeps its settings; give only --resume RUN, and optionally --ray ADDRESS"
        )
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
    """Print the results of an evaluation that was kept or scored again."""
    if given.json:
        print(json.dumps({"run": str(done.path), "reports": [r.to_json() for r in done.reports]}))
        return
    _print(*(report.table() for report in done.reports))
    places = (
        f"responses and reports: {done.path}",
        f"to view them: areal view {shlex.quote(str(done.path))}",
    )
    for line in (*remarks, *places):
        print(line)


def _list_recipes() -> None:
    from rich.table import Table

    from areal import recipes

    table = Table("recipe", "description")
    for name in recipes.names():
        table.add_row(name, recipes.about(name))
    _print(table)


def _list_benchmarks() -> None:
    from rich.text import Text

    from areal.registry import benchmarks
    from areal.telemetry.tables import console, fitted

    rows: list[tuple[Any, ...]] = []
    for name in benchmarks.names():
        try:
            found = benchmarks.get(name)
        except UserError as error:  # the other benchmarks still work
            rows.append((name, "", "", "", "", Text(str(error), style="red")))
            continue
        sizes = (found.problems, found.samples, found.max_new_tokens)
        rows.append((name, *(f"{size:,}" for size in sizes), found.env, str(found.source)))
    columns = ("benchmark", "problems", "samples", "longest", "environment", "source")
    _print(*fitted(columns, rows, console().width))


def rescore(given: argparse.Namespace) -> None:
    """Score the responses of an evaluation again."""

    from areal.config import merged_settings
    from areal.evaluation import rescore as scoring

    options = merged_settings(None, given.overrides)
    if set(options) - {"env_options"}:
        raise UserError("a rescore can only change how answers are judged; give only env_options.key=value")
    done = scoring.rescore(Path(given.evaluation), options.get("env_options", {}))
    changed = (
        f"{name}: {len(pairs)} responses have a different score" for name, pairs in done.changed.items()
    )
    _show_reports(given, done, changed)


def compare(given: argparse.Namespace) -> None:
    """Compare two evaluations."""

    from areal.evaluation import comparison

    found = comparison.compare(Path(given.a), Path(given.b))
    if given.json:
        print(json.dumps([c.to_json() for c in found]))
    elif given.markdown:
        print(comparison.markdown(found))
    else:
        from areal.telemetry.tables import console

        _print(*comparison.tables(found, console().width))


def serve(given: argparse.Namespace) -> None:
    """Serve a model until a signal stops it."""
    from areal import api

    record = None if given.record is None else Path(given.record)
    api.serve(
        given.model, host=given.host, port=given.port, record=record, overrides=given.overrides, show=True
    )


def status(given: argparse.Namespace) -> None:
    """Show the current state of a run; exit with 1 if it was killed."""
    from areal.telemetry.run_directory import RunDirectory
    from areal.telemetry.status import read_status

    folder = RunDirectory.open(given.run_folder).path
    found = read_status(folder)
    if given.json:
        print(json.dumps(found))
    elif given.watch:
        found = _show_status(folder)
    else:
        _print(_status_table(found))
    if found["state"] == "lost":
        sys.exit(1)


def _show_status(folder: Path) -> dict[str, Any]:
    """Show the state of a run until it ends; return the last one."""
    import time

    from rich.live import Live

    from areal.telemetry.status import read_status

    found = read_status(folder)
    with Live(_status_table(found), auto_refresh=False) as live:
        while found["state"] not in ("ended", "lost"):
            time.sleep(1)
            found = read_status(folder)
            live.update(_status_table(found), refresh=True)
    return found


def _status_table(found: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from areal.telemetry.status import rows, worker_rows
    from areal.telemetry.tables import console, fitted

    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows(found):
        table.add_row(name, Text(value))
    return Group(table, *(fitted(*worker_rows(found), console().width) if found["workers"] else ()))


def runs(given: argparse.Namespace) -> None:
    """List runs."""
    from areal.viewer.runs import find_runs

    found = find_runs(Path(given.runs_folder))
    if given.json:
        print(json.dumps([run.to_json() for run in found]))
        return
    if not found:
        raise UserError(f"{given.runs_folder} has no runs; start one with `areal train`")
    from areal.telemetry.tables import console
    from areal.viewer.terminal import list_of

    _print(*list_of(found, console().width))


def show(given: argparse.Namespace) -> None:
    """Print rollouts of a run, or sessions of a served model."""
    if given.count < 1:
        raise UserError(f"--count {given.count}: the number must be at least 1")
    from areal.telemetry.run_directory import RunDirectory
    from areal.viewer.rollouts import Order, decoder_of, in_order, read_rollouts, read_sessions
    from areal.viewer.terminal import shown

    order: Order = "worst" if given.worst else "best" if given.best else "recorded"
    if (path := Path(given.run_folder)).is_file():
        if given.step is not None:
            raise UserError(f"{path} is a file of sessions, which has no updates; remove --step")
        sessions, decode = read_sessions(path)
        found = in_order(sessions, order)
    else:
        run = RunDirectory.open(given.run_folder)
        found = read_rollouts(run, given.step, order)
        decode = decoder_of(run)
    if given.json:
        print(json.dumps([rollout.to_json(decode) for rollout in found[: given.count]]))
        return
    _print(*(shown(rollout, decode) for rollout in found[: given.count]))
    left = len(found) - given.count
    if left > 0:
        whose = "sessions" if path.is_file() else f"of update {found[0].step}"
        print(f"{left} more {whose}: --count {len(found)}")


_VIEWED = 4
"""Number of runs, and of evaluations, that are shown if none is named."""


def view(given: argparse.Namespace) -> None:
    """Show runs and evaluations in the browser, or write them to a file."""
    from areal.viewer.evaluations import find_evaluations
    from areal.viewer.index import cache_folder
    from areal.viewer.runs import find_runs
    from areal.viewer.server import require_framework, serve
    from areal.viewer.watched import watch

    folders = given.run_folders
    if not folders:
        newest = [run.path for run in find_runs(Path("runs")) if not run.error][-_VIEWED:]
        newest += find_evaluations(Path("runs"))[-_VIEWED:]
        if not newest:
            raise UserError("the folder runs has no runs; start one with `areal train`")
        folders = list(map(str, newest))
    watched = watch(folders, cache_folder())
    if given.export is None:
        require_framework()
        serve(watched, given.host, given.port)
        return
    from areal.viewer.report import write_report

    said = write_report(watched, Path(given.export))
    print(f"{given.export}: {said}")


def config(given: argparse.Namespace) -> None:
    """Explain the settings."""
    from areal.explain import explain
    from areal.telemetry.tables import console

    _print(*explain(given.key, console().width))


def _print(*tables: Any) -> None:
    from areal.telemetry.tables import console

    for table in tables:
        console().print(table)


def replay(given: argparse.Namespace) -> None:
    """Replay a run; exit with 1 if its losses differ."""
    from areal import api
    from areal.telemetry.run_directory import RunDirectory

    RunDirectory.open(given.replayed)  # before the imports of a learner, which take seconds
    from transformers.utils import logging

    logging.disable_progress_bar()
    show = partial(print, flush=True)
    found = api.replay(given.replayed, from_step=given.from_step, overrides=given.overrides, show=show)
    print(found.verdict)
    print(f"metrics: {found.path / 'metrics.jsonl'}")
    if found.failed:
        sys.exit(1)


def workers_list(given: argparse.Namespace) -> None:
    """Show the engines of an active run."""
    from areal.runtime.control import ask
    from areal.telemetry.tables import console, fitted

    found = ask(given.controlled, "list")
    if given.json:
        print(json.dumps(found))
        return
    columns = ("engine", "where", "weights", "state", "version", "in_flight", "requests")
    rows = [[str(row.get(name, "")) for name in columns] for row in found]
    names = [name.replace("_", " ") for name in columns]
    _print(*fitted(names, rows, console().width))


def workers_add(given: argparse.Namespace) -> None:
    """Add engines to an active run, one after another."""
    from areal.runtime.control import ask

    for _ in range(given.count):
        print(f"{ask(given.controlled, 'add')} has joined", flush=True)


def workers_remove(given: argparse.Namespace) -> None:
    """Remove an engine from an active run."""
    from areal.runtime.control import ask

    ask(given.controlled, "remove", engine=given.engine, patience=given.patience)
    print(f"engine {given.engine} has left")


def models_check(given: argparse.Namespace) -> None:
    """Check a model; exit with 1 if a check fails."""
    from areal.model_check.check import findings
    from areal.telemetry.logs import capture

    if given.updates < 1 or given.lora < 0:
        raise UserError("--updates must be at least 1, and --lora at least 0 (no adapter)")
    said = []
    with capture(None) as terminal:
        for finding in findings(given.name, given.tiny, given.lora, given.updates, given.device):
            said.append(finding)
            if not given.json:
                mark = {True: "ok", False: "WRONG", None: ""}[finding.sound]
                print(f"{mark:<6}{finding.what}: {finding.text}", file=terminal, flush=True)
    if given.json:
        print(json.dumps([finding._asdict() for finding in said]))
    if any(finding.sound is False for finding in said):
        sys.exit(1)


def models_merge(given: argparse.Namespace) -> None:
    """Merge an adapter into its base model."""
    from areal.models.merge import merge_adapter

    base = merge_adapter(given.adapter, given.folder)
    print(f"merged {given.adapter} into {base}: {given.folder}")


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
