"""``data-v1``: an environment out of data, a prompt template and a named verifier, without code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

from areal.envs.data import ANSWER_KEYS, PROBLEM_KEYS, Pair, first_text, load_problems
from areal.envs.math import BOXED_PROMPT
from areal.envs.problems import ProblemEnv, Problems
from areal.errors import UserError
from areal.rewards.answers import reference_answer
from areal.rewards.parts import Judged, Reward
from areal.rewards.verifiers import find_verifier


class DataEnv(ProblemEnv[Pair]):
    r"""Rows of data become problems by a template; a named verifier judges the answers.

    Args:
        data: a ``.jsonl`` or ``.jsonl.gz`` file, one object a line, or the id of a data set on the hub.
        prompt: a template with the fields of a row, such as ``{question}`` (braces of its own doubled);
            ``{problem}`` is also the first of problem, question and prompt.
        answer: a template for the expected answer; None: that of the first of answer, solution and response,
            where GSM8K's ``####`` and MATH's ``\boxed`` are understood.
        verifier: ``math`` (what is boxed, as mathematics), ``number`` (the last number), ``exact`` (all of
            the text), a registered one, or ``path/to/file.py:function``.
        subset: the hub's configuration of the data set.
        test_data: held-out problems; None: the data set's test split, or one in ten of its problems.
        split: where a reset without an index draws from, ``train`` or ``test``.
        rewards: weights of the parts of the reward (areal.rewards.parts); None: ``{"correct": 1.0}``.

    Raises:
        UserError: unreadable data or a wrong argument.
    """

    def __init__(
        self,
        data: str,
        prompt: str = BOXED_PROMPT,
        answer: str | None = None,
        verifier: str = "math",
        subset: str | None = None,
        test_data: str | None = None,
        split: str = "train",
        rewards: Mapping[str, float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self._verify = find_verifier(verifier)
        listed = _load(str(data), prompt, answer, subset, test_data)
        super().__init__(Problems("data-v1", _never, listed, split), 2**20, render_mode)
        self._reward = Reward(rewards)

    def asked(self, problem: Pair) -> str:
        """Return the problem: the prompt is a part of it."""
        return problem.problem

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge an answer; the episode is over."""
        problem = self.problem
        score = self._verify(action, problem.answer)
        judged = Judged(problem.problem, action, score is not None, float(score or 0.0))
        reward, parts = self._reward(judged)
        return "", reward, True, False, {"reward_parts": parts}


def _never(split: str, index: int) -> Pair:
    raise AssertionError("problems of data are listed")


@lru_cache(maxsize=8)
def _load(
    data: str, prompt: str, answer: str | None, subset: str | None, test_data: str | None
) -> dict[str, list[Pair]]:
    return load_problems(partial(_pair, prompt, answer), data, subset, test_data)


def _pair(prompt: str, answer: str | None, row: dict[str, Any], where: str) -> Pair:
    """Make a problem of a row."""
    fields = dict(row)
    if "problem" not in row and any(key in row for key in PROBLEM_KEYS):
        fields["problem"] = first_text(row, PROBLEM_KEYS, where)
    asked = _filled("prompt", prompt, fields, where)
    expected = (
        reference_answer(first_text(row, ANSWER_KEYS, where))
        if answer is None
        else _filled("answer", answer, fields, where)
    )
    if not expected:
        raise UserError(f"{where}: no final answer: give a template for it, such as answer='{{label}}'")
    return Pair(asked, expected)


def _filled(name: str, template: str, fields: dict[str, Any], where: str) -> str:
    try:
        return template.format(**fields)
    except KeyError as error:
        known = ", ".join(fields)
        raise UserError(
            f"{where}: the {name} needs {{{error.args[0]}}}, but the row has only: {known} (double "
            "braces that are no field)"
        ) from error
    except (IndexError, ValueError, AttributeError) as error:
        raise UserError(
            f"the {name} {template!r} is no template ({error}); double its own braces: {{{{}}}}"
        ) from error
