"""Responses of GPT-OSS in OpenAI's harmony format, in which thoughts, text and calls are separate messages.

    <|channel|>analysis<|message|>THOUGHT<|end|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>

A message in the channel ``analysis`` is a thought; one without a recipient in another channel is text. All
others are addressed to a tool, and contain its arguments as JSON.
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
    """Read a response; its thought precedes its text, between the marks of ``thoughts``.

    If one call is invalid, all calls become text. Marks that are mentioned in a thought get a space, so that
    they do not end it; text that begins with a mark follows an empty thought.

    Returns:
        None if the response does not consist of messages.
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
