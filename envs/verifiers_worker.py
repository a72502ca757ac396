"""Runs episodes of verifiers' environments: ``python verifiers_worker.py`` is a persistent command.

It runs in the environment in which verifiers is installed, without areal, so it does not import areal. It
reads a line of JSON for each episode (:mod:`areal.agents.staying`), whose ``task`` comes from
``verifiers-v1``. The first one names the interpreter, which then takes over. ``python verifiers_worker.py
describe TASK`` writes the number of tasks in a taskset, ``{"count": 120}`` (null: unlimited), or ``{"error":
"…"}``.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

_FIRST = "AREAL_VERIFIERS_TASK"
"""The variable with the line that was read before the change of interpreter; arguments would expose a key."""


class _Refused(Exception):
    """The request cannot be run; the message is one line."""


class _Environment:
    """An environment of verifiers, and the tasks of its taskset, which are read when needed."""

    def __init__(self, config: dict[str, Any]) -> None:
        from verifiers.v1.utils.loaders import load_environment

        self.env = load_environment(_resolved(config))
        self.bounded = self.env.taskset.bounded
        self._tasks: list[Any] = []
        self._further: Iterator[Any] = iter(self.env.taskset)

    def task(self, index: int) -> Any:
        for task in self._further:
            self._tasks.append(task)
            if len(self._tasks) > index:
                break
        if index >= len(self._tasks):
            raise _Refused(f"the taskset has {len(self._tasks)} tasks, and {index} is not one of them")
        return self._tasks[index]

    def count(self) -> int | None:
        return sum(1 for _ in self._further) if self.bounded else None


def _resolved(given: dict[str, Any]) -> Any:
    """Return the configuration; without other choices, it is a plain chat on this machine."""
    from verifiers.v1.configs.agent import AgentConfig, agent_config_fields
    from verifiers.v1.utils.loaders import default_harness_id, env_config_type, resolve_env_config

    name = given["taskset"]["id"]
    seats = env_config_type(name, given.get("id") or "").model_fields
    config = dict(given)
    for seat, field in seats.items():
        if isinstance(field.default, AgentConfig):
            chosen = dict(config.get(seat) or {})
            if field.default.runtime == AgentConfig().runtime:
                chosen.setdefault("runtime", {"type": "subprocess"})
            if field.default.harness is None and default_harness_id(name) == "bash":
                chosen.setdefault("harness", {"id": "null"})
            config[seat] = chosen
    resolved = resolve_env_config(config)
    here = any(spec.runtime.type == "subprocess" for spec in agent_config_fields(resolved).values())
    if here and shutil.which("uv") is None:
        raise _Refused(
            "verifiers runs programs with uv, which is not installed; install it next to verifiers with "
            "pip install uv"
        )
    return resolved


def describe(task: dict[str, Any]) -> dict[str, Any]:
    """Return the number of tasks."""
    return {"count": _Environment(task["env"]).count()}


class Worker:
    """Runs episodes one after another, and keeps their environments."""

    def __init__(self) -> None:
        self._served: dict[str, tuple[_Environment, Any]] = {}

    async def episode(self, given: dict[str, Any]) -> dict[str, Any]:
        """Run an episode; return its reward, or the reason why there is none."""
        from verifiers.v1.clients import EvalClientConfig, ModelContext

        task = json.loads(given["task"])
        environment = await self._environment(task["env"])
        # The key is in a header, because clients only read keys from variables of the process.
        client = EvalClientConfig(
            base_url=given["base_url"],
            api_key_var="AREAL_NO_KEY",
            headers={"x-api-key": given["api_key"]},
        )
        [slot] = environment.env.slots(environment.task(task["index"]))
        episode = await environment.env.run_slot(slot, ModelContext(model="areal", client=client))
        if not episode.ok:
            errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
            why = f"{errors[-1].type}: {errors[-1].message}" if errors else "it did not finish"
            return {"error": _line(why)}
        learned = [trace for trace in episode.traces if trace.agent.trainable] or episode.traces
        return {"reward": sum(trace.reward for trace in learned) / len(learned)}

    async def _environment(self, config: dict[str, Any]) -> _Environment:
        name = json.dumps(config, sort_keys=True)
        if name not in self._served:
            environment = _Environment(config)
            serving = environment.env.serving()
            await serving.__aenter__()
            self._served[name] = environment, serving
        return self._served[name][0]

    async def close(self) -> None:
        """Close the resources that environments share."""
        for _, serving in self._served.values():
            await serving.__aexit__(None, None, None)


@asynccontextmanager
async def _worker() -> AsyncIterator[Worker]:
    worker = Worker()
    try:
        yield worker
    finally:
        await worker.close()


async def _stay(line: bytes, answers: int) -> None:
    async with _worker() as worker:
        while line:
            try:
                said = await worker.episode(json.loads(line))
            except Exception as error:  # noqa: BLE001 (an error of verifiers or a taskset costs an episode)
                said = {"error": _line(f"{type(error).__name__}: {error}")}
            _answer(answers, said)
            line = await asyncio.to_thread(_next_line)


def _next_line() -> bytes:
    """Return a line of standard input, without reading further; the next one comes after the answer."""
    line = b""
    while not line.endswith(b"\n"):
        if not (piece := os.read(0, 2**16)):
            return b""
        line += piece
    return line


def _answer(answers: int, said: dict[str, Any]) -> None:
    os.write(answers, json.dumps(said).encode() + b"\n")


def _line(text: str) -> str:
    return " ".join(text.split())[:500]


def _answers() -> int:
    """Return a file descriptor for answers, and redirect the output of libraries to standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _take_over(line: bytes) -> None:
    """Continue in the interpreter that the first task names, with that task."""
    try:
        python = json.loads(json.loads(line)["task"])["python"]
    except (ValueError, TypeError, KeyError):
        _answer(
            1, {"error": "the task does not belong to the environment verifiers-v1; add --env verifiers-v1"}
        )
        return
    os.environ[_FIRST] = line.decode()
    os.execv(python, [python, "-P", __file__])


def main(words: list[str]) -> None:
    """Run as a command."""
    match words:
        case ["describe", task]:
            answers = _answers()
            try:
                said = describe(json.loads(task))
            except Exception as error:  # noqa: BLE001 (any error of a taskset is the reason to report)
                said = {"error": _line(f"{type(error).__name__}: {error}")}
            _answer(answers, said)
        case _:
            if first := os.environ.pop(_FIRST, None):
                asyncio.run(_stay(first.encode(), _answers()))
            elif line := _next_line():
                _take_over(line)


if __name__ == "__main__":
    # Find programs that are installed beside verifiers, such as uv.
    os.environ["PATH"] = os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", "")))
    main(sys.argv[1:])
