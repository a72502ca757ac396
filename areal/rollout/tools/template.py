"""Determines how a chat template handles tools by rendering examples, independently of the model's name.

The template receives a tool, and an answer that calls it. The format is the one whose reader returns the
original call. A template that omits calls is recognized by the marks in its instructions. For a template
without tools, a system message describes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from areal.agents.interface import BadRequest, Message, Tool
from areal.rollout.messages import SAID, as_sampled
from areal.rollout.tools.formats import (
    FORMATS,
    Format,
    Spell,
    format_by_signs,
    split_calls,
    with_tools_described,
)
from areal.thoughts import CLOSE, OPEN

Render = Callable[[Sequence[Message], Sequence[Tool], bool], str]
"""Renders messages and tools with the template, with or without the start of an answer.

Raises a BadRequest if the template refuses them.
"""

_TOOL: Tool = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "Probes.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "counts": {"type": "array"}},
            "required": ["place"],
        },
    },
}
_NAME, _ARGUMENTS = "probe_tool", {"place": 'here, "there"', "counts": [1, 2]}
_QUESTION = "\ue000question\ue000"
_USER: Message = {"role": "user", "content": _QUESTION}
_ANSWER: Message = {"role": "assistant", "content": "\ue000answer\ue000"}
_CALL = {"id": "call_0_0", "type": "function", "function": {"name": _NAME, "arguments": _ARGUMENTS}}
_CALLING: Message = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_RESULT: Message = {"role": "tool", "tool_call_id": "call_0_0", "name": _NAME, "content": "done"}


@dataclass(frozen=True, slots=True)
class ToolTemplate:
    """How a template handles tools and calls.

    Attributes:
        format: the format of calls; None: unknown.
        shows: whether the template shows the given tools.
        writes: whether it writes the calls of an assistant's message.
        in_system: whether it needs the tools as text in the system message.
        no_words: the content of an answer that only has calls.
        arguments_as_text: whether it needs arguments as JSON text.
    """

    format: Format | None
    shows: bool = False
    writes: bool = False
    in_system: bool = False
    no_words: str | None = ""
    arguments_as_text: bool = False

    def shown(
        self, messages: Sequence[Message], tools: Sequence[Tool], spelled: bool
    ) -> tuple[list[Message], Sequence[Tool]]:
        """Return messages and tools in the form of the template.

        Args:
            spelled: whether responses are text as sampled, including calls; if not, calls are passed as
                calls.
        """
        number, ids = 0, dict[str, str]()
        found = list[Message]()
        for message in messages:
            calls, said = message.get("tool_calls") or (), message.get(SAID, "")
            if calls and self.format is not None:
                names = [call["function"]["name"] for call in calls]
                theirs = self.format.call_ids(said, names, number) or []
                ids |= {call["id"]: own for call, own in zip(calls, theirs, strict=False) if "id" in call}
                number += len(calls)
            if spelled and SAID in message:
                found.append(as_sampled(message))
            elif calls and not self.writes and self.format is not None and self.format.spell is not None:
                found.append(_spelled(message, self.format.spell))
            else:
                found.append(self._message(message, ids))
        if tools and self.in_system:
            return _with_tools(found, tools), ()
        if tools and not self.shows and self.format is not None:
            return with_tools_described(found, tools, self.format.example), ()
        return found, tools

    def _message(self, message: Message, ids: Mapping[str, str]) -> Message:
        shown = {name: value for name, value in message.items() if name != SAID}
        if "tool_call_id" in shown:
            shown["tool_call_id"] = ids.get(shown["tool_call_id"], shown["tool_call_id"])
        key = self.format.thought_key if self.format is not None else None
        if shown["role"] == "assistant" and key is not None and shown["content"].startswith(OPEN):
            thought, _, words = shown["content"].removeprefix(OPEN).partition(CLOSE)
            # The template accepts a thought or text before a call, but not both.
            shown |= {key: thought, "content": "" if "tool_calls" in shown else words}
        if calls := shown.get("tool_calls"):
            shown["tool_calls"] = [self._call(call, ids) for call in calls]
            shown["content"] = shown["content"] or self.no_words
        return shown

    def _call(self, call: dict[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
        function = call["function"]
        if self.arguments_as_text:
            function = {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}
        found = {**call, "function": function}
        return {**found, "id": ids.get(call["id"], call["id"])} if "id" in call else found


def tool_template(template: str | None, render: Render) -> ToolTemplate:
    """Determine how a template handles tools."""
    if template is None:
        return ToolTemplate(FORMATS[0])
    shows, in_system = _shows(render, False), False
    if not shows:
        shows = in_system = _shows(render, True)
    written = _written(render, shows and not in_system)
    if written is None and not shows and re.search(r"\btools\b", template) is None:
        return ToolTemplate(FORMATS[0])
    found = written or ToolTemplate(format_by_signs(template))
    return replace(found, shows=shows, in_system=in_system)


def _shows(render: Render, in_system: bool) -> bool:
    asked: list[Message] = [{"role": "system", "content": "Help."}, _USER]
    for messages in (asked, asked[1:]):
        given = _with_tools(messages, [_TOOL]) if in_system else messages
        if _NAME in _rendered(render, given, () if in_system else [_TOOL], True):
            return True
    return False


def _written(render: Render, shows: bool) -> ToolTemplate | None:
    """Return the properties of a template that writes calls; None: it omits or refuses them."""
    tools = [_TOOL] if shows else []
    before = _rendered(render, [_USER], tools, True)
    ending = _rendered(render, [_USER, _ANSWER], tools, False).rpartition(_ANSWER["content"])[2]
    unread: ToolTemplate | None = None
    for no_words, as_text, answered in product(("", None), (False, True), (False, True)):
        plain = ToolTemplate(None, writes=True, no_words=no_words, arguments_as_text=as_text)
        texts = dict[str, str]()
        for known in FORMATS:
            made = replace(plain, format=known)
            messages, _ = made.shown([_USER, _CALLING, _RESULT][: 3 if answered else 2], (), spelled=False)
            asked = repr(messages)  # some formats only differ in the ids of calls
            if asked not in texts:
                texts[asked] = _rendered(render, messages, tools, False)
            if _NAME not in texts[asked].rpartition(_QUESTION)[2]:
                continue
            unread = unread or plain
            if _reads(known, texts[asked], before, ending):
                return made
    return unread


def _rendered(render: Render, messages: Sequence[Message], tools: Sequence[Tool], begun: bool) -> str:
    """Return the template's text for messages; empty if it refuses them."""
    try:
        return render(messages, tools, begun)
    except BadRequest:
        return ""


def _reads(known: Format, text: str, before: str, ending: str) -> bool:
    """Return whether a format reads the call of an answer, and nothing remains."""
    begun = before and text.startswith(before)  # else the template starts another thought than it writes
    answer = text[len(before) :].removesuffix(ending) if begun else text.rpartition(_QUESTION)[2]
    found = split_calls(answer, known, [_TOOL])
    if found is None or found[1] != [(_NAME, _ARGUMENTS)]:
        return False
    return not begun or not found[0].rpartition(CLOSE)[2].strip()


def _spelled(message: Message, spell: Spell) -> Message:
    """Return an assistant's message with its calls in its text."""
    calls = spell(
        [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]
    )
    words = [message["content"]] if message["content"] else []
    return {"role": message["role"], "content": "\n".join([*words, calls])}


def _with_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """Return messages with the tools in the system message, as text beside its content."""
    shown = {"tools": json.dumps([tool.get("function", tool) for tool in tools], ensure_ascii=False)}
    if messages[0]["role"] == "system":
        return [{**messages[0], **shown}, *messages[1:]]
    return [{"role": "system", "content": "", **shown}, *messages]
