"""Reading tool calls from a model's words."""

from __future__ import annotations

import json

from chat import ENDS, tokenizer
from hypothesis import given
from hypothesis import strategies as st

from areal.rollout.tool_calls import parse_blocks, parse_json, parser_of

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x, max_size=3))
CALLS = st.lists(st.tuples(st.text(min_size=1), st.dictionaries(st.text(), JSON)), min_size=1, max_size=3)


@given(CALLS, st.sampled_from(["", "First I look."]), st.sampled_from(["arguments", "parameters"]))
def test_calls_are_read_as_they_were_written(calls: list[tuple[str, dict]], words: str, key: str):
    written = [json.dumps({"name": name, key: arguments}) for name, arguments in calls]
    if not any("<" in text for text in written):
        blocks = "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in written)
        assert parse_blocks(f"{words}\n{blocks}") == (words, calls)
        assert parse_blocks(f"{words}\n{blocks}".removesuffix("</tool_call>")) == (words, calls)
    for text in ("; ".join(written), "\n".join(written), f"[{', '.join(written)}]"):
        assert parse_json(text) == ("", calls)


@given(st.text() | st.text('<tool_cal>/{}"name:argu,[] 1;'))
def test_whatever_is_written_is_read_or_left_as_words(text: str):
    for parse in (parse_blocks, parse_json):
        found = parse(text)
        assert found is None or found[1]


def test_one_broken_call_leaves_the_whole_answer_as_words():
    good = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    for bad in (
        "{",
        '{"name": 1}',
        '{"name": "f", "arguments": []}',
        '{"name": "f", "arguments": "x"}',
        "f()",
    ):
        assert parse_blocks(f"{good}<tool_call>{bad}</tool_call>") is None
        assert parse_json(bad) is None
    assert parse_json('"a"') is None
    assert parse_json("[" * 100_000) is None


def test_the_format_is_the_template_s_own():
    formats = {name: parser_of(tokenizer(name).chat_template) for name in ENDS}
    assert formats.pop("llama3") is parse_json
    assert set(formats.values()) == {parse_blocks}
