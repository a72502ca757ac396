"""Calls whose response takes long: signs of life meanwhile, and errors once the head has been sent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import httpx
import openai
import pytest
from endpoints import Scripted, sent_events, served
from until import until

from areal.agents.interface import ConversationTooLong, Endpoint
from areal.rollout.engine import GenerationAborted

USER: Any = [{"role": "user", "content": "Hello?"}]
BODIES: dict[str, dict[str, Any]] = {
    "/chat/completions": {"model": "m", "messages": USER},
    "/responses": {"model": "m", "input": "Hello?"},
    "/messages": {"model": "m", "max_tokens": 9, "messages": USER},
}
EVERY = 0.02


class Held:
    """What a model does before it answers: it waits until it is let go, and then may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.gate = asyncio.Event()
        self.error = error

    async def __call__(self) -> None:
        await self.gate.wait()
        if self.error is not None:
            raise self.error


def raw(at: Endpoint) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=at.base_url, headers={"x-api-key": at.api_key}, trust_env=False)


def of_openai(at: Endpoint, retries: int = 0) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=at.base_url, api_key=at.api_key, max_retries=retries)


def of_anthropic(at: Endpoint) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=at.base_url, api_key=at.api_key, max_retries=0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
async def test_a_call_hears_of_its_response_until_that_is_there(path: str, stream: bool):
    held = Held()
    async with served(Scripted(held), sign_every=EVERY) as (model, at), raw(at) as http:
        body = {**BODIES[path], "stream": stream}
        async with http.stream("POST", path, json=body) as response:
            assert response.status_code == 200
            assert model.asked, "the head came before the response"
            parts = response.aiter_raw()
            signs = b"".join([await anext(parts) for _ in range(3)])
            held.gate.set()
            rest = b"".join([part async for part in parts])
        prompt = await http.post(path, json=body)
        assert "content-length" in prompt.headers, "one that is there at once is sent at once"
    if not stream:
        assert signs.strip() == b""
        told, at_once = json.loads(signs + rest), prompt.json()
        assert told.keys() == at_once.keys()
        return
    said = [e.get("type") for e in sent_events((signs + rest).decode())]
    expected = [e.get("type") for e in sent_events(prompt.text)]
    assert [kind for kind in said if kind != "ping"] == expected
    if path == "/messages":
        assert said[:3] == ["ping"] * 3
    else:
        assert signs.count(b": waiting\n\n") == 3


async def test_the_sdks_see_nothing_of_it():
    async def act() -> None:
        await asyncio.sleep(EVERY * 4)

    async with (
        served(Scripted(act), sign_every=EVERY) as (_, at),
        of_openai(at) as one,
        of_anthropic(at) as two,
    ):
        chat = await one.chat.completions.create(model="m", messages=USER)
        assert chat.choices[0].message.content == "1 messages"
        async with one.chat.completions.stream(model="m", messages=USER) as events:
            assert (await events.get_final_completion()).choices[0].message.content == "1 messages"
        assert (await one.responses.create(model="m", input="Hello?")).output_text == "1 messages"
        async with one.responses.stream(model="m", input="Hello?") as answers:
            assert (await answers.get_final_response()).output_text == "1 messages"
        said: Any = await two.messages.create(model="m", max_tokens=9, messages=USER)
        assert said.content[0].text == "1 messages"
        async with two.messages.stream(model="m", max_tokens=9, messages=USER) as parts:
            assert await parts.get_final_text() == "1 messages"


@pytest.mark.parametrize("protocol", ["chat", "responses", "messages"])
async def test_an_error_after_the_head_is_told_in_the_stream(protocol: str):
    async def act() -> None:
        await asyncio.sleep(EVERY * 4)
        raise ConversationTooLong("900 tokens")

    async with (
        served(Scripted(act), sign_every=EVERY) as (model, at),
        of_openai(at) as one,
        of_anthropic(at) as two,
    ):
        calls: dict[str, Any] = {
            "chat": lambda: one.chat.completions.create(model="m", messages=USER, stream=True),
            "responses": lambda: one.responses.create(model="m", input="Hello?", stream=True),
            "messages": lambda: two.messages.create(model="m", max_tokens=9, messages=USER, stream=True),
        }
        events = await calls[protocol]()
        with pytest.raises((openai.APIError, anthropic.APIError), match="900 tokens"):
            await anext(aiter(events))
        assert (at.account.refused, at.account.exhausted) == (1, "prompt is too long: 900 tokens")
        assert model.server.refusals.count == 1


async def test_json_breaks_off_and_an_sdk_calls_again(caplog: pytest.LogCaptureFixture):
    """It cannot be taken for a response; the call that is made again is sampled."""
    errors: list[Exception] = [GenerationAborted("after 3 tokens")]

    async def act() -> None:
        await asyncio.sleep(EVERY * 4)
        if errors:
            raise errors.pop()

    async with served(Scripted(act), sign_every=EVERY) as (model, at):
        async with of_openai(at, retries=1) as sdk:
            said = await sdk.chat.completions.create(model="m", messages=USER)
            assert said.choices[0].message.content == "1 messages"
            assert len(model.asked) == 2
        errors[:] = [ConversationTooLong("900 tokens")]
        async with of_openai(at) as sdk:
            with pytest.raises(openai.APIConnectionError):
                await sdk.chat.completions.create(model="m", messages=USER)
            assert at.account.exhausted == "prompt is too long: 900 tokens"
            assert (await sdk.models.retrieve("m")).id == "m", "the endpoint goes on"
    assert "900 tokens" in caplog.text, "the log has why"
    assert "ASGI" not in caplog.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_after_the_head_takes_its_generation_with_it(stream: bool):
    held = Held()
    async with served(Scripted(held), sign_every=EVERY) as (model, at), raw(at) as http:
        body = {**BODIES["/messages"], "stream": stream}
        async with http.stream("POST", "/messages", json=body) as response:
            await anext(response.aiter_raw())
        await until(lambda: model.cancelled == 1)
        held.gate.set()
        assert (await http.post("/messages", json=body)).status_code == 200
        assert at.account.completions == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_the_end_of_an_episode_ends_calls_whose_head_was_sent(stream: bool):
    async with served(Scripted(Held()), sign_every=EVERY) as (model, at), raw(at) as http:
        async with model.endpoint(9) as inner:
            body = {**BODIES["/chat/completions"], "stream": stream}
            key = {"x-api-key": inner.api_key}
            calling = http.build_request("POST", "/chat/completions", json=body, headers=key)
            response = await http.send(calling, stream=True)
            reading = asyncio.create_task(response.aread())
        assert model.cancelled == 1
        if stream:
            assert "has ended" in (await reading).decode()
        else:
            with pytest.raises(httpx.RemoteProtocolError):
                await reading
