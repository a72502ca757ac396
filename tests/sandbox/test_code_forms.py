"""Answers to problems in the forms of benchmarks get what the benchmark's own runner would give them."""

from __future__ import annotations

import json

import pytest

from areal.envs.code import placed
from areal.envs.code_blocks import program_of
from areal.envs.code_problems import code_problem
from areal.errors import UserError
from areal.rewards.code import CodeVerifier
from areal.rewards.compare import Comparison, Either


def score(sandbox, row: dict, answer: str) -> float:
    problem = code_problem(row, "rows.jsonl, line 1")
    source, before = placed(problem, program_of(answer, problem.wanted)[0])
    verifier = CodeVerifier(sandbox, comparison=problem.comparison)
    return verifier.verify_blocking(source, problem.tests, before=before).score


def fenced(source: str) -> str:
    return f"So:\n```python\n{source}\n```"


def livecodebench(cases: list[tuple[str, str]], kind: str = "stdin", stub: str = "", name: str = "") -> dict:
    held = [{"input": given, "output": output, "testtype": kind} for given, output in cases]
    metadata = json.dumps({"func_name": name} if name else {})
    return {
        "question_content": "Do it.",
        "starter_code": stub,
        "public_test_cases": json.dumps(held),
        "private_test_cases": "[]",
        "metadata": metadata,
    }


def apps(inputs: list, outputs: list, name: str | None = None, stub: str = "") -> dict:
    cases = {"inputs": inputs, "outputs": outputs} | ({"fn_name": name} if name else {})
    return {"question": "Do it.", "starter_code": stub, "input_output": json.dumps(cases)}


OUTPUTS = [
    # what is wanted, what is printed, LiveCodeBench's verdict, APPS'
    ("2", "print(2.0)", 1, 1),
    ("2.0", "print(2)", 1, 1),
    ("1000", "print('1e3')", 1, 1),
    ("0", "print(-0.0)", 1, 1),
    ("1 2.50", "print('1.0  2.5')", 1, 1),
    ("3.142857", "print(22 / 7)", 0, 1),
    ("0.5 0.333333333", "print(1 / 2, 1 / 3)", 0, 1),
    ("3.142857", "print(3.1421)", 0, 0),
    ("2", "print(2.0000001)", 0, 0),
    ("100000", "print(100001)", 0, 0),
    ("50000000000000000", "print(50000000000000001)", 0, 0),
    ("50000000000000001", "print(5e16)", 0, 0),
    ("0.0000001", "print(1e-7)", 1, 1),
    ("inf", "print(float('inf'))", 1, 1),
    ("1", "print(float('nan'))", 0, 0),
    ("nan", "print(float('nan'))", 1, 1),
    ("YES\nNO", "print('YES ')\nprint('  NO', end='')", 1, 1),
    ("YES\nNO\n\n", "print('\\nYES\\r\\nNO')", 1, 1),
    ("YES\nNO", "print('YES\\n\\nNO')", 0, 1),
    ("a b", "print('a  b')", 0, 1),
    ("1 2", "print('1\\n2')", 0, 0),
    ("1 2", "print('2 1')", 0, 0),
    ("YES\nNO\nYES", "print('NO\\nYES')", 0, 0),
    ("YES\nNO", "print('yes\\nno')", 0, 0),
    ("True", "print('true')", 0, 0),
    ("1000", "print('1,000')", 0, 0),
    ("x 1.5", "print('x', 1.50)", 1, 1),
    ("x 1.50", "print('x', 1.5)", 0, 1),
    ("", "pass", 1, 1),
    ("", "print(0)", 0, 0),
    ("0", "pass", 0, 0),
]


@pytest.mark.parametrize(("wanted", "source", "decimals", "words"), OUTPUTS)
def test_outputs(sandbox, wanted: str, source: str, decimals: int, words: int):
    assert score(sandbox, livecodebench([("", wanted)]), fenced(source)) == decimals
    assert score(sandbox, apps([""], [wanted]), fenced(source)) == words


def test_outputs_of_hostile_length_take_linear_time():
    for mode in ("decimals", "words"):
        loose = Comparison(relative=1e-5, output=mode)
        long = "1" * 1_000_000
        assert not loose.texts(long, "1")
        assert not loose.texts(f"{long}x", long)
        assert not loose.texts("1e999999999", "1")
        assert not loose.texts("snan", "nan")
        assert loose.texts(long, f"{long}.0")


