r"""``math-v1``: problems with a final answer in ``\boxed{}``.

The problems are procedural arithmetic (areal.envs.arithmetic), or any data set of problem and answer pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from areal.envs import arithmetic
from areal.envs.data import Pair, load_pairs
from areal.envs.problems import ProblemEnv, checked_difficulty, checked_prompt
from areal.errors import UserError
from areal.rewards.answers import final_answer
from areal.rewards.math import shared_verifier
from areal.rewards.parts import Judged, Reward
from areal.spans import span

BOXED_PROMPT = "{problem}\nPut the final answer in \\boxed{{}}."
WRONG = "The answer is not correct. Try again.\n"


def arithmetic_prompt(expression: str) -> str:
    """Return the problem text of an arithmetic expression."""
    return BOXED_PROMPT.format(problem=f"Compute {expression}.")


class MathEnv(ProblemEnv[Pair]):
    r"""One problem, one answer; the reward is 1 if the ``\boxed{}`` equals the expected answer, else 0.

    Without a box, the text after ``####`` counts, as in GSM8K's solutions. With ``max_turns``, the
    observation says that an answer is wrong, and the model can try again.

    Args:
        data: a file (JSON, CSV, Parquet, ...), a folder, or the id of a data set on the hub, with questions
            and answers in the fields that TRL, verl and others use (areal.envs.forms), including GSM8K's
            ``####`` and MATH's ``\boxed``. None: procedural arithmetic.
        subset: configuration of the data set on the hub, such as ``main``.
        test_data: held-out problems; None: the data set's test split, or one in ten of its problems.
        skip_unreadable: skip rows that cannot be read as problems; a line reports their number and the
            reason.
        split: split from which a reset without an index draws, ``train`` or ``test``.
        difficulty: difficulty of procedural arithmetic, 1 to 5.
        prompt: a template with ``{problem}``; double all other braces.
        max_turns: maximum number of responses to a problem; the last one gives the reward.
        rewards: weights of the parts of the reward (areal.rewards.parts); None: ``{"correct": 1.0}``.

    Raises:
        UserError: unreadable data or a wrong argument.
    """

    def __init__(
        self,
        data: str | None = None,
        subset: str | None = None,
        test_data: str | None = None,
        skip_unreadable: bool = False,
        split: str = "train",
        difficulty: int = arithmetic.DEFAULT_DIFFICULTY,
        prompt: str = BOXED_PROMPT,
        max_turns: int = 1,
        rewards: Mapping[str, float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if max_turns < 1:
            raise UserError(f"math-v1: max_turns={max_turns} must be at least 1")
        self._difficulty = checked_difficulty("math-v1", difficulty, arithmetic.DIFFICULTIES)
        listed = None if data is None else load_pairs(str(data), subset, test_data, skip_unreadable)
        super().__init__("math-v1", self._draw if listed is None else listed, split, 2**16, render_mode)
        self._prompt = checked_prompt("math-v1", prompt)
        self._reward = Reward(rewards)
        self._max_turns = max_turns

    def asked(self, problem: Pair) -> str:
        """Return the problem, inserted into the prompt."""
        return self._prompt.format(problem=problem.problem)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge an answer; the episode ends if it is correct, or the turns are used up.

        Raises:
            VerifierError: the verifier could not run; there is no reward.
        """
        problem, answer = self.problem, final_answer(action)
        with span("verifier", "math"):
            right = answer is not None and shared_verifier().equivalent(answer, problem.answer)
        self._turn += 1
        if not right and self._turn < self._max_turns:
            return WRONG + self.asked(problem), 0.0, False, False, {"reward_parts": self._reward.nothing()}
        judged = Judged(problem.problem, action, answer is not None, float(right))
        reward, parts = self._reward(judged)
        return "", reward, True, False, {"reward_parts": parts, "expected": problem.answer}

    def solution(self) -> str:
        """Return the answer to the problem, for checks of the environment; no agent calls it."""
        return f"\\boxed{{{self.problem.answer}}}"

    def _draw(self, split: str, index: int) -> Pair:
        drawn = arithmetic.problem(split, self._difficulty, index)
        return Pair(f"Compute {drawn.expression}.", str(drawn.answer))
