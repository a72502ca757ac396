"""Describes an environment and its options, from its constructor and its docstring."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

_SECTION = re.compile(r"^(\w+):$")
_ENTRY = re.compile(r"^ {4}(\w+)(?: \([^)]*\))?: (.*)$")


@dataclass(frozen=True, slots=True)
class Option:
    """A keyword argument of an environment.

    Attributes:
        default: the default as Python code; None: the option is required.
        help: the description in the docstring, without double backquotes; empty if there is none.
    """

    name: str
    default: str | None
    help: str


@dataclass(frozen=True, slots=True)
class Description:
    """An environment.

    Attributes:
        name: its id, or the name by which it was found.
        summary: the first line of its docstring, without double backquotes.
        place: the location of its code, ``module:Class``.
        options: the arguments of its constructor.
    """

    name: str
    summary: str
    place: str
    options: tuple[Option, ...]


def describe(name: str, spec: Any) -> Description:
    """Describe an environment by its Gymnasium specification, which has a callable entry point."""
    make = inspect.unwrap(spec.entry_point)  # describe an adapted environment, not its adapter
    doc = _own_doc(make).replace("``", "")
    helps = _arguments(doc)
    options = tuple(
        Option(p.name, _default(p, spec.kwargs), helps.get(p.name, ""))
        for p in inspect.signature(make).parameters.values()
        if p.name != "render_mode" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    )
    place = f"{make.__module__}:{getattr(make, '__qualname__', make)}"
    return Description(name, doc.partition("\n")[0], place, options)


def _own_doc(make: Any) -> str:
    """Return the docstring; for a class, with those that it inherits, except that of Gymnasium's Env."""
    for base in make.__mro__ if inspect.isclass(make) else [make]:
        if inspect.isclass(base) and base.__module__ in ("gymnasium.core", "abc", "typing", "builtins"):
            break
        if text := base.__doc__:
            return inspect.cleandoc(text)
    return ""


def _default(parameter: inspect.Parameter, given: dict[str, Any]) -> str | None:
    value = given.get(parameter.name, parameter.default)
    return None if value is parameter.empty else repr(value)


def _arguments(doc: str) -> dict[str, str]:
    """Return the description of each argument in the section ``Args:`` of a Google docstring."""
    found: dict[str, str] = {}
    section, name = "", ""
    for line in doc.splitlines():
        if heading := _SECTION.match(line):
            section, name = heading.group(1), ""
        elif section == "Args" and (entry := _ENTRY.match(line)):
            name = entry.group(1)
            found[name] = entry.group(2)
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found
