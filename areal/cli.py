"""The command line: parses commands and ends them with an exit code. areal/commands.py implements them."""

from __future__ import annotations

import argparse
import os
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

_OVERRIDES = "settings, as key.sub=value, such as rollout.max_staleness=4 or env_options.difficulty=2"


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit with 0, 1 (a check failed), 2 (bad input; one line says what) or 130
    (Ctrl-C)."""
    _replace_closed_streams()
    output = watched_output()
    try:
        given = parse(sys.argv[1:] if arguments is None else arguments)
        given.run(given)
        if sys.stdout is not None:  # None: it was closed
            sys.stdout.flush()
    except (UserError, AgentFailure, WorkerLost) as error:
        _end(2, f"error: {error}")
    except ModuleNotFoundError as error:
        if (message := missing_requirement(error)) is None:
            raise
        _end(2, f"error: {message}")
    except EnvironmentFailure as error:
        _end(2, f"error: {error} (`areal env check` with the same options looks for the cause)")
    except Interrupted as stopped:
        _end(130, str(stopped))
    except KeyboardInterrupt:
        _end(130, "stopped")
    except OSError as error:
        if output is None or output.lost is not error:
            raise
        if isinstance(error, BrokenPipeError):  # the reader has closed the pipe
            sys.exit(128 + signal.SIGPIPE)
        _end(2, f"error: the output cannot be written: {error.strerror}")
    sys.exit(0)


def _replace_closed_streams() -> None:
    """Let closed standard streams be the null device.

    No file that is opened later then has their numbers, to which libraries write. ``print`` writes to
    standard output where ``sys.stderr`` is None.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, which is this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (open as long as the process)


