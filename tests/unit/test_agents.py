"""The built-in agents on a scripted model: what they say, what they do, and where they stop."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import gymnasium
import pytest
from chat import Scripted, renderer, tokenizer

from areal.agents.calculator import calculator
from areal.agents.interface import Agent
from areal.agents.multi_turn import MultiTurn
from areal.agents.tool_use import ToolUse
from areal.agents.tools import ToolBox, schema
from areal.envs.text import UnicodeText
from areal.errors import EnvironmentFailure, UserError
from areal.registry import find_agent, load_object
from areal.rollout.engine import Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.worker import RolloutWorker
from areal.trajectory import Episode

TEMPLATE = "qwen2.5"
TOKENIZER, RENDERER = tokenizer(TEMPLATE), renderer(TEMPLATE)


class Parrot(gymnasium.Env[str, str]):
    """Says what was said to it, three times; each step earns its number."""

    observation_space = UnicodeText(1000)
    action_space = UnicodeText(1000)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict]:
        super().reset(seed=seed)
        self.said: list[str] = []
        return "go", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        self.said.append(action)
        return f"you said {action}", float(len(self.said)), len(self.said) == 3, False, {}


class Shelf(Parrot):
    """Has two tools itself; the third action ends the episode."""

    tools = [  # noqa: RUF012
        {
            "type": "function",
            "function": {"name": name, "description": "Move.", "parameters": {"type": "object"}},
        }
        for name in ("take", "put")
    ]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict]:
        observation, info = super().reset(seed=seed)
        return observation, info | {"tools": self.tools}


async def run_episode(
    agent: Agent, *responses: str, longest: int = 10_000, made: type[Parrot] = Parrot
) -> tuple[Episode, list[str], list[str]]:
    """Return the episode, what the environment was told, and the prompts of all responses as text."""
    engine: Any = Scripted([[*TOKENIZER.encode(text), TOKENIZER.eos_token_id] for text in responses])
    envs: list[Any] = []
    pool = EnvironmentPool(lambda: envs.append(made()) or envs[-1], 1)
    episode = await RolloutWorker(engine, RENDERER, agent, pool, longest).run_episode(
        {"seed": 0}, Sampling(100)
    )
    await pool.close()
    return episode, envs[0].said, [TOKENIZER.decode(ids) for ids in engine.asked]


async def test_multi_turn_goes_on_to_the_end_in_one_conversation():
    episode, said, prompts = await run_episode(MultiTurn(), "a", "b", "c")
    assert said == ["a", "b", "c"]
    assert episode.reward == 6
    (trajectory,) = episode.trajectories
    assert trajectory.rewards == [1.0, 2.0, 3.0]
    assert prompts[2].endswith(
        "<|im_start|>user\ngo<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\nyou said a<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nyou said b<|im_end|>\n<|im_start|>assistant\n"
    )


async def test_where_a_limit_is_reached_the_episode_ends_with_what_it_has():
    """Turns, tokens (a response is a letter and its end), the length of the conversation."""
    _, _, prompts = await run_episode(MultiTurn(), "a", "b", "c")
    full = len(TOKENIZER.encode(prompts[2]))
    for agent, longest in (
        (MultiTurn(max_turns=2), 9999),
        (MultiTurn(max_tokens=4), 9999),
        (MultiTurn(), full),
    ):
        episode, said, _ = await run_episode(agent, "a", "b", longest=longest)
        assert (said, episode.reward) == (["a", "b"], 3.0)


def look(at: int, how: Literal["near", "far"] = "near") -> dict[str, Any]:
    """Look at something.

    Args:
        at: its number.
        how: from where.
    """
    if at == 13:
        raise KeyError("nothing there")
    return {"at": at, "how": how}


async def slow(seconds: float) -> str:
    """Wait.

    Args:
        seconds: how long.
    """
    await asyncio.sleep(seconds)
    return "done"


def lost(at: int) -> str:
    """Lose the connection.

    Args:
        at: where.
    """
    raise ConnectionError(f"no route to {at}")


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def observations(prompt: str) -> list[str]:
    """What the tools said last."""
    last = prompt.rpartition("<|im_start|>user\n")[2]
    return [part.partition("\n</tool_response>")[0] for part in last.split("<tool_response>\n")[1:]]


async def test_tools_answer_in_the_model_s_own_format_and_errors_are_observations():
    agent = ToolUse([look, slow], system="Be brief.", max_calls=5, time_limit=3)
    calls = [
        call("look", at="12", how="far"), call("look", at=13), call("look", at="x"), call("lok", at=1),
        call("slow", seconds=900), call("look", at=1),
    ]  # fmt: skip
    episode, said, prompts = await run_episode(agent, "\n".join(calls), "found it", "b", "c")
    assert said == ["found it", "b", "c"]
    assert '"description": "Look at something."' in prompts[0]
    assert prompts[0].startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    found = observations(prompts[1])
    assert found[0] == '{"at": 12, "how": "far"}'
    assert found[1] == "Error: KeyError: 'nothing there'"
    assert found[2].startswith("Error: at: Input should be a valid integer")
    assert found[3] == "Error: the tool 'lok' does not exist; choose one of look, slow."
    assert found[4] == "Error: the tool took longer than 3 s."
    assert found[5] == "Error: this call was not executed, because a response may contain only 5 calls."
    (trajectory,) = episode.trajectories
    assert trajectory.rewards == [0.0, 1.0, 2.0, 3.0]


async def test_calls_of_one_response_are_made_at_once():
    all_here = asyncio.Barrier(8)

    async def meet() -> str:
        """Wait for the others."""
        await all_here.wait()
        return "met"

    _, _, prompts = await run_episode(
        ToolUse([meet], time_limit=60), "\n".join([call("meet")] * 8), "a", "b", "c"
    )
    assert observations(prompts[1]) == ["met"] * 8


def made(name: str, **arguments: Any) -> dict[str, Any]:
    """A tool call, as a reply's message has it."""
    return {"id": "0", "function": {"name": name, "arguments": json.dumps(arguments)}}


