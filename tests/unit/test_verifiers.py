"""``verifiers-v1``: episodes that verifiers runs in an environment of its own, on the real endpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from endpoints import Scripted
from verifiers_running import verifiers_python

from areal.agents.commands import ProgramFailed
from areal.agents.interface import PolicyFailed, Step
from areal.agents.verifiers import Verifiers
from areal.envs.verifiers import VerifiersEnv
from areal.errors import UserError
from areal.registry import make_env
from areal.rollout.endpoint.server import EndpointServer


class Episode:
    """One task of an environment, as an agent sees it."""

    def __init__(self, task: str) -> None:
        self.task = task

    async def reset(self) -> str:
        return self.task

    async def step(self, action: str) -> Step:
        raise AssertionError("the environment is not asked")


async def run(agent: Verifiers, task: str, says: str | None) -> Scripted:
    model = Scripted()
    model.text = says
    model.server = EndpointServer(lambda ids: [], 1.0)
    try:
        await agent.run(Episode(task), model)
    finally:
        await model.server.close()
    return model


def test_what_can_be_said_before_verifiers_is_there(tmp_path: Path):
    (tmp_path / "no").write_text("")
    for options, complaint in (
        ({}, "verifiers-v1 needs a taskset; set env_options.taskset=ID"),
        ({"taskset": "a", "python": str(tmp_path / "no")}, "env_options.python=.*/no is not an interpreter"),
        ({"taskset": "a", "python": str(tmp_path)}, "is not an interpreter"),
        ({"taskset": "a", "python": "/bin/false"}, "/bin/false exited with code 1: it printed nothing"),
        ({"taskset": "a", "python": sys.executable}, "ModuleNotFoundError: No module named 'verifiers"),
    ):
        with pytest.raises(UserError, match=complaint) as failed:
            make_env("verifiers-v1", **options)
        assert "\n" not in str(failed.value)
    with pytest.raises(UserError, match=r"pip install verifiers uv.*env_options.python=DIR/bin/python"):
        make_env("verifiers-v1", taskset="a")


async def test_the_agent_runs_tasks_of_its_environment_alone():
    agent = Verifiers(workers=1)
    with pytest.raises(
        ProgramFailed, match="the task does not belong to the environment verifiers-v1; add --env"
    ):
        await run(agent, "What is 2 + 2?", None)
    await agent.close()


@pytest.mark.parametrize("number", [1, 2, 9, 10, 11, 39, 40, 100, None])
def test_one_task_in_ten_is_held_out(number: int | None):
    env = VerifiersEnv.__new__(VerifiersEnv)  # of a taskset that is none
    env._all, env._shares = {"train": number, "test": number}, True
    counts = {split: env.count(split) for split in ("train", "test")}
    if number is None:
        assert counts == {"train": None, "test": None}
        counts = {"train": 90, "test": 10}
    places = {split: [env._place(split, i) for i in range(counts[split] or 0)] for split in counts}
    assert places["test"]
    assert sorted(places["train"] + places["test"]) == list(range(number or 100))


def test_the_tasks_of_both_splits(monkeypatch: pytest.MonkeyPatch):
    python = verifiers_python(monkeypatch)
    env = make_env("verifiers-v1", taskset="toy-sums", python=python)
    assert (env.unwrapped.count("train"), env.unwrapped.count("test")) == (36, 4)
    assert env.unwrapped.notices == ("taskset toy-sums: 36 training tasks, 4 held out",)
    tasks = {
        split: [json.loads(env.reset(options={"index": i, "split": split})[0])["index"] for i in range(count)]
        for split, count in (("train", 36), ("test", 4))
    }
    assert tasks["test"] == [9, 19, 29, 39]
    assert sorted(tasks["train"] + tasks["test"]) == list(range(40))
    with pytest.raises(
        UserError, match="verifiers itself runs the episodes of verifiers-v1; add --agent verifiers"
    ):
        env.step("42")
    own = {"taskset": {"count": 7}, "agent": {"max_turns": 3}}
    env = make_env(
        "verifiers-v1", taskset="toy-sums", python=python, config=own, test={"taskset": {"largest": 99}}
    )
    assert (env.unwrapped.count("train"), env.unwrapped.count("test")) == (7, 7)
    task = json.loads(env.reset(options={"index": 6, "split": "test"})[0])
    assert task["env"] == {
        "taskset": {"count": 7, "largest": 99, "id": "toy-sums"}, "agent": {"max_turns": 3}
    }  # fmt: skip
    endless = make_env("verifiers-v1", taskset="toy-tools", python=python)
    assert (endless.unwrapped.count("train"), endless.unwrapped.count("test")) == (None, None)
    for options, complaint in (
        ({"taskset": "toy-nothing"}, "taskset 'toy-nothing' not found"),
        ({"taskset": "toy-sums", "config": {"taskset": {"cont": 3}}}, "taskset.cont Extra inputs are not"),
        ({"taskset": "toy-sums", "config": {"solver": {}}}, "solver Extra inputs are not permitted"),
    ):
        with pytest.raises(UserError, match=complaint):
            make_env("verifiers-v1", python=python, **options)


async def test_episodes_are_verifiers_own(monkeypatch: pytest.MonkeyPatch):
    python = verifiers_python(monkeypatch)

    def task(taskset: str, index: int) -> str:
        env = make_env("verifiers-v1", taskset=taskset, python=python)
        return env.reset(options={"index": index, "split": "train"})[0]

    agent = Verifiers(workers=1)
    sums = task("toy-sums", 0)
    model = await run(agent, sums, "\\boxed{12}")
    [(messages, tools, _)] = model.asked
    assert messages[-1]["content"] == "Compute 6 + 6.\nPut the final answer in \\boxed{}."
    assert (model.rewards, tools) == ([1.25], [])
    assert (await run(agent, task("toy-sums", 1), "I do not know, sorry.")).rewards == [0.0]
    with pytest.raises(PolicyFailed, match=r"the program failed: TaskError: .*no judge here"):
        await run(agent, sums, "raise")
    model = await run(agent, task("toy-tools", 11), None)
    assert [message["content"] for message in model.asked[0][0]][-1] == "Task 12: how is the weather?"
    assert [tool["function"]["name"] for tool in model.asked[0][1]] == ["toy_weather"]
    assert (len(model.asked), model.rewards) == (2, [1.0])
    with pytest.raises(ProgramFailed, match="the taskset has 40 tasks, and 40 is not one of them"):
        await run(agent, sums.replace('"index": 0', '"index": 40'), "x")
    await agent.close()


def test_the_worker_needs_nothing_of_areal(monkeypatch: pytest.MonkeyPatch):
    python = verifiers_python(monkeypatch)
    found: Any = subprocess.run([python, "-c", "import areal"], cwd="/", capture_output=True)
    assert found.returncode != 0, "else this proves nothing"
