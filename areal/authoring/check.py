"""Checks an environment against the assumptions of training; each failure explains how to fix it.

An environment with a ``solution()`` method, which returns an answer with the highest reward, gets stricter
checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from areal.authoring import guesses, leaks, rules, watch
from areal.authoring.subject import Broken, NoText, Subject, Unknown
from areal.authoring.watch import LOCK, CallWatch, Hang
from areal.errors import EnvironmentFailure, UserError, explained

TIME_LIMIT = 30.0
"""Time limit of one call of the environment, in seconds."""
FIRST = "can be created"
RULES: dict[str, Callable[[Subject], str]] = {
    FIRST: rules.is_made,
    "honest spaces": rules.spaces_are_honest,
    "Gymnasium's checker": rules.gymnasium_agrees,
    "determinism": rules.is_deterministic,
    "separate splits": rules.splits_are_disjoint,
    "rewards": rules.rewards_are_whole,
    "solutions": rules.solutions_earn,
    "hidden answers": leaks.answers_are_hidden,
    "guesses": guesses.guesses_are_chance,
    "hostile actions": leaks.hostile_actions_fail,
    "threads": rules.threads_agree,
    "throughput": rules.is_fast,
    "end": rules.closes,
}


Verdict = Literal["passed", "warning", "not checked", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one rule."""

    rule: str
    verdict: Verdict
    message: str

    def __str__(self) -> str:
        return f"{self.verdict} {self.rule}: {self.message}"


def check_env(
    make: Callable[[], Any],
    time_limit: float = TIME_LIMIT,
    rules: Mapping[str, Callable[[Subject], str]] = RULES,
) -> list[Finding]:
    """Check an environment.

    Args:
        make: creates an environment, such as its class.
        time_limit: time limit of one call, in seconds.
        rules: the rules by name, in order; the first rule creates the environment.

    Returns:
        One finding for each rule, and warnings. A call that hangs ends the checks. A call that never releases
        the GIL ends this process with SIGKILL, after a line that says so.
    """
    subject = Subject(make, CallWatch(time_limit))
    with subject.watch.guarded():
        findings = _findings(subject, rules)
    return findings + _of_locks(subject)


def _findings(subject: Subject, rules: Mapping[str, Callable[[Subject], str]]) -> list[Finding]:
    findings: list[Finding] = []
    for rule, check in rules.items():
        try:
            message = subject.watch.run(partial(check, subject))
            findings.append(Finding(rule, "passed", message))
        except Hang as hang:
            findings.append(
                Finding(
                    rule,
                    "failed",
                    f"{hang}. Set a time limit for this work. The other rules were not checked",
                )
            )
            return findings
        except Unknown as unknown:
            findings.append(Finding(rule, "not checked", str(unknown)))
        except Exception as error:  # noqa: BLE001 (the check looks for anything that an environment raises)
            findings.append(_finding(rule, error))
            if rule == FIRST or isinstance(error, NoText):
                return [*findings, *(Finding(rule, "warning", text) for text in subject.warned())]
        findings += [Finding(rule, "warning", message) for message in subject.warned()]
    return findings


def _of_locks(subject: Subject) -> list[Finding]:
    """Warn of calls that held the GIL for long, unless the environment runs in its own process."""
    metadata = getattr(getattr(subject, "env", None), "metadata", None) or {}
    if metadata.get("isolation") == "process":
        return []
    found = sorted(subject.watch.locked.items(), key=lambda call: -call[1])
    return [Finding("isolation", "warning", f"{what} ({s:.1f} s) {LOCK}") for what, s in found[:1]]


def _finding(rule: str, error: Exception) -> Finding:
    if isinstance(error, Broken | EnvironmentFailure | UserError):
        return Finding(rule, "failed", str(error))
    call = getattr(error, "call", None)
    if call is None:  # no call of the environment was running, so it is not at fault
        return Finding(rule, "not checked", f"the check itself raised {explained(error, watch.__file__)}")
    return Finding(
        rule, "failed", f"{call} raised {explained(error, watch.__file__)}; an environment must not raise"
    )
