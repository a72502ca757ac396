"""Programming problems in the formats of MBPP, HumanEval, APPS and LiveCodeBench, recognized by their
keys."""

from __future__ import annotations

import ast
import base64
import builtins
import contextlib
import io
import json
import pickle
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from areal.envs.data import Loaded, load_problems
from areal.envs.forms import Opening, asked, at, decoded
from areal.envs.places import stamp
from areal.envs.rows import Row
from areal.errors import UserError
from areal.rewards import soundness
from areal.rewards.cases import AssertTests, CallCase, CallTests, CheckTests, StreamCase, StreamTests, Tests
from areal.rewards.compare import Comparison, Either
from areal.sandbox.interface import Call

_TEXT_KEYS = ("problem", "text", "question_content", "question", "prompt")
_SHOWN_ASSERTS = 1
"""Number of MBPP's assertions that a problem shows: without one, the name of the function is unknown."""
_JSON = Comparison(relative=1e-6, absolute=1e-9, tuples_are_lists=True, keys_are_text=True)
"""Tests that are stored as JSON have no tuples, and their numbers are rounded."""
_DECIMALS = Comparison(output="decimals")
"""Comparison of outputs in LiveCodeBench's runner."""
_WORDS = Comparison(relative=1e-5, absolute=1e-8, output="words")
"""Comparison of outputs in APPS' runner, but with the order: the runner also treats lines and words as sets,
so that one ``YES`` and one ``NO`` would pass for any list of them."""
_EXACT = Comparison()
_CHUNK = 4000
"""Number of digits of an integer that are read at once."""
_SOLUTION = "class Solution"
_HAS_CHECK = re.compile(r"^(?:async[ \t]+)?def[ \t]+check\b|^check[ \t]*=", re.MULTILINE)
_CALLS_CHECK = re.compile(r"^check[ \t]*\(", re.MULTILINE)
_WRITES = r"\b(?:print|write|writelines)\b"


@dataclass(frozen=True, slots=True)
class CodeProblem:
    """A programming problem.

    Attributes:
        problem: the text of the problem.
        tests: the tests that a program must pass.
        before: code that runs before the answer, such as the stub of a function that the answer completes.
        comparison: how returned values or outputs are compared with the expected ones.
        by_value: whether the tests can run by value; tests that need objects of the program's own classes
            cannot.
        opening: messages before the question, as pairs of role and text.
        form: the name of the format of the row.
        wanted: a regular expression that a solution matches.
        where: file and line.
        packages: packages outside of the standard library that the tests import.
    """

    problem: str
    tests: Tests
    before: str = ""
    comparison: Comparison = _EXACT
    by_value: bool = True
    opening: Opening = ()
    form: str = field(default="", compare=False)
    wanted: str = ""
    where: str = field(default="", compare=False)
    packages: frozenset[str] = field(default=frozenset(), compare=False)


def load_code_problems(
    data: str, subset: str | None, test_data: str | None, skip_unreadable: bool = False
) -> Loaded[CodeProblem]:
    """Return the problems of the splits ``train`` and ``test``; see data.load_problems.

    Problems whose tests cannot run by value are skipped, and counted in the notices.

    Raises:
        UserError: unreadable data; the message names file and line.
    """
    return _loaded(stamp(data, test_data), data, subset, test_data, skip_unreadable)


@lru_cache(maxsize=4)
def _loaded(
    stamped: tuple[int, ...], data: str, subset: str | None, test_data: str | None, skip_unreadable: bool
) -> Loaded[CodeProblem]:
    loaded = load_problems(code_problem, data, subset, test_data, skip_unreadable)
    usable = Loaded({split: [p for p in problems if p.by_value] for split, problems in loaded.items()})
    usable.notices, usable.warnings, usable.skipped = loaded.notices, loaded.warnings, loaded.skipped
    if missing := sum(map(len, loaded.values())) - sum(map(len, usable.values())):
        usable.notices += (
            f"{data}: skipped {missing:,} problems whose tests need objects of the classes in the answer",
        )
    return usable


def has_tests(row: Row) -> bool:
    """Return whether a row is a programming problem, from its fields."""
    return ("entry_point" in row and "test" in row) or any(
        _with_graded(row).get(key) is not None for key, _, _ in _FORMS
    )


