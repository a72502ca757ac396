"""Tool calls of Hermes, Qwen and Llama; test_tool_formats has what is so in every format."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat import Scripted, tokenizer
from hypothesis import given
from hypothesis import strategies as st

from areal.rollout.engine import Sampling
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer
from areal.rollout.tools.as_json import parse_blocks, parse_json
from areal.rollout.tools.as_xml import parse_xml
from areal.rollout.tools.formats import FORMATS, split_calls

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x, max_size=3))
CALLS = st.lists(st.tuples(st.text(min_size=1), st.dictionaries(st.text(), JSON)), min_size=1, max_size=3)
PARSERS = (parse_blocks, parse_json, parse_xml)


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "$defs": {"Count": {"type": "integer"}}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@given(CALLS, st.sampled_from(["", "First I look."]), st.sampled_from(["arguments", "parameters"]))
def test_calls_are_read_as_they_were_written(calls: list[tuple[str, dict]], words: str, key: str):
    written = [json.dumps({"name": name, key: arguments}) for name, arguments in calls]
    blocks = "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in written)
    assert parse_blocks(f"{words}\n{blocks}") == (words, calls)
    assert parse_blocks(f"{words}\n{blocks}".removesuffix("</tool_call>")) == (words, calls)
    for text in ("; ".join(written), "\n".join(written), f"[{', '.join(written)}]"):
        assert parse_json(text) == ("", calls)


@given(st.text() | st.text('<tool_cal>/{}"name:argu,[] 1;') | st.text("<function=paramet>/_cal \n1"))
def test_whatever_is_written_is_read_or_left_as_words(text: str):
    for parse in PARSERS:
        found = parse(text)
        assert found is None or found[1]


@pytest.mark.parametrize("said", ["a </tool_call> b", "<tool_call>", '{"name": "x"}</tool_call><tool_call>'])
def test_what_stands_in_a_string_ends_no_call(said: str):
    call = json.dumps({"name": "write", "arguments": {"text": said}})
    assert parse_blocks(f"<tool_call>{call}</tool_call>") == ("", [("write", {"text": said})])
    two = f"Now.\n<tool_call>\n{call}\n</tool_call>\n<tool_call>{call}</tool_call>\nDone."
    assert parse_blocks(two) == ("Now.\n\n\nDone.", [("write", {"text": said})] * 2)


def test_a_line_end_in_a_string_is_one():
    call = '{"name": "write", "arguments": {"text": "one\ntwo\tthree"}}'
    expected = ("", [("write", {"text": "one\ntwo\tthree"})])
    assert parse_blocks(f"<tool_call>\n{call}\n</tool_call>") == expected
    assert parse_json(call) == expected
    encoded = json.dumps({"name": "write", "arguments": '{"text": "one\ntwo\tthree"}'})
    assert parse_json(encoded) == expected


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        '{"name": 1}',
        '{"name": "f", "arguments": []}',
        '{"name": "f", "arguments": "x"}',
        "f()",
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "f", "arguments": {"x": [1e999]}}',
        '{"name": "f", "arguments": {"x": "\\ud800"}}',
        '{"name": "f", "arguments": {"x": ' + "[" * 500 + "]" * 500 + "}}",
        '{"name": "f", "arguments": "' + "[" * 100_000 + '"}',
        '{"name": "f", "arguments": {}} and more',
        "</tool_call>",
    ],
)
def test_one_broken_call_leaves_the_whole_response_as_words(bad: str):
    good = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert parse_blocks(good) == ("", [("f", {})])
    if bad != "</tool_call>":
        assert parse_blocks(f"{good}<tool_call>{bad}</tool_call>") is None
    assert parse_json(bad) is None
    assert parse_json('"a"') is None
    assert parse_json("[" * 100_000) is None


XML = "<tool_call>\n<function=w>\n<parameter=x>\n{}\n</parameter>\n</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("schema", "written", "value"),
    [
        ({"type": "integer"}, "1", 1),
        ({"type": "integer"}, "-12", -12),
        ({"type": "integer"}, "one", "one"),
        ({"type": "integer"}, "1.5", "1.5"),
        ({"type": "string"}, "1", "1"),
        ({"type": "string"}, "null", "null"),
        ({"type": "string"}, '{"a": 1}', '{"a": 1}'),
        ({"type": "string"}, " two  spaces \n", " two  spaces \n"),
        ({"type": "number"}, "1.5", 1.5),
        ({"type": "number"}, "nan", "nan"),
        ({"type": "number"}, "1e999", "1e999"),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "yes", "yes"),
        ({"type": "array"}, '[1, "a"]', [1, "a"]),
        ({"type": "array"}, "['a', True]", ["a", True]),
        ({"type": "array"}, '{"a": 1}', '{"a": 1}'),
        ({"type": "object"}, '{"a": {"b": null}}', {"a": {"b": None}}),
        ({"type": "object"}, "{1, 2}", "{1, 2}"),
        ({"type": ["integer", "null"]}, "null", None),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "7", 7),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "seven", "seven"),
        ({"enum": [1, 2]}, "2", 2),
        ({"enum": ["1", "2"]}, "2", "2"),
        ({"$ref": "#/$defs/Count"}, "3", 3),
        ({}, "1", "1"),
        ({"type": "string"}, "a </tool_call> b </function> <function=z>", None),
        ({"type": "string"}, "x = '</parameter>'", None),
    ],
)
def test_a_parameter_in_xml_has_the_type_that_its_schema_says(schema: Any, written: str, value: Any):
    value = written if value is None and schema.get("type") == "string" else value
    assert parse_xml(XML.format(written), [tool("w", x=schema)]) == ("", [("w", {"x": value})])


def test_calls_in_xml():
    tools = [tool("w", x={"type": "integer"}, y={"type": "string"}), tool("z")]
    one = XML.format("1")
    two = "<tool_call>\n<function=z>\n</function>\n</tool_call>"
    call, other = ("w", {"x": 1}), ("z", {})
    assert parse_xml(one) == ("", [("w", {"x": "1"})]), "without a schema it is text"
    assert parse_xml(f"I look.\n{one}\n{two}\nThen.", tools) == ("I look.\n\n\nThen.", [call, other])
    assert parse_xml(one.removesuffix("\n</tool_call>"), tools) == ("", [call])
    assert parse_xml(one.removesuffix("\n</function>\n</tool_call>"), tools) == ("", [call])
    assert parse_xml(one.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"), tools) == ("", [call])
    parameters = "<parameter=x>1</parameter><parameter=y>a\nb</parameter>"
    inline = f"<tool_call><function=w>{parameters}</function></tool_call>"
    assert parse_xml(inline, tools) == ("", [("w", {"x": 1, "y": "a\nb"})])
    unclosed = "<tool_call>\n<function=w>\n<parameter=x>\n1\n<parameter=y>\na\n</function>\n</tool_call>"
    assert parse_xml(unclosed, tools) == ("", [("w", {"x": 1, "y": "a"})])


@pytest.mark.parametrize(
    "words",
    [
        "Write <tool_call> to call, and <function=name> within.",
        "<tool_call>\n<function=w>\n<parameter=x>\n1",
        "<tool_call>\n<function=>\n</function>\n</tool_call>",
        '<tool_call>\n{"name": "w", "arguments": {"x": 1}}\n</tool_call>',
        XML.format("1") + "\n<tool_call>\nw(1)\n</tool_call>",
        "There is a <parameter=x> and a </function>.",
    ],
)
def test_what_is_no_call_in_xml_is_words(words: str):
    assert parse_xml(words, [tool("w", x={"type": "integer"})]) is None


@pytest.mark.parametrize(
    ("parser", "call"), [(0, '<tool_call>{"name": "z"}</tool_call>'), (1, XML.format("1"))]
)
def test_a_call_that_is_only_thought_of_is_none(parser: int, call: str):
    known = FORMATS[parser]
    (made,) = known.parse(call, ())[1]  # type: ignore[index]
    assert split_calls(f"<think>\nShould I {call}?\n</think>\n\nNo.", known, ()) is None
    thought = "<think>\nI could write <tool_call>.\n</think>"
    assert split_calls(f"{thought}\n\n{call}", known, ()) == (thought, [made])
    assert split_calls(f"{thought}\n\nSo:\n{call}", known, ()) == (f"{thought}\n\nSo:", [made])
    begun = thought.removeprefix("<think>\n")
    assert split_calls(f"{begun}\n\n{call}", known, ()) == (begun, [made])
    assert split_calls(f"<think>\n{call}", known, ()) is None, "it never came to an end"
    begun = f"I may\n{call}\n</think>"
    assert split_calls(f"{begun}\n\n{call}", known, ()) == (begun, [made])
    assert split_calls(f"{begun}\n\nNo.", known, ()) is None


@pytest.mark.parametrize("given", ["null", '""', "{}", '"{}"', '" {} "'])
def test_no_arguments_are_written_in_several_ways(given: str):
    for key in ("arguments", "parameters"):
        assert parse_blocks(f'<tool_call>{{"name": "z", "{key}": {given}}}</tool_call>') == ("", [("z", {})])


@pytest.mark.parametrize("given", ["0", "[]", "false", '"null"', '" "', '"[]"'])
def test_what_is_no_arguments_is_no_call(given: str):
    assert parse_blocks(f'<tool_call>{{"name": "z", "arguments": {given}}}</tool_call>') is None


def test_a_call_in_xml_without_its_first_tag():
    call = XML.format("1").removeprefix("<tool_call>").strip()
    assert call.endswith("</tool_call>")
    (made,) = parse_xml(XML.format("1"))[1]  # type: ignore[index]
    assert parse_xml(f"Now.\n{call}") == ("Now.", [made])
    assert parse_xml(f"{call}\n{call}\nSo.") == ("So.", [made] * 2)


def test_a_string_with_the_end_of_a_thought_is_a_string():
    call = '<tool_call>{"name": "z", "arguments": {"text": "</think>"}}</tool_call>'
    assert split_calls(f"{call}{call}", FORMATS[0], ()) == ("", [("z", {"text": "</think>"})] * 2)


XML_TEMPLATE = """
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<tool_call>
<function=NAME>
<parameter=NAME>
VALUE
</parameter>
</function>
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
<function={{ call.function.name }}>
{% for name, value in call.function.arguments | items %}<parameter={{ name }}>
{{ value if value is string else value | tojson }}
</parameter>
{% endfor %}</function>
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.mark.parametrize(
    "said",
    [XML.format("7"), "I look.\n" + XML.format("7"), "\n".join([XML.format("7")] * 2), XML.format(" seven ")],
)
async def test_a_conversation_with_calls_in_xml_is_one_trajectory(said: str):
    made = tokenizer("chatml")
    made.chat_template = XML_TEMPLATE
    tools = [tool("w", x={"type": "integer"})]
    engine = Scripted([[*made.encode(text), made.eos_token_id] for text in (said, "So it is.", "Yes.")])
    model = Recorder(engine, Renderer(made, (made.eos_token_id,)), Sampling(500), 9000)
    history: list[Any] = [{"role": "user", "content": "How many?"}]
    called = await model.chat(history, tools=tools)
    calls = called.message["tool_calls"]
    value = 7 if "7" in said else " seven "
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"x": value}] * len(calls)
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "fine"} for call in calls]
    history += [called.message, *results]
    history += [(await model.chat(history, tools=tools)).message, {"role": "user", "content": "Sure?"}]
    await model.chat(history, tools=tools)
    assert [len(t.turns) for t in model.trajectories()] == [3]
