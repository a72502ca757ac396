"""``harbor-v1``: tasks in Harbor's format. The model works on a machine through a shell, and the task's tests
judge the result.

A task that needs no image runs on a machine with this host's programs (areal.sandbox.local.machine), any
other in a container. The task's ``tests/test.sh`` writes the reward: unlike areal's own verifiers, and as the
format requires, it runs on the machine that the model has changed. Before that, areal kills all processes
that the model has left running, and only then copies the tests to the machine.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from typing import Any

from areal import faults
from areal.envs.code import shortened
from areal.envs.harbor_tasks import Copied, HarborTask, load_harbor_tasks
from areal.envs.problems import ProblemEnv
from areal.envs.tool_calls import NO_CALL, Asked, ToolError, ToolSpec, calls_of, told
from areal.errors import UserError
from areal.sandbox.container import ask_engine, find_engine
from areal.sandbox.container_machine import ContainerMachine, build_image
from areal.sandbox.interface import SandboxUnavailable
from areal.sandbox.local.machine import FOLDER, LocalMachine
from areal.sandbox.machine import Machine, MachineFull, MachineLimits, Ran
from areal.spans import span
from areal.thoughts import after_thought

LONGEST = 8000
"""Maximum number of characters of an observation after the first."""
SANDBOXES = ("local", "container")
_LOCAL_MB = 1024
"""Maximum MiB of files on a local machine, which are in memory."""
_LOGS, _TESTS, _SOLUTION = "/logs/verifier", "/tests", "/solution"
_START_S = 120.0
TOOLS = (
    ToolSpec(
        "bash",
        "run a command in bash; files remain for later commands",
        {"command": ("string", "the command")},
    ),
    ToolSpec("submit", "submit the machine in its current state and end the task", {}),
)
_BY_NAME = {tool.name: tool for tool in TOOLS}
_BLOCK = re.compile(r"^```(?:bash|sh|shell)[ \t]*\n(.*?)(?:^```|\Z)", re.MULTILINE | re.DOTALL)
_checked: set[tuple[str, str]] = set()
"""Tasks whose solution has been checked, with the sandbox."""


class HarborEnv(ProblemEnv[HarborTask]):
    """A task on a machine; the task's own tests give the reward.

    Args:
        tasks: a folder of tasks in Harbor's format, or the folder of one task.
        split: split from which a reset without an index draws, ``train`` or ``test``.
        max_turns: maximum number of actions in an episode; after the last one, the machine is judged as it
            is.
        describe_tools: describe the tools in the observation, for agents that do not do so.
        sandbox: where tasks run: ``local`` (tasks that need no image) or ``container``.
        network: whether containers have network access.
        command_s: time limit of one command, in seconds.
        reward: the key of the reward in ``reward.json``; None: ``reward``, or the only key.
        check: run the solution of each task before the task is used, and refuse tasks that it does not solve.

    Raises:
        UserError: a task cannot be read or cannot run on this host, or an argument is wrong.
    """

    def __init__(
        self,
        tasks: str,
        split: str = "train",
        max_turns: int = 30,
        describe_tools: bool = True,
        sandbox: str = "local",
        network: bool = False,
        command_s: float = 60.0,
        reward: str | None = None,
        check: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if max_turns < 1 or not command_s > 0:
            raise UserError(f"harbor-v1: max_turns={max_turns} and command_s={command_s} must be positive")
        if sandbox not in SANDBOXES:
            raise UserError(f"harbor-v1: sandbox={sandbox!r} must be one of {', '.join(SANDBOXES)}")
        if network and sandbox == "local":
            raise UserError("harbor-v1: a local machine has no network; set env_options.sandbox=container")
        loaded = load_harbor_tasks(str(tasks))
        super().__init__("harbor-v1", loaded, split, 2**22, render_mode)
        self._max_turns = max_turns
        self._describes = describe_tools
        self._kind = sandbox
        self._network = network
        self._command_s = command_s
        self._named = reward
        self._checks = check
        self._machine: Machine | None = None
        self._left_s = 0.0
        all_tasks = [task for tasks_of_split in loaded.values() for task in tasks_of_split]
        if sandbox == "local":
            _refuse_images(all_tasks)
        else:
            _refuse_missing_images(all_tasks)

    @property
    def notices(self) -> tuple[str, ...]:
        """Return the tasks that use the programs of this host instead of an image."""
        assert not callable(self._problems)
        named = {task.name: task.base for tasks in self._problems.values() for task in tasks if task.base}
        if self._kind != "local" or not named:
            return ()
        first = min(named)
        return (
            f"harbor-v1: {len(named)} tasks, such as {first}, only copy files into an image "
            f"({named[first]}), so they use the programs of this host; env_options.sandbox=container uses "
            "the image",
        )

    def asked(self, problem: HarborTask) -> str:
        """Return the instruction, and how to work on it."""
        if not self._describes:
            return problem.problem
        return problem.problem + told(TOOLS, Asked("bash", {"command": "ls -la"}))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Choose a task; ``info["tools"]`` has the tools in OpenAI's form. See ProblemEnv.

        Raises:
            UserError: the task does not exist, or its own solution does not solve it on this host.
            SandboxUnavailable: its machine did not start.
        """
        self.close()
        asked, info = super().reset(seed=seed, options=options)
        self._refuse_unsolved(self.problem)
        self._left_s = self.problem.agent_s
        return asked, info | {"tools": [tool.schema for tool in TOOLS]}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Run the commands of an action and, at the end of the episode, the task's tests.

        Raises:
            SandboxUnavailable: the machine failed; there is no reward.
        """
        task = self.problem
        self._turn += 1
        calls = _calls(action)
        try:
            said = self._act(calls, task) if calls else NO_CALL
            over = any(call.name == "submit" for call in calls)
            if not over and self._turn < self._max_turns and self._left_s > 0:
                return said, 0.0, False, False, {"reward_parts": {"tests": 0.0}}
            with span("verifier", "harbor"):
                reward, told_by = self._judged(self._running(task), task)
        except SandboxUnavailable:
            faults.count("sandbox_faults")
            self.close()
            raise
        self.close()
        info = {"reward_parts": {"tests": reward}, "expected": told_by}
        return said, reward, True, False, info

    def solution(self) -> str:
        """Return the calls that perform the task's own solution; a task without a solution is submitted
        unchanged."""
        script = self.problem.folder / "solution" / "solve.sh"
        submit = json.dumps({"name": "submit", "arguments": {}})
        if not script.is_file():
            return submit
        lines = [f"mkdir -p {_SOLUTION} && cd {_SOLUTION}"]
        for path in sorted((self.problem.folder / "solution").rglob("*")):
            if path.is_file():
                name = shlex.quote(path.relative_to(self.problem.folder / "solution").as_posix())
                text = path.read_text(encoding="utf-8")
                lines.append(f"mkdir -p $(dirname {name}) && printf %s {shlex.quote(text)} > {name}")
        lines.append(f"cd {shlex.quote(self._folder(self.problem) or '.')} && bash {_SOLUTION}/solve.sh")
        if self._folder(self.problem) is None:
            lines[0] = f"OLD=$PWD; {lines[0]}"
            lines[-1] = f'cd "$OLD" && bash {_SOLUTION}/solve.sh'
        return json.dumps({"name": "bash", "arguments": {"command": "\n".join(lines)}}) + f"\n{submit}"

    def close(self) -> None:
        """Stop the machine."""
        machine, self._machine = self._machine, None
        if machine is not None:
            machine.close()

    def _folder(self, task: HarborTask) -> str | None:
        return (task.workdir or FOLDER) if self._kind == "local" else task.workdir

    def _started(self, task: HarborTask) -> Machine:
        """Return a machine with the task's files."""
        machine: Machine
        limits = task.limits
        if self._kind == "local":
            machine = LocalMachine(
                MachineLimits(limits.memory_mb, min(limits.storage_mb, _LOCAL_MB), limits.processes)
            )
            files = task.copied
        else:
            image = task.image or build_image(task.folder / "environment", task.build_s)
            machine = ContainerMachine(
                image,
                MachineLimits(
                    limits.memory_mb, limits.storage_mb, limits.processes, limits.cpus, self._network
                ),
            )
            files = task.copied if task.image else ()
        try:
            folder = self._folder(task)
            if folder:
                machine.run(f"mkdir -p {shlex.quote(folder)}", _START_S, "/")
            for copied in files:
                machine.put(copied.source, _placed(copied, folder or FOLDER))
        except (SandboxUnavailable, MachineFull) as error:
            machine.close()
            raise SandboxUnavailable(f"{task.name}: its machine did not start: {error}") from error
        return machine

    def _running(self, task: HarborTask) -> Machine:
        """Return the machine of this episode, which starts when it is first needed."""
        if self._machine is None:
            self._machine = self._started(task)
        return self._machine

    def _act(self, calls: list[Asked], task: HarborTask) -> str:
        """Return the results of the calls before a submission."""
        given: list[str] = []
        for call in calls:
            if call.name == "submit":
                break
            given.append(self._call(call, task))
        return shortened("\n\n".join(given), LONGEST)

    def _call(self, call: Asked, task: HarborTask) -> str:
        tool = _BY_NAME.get(call.name)
        if tool is None:
            return f"Error: the tool '{call.name[:100]}' does not exist; choose one of {', '.join(_BY_NAME)}."
        try:
            command = tool.checked(call.arguments)["command"]
        except ToolError as error:
            return f"Error: {error}."
        if self._left_s <= 0:
            return "Error: the time of this task is used up."
        seconds = min(self._command_s, self._left_s)
        with span("tool", "bash"):
            variables = task.variables["environment"]
            ran = self._running(task).run(command, seconds, self._folder(task), variables)
        self._left_s -= ran.seconds
        return _shown(ran, seconds)

    def _judged(self, machine: Machine, task: HarborTask) -> tuple[float, str]:
        """Run the task's tests; return the reward and their output.

        If they cannot run, or leave no reward, the earlier commands are the cause, and the reward is 0.
        """
        variables = task.variables["environment"] | task.variables["verifier"]
        bash = "bash"
        if self._kind == "local":
            variables["PYTHONNOUSERSITE"] = "1"  # otherwise the tests would load what the model has put there
            bash = "/bin/bash"  # regardless of the task's PATH
        try:
            machine.settle(_LOGS, _TESTS)
            machine.put(task.folder / "tests", _TESTS)
            ran = machine.run(f"{bash} {_TESTS}/test.sh", task.verifier_s, self._folder(task), variables)
            # Processes that the tests have left running must not overwrite the reward.
            machine.settle()
            text, numbers = machine.read(f"{_LOGS}/reward.txt"), machine.read(f"{_LOGS}/reward.json")
        except MachineFull as error:
            return 0.0, f"the tests could not run: {error}"
        return reward_of(text, numbers, self._named), shortened(_shown(ran, task.verifier_s), LONGEST)

    def _refuse_unsolved(self, task: HarborTask) -> None:
        """Run a task's solution once; raises UserError if it does not earn more than doing nothing."""
        key = (str(task.folder), self._kind)
        script = task.folder / "solution" / "solve.sh"
        if not self._checks or key in _checked or not script.is_file():
            return
        earned, said = [], ""
        for solve in (False, True):
            machine = self._started(task)
            try:
                if solve:
                    machine.put(script.parent, _SOLUTION)
                    variables = task.variables["environment"] | task.variables["solution"]
                    machine.run(f"bash {_SOLUTION}/solve.sh", task.agent_s, self._folder(task), variables)
                reward, said = self._judged(machine, task)
                earned.append(reward)
            finally:
                machine.close()
        if not earned[1] > earned[0]:
            last = (said.strip().splitlines() or ["the tests printed nothing"])[-1][:200]
            other = (
                "; it may need its image: env_options.sandbox=container"
                if self._kind == "local"
                else ("" if self._network else "; it may need env_options.network=true")
            )
            raise UserError(
                f"harbor-v1: {task.folder}: its own solution earns {earned[1]:g} on this host, and doing "
                f"nothing earns {earned[0]:g} ({last}){other}; env_options.check=false uses the task anyway"
            )
        _checked.add(key)