def code_problem(row: dict[str, Any], where: str) -> CodeProblem:
    """Return the problem of a row.

    The format decides the same things as the benchmark's own runner. Code of LiveCodeBench and APPS runs with
    the usual imports of contests in scope. Programs may end with any exit code; outputs are compared as
    decimals, line by line (LiveCodeBench), or within 1e-5, word by word (APPS). Return values are compared
    with JSON: a tuple equals a list, and a floating-point number may differ by 1e-6. APPS stores a result
    either directly or in a list of one, and both count; arguments may be text with one JSON value per line.
    MBPP(+) and HumanEval(+) have assertions, which are as exact as they are written.

    Raises:
        UserError: its keys do not belong to a known format, its values are malformed, or its tests pass with
            any answer.
    """
    problem = _problem(row, where)
    try:
        said = soundness.complaint(problem.tests) if problem.by_value else None
        needed = soundness.packages(problem.tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{where}: its tests cannot be read: {type(error).__name__}: {error}") from error
    if said:
        raise UserError(f"{where}: {said}, so any answer could pass; fix or remove the row")
    return replace(problem, where=where, packages=frozenset(needed))


def _problem(row: dict[str, Any], where: str) -> CodeProblem:
    try:
        if "entry_point" in row and "instruct_prompt" in row:
            raise UserError(
                f"{where}: BigCodeBench's tests run in the process of the answer, which could make them "
                "pass; use its own runner, with `areal serve` for the model"
            )
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
        f"{where}: no tests; a row needs tests or test_list (MBPP), test and entry_point (HumanEval), "
        "input_output (APPS), public_test_cases (LiveCodeBench) or verifier_metadata.unit_tests (NeMo "
        f"Gym); found: {', '.join(row) or 'nothing'}"
    )


def _with_graded(row: Row) -> Row:
    """Return a row with its tests at the top level: verl has APPS' cases as ground truth, NeMo Gym its
    own."""
    if (tests := at(row, "verifier_metadata.unit_tests")) is not None:
        return {**row, "unit_tests": tests}
    held = at(row, "reward_model.ground_truth")
    cases = decoded(held, None) if isinstance(held, str) else held
    graded = isinstance(cases, dict) and {"inputs", "outputs"} <= cases.keys()
    return {**row, "input_output": cases} if graded else row


def _humaneval(row: dict[str, Any]) -> CodeProblem:
    check, stub = row["test"], row["prompt"]
    entry = row["entry_point"].replace("()", "")
    script = not _HAS_CHECK.search(check) or _CALLS_CHECK.search(check) is not None
    before = _completed(stub)
    text, wanted = f"Complete this function:\n```python\n{stub.rstrip()}\n```", defines(entry)
    if before is None:
        return CodeProblem(stub, CheckTests(check, entry, "", script), wanted=wanted)
    return CodeProblem(text, CheckTests(check, entry, before, script), before, wanted=wanted)


def _completed(stub: str) -> str | None:
    """Return a stub as executable code, with a body if it has none; ``None`` if it is prose."""
    body = f"{stub.rstrip()}\n"
    for end in ("", "    pass\n", "        pass\n", "\tpass\n", "  pass\n"):
        with contextlib.suppress(SyntaxError):
            ast.parse(body + end)
            return body + end
    return None


def defines(path: str) -> str:
    """Return a pattern for the definition of a function, or of the class in a path such as ``Solution.f``."""
    first = re.escape(path.partition(".")[0])
    return rf"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+{first}\b|^{first}[ \t]*[:=]"


def _mbpp(row: dict[str, Any], text: str) -> CodeProblem:
    asserts = tuple(row.get("test_list") or row["tests"])
    if not asserts or not all(isinstance(item, str) for item in asserts):
        raise ValueError("the tests are not a list of assertions")
    imports = "\n".join(row.get("test_imports") or ())
    setup = f"{imports}\n{row.get('test_setup_code') or row.get('setup') or ''}".strip()
    shown = "\n".join(asserts[:_SHOWN_ASSERTS])
    by_value = not _needs_objects(setup, asserts)
    entry = _called_first(asserts[0])
    if isinstance(row.get("test"), str):
        # MBPP+: its runner executes this script, which includes the list's assertions, instead of the list.
        asserts = (row["test"],)
    return CodeProblem(
        f"{text}\nYour code should pass such tests:\n{shown}",
        AssertTests(asserts, setup),
        by_value=by_value,
        wanted=defines(entry) if entry else "",
    )


def _called_first(text: str) -> str | None:
    """Return the first name that an assertion calls, a builtin only if it calls no other name."""
    names = _called(ast.parse(text.strip()))
    return next((name for name in names if name not in vars(builtins)), names[0] if names else None)


def _needs_objects(setup: str, asserts: Sequence[str]) -> bool:
    """Return whether tests use what only the answer can define, other than by calling its functions."""
    trees = [ast.parse(setup), *(ast.parse(text.strip()) for text in asserts)]
    defined = set(vars(builtins)) | {name for tree in trees for name in _bound(tree)}
    in_setup, *in_asserts = [set(_called(tree)) - defined for tree in trees]
    # A second unknown name with a capital is a class: its objects are arguments.
    return bool(in_setup) or any(
        len(names) > 1 and any(name[0].isupper() for name in names) for names in in_asserts
    )


def _called(tree: ast.AST) -> list[str]:
    """Return the names that code calls, in order."""
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [function.id for function in calls if isinstance(function, ast.Name)]


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
    cases = from_json(held) if isinstance(held, str) else held
    inputs, outputs = cases["inputs"], cases["outputs"]
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    stub = row.get("starter_code") or ""
    name = cases.get("fn_name")
    if name is None:
        pairs = zip(map(_lines, inputs), map(_lines, outputs), strict=True)
        streams = tuple(StreamCase(*pair) for pair in pairs)
        return _streams(_with_stub(text, ""), streams, _WORDS)
    return _calls(_with_stub(text, stub), stub, name, tuple(map(_apps_case, inputs, outputs)))


