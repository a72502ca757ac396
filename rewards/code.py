"""Verifies code: runs it in a sandbox, and compares the values that it returns in this process.

>>> verifier = CodeVerifier(local_sandbox())                                              # doctest: +SKIP
>>> tests = AssertTests(("assert add(1, 2) == 3",))                                       # doctest: +SKIP
>>> (await verifier.verify("def add(a, b): return a + b", tests)).score                   # doctest: +SKIP
1.0
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from areal.sandbox.blocking import wait_for
from areal.sandbox.interface import (
    Call,
    Calls,
    Check,
    Job,
    Opaque,
    Outcome,
    Raised,
    Result,
    Returned,
    Sandbox,
    SandboxLimits,
    SandboxUnavailable,
    Script,
    Status,
)

from .cases import AssertTests, CallCase, CallTests, CheckTests, StreamTests, Tests
from .compare import Comparison, Either, Raises
from .shown import shown
from .soundness import PROBES, probe

log = logging.getLogger(__name__)

_SPLITTER = Path(__file__).with_name("asserts.py").read_text(encoding="utf-8")
_SPLIT_S = 30.0
"""Seconds for parsing a list of assertions, which takes milliseconds on an idle machine."""
_WAIT = "import time\ndef wait(seconds): time.sleep(seconds)"
_SPARE_S = 0.2
_REMEMBERED = 20_000
"""Number of parsed lists of assertions in the cache: a training set is verified repeatedly."""

_sound: set[AssertTests | CheckTests] = set()
"""Tests that have been found sound: code that solves nothing fails them."""

CaseStatus: TypeAlias = Status | Literal["wrong"]


@dataclass(frozen=True, slots=True)
class CaseVerdict:
    """The result of one case.

    Attributes:
        passed: whether the case passed; if so, the texts are empty.
        status: ``"ok"`` if it passed, ``"wrong"`` if the result differs, otherwise how the run ended.
        asked: the call or the input, as text; empty if there was none.
        got: the result, as text: a value, an exception or an output.
        expected: the expected result, as text, or the failed assertion. It reveals what a hidden test
            expects: show it to a model only if the task says so.
        trace: a traceback within the code under test, if there is one.
    """

    passed: bool
    status: CaseStatus
    asked: str = ""
    got: str = ""
    expected: str = ""
    trace: str = ""


PASSED = CaseVerdict(True, "ok")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of code on its tests.

    Attributes:
        score: 1 if every case passed, otherwise 0; with partial credit, the share of passed cases.
        cases: results in order; cases that were not reached have the status with which the run ended.
        stdout: the output of the code in the first run.
        seconds: total seconds of all runs.
    """

    score: float
    cases: tuple[CaseVerdict, ...]
    stdout: str = ""
    seconds: float = 0.0

    @property
    def failure(self) -> CaseVerdict | None:
        """Return the first case that did not pass."""
        return next((case for case in self.cases if not case.passed), None)


