"""Pages that are made of the code: every setting from its type, every command from its parser.

What has no description fails: a reference with holes is none.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from pydantic import BaseModel

from areal.cli import make_parser
from areal.config import Config
from areal.config.describe import describe_group, described, groups

_CONFIGURATION = """# Configuration

Every setting of a run, made from the types in `areal/config/settings.py`. A setting comes from a YAML file
(`--config FILE`), from `key.sub=value` on the command line or from an argument of `areal.train`; later
ones win over earlier ones, in this order, and what is given nowhere has its default. `areal train --dry-run`
checks all of them and prints the result as such a file; each run keeps it as `config.yaml`.

A wrong name or value ends the command before anything is started, with one line that says what is right.
"""

_COMMANDS = """# Commands

Every command and its options, made from the parsers of `areal`, which `--help` prints, too. A command ends
with 0; with 1 if a check failed; with 2 on bad input, with one line that says what to do; and with 130 after
Ctrl-C.
"""


def configuration_page(model: type[BaseModel] = Config) -> str:
    """Return the reference of all settings, as Markdown; raises ValueError if one has no description."""
    parts = [_CONFIGURATION]
    for name, group in groups(model).items():
        parts.append(f"## {name or 'Run'}\n")
        parts += [_described(name, group.__doc__) + "\n"] if name else []
        rows = [
            (f"`{setting.key}`", setting.value, setting.default, _linked(setting.help))
            for setting in describe_group(name, model)
        ]
        parts.append(_table(("setting", "value", "default", "description"), rows))
    return "\n".join(parts)


def commands_page(parser: argparse.ArgumentParser | None = None) -> str:
    """Return the reference of all commands, as Markdown; raises ValueError if one has no description."""
    parts = [_COMMANDS]
    for command, about in _leaves(parser or make_parser(), ""):
        usage = " ".join(command.format_usage().removeprefix("usage: ").split())
        parts += [
            f"## {command.prog}\n",
            _sentence(_described(command.prog, command.description or about)) + "\n",
            f"```text\n{usage}\n```\n",
            _table(("option", "description"), list(_options(command))),
        ]
        parts += [_linked(command.epilog) + "\n"] if command.epilog else []
    return "\n".join(parts)


def _leaves(parser: argparse.ArgumentParser, about: str) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield parser, about
    for action in inner:
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, command in action.choices.items():
            yield from _leaves(command, helps.get(name, ""))


def _options(command: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    formatter = command._get_formatter()
    for action in command._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = " ".join(_metavars(action, formatter))
        name = ", ".join(action.option_strings)
        shown = f"`{' '.join(filter(None, (name, value)))}`"
        yield (
            shown,
            _described(f"{command.prog} {name or value}", action.help and formatter._expand_help(action)),
        )


def _metavars(action: argparse.Action, formatter: argparse.HelpFormatter) -> tuple[str, ...]:
    if action.nargs == 0:
        return ()
    default = (action.option_strings or [action.dest])[-1].lstrip("-").upper()
    return formatter._metavar_formatter(action, default)(1)


def _described(name: str, text: str | None) -> str:
    return _linked(described(name, text))


def _linked(text: str) -> str:
    """Make links of the pages that a description names."""
    return re.sub(r"\bdocs/([\w-]+\.md)\b", r"[\1](\1)", text)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines) + "\n"
