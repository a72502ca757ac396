r"""Whether an answer is right. It reads a model's words: expect anything, and never raise.

Look only at the place where the answer belongs (here the last ``\boxed{}``): a verifier that searches the
whole text pays for answers that name every number there is.
"""

from __future__ import annotations

from areal.rewards.answers import boxed_answer


def score(action: str, expected: str) -> float:
    r"""Return 1 if what stands in the last ``\boxed{}`` of an action is the expected answer, else 0."""
    answer = boxed_answer(action)
    return float(answer is not None and answer.strip() == expected)
