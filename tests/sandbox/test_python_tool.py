"""The agent whose tool is Python: a scripted model, a real sandbox, a real environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest

from areal.agents.interface import Message, Reply, Step
from areal.agents.python_tool import HINT, PythonTool, seen
from areal.sandbox import shared
from areal.sandbox.interface import Outcome, Raised, SandboxUnavailable


class Scripted:
    """Says what it was told to, one after the other, and keeps what it was asked."""

    def __init__(self, *responses: str) -> None:
        self.responses = list(responses)
        self.asked: list[str] = []

    async def generate(self, observation: str) -> str:
        raise NotImplementedError

    async def chat(self, messages: list[Message], **_options: Any) -> Reply:
        self.asked.append(messages[-1]["content"])
        text = self.responses.pop(0)
        return Reply({"role": "assistant", "content": text}, text, "stop", [1], [0.0], 1)


class Math:
    """``math-v1`` without threads."""

    def __init__(self) -> None:
        self.env = gymnasium.make("math-v1", difficulty=5)
        self.rewards: list[float] = []

    async def reset(self) -> str:
        return self.env.reset(options={"index": 0, "split": "train"})[0]

    async def open(self) -> list[Message]:
        return [{"role": "user", "content": await self.reset()}]

    async def step(self, action: str) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.rewards.append(float(reward))
        return Step(observation, float(reward), terminated, truncated, info)


@pytest.fixture
def agent(sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> PythonTool:
    monkeypatch.setattr(shared, "_pools", {("local", False): sandbox})
    return PythonTool(time_limit=1.0)


def block(code: str) -> str:
    return f"I compute.\n```python\n{code}\n```"


async def test_what_code_gave_is_the_next_observation_and_variables_stay(agent: PythonTool):
    env = Math()
    question = await env.reset()
    expression = question.split("Compute ")[1].split(".\n")[0]
    model = Scripted(block(f"x = {expression}"), block("print('so', x)\nx"), block("x / 0"))
    model.responses.append(f"\\boxed{{{eval(expression)}}}")
    await agent.run(env, model)
    assert env.rewards == [1.0]
    assert model.asked[0] == question + HINT
    assert model.asked[1] == "There is no output."
    assert model.asked[2] == f"so {eval(expression)}\n{eval(expression)}"
    assert model.asked[3].endswith("ZeroDivisionError: division by zero")


async def test_code_that_goes_too_far_is_stopped_and_the_episode_goes_on(agent: PythonTool):
    env, model = (
        Math(),
        Scripted(block("while True: pass"), block("import os\nos._exit(1)"), block("1"), "none"),
    )
    await agent.run(env, model)
    assert "CallTimeout" in model.asked[1]
    assert len(model.asked[2]) > 0
    assert env.rewards == [0.0]


async def test_the_last_response_is_for_the_environment_whatever_it_is(sandbox: Any, agent: PythonTool):
    agent = PythonTool(max_turns=2)
    env, model = Math(), Scripted(block("1"), block("2"))
    await agent.run(env, model)
    assert env.rewards == [0.0]
    assert model.asked[1] == "1"


def test_a_failure_of_the_sandbox_is_no_observation():
    with pytest.raises(SandboxUnavailable, match="gone"):
        seen(Outcome("infra_error", error="gone"))
    assert seen(Outcome("memory")) == "It took too much memory."
    raised = Raised(("KeyError",), "x", "KeyError: x")
    outcome = Outcome("runtime_error", (raised,), "a\n", error="KeyError: x")
    assert seen(outcome) == "a\nKeyError: x"
