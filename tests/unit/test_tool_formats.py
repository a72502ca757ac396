"""Calls that are not quite right, in every format: what is sound in them is read, and all else is words."""

from __future__ import annotations

import json
import keyword
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tool_writers import WRITERS, Writer, deepseek_v3, kimi, of

from areal.rollout.tools.formats import FORMATS, split_calls

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True)
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(st.text(), JSON, max_size=3)), min_size=1, max_size=3)
MARKS = (
    '<tool_call></>[TOOL_CALLS][ARGS]{}":, functools[<|tool_call|><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'
    "<｜tool▁sep｜><｜tool▁call▁end｜><|channel|>final<|message|><|end|>`\n<function_calls>f(x=1)"
)
EACH = pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
ENDS = "</tool_call> <|tool_call_end|> <｜tool▁call▁end｜> ] } ``` [TOOL_CALLS] <|/tool_call|> </arg_value>"
"""Marks of all formats but one, in which no text can hold its own."""


@EACH
@given(calls=CALLS)
def test_calls_are_read_as_they_were_written(writer: Writer, calls: list[tuple[str, Any]]):
    assert split_calls(writer.dumped(calls), writer.known, ()) == ("", calls)


@given(st.text() | st.text(MARKS) | st.lists(st.sampled_from(MARKS.split("<"))).map("<".join))
def test_whatever_is_written_is_read_or_left_as_words(text: str):
    for known in FORMATS:
        found = split_calls(text, known, ())
        assert found is None or found[1] or known.whole


def spelled(writer: Writer, *given: str) -> Any:
    return split_calls(writer.write([("f", text) for text in given]), writer.known, ())


@EACH
def test_a_line_end_in_a_string_is_as_good_as_an_escaped_one(writer: Writer):
    assert spelled(writer, '{"x": "one\ntwo"}') == ("", [("f", {"x": "one\ntwo"})])
    assert spelled(writer, '{\n  "x": "one\\ntwo"\n}') == ("", [("f", {"x": "one\ntwo"})])


@EACH
def test_what_stands_in_a_string_ends_no_call(writer: Writer):
    text = ENDS if writer.known.whole or not writer.beside else ENDS.replace("[TOOL_CALLS]", "")
    two = [("f", {"x": text}), ("g", {"x": [{"y": text}]})]
    assert split_calls(writer.dumped(two), writer.known, ()) == ("", two)


@EACH
@pytest.mark.parametrize("bad", ['{"x": ', '{"x": }', "[1]", "1", '{"x": NaN}', '{"x": "\\ud800"}', "null x"])
def test_one_broken_call_leaves_all_of_the_response_as_words(writer: Writer, bad: str):
    found = spelled(writer, "{}", bad)
    assert found is None or (writer.known.whole and not found[1])


@EACH
def test_words_stand_before_and_behind(writer: Writer):
    call = writer.write([("f", "{}")])
    if writer.beside:
        assert split_calls(f"I look.\n{call}", writer.known, ()) == ("I look.", [("f", {})])
        assert split_calls(f"I look.\n{call}\nSo.", writer.known, ()) in [
            ("I look.\n\nSo.", [("f", {})]),
            ("I look.\nSo.", [("f", {})]),
        ]


@EACH
def test_a_call_that_is_only_thought_of_is_none(writer: Writer):
    if writer.known.whole:
        return
    call = writer.write([("f", "{}")])
    assert split_calls(f"<think>\nI could {call}\n</think>\n\nNo.", writer.known, ()) is None
    assert split_calls(f"<think>\n{call}", writer.known, ()) is None
    found = split_calls(f"<think>\nI could {call}\n</think>\n\n{call}", writer.known, ())
    assert found == (f"<think>\nI could {call}\n</think>", [("f", {})])


@EACH
def test_a_call_is_none_in_a_thought_that_the_template_began(writer: Writer):
    if writer.known.whole:
        return
    call, begun = writer.write([("f", "{}")]), "assistant\n<think>\n"
    assert split_calls(f"I could\n{call}", writer.known, (), begun) is None, "it never came to an end"
    assert split_calls(call, writer.known, (), begun) is None
    assert split_calls(f"I could\n{call}\n</think>\n\nNo.", writer.known, (), begun) is None
    found = split_calls(f"I could\n{call}\n</think>\n\n{call}", writer.known, (), begun)
    assert found == (f"I could\n{call}\n</think>", [("f", {})])
    over = "<think>\n\n</think>\n\n"
    assert split_calls(call, writer.known, (), over) == ("", [("f", {})]), "the template ended it, too"


