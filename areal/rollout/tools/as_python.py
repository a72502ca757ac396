"""Tool calls as Python, as in Llama 4, small models of Llama 3.2, and OLMo 3.

``[f(x=1), g(y="a")]`` is a whole response of Llama. OLMo's responses have text, and ``<function_calls>`` with
a call in each line. Arguments are literals and have names; ``true``, ``false`` and ``null`` are JSON's.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Sequence
from typing import Any

from areal.agents.interface import Tool
from areal.rollout.arguments import loads
from areal.rollout.tools.reading import PYTHON_MARK, Split, ToolCall, end_without_marks, read_blocks

_BEFORE = re.compile(rf"\A(?:\s|{PYTHON_MARK})*+")
_BEGIN, _END = re.compile("<function_calls>"), "</function_calls>"
_NEXT = re.compile(rf"\"\"\"|'''|[\"'#]|{_END}")
_INSIDE = {
    quote: re.compile(rf"(?:\\.|(?!{quote})[^\\{line}])*+{quote}", re.DOTALL)
    for quote, line in (("'", r"\n"), ('"', r"\n"), ("'''", ""), ('"""', ""))
}
_INSIDE["#"] = re.compile(rf"(?:(?!{_END})[^\n])*+")
"""Match the rest of a Python string or comment, from its start to its end."""
_NAMES = {"true": True, "false": False, "null": None}


def parse_python(text: str, tools: Sequence[Tool] = ()) -> Split | None:
    """Read a text that is a list of calls."""
    tree = _parsed(_BEFORE.sub("", text[: end_without_marks(text)]))
    if len(tree) != 1 or not isinstance(tree[0], ast.List) or not tree[0].elts:
        return None
    calls = _calls(tree[0].elts)
    return None if calls is None else ("", calls)


def parse_python_lines(text: str, tools: Sequence[Tool] = ()) -> Split | None:
    """Read the calls in ``<function_calls>``, whose end mark may be missing."""

    def block(text: str, position: int) -> tuple[list[ToolCall], int] | None:
        end = _end_of_python(text, position)
        calls = _calls(_parsed(text[position:end].strip()))
        return None if calls is None else (calls, min(len(text), end + len(_END)))

    return read_blocks(text, _BEGIN, block)


def _end_of_python(text: str, position: int) -> int:
    """Return the end of Python code: the first end mark outside its strings, or the end of the text.

    It takes one pass. Trying each mark would take time quadratic in the length of the text.
    """
    while (found := _NEXT.search(text, position)) is not None:
        kind, position = found[0], found.end()
        if kind == _END:
            return found.start()
        inside = _INSIDE[kind].match(text, position)
        if inside is None:
            break  # a string without an end is not Python
        position = inside.end()
    return len(text)


def spell_list_of_python(calls: Sequence[ToolCall]) -> str:
    """Write calls as :func:`parse_python` reads them."""
    return f"[{', '.join(map(_spelled, calls))}]"


def spell_python_lines(calls: Sequence[ToolCall]) -> str:
    """Write calls as :func:`parse_python_lines` reads them."""
    return "\n".join(["<function_calls>", *map(_spelled, calls), "</function_calls>"])


def _spelled(call: ToolCall) -> str:
    name, arguments = call
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def _parsed(text: str) -> Sequence[ast.expr]:
    """Return the expressions of a text; empty if it is something else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about the model's escapes
            lines = ast.parse(text).body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []
    return [line.value for line in lines if isinstance(line, ast.Expr)] if _all_are(lines, ast.Expr) else []


def _all_are(nodes: Sequence[ast.AST], kind: type) -> bool:
    return all(isinstance(node, kind) for node in nodes)


def _calls(nodes: Sequence[ast.expr]) -> list[ToolCall] | None:
    calls = []
    for node in nodes:
        if not isinstance(node, ast.Call) or node.args:
            return None
        try:
            name = _name(node.func)
            given = {word.arg: _value(word.value) for word in node.keywords}
            arguments = loads(json.dumps(given))
        except (ValueError, TypeError, RecursionError):
            return None
        if None in given:  # from ``**``
            return None
        calls.append((name, arguments))
    return calls or None


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise ValueError("a function must have a name")


def _value(node: ast.expr) -> Any:
    """Return the value of a literal in JSON's types; tuples and sets become lists.

    Raises:
        ValueError: the node is not a literal.
    """
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [None if key is None else _value(key) for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("the keys of an object must be strings")
        return dict(zip(keys, map(_value, node.values), strict=True))
    return ast.literal_eval(node)
