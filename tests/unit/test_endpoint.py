"""The endpoint with a scripted model: keys, refusals, retries, clients that go, floods, the reward."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from typing import Any

import httpx
import openai
import pytest
from endpoints import Scripted, sent_events, served
from until import until

from areal.agents.interface import BadRequest, ConversationTooLong, Endpoint
from areal.errors import UserError
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import GenerationAborted

USER: Any = [{"role": "user", "content": "Hello?"}]
CHAT = {"model": "m", "messages": USER}
BODIES: dict[str, dict[str, Any]] = {
    "/chat/completions": CHAT,
    "/responses": {"model": "m", "input": "Hello?"},
    "/messages": {"model": "m", "max_tokens": 9, "messages": USER},
}


def client(at: Endpoint, **headers: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {at.api_key}", **headers}
    return httpx.AsyncClient(base_url=at.base_url, headers=headers, trust_env=False)


def message(path: str, response: httpx.Response) -> str:
    """The message of an error in the form of its protocol."""
    body = response.json()
    if path == "/messages":
        assert body["type"] == "error"
    return body["error"]["message"]


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "/chat/completions",
        {"temperature": 0.7},
        "temperature=0.7 differs from the temperature of the run.*rollout.temperature",
    ),
    ("/chat/completions", {"top_p": 0.9}, "top_p=0.9 is not available"),
    ("/chat/completions", {"logit_bias": {"5": 1}}, "logit_bias"),
    ("/chat/completions", {"presence_penalty": 0.1}, "presence_penalty"),
    ("/chat/completions", {"logprobs": True, "top_logprobs": 3}, "top_logprobs"),
    ("/chat/completions", {"response_format": {"type": "json_object"}}, "response_format"),
    ("/chat/completions", {"tool_choice": "required"}, "tool_choice='required'"),
    ("/chat/completions", {"parallel_tool_calls": False}, "parallel_tool_calls"),
    ("/chat/completions", {"functions": [{"name": "weather"}]}, "functions="),
    ("/chat/completions", {"guided_regex": "[0-9]+"}, "guided_regex"),
    ("/chat/completions", {"n": 0}, "n: Input should be greater"),
    ("/chat/completions", {"stop": ""}, "stop: an empty string"),
    ("/chat/completions", {"max_tokens": "many"}, "max_tokens: "),
    ("/chat/completions", {"messages": []}, "messages: "),
    ("/chat/completions", {"messages": [{"role": "robot"}]}, "role='robot'"),
    (
        "/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "does not fetch URLs",
    ),
    ("/chat/completions", {"messages": [{"role": "user", "content": 5}]}, "messages.0: content"),
    (
        "/chat/completions",
        {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
        "messages.0: a tool",
    ),
    ("/chat/completions", {"tools": [{"type": "custom"}]}, "only functions"),
    ("/chat/completions", {"tools": [{"type": "function", "function": {}}]}, "a tool needs a name"),
    ("/responses", {"text": {"format": {"type": "json_schema"}}}, "text.format"),
    ("/responses", {"temperature": 0}, "temperature=0"),
    ("/responses", {"previous_response_id": "resp_1"}, "does not belong to this episode"),
    ("/responses", {"conversation": "c"}, "previous_response_id"),
    ("/responses", {"tools": [{"type": "web_search"}]}, "no built-in tools.*web_search"),
    (
        "/responses",
        {"input": [{"type": "item_reference", "id": "i"}]},
        "input.0: the item .i. does not belong",
    ),
    ("/responses", {"input": [{"type": "function_call", "call_id": "c"}]}, "input.0: a tool call"),
    ("/messages", {"top_k": 5}, "top_k=5"),
    ("/messages", {"max_tokens": None}, "max_tokens"),
    ("/messages", {"tool_choice": {"type": "any"}}, "forced call"),
    (
        "/messages",
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        "disable_parallel",
    ),
    ("/messages", {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "no built-in tools"),
    ("/messages", {"messages": [{"role": "user", "content": [5]}]}, "blocks"),
    (
        "/messages",
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        "does not fetch URLs",
    ),
]


async def test_what_cannot_be_had_is_refused_with_a_reason():
    async with served(settings="refuse") as (model, at), client(at) as http:
        for path, change, found in REFUSED:
            response = await http.post(path, json={**BODIES[path], **change})
            assert response.status_code == 400, change
            assert re.search(found, message(path, response)), response.text
        assert model.asked == []


async def test_what_sdks_send_by_default_or_changes_nothing_passes():
    harmless = {
        "temperature": 1, "top_p": 1.0, "presence_penalty": 0, "logit_bias": {}, "top_logprobs": None,
        "store": True, "user": "u", "metadata": {}, "reasoning_effort": "low", "parallel_tool_calls": True,
        "tool_choice": "auto", "response_format": {"type": "text"}, "stream_options": None, "stop": None,
    }  # fmt: skip
    async with served() as (_, at), client(at) as http:
        assert (await http.post("/chat/completions", json={**CHAT, **harmless})).status_code == 200
        thinking = {"thinking": {"type": "disabled"}, "metadata": {}, "service_tier": "auto"}
        assert (await http.post("/messages", json={**BODIES["/messages"], **thinking})).status_code == 200


@pytest.mark.parametrize("path", BODIES)
async def test_requests_that_are_none(path: str):
    async with served(max_request_bytes=1000) as (model, at), client(at) as http:
        for content in (b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"model": 5}'):
            response = await http.post(path, content=content)
            assert response.status_code == 400, content
            assert message(path, response)
        body = json.dumps({**BODIES[path], "user": "x" * 1000}).encode()

        async def in_pieces() -> Any:
            yield body[:900]
            yield body[900:]

        for content in (body, in_pieces()):
            response = await http.post(path, content=content)
            assert response.status_code == 413
            assert "1000 bytes" in message(path, response)
        assert model.asked == []


async def test_only_the_key_of_an_open_episode_opens_anything_and_only_that_episode():
    async with served() as (one, at):
        async with one.endpoint(100) as second_at, client(at, authorization="") as http:
            for key in (
                "",
                "Bearer",
                "Bearer x",
                f"Basic {at.api_key}",
                at.api_key,
                f"Bearer {at.api_key[:-1]}",
            ):
                for path, body in {**BODIES, "/reward": {"reward": 1}}.items():
                    response = await http.post(path, json=body, headers={"authorization": key})
                    assert response.status_code == 401, key
                    assert "the key is unknown" in message(path, response)
                assert (await http.get("/models", headers={"authorization": key})).status_code == 401
            both = {"x-api-key": at.api_key, "authorization": "Bearer of-the-environment"}
            assert (await http.post("/messages", json=BODIES["/messages"], headers=both)).status_code == 200
            # What one episode got is nothing to another.
            created = await http.post("/responses", json=BODIES["/responses"], headers=both)
            follow = {"model": "m", "input": "?", "previous_response_id": created.json()["id"]}
            other = {"authorization": f"Bearer {second_at.api_key}"}
            assert (await http.post("/responses", json=follow, headers=other)).status_code == 400
            assert (await http.post("/responses", json=follow, headers=both)).status_code == 200
            assert (await http.post("/reward", json={"reward": 0.5}, headers=other)).status_code == 200
            assert (at.reward(), second_at.reward()) == (None, 0.5)
        async with client(second_at) as http:
            assert (await http.post("/chat/completions", json=CHAT)).status_code == 401, "it is over"
            assert (await http.get("/nothing")).status_code == 404
            assert (await http.get("/chat/completions")).status_code == 405


async def test_the_reward_call():
    async with served() as (_, at), client(at) as http:
        for bad in ({}, {"reward": "much"}, {"reward": None}, {"reward": [1]}):
            assert (await http.post("/reward", json=bad)).status_code == 400
        assert (await http.post("/reward", content=b'{"reward": NaN}')).status_code == 400
        assert at.reward() is None
        for value in (1.0, -0.5, -0.5):  # the last word counts; said twice, it is the same
            assert (await http.post("/reward", json={"reward": value})).json() == {"reward": value}
        assert at.reward() == -0.5


async def test_errors_of_the_model_and_those_of_ours():
    async def act() -> None:
        raise errors.pop(0)

    errors: list[Exception] = [BadRequest("the template refuses it"), ConversationTooLong("900 tokens")]
    async with served(Scripted(act)) as (_, at), openai.AsyncOpenAI(**address(at), max_retries=1) as sdk:
        with pytest.raises(openai.BadRequestError, match="the template refuses it"):
            await sdk.chat.completions.create(**CHAT)
        with pytest.raises(openai.BadRequestError, match="900 tokens") as too_long:
            await sdk.chat.completions.create(**CHAT)
        assert too_long.value.code == "context_length_exceeded"
        assert "prompt is too long: " in str(too_long.value), "by which clients of Anthropic's know it"
        errors[:] = [GenerationAborted("after 3 tokens"), GenerationAborted("after 3 tokens")]
        with pytest.raises(openai.InternalServerError, match="after 3 tokens"):
            await sdk.chat.completions.create(**CHAT)
        assert errors == [], "the SDK tried again"

    async def program() -> None:
        async with served(Scripted(act)) as (_, at), openai.AsyncOpenAI(**address(at)) as sdk:
            with pytest.raises(openai.InternalServerError):
                await sdk.chat.completions.create(**CHAT)
            assert len(errors) == 1, "not tried again"
            raise RuntimeError("the program crashes of it")

    # A defect, or the run's own bad input, ends the episode under its own name, whatever the program does.
    for error in (KeyError("a bug"), UserError("give it a tokenizer")):
        errors[:] = [error, KeyError("second")]
        with pytest.raises(type(error)) as caught:
            await program()
        assert caught.value is error


def address(at: Endpoint) -> dict[str, Any]:
    return {"base_url": at.base_url, "api_key": at.api_key, "timeout": 60}


@pytest.mark.parametrize("count", [1, 3])
async def test_a_client_that_goes_takes_its_generation_with_it(count: int):
    async with served(Scripted(lambda: asyncio.sleep(60))) as (model, at), client(at) as http:
        calling = asyncio.create_task(http.post("/chat/completions", json={**CHAT, "n": count}))
        await until(lambda: len(model.asked) == count)
        calling.cancel()
        await until(lambda: model.cancelled == count)
        # So does one that falls silent in the middle of its request; the next one is served.
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(at.base_url).port)
        head = (
            f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {at.api_key}\r\ncontent-length: 99\r\n\r\n"
        )
        writer.write(head.encode() + b"{")
        await writer.drain()
        writer.close()
        model.act = lambda: asyncio.sleep(0)
        assert (await http.post("/chat/completions", json=CHAT)).status_code == 200
        del reader


async def test_the_end_of_an_episode_ends_its_calls():
    async with served(Scripted(lambda: asyncio.sleep(60))) as (model, at), client(at) as http:
        async with model.endpoint(100) as inner:
            bearer = {"authorization": f"Bearer {inner.api_key}"}
            calling = asyncio.create_task(http.post("/chat/completions", json=CHAT, headers=bearer))
            await until(lambda: model.asked)
        assert model.cancelled == 1
        response = await calling
        assert response.status_code == 401
        assert "has ended" in message("/chat/completions", response)
        # So it is for a request that was half there.
        body = json.dumps(CHAT).encode()
        async with model.endpoint(100) as inner:
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(at.base_url).port)
            head = f"x-api-key: {inner.api_key}\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + head.encode() + body[:9])
            await asyncio.sleep(0.1)
        writer.write(body[9:])
        assert (await reader.readline()).split()[1] == b"401"
        writer.close()
        assert len(model.asked) == 1
        assert (await http.get("/models")).status_code == 200, "others go on"


@pytest.mark.parametrize("how", ["returned", "cancelled", "failed", "disconnected"])
async def test_only_a_program_that_returns_is_told_of_a_call_that_it_left(how: str):
    """Where a run ends, its episodes in flight are cancelled, and their calls are nobody's fault."""
    begun = asyncio.Event()
    async with served(Scripted(lambda: asyncio.sleep(60))) as (model, at), client(at) as http:

        async def episode() -> None:
            async with model.endpoint(100) as inner:
                bearer = {"authorization": f"Bearer {inner.api_key}"}
                call = asyncio.create_task(http.post("/chat/completions", json=CHAT, headers=bearer))
                calls.append(call)
                await until(lambda: model.asked)
                begun.set()
                if how == "disconnected":
                    call.cancel()
                    await until(lambda: model.cancelled)
                elif how == "cancelled":
                    await asyncio.Event().wait()
                elif how == "failed":
                    raise ZeroDivisionError
                accounts.append(inner.account)

        calls, accounts = list[asyncio.Task[httpx.Response]](), list[Any]()
        running = asyncio.create_task(episode())
        await begun.wait()
        if how == "cancelled":
            running.cancel()
        await asyncio.wait({running, *calls})
        told = how == "returned"
        assert model.server.refusals.count == told
        assert all(account.refused == told for account in accounts)
        if how != "disconnected":
            assert calls[0].result().status_code == (401 if told else 499)


