"""Arguments that are written as text: each has the type that its tool's JSON schema gives it.

What is not of that type stays text, for the tool to complain of: so judge the readers of Qwen and of vLLM.
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

_INTEGER = re.compile(r"[+-]?\d{1,4000}")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_ORDER = ("null", "integer", "number", "boolean", "object", "array")
"""Types that are tried before text."""
_DEEPEST = 16


class Values:
    """Gives the arguments of one tool's calls their types."""

    def __init__(self, name: str, tools: Sequence[Tool]) -> None:
        self._schema = _schema(name, tools)

    def typed(self, key: str, text: str, guess: bool = False) -> Any:
        """Return an argument's value.

        Args:
            guess: whether text is JSON, if it is some, where the schema gives no type; else it stays text.
        """
        types = _types(_property(self._schema, key), self._schema, _DEEPEST)
        return _value(text, types or (set(_ORDER) if guess else types))


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