def reward_of(text: str | None, numbers: str | None, named: str | None) -> float:
    """Return the reward that tests have left, as text or as JSON; 0 if it is invalid.

    Args:
        text: content of ``reward.txt``, which takes precedence.
        numbers: content of ``reward.json``, an object of numbers.
        named: the key of the reward; None: ``reward``, or the only key.
    """
    try:
        if text is not None and named is None:
            value: Any = float(text)
        else:
            given = json.loads(numbers or "{}")
            named = named or (next(iter(given)) if len(given) == 1 else "reward")
            value = given[named]
    except (ValueError, LookupError, TypeError, RecursionError):
        return 0.0
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and abs(value) < 1e9 and math.isfinite(value) else 0.0


def _calls(action: str) -> list[Asked]:
    """Return the calls of an action; blocks of shell code count as calls."""
    blocks = _BLOCK.findall(after_thought(action))
    return calls_of(action) or [Asked("bash", {"command": text}) for text in blocks]


def _refuse_images(tasks: list[HarborTask]) -> None:
    needing = [task for task in tasks if not task.plain]
    if needing:
        first = needing[0]
        what = f"the image {first.image}" if first.image else "the image that its Dockerfile builds"
        raise UserError(
            f"harbor-v1: {first.folder} needs {what}, as do {len({t.name for t in needing}):,} of "
            f"{len({t.name for t in tasks}):,} tasks in total; set env_options.sandbox=container (docker or "
            "podman)"
        )


