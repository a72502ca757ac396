"""Agno, by its models for three protocols."""

from __future__ import annotations

from typing import Any

from agno.agent import Agent
from agno.db.in_memory import InMemoryDb
from agno.models.anthropic import Claude
from agno.models.openai import OpenAIChat, OpenAIResponses
from uses import ANN, KEY, ROOT, URL, WHO, Person, try_all, weather

MODELS: dict[str, Any] = {
    "chat": lambda: OpenAIChat(id="m", base_url=URL, api_key=KEY),
    "responses": lambda: OpenAIResponses(id="m", base_url=URL, api_key=KEY),
    "claude": lambda: Claude(id="m", api_key=KEY, client_params={"base_url": ROOT}),
}


def tools(model: Any) -> str:
    agent = Agent(
        model=model(), tools=[weather], db=InMemoryDb(), add_history_to_context=True, telemetry=False
    )
    agent.run("The weather?", session_id="s")
    return str(agent.run("And tomorrow?", session_id="s").content)


def output(model: Any) -> Any:
    return Agent(model=model(), output_schema=Person, telemetry=False).run(WHO).content


try_all(
    {
        **{f"{name}, tools": lambda model=model: tools(model) for name, model in MODELS.items()},
        **{f"{name}, output": lambda model=model: output(model) for name, model in MODELS.items()},
    },
    {
        **{f"{name}, tools": "I look.It is fine." for name in MODELS},  # the words beside the call as well
        **{f"{name}, output": ANN for name in MODELS},
    },
)
