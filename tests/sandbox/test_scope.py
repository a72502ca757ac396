"""What a program finds in its interpreter, as it would with a judge of contests or at a prompt."""

from __future__ import annotations

import pytest
from running import call

from areal.sandbox.interface import Call, Calls, Job, Raised, Returned, Script


def stdout(sandbox, source: str, stdin: str = "", scope: str = "contest", **options) -> str:
    outcome = sandbox.run_blocking(Job(source, Script(stdin, **options), scope=scope))
    assert outcome.status == "ok", outcome.error
    return outcome.stdout


@pytest.mark.parametrize("end", ["exit()", "quit()", "exit(0)", "import sys; sys.exit()", "raise SystemExit"])
def test_a_program_may_end_itself(sandbox, end: str):
    assert stdout(sandbox, f"print(1)\n{end}\nprint(2)", scope="") == "1\n"


@pytest.mark.parametrize("end", ["exit(1)", "quit('bad')", "import sys; sys.exit(3)"])
def test_an_exit_code_fails_unless_any_will_do(sandbox, end: str):
    assert sandbox.run_blocking(Job(f"print(1)\n{end}", Script())).status == "runtime_error"
    assert stdout(sandbox, f"print(1)\n{end}", any_exit=True) == "1\n"


@pytest.mark.parametrize("end", ["1/0", "import os; os._exit(1)", "import ctypes; ctypes.string_at(0)"])
def test_any_exit_code_is_not_any_end(sandbox, end: str):
    job = Job(f"print(1, flush=True)\n{end}", Script(any_exit=True))
    assert sandbox.run_blocking(job).status != "ok"


def test_long_integers_are_text(sandbox):
    assert stdout(sandbox, "print(7 ** 7113)") == _digits(7**7113) + "\n"
    assert stdout(sandbox, "print(int(input()) % 97)", "1" * 9000) == f"{(10**9000 - 1) // 9 % 97}\n"
    assert call(sandbox, "def f(x): return len(str(x))", 10**4200).values == (Returned(4201),)


def _digits(number: int) -> str:
    """Return an integer of less than 8,000 digits as text, whatever the limit of this process."""
    high, low = divmod(number, 10**4000)
    return f"{high}{low:04000}"


CONTEST = [
    ("def f(x: List[int]) -> Optional[int]: return max(x)", [3, 5], 5),
    ("def f(x):\n    c = Counter(x)\n    return c.most_common(1)[0][0]", "abb", "b"),
    ("def f(x):\n    h = list(x)\n    heapify(h)\n    return heappop(h)", [4, 2, 9], 2),
    (
        "class T:\n    xs: Dict[str, List[int]] = defaultdict(list)\ndef f(x): return bisect_left(x, inf)",
        [1],
        1,
    ),
    ("@lru_cache(None)\ndef f(x): return 1 if x < 2 else f(x - 1) + 1", 4000, 4000),
    ("def f(x): return [gcd(*p) for p in pairwise(x)]", [4, 6, 9], [2, 3]),
    ("def f(x): return mean(x) + math.floor(pi) + datetime.datetime(2020, 1, x[0]).day", [2, 4], 8),
    ("def f(x):\n    return (lambda: reduce(operator.mul, accumulate(x)))()", [1, 2, 3], 18),
    ("def f(x): return pow(x, 3, 5) + (randint(1, 1) - 1)", 3, 2),
]


@pytest.mark.parametrize(("source", "given", "right"), CONTEST)
def test_what_a_contest_puts_in_scope(sandbox, source: str, given: object, right: object):
    job = Job(source, Calls((Call("f", (given,)),)), scope="contest")
    assert sandbox.run_blocking(job).values == (Returned(right),)
    plain = sandbox.run_blocking(Job(source, Calls((Call("f", (given,)),))))
    assert plain.status == "runtime_error" or isinstance(plain.values[0], Raised) or "pow" in source


@pytest.mark.parametrize("name", ["undefined", "np", "ListNode", "numpy", "Solution"])
def test_what_a_contest_does_not_put_in_scope(sandbox, name: str):
    job = Job(f"def f(x): return {name}", Calls((Call("f", (1,)),)), scope="contest")
    (answer,) = sandbox.run_blocking(job).values
    assert isinstance(answer, Raised)
    assert answer.type_names[0] == "NameError"


def test_a_program_s_own_names_count(sandbox):
    source = "gcd = abs\nfrom math import floor as ceil\nList = 5\ndef f(x): return gcd(x), List, ceil(x)"
    job = Job(source, Calls((Call("f", (2.5,)),)), scope="contest")
    assert sandbox.run_blocking(job).values == (Returned((2.5, 5, 2)),)


def test_what_stands_before_a_program(sandbox):
    source = "from __future__ import annotations\ndef f(x: Missing) -> int: return helper(x) + K"
    job = Job(source, Calls((Call("f", (2,)),)), before="K = 1\ndef helper(x): return 10 * x")
    assert sandbox.run_blocking(job).values == (Returned(21),)
    assert "NameError" in sandbox.run_blocking(Job(source, Calls(()), before="K = L")).error


def test_what_is_called_otherwise(sandbox):
    both = "class Solution:\n    def f(self): return 1\ndef f(): return 2"
    for source, right in (
        (both, 1),
        ("def f(): return 2", 2),
        ("class Solution:\n    f = lambda self: 3", 3),
    ):
        assert sandbox.run_blocking(Job(source, Calls((Call("Solution.f", otherwise="f"),)))).values == (
            Returned(right),
        )
    (missing,) = sandbox.run_blocking(Job("x = 1", Calls((Call("Solution.f", otherwise="f"),)))).values
    assert "'Solution' is not defined" in missing.message


PEEK = """
import os, sys
def f(x):
    frame = sys._getframe()
    while 'channel' not in frame.f_locals:
        frame = frame.f_back
    os.set_blocking(3, False)
    return frame.f_locals['channel']._incoming.peek(1 << 16).decode()
"""


def test_a_call_is_sent_when_the_one_before_it_has_been_answered(sandbox):
    """Else the code can return hidden calls as the answer to one that it may see."""
    calls = (Call("f", ("open",)), Call("f", ("HIDDEN",)))
    hidden, shown = (sandbox.run_blocking(Job(PEEK, Calls(calls, ahead=ahead))) for ahead in (False, True))
    assert "HIDDEN" not in hidden.values[0].value
    assert "HIDDEN" in shown.values[0].value