async def test_a_call_made_again_is_answered_from_the_record_and_one_that_failed_anew():
    """So that no response is recorded that the program never saw, and none twice."""
    async with served() as (model, at), client(at) as http:
        again = {"x-stainless-retry-count": "1"}
        first = await http.post("/chat/completions", json=CHAT)
        lost = await http.post("/chat/completions", json=CHAT, headers=again)
        assert lost.content == first.content
        assert len(model.asked) == 1
        second = await http.post("/chat/completions", json=CHAT)
        assert second.json()["id"] != first.json()["id"], "the same call for its own sake is another sample"
        # A call that was given up left no record, and is no one's response but its own.
        model.act = lambda: asyncio.sleep(60)
        calling = asyncio.create_task(http.post("/chat/completions", json=CHAT))
        await until(lambda: len(model.asked) == 3)
        calling.cancel()
        await until(lambda: model.cancelled == 1)
        model.act = lambda: asyncio.sleep(0)
        third = await http.post("/chat/completions", json=CHAT, headers=again)
        assert third.json()["id"] not in (first.json()["id"], second.json()["id"])
        assert len(model.asked) == 4
        streamed = await http.post("/chat/completions", json={**CHAT, "stream": True})
        same = await http.post("/chat/completions", json={**CHAT, "stream": True}, headers=again)
        assert sent_events(streamed.text) == sent_events(same.text)
        assert same.headers["content-type"].startswith("text/event-stream")
        # The same words to another protocol are another call.
        body = {**CHAT, "max_tokens": 9}
        assert (await http.post("/chat/completions", json=body)).json()["object"] == "chat.completion"
        assert (await http.post("/messages", json=body, headers=again)).json()["type"] == "message"