@EACH
def test_a_call_that_was_cut_off_is_none(writer: Writer):
    whole = writer.write([("f", '{"x": "yes, or no"}')])
    cut = whole[: whole.index(", or no")]
    found = split_calls(cut, writer.known, ())
    assert found is None or (writer.known.whole and not found[1])


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("hermes", "\n</tool_call>"),
        ("deepseek-v3", "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        ("deepseek-v3", "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        ("deepseek-v3.1", "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        ("kimi", "<|tool_call_end|><|tool_calls_section_end|>"),
        ("phi-tags", "<|/tool_call|>"),
        ("harmony", "<|call|>"),
    ],
)
def test_the_last_mark_may_be_missing(name: str, end: str):
    writer = WRITERS[name]
    text = writer.write([("f", "{}")])
    assert text.endswith(end)
    assert split_calls(text.removesuffix(end), writer.known, ()) == ("", [("f", {})])


@pytest.mark.parametrize(
    "said",
    [
        'Such a call is {"name": "f", "parameters": {}} in JSON.',
        '{"name": "f", "parameters": {}} and more',
        '{"name": "Ann", "age": 7}',
        "<|python_tag|>import math",
        '```json\n{"name": "f", "parameters": {}}\n```',
    ],
)
def test_json_amid_words_is_no_call_of_llama_s(said: str):
    assert split_calls(said, of("JSON (Llama"), ()) is None


def test_llama_may_say_something_before_it_calls():
    said = 'I look.\n\n{"name": "f", "parameters": {"x": 1}}\n{"name": "g", "parameters": {}}'
    assert split_calls(said, of("JSON (Llama"), ()) == ("I look.", [("f", {"x": 1}), ("g", {})])


@pytest.mark.parametrize(
    "said",
    [
        'I look.<|python_tag|>{"name": "f", "parameters": {"x": "<|python_tag|>"}}',
        '<|python_start|>I look.<|python_end|>{"name": "f", "parameters": {"x": "<|python_tag|>"}}',
        'I look. <|python_start|>{"name": "f", "parameters": {"x": "<|python_tag|>"}}<|python_end|>',
    ],
)
def test_llama_s_calls_may_have_marks_around_them(said: str):
    expected = [("f", {"x": "<|python_tag|>"})]
    assert split_calls(said, of("JSON (Llama"), ()) == ("I look.", expected)
    for written in ("<|python_start|>[f(x='<|python_tag|>')]<|python_end|>", "[f(x='<|python_tag|>')]"):
        assert split_calls(written, of("Python (Llama"), ()) == ("", expected)


def test_mistral_s_calls_may_have_ids_and_no_mark_of_arguments():
    for text in ('[TOOL_CALLS]f[CALL_ID]a1b2c3d4e[ARGS]{"x": 1}', '[TOOL_CALLS]f{"x": 1}'):
        assert split_calls(text, of("[TOOL_CALLS]"), ()) == ("", [("f", {"x": 1})])
    assert split_calls("[TOOL_CALLS]is what I would write", of("[TOOL_CALLS]"), ()) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a list", '<|tool_call|>{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]'),
        ("a list", '<|tool_call|>[{"name": "f", "arguments": {}}]}'),
        ("[TOOL_CALLS]", '[TOOL_CALLS]f[ARGS]{"x": 1}}'),
        ("[TOOL_CALLS]", '[TOOL_CALLS]f{"x": 1}, g{"x": 2}'),
        ("[TOOL_CALLS]", '[TOOL_CALLS]f<|x|>[ARGS]{"x": 1}'),
        ("Kimi", kimi([("", "{}")])),
        ("Kimi", kimi([("f", "{}")]).replace(":0", "")),
        ("DeepSeek", deepseek_v3([("f", "{}")]).replace("<｜tool▁sep｜>", "｜tool▁sep｜>")),
        ("JSON in", '<tool_call>{"name": "f", "argumets": {"x": 1}}</tool_call>'),
        ("JSON in", '<tool_call>{"name": "f", "arguments": {}}}</tool_call>'),
        ("JSON (Llama", '{"name": "f", "parameters": {}}}'),
    ],
)
def test_what_is_left_over_is_not_left_out(name: str, said: str):
    assert split_calls(said, of(name), ()) is None


@pytest.mark.parametrize(
    "said",
    [
        "import functools; functools.reduce(f, [1])",
        "functools[int]",
        "I would write <|tool_call|> here.",
        "The section <|tool_calls_section_begin|> is empty <|tool_calls_section_end|>",
        "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>",
    ],
)
def test_marks_without_a_call_are_words(said: str):
    assert [known.name for known in FORMATS if not known.whole and split_calls(said, known, ())] == []


PYTHON = of("Python (Llama")
LINES = of("Python in")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1", 1),
        ("-1.5", -1.5),
        ("'a\\nb'", "a\nb"),
        ('"""a\nb"""', "a\nb"),
        ("True", True),
        ("null", None),
        ("[1, {'a': (2, 3)}]", [1, {"a": [2, 3]}]),
        ("'f(x=1)] </function_calls>'", "f(x=1)] </function_calls>"),
        ("'é日😀'", "é日😀"),
    ],
)
def test_arguments_in_python(written: str, value: Any):
    expected = [("a.f", {"x": value, "y": "z"}), ("g", {})]
    assert split_calls(f"[a.f(x={written}, y='z'), g()]", PYTHON, ()) == ("", expected)
    lines = f"<function_calls>\na.f(x={written}, y='z')\ng()\n</function_calls>"
    assert split_calls(f"I look.\n{lines}", LINES, ()) == ("I look.", expected)
    assert split_calls(lines.removesuffix("\n</function_calls>"), LINES, ()) == ("", expected)


