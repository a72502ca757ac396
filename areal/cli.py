"""The commands. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, NoReturn

from areal import __version__
from areal.authoring.commands import add_env
from areal.errors import Interrupted, UserError

_OVERRIDES = "any setting as key.sub=value, such as rollout.max_staleness=4 or env_options.difficulty=2"


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit: 0, 1 (a check failed), 2 (bad input; one line says what) or 130 (Ctrl-C)."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        given.run(given)
    except UserError as error:
        print(f"areal: error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stopped:
        print(f"areal: {stopped}", file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="areal", description="Asynchronous reinforcement learning for language-model agents."
    )
    parser.add_argument("--version", action="version", version=f"areal {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_train(commands)
    _add_eval(commands)
    _add_replay(commands)
    add_env(commands)
    _add_sandbox(commands)
    return parser


def _add_train(commands: Any) -> None:
    command = commands.add_parser(
        "train",
        help="train a model in an environment",
        description="Train a model in an environment.",
        epilog="Without arguments it trains the model that ships with areal in math-v1, on any machine.",
    )
    _add_common(command)
    command.add_argument(
        "--agent", metavar="NAME", help="how the model acts: a name, or file.py:Name (default: single-turn)"
    )
    command.add_argument("--steps", type=int, metavar="N", help="updates")
    command.add_argument("--output", metavar="FOLDER", help="folder of the run directories (default: runs)")
    command.add_argument("--name", help="name of the run directory (default: environment, model and time)")
    command.add_argument("--resume", metavar="RUN", help="go on with a stopped run, from its last checkpoint")
    command.add_argument("--dry-run", action="store_true", help="check, print the configuration, and stop")
    command.set_defaults(run=_train)


def _add_eval(commands: Any) -> None:
    command = commands.add_parser(
        "eval",
        help="measure a model's accuracy on held-out problems",
        description="Measure a model's accuracy on an environment's held-out problems.",
    )
    _add_common(command)
    command.add_argument("--problems", type=int, metavar="N", help="how many held-out problems")
    command.add_argument("--samples", type=int, metavar="K", help="answers to each problem")
    command.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    command.add_argument("--json", action="store_true", help="print JSON in place of the table")
    command.set_defaults(run=_eval)


def _add_replay(commands: Any) -> None:
    command = commands.add_parser(
        "replay",
        help="feed a run's recorded batches through the learner again",
        description="Feed the batches that a run consumed through the learner again and compare the losses.",
        epilog="Exits with 1 if the same settings gave other losses. Metrics go to RUN/replays.",
    )
    command.add_argument("replayed", metavar="RUN", help="a run directory")
    command.add_argument("--from-step", type=int, default=1, metavar="N", help="first update to compare")
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="other learner settings, for a study on fixed data, such as learner.learning_rate=1e-5",
    )
    command.set_defaults(run=_replay)


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


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--env",
        metavar="ID",
        help="an id (see `areal env list`), file.py:Class, a YAML file or a folder (default: math-v1)",
    )
    command.add_argument("--model", help="hub id, folder, or 'starter', the model that ships with areal")
    command.add_argument("--config", metavar="FILE", help="a YAML file of settings")
    command.add_argument("--seed", type=int, metavar="N")
    command.add_argument("--device", choices=["auto", "cpu", "cuda"])
    command.add_argument("overrides", nargs="*", metavar="key=value", help=_OVERRIDES)


def _settings(given: argparse.Namespace, names: dict[str, str]) -> dict[str, Any]:
    """Return the settings that were given as flags, under their configuration keys."""
    names = {**{n: n for n in ("env", "model", "seed", "device")}, **names}
    return {key: value for flag, key in names.items() if (value := getattr(given, flag)) is not None}


def _train(given: argparse.Namespace) -> None:
    settings = _settings(given, {n: n for n in ("agent", "steps", "output", "name")})
    from areal import api

    if given.dry_run:
        from areal.config import dump_config

        config = api.resolve(given.config, given.overrides, settings, given.resume)
        memory = api.check(config).memory
        print(dump_config(config), end="")
        if memory is not None:
            print(f"# {memory}")
        return
    run = api.train(
        config=given.config, overrides=given.overrides, resume=given.resume, show=True, **settings
    )
    if run.before and run.after:
        print(f"held-out accuracy: {run.before.accuracy:.3f} before, {run.after.accuracy:.3f} after")
    print(f"evaluate the model: areal eval --env {run.config.env} --model {run.model}")


def _eval(given: argparse.Namespace) -> None:
    names = {n: f"evaluation.{n}" for n in ("problems", "samples", "temperature")}
    from areal import api

    report = api.evaluate(
        config=given.config, overrides=given.overrides, show=True, **_settings(given, names)
    )
    if given.json:
        print(json.dumps(report.to_json()))
        return
    from rich.console import Console

    Console().print(report.table())


def _replay(given: argparse.Namespace) -> None:
    from transformers.utils import logging

    from areal import api

    logging.disable_progress_bar()

    def show(line: str) -> None:
        print(line, flush=True)

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
