"""Thoughts over HTTP: apart from the words, and put back however the program sends the response back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx
import openai
import pytest
from chat import Scripted as Engine
from chat import tokenizer
from endpoints import WEATHER

from areal.agents.interface import Endpoint
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Sampling
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer

USER: Any = {"role": "user", "content": "Hello?"}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
THOUGHT = "<think>\nthe aba {}\n</think>\n\n"
FUNCTION: Any = {"type": "function", "strict": None, **WEATHER["function"]}
MESSAGES_WEATHER: Any = {"name": "weather", "input_schema": WEATHER["function"]["parameters"]}


class Served:
    """A recorder of scripted responses at an address."""

    def __init__(self, made: Any, at: Endpoint, model: Recorder, engine: Engine) -> None:
        self.made, self.at, self.model, self.engine = made, at, model, engine

    def say(self, *texts: str, ended: bool = True) -> None:
        for text in texts:
            ids = self.made.encode(text, add_special_tokens=False)
            self.engine.responses.append([*ids, self.made.eos_token_id] if ended else ids)

    @property
    def prompt(self) -> str:
        """What was asked last."""
        return self.made.decode(self.engine.asked[-1])

    @property
    def turns(self) -> list[int]:
        return [len(trajectory.turns) for trajectory in self.model.trajectories()]

    def http(self) -> httpx.AsyncClient:
        headers = {"x-api-key": self.at.api_key}
        return httpx.AsyncClient(base_url=self.at.base_url, headers=headers, trust_env=False)


@asynccontextmanager
async def recorded(template: str = "qwen3", begun: str = "") -> AsyncIterator[Served]:
    """Serve scripted responses; ``begun`` is what the template begins each of them with."""
    made = tokenizer(template)
    made.chat_template += begun
    engine = Engine([])
    server = EndpointServer(lambda ids: [made.decode([i]) for i in ids], 1.0)
    model = Recorder(engine, Renderer(made, (made.eos_token_id,)), Sampling(999), 9999, server)
    try:
        async with model.endpoint(99) as at:
            yield Served(made, at, model, engine)
    finally:
        await server.close()


async def chat(http: httpx.AsyncClient, *messages: Any, **more: Any) -> Any:
    body = {"model": "m", "messages": list(messages), **more}
    response = await http.post("/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_each_protocol_has_the_thought_apart(stream: bool):
    async with recorded() as on:
        one = openai.AsyncOpenAI(base_url=on.at.base_url, api_key=on.at.api_key)
        two = anthropic.AsyncAnthropic(base_url=on.at.base_url, api_key=on.at.api_key)
        on.say(*[THOUGHT.format(0) + "It is\n\nfine."] * 4)
        given: Any = {"model": "m", "messages": [USER]}
        thinking: Any = {"type": "enabled", "budget_tokens": 1024}
        async with one, two:
            if stream:
                async with one.chat.completions.stream(**given) as events:
                    said: Any = (await events.get_final_completion()).choices[0].message
                async with one.responses.stream(model="m", input="Hello?") as answers:
                    seen = [event async for event in answers]
                    response: Any = await answers.get_final_response()
                deltas = [event.delta for event in seen if event.type == "response.reasoning_text.delta"]
                assert deltas == ["the aba 0"]
                async with two.messages.stream(max_tokens=99, thinking=thinking, **given) as parts:
                    asked_for: Any = await parts.get_final_message()
                async with two.messages.stream(max_tokens=99, **given) as parts:
                    not_asked_for: Any = await parts.get_final_message()
            else:
                said = (await one.chat.completions.create(**given)).choices[0].message
                response = await one.responses.create(model="m", input="Hello?")
                asked_for = await two.messages.create(max_tokens=99, thinking=thinking, **given)
                not_asked_for = await two.messages.create(max_tokens=99, **given)
    assert (said.content, said.reasoning_content) == ("It is\n\nfine.", "the aba 0")
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert (response.output[0].content[0].text, response.output_text) == ("the aba 0", "It is\n\nfine.")
    assert [block.type for block in asked_for.content] == ["thinking", "text"]
    assert (asked_for.content[0].thinking, asked_for.content[1].text) == ("the aba 0", "It is\n\nfine.")
    assert asked_for.content[0].signature
    assert [block.type for block in not_asked_for.content] == ["text"], "programs read the first as words"


def _as_it_came(said: Any) -> Any:
    return said


def _without_thought(said: Any) -> Any:
    return {name: value for name, value in said.items() if name != "reasoning_content"}


def _calls_alone(said: Any) -> Any:
    return {"role": "assistant", "content": None, "tool_calls": said["tool_calls"]}


def _as_reasoning(said: Any) -> Any:
    return {**_without_thought(said), "reasoning": said["reasoning_content"]}


@pytest.mark.parametrize("template", ["qwen3", "qwen2.5"])
@pytest.mark.parametrize("sent", [_as_it_came, _without_thought, _calls_alone, _as_reasoning])
async def test_however_a_call_is_sent_back_its_turns_are_one_trajectory(
    template: str, sent: Callable[[Any], Any]
):
    """The prompt has what was sampled, thought and words, whatever the program keeps of it."""
    async with recorded(template) as on, on.http() as http:
        thought = THOUGHT if template == "qwen3" else ""
        if not thought and sent is _as_reasoning:
            return
        on.say(*(f"{thought.format(i)}I look.\n{CALL}" for i in range(3)), thought.format(3) + "Fine.")
        history: list[Any] = [USER]
        for turn in range(3):
            said = await chat(http, *history, tools=[WEATHER])
            assert said.get("reasoning_content", "") == (f"the aba {turn}" if thought else "")
            assert said["content"] == "I look."
            result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "fine"}
            history += [sent(said), result]
        last = await chat(http, *history, tools=[WEATHER])
        assert last["content"] == "Fine."
        assert on.turns == [4]
        assert on.prompt.count("I look.") == 3


async def test_calls_without_words_are_whole_in_the_other_protocols():
    async with recorded() as on, on.http() as http:
        on.say(*[f"{THOUGHT.format(i)}I look.\n{CALL}" for i in range(2)] * 2, "Fine.", "Fine.")
        items: list[Any] = [USER]
        for _ in range(2):
            body = {"model": "m", "input": items, "tools": [FUNCTION]}
            output = (await http.post("/responses", json=body)).json()["output"]
            assert [item["type"] for item in output] == ["reasoning", "message", "function_call"]
            result = {"type": "function_call_output", "call_id": output[2]["call_id"], "output": "fine"}
            items += [output[2], result]
        body = {"model": "m", "max_tokens": 99, "tools": [MESSAGES_WEATHER]}
        messages: list[Any] = [USER]
        for _ in range(2):
            said = (await http.post("/messages", json={**body, "messages": messages})).json()["content"]
            assert [block["type"] for block in said] == ["text", "tool_use"]
            answered = {"type": "tool_result", "tool_use_id": said[1]["id"], "content": "fine"}
            messages += [
                {"role": "assistant", "content": said[1:]},
                {"role": "user", "content": [answered]},
            ]
        assert on.turns == [2, 2]
        await http.post("/responses", json={"model": "m", "input": items, "tools": [FUNCTION]})
        await http.post("/messages", json={**body, "messages": messages})
        assert on.turns == [3, 3]


async def test_words_alone_bring_their_thoughts_back_at_their_place():
    """In a template that keeps thoughts, a conversation of them is one trajectory."""
    async with recorded("qwen2.5", "{#- it keeps <think> and </think> -#}") as on, on.http() as http:
        on.say(*(THOUGHT.format(i) + "Fine." for i in range(3)))
        history: list[Any] = [USER]
        for turn in range(3):
            said = await chat(http, *history)
            assert (said["reasoning_content"], said["content"]) == (f"the aba {turn}", "Fine.")
            history += [{"role": "assistant", "content": "Fine."}, USER]
        assert on.turns == [3]
        assert [f"the aba {i}" in on.prompt for i in range(3)] == [True, True, False]


async def test_thoughts_that_are_sent_back_tell_two_samples_apart():
    """The same words after the same history, by different thoughts; without them the later one is meant."""
    async with recorded() as on, on.http() as http:
        for protocol in ("chat", "responses", "messages"):
            question = {"role": "user", "content": protocol}
            on.say(*(f"{THOUGHT.format(i)}I look.\n{CALL}".replace("look.", "look") for i in range(2)))
            more: dict[str, Any] = {}
            if protocol == "chat":
                path, more = "/chat/completions", {"tools": [WEATHER], "n": 2}
            elif protocol == "responses":
                path, more = "/responses", {"tools": [FUNCTION]}
            else:
                path, more = "/messages", {"tools": [MESSAGES_WEATHER], "max_tokens": 99}
                more["thinking"] = {"type": "adaptive"}
            key = "input" if protocol == "responses" else "messages"
            body = {"model": "m", key: [question], **more}
            first = (await http.post(path, json=body)).json()
            if protocol != "chat":
                await http.post(path, json=body)
            # The ids are the program's own here: only history, words and thought say which it is.
            if protocol == "chat":
                said = first["choices"][0]["message"]
                said["tool_calls"][0]["id"] = "x"
                sent: list[Any] = [said, {"role": "tool", "tool_call_id": "x", "content": "fine"}]
            elif protocol == "responses":
                call = {**first["output"][2], "call_id": "x"}
                result = {"type": "function_call_output", "call_id": "x", "output": "fine"}
                sent = [*first["output"][:2], call, result]
            else:
                blocks = [*first["content"][:2], {**first["content"][2], "id": "x"}]
                result = {"type": "tool_result", "tool_use_id": "x", "content": "fine"}
                sent = [{"role": "assistant", "content": blocks}, {"role": "user", "content": [result]}]
            on.say("Fine.")
            body = {"model": "m", key: [question, *sent], **more, **({"n": 1} if protocol == "chat" else {})}
            assert (await http.post(path, json=body)).status_code == 200
            assert "the aba 0" in on.prompt, protocol
            assert "the aba 1" not in on.prompt, protocol
        assert on.turns == [2, 1] * 3


async def test_words_that_are_not_the_response_s_stay_as_they_are():
    async with recorded() as on, on.http() as http:
        on.say(f"{THOUGHT.format(0)}I look.\n{CALL}", THOUGHT.format(1) + "Fine.", *["Fine."] * 5)
        said = await chat(http, USER, tools=[WEATHER])
        result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "fine"}
        await chat(http, USER, said, result, tools=[WEATHER])
        assert on.turns == [2]
        other = {**_calls_alone(said), "content": "I do not look."}
        await chat(http, USER, other, result, tools=[WEATHER])
        assert "the aba" not in on.prompt, "the program has other words"
        function = {"name": "weather", "arguments": '{"city": "Bern"}'}
        moved = {**_calls_alone(said), "tool_calls": [{**said["tool_calls"][0], "function": function}]}
        await chat(http, USER, moved, result, tools=[WEATHER])
        assert "the aba" not in on.prompt, "another call"
        assert "I look." not in on.prompt
        elsewhere = {"role": "user", "content": "Another question"}
        await chat(http, elsewhere, {"role": "assistant", "content": "Fine."}, USER)
        assert "the aba" not in on.prompt, "the same words elsewhere"
        await chat(http, elsewhere, said, result, tools=[WEATHER])
        assert "the aba 0" in on.prompt, "a call is known by its id wherever it stands"


async def test_a_template_that_knows_no_thoughts_has_words_alone():
    async with recorded("qwen2.5") as on, on.http() as http:
        text = THOUGHT.format(0) + "Fine."
        on.say(text, "And?")
        said = await chat(http, USER)
        assert said["content"] == text
        assert "reasoning_content" not in said
        await chat(http, USER, said, USER)
        assert on.turns == [2]


@pytest.mark.parametrize(
    ("begun", "text", "thought", "words"),
    [
        ("<think>\n", "the aba\n</think>\n\nFine.", "the aba", "Fine."),
        ("<think>\n", "the aba", "the aba", ""),
        ("<think>\n\n</think>\n\n", "Fine.", None, "Fine."),
        ("", "<think>\nthe aba", "the aba", ""),
        ("", "<think>\n\n</think>\n\nFine.", None, "Fine."),
        ("", "Fine </think> or not", None, "Fine </think> or not"),
        ("", "I say <think> aba </think>", None, "I say <think> aba </think>"),
    ],
)
async def test_where_a_thought_begins_and_ends(begun: str, text: str, thought: str | None, words: str):
    async with recorded(begun=begun) as on, on.http() as http:
        on.say(text)
        said = await chat(http, USER)
        assert (said.get("reasoning_content"), said["content"]) == (thought, words)


async def test_a_thought_that_the_template_began_calls_nothing():
    async with recorded(begun="<think>\n") as on, on.http() as http:
        on.say(f"I may\n{CALL}\nor not", f"I may\n{CALL}\n</think>\n\n{CALL}")
        said = await chat(http, USER, tools=[WEATHER])
        assert "tool_calls" not in said
        assert (said["reasoning_content"], said["content"]) == (f"I may\n{CALL}\nor not", "")
        assert len((await chat(http, USER, tools=[WEATHER]))["tool_calls"]) == 1


async def test_a_stop_string_may_end_a_thought():
    async with recorded() as on, on.http() as http:
        on.say("<think>\nthe abaEND", THOUGHT.format(1) + "FineEND", "Ok.", ended=False)
        on.engine.finish = "stop"
        first = await chat(http, USER, stop=["END"])
        assert (first["reasoning_content"], first["content"]) == ("the aba", "")
        second = await chat(http, USER, stop=["END"])
        assert (second["reasoning_content"], second["content"]) == ("the aba 1", "Fine")
