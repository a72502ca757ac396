"""Programming problems as benchmarks publish them: MBPP, HumanEval, APPS and LiveCodeBench, by their keys."""

from __future__ import annotations

import ast
import base64
import builtins
import io
import json
import logging
import pickle
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from areal.envs.data import Loaded, load_problems
from areal.envs.forms import Opening, asked, at, decoded
from areal.envs.rows import Row
from areal.errors import UserError
from areal.rewards.cases import AssertTests, CallCase, CallTests, CheckTests, StreamCase, StreamTests, Tests
from areal.rewards.compare import Comparison
from areal.sandbox.interface import Call

log = logging.getLogger(__name__)

_TEXT_KEYS = ("problem", "text", "question_content", "question", "prompt")
_SHOWN_ASSERTS = 1
"""Assertions of MBPP that a problem shows: without one, nobody knows the function's name."""
_JSON = Comparison(relative=1e-6, absolute=1e-9, tuples_are_lists=True)
"""Tests that are kept as JSON know no tuples, and their numbers are rounded."""
_EXACT = Comparison()


@dataclass(frozen=True, slots=True)
class CodeProblem:
    """A programming problem.

    Attributes:
        problem: what is asked, as text.
        tests: what a program must pass.
        before: code that stands before the answer: the stub that it completes.
        comparison: when a returned value or an output is the expected one.
        by_value: whether the tests can be run by value; those that need objects of the program's own classes
            cannot.
        opening: messages before the question, as pairs of role and text.
        form: what rows of this form are called.
    """

    problem: str
    tests: Tests
    before: str = ""
    comparison: Comparison = _EXACT
    by_value: bool = True
    opening: Opening = ()
    form: str = field(default="", compare=False)


@lru_cache(maxsize=4)
def load_code_problems(data: str, subset: str | None, test_data: str | None) -> Loaded[CodeProblem]:
    """Return the problems of the splits ``train`` and ``test``; see data.load_problems.

    Those whose tests cannot be run by value are left out, and counted in the log.

    Raises:
        UserError: unreadable data; the message names file and line.
    """
    splits = load_problems(code_problem, data, subset, test_data)
    missing = 0
    for split, problems in splits.items():
        splits[split] = [p for p in problems if p.by_value]
        missing += len(problems) - len(splits[split])
    if missing:
        said = f"{data}: left out {missing:,} problems whose tests need objects of the answer's classes"
        log.warning(said)
        splits.told += (said,)
    return splits


def code_problem(row: dict[str, Any], where: str) -> CodeProblem:
    """Return the problem of a row.

    Raises:
        UserError: its keys are those of no known form, or what they hold is broken.
    """
    try:
        if "entry_point" in row and "test" in row:
            return replace(_humaneval(row), form="HumanEval rows")
        row = _with_graded(row)
        for key, form, read in _FORMS:
            if row.get(key) is not None:
                question = asked(row, where, _TEXT_KEYS)
                return replace(read(row, question.problem), opening=question.opening, form=f"{form} rows")
    except (KeyError, TypeError, ValueError, SyntaxError, zlib.error, pickle.UnpicklingError) as error:
        raise UserError(f"{where}: its tests cannot be read: {type(error).__name__}: {error}") from error
    raise UserError(
        f"{where}: no tests: it needs tests or test_list (MBPP), test and entry_point (HumanEval), "
        f"input_output (APPS) or public_test_cases (LiveCodeBench); found: {', '.join(row) or 'nothing'}"
    )


def _with_graded(row: Row) -> Row:
    """Return a row with the cases that verl's rows have as their ground truth under APPS' key."""
    held = at(row, ("reward_model", "ground_truth"))
    cases = decoded(held, None) if isinstance(held, str) else held
    graded = isinstance(cases, dict) and {"inputs", "outputs"} <= cases.keys()
    return {**row, "input_output": cases} if graded else row


def _humaneval(row: dict[str, Any]) -> CodeProblem:
    stub = row["prompt"]
    text = f"Complete this function:\n```python\n{stub.rstrip()}\n```"
    return CodeProblem(text, CheckTests(row["test"], row["entry_point"], stub), before=stub)


