r"""The tool-call formats of models: how calls are written, and how a response is split into text and calls.

The chat template shows which format a model was trained with (``template``). Each reader returns None if one
call is invalid; the whole response is then text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from areal.agents.interface import Message, Tool
from areal.rollout.tools.as_json import (
    parse_blocks,
    parse_deepseek,
    parse_json,
    parse_kimi,
    parse_lists,
    parse_mistral,
    spell_blocks,
    spell_json,
    spell_list,
)
from areal.rollout.tools.as_python import (
    parse_python,
    parse_python_lines,
    spell_list_of_python,
    spell_python_lines,
)
from areal.rollout.tools.as_tags import parse_tags
from areal.rollout.tools.as_xml import parse_xml
from areal.rollout.tools.harmony import parse_harmony
from areal.rollout.tools.reading import Parse, Split, ToolCall
from areal.thoughts import CLOSE as _THOUGHT_END
from areal.thoughts import begins_thought

Spell = Callable[[Sequence[ToolCall]], str]
"""Writes calls."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format of tool calls.

    Attributes:
        name: name of the format, and of models that use it.
        parse: splits a response, without a thought at its beginning.
        example: an example of a call, for a system message.
        spell: writes calls, for templates that omit them.
        signs: a template that omits calls has this format if it contains all strings of one of these tuples,
            and none of ``without``.
        without: strings that no template of this format contains.
        whole: whether ``parse`` splits whole responses, including thoughts, and also those without calls.
        thought_key: the template's key for the thought of a message; None: it is part of the content.
        id_form: creates the id of the ``number``-th call of a conversation, if templates require a form.
        written_ids: finds the ids that a response contains itself.
    """

    name: str
    parse: Parse
    example: str
    spell: Spell | None = None
    signs: tuple[tuple[str, ...], ...] = ()
    without: tuple[str, ...] = ()
    whole: bool = False
    thought_key: str | None = None
    id_form: str | None = None
    written_ids: str | None = None

    def call_ids(self, said: str, names: Sequence[str], number: int) -> list[str] | None:
        """Return the ids of a response's calls for the template; None: any ids are valid.

        Args:
            said: the response as sampled, or empty.
            number: number of earlier calls in the conversation.
        """
        if self.id_form is None:
            return None
        written = re.findall(self.written_ids, said) if self.written_ids else []
        if len(written) == len(names):
            return written
        return [self.id_form.format(name=name, number=number + i) for i, name in enumerate(names)]


_HERMES = '<tool_call>{"name": NAME, "arguments": {…}}</tool_call>'
_XML = ("<function=", "<parameter=")
FORMATS = (
    Format(
        "JSON in <tool_call> (Hermes, Qwen 2.5, Qwen 3)",
        parse_blocks,
        _HERMES,
        spell_blocks,
        signs=(("<tool_call>",),),
        without=(*_XML, "<arg_key>"),
    ),
    Format(
        "XML (Qwen3-Coder, Qwen 3.5)",
        parse_xml,
        "<tool_call><function=NAME><parameter=NAME>…</parameter></function></tool_call>",
        signs=(_XML,),
    ),
    Format(
        "tags (GLM 4.5)",
        parse_tags,
        "<tool_call>NAME<arg_key>NAME</arg_key><arg_value>…</arg_value></tool_call>",
        signs=(("<arg_key>", "<tool_call>"),),
    ),
    Format(
        "[TOOL_CALLS] (Mistral)",
        parse_mistral,
        "[TOOL_CALLS]NAME[ARGS]{…}",
        signs=(("[TOOL_CALLS]",),),
        id_form="call{number:05d}",
        written_ids=r"""(?:\[CALL_ID\]|\}, *"id": *")([A-Za-z0-9]{9})(?:\[ARGS\]|"\})""",
    ),
    Format(
        "DeepSeek (V3, R1, V3.1)",
        parse_deepseek,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{…}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        signs=(("<｜tool▁call▁begin｜>",),),
    ),
    Format(
        "Kimi K2",
        parse_kimi,
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}"
        "<|tool_call_end|><|tool_calls_section_end|>",
        signs=(("<|tool_calls_section_begin|>",),),
        id_form="functions.{name}:{number}",
        written_ids=r"<\|tool_call_begin\|>\s*([^<\s]+:\d+)\s*<\|tool_call_argument_begin\|>",
    ),
    Format(
        "harmony (GPT-OSS)",
        parse_harmony,
        "<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>",
        signs=(("<|channel|>", "<|message|>"),),
        whole=True,
        thought_key="thinking",
    ),
    Format(
        "a list after <|tool_call|> (Granite 3, Phi-4-mini)",
        parse_lists,
        '<|tool_call|>[{"name": NAME, "arguments": {…}}]',
        spell_list,
        (("<|tool_call|>",), ("<|tool|>", "<|/tool|>")),
    ),
    Format(
        "Python in <function_calls> (OLMo 3)",
        parse_python_lines,
        "<function_calls>NAME(NAME=…)</function_calls>",
        spell_python_lines,
        (("<function_calls>",),),
    ),
    Format(
        "Python (Llama 4, Llama 3.2)",
        parse_python,
        "[NAME(NAME=…)]",
        spell_list_of_python,
        (("[func_name1(",),),
    ),
    Format(
        "JSON (Llama 3)",
        parse_json,
        '{"name": NAME, "parameters": {…}}',
        spell_json,
        signs=(("<|python_tag|>",), ('{"name": function name, "parameters":',)),
        without=("<tool_call>", *_XML),
    ),
)
"""The known formats, those with marks first."""


def format_by_signs(template: str) -> Format | None:
    """Return the format whose signs a chat template contains; None: there is no known one."""
    for known in FORMATS:
        has = any(all(sign in template for sign in signs) for signs in known.signs)
        if has and not any(sign in template for sign in known.without):
            return known
    return None


def speaks_of_channels(template: str) -> bool:
    """Return whether a chat template may use messages in channels: it contains all of their marks."""
    return any(all(sign in template for sign in signs) for f in FORMATS if f.whole for signs in f.signs)


def split_calls(text: str, known: Format, tools: Sequence[Tool], prompt: str = "") -> Split | None:
    """Split a response into the text beside its tool calls, and the calls; calls in a thought do not count.

    Args:
        prompt: the prompt of the response; a template may start the thought in it. If it is not known, the
            end of a thought indicates its start.

    Returns:
        None if there are no calls, or one is invalid.
    """
    if known.whole:
        return known.parse(text, tools)
    thought, end, rest = text.partition(_THOUGHT_END)
    if begins_thought(thought, prompt):
        found = known.parse(rest, tools) if end else None
    else:
        found = known.parse(text, tools)
        if not end or (found is not None and _THOUGHT_END not in found[0]):
            return found
        # The end mark is outside of calls, so the template started the thought, in an unknown prompt.
        found = known.parse(rest, tools)
    if found is None:
        return None
    space = rest[: len(rest) - len(rest.lstrip())]
    return f"{thought}{end}{space}{found[0]}".strip(), found[1]


def with_tools_described(messages: Sequence[Message], tools: Sequence[Tool], example: str) -> list[Message]:
    """Return the messages with a description of the tools in the system message, for templates without one.

    Args:
        example: an example of a call.
    """
    listed = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    text = f"You may call these functions:\n{listed}\nTo call one, write {example}."
    first, rest = messages[0], list(messages[1:])
    if first["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    return [{**first, "content": f"{first['content']}\n\n{text}"}, *rest]
