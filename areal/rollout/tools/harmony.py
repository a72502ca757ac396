"""Responses of GPT-OSS, in OpenAI's harmony format: thoughts, words and calls are messages of their own.

    <|channel|>analysis<|message|>THOUGHT<|end|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>

What is analysed is a thought; what is said to nobody in another channel is words. All else is addressed to a
tool, whose arguments are JSON.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from areal.agents.interface import Tool
from areal.rollout.arguments import loads
from areal.rollout.tools.reading import Split, ToolCall
from areal.thoughts import CLOSE, OPEN

_END = re.compile(r"<\|(?:end|call|return)\|>")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=(\S+?)(?=\s|<\||$)")
_START, _MESSAGE = "<|start|>assistant", "<|message|>"


def parse_harmony(text: str, tools: Sequence[Tool] = ()) -> Split | None:
    """Read a response; its thought stands before its words, between the marks of ``thoughts``.

    A call that is not valid is words, and no other one is made.

    Returns:
        None if it is not of messages.
    """
    thoughts, words, calls, valid = list[str](), list[str](), list[ToolCall](), True
    parts = _END.split(text)
    for part in parts if parts[-1].strip() else parts[:-1]:
        header, found, body = part.lstrip().removeprefix(_START).partition(_MESSAGE)
        if not found:
            return None
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        if recipient is not None:
            call = _call(recipient[1], body)
            valid = valid and call is not None
            calls += [] if call is None else [call]
        said = thoughts if recipient is None and channel is not None and channel[1] == "analysis" else words
        said += [] if recipient is not None and valid else [body]
    thought = [OPEN, "\n".join(thoughts), CLOSE] if thoughts else []
    return "".join([*thought, "\n".join(words)]), calls if valid else []


def _call(recipient: str, body: str) -> ToolCall | None:
    try:
        arguments = loads(body) if body.strip() else {}
    except ValueError:
        return None
    return (recipient.removeprefix("functions."), arguments) if isinstance(arguments, dict) else None
