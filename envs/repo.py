"""``repo-v1``: changes to a small repository that solve an issue; hidden tests in a sandbox judge them.

The model reads, searches, edits and runs the visible tests with tools, one action after another. A call is a
line of JSON in an action; the agent ``tool-use`` makes calls in the model's own format. An action may also be
the whole answer, as a diff.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from areal.envs.code import ENDINGS, shortened
from areal.envs.patches import PatchError, diff_in, patched
from areal.envs.problems import ProblemEnv
from areal.envs.repo_tasks import SHIPPED, HiddenTest, RepoTask, load_repo_tasks
from areal.envs.repo_tools import BY_NAME, TOOLS, Repository
from areal.envs.tool_calls import NO_CALL, Asked, ToolError, calls_of, told
from areal.errors import UserError
from areal.rewards.cases import CallCase, CallTests
from areal.rewards.code import CaseStatus, CodeVerifier
from areal.sandbox.blocking import wait_for
from areal.sandbox.interface import Call, Job, SandboxLimits, SandboxUnavailable, Script
from areal.sandbox.shared import shared_sandbox
from areal.spans import span

LONGEST = 8000
"""Maximum number of characters of an observation after the first."""
FOLDER = "/tmp/repository"
"""The folder of the files in the sandbox while code runs."""
_RUNNER = Path(__file__).with_name("repo_runner.py").read_text(encoding="utf-8")
_UNPACK = f"""
import os, sys
sys.dont_write_bytecode = True
for path, text in FILES.items():
    path = os.path.join({FOLDER!r}, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)
os.chdir({FOLDER!r})
sys.path.insert(0, {FOLDER!r})
for name in ("FILES", "path", "text", "file"):
    globals().pop(name, None)
"""
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")
_OPENING = """{issue}

