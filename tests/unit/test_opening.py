"""How conversations open: the problem's own messages, the settings under ``chat``, and the chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from chat import Scripted, renderer, tokenizer

from areal.agents.interface import Agent, Env, Model
from areal.agents.multi_turn import MultiTurn
from areal.agents.python_tool import HINT, PythonTool
from areal.agents.single_turn import SingleTurn
from areal.agents.tool_use import ToolUse
from areal.api import check
from areal.config import load_config
from areal.envs.text import UnicodeText
from areal.errors import EnvironmentFailure, UserError
from areal.registry import make_env
from areal.rollout.engine import Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.opening import Opening
from areal.rollout.rendering import Renderer, check_template_kwargs
from areal.rollout.worker import RolloutWorker
from areal.runtime.rollouts import opening_of
from areal.trajectory import Episode

PROBLEM = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "\\boxed{4}"},
    {"role": "user", "content": "1+1?"},
]
PLAIN = Opening()
SHOTS = ({"role": "user", "content": "3+3?"}, {"role": "assistant", "content": "\\boxed{6}"})


class Reset:
    """An agent of one's own that knows of nothing but reset and generate."""

    async def run(self, env: Env, model: Model) -> None:
        await env.step(await model.generate(await env.reset()))


def chatml(*messages: tuple[str, str]) -> str:
    said = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)
    return f"{said}<|im_start|>assistant\n"


async def run_episode(
    agent: Agent, env: Any, template: str = "qwen2.5", opening: Opening = PLAIN, **kwargs: Any
) -> tuple[Episode, str]:
    """Run an episode in which the model says ``\\boxed{2}``; return it, and the prompt."""
    made = tokenizer(template)
    engine: Any = Scripted([[*made.encode("\\boxed{2}"), made.eos_token_id]])
    pool = EnvironmentPool(lambda: env, 1)
    try:
        rendered = Renderer(made, (made.eos_token_id,), kwargs)
        worker = RolloutWorker(engine, rendered, agent, pool, 10_000, None, opening)
        episode = await worker.run_episode({"seed": 0, "options": {"index": 0}}, Sampling(100))
    finally:
        await pool.close()
    (trajectory,) = episode.trajectories
    prompt = made.decode(engine.asked[0])
    # What was asked and what was sampled is what is trained on, id for id.
    assert list(trajectory.tokens) == [*engine.asked[0], *engine.said[0].ids]
    assert list(np.flatnonzero(trajectory.loss_mask)) == list(
        range(len(engine.asked[0]), len(trajectory.tokens))
    )
    return episode, prompt


@pytest.fixture
def chat_env(tmp_path: Path) -> Any:
    (tmp_path / "d.jsonl").write_text(json.dumps({"prompt": PROBLEM, "answer": "2"}))
    return make_env("math-v1", data=str(tmp_path / "d.jsonl"), prompt="Q: {problem}")


@pytest.mark.parametrize("agent", [SingleTurn(), MultiTurn(), Reset()])
async def test_a_problem_that_is_a_conversation_reaches_the_model_as_one(agent: Agent, chat_env: Any):
    episode, prompt = await run_episode(agent, chat_env)
    assert prompt == chatml(
        ("system", "Be brief."), ("user", "2+2?"), ("assistant", "\\boxed{4}"), ("user", "Q: 1+1?")
    )
    assert episode.reward == 1.0


async def test_tools_are_described_in_the_last_message(chat_env: Any):
    agent = PythonTool.__new__(PythonTool)  # no sandbox is needed to ask
    agent._limits, agent._hint = (1, None), HINT
    _, prompt = await run_episode(agent, chat_env)
    assert prompt.endswith(chatml(("user", "Q: 1+1?" + HINT)))
    assert prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    for system in (None, "Use tools."):
        _, prompt = await run_episode(ToolUse(system=system), chat_env)
        assert prompt.startswith(f"<|im_start|>system\n{system or 'Be brief.'}\n\n# Tools")
        assert prompt.count("<|im_start|>system") == 1


