"""Finds defects of tests: tests that pass with any code, and packages that they must import.

This module reads the tests; CodeVerifier.ensure_sound runs them with code that solves nothing. Both are used
when data are loaded, because a test that passes with anything rewards anything.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
import sys
from collections.abc import Iterator

from .cases import AssertTests, CheckTests, Tests

_LONG_LITERAL = re.compile(r"^([ \t]*\w+[ \t]*=[ \t]*)[\[({].{1000,}$", re.MULTILINE)
"""A line with a table of inputs or results, of which HumanEval+ has megabytes."""
_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+(\w+)[\w.]*[ \t]+import\b|import[ \t]+([\w., \t]+))", re.MULTILINE)
_STAR = re.compile(r"^[ \t]*from[ \t]+[\w.]+[ \t]+import[ \t]*\*", re.MULTILINE)
_GIVEN = frozenset(vars(builtins)) | {"__name__", "__file__", "__doc__"}
_ABSENT = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}

# Return values of code that solves nothing; no meaningful test passes with all of them.
PROBES = ("'no answer: areal 7f31'", "(-7.31e-05+2.17j)", "None")


def complaint(tests: Tests) -> str | None:
    """Return why tests cannot distinguish correct from incorrect code, as far as their source shows.

    Raises:
        SyntaxError: the tests are not valid Python.
    """
    match tests:
        case CheckTests():
            return _check_complaint(tests)
        case AssertTests():
            setup = _Names(tests.setup)
            if not any(_Names(item.strip()).asserts for item in tests.asserts):
                return "its tests assert nothing"
            said = (_assertion_complaint(item, setup, number) for number, item in enumerate(tests.asserts))
            return next(filter(None, said), None)
    return None


def may_pass_anything(tests: Tests) -> bool:
    """Return whether tests must be run (CodeVerifier.ensure_sound) to rule out that they pass with any
    code."""
    if isinstance(tests, AssertTests):
        # A call that must return one value cannot pass with several different values.
        return not any(_Names(item.strip()).called_for_a_value for item in tests.asserts)
    return isinstance(tests, CheckTests)


def packages(tests: Tests) -> set[str]:
    """Return the packages outside of the standard library that tests import."""
    match tests:
        case CheckTests():
            text = f"{tests.prompt}\n{tests.check}"
        case AssertTests():
            text = "\n".join([tests.setup, *tests.asserts])
        case _:
            return set()
    named = (found[1] or found[2] for found in _IMPORT.finditer(text))
    roots = {
        part.split()[0].partition(".")[0] for names in named for part in names.split(",") if part.strip()
    }
    # A line that looks like an import may belong to a docstring.
    return roots - sys.stdlib_module_names and _imported(_abridged(text)) - sys.stdlib_module_names


def probe(paths: Iterator[str] | list[str], value: str) -> str:
    """Return code whose functions, or methods of classes, all return one value."""
    parts = []
    for path in paths:
        first, _, method = path.partition(".")
        signature = f"def {method or first}(*args, **kwargs): return {value}\n"
        parts.append(f"class {first}:\n    {signature}" if method else signature)
    return "".join(parts)


def _check_complaint(tests: CheckTests) -> str | None:
    entry = tests.entry.partition(".")[0]
    check = _Names(tests.check)
    calls = not tests.script and check.uses_first_parameter("check")
    if not calls and entry in check.bound:
        return f"its test defines {entry} itself"
    if not calls and entry not in check.used:
        return f"its test never calls {tests.entry}"
    if check.open or _STAR.search(tests.prompt):
        return None
    missing = check.free - _Names(tests.prompt).bound - {entry, "candidate"}
    if missing:
        return f"its test needs {min(missing)}, which only the answer defines, not the test or the prompt"
    return None


def _assertion_complaint(item: str, setup: _Names, number: int) -> str | None:
    names = _Names(item.strip())
    free = names.free - setup.bound - sys.stdlib_module_names
    if len(free) == 1 or setup.open or names.open or not names.asserts:
        return None
    if len(free) > 1:
        first, second = sorted(free)[:2]
        return (
            f"its assertion {number} needs {first} and {second} from the answer, which could make them agree"
        )
    if not free and not names.called_for_a_value - setup.bound:
        return f"its assertion {number} calls nothing that the answer defines"
    return None


class _Names:
    """The names of a piece of code; raises SyntaxError.

    Attributes:
        bound: the names that its top level defines or imports.
        used: the names that it uses from its top level or from elsewhere, in any scope.
    """

    def __init__(self, text: str) -> None:
        text = _abridged(text)
        self._text = text
        self._top = symtable.symtable(text, "<test>", "exec")
        self.open = _STAR.search(text) is not None
        self.bound = {s.get_name() for s in self._top.get_symbols() if s.is_assigned() or s.is_imported()}
        self.used: set[str] = set()
        for table in _tables(self._top):
            for symbol in table.get_symbols():
                if symbol.is_global() and symbol.is_referenced():
                    self.used.add(symbol.get_name())
                if symbol.is_declared_global() and symbol.is_assigned():
                    self.bound.add(symbol.get_name())

    @property
    def free(self) -> set[str]:
        """Return the names that it uses from elsewhere."""
        return self.used - self.bound - _GIVEN

    @property
    def asserts(self) -> bool:
        """Return whether it contains more than imports."""
        return not all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(self._text).body)

    @property
    def called_for_a_value(self) -> set[str]:
        """Return the names that ``assert f(…) == value`` calls, which the answer defines."""
        body = ast.parse(self._text).body
        test = body[0].test if len(body) == 1 and isinstance(body[0], ast.Assert) else None
        if not isinstance(test, ast.Compare) or not isinstance(test.ops[0], ast.Eq):
            return set()
        sides = (test.left, test.comparators[0])
        return {s.func.id for s in sides if isinstance(s, ast.Call) and isinstance(s.func, ast.Name)}

    def uses_first_parameter(self, function: str) -> bool:
        """Return whether a top-level function uses its first parameter, or is defined in another way."""
        found = [table for table in self._top.get_children() if table.get_name() == function]
        if not found or not isinstance(found[-1], symtable.Function) or not found[-1].get_parameters():
            return True
        # Parameters are in order.
        name = found[-1].get_parameters()[0]
        inner = [table for table in _tables(found[-1]) if name in table.get_identifiers()]
        return any(table.lookup(name).is_referenced() for table in inner)


def _tables(top: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    """Yield a scope and all within it."""
    tables = [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        yield table


def _imported(text: str) -> set[str]:
    """Return the top-level names of the modules that code imports and needs."""
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(text)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Try) and any(map(_catches_absence, node.handlers)):
            nodes += [*node.handlers, *node.orelse, *node.finalbody]
            continue
        nodes += ast.iter_child_nodes(node)
    return found


def _catches_absence(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    return any(isinstance(node, ast.Name) and node.id in _ABSENT for node in ast.walk(handler.type))


def _abridged(text: str) -> str:
    """Return code without its long tables."""
    return _LONG_LITERAL.sub(r"\1[]", text)
