"""Splits an assertion into a call and the value that it expects; it runs inside the sandbox.

The text of this file is the source of a job (code.py): the assertions come with a data set, so they are
parsed and their literals are evaluated where nothing can go wrong. The code under test is not there.
"""

import ast
import builtins


def split(setup: str, text: str) -> tuple[str, list, dict, object] | None:
    """Return (function, arguments, keyword arguments, expected value) of ``assert f(…) == value``.

    ``None`` for an assertion of any other form: it needs a checker of its own.
    """
    names = _names(setup)
    body = ast.parse(text.strip()).body
    test = body[0].test if len(body) == 1 and isinstance(body[0], ast.Assert) else None
    if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq):
        return None
    call, expected = test.left, test.comparators[0]
    if not _is_call(call, names):
        call, expected = expected, call
    if not _is_call(call, names):
        return None
    try:
        args = [_value(argument, names) for argument in call.args]
        kwargs = {keyword.arg: _value(keyword.value, names) for keyword in call.keywords}
        return call.func.id, args, kwargs, _value(expected, names)
    except NameError:
        # The other side needs the code under test as well.
        return None


def unresolved(setup: str, text: str) -> list[str]:
    """Return the names that an assertion uses and that must come from the code under test."""
    names = _names(setup)
    found = [node for node in ast.walk(ast.parse(text.strip())) if isinstance(node, ast.Name)]
    bound = {node.id for node in found if isinstance(node.ctx, ast.Store)}
    return sorted({node.id for node in found} - bound - names.keys() - vars(builtins).keys())


def _names(setup: str) -> dict:
    names = {}
    exec(setup, names)
    return names


def _is_call(node: ast.expr, names: dict) -> bool:
    """Say whether a node calls, by its name, a function that only the code under test can define."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    plain = not any(isinstance(part, ast.Starred) for part in node.args) and all(k.arg for k in node.keywords)
    return plain and node.func.id not in names and not hasattr(builtins, node.func.id)


def _value(node: ast.expr, names: dict) -> object:
    return eval(compile(ast.Expression(node), "<assert>", "eval"), dict(names))
