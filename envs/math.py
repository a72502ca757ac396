r"""``math-v1``: a problem in, a final answer in ``\boxed{}`` out.

Its problems are procedural arithmetic (areal.envs.arithmetic), or any data set of problem and answer pairs.
"""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.error import ResetNeeded

from areal.envs import arithmetic
from areal.envs.data import Pair, load_pairs
from areal.envs.text import UnicodeText
from areal.errors import UserError
from areal.rewards.answers import boxed_answer
from areal.rewards.math import shared_verifier

SPLITS = ("train", "test")
BOXED_PROMPT = "{problem}\nPut the final answer in \\boxed{{}}."
_UNBOUNDED = 2**31
"""A reset without an index draws one below this, where there are problems without end."""


def arithmetic_prompt(expression: str) -> str:
    """Return what the model is asked for an arithmetic expression."""
    return BOXED_PROMPT.format(problem=f"Compute {expression}.")


class MathEnv(gymnasium.Env[str, str]):
    r"""One problem, one answer: 1 if its ``\boxed{}`` is equivalent to the expected answer, else 0.

    Args:
        data: a ``.jsonl`` file or the id of a data set on the hub, with problems in ``problem`` or
            ``question`` and answers in ``answer`` or ``solution`` (GSM8K's ``####`` and MATH's ``\boxed``
            are understood); None: procedural arithmetic.
        subset: the hub's configuration of the data set, such as ``main``.
        test_data: held-out problems; None: the data set's test split, or one in ten of its problems.
        split: where a reset without an index draws from, ``train`` or ``test``.
        difficulty: of procedural arithmetic, 1 to 5.
        prompt: a template with ``{problem}`` (braces of its own doubled).

    Raises:
        UserError: unreadable data or a wrong argument.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        data: str | None = None,
        subset: str | None = None,
        test_data: str | None = None,
        split: str = "train",
        difficulty: int = arithmetic.DEFAULT_DIFFICULTY,
        prompt: str = BOXED_PROMPT,
        render_mode: str | None = None,
    ) -> None:
        if difficulty not in arithmetic.DIFFICULTIES:
            known = "; ".join(f"{n}: {text}" for n, text in arithmetic.DIFFICULTIES.items())
            raise UserError(f"math-v1: difficulty={difficulty!r} is none of these: {known}")
        self.observation_space = UnicodeText(2**16)
        self.action_space = UnicodeText(2**20)
        self.render_mode = render_mode
        self._pairs = None if data is None else load_pairs(str(data), subset, test_data)
        self._split = _known_split(split)
        self._difficulty = difficulty
        self._prompt = _checked_prompt(prompt)
        self._problem: Pair | None = None

    def count(self, split: str) -> int | None:
        """Return how many problems a split has; None: no end to them."""
        return None if self._pairs is None else len(self._pairs[_known_split(split)])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Choose a problem.

        Args:
            seed: makes the choice reproducible.
            options: ``{"index": i, "split": "train" | "test"}``; either may be left out.

        Raises:
            UserError: no such problem.
        """
        super().reset(seed=seed)
        options = options or {}
        split = _known_split(options.get("split", self._split))
        index = options.get("index")
        if index is None:
            index = int(self.np_random.integers(self._size(split)))
        self._problem = self._pair(split, int(index))
        return self._prompt.format(problem=self._problem.problem), {"split": split, "index": int(index)}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge an answer; the episode is over.

        Raises:
            VerifierError: the verifier could not run; no reward was given.
        """
        if self._problem is None:
            raise ResetNeeded("call reset before step")
        answer = boxed_answer(action)
        right = answer is not None and shared_verifier().equivalent(answer, self._problem.answer)
        reward = float(right)
        return "", reward, True, False, {"reward_parts": {"correct": reward}}

    def _size(self, split: str) -> int:
        count = self.count(split)
        if count == 0:
            raise UserError(f"math-v1: the data has no problem in its {split} split")
        return _UNBOUNDED if count is None else count

    def _pair(self, split: str, index: int) -> Pair:
        if not 0 <= index < self._size(split):
            raise UserError(f"math-v1: no problem {index} in the {split} split: it has {self._size(split)}")
        if self._pairs is not None:
            return self._pairs[split][index]
        drawn = arithmetic.problem(split, self._difficulty, index)
        return Pair(f"Compute {drawn.expression}.", str(drawn.answer))


def _known_split(split: str) -> str:
    if split not in SPLITS:
        raise UserError(f"math-v1: split={split!r} is neither 'train' nor 'test'")
    return split


def _checked_prompt(prompt: str) -> str:
    try:
        shown = prompt.format(problem="\0")
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"math-v1: the prompt {prompt!r} is no template ({error!r}); double its own braces: {{{{}}}}"
        ) from error
    if "\0" not in shown:
        raise UserError(f"math-v1: the prompt {prompt!r} does not contain {{problem}}")
    return prompt
