"""The real clients of OpenAI and Anthropic, the OpenAI Agents SDK and LangGraph, on a scripted model."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from endpoints import WEATHER, Scripted, served
from pages import ROOT, blocks
from sdk import agents_sdk

from areal.agents.interface import Endpoint, SamplingLimits

QUESTION: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
RESPONSES_WEATHER: Any = {"type": "function", "strict": None, **WEATHER["function"]}
MESSAGES_WEATHER: Any = {
    "name": "weather",
    "description": WEATHER["function"]["description"],
    "input_schema": WEATHER["function"]["parameters"],
}
TOOLS = [WEATHER, {"type": "function", "function": {"name": "time"}}]


def of_openai(at: Endpoint, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=at.base_url, api_key=at.api_key, **options)


def of_anthropic(at: Endpoint, **options: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=at.base_url, api_key=at.api_key, **options)


async def test_chat_completions():
    async with served() as (model, at), of_openai(at) as client:
        response = await client.chat.completions.create(
            model="gpt-4o",
            messages=QUESTION,
            max_tokens=9,
            stop=["x"],
            seed=3,
            temperature=1.0,
            logprobs=True,
        )
        assert model.asked == [(QUESTION, [], SamplingLimits(max_tokens=9, stop=("x",), seed=3))]
        choice = response.choices[0]
        assert (response.model, choice.message.content, choice.finish_reason) == (
            "gpt-4o",
            "2 messages",
            "stop",
        )
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert [(t.token, t.logprob) for t in choice.logprobs.content] == [
            ("⟨5⟩", -0.5), ("⟨6⟩", -1.0), ("⟨7⟩", -0.25),
        ]  # fmt: skip
        assert response.usage is not None
        assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (2, 3)
        several = await client.chat.completions.create(model="m", messages=QUESTION, n=3)
        assert [c.index for c in several.choices] == [0, 1, 2]
        assert len(model.asked) == 4
        parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo?"}]
        await client.chat.completions.create(
            model="m",
            messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}],  # type: ignore[list-item, misc]
        )
        assert model.asked[-1][0] == QUESTION


async def test_chat_completions_streamed():
    async with served() as (_, at), of_openai(at) as client:
        async with client.chat.completions.stream(
            model="m", messages=QUESTION, logprobs=True, stream_options={"include_usage": True}
        ) as events:
            seen = [event.type async for event in events]
            response = await events.get_final_completion()
        assert "content.delta" in seen
        assert "content.done" in seen
        assert (response.choices[0].message.content, response.choices[0].finish_reason) == (
            "2 messages",
            "stop",
        )
        assert response.usage is not None
        assert response.usage.total_tokens == 5
        two = await client.chat.completions.create(model="m", messages=QUESTION, n=2, stream=True)
        ended = [c.index async for chunk in two for c in chunk.choices if c.finish_reason]
        assert ended == [0, 1]


@pytest.mark.parametrize("stream", [False, True])
async def test_chat_completions_with_tools(stream: bool):
    async with served() as (model, at), of_openai(at) as client:
        given: Any = {"model": "m", "messages": QUESTION, "tools": TOOLS}
        if stream:
            async with client.chat.completions.stream(**given) as events:
                response: Any = await events.get_final_completion()
        else:
            response = await client.chat.completions.create(**given)
        said = response.choices[0].message
        assert response.choices[0].finish_reason == "tool_calls"
        assert [json.loads(c.function.arguments) for c in said.tool_calls] == [{"city": "Zürich"}] * 2
        results = [{"role": "tool", "tool_call_id": c.id, "content": "fine"} for c in said.tool_calls]
        # As programs do it: what came out goes in again.
        history: Any = [*QUESTION, said, *results]
        final = await client.chat.completions.create(model="m", messages=history, tools=TOOLS)  # type: ignore[arg-type]
        assert final.choices[0].message.content == "5 messages"
        recorded, tools, _ = model.asked[-1]
        assert tools == TOOLS
        assert recorded[2]["content"] == "I look."
        assert [c["id"] for c in recorded[2]["tool_calls"]] == [r["tool_call_id"] for r in recorded[3:]]


@pytest.mark.parametrize("stream", [False, True])
async def test_responses(stream: bool):
    async def create(**given: Any) -> Any:
        if not stream:
            return await client.responses.create(model="m", **given)
        async with client.responses.stream(model="m", **given) as events:
            seen.extend([event async for event in events])
            return await events.get_final_response()

    seen: list[Any] = []
    async with served() as (model, at), of_openai(at) as client:
        plain = await create(input="Hello?", instructions="Be brief.", max_output_tokens=9)
        assert model.asked == [(QUESTION, [], SamplingLimits(max_tokens=9))]
        assert (plain.output_text, plain.status, plain.usage.output_tokens) == ("2 messages", "completed", 3)
        # On the server's word alone: the instructions are not kept, the conversation is.
        second = await create(input="And?", previous_response_id=plain.id)
        assert second.output_text == "3 messages"
        assert [m["content"] for m in model.asked[-1][0]] == ["Hello?", "2 messages", "And?"]
        called = await create(input=[{"role": "user", "content": "Hello?"}], tools=[RESPONSES_WEATHER])
        said, call = called.output
        assert (said.content[0].text, call.name) == ("I look.", "weather")
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "fine"}
        history = [{"role": "user", "content": "Hello?"}, *(item.to_dict() for item in called.output), result]
        final = await create(input=history, tools=[RESPONSES_WEATHER])
        assert final.output_text == "3 messages"
        _, assistant, tool = model.asked[-1][0]
        assert (assistant["content"], assistant["tool_calls"][0]["id"]) == ("I look.", call.call_id)
        assert tool == {"role": "tool", "tool_call_id": call.call_id, "content": "fine"}
        assert model.asked[-1][1] == [WEATHER]
        logged = await create(input="Hello?", include=["message.output_text.logprobs"])
        assert [t.logprob for t in logged.output[0].content[0].logprobs] == [-0.5, -1.0, -0.25]
    if stream:
        deltas = [event.delta for event in seen if event.type == "response.function_call_arguments.delta"]
        assert deltas == ['{"city": "Zürich"}']
        assert [event.type for event in seen].count("response.completed") == 5


@pytest.mark.parametrize("stream", [False, True])
async def test_messages(stream: bool):
    async def create(**given: Any) -> Any:
        if not stream:
            return await client.messages.create(model="m", max_tokens=9, **given)
        async with client.messages.stream(model="m", max_tokens=9, **given) as events:
            return await events.get_final_message()

    user: Any = {"role": "user", "content": "Hello?"}
    async with served() as (model, at), of_anthropic(at) as client:
        plain = await create(messages=[user], system=[{"type": "text", "text": "Be brief."}])
        assert model.asked == [(QUESTION, [], SamplingLimits(max_tokens=9))]
        assert (plain.content[0].text, plain.stop_reason) == ("2 messages", "end_turn")
        assert (plain.usage.input_tokens, plain.usage.output_tokens) == (2, 3)
        called = await create(messages=[user], tools=[MESSAGES_WEATHER])
        said, call = called.content
        assert (called.stop_reason, said.text, call.input) == ("tool_use", "I look.", {"city": "Zürich"})
        result = {
            "type": "tool_result",
            "tool_use_id": call.id,
            "content": [{"type": "text", "text": "fine"}],
        }
        answered = {"role": "user", "content": [result, {"type": "text", "text": "And?"}]}
        history = [user, {"role": "assistant", "content": called.content}, answered]
        final = await create(messages=history, tools=[MESSAGES_WEATHER])
        assert final.content[0].text == "4 messages"
        _, assistant, tool, then = model.asked[-1][0]
        assert assistant["tool_calls"][0]["id"] == call.id
        assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"city": "Zürich"}
        assert (tool["content"], then) == ("fine", {"role": "user", "content": "And?"})
        assert model.asked[-1][1] == [WEATHER]
        model.text = "Thought: 4\nObservation: 5"
        stopped = await create(messages=[user], stop_sequences=["\nObservation:"])
        assert (stopped.content[0].text, stopped.stop_reason) == ("Thought: 4", "stop_sequence")
        # What was cut off for the program was said by the model, and is part of its history.
        await create(messages=[user, {"role": "assistant", "content": "Thought: 4"}, user])
        assert model.asked[-1][0][1]["content"] == "Thought: 4\nObservation: 5"


async def test_an_address_without_v1_is_as_good_for_anthropic_and_synchronous_clients_work_on_threads():
    import asyncio

    async with served() as (_, at):
        root = at.base_url.removesuffix("/v1")
        client = anthropic.Anthropic(base_url=root, auth_token=at.api_key)
        user: Any = {"role": "user", "content": "Hello?"}
        response: Any = await asyncio.to_thread(
            client.messages.create, model="m", max_tokens=9, messages=[user]
        )
        assert response.content[0].text == "1 messages"
        listed = await asyncio.to_thread(client.models.list)
        assert [model.id for model in listed] == ["areal"]
        client.close()
        async with of_openai(at) as other:
            assert [model.id async for model in other.models.list()] == ["areal"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("protocol", ["chat", "responses"])
async def test_openai_agents_sdk(protocol: str, stream: bool):
    """A whole agent with a tool: the SDK runs the tool and hands its result to the model."""
    sdk = agents_sdk()
    sdk.set_tracing_disabled(True)

    @sdk.function_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        cities.append(city)
        return "fine"

    cities: list[str] = []
    async with served(Scripted()) as (model, at), of_openai(at) as client:
        make = sdk.OpenAIChatCompletionsModel if protocol == "chat" else sdk.OpenAIResponsesModel
        agent = sdk.Agent("a", instructions="Be brief.", tools=[weather], model=make("m", client))
        if stream:
            result = sdk.Runner.run_streamed(agent, "Hello?")
            assert [event.type async for event in result.stream_events()]
        else:
            result = await sdk.Runner.run(agent, "Hello?")
        assert (result.final_output, cities) == ("4 messages", ["Zürich"])
        assert [m["role"] for m in model.asked[-1][0]] == ["system", "user", "assistant", "tool"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("protocol", ["chat", "responses"])
async def test_langgraph(protocol: str, stream: bool):
    """A graph whose nodes are the model and its tools, until a response has no call."""
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from langgraph.graph import START, MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode, tools_condition

    @tool
    def weather(city: str) -> str:
        """The weather of a city."""
        cities.append(city)
        return "fine"

    async def think(state: MessagesState) -> Any:
        return {"messages": [await chat.ainvoke([("system", "Be brief."), *state["messages"]])]}

    cities: list[str] = []
    graph = StateGraph(MessagesState).add_node(think).add_node("tools", ToolNode([weather]))
    graph.add_edge(START, "think").add_conditional_edges("think", tools_condition).add_edge("tools", "think")
    asked: Any = {"messages": [("user", "Hello?")]}
    async with served() as (model, at):
        by = {"base_url": at.base_url, "api_key": at.api_key, "use_responses_api": protocol == "responses"}
        chat = ChatOpenAI(model="m", **by).bind_tools([weather])
        if stream:
            parts = graph.compile().astream(asked, stream_mode="messages")
            response = "".join([part.text async for part, at_node in parts if at_node["langgraph_step"] == 3])
        else:
            response = (await graph.compile().ainvoke(asked))["messages"][-1].text
        assert (response, cities) == ("4 messages", ["Zürich"])
        recorded, tools, _ = model.asked[-1]
        assert [m["role"] for m in recorded] == ["system", "user", "assistant", "tool"]
        assert recorded[2]["content"] == "I look."
        assert recorded[2]["tool_calls"][0]["id"] == recorded[3]["tool_call_id"]
        assert [tool["function"]["name"] for tool in tools] == ["weather"]


@pytest.mark.parametrize("stream", [False, True])
async def test_anthropic_s_tool_runner_sends_whole_histories(stream: bool):
    """It would have the server keep the history; what it is told of that makes it keep it itself."""

    @anthropic.beta_async_tool
    async def weather(city: str) -> str:
        """The weather of a city."""
        cities.append(city)
        return "fine"

    cities: list[str] = []
    async with served(Scripted()) as (model, at), of_anthropic(at) as client:
        runner = client.beta.messages.tool_runner(
            model="m",
            max_tokens=9,
            system="Be brief.",
            messages=[{"role": "user", "content": "Hello?"}],
            tools=[weather],
            stream=stream,
        )
        final = await runner.until_done()
        assert (final.content[0].text, cities) == ("4 messages", ["Zürich"])  # type: ignore[union-attr]
        asked = [[m["role"] for m in messages] for messages, _, _ in model.asked]
        assert asked == [["system", "user"], ["system", "user", "assistant", "tool"]]
        assert all(tools for _, tools, _ in model.asked)


@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
async def test_a_history_that_the_server_should_keep_is_refused_in_words_that_the_sdk_knows(thread: Any):
    user: Any = {"role": "user", "content": "Hello?"}
    async with served() as (model, at), of_anthropic(at) as client:
        with pytest.raises(anthropic.BadRequestError) as refused:
            await client.beta.messages.create(model="m", max_tokens=9, messages=[user], thread=thread)
        error: Any = refused.value.body
        assert error["error"]["details"] == {
            "error_code": "thread_unsupported_request",
            "unsupported": ["thread"],
        }
        assert model.asked == []
        kept = await client.beta.messages.create(model="m", max_tokens=9, messages=[user])
        assert kept.stop_reason == "end_turn"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_calls_on_the_page(tmp_path: Path):
    """docs/endpoint.md has a request by curl, and a program that a shell gives its task."""
    page = list(blocks(ROOT / "docs/endpoint.md"))
    for block in page:
        if block.title:
            (tmp_path / block.title).write_text(block.text)
    (commands,) = (block.text for block in page if block.text.startswith("curl "))
    script = f'set -e; python() {{ {shlex.quote(sys.executable)} "$@"; }}\n{commands}'
    async with served() as (model, at):
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", script),
            cwd=tmp_path,
            env={**os.environ, "OPENAI_BASE_URL": at.base_url, "OPENAI_API_KEY": at.api_key},
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await process.communicate()
    assert process.returncode == 0
    response, end = json.JSONDecoder().raw_decode(printed.decode())
    assert response["choices"][0]["message"]["content"] == "1 messages"
    assert printed.decode()[end:].strip() == "1 messages", "what the program answers"
    tasks = [messages[0]["content"].strip() for messages, _, _ in model.asked]
    assert tasks == ["Compute 12 + 30."] * 2
