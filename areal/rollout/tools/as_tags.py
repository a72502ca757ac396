r"""Tool calls between tags, as in GLM 4.5 to 4.7.

    <tool_call>NAME
    <arg_key>NAME</arg_key>
    <arg_value>VALUE</arg_value>
    </tool_call>

A value is the text between its tags. Its type is that of the argument in the tool's JSON schema (``values``).
Without a type, it is read as JSON if possible.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from areal.agents.interface import Tool
from areal.rollout.tools.reading import NAME, Split, ToolCall, read_blocks
from areal.rollout.tools.values import Values

_BEGIN = re.compile(r"<tool_call>")
_NAME = re.compile(rf"\s*({NAME})\s*(?=<arg_key>|</tool_call>|\Z)")
_ARGUMENT = re.compile(
    r"\s*<arg_key>([^<>]*)</arg_key>\s*<arg_value>(.*?)"
    # A value's end tag must be followed by something that may follow it.
    r"</arg_value>(?=\s*(?:<arg_key>|</tool_call>|\Z))",
    re.DOTALL,
)
_INSIDE = ("<arg_key>", "<arg_value>")
_END = re.compile(r"\s*(?:</tool_call>|\Z)")


def parse_tags(text: str, tools: Sequence[Tool] = ()) -> Split | None:
    """Read all calls; the end tag of the last call may be missing, but not that of a value."""

    def block(text: str, position: int) -> tuple[list[ToolCall], int] | None:
        head = _NAME.match(text, position)
        if head is None:
            return None
        values, position = Values(head[1], tools), head.end()
        arguments: dict[str, Any] = {}
        while (found := _ARGUMENT.match(text, position)) is not None:
            if any(tag in found[2] for tag in _INSIDE):
                return None  # its end tag is missing, so it would include the next call
            key = found[1].strip()
            arguments[key] = values.typed(key, found[2], guess=True)
            position = found.end()
        end = _END.match(text, position)
        return None if end is None else ([(head[1], arguments)], end.end())

    return read_blocks(text, _BEGIN, block)