async def test_a_tool_that_hangs_keeps_nothing_else_waiting(request):
    gate = threading.Event()
    request.addfinalizer(gate.set)

    def hang() -> None:
        """Wait for what never comes."""
        gate.wait()

    def spin() -> None:
        """Compute for ever."""
        while True:
            pass

    # Long enough for every thread to begin: a call that is given up before it began leaves nothing behind.
    box = ToolBox([hang, spin], time_limit=0.5, max_abandoned=41)
    late = await asyncio.gather(*(box.execute(made(name)) for name in ["hang"] * 40 + ["spin"]))
    assert {message["content"] for message in late} == {"Error: the tool took longer than 0.5 s."}
    # The threads that the rest of a run shares are free; a tool that computes was even ended.
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "here"), 60) == "here"
    while sum(worker.alive for worker in box._left) > 40:  # noqa: ASYNC110 (a thread tells no loop of its end)
        await asyncio.sleep(0.01)
    # One that is late for the first time does not count.
    assert (await box.execute(made("hang")))["content"] == "Error: the tool took longer than 0.5 s."
    await asyncio.sleep(1)
    with pytest.raises(UserError, match=r"41 calls of tools, such as 'hang', have not returned after twice"):
        await box.execute(made("hang"))


async def test_whatever_a_tool_raises_is_shown_to_the_model():
    def leave() -> None:
        """Go away."""
        sys.exit("no such file")

    def empty() -> int:
        """Take the first of nothing."""
        return next(iter([]))

    box = ToolBox([leave, empty])
    said = [(await box.execute(made(name)))["content"] for name in ("leave", "empty")]
    assert said == ["Error: SystemExit: no such file", "Error: RuntimeError: coroutine raised StopIteration"]


