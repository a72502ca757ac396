r"""Tool calls as XML, as Qwen3-Coder and Qwen 3.5 write them.

    <tool_call>
    <function=NAME>
    <parameter=NAME>
    VALUE
    </parameter>
    </function>
    </tool_call>

It is no XML: nothing is escaped, and a value is whatever stands between its tags, less one line end on each
side. Its type is the one that the tool's JSON schema gives to the parameter; what is not of it stays text,
for the tool to complain of. The readers of Qwen and of vLLM judge in this way.
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

_OPEN = "<tool_call>"
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>\s*")
_FUNCTION_END = re.compile(r"\s*(?:</function>|\Z|(?=</tool_call>))")
_PARAMETER = re.compile(
    r"<parameter=([^>\n]+)>(.*?)"
    # The end of a value is followed by what may follow it; without an end, the next tag on a line of its own.
    r"(?:</parameter>\s*(?=<parameter=|</function>|</tool_call>|\Z)"
    r"|(?=\n<parameter=)|(?=\n</function>\s*(?:</tool_call>|<function=|\Z)))\s*",
    re.DOTALL,
)
_BLOCK_END = re.compile(r"\s*(?:</tool_call>|\Z|(?=<tool_call>))")
_INTEGER = re.compile(r"[+-]?\d{1,4000}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_ORDER = ("null", "integer", "number", "boolean", "object", "array")
"""Types that are tried before text."""
_DEEPEST = 16


def parse_xml(text: str, tools: Sequence[Tool] = ()) -> tuple[str, list[tuple[str, dict[str, Any]]]] | None:
    """Split a text into the words beside its calls, and the calls: name and arguments.

    The ends of the last call may be missing, and so may ``<tool_call>``, but of all calls.

    Returns:
        None if there are none, or one is not valid.
    """
    blocks = _OPEN in text
    begins = _OPEN if blocks else "<function="
    words, calls, position = [], list[tuple[str, dict[str, Any]]](), 0
    while (begin := text.find(begins, position)) >= 0:
        words.append(text[position:begin])
        position = begin + len(_OPEN) if blocks else begin
        before = len(calls)
        while (found := _function(text, position, tools)) is not None:
            name, arguments, position = found
            calls.append((name, arguments))
        end = _BLOCK_END.match(text, position)
        if len(calls) == before or (blocks and end is None):
            return None
        if end is not None and (blocks or end[0].strip()):
            position = end.end()
    words.append(text[position:])
    return ("".join(words).strip(), calls) if calls else None


def _function(text: str, position: int, tools: Sequence[Tool]) -> tuple[str, dict[str, Any], int] | None:
    """Read a call that begins here; return its name, its arguments, and where it ends."""
    begin = _FUNCTION.match(text, position)
    if begin is None:
        return None
    name, position = begin[1].strip(), begin.end()
    schema = _schema(name, tools)
    arguments: dict[str, Any] = {}
    while (found := _PARAMETER.match(text, position)) is not None:
        key = found[1].strip()
        arguments[key] = _value(_trimmed(found[2]), _types(_property(schema, key), schema, _DEEPEST))
        position = found.end()
    end = _FUNCTION_END.match(text, position)
    return None if end is None else (name, arguments, end.end())


def _trimmed(value: str) -> str:
    """Take away the line ends that belong to the tags."""
    value = value.removeprefix("\r").removeprefix("\n")
    return value.removesuffix("\n").removesuffix("\r") if value.endswith("\n") else value


def _schema(name: str, tools: Sequence[Tool]) -> dict[str, Any]:
    functions = [tool.get("function", tool) for tool in tools]
    found = next((f.get("parameters") for f in functions if f.get("name") == name), None)
    return found if isinstance(found, dict) else {}


def _property(schema: dict[str, Any], key: str) -> Any:
    properties = schema.get("properties")
    return properties.get(key) if isinstance(properties, dict) else None


def _types(schema: Any, root: dict[str, Any], levels: int) -> set[str]:
    """Return the types that a JSON schema allows; none: it says nothing of them."""
    if not isinstance(schema, dict) or levels == 0:
        return set()
    given = schema.get("type")
    types = {kind for kind in [given, *_listed(given)] if isinstance(kind, str)}
    for value in [*_listed(schema.get("enum")), *([schema["const"]] if "const" in schema else [])]:
        types.add(_type_of(value))
    for choice in ("anyOf", "oneOf", "allOf"):
        for option in _listed(schema.get(choice)):
            types |= _types(option, root, levels - 1)
    if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#/"):
        target: Any = root
        for part in reference[2:].split("/"):
            target = target.get(part) if isinstance(target, dict) else None
        types |= _types(target, root, levels - 1)
    return types


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _type_of(value: Any) -> str:
    types = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return types.get(type(value), "null")


def _value(text: str, types: set[str]) -> Any:
    """Return a value as the first of its types that it can be."""
    for kind in _ORDER:
        if kind in types:
            value = _READERS[kind](text.strip())
            if value is not _NOT:
                return value
    return text


_NOT = object()


def _integer(text: str) -> Any:
    return int(text) if _INTEGER.fullmatch(text) else _NOT


def _number(text: str) -> Any:
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        value = loads(text)
    except ValueError:
        return _NOT
    return value if isinstance(value, float) else _NOT


def _structure(kind: type) -> Any:
    def read(text: str) -> Any:
        for reader in (loads, _literal):
            try:
                value = reader(text)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue
            if isinstance(value, kind):
                return value
        return _NOT

    return read


def _literal(text: str) -> Any:
    """Read a literal of Python's, as models write them now and then; what JSON cannot say of it is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the model's escapes
        return loads(json.dumps(ast.literal_eval(text)))


_READERS: dict[str, Any] = {
    "null": lambda text: None if text.lower() in ("null", "none") else _NOT,
    "integer": _integer,
    "number": _number,
    "boolean": lambda text: _BOOLEANS.get(text.lower(), _NOT),
    "object": _structure(dict),
    "array": _structure(list),
}
