"""Converts arguments that are written as text to the types of the tool's JSON schema.

Text that does not have the type stays text, so that the tool can report it; the readers of Qwen and of vLLM
do the same.
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
    """Converts the arguments of one tool's calls to their types."""

    def __init__(self, name: str, tools: Sequence[Tool]) -> None:
        self._schema = _schema(name, tools)

    def typed(self, key: str, text: str, guess: bool = False) -> Any:
        """Return the value of an argument.

        Args:
            guess: if the schema has no type, whether to read the text as JSON if possible; if not, it stays
                text.
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
    """Return the types that a JSON schema allows; empty: it does not restrict them."""
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
    """Return a value in the first of its types that fits."""
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
    """Read a Python literal, which models sometimes write; values that JSON cannot represent are refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about the model's escapes
        return loads(json.dumps(ast.literal_eval(text)))


_READERS: dict[str, Any] = {
    "null": lambda text: None if text.lower() in ("null", "none") else _NOT,
    "integer": _integer,
    "number": _number,
    "boolean": lambda text: _BOOLEANS.get(text.lower(), _NOT),
    "object": _structure(dict),
    "array": _structure(list),
}
