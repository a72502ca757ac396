"""``areal env``: init, list, show, check, try; and ``areal data``: show."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from areal.arguments import Parser

_WHICH = "an id, path/to/file.py:Class, a YAML file, or the folder of a package"


def add_env(commands: Any) -> None:
    """Add the commands to the parser."""
    env = commands.add_parser(
        "env", help="write, list, check, try environments", description="Work with environments."
    )
    actions = env.add_subparsers(title="actions", metavar="ACTION", required=True)
    init = actions.add_parser(
        "init",
        help="write a new environment",
        description="Write a small package (environment, verifier, tests) that works as it is.",
    )
    init.add_argument("name", metavar="NAME", help="the environment's id, such as my-env")
    init.set_defaults(run=_init)
    actions.add_parser("list", help="list all environments with their options").set_defaults(run=_list)
    show = actions.add_parser("show", help="describe one environment and its options")
    show.add_argument("name", metavar="ENV", help=_WHICH)
    show.set_defaults(run=_show)
    check = actions.add_parser(
        "check",
        help="check an environment against what training takes for granted",
        description="Check an environment against what training takes for granted, and attack its rewards.",
        epilog="Exits with 1 if a rule is broken; each failure says how to mend it.",
    )
    _add_one(check)
    check.add_argument("--time-limit", type=float, metavar="S", help="seconds of one call (default: 30)")
    check.set_defaults(run=_check)
    play = actions.add_parser(
        "try",
        help="play a few episodes yourself, or let a model play",
        description="Play a few episodes: type the answers, or let a model give them with --model.",
        epilog="A line is an answer; one that opens a code block (```) goes on to its end. Ctrl-D ends it.",
    )
    _add_one(play)
    play.add_argument("--episodes", type=int, default=3, metavar="N", help="how many (default: 3)")
    play.add_argument("--model", help="hub id, folder, or 'starter'; without it you answer")
    play.add_argument("--agent", metavar="NAME", help="how the model acts (default: single-turn)")
    play.add_argument("--seed", type=int, default=0, metavar="N", help="of the order of problems")
    play.set_defaults(run=_try)


def add_data(commands: Any) -> None:
    """Add ``areal data`` to the parser."""
    data = commands.add_parser(
        "data", help="show what areal reads of data", description="Work with data to train on."
    )
    actions = data.add_subparsers(title="actions", metavar="ACTION", required=True)
    show = actions.add_parser(
        "show",
        help="say how data is read, and print its first problems",
        description="Say how data is read: its form, how many problems there are, what is held out, which "
        "rows are left out and why. Print the first problems as the model gets them, with their answers.",
        epilog="Exits with 1 if there are rows that cannot be read. docs/data.md has the forms.",
    )
    show.add_argument(
        "place", metavar="PLACE", help="a file, a folder or a data set's id on the hub, also with :SPLIT"
    )
    show.add_argument("-n", "--count", type=int, default=3, metavar="K", help="how many problems (3)")
    show.add_argument("--json", action="store_true", help="print JSON in place of text")
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
    print(f"try it: areal env check {given.name}; areal train --env {given.name}")


def _list(given: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from areal.authoring.describe import describe
    from areal.errors import UserError
    from areal.registry import env_names, find_env

    table = Table("environment", "options", "what it is")
    for name in env_names():
        try:
            found = describe(name, find_env(name))
        except UserError as error:  # the others are none the worse
            table.add_row(name, "", Text(str(error), style="red"))
            continue
        options = [o.name if o.default is None else f"{o.name}={o.default}" for o in found.options]
        table.add_row(name, ", ".join(options), found.summary)
    for column in table.columns:
        column.overflow = "fold"  # cut off, a name is of no use
    Console().print(table)


def _show(given: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from areal.authoring.describe import describe
    from areal.registry import find_env

    found = describe(given.name, find_env(given.name))
    console = Console()
    console.print(Text(f"{found.name}: {found.summary or '(it has no docstring)'}"))
    console.print(Text(f"from {found.place}", style="dim"))
    table = Table("env_options.", "default", "what it does")
    for option in found.options:
        table.add_row(*(Text(t) for t in (option.name, option.default or "(must be given)", option.help)))
    for column in table.columns:
        column.overflow = "fold"
    if found.options:
        console.print(table)


def _check(given: argparse.Namespace) -> None:
    from areal.authoring.check import TIME_LIMIT, check_env
    from areal.config import merged_settings
    from areal.registry import find_env, make_env

    find_env(given.name)  # a name that means nothing is no environment that is broken
    options = merged_settings(None, given.options)
    findings = check_env(lambda: make_env(given.name, **options), given.time_limit or TIME_LIMIT)
    for finding in findings:
        print(finding, flush=True)
    failed = sum(finding.verdict == "failed" for finding in findings)
    rules = sum(finding.verdict in ("failed", "passed") for finding in findings)
    print(f"{failed} of {rules} rules are broken" if failed else "all is well")
    if failed:
        sys.exit(1)


def _try(given: argparse.Namespace) -> None:
    from areal.config import merged_settings

    options = merged_settings(None, given.options)
    earned = _play_model(given, options) if given.model else _play_person(given, options)
    print(f"earned in all: {earned:g}")


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
    """Read an answer; None at the end of the input."""
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
        print(f"\ntrain on it: {show_data.command(given.place, read, options)}")
    if read.loaded.skipped:
        sys.exit(1)