@pytest.mark.parametrize(
    "bad",
    [
        "f(1)",
        "f(x=y)",
        "f(x=g())",
        "f(**{'x': 1})",
        "f(x=1",
        "f",
        "f(x={1: 2})",
        "f(x=1e999)",
        "f(x=b'a')",
        "f(x=1)(y=2)",
    ],
)
def test_what_is_no_call_in_python_is_words(bad: str):
    assert split_calls(f"[g(), {bad}]", PYTHON, ()) is None
    assert split_calls(f"<function_calls>\ng()\n{bad}\n</function_calls>", LINES, ()) is None
    assert split_calls("[1, 2]", PYTHON, ()) is None
    assert split_calls("[" * 5000, PYTHON, ()) is None


def tags(name: str, **given: str) -> str:
    pairs = [f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in given.items()]
    return f"<tool_call>{name}\n{''.join(pairs)}</tool_call>"


def test_calls_in_tags():
    properties = {"x": {"type": "string"}, "n": {"type": "integer"}, "o": {"type": "object"}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": properties}}}]
    text = f" two\n {ENDS.replace('</arg_value>', '</arg_value> x')}\n"
    call = tags("f", x=text, n="7", o='{"a": [1]}', y="[1]", z="one")
    expected = [("f", {"x": text, "n": 7, "o": {"a": [1]}, "y": [1], "z": "one"}), ("g", {})]
    for between in ("", "\n", "Then."):
        found = split_calls(f"Now.{call}{between}{tags('g')}", of("tags"), tools)
        assert found == (f"Now.{between}".strip(), expected)
    joined = call.replace("\n<arg_", "<arg_").replace("</arg_value>\n</tool_call>", "</arg_value>")
    assert split_calls(joined, of("tags"), tools) == ("", expected[:1])
    assert split_calls("<tool_call>f\n<arg_key>x</arg_key>\n<arg_value>1", of("tags"), tools) is None
    assert split_calls('<tool_call>{"name": "f"}</tool_call>', of("tags"), tools) is None
    broken = tags("f", x="1").replace("</arg_value>", "</arg_vale>")
    assert split_calls(broken + tags("f", x="2"), of("tags"), tools) is None, "no value is another call"


@pytest.mark.parametrize(
    ("text", "words", "calls"),
    [
        ("<|channel|>final<|message|>Five.", "Five.", []),
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>5<|return|>",
            "<think>Hm.</think>5",
            [],
        ),
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>"
            "I look.<|end|><|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}<|call|>",
            "<think>Hm.</think>I look.",
            [("f", {})],
        ),
        ("<|channel|>analysis<|message|>I am not done", "<think>I am not done</think>", []),
        (
            '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": <|call|>',
            '{"x": ',
            [],
        ),
        (
            "<|channel|>commentary to=functions.f json<|message|>{}<|call|><|start|>assistant<|channel|>"
            "commentary to=python code<|message|>1 + 1<|call|>",
            "{}\n1 + 1",
            [],
        ),
        (
            "<|channel|>analysis<|message|>A <think> ends with </think>, I think.<|end|>"
            "<|start|>assistant<|channel|>final<|message|>With </think>.<|return|>",
            "<think>A < think> ends with </ think>, I think.</think>With </think>.",
            [],
        ),
        (
            "<|channel|>final<|message|><think> is a mark, and </think> is one.<|return|>",
            "<think></think><think> is a mark, and </think> is one.",
            [],
        ),
    ],
)
def test_messages_of_harmony(text: str, words: str, calls: list[Any]):
    assert split_calls(text, of("harmony"), ()) == (words, calls)
    assert split_calls("No message at all", of("harmony"), ()) is None


@given(calls=st.lists(st.tuples(NAMES, st.dictionaries(NAMES, JSON, max_size=3)), min_size=1, max_size=3))
def test_what_is_spelled_is_read(calls: list[tuple[str, Any]]):
    calls = [(name, given) for name, given in calls if not {name, *given} & set(keyword.kwlist)]
    for known in FORMATS if calls else ():
        assert known.spell is None or split_calls(known.spell(calls), known, ()) == ("", calls)
    llama = of("JSON (Llama").spell
    assert llama is not None
    assert llama([("f", {})]) == '{"name": "f", "parameters": {}}'


def test_numbers_stay_what_they_were():
    for writer in WRITERS.values():
        given = {"a": 1, "b": 1.5, "c": "1", "d": 10**30, "e": -0.25}
        assert split_calls(writer.dumped([("f", given)]), writer.known, ()) == ("", [("f", given)])
        assert json.dumps(given)
