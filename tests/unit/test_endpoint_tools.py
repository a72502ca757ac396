"""Calls in special tokens, over HTTP: each protocol has the same ones, streamed and not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pytest
from chat import Scripted
from endpoints import WEATHER
from tool_models import MODELS, eos, tokenizer

from areal.agents.interface import Endpoint
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Sampling
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer

USER: Any = {"role": "user", "content": "Hello?"}
FUNCTION: Any = {"type": "function", "strict": None, **WEATHER["function"]}
TOOL: Any = {"name": "weather", "input_schema": WEATHER["function"]["parameters"]}
EXPECTED = [("weather", {"city": "Zürich\n[ARGS] }"})] * 2


def looks(name: str) -> list[str]:
    """What a model says that looks twice at once, three times over, and answers."""
    call = MODELS[name].write([("weather", json.dumps(given)) for _, given in EXPECTED])
    end = MODELS[name].ends[0]
    return [*[f"I look.{call}{end}"] * 3, f"It rains.{end}"]


@asynccontextmanager
async def served(name: str, *said: str) -> AsyncIterator[tuple[Endpoint, Recorder]]:
    made = tokenizer(name)
    engine = Scripted([made.encode(text) for text in said])
    server = EndpointServer(lambda ids: [made.decode([i]) for i in ids], 1.0)
    recorder = Recorder(engine, Renderer(made, eos(made, name)), Sampling(999), 9999, server)
    try:
        async with recorder.endpoint(99) as at:
            yield at, recorder
    finally:
        await server.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ["mistral", "deepseek-v3.1", "kimi"])
async def test_each_protocol_has_the_same_calls(name: str, stream: bool):
    async with served(name, *looks(name)) as (at, recorder):
        one = openai.AsyncOpenAI(base_url=at.base_url, api_key=at.api_key)
        root = at.base_url.removesuffix("/v1")
        other = anthropic.AsyncAnthropic(base_url=root, api_key=at.api_key)
        if stream:
            async with one.chat.completions.stream(model="m", messages=[USER], tools=[WEATHER]) as events:
                chat = (await events.get_final_completion()).choices[0].message
            async with one.responses.stream(model="m", input=[USER], tools=[FUNCTION]) as answers:
                answer: Any = await answers.get_final_response()
            async with other.messages.stream(
                model="m", max_tokens=99, messages=[USER], tools=[TOOL]
            ) as pieces:
                message = await pieces.get_final_message()
        else:
            chat = (
                (await one.chat.completions.create(model="m", messages=[USER], tools=[WEATHER]))
                .choices[0]
                .message
            )
            answer = await one.responses.create(model="m", input=[USER], tools=[FUNCTION])
            message = await other.messages.create(model="m", max_tokens=99, messages=[USER], tools=[TOOL])
        functions: list[Any] = [call.function for call in chat.tool_calls or []]
        assert [(made.name, json.loads(made.arguments)) for made in functions] == EXPECTED
        assert chat.content == "I look."
        calls = [item for item in answer.output if item.type == "function_call"]
        assert [(made.name, json.loads(made.arguments)) for made in calls] == EXPECTED
        assert answer.output_text == "I look."
        used = [block for block in message.content if block.type == "tool_use"]
        assert [(made.name, made.input) for made in used] == EXPECTED
        assert [block.text for block in message.content if block.type == "text"] == ["I look."]

        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "Rain."} for call in chat.tool_calls or []
        ]
        history: Any = [
            USER,
            chat.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}),
            *results,
        ]
        final = await one.chat.completions.create(model="m", messages=history, tools=[WEATHER])
        assert final.choices[0].message.content == "It rains."
        assert sorted(len(t.turns) for t in recorder.trajectories()) == [1, 1, 2]


@pytest.mark.parametrize("stream", [False, True])
async def test_gpt_oss_thinks_calls_and_answers(stream: bool):
    begin = "<|start|>assistant"
    thought = f"<|channel|>analysis<|message|>I must look.<|end|>{begin}"
    call = ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Zürich"}<|call|>'
    answer = f"<|channel|>analysis<|message|>Hm.<|end|>{begin}<|channel|>final<|message|>It rains.<|return|>"
    async with served("gpt-oss", thought + call, answer) as (at, recorder):
        one = openai.AsyncOpenAI(base_url=at.base_url, api_key=at.api_key)

        async def ask(*messages: Any) -> Any:
            if not stream:
                made = await one.chat.completions.create(model="m", messages=[*messages], tools=[WEATHER])
                return made.choices[0].message
            async with one.chat.completions.stream(
                model="m", messages=[*messages], tools=[WEATHER]
            ) as events:
                return (await events.get_final_completion()).choices[0].message

        called = await ask(USER)
        assert (called.content, called.reasoning_content) == (None, "I must look.")
        (made,) = called.tool_calls
        assert (made.function.name, json.loads(made.function.arguments)) == ("weather", {"city": "Zürich"})
        result = {"role": "tool", "tool_call_id": made.id, "content": "Rain."}
        shown = called.model_dump(exclude_none=True, include={"role", "content", "tool_calls"})
        said = await ask(USER, shown, result)
        assert (said.content, said.reasoning_content) == ("It rains.", "Hm.")
        assert [len(t.turns) for t in recorder.trajectories()] == [2]