PROGRAMS = [
    ("print(int(input()))\nexit()", 1),
    ("print(int(input()))\nsys.exit(3)", 1),
    ("print(int(stdin.readline()))\nquit(1)", 1),
    (
        "def main():\n    print(int(input()))\nif __name__ == '__main__':\n    main()",
        1,
    ),
    ("import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())", 1),
    ("from typing import *\nxs: List[int] = [int(input())]\nprint(*xs, sep=', ')", 1),
    ("d = defaultdict(int)\nd[input()] += 1\nprint(next(iter(d)))", 1),
    ("def deep(n): return n and deep(n - 1)\ndeep(20000)\nprint(input())", 1),
    ("print(int(open(0).read()))", 1),
    ("print(int(open('/dev/stdin').read()))", 1),
    ("sys.stdin = open('/dev/stdin')\nprint(input(), file=open('/dev/stdout', 'w'))", 1),
    # Nobody flushed or closed it: the interpreter does at its end.
    ("out = open(1, 'w')\nout.write(input())", 1),
    ("out = [open('/dev/stdout', 'w')]\nout[0].write(input())\nexit()", 1),
    ("io.BufferedWriter(io.FileIO(1, 'w', closefd=False)).write(input().encode())", 1),
    ("out = io.BufferedWriter(io.FileIO(1, 'w', closefd=False))\nout.write(input().encode())", 1),
    ("write = sys.stdout.write\nsys.stdout = None\nwrite(open(0).read())", 1),
    ("print(input())\nsys.stdout = io.StringIO()\nprint('debug')", 1),
    ("print(input())\ndel sys.stdout", 1),
    ("class Late:\n    def __del__(self): print(8)\nlate = Late()\nprint(input())", 0),
    ("sys.stdout = io.StringIO()\nprint(input())", 0),
    ("@cache\ndef f(n): return n and f(n - 1)\nsys.setrecursionlimit(10**6)\nf(50000)\nprint(input())", 1),
    ("print(int(open('/dev/stderr').read()))", 0),
    ("print(int(open('input.txt').read()))", 0),
    ("print(int(input('n = ')))", 0),
    ("import os\nprint(int(input()), flush=True)\nos._exit(1)", 0),
    ("print(int(input()))\n1 / 0", 0),
    ("print(int(input()))\nsys.exit(3)\nprint(", 0),
    ("print(undefined)", 0),
]


@pytest.mark.parametrize(("source", "right"), PROGRAMS)
def test_programs(sandbox, source: str, right: int):
    for row in (livecodebench([("7\n", "7\n"), ("8", "8")]), apps(["7\n", "8"], ["7\n", "8"])):
        assert score(sandbox, row, fenced(source)) == right


LONG = str(7**3500) + "1" * 4000


@pytest.mark.parametrize(
    ("source", "right"),
    [("print(input())", 1), ("print(int(input()))", 1), ("print(int(input()) + 1)", 0), ("print(0)", 0)],
)
def test_long_integers(sandbox, source: str, right: int):
    assert len(LONG) > 6000
    for row in (livecodebench([(LONG, LONG)]), apps([LONG], [LONG])):
        assert score(sandbox, row, fenced(source)) == right


@pytest.mark.parametrize(
    ("source", "right"),
    [
        ("def f(x): return x + 1", 1),
        ("def f(x): return int(str(x + 1))", 1),
        ("def f(x): return x", 0),
        ("def f(x): return float('inf')", 0),
        ("def f(x): return str(x + 1)", 0),
    ],
)
def test_long_integers_of_calls(sandbox, source: str, right: int):
    given, output = "1" * 6011, "1" * 6010 + "2"
    assert score(sandbox, livecodebench([(given, output)], "functional", "", "f"), fenced(source)) == right
    assert score(sandbox, apps([given], [output], "f"), fenced(source)) == right
    asserts = [f"assert f({given[:4000]} * 10 ** 2011) != 3", "assert f(10 ** 6010) == 10 ** 6010 + 1"]
    assert score(sandbox, {"text": "Add one.", "test_list": asserts}, fenced(source)) == right


STUB = "class Solution:\n    def total(self, nums: List[int]) -> int:\n        "
FUNCTIONS = [
    ("class Solution:\n    def total(self, nums: List[int]) -> int:\n        return sum(nums)", 1),
    (
        "from typing import *\nclass Solution:\n    def total(self, n: List[int]): return sum(n)",
        1,
    ),
    (
        "class Solution:\n    def total(self, n: Optional[List[int]]): return reduce(add, n, 0)",
        1,
    ),
    ("def total(nums: List[int]) -> int:\n    return sum(nums)", 1),
    ("total = lambda nums: sum(nums)", 1),
    ("class Solution:\n    @staticmethod\n    def total(nums): return sum(nums)", 1),
    (
        "class Solution:\n    @cache\n    def s(self, n): return n\n    def total(self, n): return sum(n)",
        1,
    ),
    ("class Solution:\n    def total(self, nums): return float(sum(nums))", 1),
    ("class Solution:\n    def total(self, nums): return sum(nums) + 1e-9", 0),
    ("class Solution:\n    def total(self, nums): yield sum(nums)", 0),
    ("class Solution:\n    async def total(self, nums): return sum(nums)", 0),
    ("class Solution:\n    def total(self, nums: Lst[int]): return sum(nums)", 0),
    ("class Solution:\n    def sum(self, nums): return sum(nums)", 0),
    ("print(sum(eval(input())))", 0),
    ("def total(nums): return Fraction(sum(nums))", 0),
    ("from fractions import Fraction\ndef total(nums): return sum(map(Fraction, nums), Fraction())", 1),
    ("from decimal import Decimal\ndef total(nums): return Decimal(sum(nums))", 1),
    ("from decimal import Decimal\ndef total(nums): return Decimal(sum(nums)) + Decimal('1e-9')", 0),
    ("from decimal import Decimal\ndef total(nums): return Decimal('nan')", 0),
]


