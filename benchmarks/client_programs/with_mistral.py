"""Mistral's SDK, which speaks a protocol of its own that is much like OpenAI's."""

from __future__ import annotations

import json
from typing import Any

from mistralai.client import Mistral
from uses import ANN, KEY, ROOT, WHO, Person, try_all

MISTRAL = Mistral(server_url=ROOT, api_key=KEY)
ASKED: Any = [{"role": "user", "content": "Hello?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]


def chat(**more: Any) -> Any:
    return MISTRAL.chat.complete(model="m", messages=ASKED, **more).choices[0].message.content


def streamed() -> str:
    with MISTRAL.chat.stream(model="m", messages=ASKED) as events:
        return "".join(event.data.choices[0].delta.content or "" for event in events)


async def not_blocking() -> Any:
    found = await MISTRAL.chat.complete_async(model="m", messages=ASKED)
    return found.choices[0].message.content


def tools() -> Any:
    messages = [{"role": "user", "content": "The weather?"}]
    said = MISTRAL.chat.complete(model="m", messages=messages, tools=WEATHER, tool_choice="any")
    answer: Any = said.choices[0].message
    (call,) = answer.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Ann"}
    result = {"role": "tool", "name": "weather", "content": "fine", "tool_call_id": call.id}
    said = MISTRAL.chat.complete(model="m", messages=[*messages, answer, result], tools=WEATHER)
    return said.choices[0].message.content


def parsed() -> Any:
    messages: Any = [{"role": "user", "content": WHO}]
    found = MISTRAL.chat.parse(Person, model="m", messages=messages)
    return found.choices[0].message.parsed


SAID = {
    "chat": chat,
    "chat, streamed": streamed,
    "chat, not blocking": not_blocking,
    "temperature, seed": lambda: chat(temperature=0.3, random_seed=3),
    "tools": tools,
}
try_all({**SAID, "parsed": parsed}, {**dict.fromkeys(SAID, "It is fine."), "parsed": ANN})
