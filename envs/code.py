"""``code-v1``: programming problems, whose solutions are judged by tests in a sandbox.

The problems are procedural (areal.envs.programs), or a data set in the format of MBPP, HumanEval, APPS or
LiveCodeBench.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from areal.envs import programs
from areal.envs.code_blocks import program_of
from areal.envs.code_checks import broken, refuse_unsound, refuse_unusable
from areal.envs.code_problems import CodeProblem, defines, load_code_problems
from areal.envs.problems import ProblemEnv, checked_difficulty, checked_prompt
from areal.errors import UserError
from areal.rewards.cases import CallCase, CallTests
from areal.rewards.code import CaseVerdict, CodeVerifier
from areal.rewards.compare import Comparison
from areal.rewards.parts import Judged, Reward
from areal.sandbox.interface import Call, SandboxLimits
from areal.sandbox.shared import shared_sandbox
from areal.spans import span

CODE_PROMPT = "{problem}\nPut the code in a ```python block."
MAX_FEEDBACK = 2000
"""Maximum number of characters of a failing case in an observation."""

ENDINGS = {
    "timeout": "It took too long and was stopped.",
    "memory": "It took too much memory.",
    "output_limit": "It wrote or returned too much data.",
    "crashed": "The process crashed.",
    "violation": "It did something that is forbidden here.",
    "no_result": "It ended before it returned a result.",
    "protocol_error": "It did not return a valid result.",
}


def program_prompt(text: str) -> str:
    """Return the text of a problem for the model."""
    return CODE_PROMPT.format(problem=text)


def fenced(source: str) -> str:
    """Return a program as a response with a code block."""
    return f"```python\n{source}```"


def placed(problem: CodeProblem, text: str) -> tuple[str, str]:
    """Return the source in a response, and the code to execute before it, such as the problem's stub."""
    if not text.lstrip("\r\n")[:1].isspace():
        return text, problem.before
    flat = textwrap.dedent(text)
    if not problem.before or re.search(problem.wanted, flat, re.MULTILINE):
        return flat, problem.before
    return f"{problem.before}\n{text}", ""


