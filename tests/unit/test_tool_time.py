"""Reading calls takes time in proportion to the text, whatever is in it, and finds what slower readers find.

A model that repeats itself writes the beginning of a call thousands of times, and all episodes wait for it.
"""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.rollout.tools import as_json, as_python
from areal.rollout.tools.formats import FORMATS, split_calls
from areal.rollout.tools.reading import PYTHON_MARK, Split, ToolCall

REPEATED = {
    "JSON without an end": '\n{"name":',
    "strings without an end": '\n{"a": "',
    "lists without an end": "\n[1,",
    "lists": "\n[]",
    "calls": '\n{"name": "f", "parameters": {}}',
    "backslashes": "\\",
    "spaces": " ",
    "quotes": '\\"""',
    "lines of Python": 'f(x="</function_calls>")\n',
    "half a line of Python": 'f(x="</function_calls>\n',
    "ends": "</function_calls>",
    "parameters": "<parameter=x></parameter>",
    "arguments": "<arg_key>x</arg_key><arg_value>",
    "thoughts": "</think><think>",
}
AROUND = (
    ("", ""),
    ("", "]"),
    ("<function_calls>\n", "f(y)"),
    ("<tool_call><function=f>", "x"),
    ("<tool_call>f", "x"),
)


def seconds(text: str) -> float:
    """The time of this process that all readers together take; the least of three times."""

    def once() -> float:
        begun = time.process_time()
        for known in FORMATS:
            split_calls(text, known, ())
        return time.process_time() - begun

    return min(once() for _ in range(3))


@pytest.mark.parametrize("name", REPEATED)
def test_16_times_the_text_takes_about_16_times_the_time(name: str):
    """Not 256 times. Both sizes are measured one right after the other."""
    length = 1500 // len(REPEATED[name])
    for begin, end in AROUND:
        short, long = (begin + REPEATED[name] * n * length + end for n in (1, 16))
        assert seconds(long) < 64 * seconds(short), (begin, end)


def tried_at_each_line(text: str) -> Split | None:
    """Read calls from the first line from which the text is calls up to its end."""
    for line in re.finditer(rf"(?:^|{PYTHON_MARK})[ \t]*(?=[{{\[])", text, re.MULTILINE):
        calls, position = list[ToolCall](), line.end()
        while (found := as_json._value(text, position, bare=True)) is not None:
            calls += found[0]
            position = as_json._skip(text, found[1])
            if re.match(rf"(?:\s|{PYTHON_MARK})*\Z", text[position:]):
                words = re.sub(PYTHON_MARK, "", text[: line.start()]).strip()
                return (words, calls) if calls else None
    return None


PIECES = ['{"name": "f", "parameters": {}}', '{"name": "g", "arguments": {"x": "]"}}', '{"name":', "[", "]",
          "{", "}", '"', "\\", "\n", "\n", " ", ";", ",", "a", "[]", "{}",
          "<|python_tag|>", "<|python_end|>"]  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_json_is_found_where_each_line_is_tried(text: str):
    assert as_json.parse_json(text) == tried_at_each_line(text)


def tried_at_each_end(text: str) -> list[ToolCall] | None:
    """Read one block of Python up to the first mark of an end that leaves calls."""
    inside = text.partition("<function_calls>")[2]
    for found in re.finditer("</function_calls>", inside):
        calls = as_python._calls(as_python._parsed(inside[: found.start()].strip()))
        if calls is not None:
            return calls
    return as_python._calls(as_python._parsed(inside.strip()))


LINES = ["f(x=1)", "g(y=", ")", "'", '"', '"""', "'''", "\\", "\n", "\n", "a", "r", ",", 
         "</function_calls>", "h(z='</function_calls>')", "h(z='''\n</function_calls>''')"]  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(LINES), max_size=10).map("".join))
def test_python_ends_where_each_end_is_tried(inside: str):
    found = as_python.parse_python_lines(f"<function_calls>\n{inside}")
    expected = tried_at_each_end(f"<function_calls>\n{inside}")
    assert (None if found is None else found[1]) == expected


def test_a_quote_in_a_comment_begins_no_string():
    for said in ("f(x=1)  # it's so\n", "f(x=1)  # it's so", "# it's\nf(x=1)\n"):
        assert as_python.parse_python_lines(f"<function_calls>{said}</function_calls>") == (
            "",
            [("f", {"x": 1})],
        )