def _end(code: int, line: str) -> NoReturn:
    with suppress(OSError):  # nothing reads standard error
        print(f"areal: {line}", file=sys.stderr)
    sys.exit(code)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse a command line; exits with 2 and one line if it is invalid."""
    return make_parser().read(arguments)


def make_parser() -> Parser:
    """Create the parser of all commands."""
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
        epilog="Without arguments, the command trains the starter model in math-v1, on any machine. `areal "
        "config` explains all settings. --dry-run prints their values and where each comes from.",
    )
    _add_common(command)
    command.add_argument(
        "--recipe",
        metavar="NAME",
        help="predefined settings to start from (`list` lists the recipes; default: chosen by the size of "
        "the model and the GPUs)",
    )
    command.add_argument("--steps", type=int, metavar="N", help="number of updates")
    command.add_argument(
        "--output", metavar="FOLDER", help="folder in which the run directory is created (default: runs)"
    )
    command.add_argument("--name", help="name of the run directory (default: environment, model and time)")
    command.add_argument("--resume", metavar="RUN", help="resume a stopped run from its last checkpoint")
    command.add_argument(
        "--dry-run", action="store_true", help="check the settings, print them, and start nothing"
    )
    command.add_argument(
        "--on", metavar="GPUS", help="the GPUs that a dry run plans for; 1x24 is one GPU of 24 GB"
    )
    command.set_defaults(run=train)


def _add_eval(commands: Any) -> None:
    command = commands.add_parser(
        "eval",
        help="evaluate a model on benchmarks or on the held-out problems of an environment",
        description="Evaluate a model on benchmarks or on the held-out problems of an environment. Given a "
        "training run RUN, evaluate its model in its environment, with its agent and settings.",
        epilog="With --benchmark or --name, the command keeps every response in FOLDER/eval/NAME "
        "(docs/evaluation.md).",
    )
    _add_common(command, "a training run, or ", "RUN | key=value")
    command.add_argument(
        "--benchmark", metavar="NAMES", help="benchmarks, such as gsm8k,math500 (`list` lists them)"
    )
    command.add_argument(
        "--data",
        metavar="PLACE",
        help="a folder with NAME.jsonl for each benchmark, or a file for a single benchmark",
    )
    command.add_argument("--problems", type=int, metavar="N", help="number of problems")
    command.add_argument("--samples", type=int, metavar="K", help="number of responses to each problem")
    command.add_argument("--temperature", type=float, metavar="T", help="sampling temperature; 0 is greedy")
    command.add_argument(
        "--output", metavar="FOLDER", help="folder in which the results are kept (default: runs)"
    )
    command.add_argument("--name", help="name of the evaluation (default: benchmarks, model and time)")
    command.add_argument("--resume", metavar="RUN", help="resume a stopped evaluation")
    command.add_argument("--json", action="store_true", help="print JSON instead of tables")
    command.set_defaults(run=evaluate)


def _add_rescore(commands: Any) -> None:
    command = commands.add_parser(
        "eval rescore",
        help="score the responses of an evaluation again, without sampling",
        description="Score the responses of an evaluation again, without sampling, and write the results to "
        "RUN/rescored.",
    )
    command.add_argument("evaluation", metavar="RUN", help="the folder of an evaluation, or a file in it")
    command.add_argument("--json", action="store_true", help="print JSON instead of tables")
    command.add_overrides("options of the environment, as env_options.key=value; no other settings")
    command.set_defaults(run=rescore)


def _add_compare(commands: Any) -> None:
    command = commands.add_parser(
        "eval compare",
        help="compare two evaluations on the same problems",
        description="Compare two evaluations on the same problems, with a paired sign-flip test.",
    )
    command.add_argument("a", metavar="A", help="the folder of an evaluation, or a file in it")
    command.add_argument("b", metavar="B", help="the evaluation to compare it with")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON instead of a table")
    form.add_argument("--markdown", action="store_true", help="print Markdown instead of a table")
    command.set_defaults(run=compare)


def _add_replay(commands: Any) -> None:
    command = commands.add_parser(
        "replay",
        help="train again on the recorded batches of a run, and compare the losses",
        description="Train again on the batches that a run consumed, and compare the losses.",
        epilog="The command exits with 1 if the same settings give different losses. It writes metrics to "
        "RUN/replays.",
    )
    command.add_argument("replayed", metavar="RUN", help="a run directory")
    command.add_argument(
        "--from-step", type=int, default=1, metavar="N", help="the first update to compare (default: 1)"
    )
    command.add_overrides(
        "learner settings to change, for a study on fixed data, such as learner.learning_rate=1e-5"
    )
    command.set_defaults(run=replay)


def _add_serve(commands: Any) -> None:
    command = commands.add_parser(
        "serve",
        help="serve a model over HTTP, through the OpenAI and Anthropic APIs",
        description="Serve a model through the OpenAI and Anthropic APIs, as training serves it to programs, "
        "until you press Ctrl-C. Unlike in training, each request chooses its own temperature, top_p, "
        "penalties and JSON schema.",
        epilog="The command prints base_url and api_key. Without --host, only this machine can connect "
        "(docs/endpoint.md).",
    )
    command.add_argument("--model", help="a run directory, hub id, folder, or 'starter' (default: starter)")
    command.add_argument(
        "--host", default="127.0.0.1", help="the address of this machine to listen on (default: 127.0.0.1)"
    )
    command.add_argument(
        "--port", type=int, default=0, metavar="N", help="the port to listen on (default: 0, any free port)"
    )
    command.add_argument(
        "--record", metavar="FILE", help="write each session to this file, as a line of JSON"
    )
    command.add_overrides(_OVERRIDES)
    command.set_defaults(run=serve)


def _add_status(commands: Any) -> None:
    command = commands.add_parser(
        "status",
        help="show the current state of a run, from any terminal or host",
        description="Show the current state of a run: what it waits for, what is in flight, and the state of "
        "each worker.",
        epilog="The command exits with 1 if the run was killed, for example by SIGKILL.",
    )
    command.add_argument(
        "run_folder",
        metavar="RUN",
        nargs="?",
        default="runs/latest",
        help="a run directory (default: runs/latest)",
    )
    form = command.add_mutually_exclusive_group()
    form.add_argument("-w", "--watch", action="store_true", help="update the display until the run ends")
    form.add_argument("--json", action="store_true", help="print JSON instead of text")
    command.set_defaults(run=status)


def _add_runs(commands: Any) -> None:
    command = commands.add_parser(
        "runs",
        help="list runs with their state, reward and held-out score",
        description="List the runs in a folder with their state, reward and held-out score, newest last.",
    )
    command.add_argument(
        "runs_folder", metavar="FOLDER", nargs="?", default="runs", help="a folder of runs (default: runs)"
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.set_defaults(run=runs)


def _add_show(commands: Any) -> None:
    command = commands.add_parser(
        "show",
        help="print rollouts that a run trained on",
        description="Print the rollouts of an update: each response and its reward. A mark such as [v12] "
        "precedes the text that weight version 12 sampled.",
    )
    command.add_argument(
        "run_folder",
        metavar="RUN",
        nargs="?",
        default="runs/latest",
        help="a run directory, or a file written by `areal serve --record` (default: runs/latest)",
    )
    command.add_argument(
        "--step", type=int, metavar="N", help="the number of the update (default: the last one)"
    )
    order = command.add_mutually_exclusive_group()
    order.add_argument("--worst", action="store_true", help="print the lowest rewards first")
    order.add_argument("--best", action="store_true", help="print the highest rewards first")
    command.add_argument(
        "-n", "--count", type=int, default=4, metavar="K", help="number of rollouts (default: 4)"
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    command.set_defaults(run=show)


def _add_view(commands: Any) -> None:
    command = commands.add_parser(
        "view",
        help="show runs, evaluations and recorded sessions in the browser",
        description="Show runs in the browser, even while they are in progress: their curves, their "
        "problems, and every rollout with the weight version of each token. For evaluations, the page shows "
        "the scores, every response, and the problems on which two evaluations differ. For a served model, "
        "it shows the recorded sessions.",
        epilog="The page is read-only. Without --host, only this machine can open it. With --host, anyone "
        "who knows its address can open it. The address contains a random token.",
    )
    command.add_argument(
        "run_folders",
        metavar="RUN",
        nargs="*",
        default=[],
        help="run directories, folders of evaluations, and files written by `areal serve --record` (default: "
        "the newest in runs and runs/eval)",
    )
    command.add_argument(
        "--host", default="127.0.0.1", help="the address of this machine to listen on (default: 127.0.0.1)"
    )
    command.add_argument(
        "--port", type=int, default=0, metavar="N", help="the port to listen on (default: 0, any free port)"
    )
    command.add_argument(
        "--export", metavar="FILE", help="write the page to one HTML file instead of serving it"
    )
    command.set_defaults(run=view)


def _add_config(commands: Any) -> None:
    command = commands.add_parser(
        "config",
        help="explain the settings and the presets of the objective",
        description="Explain the settings: their meaning, values and defaults.",
        epilog="`areal train --dry-run` prints the values of a run and where each comes from.",
    )
    command.add_argument(
        "key",
        nargs="?",
        metavar="KEY",
        help="a setting, a group of settings such as learner, or a preset such as grpo (default: everything)",
    )
    command.set_defaults(run=config)


def _add_export(commands: Any) -> None:
    command = commands.add_parser(
        "export",
        help="write the model of a run or of one of its checkpoints to a folder",
        description="Write the model of a run to a folder, in Hugging Face format.",
        epilog="Without --step or --best, the command writes the final model, or the model of the last "
        "checkpoint if the run has not finished. The model includes a LoRA adapter; the adapter alone, for "
        "peft, is in RUN/adapter.",
    )
    command.add_argument("exported", metavar="RUN", help="a run directory")
    command.add_argument("folder", metavar="FOLDER", help="the folder to write, which must be new or empty")
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "--step", type=int, metavar="N", help="the model after this update, which needs a checkpoint"
    )
    which.add_argument(
        "--best", action="store_true", help="the model of the checkpoint with the best held-out score"
    )
    command.set_defaults(run=export)


def _add_workers(commands: Any) -> None:
    workers = commands.add_parser(
        "workers",
        help="list, add and remove the engines of an active run",
        description="List, add and remove the engines of an active run on this host, from another terminal.",
    )
    actions = workers.add_subparsers(title="actions", metavar="ACTION", required=True)
    listed = actions.add_parser(
        "list",
        help="list the engines of a run",
        description="List the engines of a run with their locations, weight versions and requests.",
    )
    added = actions.add_parser(
        "add",
        help="add engines to a run",
        description="Add engines to a run, on free GPUs. On CPUs, add them on the host with the fewest "
        "processes.",
        epilog="The command returns when the engines have loaded the current weights and joined the run.",
    )
    removed = actions.add_parser(
        "remove",
        help="remove an engine from a run",
        description="Remove an engine from a run. It gets no new requests and leaves when its requests in "
        "flight have finished.",
    )
    for command in (listed, added, removed):
        command.add_argument("controlled", metavar="RUN", help="a run directory, such as runs/latest")
    listed.add_argument("--json", action="store_true", help="print JSON instead of a table")
    listed.set_defaults(run=workers_list)
    added.add_argument("--count", type=int, default=1, metavar="N", help="number of engines (default: 1)")
    added.set_defaults(run=workers_add)
    removed.add_argument("engine", metavar="ENGINE", help="the number of the engine in `areal workers list`")
    removed.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="time after which its requests continue on other engines (default: wait until they finish)",
    )
    removed.set_defaults(run=workers_remove)


def _add_models(commands: Any) -> None:
    models = commands.add_parser(
        "models",
        help="check whether a model can be trained, or merge an adapter",
        description="Check models before training, and merge adapters.",
    )
    actions = models.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="check that the engine and the learner agree on a model, and report on its chat template",
        description="Start an engine and a learner for a model, train it for a few updates in float32, and "
        "compare their log-probabilities before and after each update. Report what the chat template does to "
        "a conversation: how it ends a turn, which turns it rewrites, and how it shows tools.",
        epilog="The command exits with 1 if a check fails. docs/models.md lists the families that pass.",
    )
    check.add_argument("name", metavar="MODEL", help="a folder, a run directory, or a hub id")
    check.add_argument(
        "--tiny",
        action="store_true",
        help="check a small model of the same architecture, with random weights; only config.json is needed",
    )
    check.add_argument(
        "--lora",
        type=int,
        default=8,
        metavar="RANK",
        help="also check an adapter of this rank; 0: no adapter (default: 8)",
    )
    check.add_argument("--updates", type=int, default=3, metavar="N", help="number of updates (default: 3)")
    check.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="the device to use (default: auto, the GPU if there is one)",
    )
    check.add_argument("--json", action="store_true", help="print JSON instead of text")
    check.set_defaults(run=models_check)
    merge = actions.add_parser(
        "merge",
        help="merge a peft adapter into its base model",
        description="Merge a peft adapter into its base model, and write the result as a model that a run "
        "can start from.",
    )
    merge.add_argument("adapter", metavar="ADAPTER", help="a folder with adapter_config.json")
    merge.add_argument("folder", metavar="FOLDER", help="the folder to write, which must be new or empty")
    merge.set_defaults(run=models_merge)


def _add_sandbox(commands: Any) -> None:
    sandbox = commands.add_parser(
        "sandbox",
        help="check the sandbox for untrusted code",
        description="Check the local sandbox, in which untrusted code runs.",
    )
    actions = sandbox.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="report the level of isolation on this host, and test it with attacks",
        description="Report which level of isolation this host provides and why, and test it with attacks.",
        epilog="The command exits with 1 if the level is weak, if there is no sandbox, or if an attack "
        "succeeds.",
    )
    check.add_argument("--json", action="store_true", help="print JSON instead of text")
    check.set_defaults(run=sandbox_check)


def _add_completion(commands: Any) -> None:
    command = commands.add_parser(
        "completion",
        help="print a shell script that completes commands, options and settings",
        description="Print a script that completes commands, options, settings and their values in bash and "
        "zsh.",
        epilog="To install it for bash: areal completion > ~/.local/share/bash-completion/completions/areal",
    )
    command.set_defaults(run=_print_completion)


def _print_completion(given: argparse.Namespace) -> None:
    from areal.completion import script

    print(script(make_parser()), end="")


def _add_common(command: Parser, word: str = "", metavar: str = "key=value") -> None:
    command.add_argument(
        "--env",
        metavar="ID",
        help="the environment: an id from `areal env list`, file.py:Class, a YAML file, or the folder of a "
        "package (default: math-v1)",
    )
    command.add_argument(
        "--model",
        help="a hub id, a folder, or 'starter', the model that ships with areal (default: starter)",
    )
    command.add_argument(
        "--agent",
        metavar="NAME",
        help="how the model acts in the environment: a name, or file.py:Name (default: single-turn)",
    )
    command.add_argument("--config", metavar="FILE", help="a YAML file of settings")
    command.add_argument(
        "--ray", metavar="ADDRESS", help="the Ray cluster to run on: host:port of its head node, or auto"
    )
    command.add_argument(
        "--seed", type=int, metavar="N", help="random seed for the order of the problems and for sampling"
    )
    command.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], help="the device (default: the GPU if there is one)"
    )
    command.add_overrides(word + _OVERRIDES, metavar)
