"""What a model only thought, no environment judges; where its template marks no thoughts, all is said."""

from __future__ import annotations

import pytest
from chat import Scripted, renderer, tokenizer

from areal.agents.interface import Agent, Message, Step
from areal.agents.multi_turn import MultiTurn
from areal.agents.python_tool import PythonTool
from areal.agents.single_turn import SingleTurn
from areal.agents.tool_use import ToolUse
from areal.rollout.engine import Sampling
from areal.rollout.recorder import Recorder


class Judge:
    """An environment of one step."""

    player = ""
    tools = ()

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def reset(self) -> str:
        return "How many?"

    async def open(self) -> list[Message]:
        return self.opening()

    def opening(self) -> list[Message]:
        return [{"role": "user", "content": "How many?"}]

    async def step(self, action: str) -> Step:
        self.heard.append(action)
        return Step("", 0.0, True, False, {})


THOUGHT = "<think>\nIt may be \\boxed{4}.\n```python\n1 + 1\n```\n</think>\n\n"


@pytest.mark.parametrize("agent", [SingleTurn(), MultiTurn(), PythonTool(), ToolUse()], ids=type)
@pytest.mark.parametrize(
    ("template", "text", "heard"),
    [
        ("qwen3", f"{THOUGHT}\\boxed{{5}}", "\\boxed{5}"),
        ("qwen3", "\\boxed{5}", "\\boxed{5}"),
        ("qwen3", THOUGHT.removesuffix("</think>\n\n"), ""),
        ("qwen3", "It is not </think> \\boxed{5}", "It is not </think> \\boxed{5}"),
        ("qwen2.5", "<think>4</think>\\boxed{5}", "<think>4</think>\\boxed{5}"),
    ],
)
async def test_an_environment_hears_what_is_said(agent: Agent, template: str, text: str, heard: str):
    made = tokenizer(template)
    ids = [*made.encode(text, add_special_tokens=False), made.eos_token_id]
    model, judge = Recorder(Scripted([ids]), renderer(template), Sampling(1000), 10_000), Judge()
    await agent.run(judge, model)
    assert judge.heard == [heard]
    [trajectory] = model.trajectories()
    assert trajectory.sampled == len(ids), "all of it is trained on"
