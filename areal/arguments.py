"""Parses a command line: settings may precede or follow options, and an error is one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from areal.errors import nearest


class Parser(argparse.ArgumentParser):
    """A parser that accepts arguments and options in any order and reports an error on one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2, as for :class:`areal.errors.UserError`, and point to the help."""
        self.exit(2, f"areal: error: {message} (see `{self.prog} --help`)\n")

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse a command line; exits with 0 after ``--help``, and with 2 and one line if it is invalid.

        The name of the command is removed first, because argparse has two limits. It reads the arguments of a
        command only up to the first option, and cannot distinguish a command of two words from an override.
        """
        commands, two = self.commands, " ".join(words[:2])
        if not commands:
            return self._read_mixed(words)
        name = two if two in commands else next(iter(words), "")
        if name in commands:
            return commands[name].read(words[len(name.split()) :])
        if not name:
            self.error(f"a command is missing after '{self.prog}': give one of {', '.join(commands)}")
        if not name.startswith("-"):
            self.error(f"no such command: '{self.prog} {name}'{nearest(name, commands)}")
        return self.parse_args(words)

    @property
    def commands(self) -> dict[str, Parser]:
        """The parsers of the subcommands, by name."""
        inner = (action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return next(inner, {})

    def add_overrides(self, help: str, metavar: str = "key=value", dest: str = "overrides") -> None:
        """Accept any number of ``key=value`` arguments, before, between and after the options."""
        self.add_argument(dest, nargs="*", default=[], metavar=metavar, help=help)

    def _read_mixed(self, words: Sequence[str]) -> argparse.Namespace:
        given, left = self.parse_known_intermixed_args(list(words))
        for word in left:
            if word.startswith("-"):
                self.error(f"no such option: {word}{self._meant(word)}")
        if left:
            self.error(f"unexpected argument '{left[0]}'; remove it")
        self._names_first(given)
        return given

    def _names_first(self, given: argparse.Namespace) -> None:
        """Assign the arguments without ``=`` to the names that a command takes, even after settings."""
        places = [action for action in self._actions if not action.option_strings]
        names = [action.dest for action in places if action.nargs is None]
        settings = next((action.dest for action in places if action.nargs == "*"), None)
        if settings is None or not names:
            return
        words = [*(getattr(given, name) for name in names), *getattr(given, settings)]
        words.sort(key=lambda word: "=" in word)  # the sort keeps the order of each kind
        for name, word in zip(names, words, strict=False):
            setattr(given, name, word)
        setattr(given, settings, words[len(names) :])

    def _meant(self, word: str) -> str:
        name = word.partition("=")[0]
        options: dict[str, Any] = self._option_string_actions
        close = nearest(name, (option for option in options if option.startswith("--")), 0.7)
        if close or not any(action.dest == "overrides" for action in self._actions):  # settings of a run
            return close
        from areal.config.complaints import meant, settings  # imports pydantic

        key = name.lstrip("-").replace("-", "_")
        if key.split(".") in settings():
            return f"; give a setting without dashes: {key}=…"
        found = meant(key)
        return f"{found} (give a setting without dashes: key=value)" if "mean" in found else ""
