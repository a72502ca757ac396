"""Stop strings of single calls: what was cut off comes back at its own place, and nowhere else."""

from __future__ import annotations

from typing import Any

import httpx
from chat import Scripted as Engine
from chat import renderer, tokenizer
from endpoints import WEATHER, Scripted, served

from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Sampling
from areal.rollout.recorder import Recorder

A: Any = {"role": "user", "content": "One?"}
B: Any = {"role": "user", "content": "Two?"}


def assistant(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


class Client:
    """A program's calls; ``prompt`` is what the model was asked last."""

    def __init__(self, model: Scripted, http: httpx.AsyncClient) -> None:
        self.model = model
        self.http = http

    async def chat(self, text: str, *messages: Any, **more: Any) -> dict[str, Any]:
        self.model.text = text
        body = {"model": "m", "messages": list(messages), **more}
        response = await self.http.post("/chat/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["message"]

    @property
    def prompt(self) -> list[Any]:
        return [message["content"] for message in self.model.asked[-1][0]]


async def converse(steps: Any) -> None:
    async with served() as (model, at):
        headers = {"x-api-key": at.api_key}
        async with httpx.AsyncClient(base_url=at.base_url, headers=headers, trust_env=False) as http:
            await steps(Client(model, http))


async def test_the_same_words_in_two_conversations_are_each_restored_to_their_own():
    async def steps(to: Client) -> None:
        first = await to.chat("Yes\nNo", A, stop=["\n"])
        second = await to.chat("Yes END", B, stop=[" END"])
        third = await to.chat("Yes", A, A)
        assert first["content"] == second["content"] == third["content"] == "Yes"
        await to.chat("", A, first, A)
        assert to.prompt == ["One?", "Yes\nNo", "One?"]
        await to.chat("", B, second, A)
        assert to.prompt == ["Two?", "Yes END", "One?"]
        await to.chat("", A, A, third, A)
        assert to.prompt == ["One?", "One?", "Yes", "One?"]

    await converse(steps)


async def test_words_of_the_program_s_own_stay_as_they_are():
    async def steps(to: Client) -> None:
        await to.chat("Thought: 4\nObservation: 5", A, stop=["\nObservation:"])
        await to.chat("", B, assistant("Thought: 4"), B)
        assert to.prompt == ["Two?", "Thought: 4", "Two?"]
        await to.chat("", A, B, assistant("Thought: 4"), B)
        assert to.prompt == ["One?", "Two?", "Thought: 4", "Two?"]
        await to.chat("", A, {"role": "user", "content": "Thought: 4"})
        assert to.prompt == ["One?", "Thought: 4"]
        await to.chat("", A, assistant("Thought: 5"), A)
        assert to.prompt == ["One?", "Thought: 5", "One?"]

    await converse(steps)


async def test_a_response_that_begins_with_its_stop_string_is_no_other_one_s():
    async def steps(to: Client) -> None:
        empty = await to.chat("STOP", A, stop=["STOP"])
        assert empty["content"] == ""
        called = await to.chat("", B, tools=[WEATHER])
        called["content"] = None
        result = {"role": "tool", "tool_call_id": called["tool_calls"][0]["id"], "content": "fine"}
        await to.chat("", B, called, result, tools=[WEATHER])
        assert to.prompt == ["Two?", "I look.", "fine"]
        await to.chat("", A, called, result, tools=[WEATHER])
        assert to.prompt == ["One?", "I look.", "fine"]
        await to.chat("", A, empty, A)
        assert to.prompt == ["One?", "STOP", "One?"]

    await converse(steps)


async def test_cut_responses_one_after_the_other_and_however_they_are_sent_back():
    async def steps(to: Client) -> None:
        history: list[Any] = [A]
        for turn in range(3):
            history.append(await to.chat(f" turn {turn} \nEND", *history, stop=["\nEND"]))
            history.append(B)
        await to.chat("", *history)
        assert to.prompt[1::2] == [" turn 0 \nEND", " turn 1 \nEND", " turn 2 \nEND"]
        parts = [assistant([{"type": "text", "text": m["content"].strip()}]) if i % 2 else m  # type: ignore[arg-type]
                 for i, m in enumerate(history)]  # fmt: skip
        await to.chat("", *parts)
        assert to.prompt[1::2] == [" turn 0 \nEND", " turn 1 \nEND", " turn 2 \nEND"]
        whole = [A, assistant(" turn 0 \nEND"), *history[2:]]
        await to.chat("", *whole)
        assert to.prompt[1::2] == [" turn 0 \nEND", " turn 1 \nEND", " turn 2 \nEND"]
        # Said again at the same place, to its own end: the later one is meant.
        await to.chat("turn 0", A)
        await to.chat("", *history[:3])
        assert to.prompt[1] == "turn 0"

    await converse(steps)


async def test_with_previous_response_id_whatever_the_instructions_are():
    async def steps(to: Client) -> None:
        await to.chat("Yes\nNo", A, stop=["\n"])
        to.model.text = "And so on."
        body: dict[str, Any] = {"model": "m", "input": [A, assistant("Yes"), B]}
        first = (await to.http.post("/responses", json=body)).json()
        assert to.prompt == ["One?", "Yes\nNo", "Two?"]
        body = {
            "model": "m",
            "input": "Why?",
            "previous_response_id": first["id"],
            "instructions": "Be brief.",
        }
        await to.http.post("/responses", json=body)
        assert to.prompt == ["Be brief.", "One?", "Yes\nNo", "Two?", "And so on.", "Why?"]

    await converse(steps)


async def test_recorded_conversations_go_on_from_the_tokens_that_were_sampled():
    """Two conversations whose responses look the same to the program are two trajectories of two turns."""
    made = tokenizer("qwen2.5")

    def ids(text: str, end: bool) -> list[int]:
        return [*made.encode(text, add_special_tokens=False), *([made.eos_token_id] if end else [])]

    engine = Engine([ids("Yes\n", False), ids("Yes END", False), ids("a", True), ids("b", True)], "stop")
    server = EndpointServer(lambda given: [], 1.0)
    model = Recorder(engine, renderer("qwen2.5"), Sampling(99), 9999, server)
    try:
        async with model.endpoint(9) as at:
            headers = {"x-api-key": at.api_key}
            async with httpx.AsyncClient(base_url=at.base_url, headers=headers, trust_env=False) as http:
                for messages, stop in (
                    ([A], ["\n"]),
                    ([B], [" END"]),
                    ([A, assistant("Yes"), B], []),
                    ([B, assistant("Yes"), A], []),
                ):
                    body = {"model": "m", "messages": messages, "stop": stop}
                    assert (await http.post("/chat/completions", json=body)).status_code == 200
    finally:
        await server.close()
    assert [len(t.turns) for t in model.trajectories()] == [2, 2]
    assert "Yes\n" in made.decode(engine.asked[2])
    assert "Yes END" in made.decode(engine.asked[3])
