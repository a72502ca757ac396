r"""An environment that asks for the difference of two numbers; the answer belongs in ``\boxed{}``."""

from __future__ import annotations

import random
from typing import Any

import gymnasium

from areal.envs.text import UnicodeText
from areal.errors import UserError
from my_env.verifier import score

PROBLEMS = {"train": 5000, "test": 500}


class MyEnv(gymnasium.Env[str, str]):
    """Asks for the difference of two numbers; the correct answer earns 1, any other 0.

    Args:
        largest: the largest number in a problem, at least 10.

    Raises:
        UserError: ``largest`` is too small.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(self, largest: int = 99, render_mode: str | None = None) -> None:
        self.observation_space = UnicodeText(2**16)
        self.action_space = UnicodeText(2**20)
        self.render_mode = render_mode
        if largest < 10:
            raise UserError(f"my-env: largest={largest} leaves too few problems; give at least 10")
        self._largest = largest
        self._expected = ""

    def count(self, split: str) -> int:
        """Return the number of problems in a split; areal trains on one split and evaluates on the other."""
        return PROBLEMS[split]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Ask for problem ``options["index"]`` of ``options["split"]``, or for a random one."""
        super().reset(seed=seed)
        options = options or {}
        split = options.get("split", "train")
        index = options.get("index")
        if index is None:
            index = int(self.np_random.integers(PROBLEMS[split]))
        prompt, self._expected = problem(split, index, self._largest)
        # Neither info nor the observation may reveal the answer, because the model or its agent may see both.
        return prompt, {"split": split, "index": index}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge an answer and end the episode."""
        reward = score(action, self._expected)
        # The named parts of the reward. They sum to it, and each becomes a metric of the run.
        return "", reward, True, False, {"reward_parts": {"correct": reward}}

    def solution(self) -> str:
        """Return an answer with the highest reward, for `areal env check` and tests; agents never call it."""
        return f"\\boxed{{{self._expected}}}"


def problem(split: str, index: int, largest: int) -> tuple[str, str]:
    """Return the question and the expected answer: the same for the same arguments, in any process.

    The splits share no problem: a pair whose sum ends in 0 belongs to the evaluation split, any other to
    training.
    """
    draw = random.Random(f"my-env/{split}/{index}")
    while True:
        a, b = draw.randint(0, largest), draw.randint(0, largest)
        if ((a + b) % 10 == 0) == (split == "test"):
            break
    return f"Compute {a} - {b}.\nPut the final answer in \\boxed{{}}.", str(a - b)
