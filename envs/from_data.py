"""``data-v1``: an environment made from data, a prompt template and a named verifier, without code."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

from areal.envs.choices import Choice, choice_of
from areal.envs.data import Convert, Loaded, Pair, choice_pair, found_answer, load_problems
from areal.envs.forms import Asked, asked, asked_by, conversation, form_name, reference
from areal.envs.math import BOXED_PROMPT
from areal.envs.nemo_gym import refuse_other_judges
from areal.envs.problems import ProblemEnv
from areal.envs.rows import Row
from areal.envs.templates import Template, as_answer, in_prompt
from areal.errors import UserError
from areal.rewards.parts import Judged, Reward
from areal.rewards.verifiers import find_verifier
from areal.spans import span


class DataEnv(ProblemEnv[Pair]):
    r"""A template turns rows of data into problems, and a named verifier judges the answers.

    Args:
        data: a file (JSON, CSV, Parquet, ...), a folder, or a data set's id on the hub (areal.envs.places).
        prompt: a template with the fields of a row, such as ``{question}``; double all other braces.
            ``{problem}`` is the question of the row, whichever field has it (areal.envs.forms).
        answer: a template for the expected answer; None: the answer of the row, whichever field has it,
            including GSM8K's ``####`` and MATH's ``\boxed``.
        verifier: ``math`` (the content of the box, as mathematics), ``number`` (the last number), ``exact``
            (the whole text), another registered verifier (areal.rewards), or ``path/to/file.py:function``.
        subset: configuration of the data set on the hub.
        test_data: held-out problems; None: the data set's test split, or one in ten of its problems.
        skip_unreadable: skip rows that cannot be read as problems; a line reports their number and the
            reason.
        split: split from which a reset without an index draws, ``train`` or ``test``.
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
        skip_unreadable: bool = False,
        split: str = "train",
        rewards: Mapping[str, float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        self._verifier, self._verify = verifier, find_verifier(verifier)
        listed = load_by_template(str(data), prompt, answer, verifier, subset, test_data, skip_unreadable)
        super().__init__("data-v1", listed, split, 2**20, render_mode)
        self._reward = Reward(rewards)

    def asked(self, problem: Pair) -> str:
        """Return the problem, which includes the prompt."""
        return problem.problem

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge an answer; the episode ends. Raises ValueError if the verifier's score is invalid."""
        problem = self.problem
        with span("verifier", self._verifier):
            score = self._verify(action, problem.answer)
        if score is not None and not 0 <= score <= 1:  # also refuses NaN
            raise ValueError(
                f"the verifier '{self._verifier}' returned {score}, but a score must be from 0 to 1; scale "
                "it, and set its weight with rewards={correct: 2.0}"
            )
        judged = Judged(problem.problem, action, score is not None, float(score or 0.0))
        reward, parts = self._reward(judged)
        return "", reward, True, False, {"reward_parts": parts, "expected": problem.answer}


def load_by_template(
    data: str,
    prompt: str = BOXED_PROMPT,
    answer: str | None = None,
    verifier: str = "math",
    subset: str | None = None,
    test_data: str | None = None,
    skip_unreadable: bool = False,
) -> Loaded[Pair]:
    """Return the problems that ``DataEnv`` uses with the same arguments."""
    return load_problems(_converter(prompt, answer, verifier), data, subset, test_data, skip_unreadable)


@lru_cache(maxsize=16)
def _converter(prompt: str, answer: str | None, verifier: str) -> Convert[Pair]:
    """Return the function that creates problems from rows; the same object each time, as a key of
    load_problems' cache."""
    expected = None if answer is None else Template("answer", answer)
    return partial(_pair, Template("prompt", prompt), expected, verifier)


def _pair(prompt: Template, answer: Template | None, verifier: str, row: Row, where: str) -> Pair:
    """Create a problem from a row; only the fields that a template names must be readable."""
    if answer is None:
        refuse_other_judges(row, where)
    named, question = prompt.whole, None
    if name := next((name for name in row if name in named and conversation(row[name])), None):
        question = asked_by(row[name], name, where)
    elif "problem" in named and "problem" not in row:
        question = asked(row, where)
    opening = () if question is None else question.opening
    fields = row if question is None else {"problem": question.problem, **row}
    choice = None
    if answer is None and "problem" in named:
        question = question or asked(row, where)
        if (choice := choice_of(row, question.problem, where)) is not None:
            fields = {**fields, "problem": choice.problem}
    shown = prompt.filled(fields, where, in_prompt)
    question = question or Asked(shown, (), " and ".join(sorted(named)) or "a template")
    if answer is None and "problem" not in named:
        choice = _choice_in(shown, row, where)
    if choice is not None:
        return choice_pair(row, question, choice, shown)
    if answer is None:
        text, field = reference(row, question, where)
        form = form_name(row, question, field)
    else:
        text, form = answer.filled(fields, where, as_answer), ""
    if answer is None or verifier == "math":
        expected, rule = found_answer(text, where, mathematics=verifier == "math")
    else:
        expected, rule = text, ""
    if not expected:
        raise UserError(f"{where}: no final answer; give a template for it, such as answer='{{label}}'")
    return Pair(shown, expected, opening, form, rule)


def _choice_in(shown: str, row: Row, where: str) -> Choice | None:
    """Return the correct one of the choices in a prompt; raises UserError if the prompt does not list
    them."""
    choice = choice_of(row, shown, where)
    if choice is not None and choice.problem != shown:
        raise UserError(
            f"{where}: its choices are not in the prompt; use {{problem}}, which has them, or name them, as "
            "in 'A. {choices[0]} B. {choices[1]}'"
        )
    return choice
