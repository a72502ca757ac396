r"""Tool calls as JSON, alone or between marks.

A call ends where its JSON ends: marks within its strings end nothing, and an unescaped line break in a string
is accepted. A text without an end is not a call, nor is one whose arguments are not an object. The last mark
of a response may be missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from areal.agents.interface import Tool
from areal.rollout import arguments as json_text
from areal.rollout.tools.last_values import SPACE, last_values
from areal.rollout.tools.reading import (
    NAME,
    PYTHON_MARK,
    Parse,
    Split,
    ToolCall,
    end_without_marks,
    read_blocks,
)

_HERMES = re.compile(r"<tool_call>")
_HERMES_END = re.compile(r"</tool_call>|\Z")
_LIST = re.compile(r"<\|tool_call\|>|\bfunctools(?=\[)")
_LIST_END = re.compile(r"\s*<\|/tool_call\|>")
_MORE = re.compile(r"\s*(?!\[TOOL_CALLS\])[,:\]}{[\"]")
"""Matches JSON after calls without an end mark, which shows that the calls are incomplete."""
_MISTRAL = re.compile(r"\[TOOL_CALLS\]")
_MISTRAL_NAME = re.compile(rf"\s*(?P<name>{NAME})\s*(?:\[CALL_ID\]\s*\w*\s*)?(?:\[ARGS\])?")
_NO_ARGUMENTS = {"name", "id", "type"}
_LINE = re.compile(rf"(?:^|{PYTHON_MARK})[ \t]*(?=[{{\[])", re.MULTILINE)


def parse_blocks(text: str, tools: Sequence[Tool] = ()) -> Split | None:
    """Read ``<tool_call>{…}</tool_call>``."""

    def block(text: str, position: int) -> tuple[list[ToolCall], int] | None:
        found = _calls(text, position)
        end = _HERMES_END.match(text, found[1]) if found is not None else None
        return None if found is None or end is None else (found[0], end.end())

    return read_blocks(text, _HERMES, block)


def parse_lists(text: str, tools: Sequence[Tool] = ()) -> Split | None:
    """Read ``<|tool_call|>[{…}]``, with or without a final ``<|/tool_call|>``; or ``functools[{…}]``."""

    def block(text: str, position: int) -> tuple[list[ToolCall], int] | None:
        found = _calls(text, position)
        if found is None or not found[0] or _MORE.match(text, found[1]):
            return None
        end = _LIST_END.match(text, found[1])
        return found[0], found[1] if end is None else end.end()

    return read_blocks(text, _LIST, block)


def parse_mistral(text: str, tools: Sequence[Tool] = ()) -> Split | None:
    """Read ``[TOOL_CALLS]NAME[ARGS]{…}``, once per call; or ``[TOOL_CALLS][{…}]``, for all calls."""

    def block(text: str, position: int) -> tuple[list[ToolCall], int] | None:
        found = _calls(text, position)
        if found is None or not found[0]:
            head = _MISTRAL_NAME.match(text, position)
            found = None if head is None else _named(text, head["name"], head.end())
        return None if found is None or _MORE.match(text, found[1]) else found

    return read_blocks(text, _MISTRAL, block)


def parse_json(text: str, tools: Sequence[Tool] = ()) -> Split | None:
    """Read calls without marks: consecutive, separated by ``;``, or in a list.

    They begin a line, and no text follows them, because calls within text are only mentioned. A value without
    arguments is not a call here.
    """
    lines = {line.end(): line.start() for line in _LINE.finditer(text)}
    read: list[list[ToolCall]] = []
    first, count = -1, 0
    for begin in last_values(text, end_without_marks(text)):
        found = _value(text, begin, bare=True)
        if found is None:
            break
        read.append(found[0])
        if begin in lines:
            first, count = lines[begin], len(read)
    calls = [call for part in reversed(read[:count]) for call in part]
    return (re.sub(PYTHON_MARK, "", text[:first]).strip(), calls) if calls else None


def marked(section: tuple[str, str], begin: str, head: str, end: str) -> Parse:
    """Return a reader of calls whose names precede their arguments, in a section of their own.

    Args:
        section: marks of all calls of a response.
        begin: mark of one call.
        head: pattern between that mark and the arguments, with the group ``name``.
        end: pattern after the arguments; the end of the text is also valid.
    """
    opens, closes = section
    first, header = re.compile(re.escape(begin)), re.compile(head)
    last = re.compile(rf"\s*(?:{end}|\Z)(?:\s*{re.escape(closes)})?(?:\s*(?={re.escape(begin)}))?")

    def block(text: str, position: int) -> tuple[list[ToolCall], int] | None:
        found = header.match(text, position)
        call = None if found is None else _named(text, found["name"], found.end())
        tail = None if call is None else last.match(text, call[1])
        return None if call is None or tail is None else (call[0], tail.end())

    def parse(text: str, tools: Sequence[Tool] = ()) -> Split | None:
        before, opened, inside = text.partition(opens)
        found = read_blocks(inside, first, block) if opened else None
        if found is None:
            return None
        behind = found[0].removesuffix(closes).strip()
        return "\n".join(part for part in (before.strip(), behind) if part), found[1]

    return parse


parse_deepseek = marked(
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    "<｜tool▁call▁begin｜>",
    r"(?:[^<\n]*<｜tool▁sep｜>(?=[^<\n]+\n```))?(?P<name>" + NAME + r")(?:<｜tool▁sep｜>|\n```json\n)",
    r"(?:```\s*)?(?:<｜tool▁call▁end｜>|\Z)",
)
"""Reads DeepSeek's calls: those of V3 and R1 (a type, and JSON as a code block) and of V3.1."""
parse_kimi = marked(
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    "<|tool_call_begin|>",
    r"\s*(?:functions\.)?+(?P<name>[^\s<>|:]+):\d+\s*<\|tool_call_argument_begin\|>",
    r"<\|tool_call_end\|>",
)
"""Reads Kimi's calls."""


