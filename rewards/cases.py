"""The usual forms of tests that code benchmarks come with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from areal.sandbox.interface import Call


@dataclass(frozen=True, slots=True)
class CallCase:
    """One call and what it must return: a value made of builtin types, compare.Raises or compare.Either."""

    call: Call
    expected: Any


@dataclass(frozen=True, slots=True)
class CallTests:
    """Functions with expected values (LiveCodeBench and APPS with a function name); ``scope`` as in a Job."""

    cases: tuple[CallCase, ...]
    scope: Literal["", "contest"] = ""


@dataclass(frozen=True, slots=True)
class StreamCase:
    """What a program reads, and what it must write."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class StreamTests:
    """Programs that read standard input and write standard output (APPS, LiveCodeBench).

    Attributes:
        cases: what is read and written.
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
    """A function ``check(candidate)`` that asserts what it likes; it is one case (HumanEval).

    Attributes:
        check: code that defines it.
        entry: the name of the function under test, or ``Solution.name`` for a method.
        prompt: what the model was asked to complete; helpers that it defines serve the check.
        script: whether the code runs its assertions itself, rather than in a function ``check``.
    """

    check: str
    entry: str
    prompt: str = ""
    script: bool = False


Tests: TypeAlias = CallTests | StreamTests | AssertTests | CheckTests
