"""The OpenAI Agents SDK, by both of its protocols."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI
from uses import ANN, KEY, URL, WHO, Person, try_all, weather

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)

set_tracing_disabled(True)
MODELS: dict[str, Any] = {
    "chat": lambda: OpenAIChatCompletionsModel("m", AsyncOpenAI(base_url=URL, api_key=KEY)),
    "responses": lambda: OpenAIResponsesModel("m", AsyncOpenAI(base_url=URL, api_key=KEY)),
}


async def tools(model: Any) -> str:
    agent = Agent(name="a", model=model(), tools=[function_tool(weather)])
    first = await Runner.run(agent, "The weather?")
    again = await Runner.run(agent, [*first.to_input_list(), {"role": "user", "content": "And tomorrow?"}])
    return again.final_output


async def output(model: Any) -> Any:
    return (await Runner.run(Agent(name="a", model=model(), output_type=Person), WHO)).final_output


try_all(
    {
        **{f"{name}, tools": lambda model=model: tools(model) for name, model in MODELS.items()},
        **{f"{name}, output": lambda model=model: output(model) for name, model in MODELS.items()},
    },
    {**{f"{name}, tools": "It is fine." for name in MODELS}, **{f"{name}, output": ANN for name in MODELS}},
)