async def test_a_flood_is_held_back_and_hurts_no_other_episode():
    gate = asyncio.Event()
    async with (
        served(Scripted(gate.wait), max_sampling=4, max_in_flight=20) as (model, at),
        model.endpoint(50) as flooded,
        client(flooded) as http,
        client(at) as other,
    ):
        calls = [asyncio.create_task(http.post("/chat/completions", json=CHAT)) for _ in range(30)]
        await until(lambda: sum(call.done() for call in calls) == 10)
        assert len(model.asked) == 4, "sampled at once"
        quiet = asyncio.create_task(other.post("/chat/completions", json=CHAT))
        await until(lambda: len(model.asked) == 5)
        gate.set()
        responses = await asyncio.gather(*calls)
        assert sorted(response.status_code for response in responses) == [200] * 20 + [429] * 10
        assert {response.headers.get("retry-after") for response in responses} == {None, "1"}
        assert (await quiet).status_code == 200
        # An endless loop ends: so many responses, and no more.
        codes = [(await http.post("/chat/completions", json={**CHAT, "n": 10})).status_code for _ in range(4)]
        assert codes == [200, 200, 200, 429]
        last = await http.post("/chat/completions", json={**CHAT, "n": 10})
        assert last.json()["error"]["code"] == "insufficient_quota"
        assert last.headers["x-should-retry"] == "false"


async def test_it_listens_on_loopback_alone_and_leaves_nothing_behind():
    server = EndpointServer(lambda ids: [], 1.0)
    await server.close()  # it never began
    before, threads = asyncio.all_tasks(), set(threading.enumerate())
    async with server.open(Scripted(), 10) as at, server.open(Scripted(), 10) as second:
        assert at.base_url == second.base_url
        assert at.base_url.startswith("http://127.0.0.1:")
        port = httpx.URL(at.base_url).port
        kept = client(at)
        assert (await kept.get("/models")).status_code == 200
        # Connections have it from the socket that listens: else a response's body waits for its head.
        (listening,) = server._uvicorn.servers[0].sockets
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await server.close()
    await kept.aclose()
    assert asyncio.all_tasks() <= before
    assert set(threading.enumerate()) <= threads
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port or 0), timeout=1)
