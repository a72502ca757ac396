"""``areal env``: init, list, show, check, try; and ``areal data``: show."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

from areal.arguments import Parser

_WHICH = "an id, path/to/file.py:Class, a YAML file, or the folder of a package"


def add_env(commands: Any) -> None:
    """Add ``areal env`` to the parser."""
    env = commands.add_parser(
        "env",
        help="write, list, check and try environments",
        description="Write, list, check and try environments.",
    )
    actions = env.add_subparsers(title="actions", metavar="ACTION", required=True)
    init = actions.add_parser(
        "init",
        help="write a new environment",
        description="Write a small, working package with an environment, a verifier and tests.",
    )
    init.add_argument("name", metavar="NAME", help="the id of the environment, such as my-env")
    init.set_defaults(run=_init)
    listed = actions.add_parser(
        "list",
        help="list all environments with their options",
        description="List all environments with their options.",
    )
    listed.set_defaults(run=_list)
    show = actions.add_parser(
        "show",
        help="describe one environment and its options",
        description="Describe one environment and its options.",
    )
    show.add_argument("name", metavar="ENV", help=_WHICH)
    show.set_defaults(run=_show)
    check = actions.add_parser(
        "check",
        help="check an environment against the rules that training relies on",
        description="Check an environment against the rules that training relies on, and attack its rewards.",
        epilog="The command exits with 1 if a rule is broken. Each failure says how to fix it.",
    )
    _add_one(check)
    check.add_argument(
        "--time-limit", type=float, metavar="S", help="time limit of each call, in seconds (default: 30)"
    )
    check.set_defaults(run=_check)
    play = actions.add_parser(
        "try",
        help="play a few episodes yourself, or let a model play",
        description="Play a few episodes. Type the answers yourself, or use --model to let a model answer.",
        epilog="Each line is an answer. An answer that opens a code block (```) continues to the end of the "
        "block. Ctrl-D stops.",
    )
    _add_one(play)
    play.add_argument("--episodes", type=int, default=3, metavar="N", help="number of episodes (default: 3)")
    play.add_argument(
        "--model", help="the model that plays: a hub id, a folder, or 'starter' (default: you play)"
    )
    play.add_argument(
        "--agent", metavar="NAME", help="how the model acts in the environment (default: single-turn)"
    )
    play.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed for the order of the problems (default: 0)",
    )
    play.set_defaults(run=_try)


def add_data(commands: Any) -> None:
    """Add ``areal data`` to the parser."""
    data = commands.add_parser(
        "data", help="show how areal reads data", description="Inspect data for training."
    )
    actions = data.add_subparsers(title="actions", metavar="ACTION", required=True)
    show = actions.add_parser(
        "show",
        help="report how data is read, and print its first problems",
        description="Report how data is read: its format, the number of problems, the held-out problems, and "
        "which rows are skipped and why. Print the first problems as the model sees them, with their "
        "answers.",
        epilog="The command exits with 1 if some rows cannot be read. docs/data.md describes the formats.",
    )
    show.add_argument(
        "place",
        metavar="PLACE",
        help="a file, a folder, or the id of a data set on the hub, optionally with :SPLIT",
    )
    show.add_argument(
        "-n", "--count", type=int, default=3, metavar="K", help="number of problems to print (default: 3)"
    )
    show.add_argument("--json", action="store_true", help="print JSON instead of text")
    show.add_overrides(
        "options of the environment: subset, test_data, prompt, answer, verifier", dest="options"
    )
    show.set_defaults(run=_show_data)


def _add_one(action: Parser) -> None:
    action.add_argument("name", metavar="ENV", help=_WHICH)
    action.add_overrides("options of the environment, such as difficulty=2", dest="options")


def _init(given: argparse.Namespace) -> None:
    from areal.authoring.scaffold import write_package

    for path in write_package(given.name, Path()):
        print(path)
    print(f"to try it: areal env check {given.name}; areal train --env {given.name}")


def _list(given: argparse.Namespace) -> None:
    from areal.authoring.describe import describe
    from areal.errors import UserError
    from areal.registry import env_names, find_env

    for name in env_names():
        print(name)
        try:
            found = describe(name, find_env(name))
        except UserError as error:  # the other environments can still be listed
            _print_indented(f"Error: {error}")
            continue
        _print_indented(found.summary or _NO_DOC)
        options = [o.name if o.default is None else f"{o.name}={o.default}" for o in found.options]
        if options:
            _print_indented(f"options: {', '.join(options)}")


def _show(given: argparse.Namespace) -> None:
    from areal.authoring.describe import describe
    from areal.registry import find_env

    found = describe(given.name, find_env(given.name))
    print(f"{found.name}: {found.summary or _NO_DOC}")
    print(f"from {found.place}")
    for option in found.options:
        default = "must be given" if option.default is None else f"default: {option.default}"
        print(f"\nenv_options.{option.name}  ({default})")
        _print_indented(option.help)


_NO_DOC = "(it has no docstring)"


def _print_indented(text: str) -> None:
    """Print a paragraph, wrapped at the width of the terminal, or at 100 columns in a pipe."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    print(textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False))