class CodeEnv(ProblemEnv[CodeProblem]):
    """One program, judged by its tests; the reward is 1 if all pass, else 0.

    With ``max_turns``, failures are shown and the model can try again.

    Args:
        data: a file (JSON, CSV, Parquet, ...), a folder, or the id of a data set on the hub, in the format of
            MBPP, HumanEval, APPS or LiveCodeBench; None: procedural problems.
        subset: configuration of the data set on the hub.
        test_data: held-out problems; None: the data set's test split, or one in ten of its problems.
        skip_unreadable: skip rows that cannot be read as problems; a line reports their number and the
            reason.
        split: split from which a reset without an index draws, ``train`` or ``test``.
        difficulty: difficulty of procedural problems, 1 to 4.
        prompt: a template with ``{problem}``; double all other braces.
        max_turns: maximum number of attempts at a problem; the observation after a failed attempt shows a
            failing test.
        show_expected: show the expected result of a failing test; the tests are then no longer hidden.
        partial: the reward is the share of the tests that pass, instead of all or nothing.
        rewards: weights of the parts of the reward (areal.rewards.parts); None: ``{"correct": 1.0}``.
        sandbox: where the code runs: ``local``, ``container``, ``e2b`` or a registered one.
        allow_weak: accept a weak local sandbox.
        time_limit: time limit of one run, in seconds.
        packages: packages that code can import besides the standard library, such as ``[numpy]``; none by
            default.

    Raises:
        UserError: unreadable data, a wrong argument, or no sandbox on this host.
    """

    def __init__(
        self,
        data: str | None = None,
        subset: str | None = None,
        test_data: str | None = None,
        skip_unreadable: bool = False,
        split: str = "train",
        difficulty: int = programs.DEFAULT_DIFFICULTY,
        prompt: str = CODE_PROMPT,
        max_turns: int = 1,
        show_expected: bool = False,
        partial: bool = False,
        rewards: Mapping[str, float] | None = None,
        sandbox: str = "local",
        allow_weak: bool = False,
        time_limit: float = 6.0,
        packages: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
        if max_turns < 1 or not time_limit > 0:
            raise UserError(f"code-v1: max_turns={max_turns} and time_limit={time_limit} must be positive")
        self._difficulty = checked_difficulty("code-v1", difficulty, programs.DIFFICULTIES)
        listed = None if data is None else load_code_problems(str(data), subset, test_data, skip_unreadable)
        super().__init__("code-v1", self._draw if listed is None else listed, split, 2**16, render_mode)
        self._prompt = checked_prompt("code-v1", prompt)
        self._max_turns = max_turns
        self._show_expected = show_expected
        self._partial = partial
        self._limits = SandboxLimits(wall_s=time_limit)
        self._reward = Reward(rewards)
        self._sandbox = shared_sandbox("code-v1", "env_options", sandbox, allow_weak, packages)
        self._verifiers: dict[Comparison, CodeVerifier] = {}
        if listed is not None:
            key = (data, subset, test_data, skip_unreadable, sandbox, allow_weak, *packages)
            problems = (problem for problems in listed.values() for problem in problems)
            refuse_unusable(key, problems, self._sandbox, self._verifier(Comparison()))

    def asked(self, problem: CodeProblem) -> str:
        """Return the problem, inserted into the prompt."""
        return self._prompt.format(problem=problem.problem)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Run a response against the tests. The episode ends when they pass or the turns are used up.

        Raises:
            SandboxUnavailable: the sandbox could not run it; there is no reward.
            UserError: the tests themselves are broken.
        """
        problem = self.problem
        self._turn += 1
        program, in_block = program_of(action, problem.wanted)
        source, before = placed(problem, program)
        verifier = self._verifier(problem.comparison)
        refuse_unsound(problem, verifier)
        # Nobody sees the feedback after the last turn.
        ahead = self._turn >= self._max_turns
        try:
            with span("verifier", "code"):
                verdict = verifier.verify_blocking(source, problem.tests, before=before, ahead=ahead)
        except ValueError as error:
            raise broken(problem, error) from error
        failure = verdict.failure
        if failure is not None and self._turn < self._max_turns:
            return self._feedback(failure), 0.0, False, False, {"reward_parts": self._reward.nothing()}
        reward, parts = self._reward(Judged(problem.problem, action, in_block, verdict.score))
        return "", reward, True, False, {"reward_parts": parts}

    def _verifier(self, comparison: Comparison) -> CodeVerifier:
        """Return the verifier with a comparison; it caches parsed tests."""
        if comparison not in self._verifiers:
            self._verifiers[comparison] = CodeVerifier(
                self._sandbox, self._limits, comparison, partial=self._partial
            )
        return self._verifiers[comparison]

    def _feedback(self, case: CaseVerdict) -> str:
        """Return what the observation shows of a failing case; the expected result only if it may be
        shown."""
        lines = [
            "The code does not pass all tests.",
            *([f"Test: {shortened(case.asked)}"] if case.asked else []),
        ]
        if case.status in ENDINGS:
            lines.append(ENDINGS[case.status])
        elif case.trace:
            lines.append(shortened(case.trace.rstrip()))
        elif case.got:
            lines.append(f"Result: {shortened(case.got)}")
        if self._show_expected and case.expected:
            lines.append(f"Expected: {shortened(case.expected)}")
        return "\n".join([*lines, "Fix the code and give it again in full."])

    def _draw(self, split: str, index: int) -> CodeProblem:
        drawn = programs.problem(split, self._difficulty, index)
        cases = zip(drawn.inputs, drawn.outputs, strict=True)
        tests = CallTests(tuple(CallCase(Call("f", (x,)), y) for x, y in cases))
        return CodeProblem(drawn.text, tests, wanted=defines("f"))


def shortened(text: str, longest: int = MAX_FEEDBACK) -> str:
    """Shorten a text in its middle, and remove characters that cannot be encoded."""
    half = longest // 2
    short = text if len(text) <= longest else f"{text[:half]}\n…\n{text[-half:]}"
    return short.encode("utf-8", "replace").decode("utf-8")
