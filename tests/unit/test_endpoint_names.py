"""What programs name in place of sending it, or ask about: items, responses, tools, models, counts."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import openai
import pytest
from chat import Scripted as Engine
from chat import renderer, tokenizer
from endpoints import WEATHER, served

from areal.agents.interface import Endpoint
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Sampling
from areal.rollout.recorder import Recorder

USER: Any = {"role": "user", "content": "Hello?"}
FUNCTION: Any = {"type": "function", "strict": None, **WEATHER["function"]}
TIME: Any = {"type": "function", "name": "time", "parameters": {"type": "object", "properties": {}}}


def of_openai(at: Endpoint) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=at.base_url, api_key=at.api_key)


def of_anthropic(at: Endpoint) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=at.base_url, api_key=at.api_key)


def raw(at: Endpoint) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=at.base_url, headers={"x-api-key": at.api_key}, trust_env=False)


async def test_items_may_be_named_by_their_ids():
    """As clients do where the vendor stores responses: what they name is what was sent to them."""
    async with served() as (model, at), of_openai(at) as client:
        called: Any = await client.responses.create(model="m", input=[USER], tools=[FUNCTION])
        said, call = called.output
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "fine"}
        whole = [USER, said.to_dict(), call.to_dict(), result]
        await client.responses.create(model="m", input=whole, tools=[FUNCTION])  # type: ignore[arg-type]
        expected = model.asked[-1]
        for references in (
            [{"type": "item_reference", "id": said.id}, {"type": "item_reference", "id": call.id}],
            [{"id": said.id}, {"type": None, "id": call.id}],
            [said.to_dict(), {"type": "item_reference", "id": call.id}],
        ):
            given: Any = [USER, *references, result]
            await client.responses.create(model="m", input=given, tools=[FUNCTION])
            assert model.asked[-1] == expected
        asked = len(model.asked)
        async with model.endpoint(9) as other, of_openai(other) as stranger:
            for who, bad in ((client, "msg_1"), (client, called.id), (stranger, said.id)):
                missing: Any = [USER, {"type": "item_reference", "id": bad}, USER]
                with pytest.raises(
                    openai.BadRequestError, match=f"input.1: the item '{bad}' does not belong"
                ):
                    await who.responses.create(model="m", input=missing)
            with pytest.raises(openai.NotFoundError, match="does not belong to"):
                await stranger.responses.retrieve(called.id)
        assert len(model.asked) == asked


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_can_be_had_again(stream: bool):
    async with served() as (model, at), of_openai(at) as client:
        if stream:
            async with client.responses.stream(model="m", input="Hello?") as events:
                first: Any = await events.get_final_response()
        else:
            first = await client.responses.create(model="m", input="Hello?")
        again: Any = await client.responses.retrieve(first.id)
        assert again.output_text == "1 messages"
        assert (again.id, again.status) == (first.id, "completed")
        assert len(model.asked) == 1


async def test_any_model_is_there():
    async with served() as (_, at), of_openai(at) as one, of_anthropic(at) as two:
        assert (await one.models.retrieve("gpt-4o")).id == "gpt-4o"
        assert (await one.models.retrieve("org/name")).id == "org/name"
        assert (await two.models.retrieve("claude")).id == "claude"
        assert [m.id async for m in two.models.list()] == ["areal"]


async def test_a_client_that_looks_whether_anybody_is_there_is_not_refused():
    async with served() as (model, at), httpx.AsyncClient(trust_env=False) as http:
        root = at.base_url.removesuffix("/v1")
        for path in ("", "/", "/health"):
            for method in ("HEAD", "GET"):
                assert (await http.request(method, root + path)).status_code == 200
        assert model.server.refusals.count == 0
        assert (await http.get(f"{root}/nothing")).status_code == 404
        assert model.server.refusals.count == 1


async def test_tokens_are_counted_as_the_model_would_see_them():
    """And nothing is sampled or recorded for it."""
    made = tokenizer("qwen2.5")
    said = [*made.encode("fine", add_special_tokens=False), made.eos_token_id]
    server = EndpointServer(lambda ids: [], 1.0)
    engine = Engine([said, said])
    model = Recorder(engine, renderer("qwen2.5"), Sampling(99), 9999, server)
    try:
        async with model.endpoint(9) as at, of_openai(at) as one, of_anthropic(at) as two, raw(at) as http:
            tool: Any = {"name": "weather", "input_schema": WEATHER["function"]["parameters"]}
            history: Any = [USER]
            for _ in range(2):
                counted = await two.messages.count_tokens(model="m", messages=history, tools=[tool])
                plain = await one.responses.input_tokens.count(input=history, instructions="Be brief.")
                reply: Any = await two.messages.create(
                    model="m", max_tokens=9, messages=history, tools=[tool]
                )
                assert counted.input_tokens == reply.usage.input_tokens == len(engine.asked[-1])
                assert plain.input_tokens != counted.input_tokens
                history = [*history, {"role": "assistant", "content": reply.content[0].text}, USER]
            body: Any = {"model": "m", "messages": [{"role": "user", "content": [{"type": "image"}]}]}
            assert (await http.post("/messages/count_tokens", json=body)).status_code == 400
            assert (await http.post("/messages/count_tokens", json={"model": "m"})).status_code == 400
            assert (await http.post("/responses/input_tokens", json={"input": []})).status_code == 400
    finally:
        await server.close()
    assert len(engine.asked) == 2
    assert [len(t.turns) for t in model.trajectories()] == [2]


async def test_tools_of_a_namespace_are_functions_whose_calls_come_back_with_it():
    space = {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [FUNCTION, TIME]}
    async with served() as (model, at), of_openai(at) as client:
        tools: Any = [TIME, space]
        called: Any = await client.responses.create(model="m", input=[USER], tools=tools)
        shown = [tool["function"]["name"] for tool in model.asked[-1][1]]
        assert shown == ["time", "crm__weather", "crm__time"]
        calls = [item for item in called.output if item.type == "function_call"]
        assert [(c.namespace, c.name) for c in calls] == [
            (None, "time"),
            ("crm", "weather"),
            ("crm", "time"),
        ]
        results = [{"type": "function_call_output", "call_id": c.call_id, "output": "fine"} for c in calls]
        history: Any = [USER, *(item.to_dict() for item in called.output), *results]
        await client.responses.create(model="m", input=history, tools=tools)
        sent = model.asked[-1][0][1]["tool_calls"]
        assert [call["function"]["name"] for call in sent] == shown
        for bad in (
            {"name": 5},
            {"tools": None},
            {"tools": [5]},
            {"tools": [{"type": "custom", "name": "x"}]},
        ):
            wrong: Any = [{**space, **bad}]
            with pytest.raises(openai.BadRequestError, match="tools: "):
                await client.responses.create(model="m", input=[USER], tools=wrong)


MESSAGES_WEATHER: Any = {
    "name": "weather",
    "description": WEATHER["function"]["description"],
    "input_schema": WEATHER["function"]["parameters"],
}
VENDOR: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("/responses", {"input": "Hello?", "tools": [FUNCTION, {"type": "web_search"}]}, {"type": "web_search"}),
    (
        "/responses",
        {"input": "Hello?", "tools": [{"type": "mcp", "server_label": "x"}, FUNCTION]},
        {"type": "mcp"},
    ),
    (
        "/messages",
        {
            "messages": [USER],
            "max_tokens": 9,
            "tools": [
                MESSAGES_WEATHER,
                {"type": "bash_20250124", "name": "bash"},
            ],
        },
        {"type": "tool", "name": "bash"},
    ),
]  # fmt: skip


async def test_the_vendor_s_tools_are_left_out_unless_they_are_forced():
    async with served() as (model, at), raw(at) as http:
        for number, (path, body, forced) in enumerate(VENDOR, 1):
            assert (await http.post(path, json={"model": "m", **body})).status_code == 200
            assert model.asked[-1][1] == [WEATHER]
            assert model.server.refusals.ignored == number
            refused = await http.post(path, json={"model": "m", **body, "tool_choice": forced})
            assert refused.status_code == 400, path
            assert "tool_choice" in refused.text
        # A tool of the program's own that cannot be shown is not left out.
        said = {"messages": [USER], "max_tokens": 9}
        for path, own, tool in (
            ("/responses", {"input": "Hello?"}, {"type": "custom", "name": "x"}),
            ("/chat/completions", said, {"type": "custom", "custom": {"name": "x"}}),
            ("/messages", said, {"type": "function", "name": "x"}),
        ):
            refused = await http.post(path, json={"model": "m", **own, "tools": [tool]})
            assert refused.status_code == 400, path
        assert len(model.asked) == len(VENDOR)
    async with served(settings="refuse") as (model, at), raw(at) as http:
        for path, body, _ in VENDOR:
            assert (await http.post(path, json={"model": "m", **body})).status_code == 400
        assert model.asked == []


@pytest.mark.parametrize("path", ["/chat/completions", "/responses"])
async def test_a_choice_among_some_tools_shows_the_model_those(path: str):
    def body(mode: Any, *names: str) -> dict[str, Any]:
        if path == "/responses":
            allowed = {"mode": mode, "tools": [{"type": "function", "name": name} for name in names]}
            choice = {"type": "allowed_tools", **allowed}
            return {"model": "m", "input": "Hello?", "tools": [FUNCTION, TIME], "tool_choice": choice}
        tools = [{"type": "function", "function": {"name": name}} for name in names]
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}
        known = [WEATHER, {"type": "function", "function": {"name": "time"}}]
        return {"model": "m", "messages": [USER], "tools": known, "tool_choice": choice}

    async with served() as (model, at), raw(at) as http:
        for mode, ignored in (("auto", 0), ("required", 1)):
            assert (await http.post(path, json=body(mode, "weather"))).status_code == 200
            assert model.asked[-1][1] == [WEATHER]
            assert model.server.refusals.ignored == ignored
        assert (await http.post(path, json=body("auto", "time", "weather"))).status_code == 200
        assert [tool["function"]["name"] for tool in model.asked[-1][1]] == ["weather", "time"]
        for bad in (body("sometimes", "time"), {**body("auto"), "tool_choice": {"type": "allowed_tools"}}):
            assert (await http.post(path, json=bad)).status_code == 400
        assert len(model.asked) == 3


async def test_the_system_s_messages_that_lead_are_one():
    first, second = {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}
    one = {"role": "system", "content": "Be brief.\n\nBe kind."}
    async with served() as (model, at), raw(at) as http:
        await http.post("/chat/completions", json={"model": "m", "messages": [first, second, USER]})
        assert model.asked[-1][0] == [one, USER]
        later = [first, second, USER, {"role": "system", "content": "Hurry."}, USER]
        await http.post("/chat/completions", json={"model": "m", "messages": later})
        assert model.asked[-1][0] == [one, USER, later[3], USER], "one that does not lead stays where it is"
        body: dict[str, Any] = {"model": "m", "instructions": "Be brief.", "input": [second, USER]}
        created = (await http.post("/responses", json=body)).json()
        assert model.asked[-1][0] == [one, USER]
        body = {
            "model": "m",
            "instructions": "Be long.",
            "input": "And?",
            "previous_response_id": created["id"],
        }
        await http.post("/responses", json=body)
        assert model.asked[-1][0] == [
            {"role": "system", "content": "Be long.\n\nBe kind."},
            USER,
            {"role": "assistant", "content": "2 messages"},
            {"role": "user", "content": "And?"},
        ]


async def test_words_of_a_refusal_are_words():
    parts = [{"type": "text", "text": "No: "}, {"type": "refusal", "refusal": "I may not."}]
    async with served() as (model, at), raw(at) as http:
        for said in ({"content": parts}, {"content": None, "refusal": "No: I may not."}):
            messages = [USER, {"role": "assistant", **said}, USER]
            response = await http.post("/chat/completions", json={"model": "m", "messages": messages})
            assert response.status_code == 200
            assert model.asked[-1][0][1] == {"role": "assistant", "content": "No: I may not."}
        wrong = [USER, {"role": "assistant", "content": [{"type": "refusal", "text": "No."}]}, USER]
        response = await http.post("/chat/completions", json={"model": "m", "messages": wrong})
        assert response.status_code == 400


async def test_what_there_is_not_is_said_in_the_client_s_own_protocol():
    async with served() as (_, at), raw(at) as http:
        for path in ("/messages/batches", "/completions/x"):
            assert (await http.get(path)).json()["error"]["code"] is None
            theirs = await http.get(path, headers={"anthropic-version": "2023-06-01"})
            assert (theirs.status_code, theirs.json()["error"]["type"]) == (404, "not_found_error")
            assert theirs.json()["type"] == "error"
