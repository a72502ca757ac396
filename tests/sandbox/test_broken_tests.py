"""Tests that pass anything, or import what is not there, are refused when the data load, by line."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import pytest

import areal
from areal import cli
from areal.agents.python_tool import PythonTool
from areal.envs.code_problems import code_problem
from areal.errors import UserError
from areal.rewards.cases import AssertTests, CheckTests
from areal.rewards.soundness import complaint, packages
from areal.sandbox.packages import interpreter, missing_packages

assert areal.__version__  # importing areal is what makes code-v1 known
pytestmark = pytest.mark.usefixtures("sandbox")

ADD = 'def add(a, b):\n    """Add."""\n'
GOOD = "def check(candidate):\n    assert candidate(1, 2) == 3\n"


def humaneval(test: str, prompt: str = ADD) -> dict:
    return {"task_id": "x/1", "prompt": prompt, "test": test, "entry_point": "add"}


def mbpp(*asserts: str, setup: str = "") -> dict:
    return {"text": "Add.", "test_list": list(asserts), "test_setup_code": setup}


def env_of(tmp_path: Path, *rows: dict, **options):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return gymnasium.make("code-v1", data=str(path), test_data=str(path), **options)


def fenced(source: str) -> str:
    return f"```python\n{source}\n```"


BROKEN = {
    "an empty check": (humaneval("def check(candidate):\n    pass\n"), "never calls add"),
    "a constant": (humaneval("def check(candidate):\n    assert 1 + 2 == 3\n"), "never calls add"),
    "its own function": (
        humaneval("def check(candidate):\n    def add(a, b): return a + b\n    assert add(1, 2) == 3\n"),
        "never calls add",
    ),
    "its own parameter": (
        humaneval("def check(c):\n    c = lambda a, b: a + b\n    assert c(1, 2) == 3\n"),
        "pass whatever add does",
    ),
    "a script's own function": (
        humaneval("def add(a, b): return a + b\nassert add(1, 2) == 3\n"),
        "defines add itself",
    ),
    "its own function, beside the check": (
        humaneval("def add(a, b): return a + b\ndef check(candidate):\n    assert add(1, 2) == 3\n"),
        "defines add itself",
    ),
    "nothing but a comment": (mbpp("# assert add(1, 2) == 3"), "its tests assert nothing"),
    "nothing but imports": (mbpp("import math", "from math import *", ""), "its tests assert nothing"),
    "no check": (humaneval("def test(candidate):\n    assert candidate(1, 2) == 3\n"), "never calls add"),
    "a missing helper": (
        humaneval("def check(candidate):\n    assert close(candidate(1, 2), 3)\n"),
        "needs close, which only the answer defines",
    ),
    "swallowed errors": (
        humaneval("def check(c):\n    try:\n        assert c(1, 2) == 3\n    except Exception: pass\n"),
        "pass whatever add does",
    ),
    "an assertion in brackets": (
        humaneval("def check(c):\n    assert (c(1, 2) == 3, 'wrong')\n"),
        "pass whatever add does",
    ),
    "a comparison for nobody": (humaneval("def check(c):\n    c(1, 2) == 3\n"), "pass whatever add does"),
    "an alternative that holds": (humaneval("def check(c):\n    assert c(1, 2) or True\n"), "pass whatever"),
    "an import of nothing": (humaneval(f"import no_such_thing\n{GOOD}"), "tests import no_such_thing"),
    "broken Python": (humaneval("def check(candidate:\n"), "SyntaxError"),
    "a broken setup": (humaneval(f"K = 1 / 0\n{GOOD}"), "ZeroDivisionError"),
    "a setup that answers": (
        mbpp("assert add(1, 2) == 3", setup="def add(a, b): return a + b"),
        "assertion 0 calls nothing that the answer defines",
    ),
    "an assertion of nothing": (mbpp("assert add(1, 2) == 3", "assert True"), "assertion 1 calls nothing"),
    "a helper of the answer": (
        mbpp("assert close(add(0.1, 0.2), 0.3)"),
        "assertion 0 needs add and close from the answer",
    ),
    "an assertion in brackets, of a list": (mbpp("assert (add(1, 2) == 3, 'no')"), "pass whatever add does"),
    "a list of alternatives": (mbpp("assert add(1, 2) or 1", "assert [add(3, 4)]"), "pass whatever add does"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_tests_are_refused(tmp_path: Path, name: str):
    row, said = BROKEN[name]
    with pytest.raises(UserError, match=said) as caught:
        env_of(tmp_path, humaneval(GOOD), row)
    assert "rows.jsonl, line 2: " in str(caught.value)
    assert "\n" not in str(caught.value)


USABLE = {
    "a plain check": humaneval(GOOD),
    "another name": humaneval(GOOD.replace("candidate", "c")),
    "the name itself": humaneval("def check(candidate):\n    assert add(1, 2) == 3\n"),
    "a reference of that name": humaneval(f"def add(a, b): return a + b\n{GOOD}"),
    "an import and an assertion": mbpp("import math", "assert add(1, 2) == math.floor(3.5)"),
    "a helper of the prompt": humaneval(
        "def check(candidate):\n    assert same(candidate(1, 2), 3)\n",
        f"def same(a, b): return a == b\n{ADD}",
    ),
    "a helper of the check": humaneval(
        "def same(a, b): return a == b\ndef check(c):\n    assert same(c(1, 2), 3)\n"
    ),
    "helpers that take the candidate": humaneval(
        "def run(f, *a):\n    return f(*a)\ndef check(c):\n    assert run(c, 1, 2) == 3\n"
    ),
    "inner functions": humaneval("def check(c):\n    def go(): return c(1, 2)\n    assert go() == 3\n"),
    "a star": humaneval(f"from math import *\n{GOOD}    assert floor(candidate(0, 1)) == 1\n"),
    "a modest import": humaneval(f"try:\n    import no_such_thing\nexcept ImportError:\n    pass\n{GOOD}"),
    "a word in a docstring": humaneval(f'"""Of use:\n\nimport no_such_thing\n"""\n{GOOD}'),
    "an expected error": humaneval(
        f"{GOOD}    try:\n        candidate('a', 1)\n    except TypeError: return\n    assert False\n"
    ),
    "a script": humaneval(f"{GOOD}\ncheck(add)\n"),
    "assertions": mbpp("assert add(1, 2) == 3", "assert not add(0, 0)", "assert math.isclose(add(0, 1), 1)"),
    "assertions without a value": mbpp("assert add(1, 2) == 3 and add(0, 0) == 0"),
    "a helper of the setup": mbpp("assert same(add(1, 2), 3)", setup="def same(a, b): return a == b"),
    "an import among assertions": mbpp("import math", "assert add(1, 2) == math.floor(3.5)"),
    "a function that a module has, too": mbpp("assert sorted([add(1, 2), add(0, 0)]) == [0, 3]"),
}


@pytest.mark.parametrize("name", USABLE)
def test_sound_tests_are_used(tmp_path: Path, name: str):
    env = env_of(tmp_path, USABLE[name])
    for source, right in (("def add(a, b): return a + b", 1), ("def add(a, b): return a - b", 0)):
        env.reset(options={"index": 0})
        assert env.step(fenced(source))[1] == right


def test_what_is_only_seen_when_it_runs_is_refused_at_the_first_step(tmp_path: Path, monkeypatch):
    """Running all tests of a large set takes long: after a second the rest waits for its first answer."""
    monkeypatch.setattr("areal.envs.code_checks._PROVING_S", -1)
    env = env_of(tmp_path, humaneval("def check(c):\n    assert (c(1, 2) == 4, 'wrong')\n"))
    env.reset(options={"index": 0})
    with pytest.raises(UserError, match="line 1: its tests are broken: they pass whatever add does"):
        env.step(fenced("def add(a, b): return 0"))


NUMPY = "import numpy as np\n\ndef check(candidate):\n    assert np.allclose(candidate([1, 2], 2), [2, 4])\n"


def test_a_package_is_named_with_the_rows_that_need_it(tmp_path: Path):
    rows = [humaneval(GOOD), humaneval(NUMPY), humaneval(f"from numpy import array\n{GOOD}")]
    with pytest.raises(UserError) as caught:
        env_of(tmp_path, *rows)
    said = str(caught.value)
    assert "rows.jsonl, line 2: its tests import numpy" in said
    assert "4 of 6 rows" in said
    assert "env_options.packages=[numpy]" in said
    assert "\n" not in said


def test_a_package_is_added_on_purpose(tmp_path: Path):
    rows = humaneval(NUMPY), {"question": "x", "input_output": {"inputs": ["1 2"], "outputs": ["3"]}}
    env = env_of(tmp_path, *rows, packages=["numpy"])
    for source, right in (
        ("def add(a, b): return [x * b for x in a]", 1),
        ("import numpy as np\ndef add(a, b): return np.array(a) * b", 1),
        ("def add(a, b): return a + [b]", 0),
        ("import psutil\ndef add(a, b): return [2, 4]", 0),
    ):
        env.reset(options={"index": 0})
        assert env.step(fenced(source))[1] == right, source
    env.reset(options={"index": 1})
    assert env.step(fenced("print(np.array(input().split(), int).sum())"))[1] == 1


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (["no_such_thing"], "no_such_thing is not installed"),
        (["a b"], "is not the name"),
        ([3], "is not the name"),
        (["-x"], "is not the name"),
    ],
)
def test_packages_that_cannot_be_had(wanted: list, said: str):
    with pytest.raises(UserError, match=rf"env_options\.packages=.*{said}"):
        gymnasium.make("code-v1", packages=wanted)
    with pytest.raises(UserError, match=r"agent_options\.packages"):
        PythonTool(packages=wanted)


def test_what_a_package_needs_is_there_too(tmp_path: Path):
    """SymPy needs mpmath."""
    env = gymnasium.make("code-v1", packages=["sympy"])
    pool = env.unwrapped._sandbox
    assert missing_packages(pool, ["sympy", "mpmath", "numpy", "json"]) == ["numpy"]
    assert {"sympy", "mpmath"} <= set(interpreter(pool)[1])


def test_the_check_of_the_sandbox_says_what_its_interpreter_has(capsys):
    with pytest.raises(SystemExit):
        cli.main(["sandbox", "check"])
    said = capsys.readouterr().out
    assert "the standard library and no other packages (env_options.packages=[numpy] adds one)" in said


def test_tests_with_long_tables_are_read_quickly():
    table = f"    inputs = {[list(range(9)) for _ in range(90_000)]}\n"
    test = f"import numpy as np\ndef check(candidate):\n{table}    assert candidate(inputs) == len(inputs)\n"
    tests = CheckTests(test, "add", ADD)
    assert (complaint(tests), packages(tests)) == (None, {"numpy"})
    assert code_problem(humaneval(test), "x").packages == {"numpy"}
    assert packages(AssertTests(("assert f() == 1",), "import os.path, scipy.stats as s, re")) == {"scipy"}
