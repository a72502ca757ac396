r"""Tool calls in an XML-like form, as in Qwen3-Coder and Qwen 3.5.

    <tool_call>
    <function=NAME>
    <parameter=NAME>
    VALUE
    </parameter>
    </function>
    </tool_call>

It is not XML: nothing is escaped, and a value is the text between its tags, without one line break on each
side. Its type is that of the parameter in the tool's JSON schema (``values``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from areal.agents.interface import Tool
from areal.rollout.tools.reading import Split, ToolCall
from areal.rollout.tools.values import Values

_OPEN = "<tool_call>"
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>\s*")
_FUNCTION_END = re.compile(r"\s*(?:</function>|\Z|(?=</tool_call>))")
_PARAMETER = re.compile(
    r"<parameter=([^>\n]+)>(.*?)"
    # A value's end tag must be followed by something that may follow it; without one, the next tag on its own
    # line ends it.
    r"(?:</parameter>\s*(?=<parameter=|</function>|</tool_call>|\Z)"
    r"|(?=\n<parameter=)|(?=\n</function>\s*(?:</tool_call>|<function=|\Z)))\s*",
    re.DOTALL,
)
_BLOCK_END = re.compile(r"\s*(?:</tool_call>|\Z|(?=<tool_call>))")


def parse_xml(text: str, tools: Sequence[Tool] = ()) -> Split | None:
    """Split a response into the text beside its calls, and the calls: name and arguments.

    The end tags of the last call may be missing, and so may ``<tool_call>`` if all calls omit it.

    Returns:
        None if there are no calls, or one is invalid.
    """
    blocks = _OPEN in text
    begins = _OPEN if blocks else "<function="
    words, calls, position = [], list[ToolCall](), 0
    while (begin := text.find(begins, position)) >= 0:
        words.append(text[position:begin])
        position = begin + len(_OPEN) if blocks else begin
        before = len(calls)
        while (found := _function(text, position, tools)) is not None:
            name, arguments, position = found
            calls.append((name, arguments))
        end = _BLOCK_END.match(text, position)
        if len(calls) == before or (blocks and end is None):
            return None
        if end is not None and (blocks or end[0].strip()):
            position = end.end()
    words.append(text[position:])
    return ("".join(words).strip(), calls) if calls else None


def _function(text: str, position: int, tools: Sequence[Tool]) -> tuple[str, dict[str, Any], int] | None:
    """Read a call that starts here; return its name, its arguments, and its end."""
    begin = _FUNCTION.match(text, position)
    if begin is None:
        return None
    name, position = begin[1].strip(), begin.end()
    values = Values(name, tools)
    arguments: dict[str, Any] = {}
    while (found := _PARAMETER.match(text, position)) is not None:
        key = found[1].strip()
        arguments[key] = values.typed(key, _trimmed(found[2]))
        position = found.end()
    end = _FUNCTION_END.match(text, position)
    return None if end is None else (name, arguments, end.end())


def _trimmed(value: str) -> str:
    """Remove the line breaks that belong to the tags."""
    value = value.removeprefix("\r").removeprefix("\n")
    return value.removesuffix("\n").removesuffix("\r") if value.endswith("\n") else value