@pytest.mark.parametrize(("source", "right"), FUNCTIONS)
def test_functions(sandbox, source: str, right: int):
    row = livecodebench([("[1, 2]", "3"), ("[]", "0")], "functional", STUB, "total")
    assert score(sandbox, row, fenced(source)) == right
    assert score(sandbox, apps(["[1, 2]", "[]"], ["3", "0"], "total"), fenced(source)) == right


KEPT = [
    # What an object keeps from the first call on, as in the runners of both.
    (
        "class Solution:\n    n = 0\n    def f(self, x):\n        self.n += x\n        return self.n",
        [1, 2],
    ),
    (
        "class Solution:\n    def __init__(self): self.seen = []\n"
        "    def f(self, x):\n        self.seen.append(x)\n        return len(self.seen)",
        [1, 2],
    ),
    ("class Solution:\n    def f(self, x):\n        x += 1\n        return x", [2, 2]),
]


@pytest.mark.parametrize(("source", "results"), KEPT)
def test_an_object_serves_all_calls(sandbox, source: str, results: list):
    wrong = [results[0], 3 - results[1] + 2]
    for wanted, right in ((results, 1), (wrong, 0)):
        cases = [("1", str(wanted[0])), ("1", str(wanted[1]))]
        row = livecodebench(cases, "functional", STUB.replace("total", "f"), "f")
        assert score(sandbox, row, fenced(source)) == right
        row = apps([[1], [1]], [[value] for value in wanted], "f", STUB.replace("total", "f"))
        assert score(sandbox, row, fenced(source)) == right
        test = f"def check(candidate):\n    assert [candidate(1), candidate(1)] == {wanted}\n"
        row = {"prompt": "", "test": test, "entry_point": "Solution().f"}
        assert score(sandbox, row, fenced(source)) == right


RESULTS = [
    # inputs, outputs, a function, right
    (["[1,2]\n3"], ["6"], "def f(xs, n): return sum(xs) + n", 1),
    (["[1,2]\n3\n"], ["6"], "def f(xs, n): return sum(xs) + n", 1),
    (['"a\u2028b"'], ['"b"'], "def f(s): return s[-1]", 1),
    ([[[1, 2], 3]], [6], "def f(xs, n): return sum(xs) + n", 1),
    ([[[1, 2], 3]], [[6]], "def f(xs, n): return sum(xs) + n", 1),
    ([["a"]], ["6"], "def f(s): return '6'", 1),
    ([["a"]], ["6"], "def f(s): return 6", 0),
    (["[1,2]\n3"], ["6"], "def f(*xs): return str(6)", 0),
    ([[[5, 5]]], [[5]], "def f(xs): return [5]", 1),
    ([[[5, 5]]], [[5]], "def f(xs): return 5", 1),
    ([[[5, 5]]], [[5]], "def f(xs): return (5,)", 1),
    ([[[5, 5]]], [[[5]]], "def f(xs): return [5]", 1),
    ([[[5, 5]]], [[5]], "def f(xs): return [[5]]", 0),
    ([[[5, 5]]], [[5]], "def f(xs): return [5, 5]", 0),
    ([[[5, 5]]], [[5, 6]], "def f(xs): return 5", 0),
    ([[1]], [[[1, 2], [3, 4]]], "def f(x): return [(1, 2), (3, 4)]", 1),
    ([[1]], [[[1, 2], [3, 4]]], "def f(x): return [[3, 4], [1, 2]]", 0),
    ([[1]], [[0.3]], "def f(x): return 0.1 + 0.2", 1),
    ([[1]], [[3]], "def f(x): return 3 + 1e-9", 0),
    ([[1]], [[True]], "def f(x): return 1 - 1e-9", 0),
    ([[1]], [[True]], "def f(x): return 1", 1),
    ([[1]], [{"1": 2}], "def f(x): return {1: 2}", 1),
    ([[1]], [{"1": 2}], "def f(x): return {'1': 2}", 1),
    ([[1]], [{"1": 2}], "def f(x): return {1: 3}", 0),
    ([[1]], [{"1": 2}], "def f(x): return {1: 2, '1': 2}", 1),
    ([[{"1": 2}]], [[3]], "def f(d): return d[1] + 1", 1),
    ([[{"a": 2}]], [[3]], "def f(d): return d['a'] + 1", 1),
    ([[[2]]], [[4]], "n = 0\ndef f(xs):\n    xs.append(2)\n    return sum(xs)", 1),
]


