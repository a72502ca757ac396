r"""Judges whether an answer is correct. It reads a model's text: expect anything, and never raise.

Look only at the place where the answer belongs (here the last ``\boxed{}``). A verifier that searches the
whole text rewards answers that list every possible number.
"""

from __future__ import annotations

from areal.rewards.answers import boxed_answer


def score(action: str, expected: str) -> float:
    r"""Return 1 if the content of the last ``\boxed{}`` of an action is the expected answer, else 0."""
    answer = boxed_answer(action)
    return float(answer is not None and answer.strip() == expected)