The repository:
{files}"""
_checked: set[tuple[str, str, bool]] = set()
"""Tasks of users that have been verified once, with their sandbox."""
_untouched: dict[tuple[str, str, bool], dict[str, bool]] = {}
"""Results of the hidden tests without a change, because many episodes end without one."""


class RepoEnv(ProblemEnv[RepoTask]):
    """Solves an issue in a repository; the reward is 1 if all required hidden tests pass, else 0.

    Args:
        tasks: a folder of tasks (areal.envs.repo_tasks); None: the ten tasks that ship with areal.
        split: the split from which a reset without an index draws, ``train`` or ``test``.
        max_turns: maximum number of actions in an episode; after the last one, the repository is judged as it
            is.
        partial: give the share of the ``fail_to_pass`` tests that pass, instead of all or nothing.
        describe_tools: describe the tools in the observation, for agents that do not.
        show_files: include all files in the first observation, for agents that answer once.
        sandbox: the sandbox that runs the code: ``local``, ``container``, ``e2b`` or a registered one.
        allow_weak: accept a weak local sandbox if this host has no strong one.
        time_limit: time limit of one hidden test, and of one run of the visible tests, in seconds.
        packages: packages that code can import besides the standard library, such as ``[numpy]``; none by
            default.

    Raises:
        UserError: the tasks cannot be read, an argument is wrong, or this host has no sandbox.
    """

    def __init__(
        self,
        tasks: str | None = None,
        split: str = "train",
        max_turns: int = 16,
        partial: bool = False,
        describe_tools: bool = True,
        show_files: bool = False,
        sandbox: str = "local",
        allow_weak: bool = False,
        time_limit: float = 6.0,
        packages: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
        if max_turns < 1 or not time_limit > 0:
            raise UserError(f"repo-v1: max_turns={max_turns} and time_limit={time_limit} must be positive")
        loaded = load_repo_tasks(SHIPPED if tasks is None else str(tasks))
        super().__init__("repo-v1", loaded, split, 2**22, render_mode)
        self._trusted = tasks is None
        self._max_turns = max_turns
        self._partial = partial
        self._describes = describe_tools
        self._shows = show_files
        self._limits = SandboxLimits(wall_s=time_limit)
        self._sandbox = shared_sandbox("repo-v1", "env_options", sandbox, allow_weak, packages)
        if sandbox == "local" and self._sandbox.backend.level == "confined":
            raise UserError(
                "repo-v1: the weak sandbox of this host (allow_weak) has no folder for a repository; set "
                "env_options.sandbox=container (or e2b)"
            )
        self._key = sandbox, allow_weak
        self._verifier = CodeVerifier(self._sandbox, self._limits)
        self._repository = Repository({})

    def asked(self, problem: RepoTask) -> str:
        """Return the issue, the content of the repository, and the instructions."""
        files = problem.files
        listed = [f"{path}:\n```\n{files[path]}\n```" if self._shows else path for path in sorted(files)]
        text = _OPENING.format(issue=problem.problem, files="\n".join(listed))
        if self._describes:
            text += told(TOOLS, Asked("read_file", {"path": min(files)}))
        return text

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Choose a task; ``info["tools"]`` contains the tools in OpenAI's form. See ProblemEnv.

        Raises:
            UserError: the task does not exist, or is a user's task whose tests do not recognize a solution.
        """
        asked, info = super().reset(seed=seed, options=options)
        self._refuse_unsound(self.problem)
        self._repository = Repository(self.problem.files)
        return asked, info | {"tools": [tool.schema for tool in TOOLS]}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Make the calls of an action, or apply its diff and submit.

        Raises:
            SandboxUnavailable: the sandbox could not run the code; there is no reward.
        """
        task = self.problem
        self._turn += 1
        said, over = self._act(action)
        if not over and self._turn < self._max_turns:
            return said, 0.0, False, False, {"reward_parts": {"fail_to_pass": 0.0, "pass_to_pass": 0.0}}
        passed = self._passed(task)
        reward, parts = _reward(task, passed, self._partial)
        found = {"reward_parts": parts, "tests": passed, "expected": _expected(task, passed)}
        return said, reward, True, False, found

    def solution(self) -> str:
        """Return the calls that solve the task; a task without a known solution is submitted unchanged."""
        writes = [
            {"name": "write_file", "arguments": {"path": path, "content": text}}
            for path, text in self.problem.solution.items()
        ]
        return "\n".join(map(json.dumps, [*writes, {"name": "submit", "arguments": {}}]))

    def judge(self, task: RepoTask, files: dict[str, str]) -> dict[str, bool]:
        """Run the hidden tests on files; return which passed.

        Each test has its own process. If one takes too long, the remaining ones count as failed, too.

        Raises:
            SandboxUnavailable: the sandbox could not run the tests.
        """
        passed = dict.fromkeys((test.name for test in task.tests), False)
        with span("verifier", "repo"):
            for test in task.tests:
                status = self._ended(test, files)
                passed[test.name] = status == "ok"
                if status == "timeout":
                    break
        return passed

    def _ended(self, test: HiddenTest, files: dict[str, str]) -> CaseStatus:
        """Run one hidden test on files; return its status, ``"ok"`` if it passed."""
        tests = CallTests((CallCase(Call(test.name), test.expected),))
        verdict = self._verifier.verify_blocking(test.source, tests, before=_unpacking(files))
        return verdict.cases[0].status

    def _passed(self, task: RepoTask) -> dict[str, bool]:
        """Return which hidden tests currently pass."""
        key = (task.where, *self._key)
        if self._repository.files != task.files:
            return self.judge(task, self._repository.files)
        if key not in _untouched:
            _untouched[key] = self.judge(task, task.files)
        return dict(_untouched[key])

    def _act(self, action: str) -> tuple[str, bool]:
        """Return the result of an action, and whether it submits the repository."""
        calls = calls_of(action)
        if not calls:
            diff = diff_in(action)
            return (NO_CALL, False) if diff is None else (self._patch(diff), True)
        given: list[str] = []
        for call in calls:
            if call.name == "submit":
                return shortened("\n\n".join(given), LONGEST), True
            given.append(self._call(call))
        return shortened("\n\n".join(given), LONGEST), False

    def _patch(self, diff: str) -> str:
        try:
            for path, text in patched(self._repository.files, diff).items():
                if text is None:
                    self._repository.delete_file(path)
                else:
                    self._repository.write_file(path, text)
        except (PatchError, ToolError) as error:
            return f"Error: the diff cannot be applied: {error}"
        return "The diff was applied."

    def _call(self, call: Asked) -> str:
        tool = BY_NAME.get(call.name)
        if tool is None:
            return f"Error: the tool '{call.name[:100]}' does not exist; choose one of {', '.join(BY_NAME)}."
        try:
            arguments = tool.checked(call.arguments)
            if tool.name == "run_tests":
                return self._run_tests(**arguments)
            return str(getattr(self._repository, tool.name)(**arguments))
        except ToolError as error:
            return f"Error: {error}."

    def _run_tests(self, path: str = "") -> str:
        """Run visible tests; their output is only shown, and does not count."""
        if path and path.removeprefix("./") not in self._repository.files:
            raise ToolError(f"the file '{path}' does not exist")
        source = f"WANTED = {path.removeprefix('./')!r}\n{_RUNNER}"
        job = Job(source, Script(any_exit=True), _unpacking(self._repository.files))
        with span("tool", "run_tests"):
            outcome = wait_for(self._sandbox.run(job, self._limits))
        if outcome.status == "infra_error" and outcome.if_repeated is None:
            raise SandboxUnavailable(outcome.error)
        status = outcome.if_repeated or outcome.status
        lines = [outcome.stdout.rstrip(), outcome.stderr.rstrip()]
        if status != "ok":
            lines.append(ENDINGS.get(status, outcome.error.rstrip() or status))
        text = "\n".join(line for line in lines if line).replace(f"{FOLDER}/", "")
        return shortened(_ADDRESS.sub("0x…", text), LONGEST) or "There is no output."

    def _refuse_unsound(self, task: RepoTask) -> None:
        """Test a user's task with and without its solution; raises UserError if its tests are unsound."""
        key = (task.where, *self._key)
        if self._trusted or key in _checked:
            return
        for test in task.tests:
            must = test.kind == "pass_to_pass"
            if self._passes(test, task.files, must, f"{task.where}: before any change") != must:
                how = "fails" if must else "passes"
                raise UserError(
                    f"repo-v1: {task.where}: the hidden test {test.name} of {test.kind} {how} before any "
                    "change"
                )
        solved = {**task.files, **task.solution}
        for test in task.tests if task.solution else ():
            if not self._passes(test, solved, True, f"{task.where}: with its own solution"):
                raise UserError(f"repo-v1: {task.where}: its own solution fails the hidden test {test.name}")
        _checked.add(key)

    def _passes(self, test: HiddenTest, files: dict[str, str], must: bool, when: str) -> bool:
        """Return whether a hidden test passes.

        Raises:
            UserError: the test must pass, and takes too long, twice.
        """
        status = self._ended(test, files)
        if must and status == "timeout":  # the host may have been busy
            status = self._ended(test, files)
            if status == "timeout":
                raise UserError(
                    f"repo-v1: {when} the hidden test {test.name} took longer than time_limit, "
                    f"{self._limits.wall_s:g} s, twice; increase env_options.time_limit"
                )
        return status == "ok"


def _unpacking(files: dict[str, str]) -> str:
    """Return code that writes the files and changes to their folder."""
    return f"FILES = {files!r}\n{_UNPACK}"


def _reward(task: RepoTask, passed: dict[str, bool], partial: bool) -> tuple[float, dict[str, float]]:
    """Return the reward and its parts: the reward of the fixed tests, and its loss if another test broke."""
    mended = [passed[test.name] for test in task.tests if test.kind == "fail_to_pass"]
    intact = all(passed[test.name] for test in task.tests if test.kind == "pass_to_pass")
    earned = sum(mended) / len(mended) if partial else float(all(mended))
    lost = 0.0 if intact or not earned else -earned
    return earned + lost, {"fail_to_pass": earned, "pass_to_pass": lost}


def _expected(task: RepoTask, passed: dict[str, bool]) -> str:
    """Return the text that people see beside the answer: results of the hidden tests, and the solution."""
    lines = [f"{test.kind} {test.name}: {'passed' if passed[test.name] else 'failed'}" for test in task.tests]
    lines += [f"{path}:\n{text}" for path, text in task.solution.items()]
    return "\n".join(lines)