def spell_blocks(calls: Sequence[ToolCall]) -> str:
    """Write calls as :func:`parse_blocks` reads them."""
    return "\n".join(f"<tool_call>\n{_spelled(call)}\n</tool_call>" for call in calls)


def spell_json(calls: Sequence[ToolCall]) -> str:
    """Write calls as :func:`parse_json` reads them."""
    return "; ".join(_spelled(call, "parameters") for call in calls)


def spell_list(calls: Sequence[ToolCall]) -> str:
    """Write calls as :func:`parse_lists` reads them."""
    return f"<|tool_call|>[{', '.join(map(_spelled, calls))}]"


def _spelled(call: ToolCall, key: str = "arguments") -> str:
    name, arguments = call
    return json.dumps({"name": name, key: arguments}, ensure_ascii=False)


def _named(text: str, name: str, position: int) -> tuple[list[ToolCall], int] | None:
    """Read the arguments of a call whose name precedes them."""
    position = _skip(text, position)
    if not text.startswith("{", position):
        return None
    try:
        value, position = json_text.first(text, position)
    except ValueError:
        return None
    return [(name, value)], position


def _calls(text: str, position: int) -> tuple[list[ToolCall], int] | None:
    """Read consecutive JSON calls; return them and the position after them."""
    calls: list[ToolCall] = []
    position = _skip(text, position)
    while position < len(text) and text[position] in '{["':
        found = _value(text, position)
        if found is None:
            return None
        calls += found[0]
        position = _skip(text, found[1])
    return calls, position


def _value(text: str, position: int, bare: bool = False) -> tuple[list[ToolCall], int] | None:
    """Read a JSON call, or a list of them; return them and their end."""
    try:
        value, position = json_text.first(text, position)
    except ValueError:
        return None
    made = [_call(item, bare) for item in (value if isinstance(value, list) else [value])]
    calls = [call for call in made if call is not None]
    return (calls, position) if len(calls) == len(made) else None


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in SPACE:
        position += 1
    return position


def _call(item: Any, bare: bool) -> ToolCall | None:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    if "arguments" not in item and "parameters" not in item and (bare or not item.keys() <= _NO_ARGUMENTS):
        return None  # they have another name
    arguments = item.get("arguments", item.get("parameters"))
    if arguments is None or arguments == "":
        return item["name"], {}
    if isinstance(arguments, str):
        try:
            arguments = json_text.loads(arguments)
        except ValueError:
            return None
    return (item["name"], arguments) if isinstance(arguments, dict) else None
