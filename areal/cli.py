"""The command line: how it is read, and how a command ends. What commands do is in areal/commands.py."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

from areal import __version__
from areal.arguments import Parser
from areal.authoring.commands import add_data, add_env
from areal.commands import (
    compare,
    config,
    evaluate,
    export,
    models_check,
    models_merge,
    replay,
    rescore,
    runs,
    sandbox_check,
    serve,
    show,
    status,
    train,
    view,
    workers_add,
    workers_list,
    workers_remove,
)
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
    _add_serve(commands)
    _add_status(commands)
    _add_runs(commands)
    _add_show(commands)
    _add_view(commands)
    _add_config(commands)
    _add_export(commands)
    _add_workers(commands)
    add_env(commands)
    add_data(commands)
    _add_models(commands)
    _add_sandbox(commands)
    _add_completion(commands)
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
    command.add_argument("--output", metavar="FOLDER", help="folder of the run directories (default: runs)")
    command.add_argument("--name", help="name of the run directory (default: environment, model and time)")
    command.add_argument("--resume", metavar="RUN", help="go on with a stopped run, from its last checkpoint")
    command.add_argument("--dry-run", action="store_true", help="check, print the configuration, and stop")
    command.set_defaults(run=train)


def _add_eval(commands: Any) -> None:
    command = commands.add_parser(
        "eval",
        help="measure a model on benchmarks, or on an environment's held-out problems",
        description="Measure a model on benchmarks, or on an environment's held-out problems. Of a training "
        "run, RUN, its model in its environment, by its agent and with its settings.",
        epilog="With --benchmark or --name every response is kept in FOLDER/eval/NAME (docs/evaluation.md).",
    )
    _add_common(command, "RUN, or ", "RUN | key=value")
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
    command.set_defaults(run=evaluate)


def _add_rescore(commands: Any) -> None:
    command = commands.add_parser(
        "eval rescore",
        help="score an evaluation's responses again, without sampling",
        description="Score the responses of an evaluation again, without sampling, into RUN/rescored.",
    )
    command.add_argument("evaluation", metavar="RUN", help="the folder of an evaluation, or a file of it")
    command.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    command.add_overrides("only env_options.key=value")
    command.set_defaults(run=rescore)


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
    command.set_defaults(run=compare)


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
    command.set_defaults(run=replay)


def _add_serve(commands: Any) -> None:
    command = commands.add_parser(
        "serve",
        help="serve a model as it is served in training: by OpenAI's and Anthropic's protocols",
        description="Serve a model by OpenAI's and Anthropic's protocols until Ctrl-C, as it is served to "
        "programs in training, but as each call asks: any temperature, top_p, penalties, JSON.",
        epilog="It prints base_url and api_key. Without --host this machine alone reaches it "
        "(docs/endpoint.md).",
    )
    command.add_argument("--model", help="a run directory, hub id, folder, or 'starter' (default)")
    command.add_argument("--host", default="127.0.0.1", help="an address of this machine (127.0.0.1)")
    command.add_argument("--port", type=int, default=0, metavar="N", help="where to listen (0: a free one)")
    command.add_argument("--record", metavar="FILE", help="keep each session there as a line of JSON")
    command.add_overrides(_OVERRIDES)
    command.set_defaults(run=serve)


def _add_status(commands: Any) -> None:
    command = commands.add_parser(
        "status",
        help="show what a run does now, also from another terminal or host",
        description="Show what a run does now: who waits for what, what is in flight, how each worker is.",
        epilog="Exits with 1 if the run ended without a word, such as by SIGKILL.",
    )
    command.add_argument(
        "run_folder", metavar="RUN", nargs="?", default="runs/latest", help="a run directory (runs/latest)"
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument("-w", "--watch", action="store_true", help="go on showing it until the run has ended")
    form.add_argument("--json", action="store_true", help="print JSON in place of text")
    command.set_defaults(run=status)


def _add_runs(commands: Any) -> None:
    command = commands.add_parser(
        "runs",
        help="list runs with their state, reward and accuracy",
        description="List the runs in a folder, the newest last.",
    )
    command.add_argument("runs_folder", metavar="FOLDER", nargs="?", default="runs", help="of runs (runs)")
    command.add_argument("--json", action="store_true", help="print JSON in place of the table")
    command.set_defaults(run=runs)


def _add_show(commands: Any) -> None:
    command = commands.add_parser(
        "show",
        help="print rollouts that a run has learned from",
        description="Print what an update consumed: each response, what it earned, and before each stretch "
        "of it, as [v12], the weights that sampled it.",
    )
    command.add_argument(
        "run_folder",
        metavar="RUN",
        nargs="?",
        default="runs/latest",
        help="a run directory (runs/latest), or a file of `areal serve --record`",
    )
    command.add_argument("--step", type=int, metavar="N", help="number of the update (default: the last)")
    order = command.add_mutually_exclusive_group()
    order.add_argument("--worst", action="store_true", help="those that earned least first")
    order.add_argument("--best", action="store_true", help="those that earned most first")
    command.add_argument("-n", "--count", type=int, default=4, metavar="K", help="how many (4)")
    command.add_argument("--json", action="store_true", help="print JSON in place of text")
    command.set_defaults(run=show)


def _add_view(commands: Any) -> None:
    command = commands.add_parser(
        "view",
        help="show runs, evaluations and what was served in the browser: curves, scores, every rollout",
        description="Show runs in the browser, also while they go on: curves, what is wrong, and every "
        "rollout with the weights that sampled each token. Of evaluations: scores, every response, and the "
        "problems that one solved and another did not. Of a model that was served: what it said.",
        epilog="The page is read-only. Without --host this machine alone reaches it; otherwise whoever has "
        "its address, which has a random token in it.",
    )
    command.add_argument(
        "run_folders",
        metavar="RUN",
        nargs="*",
        default=[],
        help="run directories, folders of evaluations, and files of `areal serve --record` (default: the "
        "newest in runs and runs/eval)",
    )
    command.add_argument("--host", default="127.0.0.1", help="an address of this machine (127.0.0.1)")
    command.add_argument("--port", type=int, default=0, metavar="N", help="where to listen (0: a free one)")
    command.add_argument(
        "--export", metavar="FILE", help="write one file that opens from the disk, and serve nothing"
    )
    command.set_defaults(run=view)


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
    command.set_defaults(run=config)


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
    command.set_defaults(run=export)


def _add_workers(commands: Any) -> None:
    workers = commands.add_parser(
        "workers",
        help="list, add and remove the engines of a run that is going on",
        description="Change the engines of a run that is going on, on this host, from another terminal.",
    )
    actions = workers.add_subparsers(title="actions", metavar="ACTION", required=True)
    listed = actions.add_parser(
        "list",
        help="list the engines of a run",
        description="List the engines of a run: where they are, their weights' version, their requests.",
    )
    added = actions.add_parser(
        "add",
        help="start engines for a run",
        description="Start engines for a run, on free GPUs or on the host with the fewest processes.",
        epilog="It returns when they have joined, with the weights of now.",
    )
    removed = actions.add_parser(
        "remove",
        help="let an engine leave a run",
        description="Let an engine leave a run. Its requests in flight finish first; it gets no new ones.",
    )
    for command in (listed, added, removed):
        command.add_argument("controlled", metavar="RUN", help="a run directory, such as runs/latest")
    listed.add_argument("--json", action="store_true", help="print JSON in place of the table")
    listed.set_defaults(run=workers_list)
    added.add_argument("--count", type=int, default=1, metavar="N", help="how many (default: 1)")
    added.set_defaults(run=workers_add)
    removed.add_argument("engine", metavar="ENGINE", help="its number in `areal workers list`")
    removed.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="then let the requests go on on other engines (default: wait for them)",
    )
    removed.set_defaults(run=workers_remove)


def _add_models(commands: Any) -> None:
    models = commands.add_parser(
        "models",
        help="check whether a model trains, or merge an adapter",
        description="Work with models to train.",
    )
    actions = models.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="say whether the engine computes what the learner does, and what the chat template does",
        description="Start an engine and a learner of a model, train it for a few updates in float32, and "
        "compare the log-probabilities of both before and after each. Say what the chat template does to a "
        "conversation: how a turn ends, which turns it rewrites, how it shows tools.",
        epilog="Exits with 1 if something is not sound. docs/models.md has the families that are.",
    )
    check.add_argument("name", metavar="MODEL", help="a folder, a run, or a hub id")
    check.add_argument(
        "--tiny",
        action="store_true",
        help="try a small model of the same architecture with random weights; config.json is enough",
    )
    check.add_argument("--lora", type=int, default=8, metavar="RANK", help="of an adapter, tried too (8)")
    check.add_argument("--updates", type=int, default=3, metavar="N", help="of the weights (3)")
    check.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(auto)")
    check.add_argument("--json", action="store_true", help="print JSON in place of text")
    check.set_defaults(run=models_check)
    merge = actions.add_parser(
        "merge",
        help="make a whole model of a peft adapter",
        description="Write the model that a peft adapter and its base amount to: a run can begin from it.",
    )
    merge.add_argument("adapter", metavar="ADAPTER", help="a folder with adapter_config.json")
    merge.add_argument("folder", metavar="FOLDER", help="a new folder")
    merge.set_defaults(run=models_merge)


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
    check.set_defaults(run=sandbox_check)


def _add_completion(commands: Any) -> None:
    command = commands.add_parser(
        "completion",
        help="print a script that completes commands, options and settings in the shell",
        description="Print a script that completes commands, options, settings and their values in bash and "
        "in zsh.",
        epilog="For bash: areal completion > ~/.local/share/bash-completion/completions/areal",
    )
    command.set_defaults(run=_print_completion)


def _print_completion(given: argparse.Namespace) -> None:
    from areal.completion import script

    print(script(make_parser()), end="")


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
    command.add_argument(
        "--ray", metavar="ADDRESS", help="run on a Ray cluster: its head as host:port, or auto"
    )
    command.add_argument("--seed", type=int, metavar="N", help="of the order of problems and the sampling")
    command.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], help="where (default: the GPU if there is one)"
    )
    command.add_overrides(word + _OVERRIDES, metavar)