def _apps_case(given: Any, output: Any) -> tuple[tuple[Any, ...], Any]:
    """Return the arguments and the expected value of a call of APPS; each is text in JSON, or the value."""
    as_text = isinstance(given, str)
    arguments = _arguments(given) if as_text else tuple(given)
    if as_text and isinstance(output, str):
        output = from_json(output)
    if isinstance(output, list) and len(output) == 1:
        return _with_integer_keys(arguments), Either((output[0], output))
    return _with_integer_keys(arguments), output


def _with_integer_keys(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Undo JSON's conversion of the keys of a dictionary that is the only argument, as APPS' runner does."""
    if len(arguments) == 1 and isinstance(arguments[0], dict):
        with contextlib.suppress(ValueError):
            return ({int(key): value for key, value in arguments[0].items()},)
    return arguments


def _arguments(text: str) -> tuple[Any, ...]:
    """Return arguments that are stored as text, with one JSON value per line."""
    return tuple(from_json(line) for line in text.strip().split("\n")) if text.strip() else ()


def _streams(text: str, cases: tuple[StreamCase, ...], comparison: Comparison) -> CodeProblem:
    tests = StreamTests(cases, "contest", any_exit=True)
    return CodeProblem(text, tests, comparison=comparison, wanted=_WRITES)


def _calls(text: str, stub: str, name: str, cases: Sequence[tuple[tuple[Any, ...], Any]]) -> CodeProblem:
    # The answer may define a class or a function, regardless of the stub.
    paths = (f"Solution.{name}", name) if _SOLUTION in stub else (name, f"Solution.{name}")
    calls = (CallCase(Call(paths[0], given, otherwise=paths[1]), output) for given, output in cases)
    tests = CallTests(tuple(calls), "contest")
    wanted = rf"{_SOLUTION}\b|{defines(name)}"
    return CodeProblem(text, tests, comparison=_JSON, wanted=wanted)


def _lines(text: Any) -> str:
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


def _livecodebench(row: dict[str, Any], text: str) -> CodeProblem:
    cases = [*_cases(row["public_test_cases"]), *_cases(row.get("private_test_cases") or "[]")]
    if not cases:
        raise ValueError("no cases")
    stub = row.get("starter_code") or ""
    if cases[0]["testtype"] == "stdin":
        streams = tuple(StreamCase(case["input"], case["output"]) for case in cases)
        return _streams(_with_stub(text, ""), streams, _DECIMALS)
    metadata = row["metadata"]
    name = (json.loads(metadata) if isinstance(metadata, str) else metadata)["func_name"]
    calls = [(_arguments(case["input"]), from_json(case["output"])) for case in cases]
    return _calls(_with_stub(text, stub), stub, name, calls)


def _nemo_gym(row: dict[str, Any], text: str) -> CodeProblem:
    """Return a problem of NeMo Gym's code_gen, which uses LiveCodeBench's runner; its prompt is complete."""
    held = row["unit_tests"]
    cases = from_json(held) if isinstance(held, str) else held
    name = cases.get("fn_name")
    if "packed" in cases:
        cases = from_json(zlib.decompress(base64.b64decode(cases["packed"])).decode())
    inputs, outputs = cases["inputs"], cases["outputs"]
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs")
    if name is None:
        return _streams(text, tuple(map(StreamCase, inputs, outputs)), _DECIMALS)
    return _calls(
        text, "", name, [(_arguments(i), from_json(o)) for i, o in zip(inputs, outputs, strict=True)]
    )


def _with_stub(text: str, stub: str) -> str:
    if stub:
        return f"{text}\n\nUse this:\n```python\n{stub.rstrip()}\n```"
    return f"{text}\n\nWrite a program that reads standard input and writes standard output."


_FORMS = (
    ("test_list", "MBPP", _mbpp),
    ("tests", "MBPP", _mbpp),
    ("input_output", "APPS", _apps),
    ("public_test_cases", "LiveCodeBench", _livecodebench),
    ("unit_tests", "NeMo Gym", _nemo_gym),
)
"""The field that identifies a format, the name of the format, and its reader."""


def _cases(held: Any) -> list[dict[str, Any]]:
    """Return cases that are stored as a list, as JSON, or as JSON in a compressed pickle in base64."""
    if not isinstance(held, str):
        return list(held)
    if held.lstrip().startswith("["):
        return json.loads(held)
    return json.loads(_Text(io.BytesIO(zlib.decompress(base64.b64decode(held)))).load())


def from_json(text: str) -> Any:
    """Parse JSON with integers of any length."""
    return json.loads(text, parse_int=_integer)


def _integer(text: str) -> int:
    """Parse an integer of any length, which Python itself refuses."""
    digits, value = text.lstrip("-"), 0
    for start in range(0, len(digits), _CHUNK):
        part = digits[start : start + _CHUNK]
        value = value * 10 ** len(part) + int(part)
    return -value if text.startswith("-") else value


class _Text(pickle.Unpickler):
    """Reads a pickle of builtin types; a pickle that names anything else could run code."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Refuse."""
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")
