"""The SDKs of OpenAI and Anthropic."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
from uses import ANN, KEY, ROOT, URL, WHO, Person, try_all

OPENAI = openai.OpenAI(base_url=URL, api_key=KEY)
ANTHROPIC = anthropic.Anthropic(base_url=ROOT, api_key=KEY)
ASKED: Any = [{"role": "user", "content": "Hello?"}]
WANTED: Any = [{"role": "user", "content": WHO}]


def streamed() -> str:
    parts = OPENAI.chat.completions.create(model="m", messages=ASKED, stream=True)
    return "".join(part.choices[0].delta.content or "" for part in parts if part.choices)


def streamed_messages() -> str:
    with ANTHROPIC.messages.stream(model="m", max_tokens=99, messages=ASKED) as stream:
        return "".join(stream.text_stream)


def responses() -> str:
    first = OPENAI.responses.create(model="m", input="Hello?")
    again = OPENAI.responses.create(model="m", input="And?", previous_response_id=first.id)
    assert OPENAI.responses.retrieve(first.id).output_text == first.output_text
    return again.output_text


def tool_runner() -> str:
    @anthropic.beta_tool
    def weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: the city.
        """
        return "fine"

    runner = ANTHROPIC.beta.messages.tool_runner(model="m", max_tokens=99, messages=ASKED, tools=[weather])
    return runner.until_done().content[-1].text


def chat(**more: Any) -> Any:
    return OPENAI.chat.completions.create(model="m", messages=ASKED, **more).choices[0].message.content


def chat_parsed() -> Any:
    found = OPENAI.chat.completions.parse(model="m", messages=WANTED, response_format=Person)
    return found.choices[0].message.parsed


def message() -> Any:
    return ANTHROPIC.messages.create(model="m", max_tokens=99, messages=ASKED).content[0].text


def message_parsed() -> Any:
    found = ANTHROPIC.messages.parse(model="m", max_tokens=99, messages=WANTED, output_format=Person)
    return found.parsed_output


def completion() -> Any:
    return OPENAI.completions.create(model="m", prompt="1 + 1 =", max_tokens=99).choices[0].text


SAID = {
    "openai chat": chat,
    "openai chat, streamed": streamed,
    "openai temperature": lambda: chat(temperature=0),
    "openai responses": responses,
    "openai completions": completion,
    "anthropic messages": message,
    "anthropic messages, streamed": streamed_messages,
    "anthropic tool runner": tool_runner,
}
PARSED = {
    "openai chat, parsed": chat_parsed,
    "openai responses, parsed": lambda: (
        OPENAI.responses.parse(model="m", input=WHO, text_format=Person).output_parsed
    ),
    "anthropic messages, parsed": message_parsed,
}
OTHERS = {
    "openai models": lambda: OPENAI.models.retrieve("gpt-4o").id,
    "anthropic count_tokens": lambda: ANTHROPIC.messages.count_tokens(model="m", messages=ASKED).input_tokens,
}
try_all({**SAID, **PARSED, **OTHERS}, {**dict.fromkeys(SAID, "It is fine."), **dict.fromkeys(PARSED, ANN)})
