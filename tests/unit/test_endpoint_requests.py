"""What a request may ask of the endpoint: each field obeyed, harmless or refused; and none ends in a 500."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import pytest
import pytest_asyncio
from chat import Scripted as Engine
from chat import renderer, tokenizer
from endpoints import WEATHER, served, texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from areal.agents.interface import Endpoint
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Completion, Sampling
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer

USER: Any = [{"role": "user", "content": "Hello?"}]
BODIES: dict[str, dict[str, Any]] = {
    "/chat/completions": {"model": "m", "messages": USER},
    "/responses": {"model": "m", "input": "Hello?"},
    "/messages": {"model": "m", "max_tokens": 9, "messages": USER},
}
CHAT, RESPONSES, MESSAGES = BODIES
SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}

REFUSED: list[tuple[str, str, list[Any]]] = [
    (CHAT, "seed", [2**64, 2**63, -1, True, 1.0, 1.5, "1", [1], float("nan")]),
    (CHAT, "random_seed", [2**63, -1, True, "1"]),
    (CHAT, "n", [0, -1, 129, 10**30, True, 1.0, "2", [1]]),
    (CHAT, "max_tokens", [0, -1, True, 2.0, "9", {}, float("inf")]),
    (CHAT, "max_completion_tokens", [0, -(2**70), False]),
    (CHAT, "stop", ["", [""], [1], 5, True, {"a": 1}, ["a", None]]),
    (CHAT, "temperature", [0, 0.7, float("nan"), float("inf"), True, "1", [1]]),
    (CHAT, "top_p", [0.9, True, float("nan"), "1", -1]),
    (CHAT, "logit_bias", [{"5": 1}, {"a": []}, 5]),
    (CHAT, "bad_words", [["no"], "no"]),
    (CHAT, "allowed_token_ids", [[1]]),
    (CHAT, "logits_processors", [["mine"]]),
    (CHAT, "use_beam_search", [True, 1]),
    (CHAT, "length_penalty", [0.5]),
    (CHAT, "truncate_prompt_tokens", [5, -1]),
    (CHAT, "chat_template", ["{{ messages }}"]),
    (CHAT, "chat_template_kwargs", [{"enable_thinking": False}]),
    (CHAT, "enable_thinking", [False, True]),
    (CHAT, "documents", [[{"text": "a"}]]),
    (CHAT, "add_generation_prompt", [False]),
    (CHAT, "continue_final_message", [True]),
    (CHAT, "echo", [True]),
    (CHAT, "response_prefix", ["So"]),
    (CHAT, "typical_p", [0.9]),
    (CHAT, "xtc_probability", [0.1]),
    (CHAT, "transforms", [["middle-out"]]),
    (CHAT, "plugins", [[{"id": "web"}]]),
    (CHAT, "thinking_token_budget", [5]),
    (CHAT, "repetition_detection", [{}]),
    (CHAT, "structured_outputs", [{"json": {}}, {}]),
    (CHAT, "guided_json", [{}]),
    (CHAT, "web_search_options", [{}]),
    (CHAT, "response_format", [{"type": "json_object"}, SCHEMA, {"type": []}]),
    (CHAT, "a_field_of_next_year", [1, True, False, "x", {}, {"a": 1}]),
    (RESPONSES, "max_output_tokens", [0, True, 1.0]),
    (RESPONSES, "seed", [1]),
    (RESPONSES, "text", [{"format": SCHEMA}, {"format": "json"}, {"style": "terse"}, 5]),
    (RESPONSES, "truncation", ["auto"]),
    (RESPONSES, "context_management", [[{"type": "compaction"}]]),
    (RESPONSES, "background", [True]),
    (MESSAGES, "max_tokens", [0, True, 1.0, None]),
    (MESSAGES, "output_config", [{"format": SCHEMA}, {"task_budget": {"total": 9}}, "low"]),
    (
        MESSAGES,
        "context_management",
        [
            {"edits": [{"type": "clear_tool_uses_20250919"}]},
            {"edits": [{"type": "clear_thinking_20251015"}, {"type": "compact_20260112"}]},
            {"edits": "all"},
        ],
    ),
    (MESSAGES, "container", ["c", {"skills": []}]),
    (MESSAGES, "compaction", [{"type": "summarize"}, {}]),
    (MESSAGES, "mcp_servers", [[{"url": "http://x"}]]),
    (MESSAGES, "thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "m"}, {}]),
]

WISHES: list[tuple[str, str, list[Any]]] = [
    (CHAT, "temperature", [0, 0.7, 2]),
    (CHAT, "top_p", [0.9]),
    (CHAT, "top_k", [5]),
    (CHAT, "presence_penalty", [0.1]),
    (CHAT, "repetition_penalty", [1.1]),
    (CHAT, "logit_bias", [{"5": 1}]),
    (CHAT, "bad_words", [["no"]]),
    (CHAT, "guided_json", [{"type": "object"}]),
    (CHAT, "response_format", [{"type": "json_object"}, SCHEMA]),
    (CHAT, "tool_choice", ["required", {"type": "function", "function": {"name": "weather"}}]),
    (CHAT, "parallel_tool_calls", [False]),
    (RESPONSES, "temperature", [0]),
    (RESPONSES, "text", [{"format": SCHEMA, "verbosity": "low"}]),
    (RESPONSES, "tool_choice", ["required", {"type": "function", "name": "weather"}]),
    (MESSAGES, "top_k", [5]),
    (MESSAGES, "output_config", [{"format": SCHEMA, "effort": "low"}]),
    (MESSAGES, "tool_choice", [{"type": "any"}, {"type": "tool", "name": "weather"}]),
]
"""What asks for another distribution over responses, and for nothing else."""

TOOLS: dict[str, Any] = {
    CHAT: WEATHER,
    RESPONSES: {"type": "function", **WEATHER["function"]},
    MESSAGES: {"name": "weather", "input_schema": {"type": "object"}},
}

NO_WISHES: list[tuple[str, str, list[Any]]] = [
    (CHAT, "temperature", ["0.5", True, [1], {}]),
    (CHAT, "top_p", ["0.9", False]),
    (CHAT, "response_format", ["json", {"type": []}, 5]),
    (
        CHAT,
        "tool_choice",
        ["sometimes", 5, {"type": "web_search"}, {"type": "function", "function": {"name": "x"}}],
    ),
    (CHAT, "top_logprobs", [3]),
    (CHAT, "truncate_prompt_tokens", [5]),
    (CHAT, "chat_template_kwargs", [{"enable_thinking": False}]),
    (CHAT, "documents", [[{"text": "a"}]]),
    (CHAT, "continue_final_message", [True]),
    (CHAT, "functions", [[{"name": "weather"}]]),
    (CHAT, "a_field_of_next_year", [1]),
    (RESPONSES, "conversation", ["c"]),
    (RESPONSES, "truncation", ["auto"]),
    (MESSAGES, "thread", [{"type": "create"}]),
    (MESSAGES, "container", ["c"]),
    (MESSAGES, "context_management", [{"edits": [{"type": "clear_tool_uses_20250919"}]}]),
]
"""Near misses: what is malformed, has to be in the response, or is of what the model sees."""

HARMLESS: list[tuple[str, dict[str, Any]]] = [
    (CHAT, dict.fromkeys(name for path, name, _ in REFUSED if path == CHAT)),
    (RESPONSES, dict.fromkeys(name for path, name, _ in REFUSED if path == RESPONSES)),
    (MESSAGES, dict.fromkeys(n for path, n, _ in REFUSED if path == MESSAGES and n != "max_tokens")),
    (
        CHAT,
        {
            "temperature": 1, "top_p": 1.0, "top_k": -1, "n": 1, "seed": 0, "max_tokens": 10**30, "stop": [],
            "frequency_penalty": 0.0, "logit_bias": {}, "bad_words": [], "documents": [], "transforms": [],
            "use_beam_search": False, "length_penalty": 1.0, "echo": False, "add_generation_prompt": True,
            "typical_p": 1, "xtc_probability": 0, "response_prefix": "", "skip_special_tokens": True,
        },
    ),
    (
        CHAT,
        {
            "store": True, "metadata": {"a": "b"}, "user": "u", "reasoning_effort": "low", "verbosity": "low",
            "service_tier": "auto", "prompt_cache_key": "k", "safety_identifier": "s", "prediction": {},
            "stream_options": {"include_usage": True}, "seed": 2**63 - 1, "provider": {"order": ["x"]},
            "usage": {"include": True}, "return_token_ids": True, "priority": 3, "cache_salt": "s",
        },
    ),
    (
        RESPONSES,
        {
            "store": False, "reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"],
            "text": {"format": {"type": "text"}, "verbosity": "low"}, "client_metadata": {"a": "b"},
            "truncation": "disabled", "parallel_tool_calls": True, "max_tool_calls": 3,
            "stream_options": {"include_obfuscation": False},
        },
    ),
    (
        MESSAGES,
        {
            "thinking": {"type": "adaptive"}, "metadata": {"user_id": "u"}, "service_tier": "auto",
            "output_config": {"effort": "high", "format": None}, "cache_control": {"type": "ephemeral"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "diagnostics": {"previous_message_id": None}, "speed": "fast", "inference_geo": "eu",
        },
    ),
]  # fmt: skip


def client(at: Endpoint) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {at.api_key}", "content-type": "application/json"}
    return httpx.AsyncClient(base_url=at.base_url, headers=headers, trust_env=False)


async def post(http: httpx.AsyncClient, path: str, body: Any) -> httpx.Response:
    return await http.post(path, content=json.dumps(body))  # which writes NaN, as some clients do


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server() -> AsyncIterator[EndpointServer]:
    made = EndpointServer(texts, 1.0)
    yield made
    await made.close()


async def test_each_field_is_obeyed_known_to_be_harmless_or_refused_by_its_name():
    async with served(settings="refuse") as (model, at), client(at) as http:
        for path, name, values in REFUSED:
            for value in values:
                response = await post(http, path, {**BODIES[path], name: value})
                assert response.status_code == 400, (path, name, value)
                assert name in response.json()["error"]["message"], response.text
        assert model.asked == []
        for path, fields in HARMLESS:
            response = await post(http, path, {**BODIES[path], **fields})
            assert response.status_code == 200, response.text


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "arguments", ["[1]", "5", "null", '"x"', "{", "NaN", '{"x": "\\ud800"}', "[" * 99_999]
)
async def test_arguments_that_are_no_object_are_refused_whatever_the_template(
    server: EndpointServer, which: int, arguments: str
):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    model = Recorder(Says([]), FUZZED[which], Sampling(9), 5000, server)
    async with model.endpoint(100) as at, client(at) as http:
        response = await post(http, CHAT, {"model": "m", "messages": [*USER, said, *USER]})
        assert response.status_code == 400
        assert "a tool call needs a function with a name and JSON arguments" in response.text
        assert len(response.text) < 1000
        call["function"]["arguments"] = '{"x": [1, "\n"]}'
        assert (await post(http, CHAT, {"model": "m", "messages": [*USER, said, *USER]})).status_code == 200


async def test_a_long_value_is_not_all_of_its_refusal():
    async with served() as (_, at), client(at) as http:
        response = await post(http, CHAT, {**BODIES[CHAT], "documents": [{"text": "x" * 100_000}]})
        assert len(response.text) < 1000


async def test_several_responses_with_a_seed_are_several_samples_and_the_same_when_asked_again():
    async with served() as (model, at), client(at) as http:
        for seed, count in ((3, 4), (3, 4), (3, 1), (None, 2), (4, 2)):
            await post(http, CHAT, {**BODIES[CHAT], "seed": seed, "n": count})
        await post(http, CHAT, {**BODIES[CHAT], "random_seed": 3})  # as Mistral calls it
    assert model.asked.pop()[2].seed == 3
    seeds = [limits.seed for _, _, limits in model.asked]
    first, again, one, none, other = seeds[:4], seeds[4:8], seeds[8:9], seeds[9:11], seeds[11:]
    assert first == again
    assert len(set(first)) == 4
    assert one == first[:1] == [3], "the first is the one that is had alone"
    assert none == [None, None]
    assert not set(other) & set(first)
    assert all(0 <= seed < 2**63 for seed in first)


async def test_the_first_refusal_of_each_kind_is_logged_and_each_is_counted(caplog: pytest.LogCaptureFixture):
    async with served(settings="refuse") as (model, at), client(at) as http:
        http.headers["user-agent"] = "framework/1.0"
        with caplog.at_level(logging.WARNING, "areal"):
            for change in ({"temperature": 0}, {"temperature": 0.1}, {"top_p": 0.9}, {}):
                await post(http, CHAT, {**BODIES[CHAT], **change})
            for number in (1, 2):
                await post(http, CHAT, {**BODIES[CHAT], "messages": [*USER * number, {"role": "x"}]})
            await http.get("/engines/m")
            await http.get("/models", headers={"authorization": "Bearer x"})
        assert model.server.refusals.count == 7
        logged = [record.getMessage() for record in caplog.records]
        assert len(logged) == 5
        assert "temperature=0 differs from the temperature of the run" in logged[0]
        assert logged[0].endswith("(400) to /v1/chat/completions by framework/1.0")
        assert at.account.asked == 6
        assert (at.account.refused, at.account.completions) == (5, 1)
        assert at.account.summary().startswith(
            "sent 6 requests to the model, 5 of them refused: temperature=0 differs"
        )


async def test_a_wish_is_ignored_by_name_and_nothing_else_is(caplog: pytest.LogCaptureFixture):
    """The model is asked as if the wish were not there; each kind of wish is logged once."""
    with caplog.at_level(logging.WARNING, "areal"):
        async with served() as (model, at), client(at) as http:
            count = 0
            for path, name, values in WISHES:
                body = {**BODIES[path], **({"tools": [TOOLS[path]]} if name == "tool_choice" else {})}
                plain = await post(http, path, body)
                for value in values:
                    wished = await post(http, path, {**body, name: value})
                    assert wished.status_code == plain.status_code == 200, wished.text
                    assert model.asked[-1] == model.asked[-2]
                    count += 1
            assert model.server.refusals.ignored == count
            assert model.server.refusals.count == 0
            logged = [record.getMessage() for record in caplog.records]
            assert len(logged) == len(WISHES), "once for each name and path"
            assert logged[0].startswith("ignored temperature=0")
            asked = len(model.asked)
            for path, name, values in NO_WISHES:
                for value in values:
                    refused = await post(http, path, {**BODIES[path], name: value})
                    assert refused.status_code == 400, (path, name, value)
            assert len(model.asked) == asked
            assert model.server.refusals.ignored == count
        async with served(settings="refuse") as (model, at), client(at) as http:
            for path, name, values in WISHES:
                for value in values:
                    assert (await post(http, path, {**BODIES[path], name: value})).status_code == 400
            assert (model.asked, model.server.refusals.ignored) == ([], 0)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(2**63), 10**40])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        ["user", "assistant", "tool", "text", "function", "tool_use", "auto", "tool_result", "message"]
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


MISSING = object()


def shaped(**parts: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of which each part is mostly right, or else missing, or anything."""
    odd = st.integers(0, 19)
    parts = {name: odd.flatmap(partial(_right_or_not, part)) for name, part in parts.items()}
    return st.fixed_dictionaries(parts).map(lambda made: {n: v for n, v in made.items() if v is not MISSING})


