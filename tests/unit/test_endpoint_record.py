"""What is recorded of calls over HTTP when some are given up or made again: what was sampled, once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.models import load_tokenizer, resolve_model
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Completion, Sampling
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer, eos_ids

TOKENIZER = load_tokenizer(resolve_model("starter"))
RENDERER = Renderer(TOKENIZER, eos_ids(TOKENIZER))


class Engine:
    """Answers with ids that no other response has; hangs where it is told to."""

    version, busy_seconds = 0, 0.0

    def __init__(self) -> None:
        self.responses = 0
        self.hang: set[str] = set()
        self.hung: set[str] = set()
        self.prompts: dict[tuple[int, ...], list[int]] = {}

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        last = next((word for word in self.hang if word in TOKENIZER.decode(ids[-40:])), None)
        if last is not None:
            self.hung.add(last)
            await asyncio.sleep(60)
        self.responses = number = self.responses + 1
        response = TOKENIZER.encode(f"{number:05d}", add_special_tokens=False)
        await asyncio.sleep(0.001 * (number % 3))
        self.prompts[tuple(response)] = ids
        return Completion(response, [-float(number)] * len(response), [number] * len(response), "eos")


@dataclass(frozen=True)
class Step:
    """One call: from which earlier response it goes on, by which protocol, and what goes wrong with it."""

    of: int
    protocol: str
    trouble: str


STEPS = st.lists(
    st.builds(
        Step,
        st.integers(0, 9),
        st.sampled_from(["chat", "responses", "messages"]),
        # One in ten is given up by the client, one in ten is asked for again though it was answered.
        st.sampled_from(["none"] * 8 + ["cancelled", "retried"]),
    ),
    min_size=1,
    max_size=12,
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server() -> AsyncIterator[EndpointServer]:
    made = EndpointServer(lambda ids: [str(i) for i in ids], 1.0)
    yield made
    await made.close()


def request(protocol: str, messages: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    if protocol == "chat":
        return "/chat/completions", {"model": "m", "messages": messages}
    if protocol == "responses":
        return "/responses", {"model": "m", "input": messages}
    return "/messages", {"model": "m", "max_tokens": 64, "messages": messages}


def text(protocol: str, body: dict[str, Any]) -> str:
    if protocol == "chat":
        return body["choices"][0]["message"]["content"]
    if protocol == "responses":
        return body["output"][0]["content"][0]["text"]
    return body["content"][0]["text"]


class Program:
    """Runs steps; ``histories`` are those that it has a response to, ``responses`` the responses."""

    def __init__(self, engine: Engine, http: httpx.AsyncClient) -> None:
        self.engine = engine
        self.http = http
        self.histories: list[list[dict[str, Any]]] = [[]]
        self.responses: list[str] = []

    async def call(self, number: int, step: Step) -> None:
        word = f"question {number:03d}."
        history = [*self.histories[step.of % len(self.histories)], {"role": "user", "content": word}]
        path, body = request(step.protocol, history)
        if step.trouble == "cancelled":
            self.engine.hang.add(word)
            calling = asyncio.create_task(self.http.post(path, json=body))
            while word not in self.engine.hung:  # noqa: ASYNC110 (the engine is in other code)
                await asyncio.sleep(0.001)
            calling.cancel()
            await asyncio.wait({calling})
            self.engine.hang.discard(word)
            # The SDK tries again, at once or when ours has noticed: it is one response either way.
            response = await self.http.post(path, json=body, headers={"x-stainless-retry-count": "1"})
        else:
            response = await self.http.post(path, json=body)
        if step.trouble == "retried":
            again = await self.http.post(path, json=body, headers={"x-stainless-retry-count": "1"})
            assert again.json() == response.json()
        said = text(step.protocol, response.json())
        self.responses.append(said)
        self.histories.append([*history, {"role": "assistant", "content": said}])


@given(steps=STEPS, together=st.integers(1, 4))
@settings(max_examples=30)
async def test_each_response_is_recorded_once_behind_its_prompt(
    server: EndpointServer, steps: list[Step], together: int
):
    engine: Any = Engine()
    recorder = Recorder(engine, RENDERER, Sampling(64), 2000, server)
    async with (
        recorder.endpoint(1000) as at,
        httpx.AsyncClient(base_url=at.base_url, headers={"x-api-key": at.api_key}, trust_env=False) as http,
    ):
        program = Program(engine, http)
        for first in range(0, len(steps), together):
            calls = enumerate(steps[first : first + together], first)
            await asyncio.gather(*(program.call(number, step) for number, step in calls))
    recorded = []
    for trajectory in recorder.trajectories():
        runs = [*trajectory.turns, len(trajectory.tokens)]
        for begin, end in itertools.pairwise(runs):
            sampled = trajectory.loss_mask[begin:end]
            length = int(sampled.sum())
            assert sampled[:length].all(), "a response is one run of sampled tokens"
            ids = trajectory.tokens[begin : begin + length].tolist()
            said = TOKENIZER.decode(ids)
            recorded.append(said)
            assert trajectory.logprobs[begin : begin + length].tolist() == [-float(said)] * length
            assert trajectory.versions[begin : begin + length].tolist() == [int(said)] * length
            assert trajectory.tokens[:begin].tolist() == engine.prompts[tuple(ids)]
        assert trajectory.loss_mask.sum() == sum(
            len(TOKENIZER.encode(said, add_special_tokens=False))
            for said in recorded[-len(trajectory.turns) :]
        )
    assert sorted(recorded) == sorted(program.responses)
