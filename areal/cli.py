"""The commands. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from areal import __version__
from areal.arguments import Parser
from areal.authoring.commands import add_env
from areal.errors import (
    AgentFailure,
    EnvironmentFailure,
    Interrupted,
    UserError,
    WorkerLost,
    missing_requirement,
)
from areal.output import watched_output

_OVERRIDES = "any setting as key.sub=value, such as rollout.max_staleness=4 or env_options.difficulty=2"


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit: 0, 1 (a check failed), 2 (bad input; one line says what) or 130 (Ctrl-C)."""
    output = watched_output()
    try:
        given = parse(sys.argv[1:] if arguments is None else arguments)
        given.run(given)
        if sys.stdout is not None:  # it was closed
            sys.stdout.flush()
    except (UserError, AgentFailure, WorkerLost) as error:
        _end(2, f"error: {error}")
    except ModuleNotFoundError as error:
        if (message := missing_requirement(error)) is None:
            raise
        _end(2, f"error: {message}")
    except EnvironmentFailure as error:
        _end(2, f"error: {error} (`areal env check` looks for the cause)")
    except Interrupted as stopped:
        _end(130, str(stopped))
    except KeyboardInterrupt:
        _end(130, "stopped")
    except OSError as error:
        if output is None or output.lost is not error:
            raise
        if isinstance(error, BrokenPipeError):  # whoever read it has read enough
            sys.exit(128 + signal.SIGPIPE)
        _end(2, f"error: the output cannot be written: {error.strerror}")
    sys.exit(0)