def _mbpp(row: dict[str, Any], text: str) -> CodeProblem:
    asserts = tuple(row.get("test_list") or row["tests"])
    if not asserts or not all(isinstance(item, str) for item in asserts):
        raise ValueError("the tests are no list of assertions")
    imports = "\n".join(row.get("test_imports") or ())
    setup = f"{imports}\n{row.get('test_setup_code') or row.get('setup') or ''}".strip()
    shown = "\n".join(asserts[:_SHOWN_ASSERTS])
    by_value = not _needs_objects(setup, asserts)
    return CodeProblem(
        f"{text}\nYour code should pass such tests:\n{shown}", AssertTests(asserts, setup), by_value=by_value
    )


def _needs_objects(setup: str, asserts: Sequence[str]) -> bool:
    """Say whether tests use what only the answer can define, other than by calling its functions."""
    trees = [ast.parse(setup), *(ast.parse(text.strip()) for text in asserts)]
    defined = set(vars(builtins)) | {name for tree in trees for name in _bound(tree)}
    calls = [[n.func.id for n in ast.walk(t) if _calls_a_name(n)] for t in trees]  # type: ignore[attr-defined]
    in_setup, *in_asserts = [set(names) - defined for names in calls]
    # A second unknown name with a capital is a class: its objects are arguments.
    return bool(in_setup) or any(
        len(names) > 1 and any(name[0].isupper() for name in names) for names in in_asserts
    )


def _calls_a_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def _bound(tree: ast.AST) -> set[str]:
    """Return the names that code defines or imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _apps(row: dict[str, Any], text: str) -> CodeProblem:
    held = row["input_output"]
    cases = json.loads(held) if isinstance(held, str) else held
    inputs, outputs = cases["inputs"], cases["outputs"]
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    stub = row.get("starter_code") or ""
    name = cases.get("fn_name")
    if name is None:
        pairs = zip(map(_lines, inputs), map(_lines, outputs), strict=True)
        return CodeProblem(_with_stub(text, ""), StreamTests(tuple(StreamCase(*pair) for pair in pairs)))
    path = f"Solution.{name}" if "class Solution" in stub else name
    # A result is kept in a list of one.
    unpacked = [out[0] if isinstance(out, list) and len(out) == 1 else out for out in outputs]
    calls = tuple(CallCase(Call(path, tuple(i)), out) for i, out in zip(inputs, unpacked, strict=True))
    return CodeProblem(_with_stub(text, stub), CallTests(calls), comparison=_JSON)


def _lines(text: Any) -> str:
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


def _livecodebench(row: dict[str, Any], text: str) -> CodeProblem:
    cases = [*_cases(row["public_test_cases"]), *_cases(row.get("private_test_cases") or "[]")]
    if not cases:
        raise ValueError("no cases")
    stub = row.get("starter_code") or ""
    if cases[0]["testtype"] == "stdin":
        streams = tuple(StreamCase(case["input"], case["output"]) for case in cases)
        return CodeProblem(_with_stub(text, ""), StreamTests(streams))
    metadata = row["metadata"]
    name = (json.loads(metadata) if isinstance(metadata, str) else metadata)["func_name"]
    path = f"Solution.{name}" if "class Solution" in stub else name
    calls = [
        CallCase(Call(path, tuple(map(json.loads, case["input"].splitlines()))), json.loads(case["output"]))
        for case in cases
    ]
    return CodeProblem(_with_stub(text, stub), CallTests(tuple(calls)), comparison=_JSON)


def _with_stub(text: str, stub: str) -> str:
    if stub:
        return f"{text}\n\nUse this:\n```python\n{stub.rstrip()}\n```"
    return f"{text}\n\nWrite a program that reads standard input and writes standard output."


_FORMS = (
    ("test_list", "MBPP", _mbpp),
    ("tests", "MBPP", _mbpp),
    ("input_output", "APPS", _apps),
    ("public_test_cases", "LiveCodeBench", _livecodebench),
)
"""The field by which rows of a form are known, what they are called, and what reads them."""


def _cases(held: Any) -> list[dict[str, Any]]:
    """Return cases that are kept as a list, as JSON, or as JSON in a pickle, compressed, in base64."""
    if not isinstance(held, str):
        return list(held)
    if held.lstrip().startswith("["):
        return json.loads(held)
    return json.loads(_Text(io.BytesIO(zlib.decompress(base64.b64decode(held)))).load())


class _Text(pickle.Unpickler):
    """Reads a pickle of builtin types: one that names anything else could run code."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Refuse."""
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")