@pytest.mark.parametrize(("inputs", "outputs", "source", "right"), RESULTS)
def test_arguments_and_results_of_apps(sandbox, inputs: list, outputs: list, source: str, right: int):
    assert score(sandbox, apps(inputs, outputs, "f"), fenced(source)) == right


@pytest.mark.parametrize("inputs", [["[1,2\n3"], ["abc"], ["1 2"]])
def test_arguments_that_are_no_json_are_refused(inputs: list):
    with pytest.raises(UserError, match="line 1: its tests cannot be read: JSONDecodeError"):
        code_problem(apps(inputs, ["6"], "f"), "rows.jsonl, line 1")


def test_what_is_expected_is_shown_in_either_form(sandbox):
    tests = code_problem(apps([[1]], [[5]], "f"), "").tests
    assert tests.cases[0].expected == Either((5, [5]))
    failure = CodeVerifier(sandbox).verify_blocking("def f(x): return 4", tests).failure
    assert (failure.asked, failure.got, failure.expected) == ("f(1)", "4", "5 or [5]")


PROMPT = 'from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    """Sum."""\n'
COMMENTED = "import math\n\ndef total(xs):\n    # Return the sum.\n"
WORDS = "Write a function total that sums a list."
CHECK = "def check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n"
SCRIPT = "def check(f):\n    assert f([1, 2]) == 3\n    assert f([]) == 0\n\ncheck(total)\n"
BARE = "assert total([1, 2]) == 3\nassert total([]) == 0\n"
COMPLETIONS = [
    ("    return sum(xs)", (1, 1, 0)),
    ("    n = 0\n    for x in xs:\n        n += x\n    return n", (1, 1, 0)),
    ("def total(xs: List[int]) -> int:\n    return sum(xs)", (1, 0, 0)),
    (PROMPT + "    return sum(xs)", (1, 1, 1)),
    ("from __future__ import annotations\n\ndef total(xs: Any) -> int:\n    return sum(xs)", (1, 1, 1)),
    ("    def total(xs):\n        return sum(xs)", (1, 1, 1)),
    ("import functools\ntotal = functools.partial(sum)", (1, 1, 1)),
    ("    return 3", (0, 0, 0)),
    ("def total(xs): return len(xs)", (0, 0, 0)),
    ("def add(xs): return sum(xs)", (0, 0, 0)),
    ("    pass", (0, 0, 0)),
]


@pytest.mark.parametrize("test", [CHECK, SCRIPT, BARE])
@pytest.mark.parametrize(("source", "right"), COMPLETIONS)
def test_completions_of_humaneval(sandbox, test: str, source: str, right: tuple[int, int, int]):
    for prompt, score_of_it in zip((PROMPT, COMMENTED, WORDS), right, strict=True):
        row = {"prompt": prompt, "test": test, "entry_point": "total"}
        assert score(sandbox, row, fenced(source)) == score_of_it, prompt


def test_a_method_as_the_entry_point(sandbox):
    row = {"prompt": "from typing import *\n", "test": CHECK, "entry_point": "Solution().total"}
    method = "class Solution:\n    def total(self, xs: List[int]): return sum(xs)"
    assert score(sandbox, row, fenced(method)) == 1
    assert score(sandbox, row, fenced(method.replace("sum", "len"))) == 0


MBPP_PLUS = {
    "prompt": "Write a function to sum.",
    "test_imports": ["import math"],
    "test_list": ["assert total([1, 2]) == 3"],
    "test": "def close(a, b):\n    return math.isclose(a, b)\n\n"
    "inputs = [[[1, 2]], [[0.1, 0.2]], [[]]]\nresults = [3, 0.3, 0]\n"
    "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assert close(total(*inp), exp)\n",
}


@pytest.mark.parametrize(
    ("source", "right"),
    [
        ("def total(xs): return sum(xs)", 1),
        ("total = sum", 1),
        ("def total(xs): return xs[0] + xs[1]", 0),
        ("def total(xs): return 3", 0),
        ("def close(a, b): return True\ndef total(xs): return 3", 0),
    ],
)
def test_mbpp_plus_is_judged_by_its_script(sandbox, source: str, right: int):
    assert score(sandbox, MBPP_PLUS, fenced(source)) == right
    assert score(sandbox, {k: v for k, v in MBPP_PLUS.items() if k != "test"}, fenced("total = sum")) == 1
