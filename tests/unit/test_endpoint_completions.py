"""OpenAI's Completions: texts go to the model as they are, and go on from the tokens that were sampled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from chat import Scripted as Engine
from chat import tokenizer

from areal.agents.interface import Endpoint
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Sampling
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer


class Served:
    """A recorder of scripted responses at an address, with OpenAI's client."""

    def __init__(self, at: Endpoint, model: Recorder, engine: Engine, made: Any) -> None:
        self.at, self.model, self.engine, self.made = at, model, engine, made
        self.sdk = openai.AsyncOpenAI(base_url=at.base_url, api_key=at.api_key, max_retries=0)

    def say(self, text: str, ended: bool = False) -> None:
        ids = self.made.encode(text, add_special_tokens=False)
        self.engine.responses.append([*ids, self.made.eos_token_id] if ended else ids)

    async def complete(self, prompt: Any, **more: Any) -> Any:
        return await self.sdk.completions.create(model="m", prompt=prompt, **more)

    @property
    def asked(self) -> list[str]:
        return [self.made.decode(ids) for ids in self.engine.asked]

    @property
    def turns(self) -> list[int]:
        return [len(trajectory.turns) for trajectory in self.model.trajectories()]


@asynccontextmanager
async def recorded(finish: Any = "stop", template: bool = True) -> AsyncIterator[Served]:
    made = tokenizer("qwen2.5")
    if not template:
        made.chat_template = None
    engine = Engine([], finish)
    server = EndpointServer(lambda ids: [made.decode([i]) for i in ids], 1.0)
    model = Recorder(engine, Renderer(made, (made.eos_token_id,)), Sampling(99), 200, server)
    try:
        async with model.endpoint(99) as at:
            served = Served(at, model, engine, made)
            async with served.sdk:
                yield served
    finally:
        await server.close()


@pytest.mark.parametrize("template", [True, False])
async def test_a_text_is_asked_as_it_is(template: bool):
    async with recorded("eos", template) as on:
        on.say(" 4", ended=True)
        response = await on.complete("2 + 2 =", max_tokens=5, stop="\n", seed=3, logprobs=1)
        choice = response.choices[0]
        assert (choice.text, choice.finish_reason) == (" 4", "stop")
        assert on.asked == ["2 + 2 ="]
        assert on.engine.samplings == [Sampling(5, stop=("\n",), seed=3)]
        assert choice.logprobs.tokens == [" ", "4", "<|im_end|>"]
        assert choice.logprobs.text_offset == [7, 8, 9]
        assert choice.logprobs.token_logprobs == on.engine.said[0].logprobs
        assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (7, 3)
        on.say(" 5", ended=True)
        on.say(" 6", ended=True)
        several = await on.complete(["2 + 2 ="], n=2)
        assert sorted(choice.text for choice in several.choices) == [" 5", " 6"]
        on.say(" 7", ended=True)
        streamed = await on.complete("2 + 2 =", stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in streamed]
        assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == " 7"
        assert [c.finish_reason for chunk in chunks for c in chunk.choices] == [None, "stop"]
        assert chunks[-1].usage.completion_tokens == 3
        assert on.turns == [1, 1, 1, 1]


async def test_a_text_that_goes_on_from_a_response_is_its_next_turn():
    """As programs do that write down what the model does: the stop string is where they go on."""
    async with recorded() as on:
        text = "Question: ab\n"
        for turn, said in enumerate(("Thought: aba\nObservation:", "Thought: the\nObservation:", "12\n")):
            on.say(said)
            stop = "\nObservation:" if turn < 2 else "\n"
            response = await on.complete(text, stop=[stop])
            assert response.choices[0].text == said.removesuffix(stop)
            text += f"{response.choices[0].text}{stop} {turn}\n"
        assert on.turns == [3]
        (trajectory,) = on.model.trajectories()
        ids = trajectory.tokens.tolist()
        for asked, said, start in zip(on.engine.asked, on.engine.said, trajectory.turns, strict=True):
            assert ids[:start] == asked
            assert ids[start : start + len(said.ids)] == said.ids
        assert on.asked[2] == "Question: ab\nThought: aba\nObservation: 0\nThought: the\nObservation: 1\n"


async def test_what_begins_another_trajectory():
    async with recorded() as on:
        on.say("aba\n")
        await on.complete("Q: ", stop="\n")
        for prompt, turns in (
            ("Q: aba", [1, 1]),  # without the stop string that was sampled
            ("Q: abb\nmore", [1, 1, 1]),
            ("Q: ", [1, 1, 1, 1]),
            ("Q: aba\nmore", [2, 1, 1, 1]),
            ("Q: aba\nother", [2, 1, 1, 1, 1]),  # a branch
        ):
            on.say("the")
            await on.complete(prompt)
            assert on.turns == turns, prompt
            assert on.asked[-1] == prompt
        branch = on.model.trajectories()[-1]
        assert branch.loss_mask.sum() == len(on.engine.said[-1].ids), "what is shared is trained on once"
    async with recorded("eos") as on:
        on.say("aba", ended=True)
        on.say("the", ended=True)
        await on.complete("Q: ")
        await on.complete("Q: aba and")
        assert on.turns == [1, 1], "the text has no end of a turn within"
        assert on.asked[-1] == "Q: aba and"


async def test_a_response_that_a_limit_ended_goes_on_at_once():
    async with recorded("length") as on:
        on.say("aba")
        on.say("the")
        first = (await on.complete("Q: ")).choices[0]
        assert first.finish_reason == "length"
        await on.complete(f"Q: {first.text}")
        assert on.turns == [2]


async def test_a_prompt_that_cannot_be_had_is_refused():
    async with (
        recorded() as on,
        httpx.AsyncClient(
            base_url=on.at.base_url, headers={"x-api-key": on.at.api_key}, trust_env=False
        ) as http,
    ):
        for change, found in (
            ({"prompt": ""}, "the prompt is empty"),
            ({"prompt": None}, "prompt: give one string"),
            ({"prompt": ["a", "b"]}, "prompt: give one string"),
            ({"prompt": [1, 2]}, "prompt: give one string"),
            ({"prompt": "a" * 300}, "rollout.max_model_len"),
            ({"echo": True}, "echo"),
            ({"suffix": "b"}, "suffix"),
            ({"logprobs": 5}, "logprobs"),
            ({"add_special_tokens": False}, "add_special_tokens"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"tools": [{"type": "function"}]}, "/v1/chat/completions"),
        ):
            response = await http.post("/completions", json={"model": "m", "prompt": "a", **change})
            assert response.status_code == 400, change
            assert found in response.json()["error"]["message"]
        assert on.engine.asked == []
        on.say("a")
        wishes = {"temperature": 0, "best_of": 3, "echo": False, "logit_bias": {}}
        response = await http.post("/completions", json={"model": "m", "prompt": "a", **wishes})
        assert response.status_code == 200