async def test_settings_open_every_conversation(chat_env: Any):
    config = load_config(values={"chat.system": "Be kind.", "chat.examples": list(SHOTS)})
    for agent in (SingleTurn(), MultiTurn(), Reset()):
        _, prompt = await run_episode(agent, chat_env, opening=opening_of(config))
        before = [
            ("user", "3+3?"),
            ("assistant", "\\boxed{6}"),
            ("user", "2+2?"),
            ("assistant", "\\boxed{4}"),
        ]
        assert prompt == chatml(("system", "Be kind."), *before, ("user", "Q: 1+1?"))
    plain = make_env("math-v1", difficulty=1)
    question = plain.reset(options={"index": 0})[0]
    _, prompt = await run_episode(SingleTurn(), plain, opening=opening_of(config))
    assert prompt == chatml(
        ("system", "Be kind."), ("user", "3+3?"), ("assistant", "\\boxed{6}"), ("user", question)
    )
    # Without settings and without messages nothing is said but the problem (Qwen's template adds its own).
    _, prompt = await run_episode(SingleTurn(), plain)
    assert prompt.endswith(chatml(("user", question)))
    assert "Be kind" not in prompt


async def test_thinking_can_be_turned_off():
    env = make_env("math-v1", difficulty=1)
    _, thinks = await run_episode(SingleTurn(), env, "qwen3")
    _, not_so = await run_episode(SingleTurn(), env, "qwen3", enable_thinking=False)
    assert not_so == thinks + "<think>\n\n</think>\n\n"
    assert (await run_episode(SingleTurn(), env, "qwen3", enable_thinking=True))[1] == thinks


def test_a_template_that_does_not_read_a_setting_is_named():
    template = tokenizer("qwen3").chat_template
    check_template_kwargs(template, {"enable_thinking": False})
    with pytest.raises(UserError, match="does not use 'enable_thinkin'; did you mean 'enable_thinking'"):
        check_template_kwargs(template, {"enable_thinkin": False})
    with pytest.raises(UserError, match="has no chat template"):
        check_template_kwargs(None, {"enable_thinking": False})
    with pytest.raises(UserError, match="does not use 'enable_thinking'"):
        check(load_config(values={"chat.template_kwargs.enable_thinking": False, "device": "cpu"}))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"chat.examples": [SHOTS[0]]}, "pairs of messages"),
        ({"chat.examples": [SHOTS[1], SHOTS[0]]}, "pairs of messages"),
        ({"chat.examples": [{"user": "a", "assistant": "b"}] * 2}, "pairs of messages"),
        ({"chat.template_kwargs.tokenize": True}, "areal itself passes tokenize"),
        ({"chat.sistem": "x"}, "did you mean 'chat.system'"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], complaint: str):
    with pytest.raises(UserError, match=complaint):
        load_config(values=settings)


def test_a_program_opens_its_own_conversations(tmp_path: Path):
    (tmp_path / "solve.py").write_text("async def solve(task, base_url, api_key):\n    return task\n")
    agent = f"{tmp_path}/solve.py:solve"
    check(load_config(values={"agent": agent, "device": "cpu"}))
    with pytest.raises(UserError, match="a program, which begins its conversations itself"):
        check(load_config(values={"agent": agent, "chat.system": "Be brief.", "device": "cpu"}))


class Wrong(gymnasium.Env[str, str]):
    observation_space = action_space = UnicodeText(100)

    def __init__(self, messages: Any) -> None:
        self.messages = messages

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict]:
        return "go", {"messages": self.messages}


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ("go", "not a list of messages"),
        ([], "not a list of messages"),
        ([{"role": "user"}], "not a message with a role and with text"),
        ([{"role": "tool", "content": "x"}], "has the role 'tool'"),
        ([{"role": "assistant", "content": "x"}], "does not end with a message of the user"),
    ],
)
async def test_messages_of_an_environment_that_are_none(messages: Any, complaint: str):
    with pytest.raises(EnvironmentFailure, match=complaint):
        await run_episode(SingleTurn(), Wrong(messages))


def test_without_a_template_a_blank_line_parts_what_was_said():
    made = tokenizer("qwen2.5")
    made.chat_template = None
    plain = Renderer(made, (made.eos_token_id,))
    assert plain.opening(PROBLEM).text == "Be brief.\n\n2+2?\\boxed{4}\n\n1+1?"
    assert plain.opening(PROBLEM[-1:]).text == "1+1?"
    assert renderer("qwen2.5").opening(PROBLEM).text.endswith(chatml(("user", "1+1?")))
