"""AG2: an agent with a tool over two turns, streams, and structured output, by models for three protocols."""

from __future__ import annotations

from typing import Any

from ag2 import Agent
from ag2.config import AnthropicConfig, OpenAIConfig, OpenAIResponsesConfig
from uses import ANN, KEY, ROOT, URL, WHO, Person, try_all, weather

MODELS: dict[str, Any] = {
    "chat": lambda **more: OpenAIConfig("m", api_key=KEY, base_url=URL, **more),
    "responses": lambda **more: OpenAIResponsesConfig("m", api_key=KEY, base_url=URL, **more),
    "anthropic": lambda **more: AnthropicConfig("m", api_key=KEY, base_url=ROOT, **more),
}


async def tools(config: Any) -> Any:
    reply = await Agent("a", "Be brief.", config=config, tools=[weather]).ask("The weather?")
    return (await reply.ask("And tomorrow?")).body


async def output(config: Any) -> Any:
    reply = await Agent("a", config=config, response_schema=Person).ask(WHO)
    return await reply.content()


async def said(config: Any) -> Any:
    return (await Agent("a", config=config).ask("Hello?")).body


SAID = {
    **{f"{name}, tools": lambda model=model: tools(model()) for name, model in MODELS.items()},
    **{
        f"{name}, streamed": lambda model=model: said(model(streaming=True)) for name, model in MODELS.items()
    },
}
PARSED = {f"{name}, output": lambda model=model: output(model()) for name, model in MODELS.items()}
try_all({**SAID, **PARSED}, {**dict.fromkeys(SAID, "It is fine."), **dict.fromkeys(PARSED, ANN)})
