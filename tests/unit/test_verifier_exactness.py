r"""The mathematics verifier on real data, and side by side with math-verify itself."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from data import data_file
from math_verify import parse, verify

from areal.envs.math import MathEnv
from areal.rewards.answers import reference_answer
from areal.rewards.math import MathVerifier


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    made = MathVerifier()
    yield made
    made.close()


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.open(encoding="utf-8")]


@pytest.mark.parametrize(
    ("file", "field", "count"), [("gsm8k_test.jsonl", "answer", 1319), ("math500.jsonl", "solution", 500)]
)
def test_every_published_solution_is_right(file: str, field: str, count: int):
    """Word for word: GSM8K's end with ``#### answer``, those of MATH have it in a box."""
    path = data_file(file)
    env = MathEnv(data=str(path), test_data=str(path))
    assert env.count("test") == count
    for index, row in enumerate(rows(path)):
        env.reset(options={"index": index, "split": "test"})
        assert env.step(row[field])[1] == 1.0, (index, row[field][-200:])


def test_solutions_of_other_problems_are_wrong(verifier: MathVerifier):
    """All pairs of GSM8K's answers; of MATH-500's a sample (benchmarks/verifier_exactness.py has all)."""
    gsm8k = [reference_answer(row["answer"]) or "" for row in rows(data_file("gsm8k_test.jsonl"))]
    for a in sorted(set(gsm8k)):
        for b in sorted(set(gsm8k)):
            assert verifier.equivalent(a, b) == (Decimal(a.replace(",", "")) == Decimal(b.replace(",", "")))
    texts = sorted({row["answer"] for row in rows(data_file("math500.jsonl"))})
    pairs = random.Random(0).sample([(a, b) for a in texts for b in texts if a != b], 100)
    assert [pair for pair in pairs if verifier.equivalent(*pair)] == []


HARD = [
    (r"\frac{1}{2}", "0.5"), (r"50\%", "0.5"), (r"50\%", "50"), ("1,000", "1000"),
    (r"18\text{ dollars}", "18"), ("x=5", "5"), ("(1,2)", "1,2"), ("(1,2)", "(2,1)"), ("[1,2]", "(1,2)"),
    ("x<3", r"(-\infty,3)"), (r"\sqrt{8}", r"2\sqrt{2}"), (r"\pi", "3.14159"), (r"90^\circ", "90"),
    (r"\text{(A)}", "A"), (r"\text{East}", r"\text{west}"), (r"3\frac{1}{2}", "3.5"), (r"\pm 2", "2,-2"),
    (r"\log_2 8", "3"), (r"0.\overline{3}", r"\frac13"), ("11_2", "3"), ("x=1, x=2", "1,2"),
    (r"1\le x\le 2", "[1,2]"), ("7.", "7"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"), ("4, 6 and 8", "8,6,4"),
    ("the answer is 5", "5"), (r"\emptyset", r"\{\}"), (r"\frac{1}{0}", "1"), ("1,234", "1234"),
    ("0,123", "123"), ("+1,234", "1234"), ("100,200", "200,100"),
]  # fmt: skip


BETTER = {
    ("x<3", r"(-\infty,3)"), (r"1\le x\le 2", "[1,2]"), ("3.14159", r"\pi"), (r"0.\overline{3}", r"\frac13"),
    ("7.", "7"), ("the answer is 5", "5"), ("1234", "+1,234"),
}  # fmt: skip
"""Of HARD what is equal, and not to math-verify alone: reference first, or either way round."""


@pytest.mark.parametrize("back", [False, True], ids=["answer for target", "target for answer"])
def test_verdicts_are_math_verifys_own_or_better(verifier: MathVerifier, back: bool):
    parsed = {text: parse(f"\\boxed{{{text}}}") for pair in HARD for text in pair}
    for pair in HARD:
        answer, target = reversed(pair) if back else pair
        verdict = verifier.equivalent(answer, target)
        if verdict != verify(parsed[target], parsed[answer]):
            assert verdict, (answer, target)
            assert BETTER & {(answer, target), (target, answer)}, (answer, target)
