"""Calls are read as vLLM's readers read them, which serve the same models: where those read calls at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from chat import tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_writers import WRITERS, of

from areal.rollout.tools.formats import split_calls
from areal.rollout.tools.reading import ToolCall

parsers = pytest.importorskip("vllm.tool_parsers")
protocol = pytest.importorskip("vllm.entrypoints.openai.chat_completion.protocol")

SPECIAL = [
    *(
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "<tool_call>",
        "</tool_call>",
        "<|tool_call|>",
    ),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
    *("<｜tool▁sep｜>", "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
    *("<|tool_call_end|>", "<|tool_call_argument_begin|>", "<think>", "</think>", "<arg_key>", "</arg_key>"),
    *("<arg_value>", "</arg_value>"),
]
"""What readers look for in a vocabulary."""
# Where a schema gives types, some of the readers change values of JSON to be of them.
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("f", "g")
]
STRINGS = st.text(
    st.characters(codec="utf-8", exclude_characters="<>|`｜\r\n\x85\u2028\u2029", exclude_categories=("Cc",))
)
NAMES = st.text("abcxyz", min_size=1, max_size=4)


def calls_of(least: int) -> st.SearchStrategy[list[tuple[str, Any]]]:
    """Calls with arguments whose numbers are not below ``least``."""
    values = st.recursive(
        st.booleans() | st.integers(least, 2**53) | STRINGS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=6,
    )
    arguments = st.dictionaries(NAMES, values, max_size=3)
    return st.lists(st.tuples(st.sampled_from("fg"), arguments), min_size=1, max_size=3)


READ = {name: writer for name, writer in WRITERS.items() if writer.parser is not None}


@pytest.fixture(scope="module")
def made() -> Any:
    logging.getLogger("vllm").setLevel(logging.CRITICAL)
    found = tokenizer("chatml")
    found.add_special_tokens({"extra_special_tokens": SPECIAL})
    return found


def theirs(made: Any, parser: str, text: str, tools: Sequence[Any] = TOOLS) -> list[ToolCall]:
    messages = [{"role": "user", "content": "?"}]
    request = protocol.ChatCompletionRequest(model="m", messages=messages, tools=tools, tool_choice="auto")
    reader = parsers.ToolParserManager.get_tool_parser(parser)(made, request.tools)
    found = reader.extract_tool_calls(text, request).tool_calls
    return [(call.function.name, json.loads(call.function.arguments)) for call in found]


def ours(text: str, name: str, tools: Sequence[Any] = TOOLS) -> list[ToolCall]:
    found = split_calls(text, WRITERS[name].known if name in WRITERS else of(name), tools)
    return [] if found is None else found[1]


@pytest.mark.parametrize("name", READ)
@settings(max_examples=40, deadline=None)
@given(calls=calls_of(-(2**53)), words=st.sampled_from(["", "I look.\n"]))
def test_sound_calls(made: Any, name: str, calls: list[tuple[str, Any]], words: str):
    writer = READ[name]
    if name == "phi":  # its reader ends at the first bracket
        calls = [
            (call, {key: str(value).replace("]", "") for key, value in given.items()})
            for call, given in calls
        ]
    # Granite's takes words since vLLM 0.32.
    text = words * (writer.beside and name != "granite") + writer.dumped(calls)
    assert writer.parser is not None
    assert ours(text, name) == theirs(made, writer.parser, text) == calls


@settings(max_examples=40, deadline=None)
@given(calls=calls_of(0))  # vLLM reads others since 0.32
@pytest.mark.parametrize(("name", "parser"), [("Python (Llama", "pythonic"), ("Python in", "olmo3")])
def test_sound_calls_in_python(made: Any, name: str, parser: str, calls: list[tuple[str, Any]]):
    known = of(name)
    assert known.spell is not None
    text = known.spell(calls)
    assert ours(text, name) == theirs(made, parser, text) == calls


TYPED = {
    "s": ({"type": "string"}, ["1", "true", '{"a": 1}', "a b", "é\nb"]),
    "i": ({"type": "integer"}, ["1", "-7"]),
    "n": ({"type": "number"}, ["1.5", "2"]),
    "b": ({"type": "boolean"}, ["true", "false"]),
    "l": ({"type": "array"}, ['[1, "a"]', "[]"]),
    "o": ({"type": "object"}, ['{"a": {"b": 1}}', "{}"]),
}
"""Types, and values as models write them."""
WRITTEN = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(text) for name, (_, text) in TYPED.items()}
)


@settings(max_examples=60, deadline=None)
@given(st.lists(WRITTEN, min_size=1, max_size=3))
def test_the_schema_gives_the_types(made: Any, calls: list[dict[str, str]]):
    properties = {name: schema for name, (schema, _) in TYPED.items()}
    parameters = {"type": "object", "properties": properties}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    tags, xml = "", ""
    for arguments in calls:
        pairs = [f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in arguments.items()]
        tags += f"<tool_call>f\n{''.join(pairs)}</tool_call>\n"
        pairs = [f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items()]
        xml += f"<tool_call>\n<function=f>\n{''.join(pairs)}</function>\n</tool_call>\n"
    assert ours(tags, "tags", tools) == theirs(made, "glm45", tags, tools)
    assert ours(xml, "XML", tools) == theirs(made, "qwen3_coder", xml, tools)
    assert len(ours(xml, "XML", tools)) == len(calls)
