"""Function calls in a model's text, ``[name(key=value), ...]``, compared with the correct calls.

The rules are those of the Berkeley Function Calling Leaderboard's checker of syntax trees (BFCL, Patil et
al., ICML 2025), for Python: spelling variants of a call, the order of calls, capitalization, and most
punctuation in strings do not matter.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

from areal.thoughts import after_thought

Call = tuple[str, dict[str, Any]]
"""A function's name and its arguments."""

_LONGEST = 20_000
"""Maximum number of characters that are read as calls; Python's parser takes long for more."""
_TYPES: dict[str, type] = {
    "string": str,
    "any": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
}
_ARITHMETIC: dict[type[ast.operator], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_PUNCTUATION = re.compile(r"[ ,./\-_*^]")


def calls(action: str, expected: str) -> float | None:
    """Judge the calls in a model's text.

    Args:
        action: such as ``[weather(city="Oslo"), weather(city="Bergen")]``; thoughts are ignored.
        expected: JSON: ``functions`` has the descriptions of the available functions, ``calls`` is a list of
            ``{name: {argument: [all correct values]}}``, where ``""`` among the values means that the
            argument is optional. ``calls`` is ``"none"`` if no call is correct, and ``"some"`` if any is.

    Returns:
        1 or 0; None: the text is not a list of calls, although calls are correct.
    """
    wanted, made = json.loads(expected), read_calls(after_thought(action))
    if wanted["calls"] in ("none", "some"):
        return float(bool(made) == (wanted["calls"] == "some"))
    if made is None:
        return None
    described = {function["name"]: function for function in wanted["functions"]}
    return float(_all_match(made, wanted["calls"], described))


def read_calls(text: str) -> list[Call] | None:
    """Return the calls of which a text consists; None: it contains other things. Nothing is executed."""
    text = text.strip("`\n ").removeprefix("python\n").strip()
    if len(text) > _LONGEST:
        return None
    text = text if text.startswith("[") else f"[{text}"
    text = text if text.endswith("]") else f"{text}]"
    try:
        listed = ast.parse(text.strip("'"), mode="eval").body
        if not isinstance(listed, ast.List):
            return None
        return [_call(node) for node in listed.elts]
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("not a call with named arguments")
    arguments = {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if len(arguments) < len(node.keywords):
        raise ValueError("an argument occurs twice")
    return _name(node.func), arguments


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise ValueError("not the name of a function")


def _value(node: ast.expr) -> Any:
    """Return an argument; an expression that is not a literal, such as a variable, becomes its own text."""
    match node:
        case ast.List():
            return [_value(item) for item in node.elts]
        case ast.Tuple():
            return tuple(_value(item) for item in node.elts)
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return {_key(key): _value(value) for key, value in pairs}
        case ast.Constant(value=value):
            return "..." if value is ... else value
        case ast.UnaryOp() | ast.BinOp():
            number = _number(node)
            return ast.unparse(node) if number is None else number
        case _:
            return ast.unparse(node)


def _key(node: ast.expr | None) -> Any:
    if not isinstance(node, ast.Constant):
        raise ValueError("a key that is not a literal")
    return node.value


def _number(node: ast.expr) -> int | float | None:
    """Return the value of arithmetic with literal numbers, such as ``12 * 5000``; None: something else."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            number = _number(operand)
            return number if number is None or isinstance(sign, ast.UAdd) else -number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            first, second = _number(left), _number(right)
            return None if first is None or second is None else _ARITHMETIC[type(op)](first, second)
    return None


def _all_match(
    made: Sequence[Call], wanted: Sequence[Mapping[str, Any]], described: Mapping[str, Any]
) -> bool:
    """Return whether the calls are exactly the expected ones, in any order."""
    if len(made) != len(wanted):
        return False
    left = list(made)
    for name, right in (next(iter(call.items())) for call in wanted):
        found = next(
            (call for call in left if call[0] == name and _fits(call[1], right, described[name])), None
        )
        if found is None:
            return False
        left.remove(found)
    return True


def _fits(given: Mapping[str, Any], right: Mapping[str, list[Any]], function: Mapping[str, Any]) -> bool:
    known, required = function["parameters"]["properties"], function["parameters"].get("required", ())
    if any(name not in given for name in required):
        return False
    if any(name not in known or name not in right for name in given):
        return False
    if any(name not in given and "" not in values for name, values in right.items()):
        return False
    return all(_is_right(value, right[name], known[name]) for name, value in given.items())


def _is_right(value: Any, right: list[Any], described: Mapping[str, Any]) -> bool:
    """Return whether an argument has the described type and one of the correct values."""
    said = described["type"]
    if said == "tuple" and isinstance(value, tuple):
        value = list(value)
    if said == "float" and type(value) is int:
        value = float(value)
    kind, given = _TYPES[said], type(value)
    answers = [type(answer) for answer in right if answer != ""]
    # Correct values that are not of the described type are names of variables, as text.
    variable = bool(answers) and answers[0] is not kind
    if given is not kind:
        return variable and given is answers[0] and value in right
    if variable:
        return value in right
    if kind is dict:
        return any(_same_fields(value, answer) for answer in right if answer != "")
    if kind is str:
        return _plain(value) in [_plain(answer) for answer in right]
    if kind is list:
        of = _TYPES[described["items"]["type"]] if "items" in described else None
        return any(isinstance(answer, list) and _same_items(value, answer, of) for answer in right)
    return value in right


def _same_items(given: list[Any], right: list[Any], of: type | None) -> bool:
    if of is dict:
        pairs = zip(given, right, strict=False)
        return len(given) == len(right) and all(
            isinstance(item, dict) and _same_fields(item, answer) for item, answer in pairs
        )
    known = {type(item) for item in right}
    if of is not None and any(type(item) is not of and type(item) not in known for item in given):
        return False
    return [_plain(item) for item in given] == [_plain(item) for item in right]


def _same_fields(given: Mapping[str, Any], right: Mapping[str, list[Any]]) -> bool:
    if any(key not in given and "" not in values for key, values in right.items()):
        return False
    return all(key in right and _plain(value) in map(_plain, right[key]) for key, value in given.items())


def _plain(value: Any) -> Any:
    """Return a text without irrelevant differences: spaces, most punctuation, capitalization, kind of
    quotes."""
    return _PUNCTUATION.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value