def _right_or_not(part: Any, number: int) -> Any:
    return {1: ANYTHING, 2: st.just(MISSING)}.get(number, part)


def perhaps(**parts: Any) -> dict[str, Any]:
    """Parts that are missing mostly."""
    return {name: st.integers(0, 3).flatmap(partial(_rarely, part)) for name, part in parts.items()}


def _rarely(part: Any, number: int) -> Any:
    return part if number == 1 else st.just(MISSING)


WORDS = st.sampled_from(["Hello?", "", "\ud7ff\u0000"])
ODD = ["{}", "[1]", "5", "null", '{"x": "\\ud800"}', "[" * 9999, "NaN", "{"]
SAID = st.sampled_from(['{"x": 1}'] * 20 + ODD)
NAME = st.just("f")
SCHEMA_OF = shaped(type=st.just("object"), properties=shaped(x=shaped(type=st.just("integer"))))
TEXT = shaped(type=st.sampled_from(["text", "text", "input_text", "image"]), text=WORDS)
CONTENT = WORDS | st.lists(TEXT, max_size=2)
CALL = shaped(id=WORDS, type=st.just("function"), function=shaped(name=NAME, arguments=SAID))
USE = shaped(type=st.just("tool_use"), id=WORDS, name=NAME, input=shaped(x=st.integers()))
RESULT = shaped(type=st.just("tool_result"), tool_use_id=WORDS, content=CONTENT)
FUNCTION = {"name": NAME, "description": WORDS}
CHAT_FUNCTION = shaped(**FUNCTION, parameters=SCHEMA_OF)
ROLES = st.sampled_from(["system", "user", "assistant", "developer"])
SPOKEN = shaped(role=ROLES, content=CONTENT, **perhaps(name=WORDS))
CALLED = shaped(role=st.just("assistant"), content=CONTENT, tool_calls=st.lists(CALL, max_size=2))
ANSWERED = shaped(role=st.just("tool"), tool_call_id=WORDS, content=CONTENT)
ITEMS = shaped(type=st.just("function_call"), call_id=WORDS, name=NAME, arguments=SAID) | shaped(
    type=st.just("function_call_output"), call_id=WORDS, output=CONTENT
)
BLOCKS = shaped(
    role=st.sampled_from(["user", "assistant"]), content=st.lists(TEXT | USE | RESULT, max_size=3)
)
LAST = USER[0]
COMMON = perhaps(
    tool_choice=st.just("auto"), metadata=st.just({}), stream=st.booleans(), temperature=st.just(1)
)


