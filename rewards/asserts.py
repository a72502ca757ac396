"""Splits an assertion into a call and the value that it expects; it runs inside the sandbox.

The text of this file is the source of a job (code.py). The assertions come from a data set, so their literals
are evaluated where they can do no harm. The code under test is absent, so an undefined name is one of its
names.
"""

import ast
import builtins
import importlib
import sys
from typing import Any


def split(setup: str, text: str) -> tuple[str, list[Any], dict[str, Any], Any] | None:
    """Return (function, arguments, keyword arguments, expected value) of ``assert f(…) == value``.

    ``None`` for an assertion of any other form, which needs a separate checker.
    """
    body = ast.parse(text.strip()).body
    test = body[0].test if len(body) == 1 and isinstance(body[0], ast.Assert) else None
    if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq):
        return None
    names = _names(setup, text)
    sides = (test.left, test.comparators[0])
    # A call whose other side is a value calls the code under test, even by the name of a builtin.
    return _case(*sides, names) or _case(*sides[::-1], names)


def needs(setup: str, text: str) -> tuple[list[str], list[str]]:
    """Return the names that an assertion takes from the code under test, and the modules that it mentions."""
    names = _names(setup, text)
    found = [node for node in ast.walk(ast.parse(text.strip())) if isinstance(node, ast.Name)]
    bound = {node.id for node in found if isinstance(node.ctx, ast.Store)}
    used = {node.id for node in found} - bound
    return sorted(used - names.keys() - vars(builtins).keys()), sorted(_modules(text) & names.keys())


def _case(
    call: ast.expr, expected: ast.expr, names: dict[str, Any]
) -> tuple[str, list[Any], dict[str, Any], Any] | None:
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id in names:
        return None
    try:
        args = [_value(argument, names) for argument in call.args]
        kwargs = {str(keyword.arg): _value(keyword.value, names) for keyword in call.keywords}
        return call.func.id, args, kwargs, _value(expected, names)
    except (NameError, SyntaxError):
        # The other side also needs the code under test, or an argument is starred.
        return None


def _names(setup: str, text: str) -> dict[str, Any]:
    """Return what the setup defines, and the modules that an assertion uses without importing them."""
    names: dict[str, Any] = {}
    exec(setup, names)
    del names["__builtins__"]
    missing = _modules(text) - names.keys()
    return names | {name: importlib.import_module(name) for name in missing}


def _modules(text: str) -> set[str]:
    """Return the modules of the standard library that appear before a dot."""
    dotted = [node.value for node in ast.walk(ast.parse(text.strip())) if isinstance(node, ast.Attribute)]
    return {node.id for node in dotted if isinstance(node, ast.Name)} & sys.stdlib_module_names


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    return eval(compile(ast.Expression(node), "<assert>", "eval"), dict(names))