def _end(code: int, line: str) -> NoReturn:
    with suppress(OSError):  # there is nobody to tell
        print(f"areal: {line}", file=sys.stderr)
    sys.exit(code)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read a command; exits with 2 and one line if it is none."""
    return make_parser().read(arguments)


def make_parser() -> Parser:
    """Make the parser of all commands."""
    parser = Parser(
        prog="areal", description="Asynchronous reinforcement learning for language-model agents."
    )
    parser.add_argument("--version", action="version", version=f"areal {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_train(commands)
    _add_eval(commands)
    _add_rescore(commands)
    _add_compare(commands)
    _add_replay(commands)
    _add_config(commands)
    _add_export(commands)
    add_env(commands)
    _add_sandbox(commands)
    return parser


def _add_train(commands: Any) -> None:
    command = commands.add_parser(
        "train",
        help="train a model in an environment",
        description="Train a model in an environment.",
        epilog="Without arguments it trains the model that ships with areal in math-v1, on any machine. "
        "`areal config` explains all settings, --dry-run prints what they are and where each comes from.",
    )
    _add_common(command)
    command.add_argument(
        "--recipe",
        metavar="NAME",
        help="settings to begin with (`list` lists them; default: by the model's size and the GPUs)",
    )
    command.add_argument("--steps", type=int, metavar="N", help="updates")
    command.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="train on a Ray cluster: its head as host:port, or auto",
    )
    command.add_argument("--output", metavar="FOLDER", help="folder of the run directories (default: runs)")
    command.add_argument("--name", help="name of the run directory (default: environment, model and time)")
    command.add_argument("--resume", metavar="RUN", help="go on with a stopped run, from its last checkpoint")
    command.add_argument("--dry-run", action="store_true", help="check, print the configuration, and stop")
    command.set_defaults(run=_train)


def _add_eval(commands: Any) -> None:
    command = commands.add_parser(
        "eval",
        help="measure a model on benchmarks, or on an environment's held-out problems",
        description="Measure a model on benchmarks, or on an environment's held-out problems. Of a training "
        "run, RUN, its model in its environment, by its agent and with its settings.",
        epilog="With --benchmark or --name every response is kept in FOLDER/eval/NAME (docs/evaluation.md).",
    )
    _add_common(command, "RUN, or ", "RUN | key=value")
    command.add_argument("--run", metavar="RUN", dest="trained", help="the same as RUN")
    command.add_argument("--benchmark", metavar="NAMES", help="such as gsm8k,math500 (`list` lists them)")
    command.add_argument(
        "--data", metavar="PLACE", help="a folder with NAME.jsonl for each benchmark, or a file"
    )
    command.add_argument("--problems", type=int, metavar="N", help="how many problems")
    command.add_argument("--samples", type=int, metavar="K", help="responses to each problem")
    command.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    command.add_argument("--output", metavar="FOLDER", help="folder of the runs (default: runs)")
    command.add_argument("--name", help="name of the evaluation (default: benchmarks, model and time)")
    command.add_argument("--resume", metavar="RUN", help="go on with a stopped evaluation")
    command.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    command.set_defaults(run=_eval)


def _add_rescore(commands: Any) -> None:
    command = commands.add_parser(
        "eval rescore",
        help="score an evaluation's responses again, without sampling",
        description="Score the responses of an evaluation again, without sampling, into RUN/rescored.",
    )
    command.add_argument("evaluation", metavar="RUN", help="the folder of an evaluation, or a file of it")
    command.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    command.add_overrides("only env_options.key=value")
    command.set_defaults(run=_rescore)


def _add_compare(commands: Any) -> None:
    command = commands.add_parser(
        "eval compare",
        help="compare two evaluations on the same problems",
        description="Compare two evaluations on the same problems, by a paired sign-flip test.",
    )
    command.add_argument("a", metavar="A", help="the folder of an evaluation, or a file of it")
    command.add_argument("b", metavar="B", help="another one")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON in place of the table")
    form.add_argument("--markdown", action="store_true", help="print Markdown in place of the table")
    command.set_defaults(run=_compare)


def _add_replay(commands: Any) -> None:
    command = commands.add_parser(
        "replay",
        help="feed a run's recorded batches through the learner again",
        description="Feed the batches that a run consumed through the learner again and compare the losses.",
        epilog="Exits with 1 if the same settings gave other losses. Metrics go to RUN/replays.",
    )
    command.add_argument("replayed", metavar="RUN", help="a run directory")
    command.add_argument("--from-step", type=int, default=1, metavar="N", help="first update to compare")
    command.add_overrides(
        "other learner settings, for a study on fixed data, such as learner.learning_rate=1e-5"
    )
    command.set_defaults(run=_replay)


def _add_config(commands: Any) -> None:
    command = commands.add_parser(
        "config",
        help="explain the settings and the presets of the objective",
        description="Explain the settings: what they take, their defaults, what they are for.",
        epilog="`areal train --dry-run` prints what they are in a run, and where each comes from.",
    )
    command.add_argument(
        "key", nargs="?", metavar="KEY", help="a setting, a group of them (learner), or a preset (grpo)"
    )
    command.set_defaults(run=_config)


def _add_export(commands: Any) -> None:
    command = commands.add_parser(
        "export",
        help="write a run's model after any update that has a checkpoint",
        description="Write a run's model to a new folder, in Hugging Face format.",
        epilog="Without --step or --best: the final model, or that of the last checkpoint.",
    )
    command.add_argument("exported", metavar="RUN", help="a run directory")
    command.add_argument("folder", metavar="FOLDER", help="where to; it must be new or empty")
    which = command.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, metavar="N", help="the model after this update")
    which.add_argument("--best", action="store_true", help="that with the best held-out score")
    command.set_defaults(run=_export)


def _export(given: argparse.Namespace) -> None:
    from areal.runtime.export import export_model

    step = export_model(given.exported, given.folder, "best" if given.best else given.step)
    print(f"{'the final model' if step is None else f'the model after update {step}'}: {given.folder}")


def _add_sandbox(commands: Any) -> None:
    sandbox = commands.add_parser(
        "sandbox", help="check where untrusted code runs", description="Work with the local sandbox."
    )
    actions = sandbox.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="say which level this host gives, and attack it",
        description="Say which level of isolation this host gives and why, and prove it by attacks.",
        epilog="Exits with 1 if the level is weak, there is none, or an attack succeeds.",
    )
    check.add_argument("--json", action="store_true", help="print JSON in place of text")
    check.set_defaults(run=_sandbox_check)


def _add_common(command: Parser, word: str = "", metavar: str = "key=value") -> None:
    command.add_argument(
        "--env",
        metavar="ID",
        help="an id (see `areal env list`), file.py:Class, a YAML file or a folder (default: math-v1)",
    )
    command.add_argument("--model", help="hub id, folder, or 'starter', the model that ships with areal")
    command.add_argument(
        "--agent", metavar="NAME", help="how the model acts: a name, or file.py:Name (default: single-turn)"
    )
    command.add_argument("--config", metavar="FILE", help="a YAML file of settings")
    command.add_argument("--seed", type=int, metavar="N", help="of the order of problems and the sampling")
    command.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], help="where (default: the GPU if there is one)"
    )
    command.add_overrides(word + _OVERRIDES, metavar)


def _settings(given: argparse.Namespace, names: dict[str, str]) -> dict[str, Any]:
    """Return the settings that were given as flags, under their configuration keys."""
    names = {**{n: n for n in ("env", "model", "agent", "seed", "device")}, **names}
    return {key: value for flag, key in names.items() if (value := getattr(given, flag)) is not None}


def _train(given: argparse.Namespace) -> None:
    settings = _settings(given, {n: n for n in ("steps", "output", "name", "recipe")})
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


def _eval(given: argparse.Namespace) -> None:
    names = {n: f"evaluation.{n}" for n in ("problems", "samples", "temperature")}
    settings = _settings(given, names | {n: n for n in ("output", "name")})
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


def _rescore(given: argparse.Namespace) -> None:
    from pathlib import Path

    from areal.config import merged_settings
    from areal.evaluation.rescore import rescore

    options = merged_settings(None, given.overrides)
    if set(options) - {"env_options"}:
        raise UserError("only how answers are judged can change without sampling: give env_options.key=value")
    done = rescore(Path(given.evaluation), options.get("env_options", {}))
    changed = (f"{name}: {len(pairs)} responses have another score" for name, pairs in done.changed.items())
    _show_reports(given, done, changed)


def _compare(given: argparse.Namespace) -> None:
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


def _config(given: argparse.Namespace) -> None:
    from rich.console import Console

    from areal.explain import explain

    _print(*explain(given.key, Console().width))


def _print(*tables: Any) -> None:
    from rich.console import Console

    for table in tables:
        Console().print(table)


def _replay(given: argparse.Namespace) -> None:
    from transformers.utils import logging

    from areal import api

    logging.disable_progress_bar()

    show = partial(print, flush=True)
    found = api.replay(given.replayed, from_step=given.from_step, overrides=given.overrides, show=show)
    print(found.verdict)
    print(f"metrics: {found.path / 'metrics.jsonl'}")
    if found.failed:
        sys.exit(1)


def _sandbox_check(given: argparse.Namespace) -> None:
    from areal.sandbox.check import report

    found = report()
    if given.json:
        print(json.dumps(found.to_json()))
    else:
        for line in found.lines():
            print(line)
    if not found.strong:
        sys.exit(1)
