"""The tasks of ``repo-v1``: a repository, an issue, hidden tests, and a solution.

A task is a folder:

- ``issue.md``: the issue;
- ``repo/``: the repository, with its visible tests in ``repo/tests``;
- ``hidden/fail_to_pass.py``: tests that fail before the change, and must pass after it;
- ``hidden/pass_to_pass.py``: tests that pass before the change, and must still pass after it;
- ``solution/``: the files that a correct answer changes or adds. It is optional.

Hidden tests are functions ``test_...()`` that end in ``assert EXPRESSION == LITERAL``. The code under test
shares its process with a test, so it could make any assertion pass. The literals are therefore removed here:
a test only returns the values of its expressions, which are compared outside the sandbox.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from areal.envs.task_folders import read_files, read_tasks, read_text
from areal.errors import UserError

SHIPPED = Path(__file__).with_name("repositories")
"""The tasks that ship with areal."""
MARK = "issue.md"
Kind = Literal["fail_to_pass", "pass_to_pass"]
_KINDS: tuple[Kind, ...] = ("fail_to_pass", "pass_to_pass")
_SEEN = "_values_of_the_test"
_COPY = "_copy_of_a_value"
_FORM = "assert EXPRESSION == LITERAL"


@dataclass(frozen=True, slots=True)
class HiddenTest:
    """A test that the model does not see.

    Attributes:
        name: name of its function.
        kind: when it must pass.
        source: the module that defines it; the function returns the values of its assertions.
        expected: the required values.
    """

    name: str
    kind: Kind
    source: str
    expected: list[Any]


@dataclass(frozen=True, slots=True)
class RepoTask:
    """A repository with an issue.

    Attributes:
        name: name of the task's folder.
        problem: the issue.
        files: files of the repository, by path.
        tests: all hidden tests.
        solution: files that solve the issue, by path; empty: unknown.
        where: the folder, for error messages.
    """

    name: str
    problem: str
    files: dict[str, str] = field(hash=False)
    tests: tuple[HiddenTest, ...] = field(hash=False)
    solution: dict[str, str] = field(hash=False)
    where: str


@lru_cache(maxsize=8)
def load_repo_tasks(place: str | Path = SHIPPED) -> dict[str, list[RepoTask]]:
    """Return the tasks of a folder by split; raises UserError if one cannot be read."""
    return read_tasks("repo-v1", place, MARK, _task)


def _task(folder: Path) -> RepoTask:
    told = f"repo-v1: {folder}"
    for name in ("repo", "hidden"):
        if not (folder / name).is_dir():
            raise UserError(f"{told} has no folder {name}; a task needs {MARK}, repo, hidden and solution")
    issue = read_text(folder / MARK, told).strip()
    files = read_files(folder / "repo", told)
    if not issue or not files:
        raise UserError(f"{told}: {'repo has no files' if issue else f'{MARK} is empty'}")
    tests: list[HiddenTest] = []
    for kind in _KINDS:
        file = folder / "hidden" / f"{kind}.py"
        tests += hidden_tests(read_text(file, told), kind, str(file))
    if len({test.name for test in tests}) < len(tests):
        raise UserError(f"{told}: two hidden tests have the same name")
    solution = read_files(folder / "solution", told) if (folder / "solution").is_dir() else {}
    return RepoTask(folder.name, issue, files, tuple(tests), solution, str(folder))


def hidden_tests(text: str, kind: Kind, where: str) -> list[HiddenTest]:
    """Return the tests of a module.

    Raises:
        UserError: it is not valid Python, has no test, or has one that cannot be judged from outside.
    """
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{where} is not valid Python: {error}") from error
    expected: dict[str, list[Any]] = {}
    for statement in module.body:
        if isinstance(statement, ast.FunctionDef) and statement.name.startswith("test"):
            if statement.args.args or statement.decorator_list:
                raise _refused(where, statement, f"{statement.name} has arguments or decorators")
            expected[statement.name] = _taken_out(statement, where)
    if not expected:
        raise UserError(f"{where} has no function test_...()")
    _refuse_asserts(module, where)
    copies = ast.parse(f"from copy import deepcopy as {_COPY}").body
    docstring = 1 if ast.get_docstring(module) is not None else 0
    module.body[docstring:docstring] = copies
    source = ast.unparse(ast.fix_missing_locations(module))
    return [HiddenTest(name, kind, source, values) for name, values in expected.items()]


def _taken_out(function: ast.FunctionDef, where: str) -> list[Any]:
    """Remove the literals from a test's assertions, and return them; the test returns the other sides."""
    expected: list[Any] = []
    function.body = [
        ast.Assign([ast.Name(_SEEN, ast.Store())], ast.List([], ast.Load())),
        *_statements(function.body, expected, where),
        ast.Return(ast.Name(_SEEN, ast.Load())),
    ]
    _refuse_asserts(function, where)
    if all(value is None or isinstance(value, bool) for value in expected):
        wrong = f"{function.name} expects only True, False or None, which can be guessed"
        raise _refused(where, function, wrong)
    return expected


def _statements(body: list[ast.stmt], expected: list[Any], where: str) -> list[ast.stmt]:
    made: list[ast.stmt] = []
    for statement in body:
        if isinstance(statement, ast.Assert):
            value, literal = _sides(statement, where)
            expected.append(literal)
            # By value, so that later changes by the test do not count.
            copied = ast.Call(ast.Name(_COPY, ast.Load()), [value], [])
            append = ast.Attribute(ast.Name(_SEEN, ast.Load()), "append", ast.Load())
            made.append(ast.Expr(ast.Call(append, [copied], [])))
            continue
        if isinstance(statement, ast.With):
            statement.body = _statements(statement.body, expected, where)
        made.append(statement)
    return made


def _refuse_asserts(tree: ast.AST, where: str) -> None:
    """Refuse other assertions, because the code under test could decide how often they run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            raise _refused(where, node, "an assertion must be directly in a test, not in a loop or branch")


def _sides(statement: ast.Assert, where: str) -> tuple[ast.expr, Any]:
    """Return the expression and the literal of an assertion."""
    test = statement.test
    if isinstance(test, ast.Compare) and [type(op) for op in test.ops] == [ast.Eq]:
        try:
            return test.left, ast.literal_eval(test.comparators[0])
        except (ValueError, TypeError, RecursionError) as error:
            raise _refused(where, statement, f"it is not of the form {_FORM}") from error
    raise _refused(where, statement, f"it is not of the form {_FORM}")


def _refused(where: str, node: ast.stmt | ast.expr, wrong: str) -> UserError:
    return UserError(f"{where}:{node.lineno}: {wrong} (areal compares the values in a hidden test: {_FORM})")
