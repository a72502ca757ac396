"""Pydantic AI, by its models for three protocols."""

from __future__ import annotations

from typing import Any

from pydantic_ai import Agent, NativeOutput, PromptedOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from uses import ANN, KEY, ROOT, URL, WHO, Person, try_all, weather

OF_OPENAI = OpenAIProvider(base_url=URL, api_key=KEY)
MODELS: dict[str, Any] = {
    "chat": lambda: OpenAIChatModel("m", provider=OF_OPENAI),
    "responses": lambda: OpenAIResponsesModel("m", provider=OF_OPENAI),
    "anthropic": lambda: AnthropicModel("m", provider=AnthropicProvider(base_url=ROOT, api_key=KEY)),
}


def tools(model: Any) -> str:
    agent = Agent(model(), tools=[weather], system_prompt="Be brief.")
    first = agent.run_sync("The weather?")
    return agent.run_sync("And tomorrow?", message_history=first.all_messages()).output


def output(model: Any, kind: Any) -> Any:
    return Agent(model(), output_type=kind, system_prompt="Be brief.").run_sync(WHO).output


try_all(
    {
        **{f"{name}, tools": lambda model=model: tools(model) for name, model in MODELS.items()},
        **{f"{name}, output": lambda model=model: output(model, Person) for name, model in MODELS.items()},
        "chat, native output": lambda: output(MODELS["chat"], NativeOutput(Person)),
        "responses, native output": lambda: output(MODELS["responses"], NativeOutput(Person)),
        "chat, prompted output": lambda: output(MODELS["chat"], PromptedOutput(Person)),
    },
    {
        **{f"{name}, output": ANN for name in MODELS},
        **dict.fromkeys(("chat, native output", "responses, native output", "chat, prompted output"), ANN),
        **{f"{name}, tools": "It is fine." for name in MODELS},
    },
)
