"""Refuses programming problems that cannot be judged on this host, before they are used.

These are problems whose tests import packages that the sandbox does not have, or pass with any answer.
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
"""Seconds for running tests when data are loaded; the other tests run when their problem is first used."""
_checked: set[tuple[Any, ...]] = set()
"""Data that have been checked, with the sandbox."""


def refuse_unusable(
    key: Sequence[Any], problems: Iterable[CodeProblem], sandbox: Any, verifier: CodeVerifier
) -> None:
    """Check all problems of a data set, once in this process; ``key`` identifies the data and the sandbox.

    Raises:
        UserError: a test cannot run, or passes with any answer; the message names the file and the line.
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
                # The run tries again, and reports the failure.
                break
    _checked.add(tuple(key))


def refuse_unsound(problem: CodeProblem, verifier: CodeVerifier) -> None:
    """Raise UserError if the tests of a problem pass with any answer, or cannot run."""
    try:
        verifier.ensure_sound_blocking(problem.tests)
    except ValueError as error:
        raise broken(problem, error) from error


def broken(problem: CodeProblem, error: ValueError) -> UserError:
    """Return the error for a problem with unusable tests."""
    lines = str(error).strip().splitlines()
    said = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
    return UserError(f"{problem.where or 'a problem'}: its tests are broken: {said}; fix or remove the row")


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
        raise UserError(f"code-v1 cannot run code on this host: {error}") from error
    if missing:
        rows = [problem for name in missing for problem in needed[name]]
        names = ",".join(missing)
        raise UserError(
            f"{rows[0].where}: its tests import {missing[0]}, which the sandbox does not have, as do the "
            f"tests of {len(set(map(id, rows))):,} of {len(problems):,} rows in total; "
            f"env_options.packages=[{names}] makes packages of this host available (in a sandbox other than "
            "local, they must be installed there)"
        )
