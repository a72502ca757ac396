"""Defines the environment of soak.py: arithmetic that both a sandbox and the math verifier judge.

A sandboxed process computes each answer, and a worker of the math verifier compares it, so that both have
work in each episode. :func:`worth` computes the reward of an answer without either of them.
"""

from __future__ import annotations

import random
import re
from typing import Any

import gymnasium

from areal.envs.text import UnicodeText
from areal.rewards.cases import CallCase, CallTests
from areal.rewards.code import CodeVerifier
from areal.rewards.math import shared_verifier
from areal.sandbox.interface import Call
from areal.sandbox.shared import shared_sandbox

_BOX = re.compile(r"\\boxed\{(-?[0-9]{1,9})\}")


def problem(index: int, split: str = "train") -> tuple[str, int]:
    """Return a problem and its answer."""
    drawn = random.Random(f"{split} {index}")
    a, b, c = (drawn.randint(10, 99) for _ in range(3))
    signs = drawn.choice("+-"), drawn.choice("+-")
    return f"{a} {signs[0]} {b} {signs[1]} {c}", a + int(f"{signs[0]}{b}") + int(f"{signs[1]}{c}")


def answer(action: str) -> str:
    """Return the number in the last box, or an empty string if there is none."""
    return (_BOX.findall(action) or [""])[-1]


def worth(task: dict[str, Any], actions: list[str]) -> float:
    """Return the reward that an episode deserves, by plain arithmetic."""
    options = task["options"]
    _, value = problem(options["index"], options.get("split", "train"))
    return float(answer(actions[-1]) not in ("", "-") and int(answer(actions[-1])) == value)


class SoakEnv(gymnasium.Env[str, str]):
    """An environment with one problem and one answer, which is judged twice, for half of the reward each."""

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space, self.action_space = UnicodeText(2**10), UnicodeText(2**20)
        self._code = CodeVerifier(shared_sandbox("soak", "env_options", "local", allow_weak=True))

    def count(self, split: str) -> None:
        """Return None, because the number of problems is unlimited."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Return the prompt of a problem."""
        super().reset(seed=seed)
        options = options or {}
        index = options.get("index", int(self.np_random.integers(2**31)))
        asked, self._value = problem(index, options.get("split", "train"))
        return f"Compute {asked}.\nPut the final answer in \\boxed{{}}.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge an answer.

        Raises:
            SandboxUnavailable: the sandbox failed in each attempt, so there is no reward.
            VerifierError: the math verifier failed in each attempt, so there is no reward.
        """
        found, parts = answer(action), {"computed": 0.0, "verified": 0.0}
        if found:
            tests = CallTests((CallCase(Call("f"), self._value),))
            verdict = self._code.verify_blocking(f"def f(): return int('{found}')", tests)
            parts["computed"] = 0.5 * verdict.score
            parts["verified"] = 0.5 * shared_verifier().equivalent(
                rf"\max({found}, {found})", str(self._value)
            )
        return "", sum(parts.values()), True, False, {"reward_parts": parts}
