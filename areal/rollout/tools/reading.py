"""The common parts of the readers of tool calls: the text beside the calls, and blocks between marks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from areal.agents.interface import Tool

ToolCall = tuple[str, dict[str, Any]]
"""Name and arguments."""
Split = tuple[str, list[ToolCall]]
"""The text beside the calls of a response, and the calls."""
Parse = Callable[[str, Sequence[Tool]], Split | None]
"""Splits a text, given the tools that it may call; None: there are no calls, or one is invalid."""
Block = Callable[[str, int], tuple[list[ToolCall], int] | None]
"""Reads the calls of a block after its first mark; returns them and its end; None: one is invalid."""
NAME = r"[^\s<>|｜{}\[\]\"`]+"
"""Matches the name of a tool beside marks."""
PYTHON_MARK = r"<\|python_(?:tag|start|end)\|>"
"""Matches the marks that Llama may put around its calls."""
_PYTHON_MARKS = ("<|python_tag|>", "<|python_start|>", "<|python_end|>")


def end_without_marks(text: str) -> int:
    """Return the end of a text without Llama's marks and white space."""
    # A pattern search would try each space of a run as the start of the rest.
    end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        mark = next((mark for mark in _PYTHON_MARKS if text.endswith(mark, 0, end)), None)
        if mark is None:
            return end
        end -= len(mark)


def read_blocks(text: str, begin: re.Pattern[str], block: Block) -> Split | None:
    """Read all blocks of a text; everything between and around them is text."""
    words, calls, position = [], list[ToolCall](), 0
    while (mark := begin.search(text, position)) is not None:
        words.append(text[position : mark.start()])
        found = block(text, mark.end())
        if found is None:
            return None
        made, position = found
        calls += made
    words.append(text[position:])
    return ("".join(words).strip(), calls) if calls else None
