r"""The tool-call format of a model: how its template shows tools, and how its words become calls.

Two families cover most models: ``<tool_call>{"name": …, "arguments": …}</tool_call>`` (Hermes, Qwen), and
bare JSON with ``name`` and ``parameters`` or ``arguments`` (Llama 3, Mistral). A template that knows nothing
of tools gets the first: the tools are then described in the system message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from areal.agents.interface import Message, Tool

Call = tuple[str, dict[str, Any]]
"""Name and arguments."""
Parse = Callable[[str], tuple[str, list[Call]] | None]
"""Splits a text into the words beside the calls, and the calls; None: there are none, or one is not valid."""

_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_JSON_SIGNS = ("<|python_tag|>", "[TOOL_CALLS]", '"parameters": ')
_DECODER = json.JSONDecoder()


def parser_of(template: str | None) -> Parse:
    """Return how the words of a model with this chat template are read."""
    if template is None or "<tool_call>" in template or not any(sign in template for sign in _JSON_SIGNS):
        return parse_blocks
    return parse_json


def shows_tools(template: str | None) -> bool:
    """Whether a chat template describes the tools itself."""
    return template is not None and re.search(r"\btools\b", template) is not None


def parse_blocks(text: str) -> tuple[str, list[Call]] | None:
    """Read ``<tool_call>{…}</tool_call>`` blocks; the end of the last one may be missing."""
    calls = []
    for block in _BLOCK.finditer(text):
        found = _calls(block[1])
        if found is None:
            return None
        calls += found
    return (_BLOCK.sub("", text).strip(), calls) if calls else None


def parse_json(text: str) -> tuple[str, list[Call]] | None:
    """Read a text that is one call as JSON, or several, separated by ``;`` or in a list."""
    calls = _calls(text)
    return ("", calls) if calls else None


def _calls(text: str) -> list[Call] | None:
    """Read JSON calls, one behind the other, and nothing else."""
    calls: list[Call] = []
    rest = text.strip()
    while rest:
        try:
            value, end = _DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            return None
        for item in value if isinstance(value, list) else [value]:
            call = _call(item)
            if call is None:
                return None
            calls.append(call)
        rest = rest[end:].lstrip("; \t\n")
    return calls


def _call(item: Any) -> Call | None:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    arguments = item.get("arguments", item.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None
    return (item["name"], arguments) if isinstance(arguments, dict) else None


def as_words(message: Message) -> Message:
    """Return an assistant's normal message with its calls as blocks in the words."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    blocks = [f"<tool_call>\n{json.dumps(c['function'], ensure_ascii=False)}\n</tool_call>" for c in calls]
    words = [message["content"]] if message["content"] else []
    return {"role": message["role"], "content": "\n".join([*words, *blocks])}


def with_tools_described(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """Return the messages with the tools described in the system message, for templates that know none."""
    listed = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    text = (
        f"You may call these functions:\n{listed}\n"
        'To call one, write <tool_call>{"name": NAME, "arguments": {…}}</tool_call>.'
    )
    first, rest = messages[0], list(messages[1:])
    if first["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    return [{**first, "content": f"{first['content']}\n\n{text}"}, *rest]