def _check(given: argparse.Namespace) -> None:
    from areal.authoring.check import TIME_LIMIT, check_env
    from areal.config import merged_settings
    from areal.registry import find_env, make_env

    find_env(given.name)  # an unknown name is invalid input, not a broken rule
    options = merged_settings(None, given.options)
    findings = check_env(lambda: make_env(given.name, **options), given.time_limit or TIME_LIMIT)
    for finding in findings:
        print(finding, flush=True)
    failed = sum(finding.verdict == "failed" for finding in findings)
    rules = sum(finding.verdict in ("failed", "passed") for finding in findings)
    print(f"{failed} of {rules} rules failed" if failed else f"all {rules} rules hold")
    if failed:
        sys.exit(1)


def _try(given: argparse.Namespace) -> None:
    from areal.config import merged_settings

    options = merged_settings(None, given.options)
    earned = _play_model(given, options) if given.model else _play_person(given, options)
    print(f"total reward: {earned:g}")


def _play_person(given: argparse.Namespace, options: dict[str, Any]) -> float:
    from areal.authoring.play import Show, play_person
    from areal.registry import make_env

    env = make_env(given.name, **options)
    return play_person(env, given.episodes, given.seed, _ask, Show(sys.stdout))


def _play_model(given: argparse.Namespace, options: dict[str, Any]) -> float:
    import asyncio

    from areal.api import resolve
    from areal.authoring.play import play_model

    settings = {"env": given.name, "env_options": options, "model": given.model, "seed": given.seed}
    if given.agent:
        settings["agent"] = given.agent
    return asyncio.run(play_model(resolve(None, None, settings, None, training=False), given.episodes))


def _ask() -> str | None:
    """Read an answer from the terminal; None at the end of the input."""
    lines: list[str] = []
    while not lines or (
        lines[0].lstrip().startswith("```") and (len(lines) == 1 or lines[-1].strip() != "```")
    ):
        try:
            lines.append(input("> " if not lines else "  "))
        except EOFError:
            return "\n".join(lines) or None
    return "\n".join(lines)


def _show_data(given: argparse.Namespace) -> None:
    import json

    from areal.authoring import show_data
    from areal.config import merged_settings
    from areal.errors import UserError
    from areal.telemetry.plain import plain

    options = merged_settings(None, given.options)
    if given.count < 0:
        raise UserError(f"--count {given.count} must be at least 0")
    read = show_data.read_data(given.place, options)
    if given.json:
        print(json.dumps(show_data.as_json(read, given.count), ensure_ascii=False))
    else:
        for line in show_data.as_lines(read, given.count):
            print(plain(line))
        print(f"\nto train on it: {show_data.command(given.place, read, options)}")
    if read.loaded.skipped:
        sys.exit(1)
