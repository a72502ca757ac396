r"""The tool-call format of a model: how its template shows tools, and how its words become calls.

A chat template says which format its model was trained with; ``FORMATS`` has those that are read here. A
template that knows nothing of tools gets the first: the tools are then described in the system message. A
template that shows tools in another format is one that tools cannot be used with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from areal.agents.interface import Message, Tool
from areal.rollout import arguments as json_text
from areal.rollout.tool_xml import parse_xml
from areal.thoughts import CLOSE as _THOUGHT_END
from areal.thoughts import OPEN as _THOUGHT

ToolCall = tuple[str, dict[str, Any]]
"""Name and arguments."""
Split = tuple[str, list[ToolCall]]
"""The words beside the calls of a response, and the calls."""
Parse = Callable[[str, Sequence[Tool]], Split | None]
"""Splits a text, given the tools that it may call; None: there are no calls, or one is not valid."""

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class Format:
    """How calls are written.

    Attributes:
        name: of the format, and of models that write it.
        signs: a template of such a model has all strings of one of these tuples,
        without: and none of these.
        marked: whether calls stand between marks, with words beside them.
    """

    name: str
    signs: tuple[tuple[str, ...], ...]
    without: tuple[str, ...]
    parse: Parse
    marked: bool = True


def parse_blocks(text: str, tools: Sequence[Tool] = ()) -> Split | None:
    """Read ``<tool_call>{…}</tool_call>`` blocks; the end of the last one may be missing.

    A block ends where its JSON does: what stands in a string of it ends nothing.
    """
    words, calls, position = [], list[ToolCall](), 0
    while (begin := text.find(_OPEN, position)) >= 0:
        words.append(text[position:begin])
        found = _calls(text, begin + len(_OPEN))
        if found is None:
            return None
        made, position = found
        calls += made
        if position < len(text):
            if not text.startswith(_CLOSE, position):
                return None
            position += len(_CLOSE)
    words.append(text[position:])
    return ("".join(words).strip(), calls) if calls else None


def parse_json(text: str, tools: Sequence[Tool] = ()) -> Split | None:
    """Read a text that is one call as JSON, or several, separated by ``;`` or in a list."""
    found = _calls(text, 0)
    return ("", found[0]) if found is not None and found[0] and found[1] == len(text) else None


_XML = ("<function=", "<parameter=")
FORMATS = (
    Format("JSON in <tool_call> (Hermes, Qwen 2.5, Qwen 3)", ((_OPEN,),), (*_XML, "<arg_key>"), parse_blocks),
    Format("XML (Qwen3-Coder, Qwen 3.5)", (_XML,), (), parse_xml),
    Format(
        "JSON (Llama 3, Mistral)",
        (("<|python_tag|>",), ("[TOOL_CALLS]",), ('"parameters": ',)),
        (_OPEN, *_XML, "[ARGS]", "<|tool_call|>"),
        parse_json,
        marked=False,
    ),
)
"""The formats that are known."""


def format_of(template: str | None) -> Format | None:
    """Return the format of a model with this chat template; None: it shows tools in one that is not known."""
    if not shows_tools(template):
        return FORMATS[0]
    assert template is not None
    for known in FORMATS:
        has = any(all(sign in template for sign in signs) for signs in known.signs)
        if has and not any(sign in template for sign in known.without):
            return known
    return None


def shows_tools(template: str | None) -> bool:
    """Whether a chat template describes the tools itself."""
    return template is not None and re.search(r"\btools\b", template) is not None


def split_calls(text: str, known: Format, tools: Sequence[Tool]) -> Split | None:
    """Split a response into the words beside its tool calls, and the calls; what it only thought of is none.

    Returns:
        None if there are no calls, or one is not valid.
    """
    if not known.marked:
        return known.parse(text, tools)
    thought, end, rest = text.partition(_THOUGHT_END)
    if thought.lstrip().startswith(_THOUGHT):
        found = known.parse(rest, tools) if end else None
    else:
        found = known.parse(text, tools)
        if not end or (found is not None and _THOUGHT_END not in found[0]):
            return found
        # Its end is in no call: the template began the thought.
        found = known.parse(rest, tools)
    if found is None:
        return None
    space = rest[: len(rest) - len(rest.lstrip())]
    return f"{thought}{end}{space}{found[0]}".strip(), found[1]


def _calls(text: str, position: int) -> tuple[list[ToolCall], int] | None:
    """Read JSON calls, one behind the other; return them and where something else begins."""
    calls: list[ToolCall] = []
    position = _skip(text, position)
    while position < len(text) and text[position] in '{["':
        try:
            value, position = json_text.first(text, position)
        except ValueError:
            return None
        for item in value if isinstance(value, list) else [value]:
            call = _call(item)
            if call is None:
                return None
            calls.append(call)
        position = _skip(text, position)
    return calls, position


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in "; \t\r\n":
        position += 1
    return position


def _call(item: Any) -> ToolCall | None:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    arguments = item.get("arguments", item.get("parameters"))
    if arguments is None or arguments == "":
        return item["name"], {}
    if isinstance(arguments, str):
        try:
            arguments = json_text.loads(arguments)
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
