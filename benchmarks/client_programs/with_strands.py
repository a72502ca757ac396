"""Strands Agents, by its models of both vendors."""

from __future__ import annotations

from typing import Any

from strands import Agent, tool
from strands.models.anthropic import AnthropicModel
from strands.models.openai import OpenAIModel
from uses import ANN, KEY, ROOT, URL, WHO, Person, try_all, weather

MODELS: dict[str, Any] = {
    "openai": lambda: OpenAIModel(client_args={"base_url": URL, "api_key": KEY}, model_id="m"),
    "anthropic": lambda: AnthropicModel(
        client_args={"base_url": ROOT, "api_key": KEY}, model_id="m", max_tokens=500
    ),
}


def tools(model: Any) -> str:
    agent = Agent(model=model(), tools=[tool(weather)], callback_handler=None)
    agent("The weather?")
    return str(agent("And tomorrow?")).strip()


def output(model: Any) -> Any:
    return Agent(model=model(), callback_handler=None)(WHO, structured_output_model=Person).structured_output


try_all(
    {
        **{f"{name}, tools": lambda model=model: tools(model) for name, model in MODELS.items()},
        **{f"{name}, output": lambda model=model: output(model) for name, model in MODELS.items()},
    },
    {**{f"{name}, tools": "It is fine." for name in MODELS}, **{f"{name}, output": ANN for name in MODELS}},
)