def _refuse_missing_images(tasks: list[HarborTask]) -> None:
    """Raise UserError if no container engine answers, or it lacks an image of a task, or a task names
    none."""
    try:
        engine = find_engine()
    except SandboxUnavailable as error:
        raise UserError(
            f"harbor-v1: {error}; install or start one, or run tasks that need no image with "
            "env_options.sandbox=local"
        ) from error
    for task in tasks:
        if task.image is None and not task.dockerfile:
            raise UserError(
                f"harbor-v1: {task.folder} has neither environment.docker_image nor environment/Dockerfile; "
                "add one, or set env_options.sandbox=local"
            )
    for image in dict.fromkeys(task.image for task in tasks if task.image):
        if not ask_engine(engine, "image", "inspect", "--format", "{{.Id}}", image):
            raise UserError(f"harbor-v1: {engine} does not have the image {image}; run {engine} pull {image}")


def _placed(copied: Copied, folder: str) -> str:
    return folder if copied.target == "." else copied.target


def _shown(ran: Ran, seconds: float) -> str:
    lines = [ran.output.rstrip()]
    if ran.late:
        lines.append(f"(It took longer than {seconds:g} s and was stopped.)")
    elif ran.code:
        lines.append(f"(exit code {ran.code})")
    return "\n".join(line for line in lines if line) or "There is no output."
