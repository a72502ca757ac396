"""Verifiers of code: each form of tests, partial credit, comparison, and failures that are not the code's."""

from __future__ import annotations

import gzip
import json
import math
import random
import time

import pytest
from data import data_file
from mutants import mutate

from areal.rewards.cases import AssertTests, CallCase, CallTests, CheckTests, StreamCase, StreamTests
from areal.rewards.code import CodeVerifier
from areal.rewards.compare import Comparison, Raises
from areal.sandbox.interface import Call, Job, Outcome, SandboxLimits, SandboxUnavailable


@pytest.fixture
def verifier(sandbox):
    return CodeVerifier(sandbox, SandboxLimits(wall_s=10))


def calls(*cases) -> CallTests:
    return CallTests(tuple(CallCase(Call("f", args), expected) for args, expected in cases))


async def test_calls(verifier):
    tests = calls(((1, 2), 3), (("a", "b"), "ab"), (([], [1]), [1]))
    assert (await verifier.verify("def f(a, b): return a + b", tests)).score == 1
    verdict = await verifier.verify("def f(a, b): return a - b", tests)
    assert verdict.score == 0
    assert [case.status for case in verdict.cases] == ["wrong", "runtime_error", "runtime_error"]
    failure = verdict.failure
    assert (failure.asked, failure.got, failure.expected) == ("f(1, 2)", "-1", "3")
    assert "return a - b" in verdict.cases[1].trace


async def test_expected_exceptions(verifier):
    tests = calls(((0,), Raises("ValueError")), ((1,), 1))
    assert (
        await verifier.verify("def f(x):\n    if not x: raise UnicodeError\n    return x", tests)
    ).score == 1
    assert (await verifier.verify("def f(x):\n    if not x: raise TypeError\n    return x", tests)).score == 0
    assert (await verifier.verify("def f(x): return x", tests)).score == 0


async def test_streams(verifier):
    tests = StreamTests((StreamCase("1 2\n", "3\n"), StreamCase("5 5\n", "10")))
    assert (await verifier.verify("print(sum(map(int, input().split())), end='  \\n\\n')", tests)).score == 1
    verdict = await verifier.verify("print(3)", tests)
    assert [case.passed for case in verdict.cases] == [True, False]
    assert (verdict.failure.asked, verdict.failure.got, verdict.failure.expected) == ("5 5\n", "3\n", "10")
    assert (await verifier.verify("print(sum(map(int, input().split()))); 1/0", tests)).score == 0
    assert (
        await verifier.verify("print(sum(map(int, input().split()))); raise SystemExit(1)", tests)
    ).score == 0


ASSERTS = AssertTests(
    (
        "assert f(2) == 4",
        "assert 9 == f(3)",
        "assert f(2.0) == 4 and f(1) == 1",
        "assert math.isclose(f(0.1), 0.01, rel_tol=1e-9)",
        "assert sorted([f(2), f(1)]) == [1, K]",
        "assert not f(0)",
        "assert set(map(f, [1, -1])) == {1}",
    ),
    "K = 4",
)


async def test_assertions_of_every_form(verifier):
    assert (await verifier.verify("def f(x): return x * x", ASSERTS)).score == 1
    verdict = await verifier.verify("def f(x): return x + x", ASSERTS)
    assert [case.passed for case in verdict.cases] == [True] + [False] * 6
    cheat = "import builtins\nbuiltins.set = builtins.sorted = lambda *a: [1, 4]\ndef f(x): return x + x"
    assert (await verifier.verify(cheat, ASSERTS)).score == 0


async def test_assertions_that_name_a_builtin_mean_the_code(verifier):
    tests = AssertTests(("assert sum(10, 15) == 6",))
    assert (await verifier.verify("def sum(a, b): return 6", tests)).score == 1
    assert (await verifier.verify("def other(a, b): return 6", tests)).score == 0


async def test_assertions_cannot_need_an_object_of_the_code(verifier):
    with pytest.raises(ValueError, match="Node"):
        await verifier.verify("class Node: pass", AssertTests(("assert f(root) == 1",), "root = Node()"))
    with pytest.raises(ValueError, match="case"):
        await verifier.verify("", AssertTests(()))


PROMPT = '''
def encode(text):
    return text[::-1]

def decode(text):
    """Undo encode."""
'''
CHECK = """
METADATA = {}
def check(candidate):
    for text in ("", "ab", "xyz"):
        assert candidate(encode(text)) == text, "no"
"""


async def test_check_uses_the_helpers_of_the_prompt_not_those_of_the_code(verifier):
    tests = CheckTests(CHECK, "decode", PROMPT)
    assert (await verifier.verify(PROMPT + "    return text[::-1]", tests)).score == 1
    cheat = "def encode(text): return text\ndef decode(text): return text"
    verdict = await verifier.verify(cheat, tests)
    assert (verdict.score, verdict.failure.status) == (0, "wrong")
    failure = verdict.failure
    assert (failure.asked, failure.got) == ("decode('ba')", "'ba'") or failure.asked == "decode('ab')"
    assert "AssertionError: no" in failure.expected


