"""The usual forms of tests in code benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from areal.sandbox.interface import Call


@dataclass(frozen=True, slots=True)
class CallCase:
    """One call and its expected return value: builtin types, compare.Raises or compare.Either."""

    call: Call
    expected: Any


@dataclass(frozen=True, slots=True)
class CallTests:
    """Functions with expected values (LiveCodeBench and APPS with a function name); ``scope`` as in a Job."""

    cases: tuple[CallCase, ...]
    scope: Literal["", "contest"] = ""


@dataclass(frozen=True, slots=True)
class StreamCase:
    """The input of a program, and its expected output."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class StreamTests:
    """Programs that read standard input and write standard output (APPS, LiveCodeBench).

    Attributes:
        cases: inputs and expected outputs.
        scope: as in a Job.
        any_exit: as in a Script.
    """

    cases: tuple[StreamCase, ...]
    scope: Literal["", "contest"] = ""
    any_exit: bool = False


@dataclass(frozen=True, slots=True)
class AssertTests:
    """A list of assertions, one case each (MBPP).

    Attributes:
        asserts: such as ``"assert add(1, 2) == 3"``.
        setup: executed before them, without the code under test.
    """

    asserts: tuple[str, ...]
    setup: str = ""


@dataclass(frozen=True, slots=True)
class CheckTests:
    """A function ``check(candidate)`` with any assertions, which is one case (HumanEval).

    Attributes:
        check: code that defines the function.
        entry: the name of the function under test, or ``Solution.name`` for a method.
        prompt: the code that the model was asked to complete; the check can use its helpers.
        script: whether the code runs its assertions itself, instead of in a function ``check``.
    """

    check: str
    entry: str
    prompt: str = ""
    script: bool = False


Tests: TypeAlias = CallTests | StreamTests | AssertTests | CheckTests
