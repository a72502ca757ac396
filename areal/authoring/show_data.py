"""Shows how areal reads a data set: its form, its number of problems, the first ones, and skipped rows."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from areal.envs.code import CODE_PROMPT
from areal.envs.code_problems import CodeProblem, has_tests, load_code_problems
from areal.envs.data import Loaded, Pair, load_pairs
from areal.envs.from_data import load_by_template
from areal.envs.math import BOXED_PROMPT
from areal.envs.places import find_splits
from areal.envs.problems import checked_prompt
from areal.errors import UserError, nearest
from areal.rewards.cases import AssertTests, CallTests, StreamTests
from areal.rewards.verifiers import find_verifier

_OPTIONS = ("subset", "test_data", "prompt", "answer", "verifier")


@dataclass(frozen=True, slots=True)
class Read:
    """The result of reading a data set.

    Attributes:
        env: the environment that reads this form.
        loaded: its problems by split, and the notes on them.
        prompt: the prompt template, with ``{problem}``.
    """

    env: str
    loaded: Loaded[Any]
    prompt: str

    def first(self, count: int) -> Iterator[dict[str, Any]]:
        """Yield the first problems: split, index, messages, and the answer or the available tests."""
        split = "train" if self.loaded["train"] else "test"
        for index, problem in enumerate(self.loaded[split][:count]):
            said = [*problem.opening, ("user", self.prompt.format(problem=problem.problem))]
            messages = [{"role": role, "content": content} for role, content in said]
            yield {"split": split, "index": index, "messages": messages, **_expected(problem)}


def read_data(place: str, options: Mapping[str, Any]) -> Read:
    """Read a place as its environment does; rows that cannot be read are skipped.

    Args:
        place: the place of the data (areal.envs.places).
        options: options of the environment: subset, test_data, prompt, answer, verifier.

    Raises:
        UserError: the place or an option does not exist, or no row can be read.
    """
    for name in options:
        if name not in _OPTIONS:
            raise UserError(
                f"the option '{name}' does not exist{nearest(name, _OPTIONS)} (known: {', '.join(_OPTIONS)})"
            )
    given: dict[str, Any] = {name: str(options[name]) for name in _OPTIONS if name in options}
    prompt = given.get("prompt", "{problem}")
    find_verifier(given.get("verifier", "math"))
    if {"answer", "verifier"} & set(given) or "{problem}" not in prompt:
        return Read("data-v1", load_by_template(place, **given, skip_unreadable=True), "{problem}")
    given.pop("prompt", None)
    where = given.get("subset"), given.get("test_data")
    rows = (row for split in find_splits(place, where[0]).values() for row, _ in split())
    if has_tests(next(rows, {})):
        prompt = checked_prompt("code-v1", options.get("prompt", CODE_PROMPT))
        return Read("code-v1", load_code_problems(place, *where, skip_unreadable=True), prompt)
    prompt = checked_prompt("math-v1", options.get("prompt", BOXED_PROMPT))
    return Read("math-v1", load_pairs(place, *where, skip_unreadable=True), prompt)


def as_json(read: Read, count: int) -> dict[str, Any]:
    """Return the result as JSON values, with the first ``count`` problems."""
    loaded = read.loaded
    return {
        "env": read.env,
        "notices": list(loaded.notices),
        "warnings": list(loaded.warnings),
        "problems": {split: len(problems) for split, problems in loaded.items()},
        "left_out": [{"rows": rows, "first": first} for first, rows in loaded.skipped.items()],
        "first": list(read.first(count)),
    }


def as_lines(read: Read, count: int) -> Iterator[str]:
    """Yield the result as lines of text, with the first ``count`` problems."""
    yield from read.loaded.notices
    yield from (f"warning: {line}" for line in read.loaded.warnings)
    for found in read.first(count):
        yield f"\n{found['split']} problem {found['index']}"
        for message in found["messages"]:
            yield f"  {message['role']}: " + message["content"].replace("\n", "\n    ")
        yield f"  {'answer' if 'answer' in found else 'tests'}: {found.get('answer', found.get('tests'))}"


def command(place: str, read: Read, options: Mapping[str, Any]) -> str:
    """Return the command that trains on this data."""
    given = {"data": place, **options}
    if read.loaded.skipped:
        given["skip_unreadable"] = "true"
    words = [f"env_options.{name}={value}" for name, value in given.items()]
    return shlex.join(["areal", "train", "--env", read.env, *words])


def _expected(problem: Pair | CodeProblem) -> dict[str, str]:
    if isinstance(problem, Pair):
        return {"answer": problem.answer}
    tests = problem.tests
    if isinstance(tests, AssertTests):
        return {"tests": f"assertions ({len(tests.asserts)})"}
    if isinstance(tests, StreamTests):
        return {"tests": f"inputs with their outputs ({len(tests.cases)})"}
    if isinstance(tests, CallTests):
        return {"tests": f"calls with their return values ({len(tests.cases)})"}
    return {"tests": f"a script that checks {tests.entry}"}
