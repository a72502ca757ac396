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
_MARK = re.compile(r"<(/?)think>")
_START, _MESSAGE = "<|start|>assistant", "<|message|>"


def parse_harmony(text: str, tools: Sequence[Tool] = ()) -> Split | None:
    """Read a response; its thought stands before its words, between the marks of ``thoughts``.

    Where one call is not valid, all of them are words. Marks that are spoken of in a thought get a space, so
    that they end none; words that begin with one follow an empty thought.

    Returns:
        None if it is not of messages.
    """
    thoughts, others, calls = list[str](), list[tuple[str, bool]](), list[ToolCall | None]()
    parts = _END.split(text)
    for part in parts if parts[-1].strip() else parts[:-1]:
        header, found, body = part.lstrip().removeprefix(_START).partition(_MESSAGE)
        if not found:
            return None
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        if recipient is None and channel is not None and channel[1] == "analysis":
            thoughts.append(_MARK.sub(r"<\1 think>", body))
            continue
        others.append((body, recipient is not None))
        calls += [] if recipient is None else [_call(recipient[1], body)]
    made = [call for call in calls if call is not None]
    valid = len(made) == len(calls)
    words = "\n".join(body for body, is_call in others if not (is_call and valid))
    thinks = thoughts or words.lstrip().startswith(OPEN)
    thought = [OPEN, "\n".join(thoughts), CLOSE] if thinks else []
    return "".join([*thought, words]), made if valid else []


def _call(recipient: str, body: str) -> ToolCall | None:
    try:
        arguments = loads(body) if body.strip() else {}
    except ValueError:
        return None
    return (recipient.removeprefix("functions."), arguments) if isinstance(arguments, dict) else None
