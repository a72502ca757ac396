"""Tokens in, tokens out: what is trained on was sampled, also where calls are cancelled or repeated."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from typing import Any

import pytest
from chat import ENDS, Scripted, check, renderer, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.agents.interface import BadRequest, ConversationTooLong, Message, Reply, SamplingLimits
from areal.rollout.engine import GenerationAborted, Sampling
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer

TOKENIZERS = {name: tokenizer(name) for name in ENDS}
RENDERERS = {name: renderer(name) for name in ENDS}
TEMPLATES = st.sampled_from(sorted(ENDS))
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"llama3": '{"name": "look", "parameters": {"at": 12}}'}
BLOCK = '<tool_call>\n{"name": "look", "arguments": {"at": 12}}\n</tool_call>'
THOUGHT = "<think>\nthe aba\n</think>\n\n"
WORDS = st.text("ab the\n12<>", max_size=12)


def recorder(template: str, engine: Scripted, longest: int = 100_000) -> Recorder:
    return Recorder(engine, RENDERERS[template], Sampling(1000), longest)


def call_text(template: str) -> str:
    return CALL.get(template, BLOCK)


def encoded(template: str, text: str, ended: bool = True) -> list[int]:
    ids = TOKENIZERS[template].encode(text, add_special_tokens=False)
    return [*ids, TOKENIZERS[template].eos_token_id] if ended or not ids else ids


@st.composite
def responses(draw: st.DrawFn, template: str) -> list[int]:
    """Any tokens, or words, thoughts and tool calls; ended or cut off."""
    size = len(TOKENIZERS[template])
    words = st.builds(
        lambda thought, text, call: thought * THOUGHT + text + call * call_text(template),
        st.booleans(), WORDS, st.booleans(),
    )  # fmt: skip
    if draw(st.booleans()):
        return draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=8))
    return encoded(template, draw(words), draw(st.booleans()))


def following(reply: Reply, words: str) -> list[Message]:
    """What a client says next: the results of tool calls, or something as the user."""
    calls = reply.message.get("tool_calls", ())
    results = [{"role": "tool", "tool_call_id": call["id"], "content": words} for call in calls]
    return results or [{"role": "user", "content": words}]


@settings(max_examples=150)
@given(st.data())
def test_every_response_is_trained_on_once_behind_its_own_prompt(data: st.DataObject):
    """Of all calls, a tenth are cancelled first, and a tenth are asked again although they were answered."""
    template = data.draw(TEMPLATES)
    script = data.draw(st.lists(st.tuples(responses(template), WORDS), min_size=1, max_size=6))
    with_tools = data.draw(st.booleans())
    chance = random.Random(data.draw(st.integers(0, 2**32)))

    async def converse() -> None:
        engine = Scripted([])
        model = recorder(template, engine)
        messages: list[Message] = [{"role": "user", "content": data.draw(WORDS)}]
        for ids, words in script:
            if chance.random() < 0.1:
                await cancelled(model, engine, messages)
            engine.responses.append(ids)
            reply = await model.chat(messages, tools=[TOOL] * with_tools)
            if chance.random() < 0.1:
                engine.responses.append(ids)
                reply = await model.chat(messages, tools=[TOOL] * with_tools)
                assert engine.asked[-1] == engine.asked[-2], "the same question"
            messages += [reply.message, *following(reply, words)]
        check(engine, model.trajectories(), set(range(len(engine.said))))

    asyncio.run(converse())


async def cancelled(model: Recorder, engine: Scripted, messages: list[Message]) -> None:
    before = [t.to_json() for t in model.trajectories()]
    engine.open.clear()
    call = asyncio.create_task(model.chat(messages))
    await asyncio.sleep(0)
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    engine.open.set()
    assert [t.to_json() for t in model.trajectories()] == before


@settings(max_examples=150)
@given(st.data())
def test_a_conversation_forks_exactly_where_its_template_rewrites_history(data: st.DataObject):
    """Qwen 3 drops thoughts as soon as the user speaks again, and keeps them while tools answer."""
    template = data.draw(TEMPLATES)
    turn = st.tuples(st.booleans(), st.booleans(), st.sampled_from(["aba", "the 12", "b\n\nb"]))
    script = data.draw(st.lists(turn, min_size=1, max_size=6))

    async def converse() -> None:
        engine = Scripted([])
        model = recorder(template, engine)
        messages: list[Message] = [{"role": "user", "content": "go"}]
        raw: list[Message] = list(messages)
        expected, thought_of = 1, False
        for thinks, calls, words in script:
            text = THOUGHT * thinks + (call_text(template) if calls else words)
            engine.responses.append(encoded(template, text))
            reply = await model.chat(messages, tools=[TOOL])
            assert reply.text == text
            assert (reply.finish == "tool_calls") == calls
            new = following(reply, words)
            messages += [reply.message, *new]
            raw += [{"role": "assistant", "content": text}, *new]
            assert TOKENIZERS[template].decode(engine.asked[-1]) == rendered(template, raw[: -1 - len(new)])
            thought_of |= thinks
            if template == "qwen3" and thought_of and new[0]["role"] == "user":
                expected, thought_of = expected + 1, False
        engine.responses.append(encoded(template, "end"))
        await model.chat(messages, tools=[TOOL])
        assert TOKENIZERS[template].decode(engine.asked[-1]) == rendered(template, raw)
        assert len(model.trajectories()) == expected
        check(engine, model.trajectories(), set(range(len(script) + 1)))

    asyncio.run(converse())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_thoughts_are_kept_where_that_is_asked_for(data: st.DataObject):
    """A conversation is one trajectory, and but for its thoughts what the template makes of it."""
    template = data.draw(TEMPLATES)
    turn = st.tuples(st.booleans(), st.booleans(), st.sampled_from(["aba", "the 12", "b\n\nb"]))
    script = data.draw(st.lists(turn, min_size=1, max_size=10))
    made = TOKENIZERS[template]
    keeping = Renderer(made, (made.eos_token_id,), keep_thoughts=True)

    async def converse() -> None:
        engine = Scripted([])
        model = Recorder(engine, keeping, Sampling(1000), 100_000)
        messages: list[Message] = [{"role": "user", "content": "go"}]
        raw: list[Message] = list(messages)
        said = 0
        for thinks, calls, words in [*script, (False, False, "end")]:
            text = THOUGHT * thinks + (call_text(template) if calls else words)
            engine.responses.append(encoded(template, text))
            reply = await model.chat(messages, tools=[TOOL])
            asked = made.decode(engine.asked[-1])
            assert asked.count(THOUGHT) == said, "all that it thought is still there"
            assert asked.replace(THOUGHT, "") == rendered(template, raw).replace(THOUGHT, "")
            said += thinks
            new = following(reply, words)
            messages += [reply.message, *new]
            raw += [{"role": "assistant", "content": text}, *new]
        assert len(model.trajectories()) == 1
        check(engine, model.trajectories(), set(range(len(script) + 1)))

    asyncio.run(converse())


OTHER = {**TOOL, "function": {**TOOL["function"], "name": "other"}}


@pytest.mark.parametrize("changed", ["tools", "history"])
async def test_what_was_changed_is_seen_where_thoughts_are_kept(changed: str):
    """Other tools, or a turn that the program has put in, with the very words of the response."""
    made = TOKENIZERS["qwen3"]
    keeping = Renderer(made, (made.eos_token_id,), keep_thoughts=True)
    engine = Scripted([encoded("qwen3", f"{THOUGHT}b"), encoded("qwen3", "end")])
    model = Recorder(engine, keeping, Sampling(1000), 100_000)
    first: Message = {"role": "user", "content": "go"}
    reply = await model.chat([first], tools=[TOOL])
    history = [first, reply.message]
    if changed == "history":
        history += [{"role": "user", "content": "put in"}, {"role": "assistant", "content": reply.text}]
    tools = [TOOL, OTHER] if changed == "tools" else [TOOL]
    await model.chat([*history, {"role": "user", "content": "on"}], tools=tools)
    asked = made.decode(engine.asked[-1])
    assert ('"other"' if changed == "tools" else "put in") in asked
    check(engine, model.trajectories(), {0, 1})


def rendered(template: str, messages: list[Message]) -> str:
    if template in ("starter", "chatml"):  # they know no tools
        described = json.dumps(TOOL["function"])
        text = (
            f"You may call these functions:\n{described}\n"
            'To call one, write <tool_call>{"name": NAME, "arguments": {…}}</tool_call>.'
        )
        messages = [{"role": "system", "content": text}, *messages]
    return TOKENIZERS[template].apply_chat_template(
        messages, tools=[TOOL], tokenize=False, add_generation_prompt=True
    )


@settings(max_examples=50)
@given(st.data())
def test_calls_at_once_are_branches_and_the_one_that_is_used_goes_on(data: st.DataObject):
    template = data.draw(TEMPLATES)
    first, used = data.draw(responses(template)), data.draw(st.integers(0, 2))

    async def converse() -> None:
        engine = Scripted([first])
        model = recorder(template, engine)
        messages: list[Message] = [{"role": "user", "content": "the question"}]
        reply = await model.chat(messages)
        messages += [reply.message, {"role": "user", "content": "again"}]
        engine.responses.extend(encoded(template, f"aba {i}") for i in range(3))
        replies = await asyncio.gather(*(model.chat(messages) for _ in range(3)))
        before = model.trajectories()
        engine.responses.append(encoded(template, "last"))
        await model.chat([*messages, replies[used].message, {"role": "user", "content": "and?"}])
        check(engine, model.trajectories(), set(range(5)))
        assert len(model.trajectories()) == len(before)
        answered = next(t for t in model.trajectories() if replies[used].logprobs[0] in t.logprobs.tolist())
        assert engine.said[-1].logprobs[0] in answered.logprobs.tolist()
        if "<think>" not in reply.text:
            assert len(before) == 3
            assert [len(t.turns) for t in before] == [2, 1, 1]

    asyncio.run(converse())


@pytest.mark.parametrize("template", sorted(ENDS))
async def test_a_turn_that_was_cut_off_is_ended_for_the_model(template: str):
    """With and without its end token a response leads to the same next prompt."""
    prompts = []
    for ended in (True, False):
        engine = Scripted([encoded(template, "aba", ended), encoded(template, "b")])
        model = recorder(template, engine)
        assert await model.generate("one") == "aba"
        await model.generate("two")
        prompts.append(engine.asked[-1])
        assert len(model.trajectories()) == 1
    assert prompts[0] == prompts[1]


async def test_a_client_may_trim_and_rename_what_it_sends_back():
    engine = Scripted([encoded("qwen2.5", f" the aba\n{BLOCK}"), encoded("qwen2.5", "b")])
    model = recorder("qwen2.5", engine)
    question = {"role": "user", "content": [{"type": "text", "text": "go"}]}
    reply = await model.chat([question], tools=[TOOL])
    (call,) = reply.message["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"at": 12}
    sent: Message = {
        "role": "assistant",
        "content": reply.message["content"] + "\n",
        "refusal": None,
        "tool_calls": [{**call, "id": "other"}],
    }
    await model.chat(
        [question, sent, {"role": "tool", "tool_call_id": "other", "content": "12"}], tools=[TOOL]
    )
    (trajectory,) = model.trajectories()
    assert len(trajectory.turns) == 2


async def test_rewards_go_to_the_turn_heard_last_and_to_the_episode():
    engine = Scripted([encoded("starter", text) for text in "abc"])
    model = recorder("starter", engine)
    model.credit(0.5)  # before any turn
    for reward in (1.0, 2.0):
        await model.generate("go")
        model.credit(reward, {"a": reward - 1, "b": 1.0})
    await model.generate("go")
    (trajectory,) = model.trajectories()
    assert (trajectory.rewards, trajectory.calls) == ([1.0, 2.0, 0.0], [0, 1, 2])
    assert (model.reward, model.parts) == (3.5, {"reward": 0.5, "a": 1.0, "b": 2.0})
    model.set_reward(1.0)
    assert model.trajectories()[0].rewards == [1.0, 2.0, -2.5]
    assert (model.reward, model.parts) == (1.0, {"reward": 1.0})


async def test_each_call_has_a_seed_of_its_own_and_may_narrow_the_run():
    async def seeds(seed: int | None) -> list[int | None]:
        engine = Scripted([encoded("starter", "a")] * 3)
        model = Recorder(engine, RENDERERS["starter"], Sampling(10, seed=seed), 400)
        for _ in range(3):
            await model.generate("Go on.")
        return [s.seed for s in engine.samplings]

    first, again, other = [await seeds(seed) for seed in (5, 5, 6)]
    assert first == again
    assert len({*first, *other}) == 6
    assert await seeds(None) == [None] * 3
    engine = Scripted([encoded("starter", "a")] * 2)
    model = Recorder(engine, RENDERERS["starter"], Sampling(10, stop=("x",)), 400)
    for limits in (SamplingLimits(3, ("y",), 1), SamplingLimits(max_tokens=11)):
        await model.chat([{"role": "user", "content": "go"}], limits=limits)
    assert engine.samplings == [Sampling(3, stop=("x", "y"), seed=1), Sampling(10, stop=("x",))]


async def test_what_cannot_be_asked_is_said_and_leaves_nothing():
    engine = Scripted([encoded("llama3", "a")], finish="abort")
    model = recorder("llama3", engine, longest=40)
    user: dict[str, Any] = {"role": "user", "content": "go"}
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    for messages, complaint in (
        ([], "the last message must"),
        ([user, {"role": "assistant", "content": "a"}], "the last message must"),
        ([{"content": "go"}], "needs a role"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "text"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, user],
            "JSON",
        ),
        ([user, {"role": "assistant", "tool_calls": [call, call]}, user], "only supports single tool-calls"),
    ):
        with pytest.raises(BadRequest, match=complaint):
            await model.chat(messages)
    with pytest.raises(ConversationTooLong, match="max_model_len"):
        await model.generate("go" * 40)
    with pytest.raises(GenerationAborted, match="after 2 tokens"):
        await model.generate("")
    assert model.trajectories() == []
