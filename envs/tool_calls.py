"""Tools of an environment itself: their descriptions, and calls of them in a text.

A call is a line of JSON. An agent that supports tools writes it for the model (areal.agents.tool_use); with
other agents, the model writes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from areal.thoughts import CLOSE

MOST_CALLS = 32
"""Maximum number of calls in an action."""
NO_CALL = "There is no call of a tool in it. A call is one line of JSON with name and arguments."
_BEGIN = re.compile(r"^[ \t]*(?:<tool_call>[ \t]*)?(?=\{)", re.MULTILINE)
_TOLD = """

Solve it with these tools, one call or several in each answer:
{tools}
A call is one line of JSON, such as {example}.
Hidden tests judge what you submit."""


class ToolError(Exception):
    """A call cannot be made; the model reads the reason."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as described to the model.

    Attributes:
        name: name of the tool.
        says: its description.
        takes: its arguments, with their JSON types and descriptions.
        optional: arguments that may be omitted.
    """

    name: str
    says: str
    takes: dict[str, tuple[str, str]]
    optional: tuple[str, ...] = ()

    @property
    def schema(self) -> dict[str, Any]:
        """The description of the tool in OpenAI's form."""
        properties = {name: {"type": kind, "description": text} for name, (kind, text) in self.takes.items()}
        required = [name for name in self.takes if name not in self.optional]
        parameters = {"type": "object", "properties": properties, "required": required}
        described = {"name": self.name, "description": self.says, "parameters": parameters}
        return {"type": "function", "function": described}

    @property
    def line(self) -> str:
        """The description of the tool in one line of text."""
        shown = (f"{name}{'?' if name in self.optional else ''}" for name in self.takes)
        return f"- {self.name}({', '.join(shown)}): {self.says}"

    def checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call; raises ToolError if the tool does not accept them."""
        for name in arguments:
            if name not in self.takes:
                known = ", ".join(self.takes) or "none"
                raise ToolError(f"{self.name} has no argument '{name[:100]}', only {known}")
        for name, (kind, _) in self.takes.items():
            if name not in arguments:
                if name not in self.optional:
                    raise ToolError(f"{self.name} needs the argument '{name}'")
            elif type(arguments[name]) is not {"string": str, "integer": int}[kind]:
                raise ToolError(f"{self.name}: '{name}' must be of type {kind}")
        return dict(arguments)


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as written."""

    name: str
    arguments: dict[str, Any]


def calls_of(text: str) -> list[Asked]:
    """Return the calls of an action: JSON objects with ``name`` and ``arguments``, each starting a line.

    Calls within a thought do not count. An end-of-thought mark within a call belongs to the call's text, and
    does not end a thought.
    """
    calls = list(_calls(text))
    for mark in re.finditer(re.escape(CLOSE), text):
        if not any(begin < mark.start() < end for _, begin, end in calls):
            return [call for call, _, _ in _calls(text[mark.end() :])]
    return [call for call, _, _ in calls]


def _calls(text: str) -> Iterator[tuple[Asked, int, int]]:
    """Yield each call with its start and its end."""
    decoder, position, tried = json.JSONDecoder(), 0, 0
    while tried < MOST_CALLS and (found := _BEGIN.search(text, position)):
        tried += 1
        try:
            value, position = decoder.raw_decode(text, found.end())
        except (ValueError, RecursionError):
            position = found.end() + 1
            continue
        name, arguments = value.get("name"), value.get("arguments", {})
        if isinstance(name, str) and isinstance(arguments, dict):
            yield Asked(name, arguments), found.end(), position


def told(tools: Sequence[ToolSpec], example: Asked) -> str:
    """Return the description of the tools for the model, which ends an observation."""
    call = json.dumps({"name": example.name, "arguments": example.arguments})
    return _TOLD.format(tools="\n".join(tool.line for tool in tools), example=call)
