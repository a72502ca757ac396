"""Refuses programming problems that cannot be judged here, before one is used.

That is: tests that import what the sandbox does not have, and tests that pass whatever an answer does.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from areal.envs.code_problems import CodeProblem
from areal.errors import UserError
from areal.rewards.code import CodeVerifier
from areal.rewards.soundness import may_pass_anything
from areal.sandbox.interface import SandboxUnavailable
from areal.sandbox.packages import missing_packages

_PROVING_S = 1.0
"""Seconds for running tests when data are loaded; the rest are run when their problem is first used."""
_checked: set[tuple[Any, ...]] = set()
"""Data that have been looked at, with the sandbox."""


def refuse_unusable(
    key: Sequence[Any], problems: Iterable[CodeProblem], sandbox: Any, verifier: CodeVerifier
) -> None:
    """Look at all problems of a data set, once in this process; ``key`` says which data and which sandbox.

    Raises:
        UserError: a test cannot be run, or passes anything; the message names the file and the line.
    """
    if tuple(key) in _checked:
        return
    listed = list(problems)
    _refuse_missing_packages(listed, sandbox)
    end = time.monotonic() + _PROVING_S
    for problem in listed:
        if time.monotonic() > end:
            break
        if may_pass_anything(problem.tests):
            try:
                refuse_unsound(problem, verifier)
            except SandboxUnavailable:
                # For the run to say, which tries again.
                break
    _checked.add(tuple(key))


def refuse_unsound(problem: CodeProblem, verifier: CodeVerifier) -> None:
    """Raise UserError if the tests of a problem pass whatever an answer does, or cannot be run."""
    try:
        verifier.ensure_sound_blocking(problem.tests)
    except ValueError as error:
        raise broken(problem, error) from error


def broken(problem: CodeProblem, error: ValueError) -> UserError:
    """Return the complaint about a problem whose tests cannot be used."""
    lines = str(error).strip().splitlines()
    said = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
    return UserError(f"{problem.where or 'a problem'}: its tests are broken: {said}; mend or remove the row")


def _refuse_missing_packages(problems: Sequence[CodeProblem], sandbox: Any) -> None:
    needed: dict[str, list[CodeProblem]] = {}
    for problem in problems:
        for name in problem.packages:
            needed.setdefault(name, []).append(problem)
    if not needed:
        return
    try:
        missing = missing_packages(sandbox, needed)
    except SandboxUnavailable as error:
        raise UserError(f"code-v1 cannot run code here: {error}") from error
    if missing:
        rows = [problem for name in missing for problem in needed[name]]
        names = ",".join(missing)
        raise UserError(
            f"{rows[0].where}: its tests import {missing[0]}, which the sandbox does not have; such are "
            f"{len(set(map(id, rows))):,} of {len(problems):,} rows. env_options.packages=[{names}] shows it "
            "what is installed here (another sandbox than the local one must have it)"
        )