async def test_partial_credit_is_the_share_that_passed(sandbox):
    verifier = CodeVerifier(sandbox, SandboxLimits(wall_s=1), partial=True)
    tests = calls(((0,), 0), ((1,), 1), ((2,), 4), ((3,), 9))
    assert (
        await verifier.verify("def f(x): return x if x < 2 else x * x if x == 2 else None", tests)
    ).score == 0.75
    assert (await verifier.verify("def f(x):\n    while x == 1: pass\n    return x * x", tests)).score == 0.25
    verdict = await verifier.verify("def f(x): return x * x if x > 1 else 0", ASSERTS)
    assert verdict.score == 3 / 7
    streams = StreamTests((StreamCase("1", "1"), StreamCase("2", "4"), StreamCase("3", "3")))
    assert (await verifier.verify("print(input())", streams)).score == 2 / 3


async def test_comparison_of_answers(sandbox):
    loose = CodeVerifier(sandbox, comparison=Comparison(relative=1e-6, tuples_are_lists=True))
    strict = CodeVerifier(sandbox)
    tests = calls(((), [0.3, [1, 2], {"k": 1.0}]))
    source = "def f(): return (0.1 + 0.2, (1, 2), {'k': 1.0000000001})"
    assert (await loose.verify(source, tests)).score == 1
    assert (await strict.verify(source, tests)).score == 0