def ended(messages: Any) -> Any:
    """Histories that end with the user's word."""
    return st.lists(messages, max_size=2).map(lambda made: [*made, LAST])


REQUESTS = {
    CHAT: shaped(
        messages=ended(SPOKEN | CALLED | ANSWERED),
        **COMMON,
        **perhaps(
            tools=st.lists(shaped(type=st.just("function"), function=CHAT_FUNCTION)),
            n=st.integers(1, 3), max_tokens=st.integers(1, 9), stop=st.lists(st.just("x"), max_size=2),
            seed=st.integers(0, 9), logprobs=st.booleans(), response_format=st.just({"type": "text"}),
            stream_options=shaped(include_usage=st.booleans()),
        ),
    ),
    RESPONSES: shaped(
        input=WORDS | ended(SPOKEN | ITEMS),
        **COMMON,
        **perhaps(
            tools=st.lists(shaped(type=st.just("function"), **FUNCTION, parameters=SCHEMA_OF)),
            instructions=WORDS, include=st.lists(st.just("message.output_text.logprobs")),
            text=st.just({"format": {"type": "text"}}), max_output_tokens=st.integers(1, 9),
        ),
    ),
    "/completions": shaped(
        prompt=WORDS | st.lists(WORDS, max_size=2),
        **COMMON,
        **perhaps(
            n=st.integers(1, 3), max_tokens=st.integers(1, 9), stop=st.lists(st.just("x"), max_size=2),
            seed=st.integers(0, 9), logprobs=st.integers(0, 2), echo=st.booleans(),
        ),
    ),
    MESSAGES: shaped(
        messages=ended(SPOKEN | BLOCKS),
        **{**COMMON, **perhaps(tool_choice=st.just({"type": "auto"}))},
        **perhaps(
            tools=st.lists(shaped(**FUNCTION, input_schema=SCHEMA_OF)), system=CONTENT,
            stop_sequences=st.lists(st.just("x"), max_size=2), output_config=st.just({"effort": "low"}),
        ),
    ),
}  # fmt: skip