class CodeVerifier:
    """Gives code a score between 0 and 1.

    Args:
        sandbox: where the code runs.
        limits: limits of each run.
        comparison: how results are compared with expected ones; not used for assertions and checks.
        partial: the score is the share of passed cases, instead of all or nothing.
        retries: number of repetitions of a run that failed because of the sandbox.

    Attributes:
        infra_failures: number of runs that have failed because of the sandbox.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        limits: SandboxLimits | None = None,
        comparison: Comparison | None = None,
        *,
        partial: bool = False,
        retries: int = 2,
    ) -> None:
        self.infra_failures = 0
        self._sandbox = sandbox
        self._limits = limits or SandboxLimits()
        self._comparison = comparison or Comparison()
        self._partial = partial
        self._retries = retries
        self._splits: dict[AssertTests, _Split] = {}

    async def verify(self, source: str, tests: Tests, *, before: str = "", ahead: bool = False) -> Verdict:
        """Run code against its tests.

        Args:
            source: the code.
            tests: the tests that it must pass.
            before: code that is executed before the source.
            ahead: send all calls of a run at once. This saves time if the sandbox is remote, but the code can
                then reveal later calls in its results. Do not use it if a model sees the texts of the verdict
                and may act on them.

        Raises:
            SandboxUnavailable: the sandbox failed, even after the retries; there is no verdict.
            ValueError: there are no cases, or the tests are broken.
        """
        code = _Code(source, before, ahead)
        match tests:
            case CallTests():
                verdict = await self._calls(code, tests)
            case StreamTests():
                verdict = await self._streams(code, tests)
            case AssertTests():
                verdict = await self._asserts(code, tests)
            case CheckTests():
                verdict = await self._check(code, tests)
        if not verdict.cases:
            raise ValueError("code cannot be verified without test cases")
        return verdict

    def verify_blocking(self, source: str, tests: Tests, *, before: str = "", ahead: bool = False) -> Verdict:
        """Like ``verify``, from any thread, with or without an event loop."""
        return wait_for(self.verify(source, tests, before=before, ahead=ahead))

    async def ensure_sound(self, tests: Tests) -> None:
        """Run tests once with code that solves nothing; raise an error if they pass.

        Raises:
            SandboxUnavailable: the sandbox failed.
            ValueError: they pass, or cannot run.
        """
        if not isinstance(tests, AssertTests | CheckTests) or tests in _sound:
            return
        if isinstance(tests, CheckTests):
            paths = [tests.entry]
        else:
            split = await self._split(tests)
            # A comparison with one value cannot pass with several different values.
            paths = [] if split.calls else list(split.proxies)
        for value in PROBES if paths else ():
            if (await self.verify(probe(paths, value), tests)).score < 1:
                break
        else:
            if paths:
                raise ValueError(f"they pass whatever {paths[0]} does")
        if len(_sound) >= _REMEMBERED:
            _sound.clear()
        _sound.add(tests)

    def ensure_sound_blocking(self, tests: Tests) -> None:
        """Like ``ensure_sound``, from any thread."""
        if isinstance(tests, AssertTests | CheckTests) and tests not in _sound:
            wait_for(self.ensure_sound(tests))

    async def _calls(self, code: _Code, tests: CallTests) -> Verdict:
        outcome = await self._run(code.job(code.calls(tests.cases), tests.scope))
        verdicts = []
        for number, case in enumerate(tests.cases):
            answer = _answer(outcome, number)
            passed = answer is not None and self._expected(answer, case.expected)
            verdicts.append(PASSED if passed else _failed(outcome, answer, case))
        return self._verdict(verdicts, outcome)

    async def _streams(self, code: _Code, tests: StreamTests) -> Verdict:
        verdicts: list[CaseVerdict] = []
        outcomes: list[Outcome] = []
        for case in tests.cases:
            outcome = await self._run(code.job(Script(case.stdin, tests.any_exit), tests.scope))
            passed = outcome.status == "ok" and self._comparison.texts(outcome.stdout, case.stdout)
            status: CaseStatus = outcome.status if passed or outcome.status != "ok" else "wrong"
            shown = (_cut(case.stdin), _cut(outcome.stdout), _cut(case.stdout), _cut(outcome.error))
            verdicts.append(PASSED if passed else CaseVerdict(False, status, *shown))
            outcomes.append(outcome)
            # If one takes too long, the others probably would, too; calls in one process also stop there.
            if not passed and (not self._partial or status == "timeout"):
                rest = tests.cases[len(verdicts) :]
                verdicts += [CaseVerdict(False, status, _cut(c.stdin), "", _cut(c.stdout)) for c in rest]
                break
        return self._verdict(verdicts, *outcomes)

    async def _asserts(self, code: _Code, tests: AssertTests) -> Verdict:
        split = await self._split(tests)
        verdicts: dict[int, CaseVerdict] = {}
        outcomes = []
        if split.calls:
            outcome = await self._run(code.job(code.calls(split.calls.values())))
            outcomes.append(outcome)
            for place, (number, case) in enumerate(split.calls.items()):
                answer = _answer(outcome, place)
                # The assertion says ``==``, so no looser comparison applies.
                passed = isinstance(answer, Returned) and bool(answer.value == case.expected)
                verdicts[number] = PASSED if passed else _failed(outcome, answer, case)
        failure = next((verdict for verdict in verdicts.values() if not verdict.passed), None)
        if failure and not self._partial:
            # The score is 0 already.
            skipped = {n: CaseVerdict(False, failure.status, expected=tests.asserts[n]) for n in split.others}
            verdicts |= skipped
        elif split.others:
            statements = tuple(tests.asserts[number] for number in split.others)
            setup = "".join(f"import {name}\n" for name in sorted(split.modules)) + tests.setup
            outcome = await self._run(code.job(Check(setup, statements, split.proxies)))
            outcomes.append(outcome)
            for place, number in enumerate(split.others):
                verdicts[number] = _checked(outcome, place, tests.asserts[number])
        return self._verdict([verdicts[number] for number in sorted(verdicts)], *outcomes)

    async def _check(self, code: _Code, tests: CheckTests) -> Verdict:
        proxies = {"candidate": tests.entry, tests.entry: tests.entry}
        setup, statement = f"{tests.prompt}\n\n{tests.check}", "check(candidate)"
        if tests.script:
            setup, statement = tests.prompt, tests.check
        outcome = await self._run(code.job(Check(setup, (statement,), proxies)))
        return self._verdict([_checked(outcome, 0, statement)], outcome)

    def _expected(self, answer: Result, expected: object) -> bool:
        if isinstance(expected, Raises):
            return isinstance(answer, Raised) and expected.kind in answer.type_names
        return isinstance(answer, Returned) and self._comparison.values(answer.value, expected)

    def _verdict(self, cases: list[CaseVerdict], *outcomes: Outcome) -> Verdict:
        passed = sum(case.passed for case in cases)
        score = passed / max(len(cases), 1) if self._partial else float(passed == len(cases))
        seconds = sum(outcome.seconds for outcome in outcomes)
        return Verdict(score, tuple(cases), outcomes[0].stdout if outcomes else "", seconds)

    async def _run(self, job: Job, limits: SandboxLimits | None = None) -> Outcome:
        """Run a job within the verifier's limits or others, and repeat it if the sandbox failed.

        If the sandbox cannot determine the cause, the code is at fault if its process or machine fails each
        time while other code runs well in between.

        Raises:
            SandboxUnavailable: the sandbox failed each time.
        """
        limits = limits or self._limits
        blamed = self._retries > 0
        for attempt in range(self._retries + 1):
            if attempt:
                await asyncio.sleep(0.2 * 2**attempt)
            outcome = await self._sandbox.run(job, limits)
            if outcome.status != "infra_error":
                return outcome
            self.infra_failures += 1
            log.warning("a run failed because of the sandbox: %s", outcome.error)
            blamed = blamed and outcome.if_repeated is not None and await self._sound(outcome, limits)
        if blamed and outcome.if_repeated is not None:
            return replace(outcome, status=outcome.if_repeated)
        raise SandboxUnavailable(f"{self._retries + 1} runs failed: {outcome.error}")

    async def _sound(self, failed: Outcome, limits: SandboxLimits) -> bool:
        """Return whether code that only waits lives longer than the failed run."""
        # Longer than the failed run: with the same time, it might survive an occasional failure by chance.
        seconds = min(2 * failed.seconds + _SPARE_S, limits.wall_s)
        wait = Job(_WAIT, Calls((Call("wait", (seconds,)),)))
        return (await self._sandbox.run(wait, replace(limits, wall_s=seconds + _SPLIT_S))).status == "ok"

    async def _split(self, tests: AssertTests) -> _Split:
        """Return how to run a list of assertions, which is parsed once, inside the sandbox."""
        known = self._splits.get(tests)
        if known is not None:
            return known
        calls = [Call(step, (tests.setup, text)) for text in tests.asserts for step in ("split", "needs")]
        # The verifier's limits are meant for code under test. Under a short one, valid assertions could fail
        # on a busy machine.
        limits = replace(self._limits, wall_s=max(self._limits.wall_s, _SPLIT_S), cpu_s=None)
        outcome = await self._run(Job(_SPLITTER, Calls(tuple(calls), ahead=True)), limits)
        if outcome.status != "ok":
            raise ValueError(f"the assertions cannot be parsed: {outcome.error or outcome.status}")
        split = _Split({}, [], {}, set())
        for number in range(len(tests.asserts)):
            split.add(number, *outcome.values[2 * number : 2 * number + 2])
        if len(self._splits) >= _REMEMBERED:
            self._splits.clear()
        self._splits[tests] = split
        return split


@dataclass(frozen=True, slots=True)
class _Code:
    """The input of a verification; see CodeVerifier.verify."""

    source: str
    before: str
    ahead: bool

    def job(self, mode: Calls | Script | Check, scope: Literal["", "contest"] = "") -> Job:
        return Job(self.source, mode, self.before, scope)

    def calls(self, cases: Iterable[CallCase]) -> Calls:
        return Calls(tuple(case.call for case in cases), self.ahead)


@dataclass(frozen=True, slots=True)
class _Split:
    """A list of assertions, parsed.

    Attributes:
        calls: assertions that compare a call with a value, by their index in the list.
        others: the indices of the others.
        proxies: the names in the others that the code under test defines.
        modules: the modules in the others that are not imported.
    """

    calls: dict[int, CallCase]
    others: list[int]
    proxies: dict[str, str]
    modules: set[str]

    def add(self, number: int, split: Result, needs: Result) -> None:
        """Add an assertion, from the results of asserts.py."""
        if isinstance(split, Returned) and split.value is not None:
            function, args, kwargs, expected = split.value
            self.calls[number] = CallCase(Call(function, tuple(args), kwargs), expected)
            return
        # Values that cannot be sent, such as a lambda, also end here; the checker creates them itself.
        if not isinstance(needs, Returned):
            detail = needs.message if isinstance(needs, Raised) else "it returned no value"
            raise ValueError(f"assertion {number} cannot be used without the code under test: {detail}")
        names, modules = needs.value
        self.others.append(number)
        self.proxies.update({name: name for name in names})
        self.modules.update(modules)


def _answer(outcome: Outcome, place: int) -> Result | None:
    return outcome.values[place] if place < len(outcome.values) else None


def _failed(outcome: Outcome, answer: Result | None, case: CallCase) -> CaseVerdict:
    """Return the result for a value that is not the expected one, or is missing."""
    asked, wanted = _shown_call(case.call), _shown(case.expected)
    match answer:
        case None:
            return CaseVerdict(False, _ending(outcome), asked, "", wanted, _cut(outcome.error))
        case Raised(type_names, _, trace):
            status: CaseStatus = "memory" if "MemoryError" in type_names else "runtime_error"
            return CaseVerdict(False, status, asked, _shown_result(answer), wanted, trace)
        case _:
            return CaseVerdict(False, "wrong", asked, _shown_result(answer), wanted)


def _checked(outcome: Outcome, place: int, statement: str) -> CaseVerdict:
    """Return the result of a checker for one statement."""
    answer = _answer(outcome, place)
    if isinstance(answer, Returned):
        return PASSED
    # Only the last call is known, so only the last statement can show its call.
    call, gave = (outcome.last_call or (None, None)) if place + 1 >= len(outcome.values) else (None, None)
    asked = "" if call is None else _shown_call(call)
    trace = gave.trace if isinstance(gave, Raised) else ""
    if not isinstance(answer, Raised):
        return CaseVerdict(False, _ending(outcome), asked, "", statement, trace or _cut(outcome.error))
    status: CaseStatus = "wrong" if "AssertionError" in answer.type_names else "runtime_error"
    why = _cut(f"{statement}\n{answer.type_names[0]}: {answer.message}")
    return CaseVerdict(False, status, asked, _shown_result(gave), why, trace)


def _shown_result(result: Result | None) -> str:
    match result:
        case None:
            return ""
        case Returned(value):
            return _shown(value)
        case Opaque(name):
            return f"an object of type {name}"
        case Raised(type_names, message, _):
            return _cut(f"{type_names[0]}: {message}")


def _ending(outcome: Outcome) -> CaseStatus:
    return outcome.status if outcome.status != "ok" else "no_result"


def _shown(value: object) -> str:
    if isinstance(value, Either):
        return " or ".join(map(_shown, value.values))
    return f"raises {value.kind}" if isinstance(value, Raises) else _cut(shown(value))


def _shown_call(call: Call) -> str:
    parts = [*map(shown, call.args), *(f"{name}={shown(value)}" for name, value in call.kwargs.items())]
    return _cut(f"{call.function}({', '.join(parts)})")


def _cut(text: str, max_chars: int = 2000) -> str:
    """Shorten a text in its middle."""
    return text if len(text) <= max_chars else f"{text[: max_chars // 2]} … {text[-max_chars // 2 :]}"