@pytest.mark.parametrize(
    ("actual", "expected", "alike"),
    [
        (1, 1.0, True),
        (True, 1, True),
        (1 + 1e-9, 1, False),
        (1, 1 + 1e-9, True),
        (1 - 1e-9, True, False),
        (True, 1 + 1e-9, False),
        ([1 + 1e-9, 0.5], [1, 0.5], False),
        (1.1, 1, False),
        ("1", 1, False),
        ([1, 2], (1, 2), False),
        ({1.0, 2.0}, {1.0, 2.0 + 1e-9}, True),
        ({1.0, "a"}, {1.0, "b"}, False),
        ({"a": [0.1 + 0.2]}, {"a": [0.3]}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        (math.nan, math.nan, False),
        (math.inf, math.inf, True),
        (10**400, 1.5, False),
        (None, 0.0, False),
        ([0.1] * 3, [0.1] * 2, False),
    ],
)
def test_tolerance(actual, expected, alike):
    assert Comparison(relative=1e-6).values(actual, expected) is alike


@pytest.mark.parametrize(
    ("actual", "expected", "alike"),
    [
        ("1.0000001 a\n", "1.0 a", True),
        ("1.0000001 a\n", "1 a", False),
        ("1.0 a", "1 a", True),
        ("1.1", "1", False),
        ("nan", "1", False),
        ("1_0", "10", False),
        ("1\u20282", "1\n2", False),
        ("1 2", "1\n2", False),
        ("x\n\n", "x", True),
    ],
)
def test_tolerance_of_text(actual, expected, alike):
    assert Comparison(relative=1e-6).texts(actual, expected) is alike


def test_a_bomb_for_the_tolerance_of_text():
    start = time.process_time()
    loose = Comparison(relative=1e-6)
    assert not loose.texts("1" * 1_000_000 + "x", "1")
    assert not loose.texts("1" * 1_000_000, "1")
    assert time.process_time() - start < 5


async def test_an_exception_that_ends_loops_does_not_end_a_check(verifier):
    """``all(map(f, …))`` takes a StopIteration out of ``f`` for the end of the cases."""
    source = "def f(x):\n    if x > 1: raise StopIteration\n    return x"
    tests = AssertTests(("assert sorted(map(f, [1, 2, 3])) == [1]", "assert all(map(f, [2, 3]))"))
    assert (await verifier.verify(source, tests)).score == 0
    check = CheckTests("def check(c):\n    assert all(map(c, [1, 2]))", "f")
    assert (await verifier.verify(source, check)).score == 0


async def test_a_failed_check_shows_the_last_call_and_no_secret(verifier):
    tests = AssertTests(("assert f(1) + 4321 == 4325", "assert set(map(f, [7])) == {8765}"))
    verdict = await verifier.verify("def f(x): return x + 3 if x < 7 else 1 / 0", tests)
    first, second = verdict.cases
    assert first.passed
    assert (second.asked, second.got, second.status) == (
        "f(7)",
        "ZeroDivisionError: division by zero",
        "runtime_error",
    )
    assert "1 / 0" in second.trace
    assert "8765" in second.expected
    assert "8765" not in second.asked + second.got + second.trace


async def test_parsing_assertions_has_a_limit_of_its_own(sandbox):
    """However short that of the code is: else a good list would look broken on a busy machine."""
    many = AssertTests(tuple(f"assert f({n}) == {n * n}" for n in range(3000)))
    verdict = await CodeVerifier(sandbox, SandboxLimits(wall_s=0.01)).verify("while True: pass", many)
    assert {case.status for case in verdict.cases} == {"timeout"}


async def test_with_partial_credit_a_program_that_hangs_is_not_run_for_each_case(sandbox):
    verifier = CodeVerifier(sandbox, SandboxLimits(wall_s=2), partial=True)
    tests = StreamTests(tuple(StreamCase(f"{n}", f"{n}") for n in range(20)))
    verdict = await verifier.verify(
        "import time\nn = input()\nwhile n != '0': time.sleep(1)\nprint(n)", tests
    )
    assert verdict.score == 1 / 20
    assert verdict.seconds < 20
    assert {case.status for case in verdict.cases[1:]} == {"timeout"}


async def test_verifying_without_waiting_for_a_loop(verifier):
    tests = calls(((2,), 4))
    assert verifier.verify_blocking("def f(x): return x * x", tests).score == 1, "a loop is running here"


THREE = AssertTests(
    ("assert list(f(3)) == [0, 1, 2]", "assert sum(f(4)) == 6", "assert sorted(f(2)) == [0, 1]")
)


@pytest.mark.parametrize(
    ("source", "right"),
    [
        ("def f(n): yield from range(n)", 1),
        ("def f(n): return map(int, range(n))", 1),
        ("def f(n): return range(n)", 1),
        ("def f(n): return dict.fromkeys(range(n)).keys()", 1),
        ("def f(n): return zip(range(n))", 0),
        ("def f(n):\n    while True: yield 0", 0),
        ("def f(n):\n    yield 0\n    raise ValueError", 0),
        ("def f(n): return (f for _ in range(n))", 0),
    ],
)
async def test_a_checker_goes_through_what_is_yielded(verifier, source, right):
    assert (await verifier.verify(source, THREE)).score == right
    # A value is something else.
    assert (await verifier.verify(source, AssertTests(("assert f(3) == [0, 1, 2]",)))).score == 0
    assert (
        await verifier.verify(source, CheckTests("def check(c):\n    assert c(3) == [0, 1, 2]", "f"))
    ).score == 0


class Failing:
    """A sandbox that fails so many times before it runs what it is given."""

    def __init__(self, sandbox, failures: int) -> None:
        self.sandbox, self.failures = sandbox, failures

    async def run(self, job: Job, limits: SandboxLimits | None = None) -> Outcome:
        if self.failures:
            self.failures -= 1
            return Outcome("infra_error", error="no descriptors left")
        return await self.sandbox.run(job, limits)


async def test_our_failures_are_retried_counted_and_never_a_score(sandbox):
    tests = calls(((2,), 4))
    verifier = CodeVerifier(Failing(sandbox, 2))
    assert (await verifier.verify("def f(x): return x * x", tests)).score == 1
    assert verifier.infra_failures == 2
    verifier = CodeVerifier(Failing(sandbox, 3))
    with pytest.raises(SandboxUnavailable, match="no descriptors left"):
        await verifier.verify("def f(x): return x", tests)


UNVERIFIABLE = {367, 601, 927}
"""MBPP tasks whose tests build objects of the solution's own classes: by value they cannot be tested."""


def mbpp() -> list[tuple[int, str, AssertTests]]:
    rows = [json.loads(line) for line in data_file("mbpp.jsonl").read_text().splitlines()]
    return [
        (number, row["code"], AssertTests(tuple(row["test_list"]), row["test_setup_code"]))
        for number, row in enumerate(rows, 1)
    ]


async def test_the_solutions_of_mbpp_pass(sandbox):
    # Problem 123 computes for two seconds on an idle machine: what is too slow is not the question here.
    verifier = CodeVerifier(sandbox, SandboxLimits(wall_s=20))
    failed = set()
    for number, source, tests in mbpp():
        try:
            verdict = await verifier.verify(source, tests)
        except ValueError:
            failed.add(number)
        else:
            failed |= {number} if verdict.score != 1 else set()
    assert failed == UNVERIFIABLE


async def test_the_solutions_of_humaneval_pass(sandbox):
    verifier = CodeVerifier(sandbox, SandboxLimits(wall_s=20))
    lines = gzip.decompress(data_file("HumanEval.jsonl.gz").read_bytes()).splitlines()
    rows = [json.loads(line) for line in lines]
    failed, passed_empty = [], []
    for row in rows:
        tests = CheckTests(row["test"], row["entry_point"], row["prompt"])
        if (await verifier.verify(row["prompt"] + row["canonical_solution"], tests)).score != 1:
            failed.append(row["task_id"])
        if (await verifier.verify(row["prompt"] + "    return None", tests)).score != 0:
            passed_empty.append(row["task_id"])
    assert (len(rows), failed, passed_empty) == (164, [], [])


async def test_mutated_solutions_of_mbpp_are_mostly_caught(sandbox):
    verifier = CodeVerifier(sandbox, SandboxLimits(wall_s=1))
    rng = random.Random(0)
    caught = total = 0
    for number, source, tests in rng.sample(mbpp(), 150):
        mutant = mutate(source, rng)
        if number in UNVERIFIABLE or mutant is None:
            continue
        total += 1
        caught += (await verifier.verify(mutant, tests)).score == 0
    assert total > 100
    assert caught / total > 0.7