CALLS = tokenizer("qwen2.5").encode('<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>')


class Says(Engine):
    """Says the same to all."""

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        assert ids, "an engine has nothing to say to nothing"
        return Completion(CALLS, [-1.0] * len(CALLS), [0] * len(CALLS), "eos")


def without_template() -> Renderer:
    made = tokenizer("qwen2.5")
    made.chat_template = None
    return Renderer(made, (made.eos_token_id,))


FUZZED = [renderer("qwen2.5"), renderer("llama3"), without_template()]


@pytest.mark.parametrize("kind", [["text"], {"a": 1}, 3, True])
@pytest.mark.parametrize("path", ["/chat/completions", "/messages", "/responses"])
async def test_a_part_whose_type_is_no_string_is_refused(server: EndpointServer, path: str, kind: Any):
    said = [{"role": "user", "content": [{"type": kind, "text": "Hello?"}]}]
    body = {"model": "m", "input": said} if path == "/responses" else {"model": "m", "messages": said}
    body |= {"max_tokens": 9} if path == "/messages" else {}
    model = Recorder(Says([]), FUZZED[0], Sampling(9), 5000, server)
    async with model.endpoint(100) as at, client(at) as http:
        response = await http.post(path, json=body)
    assert response.status_code == 400
    assert "parts of type" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", REQUESTS)
@given(data=st.data(), which=st.integers(0, 2))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
async def test_no_request_ends_in_a_defect(
    server: EndpointServer, path: str, data: st.DataObject, which: int
):
    """Whatever is asked is answered, or refused as the protocol has it; and the episode goes on."""
    least = BODIES.get(path, {"model": "m", "prompt": "Hello?"})
    body = data.draw(REQUESTS[path].map(lambda made: {**least, **made}) | ANYTHING)
    model = Recorder(Says([]), FUZZED[which], Sampling(9), 5000, server)
    async with model.endpoint(100) as at, client(at) as http:
        response = await http.post(path, content=json.dumps(body).encode("utf-8", "surrogatepass"))
        assert response.status_code in (200, 400), (body, response.text)
        if response.status_code == 400:
            assert response.json()["error"]["message"]
        assert (await post(http, path, least)).status_code == 200