async def test_an_environment_s_own_tools_are_actions_in_the_order_of_their_calls():
    calls = [call("take", what="a"), call("look", at=1), call("put", what="b")]
    episode, said, prompts = await run_episode(
        ToolUse([look]), "\n".join(calls), call("put", what="c"), made=Shelf
    )
    moves = [
        json.dumps({"name": n, "arguments": {"what": w}})
        for n, w in (("take", "a"), ("put", "b"), ("put", "c"))
    ]
    assert said == moves
    assert all(f'"name": "{name}"' in prompts[0] for name in ("take", "put", "look"))
    assert observations(prompts[1]) == [
        f"you said {moves[0]}",
        '{"at": 1, "how": "near"}',
        f"you said {moves[1]}",
    ]
    assert (len(prompts), episode.reward, episode.unfinished) == (2, 6, False)


async def test_an_environment_s_tools_stand_in_place_of_the_calculator():
    _, said, prompts = await run_episode(
        ToolUse(max_turns=2), call("calculator", expression="1"), "words", made=Shelf
    )
    assert "calculator" not in prompts[0]
    assert observations(prompts[1])[0].startswith("Error: the tool 'calculator' does not exist")
    assert said == ["words"]
    # A last response is made of it, too.
    _, said, _ = await run_episode(ToolUse(max_turns=1), call("take", what="a"), made=Shelf)
    assert json.loads(said[0]) == {"name": "take", "arguments": {"what": "a"}}

    def take() -> None:
        """Take it."""

    with pytest.raises(UserError, match="the environment itself has a tool 'take'"):
        await run_episode(ToolUse([take]), "a", made=Shelf)


@pytest.mark.parametrize("tools", ["take", 3, ["take"], [{"function": {}}], [{"name": "take"}]])
async def test_tools_of_an_environment_that_are_none_fail_the_episode(tools: Any):
    class Wrong(Shelf):
        pass

    Wrong.tools = tools
    with pytest.raises(EnvironmentFailure, match="returned info\\['tools'\\], which"):
        await run_episode(ToolUse(), "a", made=Wrong)


async def test_what_a_tool_stands_on_fails_the_episode_and_is_no_observation():
    with pytest.raises(ConnectionError, match="no route to 3"):
        await run_episode(ToolUse([lost]), call("lost", at=3))


async def test_the_last_response_is_for_the_environment_whatever_it_is():
    _, said, _ = await run_episode(ToolUse([look], max_turns=2), call("look", at=1), call("look", at=2))
    assert said == [call("look", at=2)]


def test_a_tool_that_cannot_be_described_or_found_is_refused():
    def bare(x):
        return x

    with pytest.raises(UserError, match="cannot describe the tool bare"):
        ToolUse([bare])
    with pytest.raises(UserError, match="two tools have the same name"):
        ToolBox([look, look])
    with pytest.raises(UserError, match="max_turns=0"):
        MultiTurn(max_turns=0)
    assert schema(look)["function"]["parameters"]["properties"]["how"]["enum"] == ["near", "far"]
    assert ToolUse()._box.schemas == [schema(calculator)]


def test_an_agent_of_ones_own_is_named_by_its_file_or_module(tmp_path: Path):
    (tmp_path / "beside.py").write_text("NAME = 'b'\n")
    file = tmp_path / "mine.py"
    file.write_text("import beside\nclass MyAgent:\n    name = beside.NAME\n")
    assert find_agent(f"{file}:MyAgent").name == "b"
    assert find_agent(f"{file}:MyAgent") is find_agent(f"{file}:MyAgent")
    assert find_agent("areal.agents.multi_turn:MultiTurn") is MultiTurn is find_agent("multi-turn")
    for name, complaint in (
        (f"{file}:MyAgen", "has no 'MyAgen'; did you mean 'MyAgent'"),
        (f"{tmp_path}/no.py:X", "does not exist"),
        ("no_such.module:X", "the module no_such.module does not exist"),
        ("areal.agents.no:X", "the module areal.agents.no does not exist"),
        (":X", "not of the form"),
    ):
        with pytest.raises(UserError, match=complaint):
            load_object(name)
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    with pytest.raises(UserError, match=r"raised ModuleNotFoundError: .*no_such_package.*broken.py:1\)"):
        load_object(f"{tmp_path}/broken.py:X")
