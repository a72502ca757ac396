"""A server with a scripted model, and clients of each vendor on it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from areal.agents.interface import Endpoint, Message, Reply, SamplingLimits, Settings, Tool
from areal.rollout.endpoint.server import EndpointServer

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
"""A tool in the form of Chat Completions."""


class Scripted:
    """An :class:`areal.agents.interface.Model` that notes what it is asked and answers as it was told.

    It calls each tool that it is shown once, and then says how many messages there were.
    """

    def __init__(self, act: Callable[[], Awaitable[Any]] = lambda: asyncio.sleep(0)) -> None:
        self.act = act
        self.asked: list[tuple[list[Message], list[Tool], SamplingLimits]] = []
        self.cancelled = 0
        self.text: str | None = None
        self.rewards: list[float] = []
        self.server: EndpointServer | None = None

    async def generate(self, observation: str) -> str:
        return (await self.chat([{"role": "user", "content": observation}])).text

    async def chat(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), limits: SamplingLimits | None = None
    ) -> Reply:
        number = len(self.asked)
        self.asked.append((list(messages), list(tools), limits or SamplingLimits()))
        try:
            await self.act()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if tools and not any(m["role"] == "tool" for m in messages):
            return self._calls(number, tools)
        text = f"{len(messages)} messages" if self.text is None else self.text
        return reply({"role": "assistant", "content": text}, text, "stop", len(messages))

    def _calls(self, number: int, tools: Sequence[Tool]) -> Reply:
        calls = [
            {
                "id": f"call_{number}_{i}",
                "type": "function",
                "function": {"name": tool["function"]["name"], "arguments": '{"city": "Zürich"}'},
            }
            for i, tool in enumerate(tools)
        ]
        return reply({"role": "assistant", "content": "I look.", "tool_calls": calls}, "<…>", "tool_calls", 9)

    async def complete(self, text: str, *, limits: SamplingLimits | None = None) -> Reply:
        return await self.chat([{"role": "user", "content": text}], limits=limits)

    def count_tokens(self, messages: Sequence[Message], *, tools: Sequence[Tool] = ()) -> int:
        return len(messages)

    def set_reward(self, reward: float) -> None:
        self.rewards.append(reward)

    def endpoint(
        self, max_completions: int, settings: Settings = "ignore"
    ) -> AbstractAsyncContextManager[Endpoint]:
        assert self.server is not None
        return self.server.open(self, max_completions, settings)


def reply(message: Message, text: str, finish: Any, prompt_tokens: int) -> Reply:
    return Reply(message, text, finish, [5, 6, 7], [-0.5, -1.0, -0.25], prompt_tokens)


def texts(ids: list[int]) -> list[str]:
    return [f"⟨{token}⟩" for token in ids]


@asynccontextmanager
async def served(
    model: Any = None, max_completions: int = 1000, settings: Settings = "ignore", **limits: Any
) -> AsyncIterator[tuple[Any, Endpoint]]:
    """A model, scripted unless it is given, and its address."""
    model = model or Scripted()
    server = EndpointServer(texts, 1.0, **limits)
    model.server = server
    try:
        async with server.open(model, max_completions, settings) as at:
            yield model, at
    finally:
        await server.close()


def sent_events(body: str) -> list[dict[str, Any]]:
    """The JSON objects of server-sent events."""
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]
